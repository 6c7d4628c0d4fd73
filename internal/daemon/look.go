package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
)

// glance looks at a running collection as cheaply as it can, by what its record
// says: whether pins are there, what the kernel says of links by their ids, and
// what targets lead to. It opens no pin and changes nothing. m is its manifest,
// or the zero one.
// ts are its targets.
func (d *Daemon) glance(v *loader.View, r pinning.Record, ts []loader.Target, m manifest.Manifest) (sight, error) {
	s := sight{missing: d.store.Missing(r)}
	d.notEmptied(&s, r)
	err := s.look(v, r, ts, m)
	return s, err
}

// examineEntry looks at all there is to see of a collection before it is
// repaired.
func examineEntry(v *loader.View, e *pinning.Entry, m manifest.Manifest) (sight, error) {
	s := sight{gone: e.Gone, missing: e.Missing, foreign: foreign(e)}
	if len(s.foreign) > 0 {
		return s, nil // beside which nothing is repaired
	}
	for _, r := range e.Record.Programs {
		if p, err := openProgram(e, r); err == nil {
			p.Close()
		} else if errors.Is(err, pinning.ErrNotExist) {
			s.lost = append(s.lost, "program "+r.Name)
		} else {
			return s, err
		}
	}
	for _, r := range e.Record.Maps {
		if r.Type == programArray && s.unpinned(r) {
			continue // see notEmptied
		}
		if m, err := openMap(e, r); err == nil {
			m.Close()
		} else if errors.Is(err, pinning.ErrNotExist) {
			s.lost = append(s.lost, "map "+r.Name)
		} else {
			return s, err
		}
	}
	ts, err := targetsOf(e.Record)
	if err != nil {
		return s, err
	}
	err = s.look(v, e.Record, ts, m)
	s.unhook()
	return s, err
}

// unhook finds out which links are attached nowhere though the kernel shows them
// as if they were. It takes a change that the kernel refuses, so it is not for every look.
func (s *sight) unhook() {
	for _, l := range s.links {
		if l.state == nil || l.err != nil {
			continue
		}
		if free, err := loader.Unhooked(*l.state, l.now); err == nil {
			l.state.Unhooked = free
		}
	}
}

// foreign returns what lies in the directory of a collection and is not what was
// recorded: names of nobody's, and pins of something else.
func foreign(e *pinning.Entry) []string {
	all := slices.Clone(e.Foreign)
	other := func(pin string, id, recorded uint32, err error) {
		var errno unix.Errno // of the asking, or the pin is gone
		if err == nil && id != recorded || err != nil && !errors.As(err, &errno) && !errors.Is(err, fs.ErrNotExist) {
			all = append(all, pin)
		}
	}
	for _, r := range e.Record.Maps {
		var info bpfsys.Info
		m, err := e.Map(r.Name)
		if err == nil {
			info, err = bpfsys.MapInfo(m.FD())
			m.Close()
		}
		other("maps/"+r.Pin, info.ID, r.ID, err)
	}
	for _, r := range e.Record.Programs {
		var info bpfsys.ProgInfo
		p, err := e.Program(r.Name)
		if err == nil {
			info, err = bpfsys.ProgramInfo(p.FD())
			p.Close()
		}
		other("programs/"+r.Pin, info.ID, r.ID, err)
	}
	for _, r := range e.Record.Links {
		var info link.Info
		l, err := e.Link(r.Name)
		if err == nil {
			var got *link.Info
			if got, err = l.Info(); err == nil {
				info = *got
			}
			l.Close()
		}
		other("links/"+r.Pin, uint32(info.ID), r.ID, err)
	}
	return all
}

// foreignIn is foreign for a running collection.
func (d *Daemon) foreignIn(r pinning.Record) []string {
	n, err := pinning.ParseName(r.Name)
	if err != nil {
		return nil
	}
	e, err := d.store.Hold(n, r)
	if err != nil {
		return nil // a repair tells
	}
	defer e.Close()
	return foreign(e)
}

func (s *sight) look(v *loader.View, r pinning.Record, ts []loader.Target, m manifest.Manifest) error {
	s.busy = map[spot]error{}
	for i, l := range r.Links {
		one, err := lookAtLink(v, l, ts[i], m)
		if err != nil {
			return err
		}
		s.links = append(s.links, one)
	}
	for _, a := range m.Attach {
		if !loader.IsPattern(a.Interface) {
			continue
		}
		i := slices.IndexFunc(s.links, func(l linkSight) bool { return l.target.From(a) })
		if i < 0 {
			continue
		}
		more, err := v.Spread(s.links[i].target, a)
		if err != nil {
			continue // its links tell
		}
		s.spread = append(s.spread, more...)
	}
	for _, l := range s.links {
		if l.err == nil {
			s.room(v, l.now)
		}
	}
	for _, t := range s.spread {
		s.room(v, t)
	}
	return nil
}

// programArray is the type of map that the kernel empties with its last pin and
// descriptor, though programs use it still.
const programArray = "ProgramArray"

// notEmptied finds out which maps of programs have theirs, though their pins are
// missing: they are pinned elsewhere, or somebody has them open. One that is empty
// is opened once only: with its last descriptor the kernel empties it again, in a
// work that it takes a reference for, and keeps that for ever where the same work
// waits already (prog_array_map_clear).
func (d *Daemon) notEmptied(s *sight, r pinning.Record) {
	for _, m := range r.Maps {
		if m.Type != programArray || !s.unpinned(m) {
			continue
		}
		if _, known := d.emptied.Load(m.ID); known {
			continue
		}
		if hasPrograms(m) {
			s.filled = append(s.filled, m.Name)
		} else {
			d.emptied.Store(m.ID, true)
		}
	}
}

func (s *sight) unpinned(m pinning.RecordMap) bool {
	return s.gone || slices.Contains(s.missing, "maps/"+m.Pin)
}

func hasPrograms(r pinning.RecordMap) bool {
	m, err := ebpf.NewMapFromID(ebpf.MapID(r.ID))
	if err != nil {
		return false
	}
	defer m.Close()
	var slot, program uint32
	return m.Type() == ebpf.ProgramArray && m.KeySize() == 4 && m.Iterate().Next(&slot, &program)
}

// room finds out whether something can be attached to t, as far as that shows
// without trying. What a link of this collection has is its own.
func (s *sight) room(v *loader.View, t loader.Target) {
	ours := slices.ContainsFunc(s.links, func(l linkSight) bool {
		return l.state != nil && l.state.Kind == t.Kind && l.state.Ifindex == t.Ifindex && !l.elsewhere
	})
	if err := v.Taken(t); err != nil && !ours {
		s.busy[spotOf(t)] = err
	}
}

// heed is what is remembered of earlier looks and repairs.
type heed struct {
	idle  map[uint32]bool // links whose targets were seen to go
	stuck map[spot]error  // where nothing could be attached, and it is too soon to try again
	over  bool            // what is taken away is left as it is
}

// with adds what is remembered.
func (s *sight) with(r pinning.Record, h heed) {
	for i := range s.links {
		s.links[i].idle = h.idle[r.Links[i].ID]
	}
	for at, err := range h.stuck {
		if s.busy[at] == nil {
			s.busy[at] = err
		}
	}
	s.over = h.over
}

func lookAtLink(v *loader.View, r pinning.RecordLink, t loader.Target, m manifest.Manifest) (linkSight, error) {
	l := linkSight{target: t}
	l.pattern = slices.ContainsFunc(m.Attach, func(a manifest.Attach) bool {
		return loader.IsPattern(a.Interface) && l.target.From(a)
	})
	l.now, l.err = v.Again(l.target)
	state, err := loader.StateByID(r.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil // gone
	}
	if err != nil {
		return l, err
	}
	l.state = &state
	l.elsewhere = l.err == nil && v.Elsewhere(state, l.now)
	if l.err != nil && state.Ifindex != 0 {
		l.renamed = v.NameOf(l.target, state.Ifindex)
	}
	return l, nil
}

// targetsOf decodes what the links of a record are attached to, in their order.
func targetsOf(r pinning.Record) ([]loader.Target, error) {
	all := make([]loader.Target, len(r.Links))
	for i, l := range r.Links {
		if err := json.Unmarshal(l.Target, &all[i]); err != nil {
			return nil, fmt.Errorf("link %s: target: %w", l.Name, err)
		}
	}
	return all, nil
}

// openProgram opens a program by its pin, or by its id where that is gone: it may
// run still. Ids are not used again soon; that it is the one that was recorded
// is compared all the same. The error wraps ErrNotExist where it is nowhere.
func openProgram(e *pinning.Entry, r pinning.RecordProgram) (*ebpf.Program, error) {
	p, err := e.Program(r.Name)
	pinned := err == nil
	if errors.Is(err, pinning.ErrNotExist) {
		p, err = ebpf.NewProgramFromID(ebpf.ProgramID(r.ID))
	}
	if err != nil {
		return nil, fmt.Errorf("program %q: %w", r.Name, err)
	}
	info, err := bpfsys.ProgramInfo(p.FD())
	if err == nil && (info.ID != r.ID || info.Tag != r.Tag) {
		err = another("program", r.Name, info.ID, r.ID, pinned)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// openMap is openProgram for maps.
func openMap(e *pinning.Entry, r pinning.RecordMap) (*ebpf.Map, error) {
	m, err := e.Map(r.Name)
	pinned := err == nil
	if errors.Is(err, pinning.ErrNotExist) {
		m, err = ebpf.NewMapFromID(ebpf.MapID(r.ID))
	}
	if err != nil {
		return nil, fmt.Errorf("map %q: %w", r.Name, err)
	}
	info, err := bpfsys.MapInfo(m.FD())
	same := info.ID == r.ID && m.Type().String() == r.Type && info.KeySize == r.KeySize && info.ValueSize == r.ValueSize
	if err == nil && !same {
		err = another("map", r.Name, info.ID, r.ID, pinned)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// another refuses to build on what is not what was recorded: a pin that somebody
// put there, or an id that the kernel has used again.
func another(what, name string, now, was uint32, pinned bool) error {
	if !pinned {
		return fmt.Errorf("%s %q: %d is another one now: %w", what, name, was, pinning.ErrNotExist)
	}
	return remedy.With(api.Errorf(api.KindConflict, "%s %q: %d is pinned, and %d was recorded", what, name, now, was),
		"find out who put it there; then unload the collection and load it again")
}
