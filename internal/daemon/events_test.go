package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
)

const eventsKept = 100

func seqs(events []api.Event) (out []uint64) {
	for _, e := range events {
		out = append(out, e.Seq)
	}
	return out
}

func TestStreamResumes(t *testing.T) {
	s := newStream(time.UnixMilli(5), eventsKept)
	for range 3 {
		s.publish(api.Event{Kind: api.EventLoaded})
	}
	all, _ := s.after(0)
	if len(all) != 3 || all[0].Seq != 5001 {
		t.Fatalf("after(0) = %v", seqs(all))
	}
	rest, _ := s.after(all[1].Seq)
	if len(rest) != 1 || rest[0].Seq != all[2].Seq {
		t.Errorf("after(%d) = %v", all[1].Seq, seqs(rest))
	}
	if none, _ := s.after(all[2].Seq); len(none) != 0 {
		t.Errorf("after the last = %v", seqs(none))
	}
}

func TestStreamSaysWhatIsLost(t *testing.T) {
	s := newStream(time.UnixMilli(5), eventsKept)
	for range eventsKept + 10 {
		s.publish(api.Event{Kind: api.EventLoaded})
	}
	got, _ := s.after(5001)
	if len(got) != eventsKept+1 || got[0].Kind != api.EventLost {
		t.Fatalf("%d events, the first %q; want %d and a lost one before them", len(got), got[0].Kind, eventsKept)
	}
	if want := got[1].Seq - 5001 - 1; got[0].Lost != want || want != 9 {
		t.Errorf("%d lost, want %d", got[0].Lost, want)
	}
	if got[0].Seq+1 != got[1].Seq {
		t.Errorf("resuming from the lost event's %d skips to %d", got[0].Seq, got[1].Seq)
	}
	if whole, _ := s.after(0); whole[0].Kind == api.EventLost {
		t.Error("who asks for everything there is has lost nothing")
	}
}

// A client of the daemon before does not see silence where something is gone,
// wherever the clock was meanwhile.
func TestStreamAfterAnotherDaemons(t *testing.T) {
	for _, seen := range []uint64{4_999, 9_000_001} {
		s := newStream(time.UnixMilli(5), eventsKept)
		none, _ := s.after(seen)
		if ahead := seen > s.seq; len(none) == 1 != ahead || ahead && (none[0].Kind != api.EventLost || none[0].Seq != 5000) {
			t.Errorf("since %d, when nothing has happened: %+v", seen, none)
		}
		s.publish(api.Event{Kind: api.EventStarted})
		s.publish(api.Event{Kind: api.EventLoaded})
		got, _ := s.after(seen)
		if len(got) != 3 || got[0].Kind != api.EventLost || got[0].Lost != 0 || got[0].Seq != 5000 || got[1].Kind != api.EventStarted {
			t.Errorf("since %d: %+v", seen, got)
		}
		if rest, _ := s.after(got[0].Seq); len(rest) != 2 || rest[0].Kind != api.EventStarted {
			t.Errorf("from the lost one on: %+v", rest)
		}
	}
}

// Whoever only waits for the next event copies none of those that are kept, under a lock
// for which who publishes waits.
func TestStreamChanged(t *testing.T) {
	s := newStream(time.UnixMilli(5), eventsKept)
	for range eventsKept {
		s.publish(api.Event{Kind: api.EventLoaded})
	}
	c := s.changed()
	if closed(c) {
		t.Error("changed before anything has")
	}
	s.publish(api.Event{Kind: api.EventLoaded})
	if !closed(c) || closed(s.changed()) {
		t.Error("an event is no change, or is one for ever")
	}
	if n := testing.AllocsPerRun(10, func() { s.changed() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFollowDeliversWhatComesLater(t *testing.T) {
	s := newStream(time.Now(), eventsKept)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	got := make(chan api.Event)
	ended := make(chan error, 1)
	go func() {
		ended <- s.follow(ctx, 0, func(e api.Event) error { got <- e; return nil })
	}()
	for _, kind := range []api.EventKind{api.EventLoaded, api.EventUnloaded} {
		s.publish(api.Event{Kind: kind})
		if e := <-got; e.Kind != kind {
			t.Errorf("got %q, want %q", e.Kind, kind)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("follow ended with %v", err)
	}
}
