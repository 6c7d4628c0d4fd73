package daemon

import (
	"fmt"
	"testing"
	"time"
)

// TestSortsAreBounded: whoever loads under ever new names fills no log.
func TestSortsAreBounded(t *testing.T) {
	l := told{sorts: map[string]bool{}}
	now := time.Unix(1_000_000_000, 0)
	sorts := map[string]bool{}
	for i := range 10_000 {
		sorts[l.sortOf(fmt.Sprint(i), now)] = true
	}
	if len(sorts) != mostSorts+1 || !sorts["of many"] {
		t.Errorf("%d sorts", len(sorts))
	}
	if got := l.sortOf("0", now); got != "0" {
		t.Errorf("one that was told apart is %q now", got)
	}
	if got := l.sortOf("new", now.Add(2*coalesceFor)); got != "new" {
		t.Errorf("after a minute: %q", got)
	}
}
