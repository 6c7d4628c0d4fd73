package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hornetd/hornetd/api"
)

// TestGuardSignedTidies: root mounts the guard's pins where a start removes what a crash
// left of callers' bundles. They stay, and the guard with them.
func TestGuardSignedTidies(t *testing.T) {
	s := guardSigned(t, api.GuardEnforce)
	guard, at := filepath.Join(s.BPFFS, "_guard"), filepath.Join(s.Bundles(), ".new-a")
	pins := func() string {
		t.Helper()
		out, err := exec.Command("find", guard).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	before := pins()
	if !strings.Contains(before, "/links/guard_bpf") {
		t.Fatal(before)
	}
	s.Stop()
	if err := errors.Join(os.MkdirAll(at, 0o700), syscall.Mount(guard, at, "", syscall.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // nobody unmounts it before the guard has ended
		if err := syscall.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	if log := s.fromInit(); !strings.Contains(log, at) || !strings.Contains(log, "unmount what is below ") {
		t.Errorf("it said: %s", log)
	}
	if now := pins(); now != before {
		t.Fatalf("of its pins there are left %s", now)
	}
	stderr, exit := s.do("disarm", s.statement("disarm", "the test ends"), "dev")
	s.wantDone("disarm", stderr, exit)
}
