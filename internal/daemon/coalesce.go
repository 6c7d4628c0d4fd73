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

// How many counts are kept of one user, and of all. What is beyond: refusals of a
// user, or of all, share one count; whatever else is written each time.
const (
	coalesceKeys    = 512
	coalesceKeysAll = 16384
)

// verbMany is of what shares a count; ofAll is that of all users.
const verbMany = "many"

var ofAll = refusalKey{uid: overflowID, verb: verbMany}

// coalescer keeps a caller who is refused over and over from filling the
// audit log: the first refusal is written at once, the rest of that minute as
// one record with their number.
type coalescer struct {
	d *Daemon

	mu     sync.Mutex
	counts map[refusalKey]*refusals
	uids   map[uint32]int // how many of counts are whose
}

type refusalKey struct {
	uid        uint32
	verb, kind string
	mapName    string // of a read or a write
}

type refusals struct {
	last  audit.Record
	more  int // after the first
	wrote int // entries, of writes
	timer *time.Timer

	pending chan struct{} // closed, and nil then, once it is known whether the first is on record
}

func newCoalescer(d *Daemon) *coalescer {
	return &coalescer{d: d, counts: make(map[refusalKey]*refusals), uids: make(map[uint32]int)}
}

// first reports whether rec must be written now. Otherwise it is counted.
func (c *coalescer) first(rec audit.Record) bool {
	if rec.Caller.UID == 0 {
		return true // root is not held back from its own disk
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	uid := rec.Caller.UID
	for _, key := range []refusalKey{{uid: uid, verb: rec.Verb, kind: rec.Kind}, {uid: uid, verb: verbMany}, ofAll} {
		if r := c.counts[key]; r != nil {
			r.last = rec
			r.more++
			return false
		}
		if c.begin(key) != nil {
			return true
		}
	}
	return true
}

// settleFirst is called once with whether the first record of a count got on record, which
// all wait for that it would stand for.
type settleFirst func(recorded bool)

// firstRead is first for handing out the contents of a map, for root too: the result is not
// nil where rec must be written now. Where it is nil the first of this minute is on
// record, and this one is counted.
func (c *coalescer) firstRead(rec audit.Record, mapName string) settleFirst {
	return c.claim(handOutKey(rec, mapName), func(r *refusals) {
		r.last = rec
		r.more++
	})
}

// firstWrite is first for writing a map. Where it says no, wrote counts.
func (c *coalescer) firstWrite(rec audit.Record, mapName string) settleFirst {
	return c.claim(handOutKey(rec, mapName), func(*refusals) {})
}

// claim begins a count, or has an earlier one count.
func (c *coalescer) claim(key refusalKey, count func(*refusals)) settleFirst {
	for {
		c.mu.Lock()
		r := c.counts[key]
		switch {
		case r == nil:
			r := c.begin(key)
			if r != nil {
				r.pending = make(chan struct{})
			}
			c.mu.Unlock()
			return func(recorded bool) { c.settle(key, r, recorded) }
		case r.pending == nil:
			count(r)
			c.mu.Unlock()
			return nil
		}
		pending := r.pending
		c.mu.Unlock()
		<-pending
	}
}

// settle ends a count whose first one did not get on record, and lets those go on that
// wait to know. r is nil where there was no room for a count.
func (c *coalescer) settle(key refusalKey, r *refusals, recorded bool) {
	if r == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !recorded && c.counts[key] == r { // its minute may be over
		r.timer.Stop()
		c.forgetLocked(key)
	}
	close(r.pending)
	r.pending = nil
}

// wrote counts a write that has ended, and reports whether it could: the minute
// in which it began may be over.
func (c *coalescer) wrote(rec audit.Record, mapName string, entries int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.counts[handOutKey(rec, mapName)]
	if r == nil {
		return false
	}
	r.last = rec
	r.more++
	r.wrote += entries
	return true
}

func (c *coalescer) forgetLocked(key refusalKey) {
	delete(c.counts, key)
	if c.uids[key.uid]--; c.uids[key.uid] == 0 {
		delete(c.uids, key.uid)
	}
}

func handOutKey(rec audit.Record, mapName string) refusalKey {
	return refusalKey{rec.Caller.UID, rec.Verb, rec.Collection, mapName}
}

// begin begins a count where there is room for one more, else it returns nil.
func (c *coalescer) begin(key refusalKey) *refusals {
	switch {
	case key == ofAll:
	case len(c.counts) >= coalesceKeysAll, key.verb != verbMany && c.uids[key.uid] >= coalesceKeys:
		return nil
	}
	r := &refusals{timer: time.AfterFunc(coalesceFor, func() { c.flush(key) })}
	c.counts[key] = r
	c.uids[key.uid]++
	return r
}

// flush writes the count of one minute.
func (c *coalescer) flush(key refusalKey) {
	c.mu.Lock()
	r, ok := c.counts[key]
	if ok {
		c.forgetLocked(key)
	}
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
	kind := "this kind"
	if key.verb == verbMany {
		kind = "several kinds"
	}
	rec.Error = fmt.Sprintf("%d more of %s within a minute; the error of the last: %s", r.more, kind, rec.Error)
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
