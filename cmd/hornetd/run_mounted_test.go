package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestRunLeavesMounts: hornetd, whom a guard lets remove its pins, removes nothing that
// somebody has mounted where it tidies: at a start, and behind an unload.
func TestRunLeavesMounts(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, mayRun)
	dir := bundle(t, h, "mine", connCount(testenv.Cgroup(t)), example(t, "conn-count/conn_count.bpf.o"))
	must(t, os.MkdirAll(filepath.Join(h.Dir, "another/links"), 0o700))
	pin := h.Write("another/links/pin", []byte("x"))
	mount := func(name string) (at string) {
		at = filepath.Join(h.Bundles(), name)
		must(t, os.MkdirAll(at, 0o700), unix.Mount(filepath.Join(h.Dir, "another"), at, "", unix.MS_BIND, ""))
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
		return at
	}
	stays := func(what, at string) {
		t.Helper()
		if _, err := os.Stat(pin); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if log := h.Log(); !strings.Contains(log, at+": ") || !strings.Contains(log, "something is mounted there") || !strings.Contains(log, "unmount what is below ") {
			t.Errorf("%s: the log says nothing of it:\n%s", what, log)
		}
		must(t, unix.Unmount(at, 0))
	}
	must(t, os.MkdirAll(h.Bundles(), 0o700))
	at := mount(".new-a")
	h.Start()
	stays("start", at)
	if _, stderr, exit := h.CtlAs(1000, "run", dir); exit != 0 {
		t.Fatalf("run: %d, %s", exit, stderr)
	}
	at = mount("u1000-count/more")
	if _, stderr, exit := h.CtlAs(1000, "unload", "u1000-count"); exit != 0 {
		t.Errorf("unload: %d, %s", exit, stderr)
	}
	stays("unload", at)
	h.Kill()
	h.Start()
	if left := lies(t, h); left != "" {
		t.Errorf("without the mounts there is %q", left)
	}
}
