package daemon

import (
	"maps"
	"slices"
	"time"
)

// How often one collection is repaired. What changed by itself (an interface
// that comes and goes) is repaired for ever, but slower while it goes on; what
// somebody takes away again and again is given up, so that two tools that want
// the same place do not fight over it for ever.
const (
	calmAfter   = 10 * time.Second       // without a repair: the next one waits for nothing
	firstPause  = 100 * time.Millisecond // between two repairs; doubles
	longestPace = 2 * time.Second        // while they work
	longestWait = time.Minute            // while they fail
	longestSpot = time.Hour              // while one link cannot be attached, beside what can
	fightLimit  = 6                      // repairs of what was taken away
	fightWindow = 10 * time.Minute       // within this time
)

// patience is what is remembered of the repairs of one collection. The zero
// value is that of one which was never repaired.
type patience struct {
	last  time.Time     // repair or attempt
	pause time.Duration // since then, until the next one
	taken []time.Time   // repairs of what was taken away, within fightWindow
	over  bool          // of what is taken away nothing is repaired any more, until somebody reloads
	stuck map[spot]stuck
}

// stuck is why nothing could be attached to one place, and when it is tried again.
type stuck struct {
	err   error
	pause time.Duration
	until time.Time
}

// due says whether what could not be attached is to be tried again.
func (p patience) due(now time.Time) bool {
	for _, s := range p.stuck {
		if !now.Before(s.until) {
			return true
		}
	}
	return false
}

// forgets returns p without what is due: it was tried, or there is no need to.
func (p patience) forgets(now time.Time) patience {
	p.stuck = maps.Clone(p.stuck)
	maps.DeleteFunc(p.stuck, func(_ spot, s stuck) bool { return !now.Before(s.until) })
	return p
}

// barred is where it is too soon to try again.
func (p patience) barred(now time.Time) map[spot]error {
	all := map[spot]error{}
	for at, s := range p.stuck {
		if now.Before(s.until) {
			all[at] = s.err
		}
	}
	return all
}

// ready reports whether a repair may be tried at now. taken says whether it is
// of something that was taken away.
func (p patience) ready(now time.Time, taken bool) bool {
	return !now.Before(p.last.Add(p.pause)) && !(taken && p.over)
}

// fights returns p with over set, if what was taken away at now was repaired too
// often.
func (p patience) fights(now time.Time) patience {
	p.taken = slices.DeleteFunc(slices.Clone(p.taken), func(t time.Time) bool { return now.Sub(t) >= fightWindow })
	p.over = p.over || len(p.taken) >= fightLimit
	return p
}

// after is the patience after a repair that ended at now, or failed.
func (p patience) after(now time.Time, m mended, err error) patience {
	if m.repaired && now.Sub(p.last) > calmAfter {
		p.pause = 0
	}
	limit := longestPace
	// Not because the target went again, nor for a link that others do without.
	if err != nil && (!absentTarget(err) || m.blind) && len(m.failed) == 0 {
		limit = longestWait
	}
	was := p.stuck
	p = p.forgets(now)
	if p.stuck == nil {
		p.stuck = map[spot]stuck{}
	}
	for at, err := range m.failed {
		pause := min(max(2*was[at].pause, firstPause), longestSpot)
		p.stuck[at] = stuck{err, pause, now.Add(pause)}
	}
	p.pause, p.last = min(max(2*p.pause, firstPause), limit), now
	if m.repaired && m.taken {
		p.taken = append(slices.Clone(p.taken), now)
	}
	return p
}
