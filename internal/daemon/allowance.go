package daemon

import (
	"fmt"
	"sync"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/policy"
)

// allowance bounds how fast each user, not root, fills the audit log with what they may
// do: a token bucket. Of a user it keeps the time at which their bucket is full again,
// and nothing once it is.
type allowance struct {
	burst int           // at once
	every time.Duration // one more

	mu    sync.Mutex
	full  map[uint32]time.Time
	sweep int // how large full may get before it is looked for what is over
}

// fewest is how many users are kept without a look.
const fewest = 64

func newAllowance(burst, perMinute int) *allowance {
	return &allowance{burst: burst, every: time.Minute / time.Duration(perMinute), full: make(map[uint32]time.Time), sweep: fewest}
}

// take counts one thing of a user's that is going on record, or refuses it.
func (a *allowance) take(uid uint32, now time.Time) error {
	if uid == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	full := a.full[uid]
	if full.Before(now) {
		full = now
	}
	full = full.Add(a.every)
	if wait := full.Sub(now) - time.Duration(a.burst)*a.every; wait > 0 {
		return remedy.With(fmt.Errorf("uid %d: %d of theirs went on record, faster than one every %s: %w", uid, a.burst, a.every, policy.ErrLimit),
			"come back in %s, or have an administrator raise [api] recorded_per_minute or recorded_burst in hornetd.toml", max(wait.Round(time.Second), time.Second))
	}
	a.full[uid] = full
	if len(a.full) > a.sweep {
		a.sweepLocked(now)
	}
	return nil
}

func (a *allowance) sweepLocked(now time.Time) {
	for uid, full := range a.full {
		if !full.After(now) {
			delete(a.full, uid)
		}
	}
	a.sweep = max(fewest, 2*len(a.full))
}

// used is how much of the burst each user has used up.
func (a *allowance) used(now time.Time) map[uint32]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	used := make(map[uint32]int)
	for uid, full := range a.full {
		if left := full.Sub(now); left > 0 {
			used[uid] = int((left + a.every - 1) / a.every)
		}
	}
	return used
}
