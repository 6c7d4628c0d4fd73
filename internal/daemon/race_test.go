package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// raced is what playRaces found out.
type raced struct {
	Races, Known int // connections, and those whose unit and executable were known
	Left         int // descriptors that are open behind them and were not before
	Wrong        []string
}

// racers are two users, each with an executable and a unit of its own. What one
// has, no process of the other ever had.
var racers = []struct {
	uid       uint32
	name      string
	exe, unit string
}{{2001, "a", "racer-a", "a.service"}, {2002, "b", "racer-b", "b.service"}}

// TestPeerRaces has processes of two users connect and at once end, fork or
// execute another program, in a pid namespace in which each of their numbers goes
// to the next. None may ever be taken for the other. A hundred thousand of them
// with HORNET_SOAK=1.
func TestPeerRaces(t *testing.T) {
	s := newStage(t)
	root := testenv.Cgroup(t)
	slice := filepath.Join(root, "system.slice")
	cgroups(t, slice, filepath.Join(root, "daemon"))
	for _, r := range racers {
		s.copy(filepath.Join(s.dir, r.exe), 0o755)
		s.copy(filepath.Join(s.dir, r.exe+"-2"), 0o755)
		cgroups(t, filepath.Join(slice, r.unit))
	}
	races, most := 1_000_000, 3*time.Second
	if os.Getenv("HORNET_SOAK") != "" {
		races, most = 100_000, time.Hour
	}
	f, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	init := s.start("rooted", 0, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, rooted+"=races")
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	}, root, strconv.Itoa(races), most.String())
	var got raced
	if err := json.NewDecoder(init.out).Decode(&got); err != nil {
		t.Fatal(err)
	}
	init.end()
	t.Logf("%d races, unit and executable known in %d", got.Races, got.Known)
	for _, wrong := range got.Wrong {
		t.Error(wrong)
	}
	if got.Left > 0 {
		t.Errorf("%d descriptors are left", got.Left)
	}
	// In an emulated guest there are few, and all may be over when they are looked at.
	has := hasPeerPIDFD(t)
	if got.Races < 10 || has && got.Known == 0 && got.Races > 1000 || !has && got.Known > 0 {
		t.Error("too few, or too much is known")
	}
}

// playRaces is the daemon and the first process of a pid namespace. Its arguments
// are a path beside which it listens, its cgroup, how many races, and how long at
// most.
func playRaces() error {
	dir, root := filepath.Dir(os.Args[1]), os.Args[2]
	races, err1 := strconv.Atoi(os.Args[3])
	most, err2 := time.ParseDuration(os.Args[4])
	err3 := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	err4 := unix.Mount("proc", "/proc", "proc", 0, "")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	signal.Ignore(unix.SIGCHLD) // whatever its children leave is waited for by the kernel
	socket := filepath.Join(dir, "races")
	l, err := Listen(socket, 0o666, "0")
	if err != nil {
		return err
	}
	for range 2 {
		for _, r := range racers {
			f, err := os.Open(filepath.Join(root, "system.slice", r.unit))
			if err != nil {
				return err
			}
			cmd := exec.Command(filepath.Join(dir, r.exe), socket)
			cmd.Env = []string{playing + "=racer"}
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd()), Credential: &syscall.Credential{Uid: r.uid, Gid: r.uid}}
			if err := cmd.Start(); err != nil {
				return err
			}
		}
	}
	fmt.Println("ready")
	got, err := race(l, dir, races, time.Now().Add(most))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}

// race accepts connections and has the next process get a number that was just in
// use.
func race(l *net.UnixListener, dir string, races int, end time.Time) (got raced, err error) {
	descriptors := func() int {
		all, _ := os.ReadDir("/proc/self/fd")
		return len(all)
	}
	before := 0
	defer func() { got.Left = descriptors() - before }()
	for got.Races < races && time.Now().Before(end) {
		l.SetDeadline(time.Now().Add(20 * time.Second))
		conn, err := l.AcceptUnix()
		if err != nil {
			return got, err
		}
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte("100"), 0); err != nil {
			return got, err
		}
		peer, err := peerOf(conn)
		conn.Close()
		if err != nil {
			return got, err
		}
		if got.Races++; got.Races == 1 {
			before = descriptors() // with those of the runtime
		}
		if peer.Unit != "" && peer.Exe.Path != "" {
			got.Known++
		}
		wrong := true
		for _, r := range racers {
			exe := filepath.Join(dir, r.exe)
			if peer.UID == r.uid && peer.GID == r.uid {
				wrong = peer.Unit != "" && peer.Unit != r.unit || peer.Exe.Path != "" && peer.Exe.Path != exe && peer.Exe.Path != exe+"-2"
			}
		}
		if wrong && len(got.Wrong) < 10 {
			got.Wrong = append(got.Wrong, fmt.Sprintf("race %d: %+v", got.Races, peer))
		}
	}
	return got, nil
}

// playRacer makes processes that connect, as fast as it can.
func playRacer() error {
	var address unix.RawSockaddrUnix
	address.Family = unix.AF_UNIX
	for i := range len(os.Args[1]) {
		address.Path[i] = int8(os.Args[1][i])
	}
	other, err := syscall.BytePtrFromString(os.Args[0] + "-2")
	if err != nil {
		return err
	}
	play, err := syscall.BytePtrFromString(playing + "=left")
	if err != nil {
		return err
	}
	argv, env := []*byte{other, nil}, []*byte{play, nil}
	for i := 0; ; i++ {
		kind := i % 3 // nothing, connect, connect and fork
		if i%101 == 100 {
			kind = 3
		}
		pid, errno := racer(kind, &address, other, &argv[0], &env[0])
		if errno != 0 {
			return errno
		}
		if _, err := syscall.Wait4(int(pid), nil, 0, nil); err != nil {
			return err
		}
	}
}

// racer makes one process. It is a copy of this one with a single thread, so all
// that it may do is system calls.
//
//go:norace
//go:noinline
func racer(kind int, address *unix.RawSockaddrUnix, other *byte, argv, env **byte) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	if kind > 0 {
		fd, _, _ := syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
		syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(address)), unsafe.Sizeof(*address))
		switch kind {
		case 2:
			syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		case 3:
			syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(other)), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(env)))
		}
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
