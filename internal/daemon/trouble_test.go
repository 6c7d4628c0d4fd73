package daemon

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// TestTroubleEnds: what the status says of the daemon's own state is gone when its
// cause is, and what only a restart ends stays.
func TestTroubleEnds(t *testing.T) {
	d, path := remembering(t)
	shown := func() (all []string) {
		d.mu.RLock()
		defer d.mu.RUnlock()
		for _, p := range d.troublesLocked() {
			all = append(all, p.Message)
		}
		return all
	}
	d.tellState("", errors.New("for good"))
	d.tellState("", errors.New("for good")) // once
	lasts := true
	d.tellWhile(ofClock, errors.New("a clock"), func() bool { return lasts })

	if err := os.Mkdir(path+".new", 0o700); err != nil { // in the way of the next one
		t.Fatal(err)
	}
	d.tellRatchet(d.setRatchet(d.ratchet.Ratchet))
	if got := shown(); len(got) != 3 || !strings.Contains(got[2], "ratchet: ") {
		t.Fatalf("%q", got)
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	d.save()
	if got := shown(); len(got) != 3 {
		t.Errorf("tried again at once: %q", got)
	}
	d.ratchet.again = time.Now().Add(-time.Second)
	d.save()
	if got := shown(); len(got) != 2 {
		t.Errorf("written, and still: %q", got)
	}
	if lasts = false; len(shown()) != 1 {
		t.Errorf("the clock was set, and still: %q", shown())
	}
	d.tellState(ofCopy, errors.New("no room"))
	d.tellState(ofCopy, nil)
	if got := shown(); len(got) != 1 || got[0] != "for good" {
		t.Errorf("%q", got)
	}
}
