package daemon

import (
	"errors"
	"maps"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
	"github.com/hornetd/hornetd/manifest"
)

// verification is a user's load while the kernel verifies its programs, away from the
// owner's turn: others make changes meanwhile, but users none of its name.
// Nothing of it is pinned or attached.
type verification struct {
	d     *Daemon
	who   Peer
	as    loading
	name  string
	needs holding    // counted as if it ran
	guard *lsm.Guard // that was in force when its maps were made

	busy  atomic.Bool   // the kernel has it
	beats atomic.Uint64 // of its progress, for the watchdog
	over  error         // why it is to end: its name was unloaded; guarded by Daemon.mu
}

// reserve counts what p needs until release, as if it ran.
func (d *Daemon) reserve(who Peer, as loading, p *prepared) *verification {
	v := &verification{d: d, who: who, as: as, name: p.m.Name, guard: d.guard.force,
		needs: holding{memory: p.need, programs: uint64(len(p.plan.Spec().Programs))}}
	if p.old == nil {
		v.needs.collections = 1
	}
	v.busy.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.verifying[v.name] = v
	return v
}

func (d *Daemon) release(v *verification) {
	d.mu.Lock()
	delete(d.verifying, v.name)
	d.mu.Unlock()
	if v.over != nil {
		d.vacate(v.name) // which the unload has left to this
	}
}

// aside has do run while others have their turn, and reports whether nobody had. What
// came of objects that were parsed ahead is there again behind it.
func (v *verification) aside(do func()) (alone bool) {
	ahead := v.d.ahead
	defer func() { v.d.ahead = ahead }()
	return v.d.owner.aside(func() {
		do()
		v.busy.Store(false)
	})
}

// step is behind each program: it says whether the next one is worth it.
func (v *verification) step() error {
	v.beats.Add(1)
	if v.d.owner.stopping() {
		return errStopped
	}
	return v.ended()
}

// ended returns why the load has to end, whatever the kernel says of the programs.
func (v *verification) ended() error {
	v.d.mu.RLock()
	defer v.d.mu.RUnlock()
	if v.over == nil && v.as.client != nil && v.as.client.Err() != nil {
		return clientGone(v.name)
	}
	return v.over
}

// clientGone is the end of a load for a lease that nobody would hold.
func clientGone(name string) error {
	return api.Errorf(api.KindUnavailable, "collection %q: the client that wanted a lease is gone", name)
}

// overtakeLocked ends a load of that name whose programs are being verified: the name is
// unloaded, by who does not wait for it.
func (d *Daemon) overtakeLocked(name string) {
	if v := d.verifying[name]; v != nil {
		v.over = remedy.With(api.Errorf(api.KindConflict, "collection %q: it was unloaded while its programs were verified", name),
			"ask again, if it is still wanted")
	}
}

// again decides anew on what was decided before others had their turn, all of it and
// by the same function. Where what comes out is not what was built, nothing is done. It
// returns nil, and no error, where somebody else has done what was to be done.
func (d *Daemon) again(a *act, v *verification, src manifest.Source, was *prepared, kept map[string]*ebpf.Map, cache *btf.Cache) (_ *prepared, err error) {
	intended := a.rec
	defer func() {
		if err != nil {
			a.rec = intended // the record of its end is about the same
		}
	}()
	if err := v.ended(); err != nil {
		return nil, err
	}
	if v.as.sent == nil { // a drop-in or a directory that goes before may have come
		if src, err = d.find(src.Name); err != nil {
			return nil, d.private(v.who, v.as.right, v.name, err)
		}
	}
	p, err := d.prepare(a, v.who, src, v.as, cache)
	if p == nil || err != nil {
		return nil, err
	}
	// A guard that came meanwhile does not know whose the maps and programs are.
	if !p.buildsAs(was) || d.guard.force != v.guard {
		return nil, changedMeanwhile(v.name)
	}
	now, err := d.kept(p.old, p.m, p.sharing())
	if err != nil {
		return nil, err
	}
	defer closeMaps(now)
	same, err := sameMaps(kept, now)
	if err == nil && !same {
		err = changedMeanwhile(v.name)
	}
	return p, err
}

// buildsAs reports whether the same is to be built by both. Where it is attached may
// differ.
func (p *prepared) buildsAs(was *prepared) bool {
	return p.m.Digest == was.m.Digest && p.verified.Digest() == was.verified.Digest() && p.sharing() == was.sharing() &&
		(p.old == nil) == (was.old == nil)
}

func changedMeanwhile(name string) error {
	return remedy.With(api.Errorf(api.KindConflict, "collection %q: it, or what it depends on, was changed while its programs were verified", name),
		"look at it (hornetctl show %s), and ask again", name)
}

// sameMaps reports whether both are the same maps by the same names.
func sameMaps(a, b map[string]*ebpf.Map) (bool, error) {
	var errs []error
	same := maps.EqualFunc(a, b, func(x, y *ebpf.Map) bool {
		i, err := bpfsys.MapInfo(x.FD())
		j, err2 := bpfsys.MapInfo(y.FD())
		errs = append(errs, err, err2)
		return i.ID == j.ID
	})
	return same, errors.Join(errs...)
}
