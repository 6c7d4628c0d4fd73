package lsm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

func rootOfCgroups(t *testing.T) *os.File {
	t.Helper()
	root, err := openRootCgroup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// onRoot returns the ids of the LSM programs that the kernel says the root cgroup has.
func onRoot(t testing.TB) []uint32 {
	t.Helper()
	root, err := openRootCgroup()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ids, err := lsmPrograms(root)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// hasFloor holds what the root cgroup has against the floor that g is to have; nil is none.
func hasFloor(t testing.TB, what string, g *Guard) {
	t.Helper()
	var want []uint32
	if g != nil {
		for _, p := range g.floor {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			id, _ := info.ID()
			want = append(want, uint32(id))
		}
		if len(want) == 0 {
			t.Errorf("%s: the guard has no floor", what)
		}
	}
	got := onRoot(t)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: the root cgroup has programs %d, want %d", what, got, want)
	}
}

// loseLinks takes away what the kernel takes with a bpffs: every pin of the guard's, and
// what keeps its links beside. The floor and its maps are left, and this process's mark: at
// the end it detaches the programs of the floor, which it returns.
func (g *Guard) loseLinks(t *testing.T) map[string]*ebpf.Program {
	t.Helper()
	kept := map[string]*ebpf.Program{}
	for name, p := range g.floor {
		c, err := p.Clone()
		if err != nil {
			t.Fatal(err)
		}
		kept[name] = c
	}
	var opens []func() error // what has to go, by its id
	for _, l := range g.links {
		info, err := l.Info()
		if err != nil {
			t.Fatal(err)
		}
		opens = append(opens, func() error {
			l, err := link.NewFromID(info.ID)
			if err == nil {
				l.Close()
			}
			return err
		})
	}
	for _, p := range g.programs {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		opens = append(opens, func() error {
			p, err := ebpf.NewProgramFromID(id)
			if err == nil {
				p.Close()
			}
			return err
		})
	}
	set := g.path()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(set); err != nil { // hornetd may
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for name, p := range kept {
			if err := errors.Join(detachFloor(p), p.Close()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		hasFloor(t, "at the end", nil)
	})
	for deadline := time.Now().Add(time.Minute); len(opens) > 0; time.Sleep(50 * time.Millisecond) {
		opens = slices.DeleteFunc(opens, func(open func() error) bool { return errors.Is(open(), os.ErrNotExist) })
		if time.Now().After(deadline) {
			t.Fatalf("%d links and programs stay", len(opens))
		}
	}
	return kept
}

// Without pins and links the floor refuses what loads, makes and attaches, and what would
// end it, to everybody but who was listed.
func TestFloor(t *testing.T) {
	guestOnly(t)
	listed, home := testenv.Cgroup(t), testenv.Cgroup(t)
	exe := copyOf(t, self(t)) // hornetd's: a child of the test's would make maps for it
	enrolled, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer enrolled.Close()
	foreign := testenv.BPFFS(t)
	old, err := ebpf.NewProgram(cgroupProgram("foreign"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(old.Pin(filepath.Join(foreign, "cgroup")), old.Close()); err != nil {
		t.Fatal(err)
	}
	g := arm(t, func(c *Config) {
		c.Cgroup, c.Executables = home, []*os.File{enrolled}
		c.Allow = []Identity{{Cgroup: listed, Commands: []uint32{unix.BPF_MAP_CREATE, unix.BPF_PROG_ATTACH, unix.BPF_PROG_DETACH, unix.BPF_LINK_CREATE},
			Attachments: []uint32{uint32(ebpf.AttachCGroupInetEgress), uint32(ebpf.AttachLSMCgroup)}}}
	})
	hasFloor(t, "armed", g)
	if s, err := g.Status(); err != nil || !s.Floor || slices.Contains(s.Open, noFloor) {
		t.Errorf("status %+v, %v", s, err)
	}
	t.Cleanup(func() {
		if out, err := child("create", nil).CombinedOutput(); err != nil {
			t.Errorf("at the end: %v: %s", err, out)
		}
	})
	kept := g.loseLinks(t)
	info, err := kept[floorOf(kept)].Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()

	tries := []string{"map", "filter", fmt.Sprint("endfloor=", id), fmt.Sprint("overfloor=", id), fmt.Sprint("linkfloor=", id), "egress=" + filepath.Join(foreign, "cgroup"), "open=/proc/sys/kernel/ftrace_enabled"}
	for _, who := range []struct{ name, cgroup, want string }{
		{"root", testenv.CgroupRoot(t), "EPERM EPERM EPERM EPERM EPERM EPERM EPERM"},
		{"who is listed", listed, "ok EPERM EPERM EPERM EPERM ok EPERM"},
		{"in hornetd's cgroup", home, "EPERM EPERM EPERM EPERM EPERM EPERM EPERM"},
	} {
		dir, err := os.Open(who.cgroup)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd := child("tries", nil, tries...)
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != who.want {
			t.Errorf("%s: %v: %s (%v), want %s", who.name, tries, got, err, who.want)
		}
	}
	if tool, err := exec.LookPath("bpftool"); err == nil {
		out, err := exec.Command(tool, "cgroup", "detach", testenv.CgroupRoot(t), "lsm_cgroup", "id", fmt.Sprint(id)).CombinedOutput()
		if err == nil {
			t.Errorf("bpftool detached it: %s", out)
		}
		t.Logf("bpftool: %s", out)
	}
	if _, out := fromInit(t, home, exe, "who"); said(t, out) != "EPERM" {
		t.Error("hornetd that is started now may make maps")
	}
	all, err := InForce()
	if err != nil || len(all) != 1 || !all[0].Orphan || !all[0].Floor || !all[0].Enforces {
		t.Errorf("in force %+v, %v", all, err)
	}
	if _, err := Adopt(g.dir); !errors.Is(err, ErrNotArmed) {
		t.Errorf("adopted without pins: %v", err)
	}
}

// toFloor has a command of bpf(2) do something to the floor, by one of its programs.
func toFloor(program, command int, flags uint32) error {
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, map[int]uint32{0: uint32(program)})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	root, err := openRootCgroup()
	if err != nil {
		return err
	}
	defer root.Close()
	words := map[int]uint32{0: uint32(root.Fd()), 1: uint32(fd), 2: uint32(ebpf.AttachLSMCgroup), 3: flags}
	if command == unix.BPF_LINK_CREATE {
		words[0], words[1] = words[1], words[0]
	}
	if flags&unix.BPF_F_REPLACE != 0 {
		words[4] = uint32(fd)
	}
	return closing(bpf(command, words))
}

// toEgress attaches a pinned program to this process's cgroup, and detaches it.
func toEgress(pin string) error {
	p, err := ebpf.LoadPinnedProgram(pin, nil)
	if err != nil {
		return err
	}
	defer p.Close()
	root, err := openRootCgroup()
	if err != nil {
		return err
	}
	defer root.Close()
	words := map[int]uint32{0: uint32(root.Fd()), 1: uint32(p.FD()), 2: uint32(ebpf.AttachCGroupInetEgress), 3: unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, words); err != nil {
		return err
	}
	delete(words, 3)
	_, err = bpf(unix.BPF_PROG_DETACH, words)
	return err
}

// floorOf returns the name of the program of the floor that judges bpf(2).
func floorOf(all map[string]*ebpf.Program) string {
	for _, h := range floorHooks {
		if h.Name == "bpf" && all[h.Program] != nil {
			return h.Program
		}
	}
	return ""
}

// Whatever ends a guard ends its floor, and what replaces one with a floor has one.
func TestFloorGoesWithGuard(t *testing.T) {
	guestOnly(t)
	hasFloor(t, "before", nil)
	g := arm(t, nil)
	hasFloor(t, "armed", g)
	c := Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)}
	next, err := g.Upgrade(c)
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	hasFloor(t, "upgraded", g)

	// One that fails behind its floor leaves none, and the old one is whole.
	bad := c
	bad.Allow = []Identity{{Executable: os.NewFile(^uintptr(0), "closed"), SHA256: [32]byte{1}}}
	if next, err := g.Upgrade(bad); err == nil || next != nil {
		t.Errorf("upgraded: %v, %v", next, err)
	}
	hasFloor(t, "not upgraded", g)

	// hornetd dies when the old one is half gone: its floor went first.
	second, err := build(g.place, g.number+1, c, g)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(onRoot(t)); n != 2*len(g.floor) {
		t.Errorf("two guards have a floor of %d programs", n)
	}
	if err := errors.Join(g.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	next, err = Adopt(g.dir)
	if err == nil {
		err = next.Tidy()
	}
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	hasFloor(t, "tidied", g)

	// A program of it that is gone is missed.
	p := g.floor[floorOf(g.floor)]
	if err := detachFloor(p); err != nil {
		t.Fatal(err)
	}
	if s, err := g.Status(); err != nil || s.Floor || !slices.Contains(s.Open, noFloor) {
		t.Errorf("without its floor: %+v, %v", s, err)
	}
	if again, err := Adopt(g.dir); !errors.Is(err, ErrPartial) {
		t.Errorf("without its floor: %v, %v", again, err)
	}
	// Where nothing is refused it was anybody's to detach: it is taken up, and replaced by one with a floor.
	if err := g.SetMode(Audit, 0); err != nil {
		t.Fatal(err)
	}
	again, err := Adopt(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	*g = *again
	if s, err := g.Status(); err != nil || !s.Holed || s.Floor {
		t.Errorf("without its floor: %+v, %v", s, err)
	}
	c.Mode, c.ConfirmWithin = Audit, 0
	if next, err = g.Upgrade(c); err != nil {
		t.Fatal(err)
	}
	*g = *next
	hasFloor(t, "upgraded to one with a floor", g)
	if s, err := g.Status(); err != nil || s.Holed || !s.Floor {
		t.Errorf("with a floor again: %+v, %v", s, err)
	}
	if err := g.Disarm(); err != nil {
		t.Fatal(err)
	}
	hasFloor(t, "disarmed", nil)
}

// Without CAP_NET_ADMIN Linux before 6.9 does not tell what the root cgroup has. What is armed
// there is removed there, and what is not attached any more is no matter.
func TestFloorUntold(t *testing.T) {
	guestOnly(t)
	dir := filepath.Join(testenv.BPFFS(t), "guard")
	c := Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)}
	withoutNetAdmin(t, func() {
		g, err := Arm(dir, c)
		if err != nil {
			t.Error(err)
			return
		}
		next, err := g.Upgrade(c)
		if err != nil {
			t.Error(err)
			return
		}
		if err := next.Disarm(); err != nil {
			t.Errorf("%v (%s)", err, remedy.Of(err))
		}
	})
	hasFloor(t, "disarmed", nil)
	if left, err := names(dir); err != nil || len(left) != 0 {
		t.Errorf("there are %v, %v", left, err)
	}
}

// withoutNetAdmin calls f on a thread of its own that has not that capability.
func withoutNetAdmin(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		if err == nil {
			data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
			err = unix.Capset(&header, &data[0])
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// What the guard tells its floor does not tell again, in either mode.
func TestTellsOnce(t *testing.T) {
	g := arm(t, nil)
	for _, m := range []Mode{Enforce, Audit} {
		if err := g.SetMode(m, 0); err != nil {
			t.Fatal(err)
		}
		if out, err := child("tries", nil, fmt.Sprintf("on=%d:1=%d:2=0", unix.BPF_PROG_ATTACH, uint32(math.MaxUint32))).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		n := 0
		for _, e := range readEvents(t, g, time.Second) {
			if e.Deed == DeedBPF && e.Detail == unix.BPF_PROG_ATTACH {
				n++
			}
		}
		if n != 1 {
			t.Errorf("in mode %s one act is told %d times", m, n)
		}
	}
}

// Where the root cgroup cannot be opened a guard has no floor, and says so; it does not
// replace one that has.
func TestNoFloor(t *testing.T) {
	was := rootCgroups
	defer func() { rootCgroups = was }()
	rootCgroups = []string{t.TempDir()}
	g := arm(t, nil)
	hasFloor := func(want bool) {
		t.Helper()
		s, err := g.Status()
		if err != nil || s.Floor != want || slices.Contains(s.Open, noFloor) == want {
			t.Errorf("status %+v, %v", s, err)
		}
		again, err := Adopt(g.dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
	hasFloor(false)
	c := Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)}
	upgrade := func() {
		t.Helper()
		next, err := g.Upgrade(c)
		if err != nil {
			t.Fatal(err)
		}
		*g = *next
	}
	upgrade()
	hasFloor(false)
	rootCgroups = was
	upgrade()
	hasFloor(true)
	rootCgroups = []string{t.TempDir()}
	hasFloor(true)
	if next, err := g.Upgrade(c); err == nil || next != nil || !errors.Is(err, errNoRoot) {
		t.Fatalf("upgraded to one without a floor: %v, %v", next, err)
	}
	rootCgroups = was
	hasFloor(true)
}

// In a cgroup namespace, and where only a part of the hierarchy is mounted, the root is the
// kernel's all the same.
func TestRootCgroup(t *testing.T) {
	testenv.RequireRoot(t)
	was := rootCgroups
	defer func() { rootCgroups = was }()
	rootCgroups = []string{testenv.Cgroup(t)}
	root, err := openRootCgroup()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var got, want unix.Stat_t
	if err := errors.Join(unix.Fstat(int(root.Fd()), &got), unix.Stat(testenv.CgroupRoot(t), &want)); err != nil || got.Ino != want.Ino || got.Dev != want.Dev {
		t.Errorf("opened inode %d of %d, want %d of %d (%v)", got.Ino, got.Dev, want.Ino, want.Dev, err)
	}
}
