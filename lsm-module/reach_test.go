package lsm

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// loadWriting loads a socket filter that writes the first word of a map, for which it
// need not be writable.
func loadWriting(fd int) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, fd, 0), asm.StoreImm(asm.R1, 0, 0, asm.Word), asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}})
	if err == nil {
		p.Close()
	}
	return err
}

// Who is listed for loading programs and looking at maps gets no program that writes
// a map of hornetd's, whoever gave the descriptor.
func TestProgramsOfOwnedMaps(t *testing.T) {
	guestOnly(t)
	foreign, listed := newMap(t), testenv.Cgroup(t)
	g := arm(t, func(c *Config) {
		c.Allow = []Identity{{Cgroup: listed, Commands: []uint32{unix.BPF_PROG_LOAD, unix.BPF_MAP_GET_FD_BY_ID},
			Programs: []uint32{uint32(ebpf.SocketFilter)}}}
	})
	owned, shared := newMap(t), newMap(t)
	if err := g.Share(mapID(t, shared)); err != nil {
		t.Fatal(err)
	}
	tries := []string{"filter", "read=" + fmt.Sprint(mapID(t, owned)), "read=" + fmt.Sprint(mapID(t, g.maps[stateMap])), "uses=3", "uses=4", "uses=5", "uses=6"}
	const want = "ok ok EPERM EPERM EPERM ok ok"

	dir, err := os.Open(listed)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := child("tries", nil, tries...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	for _, m := range []*ebpf.Map{g.maps[stateMap], owned, shared, foreign} {
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "map")
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	out, err := cmd.CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		t.Errorf("%v:\n%s (%v), want\n%s", tries, got, err, want)
	}
}

func mapID(t *testing.T, m *ebpf.Map) uint32 {
	t.Helper()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return uint32(id)
}

// A child of hornetd that has not executed anything yet has all that hornetd has.
func TestForkedChild(t *testing.T) {
	arm(t, nil)
	forked, err := fork()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Kill(forked, unix.SIGKILL); err != nil { // hornetd may
			t.Error(err)
			return // it would be waited for in vain
		}
		if _, err := unix.Wait4(forked, nil, 0, nil); err != nil {
			t.Error(err)
		}
	}()
	other, _ := startProgram(t, "/bin/sleep", "60")
	defer func() {
		if err := other.Kill(); err != nil {
			t.Error(err)
		}
		if _, err := other.Wait(); err != nil {
			t.Error(err)
		}
	}()
	for waited := 0; ; waited++ { // until the shell has become sleep
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", other.Pid)); err != nil || waited > 500 {
			t.Fatalf("%s, %v", b, err)
		} else if string(b) == "sleep\n" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, tt := range []struct {
		what string
		pid  int
		want string
	}{{"forked", forked, "EACCES EPERM"}, {"another program", other.Pid, "ok ok"}} {
		out, err := child("tries", nil, fmt.Sprint("memory=", tt.pid), fmt.Sprint("stop=", tt.pid)).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
			t.Errorf("%s: /proc/PID/mem to write and SIGSTOP: %s (%v), want %s", tt.what, got, err, tt.want)
		}
	}
}

// fork makes a copy of this process, of one thread that only waits.
func fork() (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	for pid == 0 {
		syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
	return int(pid), nil
}

// Where there is no memory to note what hornetd does, it does not do it: what it made
// would not be owned. The storage is not there because the guard does not ask for it.
func TestNoMemory(t *testing.T) {
	guestOnly(t)
	whole := object
	defer func() { object = whole }()
	object = withoutStorage(t, whole)
	dir := filepath.Join(testenv.BPFFS(t), "guard")
	g, err := Arm(dir, Config{Mode: Audit, Cgroup: testenv.CgroupRoot(t)})
	if err == nil || !strings.Contains(err.Error(), unix.ENOMEM.Error()) { // the library does not wrap it
		t.Errorf("Arm = %v, want ENOMEM", err)
	}
	if err == nil {
		if err := g.Disarm(); err != nil {
			t.Error(err)
		}
	} else if n, newestErr := newestIn(dir); n != 0 {
		t.Errorf("set %d is there, %v", n, newestErr)
	}
	object = whole
	g, err = Arm(dir, Config{Mode: Audit, Cgroup: testenv.CgroupRoot(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Disarm(); err != nil {
		t.Error(err)
	}
}

// withoutStorage changes guard_bpf so that it never makes storage of a task.
func withoutStorage(t *testing.T, object []byte) []byte {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	section := file.Section("lsm/bpf")
	changed := bytes.Clone(object)
	const size = 8
	create := []byte{0xb7, 4, 0, 0, 1, 0, 0, 0} // r4 = BPF_LOCAL_STORAGE_GET_F_CREATE
	get := []byte{0x85, 0, 0, 0, 156, 0, 0, 0}  // call bpf_task_storage_get
	var last []byte                             // that set r4
	found := 0
	for at := section.Offset; at < section.Offset+section.Size; at += size {
		insn := changed[at : at+size]
		if insn[0] == create[0] && insn[1] == create[1] {
			last = insn
		}
		if bytes.Equal(insn, get) && bytes.Equal(last, create) {
			last[4] = 0
			found++
		}
	}
	if found != 2 {
		t.Fatalf("guard_bpf and guard_bpf_old make storage in %d places, want one in each", found)
	}
	return changed
}

// childWaits says that it is there, and stays.
func childWaits([]string) error {
	fmt.Println("there")
	time.Sleep(time.Hour)
	return nil
}

// inside does something in the mount namespace of another process.
func inside(pid string, do func() error) error {
	runtime.LockOSThread() // for ever
	ns, err := os.Open("/proc/" + pid + "/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return err
	}
	return do()
}

// systemd gives hornetd another mount namespace at each start; nobody unmounts the
// pins there, or mounts over what it reads of /proc. One that somebody else is in is their
// own.
func TestNamespaceOfHornetd(t *testing.T) {
	guestOnly(t)
	home, elsewhere := testenv.Cgroup(t), testenv.Cgroup(t)
	exe := self(t)
	enrolled, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer enrolled.Close()
	g := arm(t, func(c *Config) {
		c.Cgroup = home
		c.Executables = []*os.File{enrolled}
	})
	bpffs := filepath.Dir(g.dir)
	const ofProc = "/proc/tty"
	tries := func(tries ...string) string {
		t.Helper()
		said, err := child("tries", nil, tries...).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v", tries, err)
		}
		return strings.TrimSpace(string(said))
	}
	// The one that hornetd is in is the first process's, whose /proc is for everybody.
	if got := tries("over="+ofProc, "umount="+ofProc); got != "ok ok" {
		t.Errorf("a mount over %s in the first process's: %s", ofProc, got)
	}
	for _, tt := range []struct{ what, cgroup, want string }{
		{"somebody else's", elsewhere, "ok ok"},
		{"hornetd's", home, "EPERM EPERM"},
		{"somebody else's, again", elsewhere, "ok ok"},
	} {
		p, out := startBehind(t, unix.CLONE_PARENT|unix.CLONE_NEWNS, "mount --make-rprivate /", tt.cgroup, exe, "waits")
		lines := bufio.NewReader(out)
		if first, err := lines.ReadString('\n'); err != nil || first != "there\n" {
			rest, _ := io.ReadAll(lines)
			t.Fatalf("%s: %q%s, %v", tt.what, first, rest, err)
		}
		acts := []string{fmt.Sprintf("over-inside=%d:%s", p.Pid, ofProc), fmt.Sprintf("umount-inside=%d:%s", p.Pid, bpffs)}
		if got := tries(acts...); got != tt.want {
			t.Errorf("mount over %s and umount of the pins in %s: %s, want %s", ofProc, tt.what, got, tt.want)
		}
		if tt.cgroup == home { // the next guard knows it, too
			next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: home})
			if err != nil {
				t.Fatal(err)
			}
			*g = *next
			if got := tries(acts...); got != tt.want {
				t.Errorf("the same behind an upgrade: %s, want %s", got, tt.want)
			}
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}
	// Here, where the first process is and hornetd was.
	if got := tries("umount=" + bpffs); got != "EPERM" {
		t.Errorf("umount in the first process's: %s, want EPERM", got)
	}
}

// A file that has got the inode of an enrolled one, which is gone, is another.
func TestReusedInode(t *testing.T) {
	guestOnly(t)
	dir := onDisk(t)
	name := filepath.Join(dir, "file")
	inode := func() uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	write := func() string {
		out, err := child("tries", nil, "open="+name).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	enrolled, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	arm(t, func(c *Config) { c.Executables = []*os.File{enrolled} })
	first := inode()
	// It has not gone where the kernel only forgets it.
	unix.Sync()
	if err := errors.Join(enrolled.Close(), os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)); err != nil {
		t.Fatal(err)
	}
	if got := write(); got != "EPERM" {
		t.Errorf("the enrolled one can be written: %s", got)
	}
	if err := errors.Join(os.Remove(name), os.WriteFile(name, nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	if second := inode(); second != first {
		t.Fatalf("inode %d, the first had %d", second, first)
	}
	if got := write(); got != "ok" {
		t.Errorf("another one with its inode cannot be written: %s", got)
	}
}
