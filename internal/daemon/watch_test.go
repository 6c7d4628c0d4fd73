package daemon

import (
	"testing"
	"time"
)

// TestHeart: the watchdog is not fed while a change or a look does not get on, and
// waiting for the other loop is no fault of either.
func TestHeart(t *testing.T) {
	d := &Daemon{owner: newOwner(4)}
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
	if w.wait(10*time.Millisecond) == nil {
		t.Error("a look that hangs is over")
	}
	close(w.done)
	if err := w.wait(time.Minute); err != nil {
		t.Error(err)
	}
}
