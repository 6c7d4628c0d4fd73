package daemon

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/policy"
)

func TestAllowance(t *testing.T) {
	a := newAllowance(3, 30) // one every two seconds
	now := time.Now()
	takes := func(uid uint32, n int) {
		t.Helper()
		for i := range n {
			if err := a.take(uid, now); err != nil {
				t.Fatalf("%d of %d: %v", i, n, err)
			}
		}
	}
	refused := func(uid uint32, wait string) {
		t.Helper()
		if err := a.take(uid, now); !errors.Is(err, policy.ErrLimit) || !strings.Contains(remedy.Of(err), "come back in "+wait+", ") {
			t.Errorf("%v: %s, want %s", err, remedy.Of(err), wait)
		}
	}
	takes(7, 3)
	refused(7, "2s")
	refused(7, "2s") // what is refused costs nothing
	takes(8, 3)
	takes(0, 1000)
	if used := a.used(now); len(used) != 2 || used[7] != 3 || used[8] != 3 {
		t.Errorf("used: %v", used)
	}
	now = now.Add(time.Second)
	refused(7, "1s")
	now = now.Add(time.Second)
	takes(7, 1)
	refused(7, "2s")
	now = now.Add(time.Hour)
	if used := a.used(now); len(used) != 0 {
		t.Errorf("an hour later: %v", used)
	}
	takes(7, 3)
	refused(7, "2s")
}

// Users whose bucket is full again cost nothing.
func TestAllowanceForgets(t *testing.T) {
	a := newAllowance(10, 60)
	now := time.Now()
	for uid := range uint32(10_000) {
		if err := a.take(uid+1, now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(100 * time.Millisecond)
	}
	if len(a.full) > 2*fewest {
		t.Errorf("%d users are kept, of whom 10 matter", len(a.full))
	}
}
