package daemon

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hornetd/hornetd/api"
)

// stream is a ring of the last events and those who wait for the next one.
type stream struct {
	begin uint64 // no event of this daemon has a number up to this one
	kept  int    // events, so far back a client can resume; the audit log holds everything

	mu   sync.Mutex
	seq  uint64        // of the last event
	ring []api.Event   // oldest first, at most kept
	next chan struct{} // closed when an event arrives, then replaced
}

// newStream returns a stream whose numbers are above those of every daemon
// started before, so that a client can resume over a restart: they count from
// the start time, and no daemon makes a thousand events in a millisecond.
func newStream(started time.Time, kept int) *stream {
	begin := uint64(started.UnixMilli()) * 1000
	return &stream{begin: begin, kept: kept, seq: begin, next: make(chan struct{})}
}

// publish appends e. A slow reader never holds it up: readers come and fetch.
func (s *stream) publish(e api.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	e.Seq = s.seq
	if len(s.ring) == s.kept {
		copy(s.ring, s.ring[1:])
		s.ring = s.ring[:s.kept-1]
	}
	s.ring = append(s.ring, e)
	close(s.next)
	s.next = make(chan struct{})
}

// has is how many events it keeps now.
func (s *stream) has() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ring)
}

// after returns the events with a sequence number above seq, and a channel
// that is closed when there may be more. Where events after a seq that a
// client has seen are gone, the first one says so, and how many where both are
// this daemon's. A seq that is still to come is another daemon's, whose clock
// was ahead: what that one told is gone, and all there is is new.
func (s *stream) after(seq uint64) ([]api.Event, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ahead := seq > s.seq
	i := len(s.ring)
	for i > 0 && (ahead || s.ring[i-1].Seq > seq) {
		i--
	}
	var out []api.Event
	if ahead || i == 0 && seq > 0 && len(s.ring) > 0 && s.ring[0].Seq > seq+1 {
		lost := api.Event{Seq: s.seq, Time: time.Now(), Kind: api.EventLost, Message: "events before this one are only in the audit log"}
		if len(s.ring) > 0 {
			lost.Seq, lost.Time = s.ring[0].Seq-1, s.ring[0].Time
		}
		if !ahead && seq >= s.begin {
			lost.Lost = lost.Seq - seq
			lost.Message = fmt.Sprintf("%d events before this one are only in the audit log", lost.Lost)
		}
		out = append(out, lost)
	}
	return append(out, s.ring[i:]...), s.next
}

// changed returns a channel that is closed with the next event.
func (s *stream) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// follow calls fn for each event above seq until ctx ends or fn fails.
func (s *stream) follow(ctx context.Context, seq uint64, fn func(api.Event) error) error {
	for {
		events, more := s.after(seq)
		for _, e := range events {
			if err := fn(e); err != nil {
				return err
			}
			seq = e.Seq
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
