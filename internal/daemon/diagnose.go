package daemon

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
)

// sight is what one look at a running collection saw. It is data: diagnose
// decides on it.
type sight struct {
	gone    bool     // the directory is
	missing []string // pins: "record", "maps/hits"
	foreign []string // what lies there and is not in the record
	lost    []string // what the kernel has no more, where its pin is missing: "program drop"
	links   []linkSight
	spread  []loader.Target // all interfaces that the manifest's patterns match
}

// linkSight is what was seen of one link of the record.
type linkSight struct {
	target    loader.Target     // of the record
	state     *loader.LinkState // nil: the kernel has no link of that id
	now       loader.Target     // what target leads to
	err       error             // why it leads nowhere
	pattern   bool              // target came of a pattern
	elsewhere bool              // the link is at another interface of the same number
	renamed   string            // what the interface that the link is at is called, if not as target says
}

// diagnosis says what is wrong with a running collection and what a repair does
// about it.
type diagnosis struct {
	links   []linkStep // every link that it has after the repair
	repairs []string   // what the repair mends; empty: there is nothing to do
	rebuild bool       // programs or maps are gone: only another load brings them back
	taken   bool       // somebody took away what was there, which may be a fight
	drift   []string   // what stays wrong, and why
}

// linkStep is what becomes of one link.
type linkStep struct {
	was    string // its name in the record; "" for one that is made anew
	gone   string // the link of the record whose place it takes
	back   bool   // it runs another program and comes to run ours again
	repin  bool   // its pin is missing
	target loader.Target
}

func (g *diagnosis) mend(format string, args ...any) {
	g.repairs = append(g.repairs, fmt.Sprintf(format, args...))
}

func (g *diagnosis) stays(format string, args ...any) {
	g.drift = append(g.drift, fmt.Sprintf(format, args...))
}

// diagnose compares the record with what was seen. revoked, where it is not
// "", is why what runs must not be attached anew.
//
// Nothing is detached because a name went away: an interface that was renamed
// or moved keeps its program until another one has the name.
func diagnose(r pinning.Record, s sight, revoked string) diagnosis {
	var g diagnosis
	if len(s.foreign) > 0 {
		g.stays("%s: not of hornetd's making, so nothing is repaired beside it", s.foreign[0])
		return g
	}
	g.pins(r, s)
	blocked := false
	for i, l := range s.links {
		if !g.link(r.Links[i], l, s) {
			blocked = true
		}
	}
	if !blocked {
		g.spread(s.spread)
	}
	anew := slices.ContainsFunc(g.links, func(l linkStep) bool { return l.was == "" })
	if blocked || revoked != "" && (anew || g.rebuild) {
		for _, what := range g.repairs {
			if revoked != "" {
				what += ": not repaired: " + revoked
			}
			g.drift = append(g.drift, what)
		}
		g.links, g.repairs, g.rebuild = nil, nil, false
	}
	return g
}

// pins tells of pins that are gone, and of what is gone with them.
func (g *diagnosis) pins(r pinning.Record, s sight) {
	if s.gone {
		g.taken = true
		g.mend("its directory was removed")
	} else {
		for _, pin := range s.missing {
			g.taken = true
			g.mend("pin %s was removed", pin)
		}
	}
	for _, what := range s.lost {
		g.rebuild = true
		g.mend("%s is gone from the kernel", what)
	}
	for _, m := range r.Maps {
		// Its programs went with its last pin.
		if m.Type == "ProgramArray" && (s.gone || slices.Contains(s.missing, "maps/"+m.Pin)) {
			g.rebuild = true
		}
	}
}

// link decides on one link of the record. It returns false for one that can
// neither stay nor be made: what has no link cannot be in a record.
func (g *diagnosis) link(r pinning.RecordLink, l linkSight, s sight) bool {
	keep := linkStep{was: r.Name, target: l.target, repin: s.gone || slices.Contains(s.missing, "links/"+r.Pin)}
	absent := l.err != nil
	switch {
	case absent && l.state == nil:
		g.stays("link %s is gone: %v", r.Name, l.err)
		return false
	case l.state == nil:
		g.taken = true
		g.attach(r, l, "link %s is gone", r.Name)
	case !l.state.Alive() && absent && l.pattern && g.hasAnother(l, s):
		g.mend("link %s: %v any more", r.Name, l.err)
	case !l.state.Alive() && absent:
		g.stays("link %s is at nothing: %v", r.Name, l.err)
		g.links = append(g.links, keep)
	case !l.state.Alive():
		if reflect.DeepEqual(l.now, l.target) {
			g.taken = true
			g.attach(r, l, "link %s was detached", r.Name)
		} else {
			g.attach(r, l, "link %s: %s was made anew", r.Name, l.now)
		}
	case absent:
		g.absent(r, l, s, keep)
	case !l.state.At(l.now), l.elsewhere, l.now.NetnsInode != l.target.NetnsInode, !placed(l) && !reflect.DeepEqual(l.now, l.target):
		g.attach(r, l, "link %s: %s is another one now", r.Name, l.now)
	default:
		if !reflect.DeepEqual(l.now, l.target) {
			g.mend("link %s: %s has another number now", r.Name, l.now)
			keep.target = l.now
		}
		g.keep(r, l, keep)
	}
	return true
}

// placed says whether the kernel tells where the link is, so that its place can
// be compared and not only what its name leads to.
func placed(l linkSight) bool {
	other := l.target
	other.Ifindex, other.CgroupID, other.NetnsInode = -1, 0, 0
	return !l.state.At(other)
}

// keep lets a link stay that is where it should be.
func (g *diagnosis) keep(r pinning.RecordLink, l linkSight, k linkStep) {
	if uint32(l.state.ProgramID) != r.ProgramID {
		g.taken = true
		k.back = true
		g.mend("link %s runs program %d, not %d", r.Name, l.state.ProgramID, r.ProgramID)
	}
	g.links = append(g.links, k)
}

// absent decides on a link that is alive although its name leads nowhere: what
// it is at was renamed, or moved into another namespace.
func (g *diagnosis) absent(r pinning.RecordLink, l linkSight, s sight, k linkStep) {
	i := slices.IndexFunc(s.spread, func(t loader.Target) bool {
		return t.Interface == l.renamed && t.Program == l.target.Program && t.AttachType == l.target.AttachType && t.Netns == l.target.Netns
	})
	if l.pattern && l.renamed != "" && i >= 0 {
		g.mend("link %s: interface %s is called %s now", r.Name, l.target.Interface, l.renamed)
		k.target = s.spread[i]
		k.target.Mode = l.target.Mode
		g.keep(r, l, k)
		return
	}
	switch {
	case l.renamed != "":
		g.stays("link %s: interface %s is called %s now, and runs the program still", r.Name, l.target.Interface, l.renamed)
	default:
		g.stays("link %s: runs still, but %v", r.Name, l.err)
	}
	g.keep(r, l, k)
}

// attach makes a link anew, or as it was where the target has no other way.
func (g *diagnosis) attach(r pinning.RecordLink, l linkSight, format string, args ...any) {
	g.mend(format, args...)
	g.links = append(g.links, linkStep{gone: r.Name, target: l.now})
}

// hasAnother says whether the pattern that l came of has a link beside it, so
// that the record can do without this one and still knows the pattern.
func (g *diagnosis) hasAnother(l linkSight, s sight) bool {
	return slices.ContainsFunc(s.links, func(o linkSight) bool {
		return o.pattern && o.err == nil && o.target.Program == l.target.Program && o.target.AttachType == l.target.AttachType &&
			o.target.Netns == l.target.Netns
	})
}

// spread attaches to the interfaces that have come under a pattern.
func (g *diagnosis) spread(all []loader.Target) {
	for _, t := range all {
		if slices.ContainsFunc(g.links, func(l linkStep) bool { return l.target.Link == t.Link }) {
			continue
		}
		g.mend("%s has come", t)
		g.links = append(g.links, linkStep{target: t})
	}
}

// absentTarget says whether err is about a target that may still come.
func absentTarget(err error) bool { return errors.Is(err, loader.ErrAbsent) }
