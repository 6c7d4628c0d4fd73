package daemon

import (
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
	if !m.repaired && !absentTarget(err) { // not because the target went again
		limit = longestWait
	}
	p.pause, p.last = min(max(2*p.pause, firstPause), limit), now
	if m.repaired && m.taken {
		p.taken = append(slices.Clone(p.taken), now)
	}
	return p
}
