package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/api"
)

// held is an owner whose thread a job holds until release is called.
func heldOwner(t *testing.T, perUser int) (o *owner, release func()) {
	t.Helper()
	o = newOwner(perUser, verifierJobs{1, 2})
	t.Cleanup(o.stop)
	begun, end := make(chan struct{}), make(chan struct{})
	go o.do(func() error {
		close(begun)
		<-end
		return nil
	})
	<-begun
	return o, sync.OnceFunc(func() { close(end) })
}

// waiting is how many jobs wait.
func (o *owner) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.first)
	for _, q := range o.users {
		n += len(q.jobs)
	}
	return n
}

// queueUp queues jobs of the users in this order, each once the one before is
// there, and returns in which order they ran.
func queueUp(t *testing.T, o *owner, release func(), uids ...uint32) []string {
	t.Helper()
	var mu sync.Mutex
	var ran []string
	var wait sync.WaitGroup
	for i, uid := range uids {
		wait.Go(func() {
			o.doFor(errand{uid: uid}, func() {}, func() error {
				mu.Lock()
				defer mu.Unlock()
				ran = append(ran, fmt.Sprintf("%d:%d", uid, i))
				return nil
			})
		})
		for o.waiting() != i+1 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	release()
	wait.Wait()
	return ran
}

// TestTurns: root first, then one of each user's in turn, each user's in order.
func TestTurns(t *testing.T) {
	o, release := heldOwner(t, 10)
	got := queueUp(t, o, release, 7, 7, 7, 7, 8, 8, 9, 0, 7, 0)
	want := []string{"0:7", "0:9", "7:0", "8:4", "9:6", "7:1", "8:5", "7:2", "7:3", "7:8"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c := o.changes(); len(c) != 0 {
		t.Errorf("counted when all is done: %v", c)
	}
}

// TestOneUserTooMany: what runs counts too, and root is not counted.
func TestOneUserTooMany(t *testing.T) {
	o := newOwner(2, verifierJobs{1, 2})
	t.Cleanup(o.stop)
	begun, end := make(chan struct{}), make(chan struct{})
	results := make(chan error, 2)
	go func() {
		results <- o.doFor(errand{uid: 5}, func() {}, func() error { close(begun); <-end; return errors.New("ran") })
	}()
	<-begun
	go func() { results <- o.doFor(errand{uid: 5}, func() {}, func() error { return errors.New("ran") }) }()
	for o.waiting() != 1 {
		time.Sleep(100 * time.Microsecond)
	}
	err := o.doFor(errand{uid: 5}, func() {}, func() error { t.Error("ran"); return nil })
	if e := asAPIError(err); err == nil || e.Kind != api.KindLimit || e.Hint == "" {
		t.Errorf("one too many: %v", err)
	}
	if got := o.changes()[5]; got != 2 {
		t.Errorf("%d counted", got)
	}
	var ran []string
	var wait sync.WaitGroup
	for _, uid := range []uint32{6, 0, 0, 0} {
		wait.Go(func() {
			o.doFor(errand{uid: uid}, func() {}, func() error { ran = append(ran, fmt.Sprint(uid)); return nil })
		})
	}
	for o.waiting() != 5 {
		time.Sleep(100 * time.Microsecond)
	}
	close(end)
	wait.Wait()
	for range 2 {
		if err := <-results; err == nil || err.Error() != "ran" {
			t.Errorf("result %v", err)
		}
	}
	slices.Sort(ran)
	if diff := cmp.Diff([]string{"0", "0", "0", "6"}, ran); diff != "" {
		t.Error(diff)
	}
	if err := o.doFor(errand{uid: 5}, func() {}, func() error { return nil }); err != nil {
		t.Errorf("when all is done: %v", err)
	}
}

// TestWaitingWhenItStops: what waits is told so at once, what runs ends.
func TestWaitingWhenItStops(t *testing.T) {
	o, release := heldOwner(t, 10)
	results := make(chan error)
	for _, uid := range []uint32{0, 5, 5, 6} {
		go func() { results <- o.doFor(errand{uid: uid}, func() {}, func() error { t.Error("ran"); return nil }) }()
	}
	for o.waiting() != 4 {
		time.Sleep(100 * time.Microsecond)
	}
	o.interrupt()
	for range 4 { // while the first still runs
		if err := <-results; !errors.Is(err, errStopped) {
			t.Errorf("%v, want %v", err, errStopped)
		}
	}
	if n, c := o.waiting(), o.changes(); n != 0 || len(c) != 0 {
		t.Errorf("%d wait, counted %v", n, c)
	}
	release()
	o.stop()
	if err := o.do(func() error { t.Error("ran"); return nil }); !errors.Is(err, errStopped) {
		t.Errorf("after the end: %v", err)
	}
}

// A job that the kernel takes long for gets on, and not for ever.
func TestLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o owner
		err := o.lasts(10*time.Second, func() error {
			time.Sleep(time.Minute)
			return os.ErrDeadlineExceeded
		})
		synctest.Wait()
		if n := o.beats.Load(); !errors.Is(err, os.ErrDeadlineExceeded) || n < 9 || n > 10 {
			t.Errorf("%d beats, %v, want 9 or 10, and what the job says", n, err)
		}
	})
}
