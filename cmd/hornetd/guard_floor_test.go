package main_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/internal/vmtest"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// TestGuardFloorAlone: where only the floor of a guard is left hornetd starts read-only, whoever
// starts it, and says that something is in force, and what to do.
func TestGuardFloorAlone(t *testing.T) {
	if !vmtest.InGuest() {
		t.Skip("arms the guard: only in guests")
	}
	h := testdaemon.New(t, "")
	h.Start() // makes what it needs
	h.Stop()
	s := signedHost{h, t, t.TempDir()}
	loseGuard(t, filepath.Join(h.BPFFS, "_guard"))

	log := s.fromInit()
	st, err := h.Client().Status(t.Context())
	if err != nil || len(st.Problems) != 1 || !strings.HasPrefix(st.Problems[0].Message, "read-only: ") || !strings.Contains(st.Problems[0].Message, "its floor is left") || !strings.HasPrefix(st.Problems[0].Hint, "reboot") {
		t.Errorf("%v, problems %+v: %s", err, st.Problems, log)
	}
	if g := s.mode(); g.Mode != api.GuardEnforce || !g.Floor || !strings.Contains(g.Reason, "its floor is left") {
		t.Errorf("guard %+v", g)
	}
	if out, stderr, exit := h.Ctl("guard"); exit != 0 || !strings.Contains(out, "enforce") || !strings.Contains(out, "in force") || !strings.Contains(out, "reboot") {
		t.Errorf("hornetctl guard: %d: %s%s", exit, out, stderr)
	}
	if _, stderr, exit := h.Ctl("guard", "audit"); exit == 0 || !strings.Contains(stderr, "read-only: ") {
		t.Errorf("armed beside it: exit %d: %s", exit, stderr)
	}
	s.endInit()
}

// loseGuard arms a guard and takes away everything of it but its floor. The programs of that are
// detached with the test: by this process, which it knows.
func loseGuard(t *testing.T, dir string) {
	t.Helper()
	root, err := os.Open(testenv.CgroupRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	g, err := lsm.Arm(dir, lsm.Config{Mode: lsm.Enforce, ConfirmWithin: 5 * time.Minute, Cgroup: testenv.CgroupRoot(t)})
	if err != nil {
		t.Fatal(err)
	}
	pins, err := filepath.Glob(filepath.Join(dir, "set-1", "floor", "*"))
	if err != nil || len(pins) == 0 {
		t.Fatalf("floor %v, %v", pins, errors.Join(err, g.Disarm()))
	}
	for _, pin := range pins {
		p, err := ebpf.LoadPinnedProgram(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(root.Fd()), Program: p, Attach: ebpf.AttachLSMCgroup}); err != nil {
				t.Errorf("%s: %v", p, err)
			}
			p.Close()
		})
	}
	if err := errors.Join(g.Close(), os.RemoveAll(filepath.Join(dir, "set-1")), unix.Rmdir(dir)); err != nil {
		t.Fatal(err)
	}
	for range 600 { // the kernel takes its time, and as long as its hooks are there hornetd is told of nothing
		if !hasHooks(t) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the hooks of the guard stay")
}

// hasHooks reports whether there are programs of a guard's but those of its floor.
func hasHooks(t *testing.T) bool {
	t.Helper()
	for id := ebpf.ProgramID(0); ; {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); err != nil {
			return !errors.Is(err, os.ErrNotExist)
		}
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return true // nobody else is asked who opens a program
		}
		info, err := p.Info()
		p.Close()
		if err == nil && strings.HasPrefix(info.Name, "guard_") && !strings.HasPrefix(info.Name, "guard_floor") {
			return true
		}
	}
}

// endFloors detaches what a guard that only told leaves on the root cgroup, where it has
// ended with its bpffs.
func endFloors(t *testing.T) {
	root, err := os.Open(testenv.CgroupRoot(t))
	if err != nil {
		t.Error(err)
		return
	}
	defer root.Close()
	all, err := link.QueryPrograms(link.QueryOptions{Target: int(root.Fd()), Attach: ebpf.AttachLSMCgroup, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE})
	if err != nil {
		t.Error(err)
		return
	}
	for _, one := range all.Programs {
		p, err := ebpf.NewProgramFromID(one.ID)
		var info *ebpf.ProgramInfo
		if err == nil {
			info, err = p.Info()
		}
		if err == nil && strings.HasPrefix(info.Name, "guard_floor") {
			err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(root.Fd()), Program: p, Attach: ebpf.AttachLSMCgroup})
		}
		p.Close()
		if err != nil {
			t.Errorf("program %d: %v", one.ID, err)
		}
	}
}
