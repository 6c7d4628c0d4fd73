package testenv

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// Start starts cmd, kills it when the test ends, and returns when it is what it
// executes: Cmd.Start does while it is still in execve(2), where its files in
// /proc are root's, whoever's it is. The kernel sets comm last (begin_new_exec of
// fs/exec.c).
func Start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	comm := func(process string) string {
		b, err := os.ReadFile("/proc/" + process + "/comm")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for deadline := time.Now().Add(time.Minute); comm(strconv.Itoa(cmd.Process.Pid)) == comm("self"); {
		if time.Now().After(deadline) {
			t.Fatalf("process %d executes nothing", cmd.Process.Pid)
		}
		time.Sleep(time.Millisecond)
	}
}
