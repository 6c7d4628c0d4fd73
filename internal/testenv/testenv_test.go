package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// inner is a test inside a test: it collects errors and runs its cleanups when
// told to.
type inner struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (i *inner) Cleanup(f func())          { i.cleanups = append(i.cleanups, f) }
func (i *inner) Error(args ...any)         { i.errors = append(i.errors, fmt.Sprint(args...)) }
func (i *inner) Errorf(f string, a ...any) { i.errors = append(i.errors, fmt.Sprintf(f, a...)) }

func (i *inner) end() {
	for _, f := range slices.Backward(i.cleanups) {
		f()
	}
}

func TestBPFFS(t *testing.T) {
	RequireRoot(t)
	in := &inner{TB: t}
	dir := BPFFS(in)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.BPF_FS_MAGIC {
		t.Errorf("filesystem type %#x, %v", fs.Type, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	in.end()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if len(in.errors) > 0 {
		t.Error(in.errors)
	}
}

func TestCgroup(t *testing.T) {
	RequireRoot(t)
	in := &inner{TB: t}
	dir := Cgroup(in)
	sleep := CgroupCommand(in, dir, "sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if want := fmt.Sprintln(sleep.Process.Pid); err != nil || string(procs) != want {
		t.Fatalf("processes %q, %v; want %q", procs, err, want)
	}
	if err := os.Mkdir(filepath.Join(dir, "child"), 0o755); err != nil {
		t.Error(err)
	}
	in.end()
	if len(in.errors) > 0 {
		t.Fatal(in.errors)
	}
	if err := sleep.Wait(); err == nil {
		t.Error("sleep was not killed")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestTracefs(t *testing.T) {
	RequireRoot(t)
	before, _ := mountPoints("tracefs")
	outer, in := &inner{TB: t}, &inner{TB: t}
	dir := Tracefs(outer)
	Tracefs(in)
	outer.end()
	if _, err := os.Stat(filepath.Join(dir, "events/sched")); err != nil {
		t.Errorf("gone with the other test's mount: %v", err)
	}
	in.end()
	after, _ := mountPoints("tracefs")
	if !slices.Equal(before, after) {
		t.Errorf("mounts before %q, after %q", before, after)
	}
}

func TestVeth(t *testing.T) {
	RequireRoot(t)
	home := namespace(t)
	p := Veth(t)
	if p.A.Netns == p.B.Netns || p.A.Ifindex == 0 || len(p.B.MAC) != 6 {
		t.Errorf("pair %+v", p)
	}
	if got := p.Ping(t, 2); got != 2 {
		t.Errorf("%d of 2 pings came back", got)
	}
	if got := p.PingFromB(t, 1); got != 1 {
		t.Errorf("%d of 1 pings came back", got)
	}
	if got := p.Send(t, 20); got != 20 {
		t.Errorf("%d of 20 datagrams arrived", got)
	}
	IP(t, p.B.Netns, "link", "set", p.B.Name, "down")
	if got := p.Ping(t, 1); got != 0 {
		t.Errorf("%d pings came back from an interface that is down", got)
	}
	if now := namespace(t); now != home {
		t.Errorf("this process's namespace was %s and is %s", home, now)
	}
}

// TestInNetns checks from outside, with a child process, which namespace runs fn.
func TestInNetns(t *testing.T) {
	ns := Netns(t)
	var want unix.Stat_t
	if err := unix.Stat(ns, &want); err != nil {
		t.Fatal(err)
	}
	var got []byte
	err := InNetns(t, ns, func() (err error) {
		got, err = exec.Command("readlink", "/proc/self/ns/net").Output()
		return err
	})
	if s := fmt.Sprintf("net:[%d]\n", want.Ino); err != nil || string(got) != s {
		t.Errorf("namespace %q, %v; want %q", got, err, s)
	}
}

func namespace(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestNoLeaks(t *testing.T) {
	RequireRoot(t)
	defer func(d time.Duration) { patience = d }(patience)
	patience = 5 * time.Second
	newMap := func(t *testing.T) *ebpf.Map {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "leak", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	t.Run("nothing left", func(t *testing.T) {
		in := &inner{TB: t}
		NoLeaks(in)
		newMap(t).Close()
		in.end()
		if len(in.errors) > 0 {
			t.Error(in.errors)
		}
	})
	t.Run("descriptor left", func(t *testing.T) {
		in := &inner{TB: t}
		NoLeaks(in)
		m := newMap(t)
		in.end()
		info, _ := m.Info()
		id, _ := info.ID()
		if len(in.errors) != 1 || !strings.Contains(in.errors[0], fmt.Sprintf("map %d ", id)) || !strings.Contains(in.errors[0], "left open") {
			t.Errorf("errors %q, want one that names map %d", in.errors, id)
		}
	})
	t.Run("pin left", func(t *testing.T) {
		in := &inner{TB: t}
		dir := BPFFS(t)
		NoLeaks(in)
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "leak", Type: ebpf.SocketFilter, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Pin(filepath.Join(dir, "leak")); err != nil {
			t.Fatal(err)
		}
		p.Close()
		in.end()
		if len(in.errors) != 1 || !strings.Contains(in.errors[0], "prog ") {
			t.Errorf("errors %q, want one program", in.errors)
		}
	})
	t.Run("memory of a variable", func(t *testing.T) {
		in := &inner{TB: t}
		NoLeaks(in)
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "leak", Type: ebpf.Array, KeySize: 4, ValueSize: 4096, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Memory(); err != nil {
			t.Fatal(err)
		}
		m.Close()
		in.end()
		if len(in.errors) > 0 {
			t.Error(in.errors)
		}
	})
	t.Run("another process's", func(t *testing.T) {
		// A pin in a bpffs that somebody else mounted is not ours.
		dir, err := os.MkdirTemp("", "other-bpffs-*")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(dir) })
		mount(t, "bpf", dir, "mode=0700")
		in := &inner{TB: t}
		NoLeaks(in)
		m := newMap(t)
		if err := m.Pin(filepath.Join(dir, "theirs")); err != nil {
			t.Fatal(err)
		}
		m.Close()
		in.end()
		if len(in.errors) > 0 {
			t.Error(in.errors)
		}
	})
	t.Run("another namespace's", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "other-bpffs-*")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(dir) })
		in := &inner{TB: t}
		NoLeaks(in)
		// A process with a bpffs that only its mount namespace has.
		sh := exec.CommandContext(t.Context(), "sh", "-c", `mount -t bpf bpf "$1" && echo && exec sleep 1000`, "sh", dir)
		sh.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		out, err := sh.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := sh.Start(); err != nil {
			t.Fatal(err)
		}
		out.Read(make([]byte, 1))
		m := newMap(t)
		if err := m.Pin(fmt.Sprintf("/proc/%d/root%s/theirs", sh.Process.Pid, dir)); err != nil {
			t.Fatal(err)
		}
		m.Close()
		in.end()
		if len(in.errors) > 0 {
			t.Error(in.errors)
		}
		sh.Process.Kill()
		sh.Wait()
	})
	t.Run("another process's descriptor", func(t *testing.T) {
		in := &inner{TB: t}
		NoLeaks(in)
		m := newMap(t)
		// The sleep is adopted by init: no child of ours holds the map.
		sh := exec.Command("setsid", "-f", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		sh.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "map")}
		out, err := sh.Output()
		if err != nil {
			t.Fatal(err)
		}
		sh.ExtraFiles[0].Close()
		m.Close()
		t.Cleanup(func() {
			var pid int
			fmt.Sscan(string(out), &pid)
			if pid > 1 {
				unix.Kill(pid, unix.SIGKILL)
			}
		})
		in.end()
		if len(in.errors) > 0 {
			t.Error(in.errors)
		}
	})
}
