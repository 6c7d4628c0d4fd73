package daemon

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
)

// step is what the change from one version of a collection to the next does to
// one link.
type step struct {
	action api.LinkAction
	was    pinning.RecordLink // zero for attach
	target loader.Target      // zero for detach
}

// carried is what of the old version the next one has too.
type carried struct {
	maps     map[string]bool   // by name
	programs map[string]uint32 // name -> id; none where the next version is loaded anew
	gaps     bool              // where there is no room, a gap is taken whatever the targets say
}

// stuckError is a target for which there is no room beside what is there.
type stuckError struct {
	target loader.Target
	was    string
}

func (e *stuckError) Error() string {
	return fmt.Sprintf("link %s is at %s, where the kernel takes one program, and cannot get another program: the new version would have to wait until the old one has left",
		e.was, e.target)
}

// transit decides how the links of a collection become those of its next
// version, at targets. It is pure: plan shows what it says and a load does it.
// The error is a *stuckError.
func transit(old []pinning.RecordLink, targets []loader.Target, both carried) ([]step, error) {
	var steps []step
	taken := make(map[string]bool) // links of old that a target has already
	for _, t := range targets {
		was, mode, same := samePlace(old, t, targets, taken)
		s := step{action: api.LinkAttach, target: t}
		switch {
		case same && unchanged(was, t, both):
			s = step{api.LinkKeep, was, settled(was, t, mode)}
		case same && updatable(t, both):
			s = step{api.LinkUpdate, was, settled(was, t, mode)}
		}
		if s.was.Name != "" {
			taken[was.Name] = true
		}
		steps = append(steps, s)
	}
	for i := range steps {
		if s := &steps[i]; s.action == api.LinkAttach {
			if err := s.enter(old, taken, both); err != nil {
				return nil, err
			}
		}
	}
	for _, l := range old {
		if !taken[l.Name] {
			steps = append(steps, step{action: api.LinkDetach, was: l})
		}
	}
	return steps, nil
}

// enter decides how the target of s comes to where there is no link that it can
// take over. taken are the links of old that others have, or s has now.
func (s *step) enter(old []pinning.RecordLink, taken map[string]bool, both carried) error {
	holder, held := holderOf(old, s.target, both)
	if held {
		other, ok := s.target.Other()
		_, full := holderOf(old, other, both)
		switch {
		case ok && !full:
			s.action, s.was, s.target = api.LinkBeside, holder, other
		case (s.target.Gap || both.gaps) && !taken[holder.Name]:
			s.action, s.was = api.LinkGap, holder
		default:
			return &stuckError{s.target, holder.Name}
		}
		taken[holder.Name] = true
		return nil
	}
	for _, l := range old {
		if l.Name == s.target.Link && !taken[l.Name] {
			s.action, s.was = api.LinkBeside, l
			taken[l.Name] = true
		}
	}
	return nil
}

// holderOf finds the link of old that has the place of t, where there is room for
// one. A place in a map is another one where the new version has a map of its own.
func holderOf(old []pinning.RecordLink, t loader.Target, both carried) (pinning.RecordLink, bool) {
	slot := t.Slot()
	if slot == "" || t.Map != "" && !loader.StructOps(t.Kind) && !both.maps[t.Map] {
		return pinning.RecordLink{}, false
	}
	for _, l := range old {
		if was, err := targetOf(l); err == nil && was.Kind == t.Kind && was.Slot() == slot {
			return l, true
		}
	}
	return pinning.RecordLink{}, false
}

// updatable reports whether the link at t can get the new version's program. A
// link to a map stays with the map, and a struct_ops link gets another map where
// its subsystem can, which only trying shows: with upgrade = "gap" it is not tried.
func updatable(t loader.Target, both carried) bool {
	if loader.StructOps(t.Kind) {
		return !t.Gap
	}
	return loader.Updatable(t.Kind) && (t.Map == "" || both.maps[t.Map])
}

// unchanged reports whether the link runs what it shall run.
func unchanged(was pinning.RecordLink, t loader.Target, both carried) bool {
	if loader.StructOps(t.Kind) {
		return both.maps[t.Map] && both.programs != nil
	}
	return both.programs[t.Program] != 0 && both.programs[t.Program] == was.ProgramID
}

// settled is t with the choices that was made when it was attached.
func settled(was pinning.RecordLink, t loader.Target, mode string) loader.Target {
	t.Mode = mode
	if at, err := targetOf(was); err == nil {
		t.Priority, t.TypeID, t.ReplacesID = at.Priority, at.TypeID, at.ReplacesID
	}
	return t
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
	was, err := targetOf(l)
	if err != nil {
		return "", false
	}
	mode = was.Mode
	if t.Mode == "auto" {
		was.Mode = t.Mode // auto takes what it gets
	}
	if slices.Contains(t.Priorities, was.Priority) {
		was.Priority = t.Priority // either of the two
	}
	if t.TypeID == 0 && t.ReplacesID == 0 {
		was.TypeID, was.ReplacesID = 0, 0 // Attach sets them
	}
	if was.NetnsInode == t.NetnsInode { // whatever it is called
		was.Netns = t.Netns
		if was.Ifindex == t.Ifindex {
			was.Interface = t.Interface
		}
	}
	if was.CgroupID == t.CgroupID {
		was.Cgroup = t.Cgroup
	}
	if was.Device == 0 { // the record does not say
		was.Device = t.Device
	}
	was.Link, was.Program, was.Priorities, was.Gap = t.Link, t.Program, t.Priorities, t.Gap
	return mode, reflect.DeepEqual(was, t)
}

// steps is transit for what runs, where there is something, and the manifest
// that is to run. mending is that what runs is broken.
func (c *collection) steps(m manifest.Manifest, targets []loader.Target, mending bool) ([]step, error) {
	var old []pinning.RecordLink
	both := carried{maps: make(map[string]bool), gaps: mending}
	if c != nil {
		old = c.record.Links
		for _, r := range c.record.Maps {
			now := m.Maps[r.Name]
			both.maps[r.Name] = now.Keep && r.Shared == "" || now.Shared != "" && now.Shared == r.Shared
		}
	}
	steps, err := transit(old, targets, both)
	var stuck *stuckError
	if errors.As(err, &stuck) {
		i := slices.IndexFunc(m.Attach, func(a manifest.Attach) bool { return a.Program == stuck.target.Program && a.Map == stuck.target.Map })
		room := stuck.target.Room()
		if stuck.target.Caller { // with a gap nobody would show the way back
			room = fmt.Sprintf("hornetctl unload %s, and load it with the descriptor again", m.Name)
		}
		return nil, remedy.With(m.Errorf(fmt.Sprintf("attach[%d]", max(i, 0)), "%w", err), "%s", room)
	}
	if err == nil && c != nil {
		err = mayAttach(m, steps)
	}
	if err == nil && m.Health != nil && !mending {
		err = mayGoBack(m, steps)
	}
	return steps, err
}

// mayAttach refuses what would have a new link in a network namespace that a caller
// showed when it was loaded: nobody shows it now, neither for the new link nor for
// getting back the old one, which goes first where there is room for one.
func mayAttach(m manifest.Manifest, steps []step) error {
	for _, s := range steps {
		if t := s.target; t.Caller && t.NetnsInode != 0 && !s.inPlace() {
			i := slices.IndexFunc(m.Attach, func(a manifest.Attach) bool { return a.Program == t.Program })
			return remedy.With(m.Errorf(fmt.Sprintf("attach[%d]", max(i, 0)), "link %s is to be attached anew at %s, and nobody shows that now: %w", t.Link, t, loader.ErrNotShown),
				"hornetctl unload %s, and load it with the descriptor again", m.Name)
		}
	}
	return nil
}

// mayGoBack refuses a trial that ends a link in a network namespace that a caller showed:
// nobody would show it for going back.
func mayGoBack(m manifest.Manifest, steps []step) error {
	for _, s := range steps {
		if s.action != api.LinkDetach {
			continue
		}
		t, err := targetOf(s.was)
		if err != nil {
			return err
		}
		if t.Caller && t.NetnsInode != 0 {
			return remedy.With(m.Errorf("health", "link %s would end, at %s, and could not come back if this version is not healthy: %w", s.was.Name, t, loader.ErrNotShown),
				"hornetctl unload %s, and load it with the descriptor again", m.Name)
		}
	}
	return nil
}

// detached is what an unload does to the links of c.
func (c *collection) detached() []step {
	steps, _ := transit(c.record.Links, nil, carried{}) // nothing to be stuck
	return steps
}

// linkChanges shows steps.
func linkChanges(steps []step) []api.LinkChange {
	var out []api.LinkChange
	for _, s := range steps {
		t := s.target
		if s.action == api.LinkDetach {
			t, _ = targetOf(s.was)
			t.Link, t.Kind, t.Program = s.was.Name, s.was.Kind, s.was.Program
		}
		out = append(out, api.LinkChange{Name: t.Link, Kind: t.Kind, Program: t.Program, Target: t.String(), Action: s.action})
	}
	return out
}
