package daemon

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sidelined is a change that gives the turn away until it is let back.
type sidelined struct {
	back   func()
	result chan error
	alone  bool
}

// sideline begins one, and returns when it is aside. It does then when it has the turn
// back.
func sideline(o *owner, uid uint32, name string, then func()) *sidelined {
	aside, end := make(chan struct{}), make(chan struct{})
	s := &sidelined{back: sync.OnceFunc(func() { close(end) }), result: make(chan error, 1)}
	go func() {
		s.result <- o.doFor(errand{uid: uid, name: name, away: true}, func() {}, func() error {
			s.alone = o.aside(func() { close(aside); <-end })
			then()
			return errors.New("done")
		})
	}()
	<-aside
	return s
}

// queued begins a change and returns when it waits.
func queued(t *testing.T, o *owner, e errand, change func()) (done chan error) {
	t.Helper()
	done = make(chan error, 1)
	n := o.waiting()
	go func() {
		done <- o.doFor(e, func() {}, func() error { change(); return nil })
	}()
	for o.waiting() != n+1 {
		time.Sleep(100 * time.Microsecond)
	}
	return done
}

// TestAside: while a change is aside others have their turn, but none of its name, and no
// more are aside than may be; then it has the turn before all that waits.
func TestAside(t *testing.T) {
	o := newOwner(10, verifierJobs{1, 2})
	t.Cleanup(o.stop)
	var mu sync.Mutex
	var ran []string
	runs := func(what string) func() {
		return func() {
			mu.Lock()
			defer mu.Unlock()
			ran = append(ran, what)
		}
	}
	first := sideline(o, 5, "a", runs("first"))
	if n := o.away(); n[5] != 1 || len(n) != 1 {
		t.Errorf("away: %v", n)
	}
	// Root, another user, and another change of the same one, which does not go aside.
	for _, e := range []errand{{uid: 0, name: "a"}, {uid: 6, name: "b"}, {uid: 5, name: "b"}} {
		if err := o.doFor(e, func() {}, func() error { return nil }); err != nil {
			t.Error(err)
		}
	}
	same := queued(t, o, errand{uid: 6, name: "a"}, runs("same name"))
	own := queued(t, o, errand{uid: 5, name: "c", away: true}, runs("one more of 5"))
	behind := queued(t, o, errand{uid: 5, name: "c"}, runs("behind that, of the same name"))
	second := sideline(o, 7, "d", runs("second"))
	third := queued(t, o, errand{uid: 8, name: "e", away: true}, runs("one more of all"))
	if n := o.away(); n[5] != 1 || n[7] != 1 || len(n) != 2 {
		t.Errorf("away: %v", n)
	}

	begun, end := make(chan struct{}), make(chan struct{})
	turn := make(chan error, 1)
	go func() { turn <- o.do(func() error { close(begun); <-end; return nil }) }()
	<-begun
	root := queued(t, o, errand{}, runs("root"))
	first.back()
	for o.returning() != 1 {
		time.Sleep(100 * time.Microsecond)
	}
	close(end)
	if err := <-turn; err != nil {
		t.Error(err)
	}
	if err := <-first.result; err == nil || err.Error() != "done" || first.alone {
		t.Errorf("%v, alone %t", err, first.alone)
	}
	for _, done := range []chan error{root, same, own, behind, third} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	second.back()
	if err := <-second.result; err == nil || second.alone {
		t.Errorf("%v, alone %t", err, second.alone)
	}
	if i, j := slices.Index(ran, "one more of 5"), slices.Index(ran, "behind that, of the same name"); ran[0] != "first" || ran[1] != "root" || i < 0 || j < i || len(ran) != 7 {
		t.Errorf("in this order: %q", ran)
	}
	last := sideline(o, 5, "a", func() {})
	last.back()
	if err := <-last.result; err == nil || !last.alone {
		t.Errorf("%v, alone %t", err, last.alone)
	}
	if diff := cmp.Diff(map[uint32]uint64{}, o.away()); diff != "" || len(o.changes()) != 0 {
		t.Errorf("when all is done: %s, %v", diff, o.changes())
	}
}

// returning is how many threads wait to have the turn back.
func (o *owner) returning() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.back
}
