package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestGuardStranger: under a guard that enforces a hornetd that it does not know starts
// read-only, or where a manifest says fail = "closed" not at all; and one that it knows not
// beside it, though root's word would end it.
func TestGuardStranger(t *testing.T) {
	testenv.NoLeaks(t)
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h, _ := guarded(t, api.GuardEnforce, fmt.Sprintf("allow = [{ executable = %q, signals = true }]\n", own)) // it ends hornetd
	s := signedHost{h, t, t.TempDir()}
	before, err := os.ReadFile(h.Config)
	if err != nil {
		t.Fatal(err)
	}
	h.Stop()

	const stranger = "does not know this process as hornetd"
	h.Start() // the first process has not started it
	if st, err := h.Client().Status(t.Context()); err != nil || len(st.Problems) != 1 || !strings.HasPrefix(st.Problems[0].Message, "read-only: ") || !strings.Contains(st.Problems[0].Message, stranger) {
		t.Errorf("%v, problems %+v", err, st.Problems)
	}
	if _, stderr, exit := h.Ctl("unload", "xdp-drop"); exit == 0 || !strings.Contains(stderr, "read-only: ") {
		t.Errorf("unload: exit %d: %s", exit, stderr)
	}
	h.Stop()
	manifest := filepath.Join(h.Manifests, "xdp-drop.toml")
	open, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	h.Write("hornet.d/xdp-drop.toml", append([]byte("fail = \"closed\"\n"), open...))
	if err := h.TryStart(); err == nil || !strings.Contains(h.Log(), stranger) || strings.Contains(h.Log(), "read-only") {
		t.Errorf("with fail = \"closed\" it is ready: %v\n%s", err, h.Log())
	}
	h.Write("hornet.d/xdp-drop.toml", open)

	evil := testenv.BPFFS(t)
	h.Write("hornetd.toml", bytes.Replace(before, []byte(h.BPFFS), []byte(evil), 1))
	if log := s.fromInit(); !strings.Contains(log, "one is in force (mode enforce, program ") || !strings.Contains(log, "that is not pinned in "+evil) {
		t.Errorf("with another bpffs: %s", log)
	}
	h.Write("hornetd.toml", before)
	log := s.fromInit()
	if g := s.mode(); g.Mode != api.GuardEnforce || g.Reason != "" {
		t.Errorf("guard %+v: %s", g, log)
	}
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "the test ends"); exit != 0 {
		t.Error(stderr)
	}
}

// TestGuardUpgradeHears: what the guard saw while hornetd did not run is on record also where
// the start replaces it, and its events with it.
func TestGuardUpgradeHears(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := guarded(t, api.GuardAudit, "")
	before, err := os.ReadFile(h.Config)
	if err != nil {
		t.Fatal(err)
	}
	h.Stop()
	h.Write("hornetd.toml", append(before, "# another file that says the same\n"...)) // so that it is replaced
	const first, acts = 1000, 40                                                      // fewer than are told of one caller at once
	var attr [128]byte
	for i := range acts {
		if _, _, errno := unix.Syscall(unix.SYS_BPF, first+uintptr(i), uintptr(unsafe.Pointer(&attr)), uintptr(len(attr))); errno != unix.EINVAL {
			t.Fatalf("command %d of bpf(2): %v", first+i, errno)
		}
	}
	s := signedHost{h, t, t.TempDir()}
	log := s.fromInit()
	if sets, err := filepath.Glob(filepath.Join(h.BPFFS, "_guard", "set-*")); err != nil || len(sets) != 1 || filepath.Base(sets[0]) != "set-2" {
		t.Fatalf("it was not replaced: %v, %v: %s", sets, err, log)
	}
	for i := 0; i < acts && !t.Failed(); i++ {
		onRecord(t, h, func(r guardRecord) bool {
			return r.Phase == "note" && r.Verb == "foreign" && r.Reason == fmt.Sprintf("bpf %d", first+i)
		})
	}
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "the test ends"); exit != 0 {
		t.Error(stderr)
	}
	s.endInit()
}

// TestGuardFloorDetached: while the guard only tells anybody may detach its floor, and the next
// start puts it right. One that is to enforce and cannot have it do so does not become ready.
func TestGuardFloorDetached(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := guarded(t, api.GuardAudit, "")
	s := signedHost{h, t, t.TempDir()}
	if g := s.mode(); !g.Floor {
		t.Fatalf("guard %+v", g)
	}
	before, err := os.ReadFile(h.Config)
	if err != nil {
		t.Fatal(err)
	}
	const notAsked = "it is armed, and the kernel does not ask it"
	asks := func(yes string) (can bool) {
		err := os.WriteFile("/proc/sys/kernel/ftrace_enabled", []byte(yes), 0)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // as new kernels say
			t.Fatal(err)
		}
		t.Logf("kernel.ftrace_enabled=%s: %v", yes, err)
		return err == nil
	}
	t.Cleanup(func() { asks("1") })
	if asks("0") {
		if _, stderr, exit := h.Ctl("guard", "enforce"); exit == 0 || !strings.Contains(stderr, notAsked) {
			t.Errorf("enforce, where the kernel does not ask it: exit %d: %s", exit, stderr)
		}
		asks("1")
	}
	h.Stop()
	endFloors(t)
	const notReady = `not ready, guard.mode = "enforce": guard: `
	other := "[guard]\nmode = \"enforce\"\nallow = [{ executable = \"/bin/true\", signals = true }]\n"
	h.Write("hornetd.toml", bytes.Replace(before, []byte("[guard]\n"), []byte(other), 1))
	if log := s.fromInit(); !strings.Contains(log, notReady+"its floor was detached") {
		t.Errorf("its floor detached, and other settings: %s", log)
	}
	h.Start()
	if st, err := h.Client().Status(t.Context()); err != nil || len(st.Problems) != 1 || !strings.HasPrefix(st.Problems[0].Message, `read-only: guard.mode = "enforce", and it only tells: `) || !strings.Contains(st.Problems[0].Message, "does not know this process as hornetd") {
		t.Errorf("of one that it does not know: %v, problems %+v: %s", err, st.Problems, h.Log())
	}
	h.Stop()
	if asks("0") {
		if err := h.TryStart(); err == nil || !strings.Contains(h.Log(), notReady+notAsked) {
			t.Errorf("of one that the kernel does not ask: %v: %s", err, h.Log())
		}
		asks("1")
	}
	h.Write("hornetd.toml", before)
	log := s.fromInit()
	if g := s.mode(); g.Mode != api.GuardAudit || !g.Floor || g.Reason != "" {
		t.Errorf("guard %+v: %s", g, log)
	}
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "the test ends"); exit != 0 {
		t.Error(stderr)
	}
	s.endInit()
}

// TestGuardSignedWritten: what is enrolled is what was signed also where somebody writes the
// file while hornetd looks whether it is.
func TestGuardSignedWritten(t *testing.T) {
	s := guardSigned(t, api.GuardEnforce)
	const size = 128 << 20                            // so that there is time
	file := testdaemon.Binary(t, "hornetd") + ".next" // on its file system
	t.Cleanup(func() { os.Remove(file) })
	if err := errors.Join(os.WriteFile(file, []byte("a"), 0o755), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	statement := s.statement("enroll", "an update", file)
	signature := s.sign(statement, "dev")

	// hornetd has read the first byte when it is written, and looks at the file once more.
	began, done := s.reads(), make(chan error, 1)
	go func() {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			n := s.reads()
			if n >= began+8<<20 {
				break
			}
			if time.Now().After(deadline) {
				done <- errors.New("hornetd does not read it")
				return
			}
		}
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("b"), 0)
			err = errors.Join(err, f.Close())
		}
		done <- err
	}()
	stderr, exit := s.give("enroll", statement, signature)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.wantRefused("written meanwhile", stderr, exit, "was signed")
	// What was refused can be written, and what is put back be enrolled.
	if err := errors.Join(os.WriteFile(file, []byte("a"), 0o755), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	stderr, exit = s.give("enroll", statement, signature)
	s.wantDone("what was signed", stderr, exit)
	if f, err := os.OpenFile(file, os.O_WRONLY, 0); err == nil {
		f.Close()
		t.Error("enrolled, and to be written")
	}
}

// reads is how many bytes hornetd has read.
func (s signedHost) reads() (n uint64) {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.PID()))
	if err == nil {
		_, err = fmt.Sscanf(string(b), "rchar: %d", &n)
	}
	if err != nil {
		s.t.Error(err)
	}
	return n
}
