package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
)

// adopt takes over what runs. Half-built stages go; committed directories that
// are what their record says are adopted without touching anything; the rest
// is quarantined and reported, never guessed at.
func (d *Daemon) adopt() error {
	err := d.recover(d.adoptCommitted)
	if err != nil {
		return err
	}
	aside, err := d.store.Quarantined()
	if err != nil {
		return err
	}
	for _, q := range aside {
		if _, known := d.held[q.Dir]; !known {
			d.hold(q.Dir, q.Name, "was "+q.Name+", quarantined by an earlier hornetd")
		}
	}
	return nil
}

func (d *Daemon) adoptCommitted() error {
	names, err := d.store.Entries()
	if err != nil {
		return err
	}
	found := make([]*collection, len(names))
	errs := make([]error, len(names))
	each(len(names), func(i int) {
		if found[i], errs[i] = d.adoptOne(names[i]); pinning.Unanswered(errs[i]) {
			found[i], errs[i] = d.adoptOne(names[i])
		}
	})
	for i, name := range names {
		if errs[i] != nil {
			if err := d.quarantine(name, errs[i]); err != nil {
				return err
			}
			continue
		}
		d.mu.Lock()
		d.running[name.String()] = found[i]
		d.mu.Unlock()
		if revokedRecord(d.trusted(), found[i].record) == "" {
			d.countSigned(found[i].record)
		}
		d.note(api.EventAdopted, name.String(), "runs as recorded")
	}
	return nil
}

func (d *Daemon) adoptOne(name pinning.Name) (*collection, error) {
	entry, err := d.store.Load(name)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	seen := look(entry)
	if err := seen.wrong(); err != nil {
		return nil, err
	}
	return &collection{record: entry.Record, origin: origin{adopted: true}, drift: seen.drift}, nil
}

// recover ends what a crash interrupted: links of a replacement that did not
// come to its commit go back to their old programs, and links of a repair that did
// not are taken over by another one; then the stages go.
func (d *Daemon) recover(adopt func() error) (err error) {
	stages, err := d.store.Stages()
	if err != nil {
		return err
	}
	if len(stages) == 0 {
		return adopt()
	}
	a := d.begin(self(), audit.VerbRepair, "", api.EventRepaired)
	defer func() { err = a.conclude(err) }()
	if err := a.intend(); err != nil {
		return err
	}
	if err := d.switchBack(); err != nil {
		return err
	}
	trials, err := d.endTrials()
	if err != nil {
		return err
	}
	if err := adopt(); err != nil {
		return err
	}
	d.unreturned(trials)
	d.resume()
	swept, err := d.store.Sweep(sortedKeys(trials)...)
	d.log.Info("swept", zap.Strings("stages", swept))
	return d.settled(err)
}

// resume mends the collections of which a link has no pin but that of a repair
// that was killed: swept and attached again, it would be missing for a while.
func (d *Daemon) resume() {
	left, err := d.store.StagedLinks()
	d.tell("staged links", err) // what is not found is swept, and made again by mendAdopted
	defer func() {
		d.interrupted = nil
		for _, links := range left {
			for _, l := range links {
				l.Close()
			}
		}
	}()
	var names []string
	for _, name := range sortedKeys(d.running) {
		c := d.running[name]
		if len(c.drift) > 0 && slices.ContainsFunc(slices.Concat(slices.Collect(maps.Values(left))...), c.runsAt) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	found, _, _ := d.scan() // for the patterns
	d.setDeclared(found)
	d.interrupted = left
	d.mend(slices.DeleteFunc(names, func(name string) bool {
		entry, _, g, err := d.inspect(d.running[name], heed{})
		if err == nil {
			entry.Close()
		}
		return err != nil || g.rebuild // a load is for when all is adopted
	}))
}

// runsAt reports whether l runs a program of c.
func (c *collection) runsAt(l link.Link) bool {
	info, err := l.Info()
	return err == nil && slices.ContainsFunc(c.record.Programs, func(p pinning.RecordProgram) bool { return p.ID == uint32(info.Program) })
}

// resumable finds, by pin and index, the link to t that a repair of r made which
// was killed.
func (d *Daemon) resumable(r pinning.Record, t loader.Target) (pin string, i int, ok bool) {
	pin, err := pinning.PinName(t.Link)
	p := slices.IndexFunc(r.Programs, func(p pinning.RecordProgram) bool { return p.Name == t.Program })
	if err != nil || p < 0 {
		return "", 0, false
	}
	i = slices.IndexFunc(d.interrupted[pin], func(l link.Link) bool {
		state, err := loader.Describe(l)
		return err == nil && uint32(state.ProgramID) == r.Programs[p].ID && state.Alive() && state.Matches(t) == nil
	})
	return pin, i, i >= 0
}

// takeOver returns that link, nil where there is none.
func (d *Daemon) takeOver(r pinning.Record, t loader.Target) link.Link {
	pin, i, ok := d.resumable(r, t)
	if !ok {
		return nil
	}
	l := d.interrupted[pin][i]
	d.interrupted[pin] = slices.Delete(d.interrupted[pin], i, i+1)
	return l
}

// frees notes that where such a link is, there is room for it.
func (d *Daemon) frees(s *sight, r pinning.Record) {
	targets := slices.Clone(s.spread)
	for _, l := range s.links {
		targets = append(targets, l.now)
	}
	for _, t := range targets {
		if _, _, ok := d.resumable(r, t); ok {
			delete(s.busy, spotOf(t))
		}
	}
}

// switchBack exchanges the programs of committed links that run what is only
// staged, and the maps of struct_ops links. The old ones are still pinned: they
// are until the commit.
func (d *Daemon) switchBack() error {
	programs, err := d.store.StagedPrograms()
	if err != nil {
		return err
	}
	maps, err := d.store.StagedMaps()
	if err != nil || len(programs) == 0 && len(maps) == 0 {
		return err
	}
	names, err := d.store.Entries()
	if err != nil {
		return err
	}
	for _, name := range names {
		entry, err := d.store.Load(name)
		if pinning.Unanswered(err) {
			return err // its links may run what a sweep would take away
		}
		if err != nil {
			continue // adopt tells what is wrong with it
		}
		for _, r := range entry.Record.Links {
			if err = switchLinkBack(entry, r, programs, maps); err != nil {
				break
			}
		}
		entry.Close()
		if err != nil {
			return fmt.Errorf("collection %q: %w", name, err)
		}
	}
	return nil
}

func switchLinkBack(entry *pinning.Entry, r pinning.RecordLink, programs map[ebpf.ProgramID]bool, maps map[ebpf.MapID]bool) error {
	l, err := entry.Link(r.Name)
	if pinning.Unanswered(err) {
		return err
	}
	if err != nil {
		return nil // a missing pin is adopt's to tell
	}
	defer l.Close()
	state, err := loader.Describe(l)
	if err != nil {
		return fmt.Errorf("link %q: %w", r.Name, err)
	}
	if loader.StructOps(state.Kind) && maps[state.MapID] {
		return switchMapBack(entry, r, l, state.MapID)
	}
	if uint32(state.ProgramID) == r.ProgramID || !programs[state.ProgramID] {
		return nil
	}
	newProg, err := ebpf.NewProgramFromID(state.ProgramID)
	if err != nil {
		return fmt.Errorf("link %q: %w", r.Name, err)
	}
	defer newProg.Close()
	oldProg, err := entry.Program(r.Program)
	if err != nil {
		return fmt.Errorf("link %q: %w", r.Name, err)
	}
	defer oldProg.Close()
	if err := loader.Update(l, newProg, oldProg); err != nil {
		return fmt.Errorf("link %q: switch back: %w", r.Name, err)
	}
	return nil
}

// switchMapBack gives a struct_ops link the map of its collection again.
func switchMapBack(entry *pinning.Entry, r pinning.RecordLink, l link.Link, now ebpf.MapID) error {
	var t loader.Target
	if err := json.Unmarshal(r.Target, &t); err != nil {
		return fmt.Errorf("link %q: target: %w", r.Name, err)
	}
	newMap, err := ebpf.NewMapFromID(now)
	if err != nil {
		return fmt.Errorf("link %q: %w", r.Name, err)
	}
	defer newMap.Close()
	oldMap, err := entry.Map(t.Map)
	if err != nil {
		return fmt.Errorf("link %q: %w", r.Name, err)
	}
	defer oldMap.Close()
	if err := loader.UpdateMap(l, newMap, oldMap); err != nil {
		return fmt.Errorf("link %q: switch back: %w", r.Name, err)
	}
	return nil
}

// quarantine sets a directory aside whole. Its links go on running. One whose
// record a newer hornetd wrote stays where it is, and so does one that could not
// be read: neither is known to be broken.
func (d *Daemon) quarantine(name pinning.Name, why error) (err error) {
	if errors.Is(why, pinning.ErrNewerRecord) || pinning.Unanswered(why) {
		d.hold(name.String(), name.String(), why.Error())
		d.log.Warn("left alone", zap.String("collection", name.String()), zap.Error(why))
		return nil
	}
	a := d.begin(self(), "quarantine", name.String(), api.EventQuarantined)
	defer func() { err = a.conclude(err) }()
	if err := a.intend(); err != nil {
		return err
	}
	dir, err := d.store.Quarantine(name)
	if err != nil {
		return fmt.Errorf("collection %q: quarantine: %w", name, err)
	}
	d.hold(dir, name.String(), fmt.Sprintf("was %s: %v", name, why))
	d.log.Warn("quarantined", zap.String("collection", name.String()), zap.String("directory", dir), zap.Error(why))
	return nil
}

// hold notes that what lies in dir is left alone, for a reason.
func (d *Daemon) hold(dir, name, reason string) {
	h := held{name: name, reason: reason}
	if entry, err := d.store.LoadQuarantined(dir); err == nil {
		h.record = &entry.Record
		entry.Close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[dir] = h
}

// seen is what the kernel has of one committed directory.
type seen struct {
	maps     []api.Map
	programs []api.Program
	links    []api.Link
	differs  []string // from the record, in ways only tampering or damage explains
	drift    []string // from the record, because the world moved on
	unsure   error    // the first that kept it from being seen
}

// wrong says why what was seen is not to be adopted, nil where it is.
func (s *seen) wrong() error {
	switch {
	case len(s.differs) > 0:
		return errors.New(strings.Join(s.differs, "; "))
	default:
		return s.unsure
	}
}

// look compares a committed directory with the kernel.
func look(e *pinning.Entry) seen {
	var s seen
	for _, pin := range e.Foreign {
		s.differ("%s: not of hornetd's making", pin)
	}
	for _, r := range e.Record.Maps {
		s.addMap(e, r)
	}
	for _, r := range e.Record.Programs {
		s.addProgram(e, r)
	}
	for _, r := range e.Record.Links {
		s.addLink(e, r)
	}
	return s
}

func (s *seen) differ(format string, args ...any) {
	s.differs = append(s.differs, fmt.Sprintf(format, args...))
}

// missing tells of a pin that cannot be opened. One that is gone is drift: what
// it held may still run, and the rest of the collection does.
func (s *seen) missing(err error) {
	if errors.Is(err, pinning.ErrNotExist) {
		s.drift = append(s.drift, err.Error())
		return
	}
	s.fail("%w", err)
}

// fail tells of an error, the last of args: it is a difference if it says
// anything of what is there.
func (s *seen) fail(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if !pinning.Unanswered(err) {
		s.differ("%v", err)
	} else if s.unsure == nil {
		s.unsure = err
	}
}

func (s *seen) addMap(e *pinning.Entry, r pinning.RecordMap) {
	m, err := e.Map(r.Name)
	if err != nil {
		s.missing(err)
		return
	}
	defer m.Close()
	info, err := bpfsys.MapInfo(m.FD())
	if err != nil {
		s.fail("map %q: %w", r.Name, err)
		return
	}
	frozen, err := isFrozen(m.FD(), r.Frozen)
	if err != nil {
		s.fail("map %q: %w", r.Name, err)
		return
	}
	if info.ID != r.ID || frozen != r.Frozen {
		s.differ("map %q: id %d, frozen %t; recorded id %d, frozen %t", r.Name, info.ID, frozen, r.ID, r.Frozen)
	}
	v := viewMap(r)
	v.ID, v.Frozen = info.ID, frozen
	s.maps = append(s.maps, v)
}

// isFrozen asks the cheap way, which is a refusal that may have another reason, and
// the sure way where the answer is not what is recorded, or there is none.
func isFrozen(fd int, recorded bool) (bool, error) {
	if writable, err := bpfsys.Writable(fd); err == nil && writable != recorded {
		return recorded, nil
	}
	return bpfsys.Frozen(fd)
}

func (s *seen) addProgram(e *pinning.Entry, r pinning.RecordProgram) {
	p, err := e.Program(r.Name)
	if err != nil {
		s.missing(err)
		return
	}
	defer p.Close()
	info, err := bpfsys.ProgramInfo(p.FD())
	if err != nil {
		s.fail("program %q: %w", r.Name, err)
		return
	}
	if info.ID != r.ID || info.Tag != r.Tag {
		s.differ("program %q: id %d, tag %s; recorded id %d, tag %s", r.Name, info.ID, info.Tag, r.ID, r.Tag)
	}
	s.programs = append(s.programs, api.Program{Name: r.Name, Type: r.Type, ID: info.ID, Tag: info.Tag})
}

func (s *seen) addLink(e *pinning.Entry, r pinning.RecordLink) {
	l, err := e.Link(r.Name)
	if err != nil {
		s.missing(err)
		return
	}
	defer l.Close()
	state, err := loader.Describe(l)
	if err != nil { // says nothing of the link; the library keeps the errno to itself
		s.unsure = errors.Join(s.unsure, fmt.Errorf("link %q: %w: %w", r.Name, unix.EIO, err))
		return
	}
	if uint32(state.ID) != r.ID || uint32(state.ProgramID) != r.ProgramID {
		s.differ("link %q: id %d, program %d; recorded id %d, program %d", r.Name, state.ID, state.ProgramID, r.ID, r.ProgramID)
	}
	var t loader.Target
	if err := json.Unmarshal(r.Target, &t); err != nil {
		s.differ("link %s: target: %v", r.Name, err)
		return
	}
	if i := slices.IndexFunc(e.Record.Maps, func(m pinning.RecordMap) bool { return m.Name == t.Map }); i >= 0 && loader.StructOps(t.Kind) && e.Record.Maps[i].ID != uint32(state.MapID) {
		s.differ("link %q: of map %d; recorded map %d", r.Name, state.MapID, e.Record.Maps[i].ID)
	}
	if err := state.Matches(t); err != nil {
		s.drift = append(s.drift, fmt.Sprintf("link %s: %v", r.Name, err))
	}
	r.ID = uint32(state.ID)
	s.links = append(s.links, viewLink(r, uint32(state.ProgramID)))
}
