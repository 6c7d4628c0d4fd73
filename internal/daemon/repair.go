package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
)

// mended is what reconcile did.
type mended struct {
	repaired bool
	taken    bool           // something had been taken away
	failed   map[spot]error // where nothing could be attached
	blind    bool           // a target is not there, though by what can be seen it is
}

// planRepairs makes of each change that would keep what runs a repair, where
// something is wrong with it that was given up, or not tried yet, and could be mended: a
// reload tries everything anew.
func (d *Daemon) planRepairs(changes []api.Change) {
	for i := range changes {
		change := &changes[i]
		c := d.collection(change.Collection)
		if change.Action != api.ActionKeep || c == nil || len(c.drift) == 0 {
			continue
		}
		entry, _, g, err := d.inspect(c, heed{})
		if err != nil {
			continue // which the drift tells
		}
		entry.Close()
		if len(g.repairs) == 0 {
			continue
		}
		change.Action, change.Reason = api.ActionRepair, strings.Join(g.repairs, "; ")
		for _, l := range g.links {
			if l.was == "" {
				change.Links = append(change.Links, api.LinkChange{Name: l.target.Link, Kind: l.target.Kind,
					Program: l.target.Program, Target: l.target.String(), Action: api.LinkAttach})
			}
		}
	}
}

// makeRepairs makes those that were planned.
func (d *Daemon) makeRepairs(changes []api.Change) {
	for i := range changes {
		if c := &changes[i]; c.Action == api.ActionRepair && !d.owner.stopping() {
			d.owner.beat()
			if _, err := d.reconcile(c.Collection, heed{}); err != nil {
				c.Error = asAPIError(err)
			}
			c.Done = c.Error == nil
		}
	}
}

// inspect looks at all there is of a running collection and says what is to be
// done. The caller closes what it returns, if the error is nil.
func (d *Daemon) inspect(c *collection, h heed) (*pinning.Entry, sight, diagnosis, error) {
	n, err := pinning.ParseName(c.record.Name)
	if err != nil {
		return nil, sight{}, diagnosis{}, err
	}
	entry, err := d.store.Hold(n, c.record)
	if err != nil {
		return nil, sight{}, diagnosis{}, err
	}
	s, err := examineEntry(loader.NewView(), entry, d.manifestOf(c.record))
	if err != nil {
		entry.Close()
		return nil, sight{}, diagnosis{}, err
	}
	d.notEmptied(&s, c.record)
	s.with(c.record, h)
	d.frees(&s, c.record)
	return entry, s, diagnose(c.record, s, revokedRecord(d.trusted(), c.record)), nil
}

// reconcile brings one running collection back to what its record and its
// manifest say, if it is not, and notes what it cannot mend. It runs on the
// owner's thread. h is what is remembered.
func (d *Daemon) reconcile(name string, h heed) (mended, error) {
	c := d.collection(name)
	if c == nil {
		return mended{}, nil // unloaded meanwhile
	}
	if ts, err := targetsOf(c.record); err == nil { // else the inspection tells
		if reason := ended(c.record, ts); reason != "" {
			return mended{repaired: true}, d.end(name, reason)
		}
	}
	entry, s, g, err := d.inspect(c, h)
	if err != nil {
		d.drifts(name, []string{err.Error()}, remedy.Of(err))
		return mended{}, err
	}
	defer entry.Close()
	again := func(failed map[spot]error) diagnosis {
		maps.Copy(s.busy, failed)
		return diagnose(c.record, s, revokedRecord(d.trusted(), c.record))
	}
	out := mended{taken: g.taken}
	if len(g.repairs) == 0 {
		d.drifts(name, g.drift, g.hint)
		return out, nil
	}
	g, out.failed, err = d.repair(entry, c, g, again)
	if err != nil {
		hint := remedy.Of(err)
		if len(g.repairs) > 0 { // else the drift says it
			g.stays("%s: not repaired: %v", strings.Join(g.repairs, "; "), err)
		} else {
			hint = g.hint
		}
		d.drifts(name, g.drift, hint)
		return out, err
	}
	out.repaired = true
	d.drifts(name, g.drift, g.hint)
	return out, nil
}

// manifestOf returns the manifest that a record was made from, the zero one
// where it is not there any more.
func (d *Daemon) manifestOf(r pinning.Record) manifest.Manifest {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if dc, ok := d.declared[r.Name]; ok && dc.err == nil && hexDigest(dc.manifest.Digest) == r.ManifestDigest {
		return dc.manifest
	}
	return manifest.Manifest{}
}

// drifts notes what is wrong with a running collection and stays so. Each
// change of it is an event.
func (d *Daemon) drifts(name string, drift []string, hint string) {
	d.mu.Lock()
	c := d.running[name]
	if c == nil || slices.Equal(c.drift, drift) {
		d.mu.Unlock()
		return
	}
	now := *c
	now.drift, now.hint = drift, hint
	d.running[name] = &now
	d.mu.Unlock()
	if len(drift) > 0 {
		d.log.Warn("drift", zap.String("collection", name), zap.Strings("what", drift), zap.String("hint", hint))
		d.events.publish(api.Event{Time: time.Now(), Kind: api.EventDrift, Collection: name, Message: strings.Join(drift, "; "), Hint: hint})
	}
}

// remedy is what can be done about the drift of c.
func (c *collection) remedy() string {
	if c.hint != "" {
		return c.hint
	}
	return "hornetd mends it when what is missing is there again; hornetctl unload " + c.record.Name + " ends it"
}

// repair builds a whole successor of a collection, of what is still there and
// what has to be made again, and gives it the name in one rename. Whatever fails
// before leaves the old one as it was. What cannot be attached is left out, if the
// rest can be without it: again says how, and repair returns the diagnosis that it
// did, and where it could not attach.
func (d *Daemon) repair(entry *pinning.Entry, c *collection, g diagnosis, again func(map[spot]error) diagnosis) (_ diagnosis, failed map[spot]error, err error) {
	name := c.record.Name
	a := d.begin(self(), audit.VerbRepair, name, api.EventRepaired)
	a.of(c)
	a.rec.Reason = strings.Join(g.repairs, "; ")
	defer func() { err = a.conclude(err) }()
	if err := a.intend(); err != nil {
		return g, nil, err
	}
	if g.rebuild {
		return g, nil, d.rebuild(entry, c)
	}
	stage, err := d.store.StageFrom(entry)
	if err != nil {
		return g, nil, err
	}
	defer func() { d.tell("discard", stage.Discard()) }() // no effect after the commit
	coll, err := keepAll(stage, entry)
	if err != nil {
		return g, nil, err
	}
	defer coll.Close()
	// Live from here: what is attached and not pinned ends with its descriptor, and
	// what is pinned with the stage.
	made, failed := d.attachEach(coll, c.record, g.links)
	defer func() { d.tell("links", made.close()) }()
	if len(failed) > 0 {
		g = again(failed)
		if err := errors.Join(slices.Collect(maps.Values(failed))...); len(g.repairs) == 0 {
			return g, failed, err
		} else {
			a.partial = err.Error()
		}
	}
	record := c.record
	record.Links, err = relink(stage, entry, coll, g.links, made)
	if err != nil {
		return g, failed, err
	}
	if err := stage.PinRecord(record); err != nil {
		return g, failed, err
	}
	// The point of no return.
	if err := d.settled(stage.Succeed(entry)); err != nil {
		return g, failed, err
	}
	a.loaded(record, false)
	now := *c
	now.record = record
	d.mu.Lock()
	d.running[name] = &now
	d.mu.Unlock()
	return g, failed, nil
}

// keepAll pins the maps and programs of entry in the stage and opens them, from
// the kernel where a pin is missing.
func keepAll(stage *pinning.Stage, entry *pinning.Entry) (_ *ebpf.Collection, err error) {
	coll := &ebpf.Collection{Maps: map[string]*ebpf.Map{}, Programs: map[string]*ebpf.Program{}}
	defer func() {
		if err != nil {
			coll.Close()
		}
	}()
	for _, r := range entry.Record.Maps {
		m, err := openMap(entry, r)
		if err != nil {
			return nil, err
		}
		coll.Maps[r.Name] = m
		err = stage.KeepMap(entry, r.Name)
		if errors.Is(err, pinning.ErrNotExist) {
			err = stage.PinMaps(map[string]*ebpf.Map{r.Name: m})
		}
		if err != nil {
			return nil, err
		}
	}
	for _, r := range entry.Record.Programs {
		p, err := openProgram(entry, r)
		if err != nil {
			return nil, err
		}
		coll.Programs[r.Name] = p
		err = stage.KeepProgram(entry, r.Name)
		if errors.Is(err, pinning.ErrNotExist) {
			err = stage.PinPrograms(map[string]*ebpf.Program{r.Name: p})
		}
		if err != nil {
			return nil, err
		}
	}
	return coll, nil
}

// fresh are links that were attached, by where.
type fresh map[spot]freshLink

type freshLink struct {
	link.Link
	target loader.Target // with the mode that the driver took
}

func (f fresh) close() error {
	var errs []error
	for _, l := range f {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// attachEach attaches, with the programs that run, what steps want anew: each by
// itself, so that one place that is taken keeps no other from its program.
func (d *Daemon) attachEach(coll *ebpf.Collection, r pinning.Record, steps []linkStep) (made fresh, failed map[spot]error) {
	m := d.manifestOf(r)
	made, failed = fresh{}, map[spot]error{}
	for _, s := range steps {
		if s.was != "" {
			continue
		}
		if l := d.takeOver(r, s.target); l != nil {
			made[spotOf(s.target)] = freshLink{l, s.target}
			continue
		}
		one := []loader.Target{inMode(s.target, m)}
		var links loader.Links
		err := d.ownCode(one)
		if err == nil {
			links, err = loader.Attach(coll, one)
		}
		if err != nil {
			failed[spotOf(s.target)] = err
			continue
		}
		made[spotOf(s.target)] = freshLink{links[s.target.Link], one[0]}
	}
	return made, failed
}

// relink gives the stage its links: those that stay, and those that were made.
func relink(stage *pinning.Stage, entry *pinning.Entry, coll *ebpf.Collection, steps []linkStep, made fresh) ([]pinning.RecordLink, error) {
	records := make([]pinning.RecordLink, len(steps))
	for i, s := range steps {
		if s.was != "" {
			was := entry.Record.Links[slices.IndexFunc(entry.Record.Links, func(l pinning.RecordLink) bool { return l.Name == s.was })]
			if s.absent {
				if err := stage.LeaveOut(was.Name); err != nil {
					return nil, err
				}
				records[i] = was
				continue
			}
			if err := stay(stage, entry, coll, was, s); err != nil {
				return nil, fmt.Errorf("link %s: %w", s.was, err)
			}
			var err error
			if records[i], err = relinked(was, s.target); err != nil {
				return nil, err
			}
			continue
		}
		l, ok := made[spotOf(s.target)]
		if !ok {
			return nil, fmt.Errorf("link %s: internal error: it was not made", s.target.Link)
		}
		if err := stage.PinLinks(map[string]link.Link{s.target.Link: l.Link}); err != nil {
			return nil, err
		}
		state, err := loader.Describe(l.Link)
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", s.target.Link, err)
		}
		if records[i], err = relinked(pinning.RecordLink{ID: uint32(state.ID), ProgramID: uint32(state.ProgramID)}, l.target); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// inMode returns t with the mode that m attaches it in.
func inMode(t loader.Target, m manifest.Manifest) loader.Target {
	for _, a := range m.Attach {
		if t.From(a) {
			return t.WithMode(a)
		}
	}
	return t
}

// relinked is the record of a link that is at t.
func relinked(l pinning.RecordLink, t loader.Target) (pinning.RecordLink, error) {
	target, err := json.Marshal(t)
	if err != nil {
		return l, fmt.Errorf("link %s: %w", t.Link, err)
	}
	l.Name, l.Pin, l.Kind, l.AttachType, l.Program, l.Target = t.Link, "", t.Kind, t.AttachType, t.Program, target
	return l, nil
}

// stay pins a link in the stage that is kept, and has it run the program that it
// should.
func stay(stage *pinning.Stage, entry *pinning.Entry, coll *ebpf.Collection, was pinning.RecordLink, s linkStep) (err error) {
	var l link.Link
	if s.repin {
		l, err = link.NewFromID(link.ID(was.ID))
	} else {
		l, err = entry.Link(was.Name)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	state, err := loader.Describe(l)
	if err != nil {
		return err
	}
	if uint32(state.ID) != was.ID {
		return another("link", was.Name, uint32(state.ID), was.ID, !s.repin)
	}
	if s.back {
		other, err := ebpf.NewProgramFromID(state.ProgramID)
		if err != nil {
			return err
		}
		defer other.Close()
		if err := loader.Update(l, other, coll.Programs[was.Program]); err != nil {
			return err
		}
	}
	if s.repin {
		return stage.PinExisting(l, s.target.Link)
	}
	return stage.LinkExisting(entry, was.Name, s.target.Link)
}

// rebuild loads a collection again from its verified object, because programs or
// maps are gone. Maps that are still there keep their contents.
func (d *Daemon) rebuild(entry *pinning.Entry, c *collection) error {
	name := c.record.Name
	d.mu.Lock()
	dc, ok := d.declared[name]
	if ok && dc.err == nil && entry.Gone {
		delete(d.running, name) // there is nothing that the load could replace
	}
	d.mu.Unlock()
	if !ok || dc.err != nil {
		return remedy.With(api.Errorf(api.KindConflict, "collection %q: its manifest is gone", name), "put the manifest back and reload")
	}
	d.mending = c
	defer func() { d.mending = nil }()
	defer debug.FreeOSMemory() // kernel BTF is megabytes
	as := asReload
	if entry.Gone {
		as = asLoad
	}
	err := d.load(self(), dc.source, as, btf.NewCache())
	if err != nil && entry.Gone {
		d.mu.Lock()
		d.running[name] = c // to be tried again
		d.mu.Unlock()
	}
	if err == nil && entry.Gone {
		d.tell("what ran without a pin", leave(c.record, d.collection(name).record))
	}
	return err
}

// leave detaches the links of what was that run still, as somebody holds them, and are
// not in now, which runs in their place.
func leave(was, now pinning.Record) error {
	var errs []error
	for _, r := range was.Links {
		if slices.ContainsFunc(now.Links, func(l pinning.RecordLink) bool { return l.ID == r.ID }) {
			continue
		}
		l, err := link.NewFromID(link.ID(r.ID))
		if err != nil {
			continue // gone
		}
		if info, err := l.Info(); err == nil && uint32(info.Program) == r.ProgramID {
			errs = append(errs, l.Detach())
		}
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// sameAgain returns m, the manifest of c, such that a load of it keeps the
// contents of c's maps, whatever an upgrade would do with them.
func (c *collection) sameAgain(m manifest.Manifest) (manifest.Manifest, error) {
	if hexDigest(m.Digest) != c.record.ManifestDigest {
		return m, remedy.With(api.Errorf(api.KindConflict, "collection %q: its manifest changed meanwhile", m.Name), "hornetctl reload replaces it")
	}
	m.Maps = maps.Clone(m.Maps)
	if m.Maps == nil {
		m.Maps = map[string]manifest.Map{}
	}
	for _, r := range c.record.Maps {
		switch r.Type {
		case programArray, "ArrayOfMaps", "HashOfMaps", "StructOpsMap":
			continue // they refer to what is made anew
		}
		if r.Class == string(manifest.ClassMutable) && r.Shared == "" { // which is kept anyway
			decl := m.Maps[r.Name]
			decl.Class, decl.Keep = manifest.ClassMutable, true
			m.Maps[r.Name] = decl
		}
	}
	return m, nil
}

// mendAdopted repairs at start what was found not to be as recorded.
func (d *Daemon) mendAdopted() { d.mend(sortedKeys(d.running)) }

func (d *Daemon) mend(names []string) {
	for _, name := range names {
		if len(d.running[name].drift) == 0 || d.owner.stopping() {
			continue
		}
		d.owner.beat()
		if _, err := d.reconcile(name, heed{}); err != nil {
			d.log.Warn("repair", zap.String("collection", name), zap.Error(err))
		}
	}
}
