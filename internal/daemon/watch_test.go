package daemon

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
)

// TestHeart: the watchdog is not fed while a change, a verification or a look does not get on, and
// waiting for the other loop is no fault of either.
func TestHeart(t *testing.T) {
	d := &Daemon{owner: newOwner(4, verifierJobs{1, 2})}
	defer d.owner.stop()
	w := &watcher{d: d, done: make(chan struct{})}
	var last Beat
	beats := func() (ok bool) {
		last, ok = d.Heart(last)
		return ok
	}
	if !beats() {
		t.Error("before there is a watcher")
	}
	d.watcher.Store(w)
	if !beats() {
		t.Error("idle")
	}
	w.busy.Store(true)
	if beats(); beats() {
		t.Error("a look that hangs")
	}
	if w.beats.Add(1); !beats() {
		t.Error("a look that gets on")
	}
	err := w.do(func() error {
		if d.owner.beat(); !beats() {
			t.Error("waits for a change that gets on")
		}
		if beats() {
			t.Error("a change that hangs")
		}
		return nil
	})
	if !beats() || err != nil {
		t.Error("behind the change", err)
	}
	if beats() {
		t.Error("a look that hangs behind the change")
	}
	w.busy.Store(false)
	v := &verification{}
	v.busy.Store(true)
	d.verifying = map[string]*verification{"x": v}
	if !beats() || beats() {
		t.Error("a verification that hangs")
	}
	if v.beats.Add(1); !beats() {
		t.Error("a verification that gets on")
	}
	if v.busy.Store(false); !beats() {
		t.Error("one that waits for the turn")
	}
	if w.wait(10*time.Millisecond) == nil {
		t.Error("a look that hangs is over")
	}
	close(w.done)
	if err := w.wait(time.Minute); err != nil {
		t.Error(err)
	}
}

// TestSeenToGo: a link whose target was seen to be gone was taken away by nobody,
// though the kernel let go of it only later.
func TestSeenToGo(t *testing.T) {
	_, gone := loader.NewView().Again(loader.Target{Kind: "netns", Netns: filepath.Join(t.TempDir(), "none")})
	if !absentTarget(gone) {
		t.Fatal(gone)
	}
	w := &watcher{idle: map[uint32]bool{}, known: map[string]known{}}
	c := &collection{record: pinning.Record{Name: "x", Links: []pinning.RecordLink{{ID: 1}, {ID: 2}, {ID: 3}}}}
	w.remember(c, known{}, sight{links: []linkSight{{state: stateAt(2), err: gone}, {state: stateAt(0), err: gone}, {state: stateAt(0)}}})
	if !w.idle[1] || !w.idle[2] || w.idle[3] {
		t.Errorf("%v", w.idle)
	}
}
