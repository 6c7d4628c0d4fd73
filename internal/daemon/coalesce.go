package daemon

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/audit"
)

// coalesceFor is how long refusals of one caller, verb and kind are counted
// instead of written one by one.
const coalesceFor = time.Minute

// coalesceKeys bounds how many counts are kept; beyond it all callers share
// one.
const coalesceKeys = 4096

// coalescer keeps a caller who is refused over and over from filling the
// audit log: the first refusal is written at once, the rest of that minute as
// one record with their number.
type coalescer struct {
	d *Daemon

	mu     sync.Mutex
	counts map[refusalKey]*refusals
}

type refusalKey struct {
	uid        uint32
	verb, kind string
	mapName    string // of a read
}

type refusals struct {
	last  audit.Record
	more  int // after the first
	wrote int // entries, of writes
	timer *time.Timer
}

func newCoalescer(d *Daemon) *coalescer {
	return &coalescer{d: d, counts: make(map[refusalKey]*refusals)}
}

// first reports whether rec must be written now. Otherwise it is counted.
func (c *coalescer) first(rec audit.Record) bool {
	if rec.Caller.UID == 0 {
		return true // root is not held back from its own disk
	}
	return c.count(refusalKey{rec.Caller.UID, rec.Verb, rec.Kind, ""}, rec)
}

// firstRead is first for handing out the contents of a map and for writing it,
// for root too.
func (c *coalescer) firstRead(rec audit.Record, mapName string) bool {
	return c.count(refusalKey{rec.Caller.UID, rec.Verb, rec.Collection, mapName}, rec)
}

// wrote adds how a write ended that firstRead has counted.
func (c *coalescer) wrote(rec audit.Record, mapName string, entries int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range []refusalKey{{rec.Caller.UID, rec.Verb, rec.Collection, mapName}, {verb: "many"}} {
		if r, ok := c.counts[key]; ok {
			r.last = rec
			r.wrote += entries
			return
		}
	}
}

func (c *coalescer) count(key refusalKey, rec audit.Record) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.counts[key]; !ok && len(c.counts) >= coalesceKeys {
		key = refusalKey{verb: "many"}
	}
	if r, ok := c.counts[key]; ok {
		r.last = rec
		r.more++
		return false
	}
	c.counts[key] = &refusals{timer: time.AfterFunc(coalesceFor, func() { c.flush(key) })}
	return true
}

// flush writes the count of one minute.
func (c *coalescer) flush(key refusalKey) {
	c.mu.Lock()
	r, ok := c.counts[key]
	delete(c.counts, key)
	c.mu.Unlock()
	if !ok || r.more == 0 {
		return
	}
	rec := r.last
	if rec.Verb == verbWrite {
		rec.Reason = fmt.Sprintf("%s: %d entries", rec.Reason, r.wrote)
	}
	if rec.Error == "" {
		rec.Error = "none"
	}
	rec.Error = fmt.Sprintf("%d more of this kind within a minute; the error of the last: %s", r.more, rec.Error)
	if _, err := c.d.audit.Append(rec); err != nil {
		c.d.log.Error("audit record", zap.Error(err))
	}
}

// stop writes all counts.
func (c *coalescer) stop() {
	c.mu.Lock()
	keys := make([]refusalKey, 0, len(c.counts))
	for key, r := range c.counts {
		r.timer.Stop()
		keys = append(keys, key)
	}
	c.mu.Unlock()
	for _, key := range keys {
		c.flush(key)
	}
}
