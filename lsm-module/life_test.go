package lsm

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// fromInit starts a child of the first process, as a service is one: a sibling of
// the test, which is one too. It starts in a cgroup. Nobody can wait for it; its
// output ends with it.
func fromInit(t *testing.T, cgroup, exe, name string, args ...string) (*os.Process, io.ReadCloser) {
	t.Helper()
	if os.Getppid() != 1 {
		t.Fatal("the test is no child of the first process")
	}
	return start(t, unix.CLONE_PARENT, cgroup, exe, name, args...)
}

// start starts a child through a shell, which moves into the cgroup first.
func start(t *testing.T, flags uintptr, cgroup, exe, name string, args ...string) (*os.Process, io.ReadCloser) {
	t.Helper()
	return startBehind(t, flags, ":", cgroup, exe, name, args...)
}

// startProgram starts one that is none of ours.
func startProgram(t *testing.T, name string, args ...string) (*os.Process, io.ReadCloser) {
	t.Helper()
	return start(t, 0, testenv.CgroupRoot(t), name, "", args...)
}

func startBehind(t *testing.T, flags uintptr, first, cgroup, exe, name string, args ...string) (*os.Process, io.ReadCloser) {
	t.Helper()
	return startAs(t, &syscall.SysProcAttr{Cloneflags: flags}, first, cgroup, exe, name, args...)
}

func startAs(t *testing.T, as *syscall.SysProcAttr, first, cgroup, exe, name string, args ...string) (*os.Process, io.ReadCloser) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	t.Cleanup(func() { r.Close() })
	script := `echo $$ >` + cgroup + `/cgroup.procs; ` + first + `; exec "$0" "$@"`
	p, err := os.StartProcess("/bin/sh", append([]string{"sh", "-c", script, exe}, args...), &os.ProcAttr{
		Env: append(os.Environ(), childEnv+"="+name), Files: []*os.File{nil, w, w},
		Sys: as,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, r
}

// newFIFO is one that a shell reads from until the test has written to it.
func newFIFO(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// said returns all that a child printed.
func said(t *testing.T, out io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// childWho says whether the guard takes it for hornetd: whether every thread may
// make a map.
func childWho(args []string) error {
	if len(args) > 0 { // it is another program first
		return unix.Exec(args[0], args[:1], os.Environ())
	}
	var wait sync.WaitGroup
	answers := make(chan string, 24)
	for range cap(answers) {
		wait.Go(func() {
			runtime.LockOSThread()
			answers <- answer(childCreates(nil))
		})
	}
	wait.Wait()
	close(answers)
	first := <-answers
	for a := range answers {
		if a != first {
			return fmt.Errorf("%s and %s", first, a)
		}
	}
	fmt.Println(first)
	return nil
}

func TestWhoIsHornetd(t *testing.T) {
	guestOnly(t)
	home, elsewhere := testenv.Cgroup(t), testenv.Cgroup(t)
	exe := self(t)
	copied := copyOf(t, exe)
	enrolled, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer enrolled.Close()
	g := arm(t, func(c *Config) {
		c.Cgroup = home
		c.Executables = []*os.File{enrolled}
	})
	m := newMap(t)
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	t.Run("what makes maps for hornetd", func(t *testing.T) {
		_, out := start(t, 0, home, exe, "tries", "map", fmt.Sprint("write=", id), "filter", "map")
		if got, want := said(t, out), "ok EPERM EPERM ok"; got != want {
			t.Errorf("a map, hornetd's map to write, a program, a map: %s, want %s", got, want)
		}
	})
	for _, tt := range []struct {
		what   string
		flags  uintptr
		cgroup string
		exe    string
		args   []string
		want   string
	}{
		{"a service of the enrolled executable", unix.CLONE_PARENT, home, exe, nil, "ok"},
		{"a child of hornetd's, which makes maps for it", 0, home, exe, nil, "ok"},
		{"a child of hornetd, a copy", 0, home, copied, nil, "EPERM"},
		{"in another cgroup", unix.CLONE_PARENT, elsewhere, exe, nil, "EPERM"},
		{"a copy as a service", unix.CLONE_PARENT, home, copied, nil, "EPERM"},
		{"with a root directory that the test can move", unix.CLONE_PARENT | unix.CLONE_FS, home, exe, nil, "EPERM"},
		{"hornetd that executes another program", unix.CLONE_PARENT, home, exe, []string{copied}, "EPERM"},
		{"another program that executes hornetd", unix.CLONE_PARENT, home, copied, []string{exe}, "ok"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			_, out := start(t, tt.flags, tt.cgroup, tt.exe, "who", tt.args...)
			if got := said(t, out); got != tt.want {
				t.Errorf("a map: %s, want %s", got, tt.want)
			}
		})
	}

	t.Run("traced", func(t *testing.T) {
		// The tracer is there before the program is executed.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		begins := newFIFO(t)
		p, r := startBehind(t, unix.CLONE_PARENT, "read -r go <"+begins, home, exe, "who")
		if err := unix.PtraceSeize(p.Pid); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(begins, []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
		trace(t, p.Pid)
		if got := said(t, r); got != "EPERM" {
			t.Errorf("a map: %s, want EPERM", got)
		}
	})

	t.Run("retired", func(t *testing.T) {
		list, err := g.Enrolled()
		if err != nil || len(list) != 1 {
			t.Fatalf("enrolled: %v, %v", list, err)
		}
		for e, digest := range list {
			if want := digestOf(t, exe); digest != want {
				t.Errorf("its digest is %x, want %x", digest, want)
			}
			if err := g.Retire(e); err != nil {
				t.Fatal(err)
			}
		}
		_, out := fromInit(t, home, exe, "who")
		if got := said(t, out); got != "EPERM" {
			t.Errorf("a map: %s, want EPERM", got)
		}
	})

	t.Run("enrolled while it is written", func(t *testing.T) {
		f, err := os.OpenFile(copied, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := g.Enroll(f); !errors.Is(err, unix.ETXTBSY) || remedy.Of(err) == "" {
			t.Errorf("Enroll = %v, want ETXTBSY and a remedy", err)
		}
		if list, err := g.Enrolled(); err != nil || len(list) != 0 {
			t.Errorf("enrolled all the same: %v, %v", list, err)
		}
	})

	t.Run("enrolled if it is the right one", func(t *testing.T) {
		f, err := os.Open(copied)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		writable := func() error {
			return exec.Command("sh", "-c", "exec 3<>"+copied).Run()
		}
		wrong := errors.New("wrong")
		look := func(answer error) func() error {
			return func() error {
				if writable() == nil {
					t.Error("it can be written while it is looked at")
				}
				if list, err := g.Enrolled(); err != nil || len(list) != 0 {
					t.Errorf("it is hornetd while it is looked at: %v, %v", list, err)
				}
				return answer
			}
		}
		if _, err := g.EnrollIf(f, look(wrong)); !errors.Is(err, wrong) {
			t.Errorf("EnrollIf = %v, want what it was told", err)
		}
		if list, err := g.Enrolled(); err != nil || len(list) != 0 || writable() != nil {
			t.Errorf("enrolled all the same, or not to be written: %v, %v", list, err)
		}
		e, err := g.EnrollIf(f, look(nil))
		if err != nil {
			t.Fatal(err)
		}
		if list, err := g.Enrolled(); err != nil || len(list) != 1 || list[e] != digestOf(t, copied) || writable() == nil {
			t.Errorf("not enrolled, or to be written: %v, %v", list, err)
		}
		// What is hornetd stays so, whatever is thought of it now.
		if _, err := g.EnrollIf(f, func() error { return wrong }); !errors.Is(err, wrong) {
			t.Errorf("EnrollIf = %v, want what it was told", err)
		}
		if list, err := g.Enrolled(); err != nil || len(list) != 1 || writable() == nil {
			t.Errorf("not enrolled any more, or to be written: %v, %v", list, err)
		}
	})
}

// digestOf has sha256sum(1) say a file's digest.
func digestOf(t *testing.T, file string) (sum [32]byte) {
	t.Helper()
	out, err := exec.Command("sha256sum", file).Output()
	if err == nil {
		_, err = hex.Decode(sum[:], out[:min(len(out), 64)])
	}
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// trace lets a traced process go on until it ends.
func trace(t *testing.T, pid int) {
	t.Helper()
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || ws.Exited() || ws.Signaled() {
			return
		}
		sig := 0
		if s := ws.StopSignal(); s != unix.SIGTRAP && s != unix.SIGSTOP {
			sig = int(s)
		}
		if err := unix.PtraceCont(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
}

// Who is not hornetd may look, and nothing more, whatever the mode.
func TestOthersOnlyLook(t *testing.T) {
	g := arm(t, func(c *Config) { c.Mode, c.ConfirmWithin = Audit, 0 })
	for _, m := range []Mode{Audit, Enforce} {
		if err := g.SetMode(m, time.Minute); err != nil {
			t.Fatal(err)
		}
		out, err := child("look", nil, g.dir).CombinedOutput()
		if want := m.String() + " not hornetd"; err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("in mode %s another process says %s (%v), want %q", m, out, err, want)
		}
	}
}

// childLook looks at a guard and tries to adopt it.
func childLook(args []string) error {
	s, err := Look(args[0])
	if err != nil {
		return err
	}
	fmt.Print(s.Mode, " ")
	g, err := Adopt(args[0])
	if err == nil {
		return errors.Join(errors.New("adopted"), g.Disarm())
	}
	if !errors.Is(err, ErrNotHornetd) || remedy.Of(err) == "" {
		return err
	}
	fmt.Println("not hornetd")
	return nil
}

func TestDeadMan(t *testing.T) {
	const within = 3 * time.Second
	g := arm(t, nil)
	creates := func() string {
		out, err := child("create", nil).CombinedOutput()
		if err == nil {
			return "ok"
		}
		return string(out)
	}
	if err := g.SetMode(Enforce, within); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if got := creates(); got == "ok" && time.Since(before) < within {
		t.Error("a map was made while the guard enforces")
	}
	time.Sleep(within)
	if got := creates(); got != "ok" {
		t.Errorf("not confirmed, and no map can be made: %s", got)
	}
	if s, err := g.Status(); err != nil || s.Enforces || s.Mode != Enforce || s.Confirm != 0 {
		t.Errorf("status %+v, %v", s, err)
	}
	if err := g.Confirm(); err == nil || remedy.Of(err) == "" {
		t.Errorf("confirmed too late: %v", err)
	}
	if err := g.SetMode(Enforce, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := g.Confirm(); err != nil {
		t.Fatal(err)
	}
	if s, err := g.Status(); err != nil || !s.Enforces || s.Confirm != 0 {
		t.Errorf("status %+v, %v", s, err)
	}
	if got := creates(); got == "ok" {
		t.Error("a map was made while the guard enforces")
	}
}

// A guard that has lost something is not taken for a whole one.
func TestPartial(t *testing.T) {
	g := arm(t, nil)
	for _, lost := range []string{"links/guard_unlink", "programs/guard_unlink", "maps/owned"} {
		name := filepath.Join(g.path(), lost)
		kept := filepath.Join(g.dir, "kept")
		if err := os.Rename(name, kept); err != nil {
			t.Fatal(err)
		}
		got, err := Adopt(g.dir)
		if !errors.Is(err, ErrPartial) {
			t.Errorf("without %s: %v, %v", lost, got, err)
		}
		if err := os.Rename(kept, name); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Adopt(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Arm(g.dir, Config{Mode: Audit}); !errors.Is(err, ErrArmed) || remedy.Of(err) == "" {
		t.Errorf("armed twice: %v", err)
	}
}

// hornetd dies between the new guard's first and the old one's last moment: both are
// in force, and the next one knows which to keep. What was half armed goes too.
func TestInterruptedUpgrade(t *testing.T) {
	g := arm(t, nil)
	c := Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)}
	m := newMap(t)
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	second, err := build(g.place, 2, c, g)
	if err != nil {
		t.Fatal(err)
	}
	half := &Guard{dir: g.dir, number: 3}
	if half.place, err = openPlace(g.dir); err != nil {
		t.Fatal(err)
	}
	kernel, err := typesOfKernel()
	if err != nil {
		t.Fatal(err)
	}
	plan := choose(kernel)
	use := plan.hooks
	if err := half.load(plan, 0, kernel); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(half.mark(), half.pinObjects(), half.attachFloor(rootOfCgroups(t), plan.floor), half.attach(hook{Program: "guard_unlink", Name: "inode_unlink"}, kernel)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(half.Close(), second.Close(), g.Close()); err != nil {
		t.Fatal(err)
	}
	next, err := Adopt(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	if adopted, others, err := Pinned(g.dir); err != nil || adopted == 0 || len(others) != 2 {
		t.Errorf("pinned %d, %d, %v; want one and two others", adopted, others, err)
	}
	if err := Tidy(g.dir); !errors.Is(err, ErrArmed) {
		t.Errorf("tidied as if there were no guard: %v", err)
	}
	if err := next.Tidy(); err != nil {
		t.Error(err)
	}
	*g = *next
	if dirs, err := names(g.dir); err != nil || len(dirs) != 1 || dirs[0] != "set-2" {
		t.Errorf("there are %v, %v", dirs, err)
	}
	if s, err := g.Status(); err != nil || !s.Enforces || !s.Current || len(s.Hooks) != len(use) {
		t.Errorf("status %+v, %v", s, err)
	}
	// What was owned is owned, and hornetd is known.
	if owned, err := g.Owned(); err != nil || !slices.Contains(owned, Object{Map, uint32(id)}) {
		t.Errorf("owned %v, %v", owned, err)
	}
	newMap(t)
	if out, err := child("create", nil).CombinedOutput(); err == nil {
		t.Errorf("a map was made: %s", out)
	}
}

// hornetd dies while it takes the guard down: what is left is no guard, for nobody is
// in it any more, and the next one arms as if there had been nothing.
func TestInterruptedDisarm(t *testing.T) {
	guestOnly(t)
	dir := filepath.Join(testenv.BPFFS(t), "guard")
	c := Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)}
	for _, adopts := range []bool{true, false} {
		g, err := Arm(dir, c)
		if err != nil {
			t.Fatal(err)
		}
		maps := filepath.Join(g.path(), "maps")
		full := filepath.Join(maps, "full") // what is in it cannot be removed, so that the rest stays
		for _, name := range []string{full, filepath.Join(full, "up")} {
			if err := os.Mkdir(name, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		top := filepath.Join(full, "up")
		if err := unix.Mount("tmpfs", top, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := g.Disarm(); !errors.Is(err, ErrLeft) || !strings.Contains(remedy.Of(err), "unmount") {
			t.Errorf("in spite of what is in its directory: %v (%s)", err, remedy.Of(err))
		}
		if out, err := child("create", nil).CombinedOutput(); err != nil {
			t.Errorf("it goes on: %v: %s", err, out)
		}
		if _, err := Arm(dir, c); err == nil || !strings.Contains(remedy.Of(err), "unmount") {
			t.Errorf("armed in spite of what is left: %v (%s)", err, remedy.Of(err))
		}
		if left, err := names(dir); err != nil || len(left) != 1 || left[0] != "stage-1" {
			t.Errorf("there are %v, %v", left, err)
		}
		if s, err := Look(dir); !errors.Is(err, ErrNotArmed) {
			t.Errorf("status %+v, %v, want none", s, err)
		}
		if err := unix.Unmount(strings.Replace(top, "set-1", "stage-1", 1), 0); err != nil {
			t.Fatal(err)
		}
		if !adopts {
			continue // Arm sweeps, too
		}
		if g, err := Adopt(dir); !errors.Is(err, ErrNotArmed) {
			t.Errorf("adopted %+v, %v", g, err)
		}
		if err := Tidy(dir); err != nil {
			t.Error(err)
		}
		if left, err := names(dir); err != nil || len(left) != 0 {
			t.Errorf("afterwards there are %v, %v", left, err)
		}
	}
	g, err := Arm(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Disarm(); err != nil {
		t.Error(err)
	}
}

// Where bpffs is read-only a guard that is disarmed is off and stays where it is: whoever
// has it can go on, and so can who takes it up.
func TestDisarmReadOnly(t *testing.T) {
	g := arm(t, nil)
	readOnly := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", filepath.Dir(g.dir), "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	creates := func(what string, want bool) {
		t.Helper()
		if out, err := child("create", nil).CombinedOutput(); (err == nil) != want {
			t.Errorf("%s: a map: %v: %s", what, err, out)
		}
	}
	creates("armed", false)
	readOnly(unix.MS_RDONLY)
	for range 2 {
		for range 2 {
			if err := g.Disarm(); !errors.Is(err, unix.EROFS) || errors.Is(err, ErrLeft) || !strings.Contains(remedy.Of(err), "can be written") {
				t.Fatalf("disarmed: %v (%s)", err, remedy.Of(err))
			}
		}
		creates("disarmed", true)
		next, err := Adopt(g.dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		*g = *next
		if s, err := g.Status(); err != nil || s.Mode != Off || len(s.Hooks) == 0 {
			t.Errorf("status %+v, %v", s, err)
		}
	}
	if err := g.SetMode(Enforce, time.Minute); err != nil {
		t.Error(err)
	}
	creates("enforced again", false)
	readOnly(0)
	if err := g.Disarm(); err != nil {
		t.Error(err)
	}
	creates("at the end", true)
	if left, err := names(g.dir); err != nil || len(left) != 0 {
		t.Errorf("there are %v, %v", left, err)
	}
}

// Who is told that the old guard stays is not told to disarm the new one.
func TestUpgradeReadOnly(t *testing.T) {
	g := arm(t, nil)
	next, err := build(g.place, 2, Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)}, g)
	if err != nil {
		t.Fatal(err)
	}
	old := *g
	*g = *next
	bpffs := filepath.Dir(g.dir)
	if err := unix.Mount("", bpffs, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := old.giveWay(); !errors.Is(err, unix.EROFS) || !strings.HasSuffix(remedy.Of(err), "then restart hornetd, which removes it") {
		t.Errorf("%v (%s)", err, remedy.Of(err))
	}
	if err := unix.Mount("", bpffs, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := g.Tidy(); err != nil { // as a start does
		t.Error(err)
	}
	if dirs, err := names(g.dir); err != nil || len(dirs) != 1 || dirs[0] != "set-2" {
		t.Errorf("there are %v, %v", dirs, err)
	}
}

// A hook of the old guard that cannot be removed decides nothing beside the new one.
func TestUpgradeLeaves(t *testing.T) {
	g := arm(t, nil)
	stays := ""
	for name := range g.links {
		if strings.HasPrefix(name, "guard_bpf") {
			stays = filepath.Join(g.dir, "stage-1", "links", name)
			if err := unix.Mount("/proc/self/exe", filepath.Join(g.path(), "links", name), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	next, err := g.Upgrade(Config{Mode: Audit, Cgroup: testenv.CgroupRoot(t)})
	if next == nil {
		t.Fatal(err)
	}
	*g = *next
	if !errors.Is(err, ErrLeft) || !strings.Contains(remedy.Of(err), "unmount") {
		t.Errorf("upgraded: %v (%s)", err, remedy.Of(err))
	}
	if out, err := child("create", nil).CombinedOutput(); err != nil {
		t.Errorf("audited, and refused by the old one: %v: %s", err, out)
	}
	if err := unix.Unmount(stays, 0); err != nil {
		t.Fatal(err)
	}
	next, err = Adopt(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	*g = *next
	if err := g.Tidy(); err != nil {
		t.Error(err)
	}
	if dirs, err := names(g.dir); err != nil || len(dirs) != 1 || dirs[0] != "set-2" {
		t.Errorf("there are %v, %v", dirs, err)
	}
}

// The guard of another build has a shorter state or a longer one, and a control program
// that reads more words: it is looked at and asked all the same.
func TestGuardOfAnotherBuild(t *testing.T) {
	guestOnly(t)
	dir := filepath.Join(testenv.BPFFS(t), "guard")
	set := filepath.Join(dir, "set-1")
	for _, name := range []string{"maps", "links"} {
		if err := os.MkdirAll(filepath.Join(set, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := state{Mode: Audit, Refused: 5, Object: objectSum + 1}
	for _, size := range []uint32{firstState, firstState + 64} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(set, "maps", pinName(stateMap))
		err = errors.Join(m.Put(uint32(0), append(s.bytes(), make([]byte, 64)...)[:size]), m.Pin(name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Look(dir); err != nil || got.Mode != Audit || got.Refused != 5 || got.Current {
			t.Errorf("a state of %d bytes: %+v, %v", size, got, err)
		}
		if err := errors.Join(os.Remove(name), m.Close()); err != nil {
			t.Fatal(err)
		}
	}
	const word = 11 // the last that the kernel hands over
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.RawTracepoint, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R0, asm.R1, word*8, asm.DWord), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	other := &Guard{programs: map[string]*ebpf.Program{controlProgram: p}}
	if err := other.control("ask", opWhoAmI); err != nil {
		t.Error(err)
	}
}

// One set replaces another while somebody looks.
func TestLookDuringUpgrades(t *testing.T) {
	guestOnly(t)
	dir := filepath.Join(testenv.BPFFS(t), "guard")
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(binary.Size(state{})), MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	set := func(n int) error {
		stage, set := filepath.Join(dir, fmt.Sprint("stage-", n)), filepath.Join(dir, fmt.Sprint("set-", n))
		for _, name := range []string{"maps", "links"} {
			if err := os.MkdirAll(filepath.Join(stage, name), 0o700); err != nil {
				return err
			}
		}
		c, err := m.Clone()
		if err != nil {
			return err
		}
		defer c.Close()
		return errors.Join(c.Pin(filepath.Join(stage, "maps", pinName(stateMap))), os.Rename(stage, set))
	}
	if err := set(1); err != nil {
		t.Fatal(err)
	}
	replaced := make(chan error)
	go func() {
		defer close(replaced)
		for n := 1; n < 2000; n++ {
			old := &Guard{dir: dir, number: n, named: true}
			var err error
			if old.place, err = openPlace(dir); err == nil {
				err = errors.Join(set(n+1), old.takeDown())
			}
			if err != nil {
				replaced <- err
				return
			}
		}
	}()
	for looks := 0; ; looks++ {
		select {
		case err := <-replaced:
			if err != nil {
				t.Error(err)
			}
			t.Logf("%d looks", looks)
			return
		default:
		}
		if _, err := Look(dir); err != nil {
			t.Fatalf("look %d: %v", looks, err)
		}
	}
}

// What is not hornetd's is listed, and the guard is hornetd's.
func TestInventory(t *testing.T) {
	guestOnly(t)
	p, err := ebpf.NewProgram(cgroupProgram("before"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	g := arm(t, nil)
	ours, err := ebpf.NewProgram(cgroupProgram("ours"))
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	list, err := g.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range list {
		found = found || f.Name == "before" && f.Type == ebpf.CGroupSKB && f.UID == 0 && f.Loaded > 0 && f.Tag != ""
		if f.Name == "ours" || strings.HasPrefix(f.Name, "guard_") {
			t.Errorf("%+v is hornetd's", f)
		}
	}
	if !found {
		t.Errorf("inventory %+v", list)
	}
}

// A guard is found by what the kernel has, with what is sealed in it, until it is ended.
func TestInForce(t *testing.T) {
	seal := map[[32]byte]uint32{{1, 2, 3}: 7}
	g := arm(t, func(c *Config) { c.Mode, c.ConfirmWithin, c.Sealed = Audit, 0, seal })
	find := func() (all []Found) {
		t.Helper()
		all, err := InForce()
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(all, func(f Found) bool { return f.Sealed[[32]byte{1, 2, 3}] != 7 })
	}
	if all := find(); len(all) != 1 || all[0].Mode != Audit || all[0].Enforces {
		t.Errorf("found %+v", all)
	}
	if err := g.SetMode(Enforce, time.Minute); err != nil {
		t.Fatal(err)
	}
	if all := find(); len(all) != 1 || all[0].Mode != Enforce || !all[0].Enforces {
		t.Errorf("enforcing, found %+v", all)
	}
	// The one that replaces it owns what has gone with the old one, too.
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t), Sealed: seal})
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	all := find()
	if len(all) != 1 || all[0].Orphan || !all[0].Enforces {
		t.Fatalf("upgraded, found %+v", all)
	}

	if adopted, others, err := Pinned(g.dir); err != nil || len(others) != 0 || adopted != all[0].Program {
		t.Errorf("pinned %d, %v, %v", adopted, others, err)
	}
	if err := g.Disarm(); err != nil {
		t.Fatal(err)
	}
	if all := find(); len(all) != 0 {
		t.Errorf("disarmed, found %+v", all)
	}
}

// What is attached is in force, also without the program that ends it, and without what is
// sealed.
func TestInForceWithoutControl(t *testing.T) {
	seal := map[[32]byte]uint32{{1, 2, 3}: 7}
	g := arm(t, func(c *Config) { c.Sealed = seal })
	soon := func(what string, is func(all []Found) bool) {
		t.Helper()
		var all []Found
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			var err error
			if all, err = InForce(); err != nil {
				t.Fatal(err)
			}
			if is(all) {
				return
			}
		}
		t.Errorf("%s, found %+v", what, all)
	}
	orphan := func(all []Found) bool { return len(all) == 1 && all[0].Orphan && all[0].Enforces }
	g.programs[controlProgram].Close()
	delete(g.programs, controlProgram)
	if err := os.Remove(filepath.Join(g.path(), "programs", controlProgram)); err != nil {
		t.Fatal(err)
	}
	soon("without its control program", func(all []Found) bool { return orphan(all) && all[0].Sealed[[32]byte{1, 2, 3}] == 7 })
	if adopted, others, err := Pinned(g.dir); err != nil || adopted != 0 || len(others) != 0 {
		t.Errorf("pinned %d, %v, %v", adopted, others, err)
	}
	set, dir := g.name(), g.dir
	for _, sub := range []string{"programs", "maps"} {
		if err := os.RemoveAll(filepath.Join(g.path(), sub)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	soon("with nothing but its links", func(all []Found) bool { return orphan(all) && all[0].Sealed == nil })
	place, err := openPlace(dir)
	if err == nil {
		err = remove(place, set)
		place.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	soon("without them", func(all []Found) bool { return len(all) == 0 })
}

// Frozen: nobody writes what the guard decides by, hornetd neither.
func TestMapsAreFrozen(t *testing.T) {
	g := arm(t, func(c *Config) { c.Sealed = map[[32]byte]uint32{{1, 2, 3}: 7} })
	for name, m := range g.maps {
		if name == eventsMap {
			continue
		}
		key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
		if name == "marks" || name == "commands" {
			fd, err := unix.PidfdOpen(os.Getpid(), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			err = m.Put(int32(fd), value)
			if !errors.Is(err, unix.EPERM) {
				t.Errorf("map %s: a write: %v, want EPERM", name, err)
			}
			continue
		}
		if err := m.Put(key, value); !errors.Is(err, unix.EPERM) {
			t.Errorf("map %s: a write: %v, want EPERM", name, err)
		}
		if _, err := unix.Mmap(m.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			t.Errorf("map %s can be mapped to write", name)
		}
	}
	sealed, err := g.Sealed()
	if err != nil || len(sealed) != 1 || sealed[[32]byte{1, 2, 3}] != 7 {
		t.Errorf("sealed %v, %v", sealed, err)
	}
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t), Sealed: sealed})
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	if again, err := g.Sealed(); err != nil || len(again) != 1 {
		t.Errorf("sealed after an upgrade %v, %v", again, err)
	}
	if dirs, err := names(g.dir); err != nil || len(dirs) != 1 || dirs[0] != "set-2" {
		t.Errorf("after an upgrade there are %v, %v", dirs, err)
	}
}

// childDaemon is hornetd: it adopts or arms, and upgrades until it is killed.
func childDaemon(args []string) error {
	dir, home := args[0], args[1]
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer exe.Close()
	c := Config{
		Mode: Enforce, ConfirmWithin: 8 * time.Minute, Cgroup: home, Executables: []*os.File{exe},
		Allow: []Identity{{Cgroup: filepath.Dir(home), Signals: true}}, // the test, which kills it
	}
	g, err := Adopt(dir)
	if err == nil {
		err = g.Tidy()
	}
	if errors.Is(err, ErrNotArmed) {
		g, err = Arm(dir, c)
	}
	if err != nil {
		return err
	}
	if len(args) > 2 {
		fmt.Println(args[2])
		if args[2] == "tidies" {
			return g.Close()
		}
		return g.Disarm()
	}
	fmt.Println("ready", g.number)
	for {
		if g, err = g.Upgrade(c); err != nil {
			return err
		}
		fmt.Println("upgraded", g.number)
	}
}

// childLoop is an attacker who never rests: it loads, and removes what is pinned.
func childLoop(args []string) error {
	tries, hits := 0, 0
	for end := time.Now(); ; tries++ {
		if p, err := socketFilter(); err == nil {
			hits++
			p.Close()
		}
		if os.RemoveAll(args[0]) == nil {
			hits++
		}
		if time.Since(end) > time.Second {
			end = time.Now()
			fmt.Println(tries, hits)
		}
	}
}

// make guard-upgrades asks for more.
var kills = flag.Int("guard.kills", 3, "how often hornetd is killed while it upgrades its guard")

// hornetd is killed at any point of upgrade after upgrade; whatever it left, the
// guard is in force all the time, and the next one takes it up.
func TestKilledDuringUpgrades(t *testing.T) {
	guestOnly(t)
	dir := filepath.Join(testenv.BPFFS(t), "guard")
	home := testenv.Cgroup(t)
	exe := self(t)
	rounds, upgrades := *kills, 0
	span := 10 * time.Second // of one upgrade, and more
	defer func() {
		_, out := fromInit(t, home, exe, "daemon", dir, home, "tidies")
		if got := said(t, out); got != "tidies" {
			t.Errorf("at the end: %s", got)
		}
		if pins, err := filepath.Glob(filepath.Join(dir, "*", floorDir, "*")); err != nil || len(pins) == 0 || len(onRoot(t)) != len(pins) {
			t.Errorf("at the end the root cgroup has programs %d, and pinned are %v, %v", onRoot(t), pins, err)
		}
		_, out = fromInit(t, home, exe, "daemon", dir, home, "disarms")
		if got := said(t, out); got != "disarms" {
			t.Errorf("at the end: %s", got)
		}
		hasFloor(t, "disarmed", nil)
		if out, err := child("create", nil).CombinedOutput(); err != nil {
			t.Errorf("after it is disarmed: %v: %s", err, out)
		}
	}()
	var attacker *exec.Cmd
	last := make(chan string, 1) // line of what it prints
	for round := range rounds {
		p, out := fromInit(t, home, exe, "daemon", dir, home)
		lines := bufio.NewReader(out)
		first, err := lines.ReadString('\n')
		if err != nil || !strings.HasPrefix(first, "ready") {
			rest, _ := io.ReadAll(lines)
			t.Fatalf("round %d: hornetd says %s%s, %v", round, first, rest, err)
		}
		if attacker == nil {
			attacker = child("loop", nil, dir)
			pipe, err := attacker.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := attacker.Start(); err != nil {
				t.Fatal(err)
			}
			go func() {
				line := ""
				for lines := bufio.NewScanner(pipe); lines.Scan(); {
					line = lines.Text()
				}
				last <- line
			}()
		}
		if round%10 == 1 { // the old one is in force no more, or just going
			begun := time.Now()
			if line, err := lines.ReadString('\n'); err != nil {
				t.Fatalf("round %d: %s, %v", round, line, err)
			}
			upgrades++
			span = time.Since(begun) * 5 / 4
		}
		wait := time.Duration(rand.Int64N(int64(span)))
		time.Sleep(wait)
		if err := p.Kill(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		rest := said(t, lines)
		upgrades += strings.Count(rest, "upgraded")
		t.Logf("round %d: killed after %v: %s", round, wait, strings.ReplaceAll(rest, "\n", ", "))
	}
	time.Sleep(1500 * time.Millisecond) // it still runs, and hornetd does not
	if err := attacker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	tries, hits, _ := strings.Cut(<-last, " ")
	if err := attacker.Wait(); err == nil {
		t.Error("the attacker ended by itself")
	}
	if hits != "0" {
		t.Errorf("the attacker tried %q times and succeeded %q times", tries, hits)
		return
	}
	t.Logf("%d kills, %d whole upgrades; the attacker tried %s times", rounds, upgrades, tries)
}
