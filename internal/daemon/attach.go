package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
)

// attached is every link of a collection that is about to be committed: made
// anew, or switched over from the collection it replaces.
type attached struct {
	targets  []loader.Target
	links    map[string]link.Link // by pin name
	switched []switchover
	kept     bool
}

// switchover is one link that comes to run the new program, or for struct_ops to
// have the new map. Its id stays.
type switchover struct {
	forth, back func() error
	close       func() error // of what it had before
}

// exchange prepares the switch-over of l, which is at t and was was in entry.
func exchange(entry *pinning.Entry, coll *ebpf.Collection, l link.Link, was pinning.RecordLink, t loader.Target) (switchover, error) {
	if loader.StructOps(t.Kind) {
		i := slices.IndexFunc(entry.Record.Maps, func(m pinning.RecordMap) bool { return m.Name == t.Map })
		if i < 0 {
			return switchover{}, fmt.Errorf("map %s: %w", t.Map, pinning.ErrNotExist)
		}
		old, err := openMap(entry, entry.Record.Maps[i])
		if err != nil {
			return switchover{}, fmt.Errorf("map %s: %w", t.Map, err)
		}
		return switchover{
			forth: func() error { return loader.UpdateMap(l, old, coll.Maps[t.Map]) },
			back:  func() error { return loader.UpdateMap(l, coll.Maps[t.Map], old) },
			close: old.Close,
		}, nil
	}
	i := slices.IndexFunc(entry.Record.Programs, func(p pinning.RecordProgram) bool { return p.Name == was.Program })
	if i < 0 {
		return switchover{}, fmt.Errorf("program %s: %w", was.Program, pinning.ErrNotExist)
	}
	old, err := openProgram(entry, entry.Record.Programs[i])
	if err != nil {
		return switchover{}, fmt.Errorf("program %s: %w", was.Program, err)
	}
	return switchover{
		forth: func() error { return loader.Update(l, old, coll.Programs[t.Program]) },
		back:  func() error { return loader.Update(l, coll.Programs[t.Program], old) },
		close: old.Close,
	}, nil
}

// attach makes the collection live. A link that old has on the same target,
// and whose program the kernel can exchange, is switched over: nothing is
// missed between the two programs. Everything else is attached beside what
// old has; old's own links go when its directory is retired.
func (d *Daemon) attach(stage *pinning.Stage, coll *ebpf.Collection, targets []loader.Target, old *collection) (_ *attached, err error) {
	a := &attached{links: make(map[string]link.Link)}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	// Resolve has put first what replaces a function of another program: it is
	// there before that one runs, also where it is switched over to.
	n := 0
	for n < len(targets) && targets[n].Replaces != "" {
		n++
	}
	if err := a.anew(stage, coll, targets[:n]); err != nil {
		return nil, err
	}
	rest := targets[n:]
	if old != nil {
		if rest, err = d.switchOver(a, stage, coll, rest, old); err != nil {
			return nil, err
		}
	}
	return a, a.anew(stage, coll, rest)
}

// anew makes and pins links to targets, and settles their open choices.
func (a *attached) anew(stage *pinning.Stage, coll *ebpf.Collection, targets []loader.Target) error {
	links, err := loader.Attach(coll, targets)
	if err != nil {
		return err
	}
	a.targets = append(a.targets, targets...)
	for name, l := range links {
		a.links[name] = l
	}
	return stage.PinLinks(links)
}

// switchOver updates the links that old and the new collection have in common
// and pins them in the stage too. It returns the targets that are left.
func (d *Daemon) switchOver(a *attached, stage *pinning.Stage, coll *ebpf.Collection, targets []loader.Target, old *collection) (rest []loader.Target, err error) {
	name, err := pinning.ParseName(old.record.Name)
	if err != nil {
		return nil, err
	}
	entry, err := d.store.Hold(name, old.record)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	taken := make(map[string]bool) // links of old that a target has already
	for _, t := range targets {
		was, mode, ok := samePlace(old.record.Links, t, targets, taken)
		if !ok || !t.Updatable() {
			rest = append(rest, t)
			continue
		}
		taken[was.Name] = true
		l, err := entry.Link(was.Name)
		if err == nil {
			var at bool
			if at, err = isAt(l, t); err == nil && !at {
				err = pinning.ErrNotExist
			}
			if err != nil {
				l.Close()
			}
		}
		if errors.Is(err, pinning.ErrNotExist) {
			rest = append(rest, t) // it was detached, or its pin taken away
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", was.Name, err)
		}
		a.links[t.Link] = l
		s, err := exchange(entry, coll, l, was, t)
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", was.Name, err)
		}
		if err := stage.LinkExisting(entry, was.Name, t.Link); err != nil {
			s.close()
			return nil, fmt.Errorf("link %s: %w", was.Name, err)
		}
		// Live from here, for this link.
		if err := s.forth(); err != nil {
			s.close()
			return nil, fmt.Errorf("link %s: update: %w", was.Name, err)
		}
		a.switched = append(a.switched, s)
		t.Mode = mode
		a.targets = append(a.targets, t)
	}
	return rest, nil
}

// isAt says whether a link is attached, and to t. One of which the kernel does
// not tell is not gone: attached anew, it would leave a gap for nothing.
func isAt(l link.Link, t loader.Target) (bool, error) {
	state, err := loader.Describe(l)
	if err != nil {
		return false, err
	}
	return state.Alive() && state.At(t), nil
}

// samePlace finds the link of old that t takes over, and the mode it was
// attached in: the one of the same name, else one in the same place that runs
// a program nobody wants any more. Several programs may share a place.
func samePlace(old []pinning.RecordLink, t loader.Target, targets []loader.Target, taken map[string]bool) (_ pinning.RecordLink, mode string, ok bool) {
	for _, l := range old {
		if l.Name == t.Link {
			mode, ok = sits(l, t)
			return l, mode, ok
		}
	}
	for _, l := range old {
		wanted := slices.ContainsFunc(targets, func(t loader.Target) bool { return t.Link == l.Name })
		if taken[l.Name] || wanted {
			continue
		}
		if mode, ok := sits(l, t); ok {
			return l, mode, true
		}
	}
	return pinning.RecordLink{}, "", false
}

// sits reports whether l is where t wants to be, whatever program it runs.
func sits(l pinning.RecordLink, t loader.Target) (mode string, ok bool) {
	var was loader.Target
	if json.Unmarshal(l.Target, &was) != nil {
		return "", false
	}
	mode = was.Mode
	if t.Mode == "auto" {
		was.Mode = t.Mode // auto takes what it gets
	}
	was.Link, was.Program = t.Link, t.Program
	return mode, reflect.DeepEqual(was, t)
}

// keep makes the switch-overs final.
func (a *attached) keep() { a.kept = true }

// Close switches back, in reverse, what was switched over and is not to be
// kept, and closes every link: what no pin holds detaches.
func (a *attached) Close() error {
	var errs []error
	for i := len(a.switched) - 1; i >= 0; i-- {
		s := a.switched[i]
		if !a.kept {
			if err := s.back(); err != nil {
				errs = append(errs, fmt.Errorf("switch back: %w", err))
			}
		}
		s.close()
	}
	a.switched = nil
	for _, l := range a.links {
		l.Close()
	}
	a.links = nil
	return errors.Join(errs...)
}
