package main_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/testenv"
)

// TestTargetNotAsked: that nobody can be asked about a process says nothing of it. What
// runs stays, and a load is not told that the process has ended.
func TestTargetNotAsked(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	for _, name := range []string{"call", "calls"} {
		pid := sleeper(t, owner).Process.Pid
		refuse := func(errno string) func() {
			strace := tracer(t, h.PID(), "-o", os.DevNull, "-P", fmt.Sprintf("/proc/%d/status", pid), "-e", "trace=openat", "-e", "inject=openat:error="+errno)
			return func() { detach(t, strace) }
		}
		let := refuse("EMFILE")
		_, err := clientOf(t, h, owner).LoadTargets(t.Context(), name, pidfdOf(t, pid))
		if err == nil || strings.Contains(err.Error(), "has ended") || !strings.Contains(err.Error(), "too many open files") {
			t.Errorf("%s: load: %v", name, err)
		}
		let()
		c := loadAt(t, h, owner, name, pidfdOf(t, pid))
		for _, errno := range []string{"EMFILE", "ENOMEM", "EACCES", "ENOENT"} {
			let := refuse(errno)
			stays(t, h, c)
			let()
		}
		unload(t, h, name)
	}
}
