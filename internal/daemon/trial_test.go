package daemon

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/pinning"
)

// What the kernel does not answer is asked again, but not for ever.
func TestTrialUnanswered(t *testing.T) {
	tr := &trial{until: time.Now()}
	for _, c := range []struct {
		err   error
		after time.Duration
		waits bool
	}{
		{nil, 0, false},
		{errors.New("hits is 1, not 0"), -time.Second, false},
		{fmt.Errorf("x: %w", unix.EPERM), -time.Second, true},
		{fmt.Errorf("x: %w", pinning.ErrNotExist), -time.Second, true},
		{fmt.Errorf("x: %w", unix.EBUSY), unansweredMost - 1, true},
		{fmt.Errorf("x: %w", unix.EPERM), unansweredMost, false},
	} {
		if got := tr.unanswered(c.err, tr.until.Add(c.after)); got != c.waits {
			t.Errorf("%v, %s behind the end: waits %t", c.err, c.after, got)
		}
	}
}
