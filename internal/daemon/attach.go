package daemon

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
)

// attached is every link of a collection that is about to be committed: made
// anew, or switched over from the collection it replaces.
type attached struct {
	targets  []loader.Target
	links    map[string]link.Link // by pin name
	switched []switchover
	bridged  []string // links that were attached after a gap
	gaps     []string // what was without a program, and how long
	kept     bool
	shown    *loader.Shown

	entry   *pinning.Entry            // of the old collection
	gone    []string                  // its links that had to go
	restore func(gone []string) error // brings them back
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

// attach makes the collection live, step by step. A link whose program the
// kernel can exchange is switched over: nothing is missed between the two
// programs. Others are attached beside what old has; old's own links go when its
// directory is retired. Where there is no room beside, the old link goes first,
// and that comes last: until then nothing is missing, and little can fail after it.
func (d *Daemon) attach(stage *pinning.Stage, coll *ebpf.Collection, steps []step, old *collection, shown *loader.Shown) (_ *attached, err error) {
	a := &attached{links: make(map[string]link.Link), shown: shown}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if old != nil {
		name, err := pinning.ParseName(old.record.Name)
		if err != nil {
			return nil, err
		}
		entry, err := d.store.Hold(name, old.record)
		if err != nil {
			return nil, err
		}
		defer entry.Close()
		a.entry = entry
		a.restore = func(gone []string) error { return d.restore(old, gone) }
	}
	// What replaces a function of another program is there before that one
	// runs, also where it is switched over to.
	for _, phase := range []func(step) bool{step.first, step.inPlace, step.beside, step.afterGap} {
		for _, s := range steps {
			if !phase(s) {
				continue
			}
			if err := a.do(stage, coll, s); err != nil {
				return nil, err
			}
		}
	}
	return a, nil
}

func (s step) first() bool {
	return s.target.Replaces != "" && (s.action == api.LinkAttach || s.action == api.LinkBeside)
}
func (s step) inPlace() bool { return s.action == api.LinkKeep || s.action == api.LinkUpdate }
func (s step) beside() bool {
	return !s.first() && (s.action == api.LinkAttach || s.action == api.LinkBeside)
}
func (s step) afterGap() bool { return s.action == api.LinkGap }

// do takes one step.
func (a *attached) do(stage *pinning.Stage, coll *ebpf.Collection, s step) error {
	switch {
	case s.inPlace():
		return a.switchOver(stage, coll, s)
	case s.afterGap():
		return a.bridge(stage, coll, s)
	}
	return a.anew(stage, coll, s.target)
}

// anew makes and pins a link to t, and settles its open choices.
func (a *attached) anew(stage *pinning.Stage, coll *ebpf.Collection, t loader.Target) error {
	targets := []loader.Target{t}
	links, err := loader.AttachShown(coll, targets, a.shown)
	if err != nil {
		return err
	}
	a.targets = append(a.targets, targets...)
	a.links[t.Link] = links[t.Link]
	return stage.PinLinks(links)
}

// switchOver pins a link of the old collection in the stage too and gives it the
// new program. One that is to be kept has that already.
func (a *attached) switchOver(stage *pinning.Stage, coll *ebpf.Collection, s step) error {
	l, err := a.entry.Link(s.was.Name)
	if err == nil {
		var at bool
		if at, err = isAt(l, s.target); err == nil && !at {
			err = pinning.ErrNotExist
		}
		if err != nil {
			l.Close()
		}
	}
	if errors.Is(err, pinning.ErrNotExist) {
		return a.anew(stage, coll, s.target) // it was detached, or its pin taken away
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", s.was.Name, err)
	}
	a.links[s.target.Link] = l
	if err := stage.LinkExisting(a.entry, s.was.Name, s.target.Link); err != nil {
		return fmt.Errorf("link %s: %w", s.was.Name, err)
	}
	a.targets = append(a.targets, s.target)
	if s.action == api.LinkKeep {
		return nil
	}
	x, err := exchange(a.entry, coll, l, s.was, s.target)
	if err != nil {
		return fmt.Errorf("link %s: %w", s.was.Name, err)
	}
	// Live from here, for this link.
	if err := x.forth(); err != nil {
		x.close()
		return fmt.Errorf("link %s: update: %w", s.was.Name, err)
	}
	a.switched = append(a.switched, x)
	return nil
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

// bridge detaches a link of the old collection and attaches the new program in
// its place.
func (a *attached) bridge(stage *pinning.Stage, coll *ebpf.Collection, s step) error {
	l, err := a.entry.Link(s.was.Name)
	if errors.Is(err, pinning.ErrNotExist) {
		return a.anew(stage, coll, s.target) // it is gone already
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", s.was.Name, err)
	}
	defer l.Close()
	began := time.Now()
	// The pin goes before the link: a start that finds no pin mends that, and
	// whether a link was detached the kernel does not tell for every kind.
	if err := a.entry.Unpin(s.was.Name); err != nil {
		return fmt.Errorf("link %s: %w", s.was.Name, err)
	}
	a.gone = append(a.gone, s.was.Name)
	if err := l.Detach(); err != nil {
		return fmt.Errorf("link %s: detach: %w", s.was.Name, err)
	}
	a.bridged = append(a.bridged, s.target.Link)
	if err := a.anew(stage, coll, s.target); err != nil {
		return err
	}
	a.gaps = append(a.gaps, fmt.Sprintf("%s had no program for %s", s.target, time.Since(began).Round(time.Microsecond)))
	return nil
}

// keep makes all of it final.
func (a *attached) keep() { a.kept = true }

// Close switches back, in reverse, what was switched over and is not to be
// kept, and closes every link: what no pin holds detaches. What had to go for
// the new version is attached again last.
func (a *attached) Close() error {
	var errs []error
	for _, name := range a.bridged {
		if l := a.links[name]; l != nil && !a.kept {
			errs = append(errs, l.Detach()) // makes room
		}
	}
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
	if !a.kept && len(a.gone) > 0 {
		errs = append(errs, a.restore(a.gone))
	}
	a.gone = nil
	return errors.Join(errs...)
}
