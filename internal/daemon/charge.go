package daemon

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/mapmaker"
	"github.com/hornetd/hornetd/internal/memcg"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
)

// MapMakerName is the name under which this program is started to make maps: its
// first argument, which is what a list of processes shows.
const MapMakerName = "hornetd: maps"

// ServeMapMaker is all that the program does under MapMakerName. It returns the exit
// status.
func ServeMapMaker() int { return mapmaker.Serve() }

// heavy is how many bytes the maps of a collection may take before they are charged
// to a cgroup of their own, which costs a process, some 15 ms. All that hornetd.toml
// lets run (1,024 collections) and is lighter is no more than a GiB by this, and
// really much less.
const heavy = 1 << 20

// takeCgroup makes cgroups for maps possible, where they are.
func (d *Daemon) takeCgroup() {
	var mount string
	own, err := memcg.Own()
	if err == nil {
		d.cgroup = own // where the next one is started, too: it is left now
		mount, err = loader.CgroupMount()
	}
	if err == nil {
		d.cgroups, err = memcg.Take(mount, own)
	}
	d.nobody = err
}

// home is where the maps of a collection that is being loaded are charged.
type home struct {
	name  string
	need  uint64 // bytes of keys and values of what is made
	takes uint64 // bytes that a cgroup is charged for that, at most; 0 where it is little
	room  *memcg.Room
	why   string // there is none, and they are charged to hornetd
	log   *zap.Logger

	beside *collection // what ran under the name when it was found; nil: nothing

	loose uint64 // bytes of all maps which no cgroup is charged for
	most  uint64 // bytes that all may have in their cgroup, where they have one
}

// home finds out where maps are to be charged, but for those that are kept, and makes the
// place. What cannot be made keeps nothing from being loaded: a host must not be without
// its firewall for it.
func (d *Daemon) home(m manifest.Manifest, spec *ebpf.CollectionSpec, kept map[string]*ebpf.Map) (*home, error) {
	h := &home{name: m.Name, log: d.log, beside: d.collection(m.Name)}
	made := &ebpf.CollectionSpec{Maps: maps.Clone(spec.Maps)}
	for name := range kept {
		delete(made.Maps, name)
	}
	all, err := sizeOf(m, spec)
	if err != nil {
		return nil, err
	}
	size, err := sizeOf(m, made)
	if err != nil {
		return nil, err
	}
	small := light(made, size.need, size.beside)
	if !small {
		h.need, h.takes = size.need, size.charged()
	}
	switch {
	case d.cgroups == nil:
		h.why = d.nobody.Error()
		return h, nil
	case small && !d.cgroups.Has(m.Name):
		h.why = fmt.Sprintf("they are small: less than %d bytes", heavy)
		if len(kept) > 0 {
			h.why += "; those that were kept are charged where they were made"
		}
		return h, nil
	}
	// What it was allowed, not what it declares: maps of a task's or a socket's storage
	// declare nothing.
	allowed := d.cfg.Limits.Memory
	if m.Limits.Memory > 0 {
		allowed = min(allowed, m.Limits.Memory)
	}
	h.loose, h.most = all.loose, min(allowed, 1<<60)+min(all.beside, 1<<60)
	if h.room, err = d.cgroups.Room(m.Name, h.most, size.charged()); err != nil {
		h.giveUp(err)
	}
	return h, nil
}

// mapsSize is what the maps of a collection take, in bytes.
type mapsSize struct{ need, beside, loose uint64 }

// charged is what of it a cgroup is charged for, at most.
func (s mapsSize) charged() uint64 { return min(s.need-s.loose, 1<<60) + min(s.beside, 1<<60) }

func sizeOf(m manifest.Manifest, spec *ebpf.CollectionSpec) (s mapsSize, err error) {
	if s.need, err = policy.Memory(m, spec); err != nil {
		return s, err
	}
	if s.beside, err = policy.Beside(m, spec); err != nil {
		return s, err
	}
	s.loose, err = policy.Loose(m, spec)
	return s, err
}

// light reports whether the maps of spec, which need that many bytes and as many beside,
// may be charged to hornetd.
func light(spec *ebpf.CollectionSpec, need, beside uint64) bool {
	return need < heavy && beside < heavy-need && !policy.Grows(spec)
}

// giveUp has maps charged to hornetd.
func (h *home) giveUp(err error) {
	h.log.Warn("maps are charged to hornetd", zap.String("collection", h.name), zap.Error(err), zap.NamedError("undo", h.leave()))
	h.room, h.why, h.most = nil, err.Error(), 0
}

// createMaps creates the maps of a plan there. It is called on a thread of the owner's,
// which outlives the process that makes them.
func (h *home) createMaps(plan *loader.Plan, kept map[string]*ebpf.Map) (*loader.Maps, error) {
	if h.room == nil {
		return h.createHere(plan, kept)
	}
	return h.createBy(mapmaker.New(MapMakerName, h.room.Join), plan, kept)
}

// createHere makes them here, where hornetd is not killed for it: what fills its cgroup
// with what cannot be taken back leaves the kernel no other process.
func (h *home) createHere(plan *loader.Plan, kept map[string]*ebpf.Map) (*loader.Maps, error) {
	if h.takes > 0 {
		left, bounded, err := leftHere()
		if err != nil {
			h.log.Warn("what hornetd may be charged for is not known", zap.Error(err))
		} else if bounded && h.takes > left {
			return nil, h.noRoomHere(left)
		}
	}
	return plan.CreateMaps(kept)
}

// leftHere is memcg.Left of hornetd's own cgroup.
func leftHere() (left uint64, bounded bool, err error) {
	mount, err := loader.CgroupMount()
	if err != nil {
		return 0, false, err
	}
	own, err := memcg.Own()
	if err != nil {
		return 0, false, err
	}
	return memcg.Left(mount, own)
}

// noRoomHere is the refusal where hornetd would have to make the maps, and has no room.
func (h *home) noRoomHere(left uint64) error {
	return remedy.With(fmt.Errorf("collection %q: its maps may take %d bytes, and hornetd, to which they would be charged (%s), has %d left for maps of what memory.max or memory.high of its cgroup or one above allows: %w",
		h.name, h.takes, h.why, left, policy.ErrLimit),
		"lower max_entries in the manifest, raise MemoryMax= of hornetd.service (or MemoryHigh=, or those of its slice), unload others, or see to it that hornetctl status says no more why maps are charged to hornetd")
}

// createBy has them made by a process, or where that cannot be makes them here.
func (h *home) createBy(maker loader.MapMaker, plan *loader.Plan, kept map[string]*ebpf.Map) (*loader.Maps, error) {
	maps, err := plan.CreateMapsBy(maker, kept)
	switch {
	case errors.Is(err, mapmaker.ErrProcess):
		h.giveUp(err)
		return h.createHere(plan, kept)
	case errors.Is(err, mapmaker.ErrKilled), errors.Is(err, unix.ENOMEM):
		return nil, h.noMemory(err)
	}
	return maps, err
}

// noMemory is the refusal where the kernel had no memory for the maps.
func (h *home) noMemory(err error) error {
	limit, more := fmt.Sprintf("they may take %d", h.room.Most), "lower max_entries in the manifest, or unload others to free memory of the host"
	if u := h.room.Unit; u > 0 {
		limit += fmt.Sprintf(", and the maps of all collections that have a cgroup %d by memory.max or memory.high of the unit or what it is in", u)
		more = "lower max_entries in the manifest, raise MemoryMax= of hornetd.service (or MemoryHigh=, or those of its slice), or unload others"
	}
	return remedy.With(fmt.Errorf("collection %q: its maps need %d bytes, and the kernel has no memory for them (%s): %w: %w", h.name, h.need, limit, err, policy.ErrLimit), "%s", more)
}

// leave undoes what a load that failed has made.
func (h *home) leave() error {
	if h.room == nil {
		return nil
	}
	return h.room.Undo()
}

// leave takes back the homes of what was not loaded. Where something else has come to
// run under the name while others had their turn, its maps are there too: the limit
// becomes that of what runs. Where what ran was unloaded, the cgroup goes with release.
func (d *Daemon) leave(b *built) {
	if b == nil {
		return
	}
	for _, h := range slices.Backward(b.homes) {
		now := d.collection(h.name)
		if now.is(h.beside) || now != nil && now.most == 0 {
			d.tell("cgroup", h.leave())
		}
		if now != nil {
			d.fit(now)
		}
	}
}

// is reports whether both are one load of one name, or both are none.
func (c *collection) is(other *collection) bool {
	if c == nil || other == nil {
		return c == other
	}
	return c.record.LoadedAt.Equal(other.record.LoadedAt)
}

// fit has the limit of the cgroup of c, which runs since now, be that of c alone as soon
// as what c took the place of is given back: the kernel takes its time for that, and
// whoever has a descriptor of a map theirs.
func (d *Daemon) fit(c *collection) { d.fitAfter(c.record, settle) }

func (d *Daemon) fitAfter(r pinning.Record, pause time.Duration) {
	c := d.collection(r.Name)
	if c == nil || !c.record.LoadedAt.Equal(r.LoadedAt) || c.most == 0 || c.trial != nil {
		return
	}
	later := d.isVerified(r.Name) // it has room for both
	if !later {
		var err error
		later, err = d.cgroups.Tighten(r.Name, c.most)
		d.tell("cgroup", err)
	}
	if later {
		time.AfterFunc(pause, func() {
			d.owner.do(func() error { d.fitAfter(r, min(2*pause, time.Minute)); return nil })
		})
	}
}

// isVerified reports whether a load of that name has given its turn away.
func (d *Daemon) isVerified(name string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.verifying[name] != nil
}

// vacate takes away the cgroup of what is unloaded.
func (d *Daemon) vacate(name string) {
	if d.cgroups != nil && !d.occupied(name) {
		d.tell("cgroup", d.cgroups.Remove(name))
	}
}

// occupied reports whether something of that name runs, in quarantine or not, or is
// verified to.
func (d *Daemon) occupied(name string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, h := range d.held {
		if h.name == name {
			return true
		}
	}
	return d.running[name] != nil || d.verifying[name] != nil
}

// sweepCgroups takes away what a daemon left that was killed.
func (d *Daemon) sweepCgroups() {
	if d.cgroups == nil {
		return
	}
	names, err := d.cgroups.Names()
	d.tell("cgroups", err)
	for _, name := range names {
		d.vacate(name)
	}
}

// viewCharge is where large maps are charged.
func (d *Daemon) viewCharge() *api.Charge {
	if d.cgroups == nil {
		return &api.Charge{To: api.ChargedToHornetd, Reason: d.nobody.Error(), Hint: remedy.Of(d.nobody)}
	}
	u := d.cgroups.All()
	return &api.Charge{To: api.ChargedToOwn, Cgroup: u.Cgroup, Bytes: u.Bytes, Most: u.Most}
}

// notCharged says how much of a collection's maps no cgroup is charged for, "" for none.
func notCharged(loose uint64) string {
	if loose == 0 {
		return ""
	}
	return fmt.Sprintf("%d bytes of values that are preallocated for each CPU are charged to no cgroup: [limits] alone bounds them", loose)
}

// chargeOf is where the maps of what runs under a name are charged.
func (d *Daemon) chargeOf(name string) *api.Charge {
	c := d.collection(name)
	if d.cgroups != nil && (c == nil || c.shares == "") {
		if u, ok := d.cgroups.Usage(name); ok {
			charge := &api.Charge{To: api.ChargedToOwn, Cgroup: u.Cgroup, Bytes: u.Bytes, Most: u.Most}
			if c != nil {
				charge.Reason = notCharged(c.loose)
			}
			return charge
		}
	}
	switch {
	case c == nil:
		return nil
	case c.adopted:
		return &api.Charge{To: api.ChargedToEarlier, Reason: "it was loaded by an earlier hornetd: they are charged to the cgroup of that, or where it is gone to the one above"}
	default:
		return &api.Charge{To: api.ChargedToHornetd, Reason: c.shares}
	}
}
