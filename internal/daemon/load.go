package daemon

import (
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// load brings one manifest into the kernel: for the first time, or in place of
// what runs under its name where replace allows that. It runs on the owner's
// thread, and a user's gives the turn there away while the kernel has its programs.
//
// Values flow forward: files are read, then decided on, then the kernel is
// touched, and nothing reaches back. Whatever fails before the commit leaves
// the kernel as it was. cache amortises kernel BTF over a batch of loads.
func (d *Daemon) load(who Peer, src manifest.Source, as loading, cache *btf.Cache) (err error) {
	a := d.begin(who, as.verb, src.Name, api.EventLoaded)
	defer func() { err = a.conclude(err) }()

	p, err := d.prepare(a, who, src, as, cache)
	if p == nil {
		a.quiet = true // which an error is not
		return err
	}
	if err := a.intend(); err != nil {
		return err
	}
	d.guard.forget(time.Now())
	stage, err := d.stage(p.name, p.old != nil)
	if err != nil {
		return err
	}
	defer func() { d.tell("discard", stage.Discard()) }() // no effect after the commit
	kept, err := d.kept(p.old, p.m, p.sharing())
	if err != nil {
		return err
	}
	defer closeMaps(kept)
	var b *built
	loaded := false
	defer func() {
		b.close() // from the commit on the pins hold it
		if !loaded {
			d.leave(b)
		}
	}()
	if who.UID == 0 {
		b, err = d.make(p, kept, cache, func() error { d.owner.beat(); return nil })
	} else {
		// Others have their turn meanwhile. What they may have changed is decided again.
		v := d.reserve(who, as, p)
		defer d.release(v)
		alone := v.aside(func() { b, err = d.make(p, kept, cache, v.step) })
		if err == nil && !alone {
			p, err = d.again(a, v, src, p, kept, cache)
		}
	}
	switch {
	case err != nil:
		return err
	case p == nil:
		a.rec.Reason = "by somebody else, meanwhile"
		return nil
	}
	m, old, verified, coll := p.m, p.old, p.verified, b.coll
	if err := stage.PinMaps(coll.Maps); err != nil {
		return err
	}
	if err := stage.PinPrograms(coll.Programs); err != nil {
		return err
	}

	if err := as.stillOwned(who); err != nil {
		return err
	}

	// Live from here: every later failure must detach.
	links, err := d.attach(stage, coll, p.steps, old, p.shown)
	if err != nil {
		return err
	}
	defer func() { d.tell("links", links.Close()) }() // detaches what no pin holds, switches back what was switched
	programs, err := b.plan.ProgramStates(coll)
	if err != nil {
		return err
	}
	record, err := newRecord(who, m, verified, b.plan.Spec(), programs, b.maps.States(), links)
	if err != nil {
		return err
	}
	if caller := d.callerOf(as, old); caller != nil && who.UID == 0 {
		record.Caller = *caller // it stays whose it was
	}
	record.LoadedAt = d.clock().UTC() // with the certificate's end it says whether that had passed
	record.Lease = d.leaseOf(who, as, m, old)
	d.carry(old, &record)
	claim := claimOf(m, verified)
	trial, err := d.begins(old, m, p.gauge, coll, claim)
	if err != nil {
		return err
	}
	commit, err := d.commit(stage, old, trial, &record)
	if err != nil {
		return err
	}
	if err := d.mayAdvance(claim); err != nil {
		return err
	}
	placed, err := as.sent.place()
	if err != nil {
		return err
	}
	defer func() { d.tell("bundle", placed.settle(err == nil)) }()
	// The point of no return: behind it the collection runs, whatever happens
	// to this process.
	if err := commit(); err != nil {
		return err
	}
	loaded = true
	links.keep()
	a.loaded(record, old != nil)
	a.rec.Reason = strings.Join(links.gaps, "; ")
	if a.rec.Trial = record.Trial != ""; !a.rec.Trial {
		d.advance(claim)
	}
	c := &collection{record: record, proof: proven(verified), trial: trial, origin: b.origin()}
	if d.mending != nil {
		c.unconfirmed = d.mending.unconfirmed
	}
	d.put(m, c)
	d.fit(c)
	d.countSigned(record)
	if trial != nil && d.mending == nil {
		go d.try(m.Name, trial)
	}
	return nil
}

// prepared is what a load is about to do: decided on data, before there is any
// object of it in the kernel.
type prepared struct {
	m        manifest.Manifest
	name     pinning.Name
	verified signing.Verified
	plan     *loader.Plan
	need     uint64      // bytes of map keys and values
	old      *collection // what it takes the place of; nil: nothing
	shown    *loader.Shown
	steps    []step
	gauge    *loader.Gauge
}

// sharing says as whom the collection shares maps.
func (p *prepared) sharing() sharing {
	return sharing{p.m.Name, p.verified.Signer().Name, p.verified.Covers()}
}

// prepare reads, verifies and decides all that can be without touching the kernel. It
// returns nil where nothing is to be done, or an error why not, and notes in a what
// it found.
func (d *Daemon) prepare(a *act, who Peer, src manifest.Source, as loading, cache *btf.Cache) (*prepared, error) {
	files, done := as.files()
	defer done()
	m, err := d.readManifest(files, src)
	if err != nil {
		return nil, d.private(who, as.right, src.Name, err)
	}
	a.rec.Manifest, a.rec.DropIns, a.rec.Version = hexDigest(m.TextDigest), withDropIns(m), m.Version
	grant, err := d.authorize(who, as, m)
	if err != nil {
		return nil, err
	}
	if err := d.unheld(m.Name); err != nil {
		return nil, err
	}
	if err := d.requirements(m); err != nil {
		return nil, err
	}
	old := d.collection(m.Name)
	if as.lease != "" {
		if err := leasable(m, old); err != nil {
			return nil, err
		}
	}
	switch {
	case old != nil && as.shown != nil:
		return nil, runsElsewhere(m.Name)
	case old != nil && !as.replaces:
		return nil, old.unchanged(m)
	case old == nil && as.verb == asUpgrade.verb:
		return nil, notRunning(m.Name)
	case old == nil:
		if err := d.unhidden(m); err != nil {
			return nil, err
		}
	}
	if d.mending != nil {
		if m, err = d.mending.sameAgain(m); err != nil {
			return nil, err
		}
	}
	name, err := pinning.ParseName(m.Name)
	if err != nil {
		return nil, err
	}
	verified, err := d.admit(files, d.trusted(), m, d.booting)
	if err != nil {
		return nil, err
	}
	a.signed(verified)
	if (as.verb == asUpgrade.verb || as.sent != nil) && old.runs(m, verified) {
		if as.sent == nil { // an upgrade goes on under the same lease
			return nil, nil
		}
		return nil, old.leased()
	}
	spec, err := d.parse(m, verified)
	if err != nil {
		return nil, err
	}
	plan, err := loader.NewPlan(spec, m)
	if err != nil {
		return nil, err
	}
	if as.sent != nil {
		if grant, err = d.policy.Run(who.subject(), policy.Bundle{Manifest: m, Spec: plan.Spec(), Verified: verified, Running: d.ownOf(who, m.Name)}); err != nil {
			return nil, err
		}
	}
	need, err := d.fits(who, grant, m, plan.Spec())
	if err != nil {
		return nil, err
	}
	if err := d.permit(verified, m, plan.Spec()); err != nil {
		return nil, err
	}
	shown, err := d.showing(as, old)
	if err != nil {
		return nil, err
	}
	targets, err := loader.ResolveShown(spec, m, cache, shown)
	if err != nil {
		return nil, err
	}
	if err := d.ownCode(targets); err != nil {
		return nil, err
	}
	a.rec.Shown = recordOf(targets)
	if err := as.keepsLeased(m, targets); err != nil {
		return nil, err
	}
	steps, err := old.steps(m, targets, d.mending != nil)
	if err != nil {
		return nil, err
	}
	gauge, err := loader.NewGauge(spec, m)
	if err != nil {
		return nil, err
	}
	return &prepared{m, name, verified, plan, need, old, shown, steps, gauge}, nil
}

// built is what a load has in the kernel before anything is pinned.
type built struct {
	plan  *loader.Plan // that it was made by
	homes []*home      // of its maps last, before that of those that a rehearsal had
	maps  *loader.Maps
	coll  *ebpf.Collection
}

// close lets go of it. What has no pin then is gone.
func (b *built) close() {
	if b == nil {
		return
	}
	if b.coll != nil {
		b.coll.Close()
	}
	if b.maps != nil {
		b.maps.Close()
	}
}

// origin says where its maps came from.
func (b *built) origin() origin {
	h := b.homes[len(b.homes)-1]
	return origin{shares: h.why, loose: h.loose, most: h.most}
}

// make makes the maps and has the kernel verify the programs and the manifest's tests
// run them. It can be away from the owner's turn: what it knows is in its arguments,
// and of d it takes what never changes and the cgroup of the name, which others leave to
// it (charge.go). step is called now and then and behind each
// program, and ends it with an error. What it returns is to be closed also with an error.
func (d *Daemon) make(p *prepared, kept map[string]*ebpf.Map, cache *btf.Cache, step func() error) (b *built, err error) {
	b = &built{plan: p.plan}
	if len(kept) > 0 && len(p.m.Tests) > 0 {
		if err := d.rehearse(b, p, cache, step); err != nil {
			return b, err
		}
	}
	if b.maps, err = d.furnish(b, p, kept); err != nil {
		return b, err
	}
	if err := step(); err != nil {
		return b, err
	}
	if _, err := b.maps.Freeze(); err != nil {
		return b, err
	}
	if b.coll, err = loader.LoadPrograms(p.plan, b.maps, cache, step); err != nil {
		return b, err
	}
	if len(kept) > 0 {
		return b, nil
	}
	return b, loader.RunTests(b.coll, p.m.Tests)
}

// furnish makes the maps that are not kept, in a home of theirs.
func (d *Daemon) furnish(b *built, p *prepared, kept map[string]*ebpf.Map) (*loader.Maps, error) {
	home, err := d.home(p.m, p.plan.Spec(), kept)
	if err != nil {
		return nil, err
	}
	b.homes = append(b.homes, home)
	return home.createMaps(p.plan, kept)
}

// callerOf returns whose it was that a load takes the place of; nil where there is
// none.
func (d *Daemon) callerOf(as loading, old *collection) *pinning.Caller {
	switch {
	case old != nil:
		return &old.record.Caller
	case d.mending != nil: // its directory is gone
		return &d.mending.record.Caller
	}
	return as.caller
}

// stage begins the directory that the load is built in.
func (d *Daemon) stage(name pinning.Name, replace bool) (*pinning.Stage, error) {
	if replace {
		return d.store.Restage(name)
	}
	return d.store.Stage(name)
}

// kept opens the maps that are there already: those that others share, and of
// the replaced collection those whose contents the manifest wants to keep.
func (d *Daemon) kept(old *collection, m manifest.Manifest, who sharing) (_ map[string]*ebpf.Map, err error) {
	kept := make(map[string]*ebpf.Map)
	defer func() {
		if err != nil {
			closeMaps(kept)
		}
	}()
	for _, name := range sortedKeys(m.Maps) {
		if m.Maps[name].Shared == "" {
			continue
		}
		other, err := d.shared(who, m.Maps[name].Shared, func(format string, args ...any) error {
			return m.Errorf("maps."+name+".shared", format, args...)
		})
		if err != nil {
			return nil, err
		}
		if other != nil {
			kept[name] = other
		}
	}
	if old == nil {
		return kept, nil
	}
	n, err := pinning.ParseName(m.Name)
	if err != nil {
		return nil, err
	}
	entry, err := d.store.Hold(n, old.record)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	for _, r := range old.record.Maps {
		now := m.Maps[r.Name]
		switch {
		case now.Keep && r.Shared != "":
			return nil, remedy.With(m.Errorf("maps."+r.Name+".keep", "the map was shared as %q, and is to be no more", r.Shared),
				"remove keep = true to begin with an empty map")
		case kept[r.Name] != nil, !now.Keep && now.Shared == "", r.Shared != "" && r.Shared != now.Shared:
			continue
		case old.record.Signer.Name != who.signer || old.record.Covers == signing.CoversManifest && who.covers != signing.CoversManifest:
			return nil, remedy.With(m.Errorf("maps."+r.Name, "its contents are those of what signer %q signed (%s), and this is signer %q (%s)",
				old.record.Signer.Name, old.record.Covers, who.signer, who.covers),
				"remove keep or shared to begin with an empty map, or hornetctl unload %s first", m.Name)
		}
		held, err := openMap(entry, r)
		if d.mending != nil && errors.Is(err, fs.ErrNotExist) {
			continue // gone with its contents: that is why it is mended
		}
		if err != nil {
			return nil, err
		}
		kept[r.Name] = held
	}
	return kept, nil
}

// rehearse runs the manifest's tests on maps of their own, which go away
// again: those that are kept belong to what runs now.
func (d *Daemon) rehearse(b *built, p *prepared, cache *btf.Cache, step func() error) error {
	maps, err := d.furnish(b, p, nil)
	if err != nil {
		return err
	}
	defer maps.Close()
	if _, err := maps.Freeze(); err != nil {
		return err
	}
	coll, err := loader.LoadPrograms(p.plan, maps, cache, step)
	if err != nil {
		return err
	}
	defer coll.Close()
	return loader.RunTests(coll, p.m.Tests)
}

func closeMaps(ms map[string]*ebpf.Map) {
	for _, m := range ms {
		m.Close()
	}
}

// tell logs an error that has come too late to be returned: the load failed for
// another reason, and this is what undoing it could not do.
func (d *Daemon) tell(what string, err error) {
	if err != nil {
		d.log.Error("undo", zap.String("step", what), zap.Error(err), zap.String("hint", remedy.Of(err)))
	}
}

// settled passes over what is left behind by a change that is in force: it is
// worth a line in the log and nothing more, since the next start sweeps it.
func (d *Daemon) settled(err error) error {
	if errors.Is(err, pinning.ErrLeftBehind) {
		d.log.Warn("left behind", zap.Error(err))
		return nil
	}
	return err
}

// fits holds the opened object against the limits: the manifest's own, the
// policy's, and how many collections there may be. need is how many bytes its maps do.
func (d *Daemon) fits(who Peer, grant policy.Grant, m manifest.Manifest, spec *ebpf.CollectionSpec) (need uint64, err error) {
	if err := grant.Check(m, spec); err != nil {
		return 0, err
	}
	if need, err = policy.Memory(m, spec); err != nil {
		return 0, err
	}
	return need, d.room(who, m, need, len(spec.Programs))
}

// permit holds what is to be loaded against the bounds of each who signed a part
// of it: what one may not have, another's drop-in does not give.
func (d *Daemon) permit(v signing.Verified, m manifest.Manifest, spec *ebpf.CollectionSpec) error {
	for _, dropIn := range v.DropIns() {
		if dropIn.Signer.Name == "" {
			continue // it is not signed, and the others stand for it
		}
		if err := d.policy.Permit(dropIn.Signer.Name, m, spec); err != nil {
			return err
		}
	}
	return d.policy.Permit(v.Signer().Name, m, spec)
}

// resolveFunc is loader.ResolveShown with a cache.
type resolveFunc func(*ebpf.CollectionSpec, manifest.Manifest, *loader.Shown) ([]loader.Target, error)

// examine does what a load does up to the first change, and says how the links
// of old, nil where nothing runs, would change.
func (d *Daemon) examine(files reader, trust *signing.Trust, m manifest.Manifest, old *collection, resolve resolveFunc) ([]step, error) {
	verified, err := d.admit(files, trust, m, d.booting)
	if err != nil {
		return nil, err
	}
	spec, err := d.parse(m, verified)
	if err != nil {
		return nil, err
	}
	plan, err := loader.NewPlan(spec, m)
	if err != nil {
		return nil, err
	}
	grant, err := d.policy.Authorize(self().subject(), policy.Load, m)
	if err != nil {
		return nil, err
	}
	if err := grant.Check(m, plan.Spec()); err != nil {
		return nil, err
	}
	if err := d.permit(verified, m, plan.Spec()); err != nil {
		return nil, err
	}
	var shown *loader.Shown // by nobody: where nothing runs, what would be is only checked
	if old != nil {
		if shown, err = old.known(); err != nil {
			return nil, err
		}
	}
	targets, err := resolve(spec, m, shown)
	if err != nil {
		return nil, err
	}
	if _, err := loader.NewGauge(spec, m); err != nil {
		return nil, err
	}
	return old.steps(m, targets, false)
}
