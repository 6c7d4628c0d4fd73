package daemon

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/hornetd/hornetd/internal/remedy"
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
	filled  []string // maps of programs that have theirs, though their pins are missing
	links   []linkSight
	spread  []loader.Target // all interfaces that the manifest's patterns match
	busy    map[spot]error  // where nothing can be attached now
	over    bool            // what is taken away is left as it is
}

// spot is a place that something is attached to, under one name.
type spot struct {
	link            string
	ifindex         int
	inode, device   uint64
	netns, cgroupID uint64
}

func spotOf(t loader.Target) spot {
	return spot{t.Link, t.Ifindex, t.Inode, t.Device, t.NetnsInode, t.CgroupID}
}

// linkSight is what was seen of one link of the record.
type linkSight struct {
	target    loader.Target     // of the record
	state     *loader.LinkState // nil: the kernel has no link of that id
	now       loader.Target     // what target leads to
	err       error             // why it leads nowhere
	pattern   bool              // target came of a pattern
	elsewhere bool              // the link is at another interface of the same number
	idle      bool              // its target was seen to go, so that nobody took the link away
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
	hint    string     // what can be done about that; "" where it is always the same

	left bool            // something was taken away and is left as it is
	out  []string        // links that are not to be made now
	at   []loader.Target // for each link of the record where it lives by now, under a pattern; zero: as recorded
}

// linkStep is what becomes of one link.
type linkStep struct {
	was    string // its name in the record; "" for one that is made anew
	gone   string // the link of the record whose place it takes
	back   bool   // it runs another program and comes to run ours again
	repin  bool   // its pin is missing
	absent bool   // the kernel has none, and none can be made: the record names it without a pin
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
	blocked := !g.pins(r, s)
	g.at = moved(s)
	for i, l := range s.links {
		g.link(r.Links[i], l, s, g.at[i])
	}
	if !blocked {
		g.spread(s)
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
	if g.left {
		g.drift = append([]string{fmt.Sprintf("was repaired %d times within %s: somebody takes away what hornetd attaches, so it is left as it is", fightLimit, fightWindow)}, g.drift...)
		g.hint = "find out who does it (hornetctl events, hornetctl show " + r.Name + "), then hornetctl reload"
	}
	return g
}

// moved finds, for each link that came of a pattern, the interface under that
// pattern that it lives at by now, if that is called otherwise. All names may have
// changed in a ring; the number tells who is who.
func moved(s sight) []loader.Target {
	at := make([]loader.Target, len(s.links))
	for i, l := range s.links {
		if !l.pattern || l.state == nil || l.elsewhere || l.state.Ifindex == 0 {
			continue
		}
		for _, t := range s.spread {
			if t.Ifindex == l.state.Ifindex && t.Interface != l.target.Interface && t.NetnsInode == l.target.NetnsInode && like(t, l.target) {
				at[i] = t
				at[i].Mode = l.target.Mode
			}
		}
	}
	return at
}

// like says whether a and b are of one attach of the manifest, but for the interface.
func like(a, b loader.Target) bool {
	return a.Program == b.Program && a.AttachType == b.AttachType && a.Netns == b.Netns
}

// takenAway notes that somebody took something away. It returns false where that
// is left as it is.
func (g *diagnosis) takenAway(s sight, format string, args ...any) bool {
	if s.over {
		g.left = true
		g.stays(format, args...)
		return false
	}
	g.taken = true
	g.mend(format, args...)
	return true
}

// pins tells of pins that are gone, and of what is gone with them. It returns
// false where that keeps everything else from being repaired.
func (g *diagnosis) pins(r pinning.Record, s sight) bool {
	if s.gone {
		g.takenAway(s, "its directory was removed")
	} else {
		for _, pin := range s.missing {
			if i := slices.IndexFunc(r.Links, func(l pinning.RecordLink) bool { return "links/"+l.Pin == pin }); i >= 0 && s.links[i].state == nil {
				continue // of the link that is gone with it there is more to say
			}
			g.takenAway(s, "pin %s was removed", pin)
		}
	}
	rebuild := len(s.lost) > 0
	for _, m := range r.Maps {
		// Its programs went with its last pin, if that was the last.
		rebuild = rebuild || m.Type == programArray && s.unpinned(m) && !slices.Contains(s.filled, m.Name)
	}
	if g.left && rebuild {
		return false
	}
	for _, what := range s.lost {
		g.mend("%s is gone from the kernel", what)
	}
	g.rebuild = rebuild
	return true
}

// link decides on one link of the record, which lives at moved if that is not
// zero.
func (g *diagnosis) link(r pinning.RecordLink, l linkSight, s sight, moved loader.Target) {
	keep := linkStep{was: r.Name, target: l.target, repin: s.gone || slices.Contains(s.missing, "links/"+r.Pin)}
	absent := l.err != nil
	switch {
	case (l.state == nil || !l.state.Alive()) && absent && l.pattern && g.hasAnother(l, s):
		g.mend("link %s: %v any more", r.Name, l.err)
	case absent && l.state == nil:
		g.stays("link %s is gone: %v", r.Name, l.err)
		g.without(keep)
	case l.state == nil && keep.repin && !s.gone:
		g.anew(l, s, keep, !l.idle, "link %s is gone: its pin was removed", r.Name)
	case l.state == nil:
		g.anew(l, s, keep, !l.idle, "link %s is gone", r.Name)
	case !l.state.Alive() && absent:
		g.stays("link %s is at nothing: %v", r.Name, l.err)
		g.links = append(g.links, keep)
	case !l.state.Alive() && reflect.DeepEqual(l.now, l.target) && !l.idle:
		g.anew(l, s, keep, true, "link %s was detached", r.Name)
	case !l.state.Alive():
		g.anew(l, s, keep, false, "link %s: %s was made anew", r.Name, l.now)
	case moved.Link != "":
		g.mend("link %s: interface %s is called %s now", r.Name, l.target.Interface, moved.Interface)
		keep.target = moved
		g.keep(r, l, s, keep)
	case absent:
		g.absent(r, l, s, keep)
	case !l.state.At(l.now), l.elsewhere, l.now.NetnsInode != l.target.NetnsInode, !placed(l) && !reflect.DeepEqual(l.now, l.target):
		g.anew(l, s, keep, false, "link %s: %s is another one now", r.Name, l.now)
	default:
		if !reflect.DeepEqual(l.now, l.target) {
			g.mend("link %s: %s has another number now", r.Name, l.now)
			keep.target = l.now
		}
		g.keep(r, l, s, keep)
	}
}

// without notes that the collection is without a link for now.
func (g *diagnosis) without(k linkStep) {
	k.repin, k.absent = false, true
	g.links = append(g.links, k)
}

// placed says whether the kernel tells where the link is, so that its place can
// be compared and not only what its name leads to.
func placed(l linkSight) bool {
	other := l.target
	other.Ifindex, other.CgroupID, other.NetnsInode = -1, 0, 0
	return !l.state.At(other)
}

// keep lets a link stay that is where it should be.
func (g *diagnosis) keep(r pinning.RecordLink, l linkSight, s sight, k linkStep) {
	if uint32(l.state.ProgramID) != r.ProgramID {
		k.back = g.takenAway(s, "link %s runs program %d, not %d", r.Name, l.state.ProgramID, r.ProgramID)
	}
	g.links = append(g.links, k)
}

// absent lets a link stay that is alive although its name leads nowhere: what it
// is at was renamed, or moved into another namespace.
func (g *diagnosis) absent(r pinning.RecordLink, l linkSight, s sight, k linkStep) {
	if l.renamed != "" {
		g.stays("link %s: interface %s is called %s now, and runs the program still", r.Name, l.target.Interface, l.renamed)
	} else {
		g.stays("link %s: runs still, but %v", r.Name, l.err)
	}
	g.keep(r, l, s, k)
}

// anew makes the link anew that k would keep. Where nothing can be attached, the
// record keeps the old one, with its pin if the kernel has it, or forgets it if its
// pattern brings it back.
func (g *diagnosis) anew(l linkSight, s sight, k linkStep, taken bool, format string, args ...any) {
	if slices.ContainsFunc(g.at, func(t loader.Target) bool { return t.Link != "" && t.Link == l.now.Link }) {
		g.mend(format, args...) // another link has come to be there
		return
	}
	err := s.busy[spotOf(l.now)]
	switch {
	case err != nil:
		g.cannot(err, format, args...)
	case !taken:
		g.mend(format, args...)
	}
	if err == nil && (!taken || g.takenAway(s, format, args...)) {
		g.links = append(g.links, linkStep{gone: k.was, target: l.now})
		return
	}
	g.out = append(g.out, l.now.Link)
	switch {
	case l.state != nil:
		g.links = append(g.links, k)
	case err == nil || !l.pattern || !g.hasAnother(l, s):
		g.without(k)
	}
}

// cannot notes what is not repaired because of err.
func (g *diagnosis) cannot(err error, format string, args ...any) {
	g.stays("%s: not repaired: %v", fmt.Sprintf(format, args...), err)
	g.hint = remedy.Of(err)
}

// hasAnother says whether the pattern that l came of has a link beside it that
// stays, so that the record can do without this one and still knows the pattern.
func (g *diagnosis) hasAnother(l linkSight, s sight) bool {
	return slices.ContainsFunc(s.links, func(o linkSight) bool {
		return o.pattern && o.err == nil && o.state != nil && like(o.target, l.target)
	})
}

// spread attaches to the interfaces that have come under a pattern.
func (g *diagnosis) spread(s sight) {
	for _, t := range s.spread {
		if slices.ContainsFunc(g.links, func(l linkStep) bool { return l.target.Link == t.Link }) || slices.Contains(g.out, t.Link) {
			continue
		}
		if err := s.busy[spotOf(t)]; err != nil {
			g.cannot(err, "%s has come", t)
			continue
		}
		g.mend("%s has come", t)
		g.links = append(g.links, linkStep{target: t})
	}
}

// absentTarget says whether err is about a target that may still come.
func absentTarget(err error) bool { return errors.Is(err, loader.ErrAbsent) }
