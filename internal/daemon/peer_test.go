package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/names"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
)

// playing says what the test binary does instead of tests, where it plays another
// process: a peer, or a daemon in namespaces of its own.
const playing = "HORNET_TEST_PEER"

func init() {
	play, ok := map[string]func() error{
		"connect": playConnect, "leave": playLeave, "exec": playExec, "wait": playWait, "pass": playPass,
		"serve": playServe, "rooted": playRooted, "races": playRaces, "racer": playRacer, "left": func() error { return nil },
	}[os.Getenv(playing)]
	if !ok {
		return
	}
	if err := play(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// dial connects to the path in the first argument.
func dial() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) // and stays open over an exec
	if err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrUnix{Name: os.Args[1]})
}

// playWait says that it is ready and lives until its standard input ends.
func playWait() error {
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func playConnect() error {
	if _, err := dial(); err != nil {
		return err
	}
	return playWait()
}

// playLeave ends, and leaves the connection to a child.
func playLeave() error {
	fd, err := dial()
	if err != nil {
		return err
	}
	child := exec.Command(os.Args[0])
	child.Env = []string{playing + "=wait"}
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "connection")}
	return child.Start()
}

// playExec becomes the program in the second argument.
func playExec() error {
	if _, err := dial(); err != nil {
		return err
	}
	return unix.Exec(os.Args[2], []string{os.Args[2]}, []string{playing + "=wait"})
}

// playPass gives the connection to whoever holds the other end of descriptor 3.
func playPass() error {
	fd, err := dial()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	return playWait()
}

// playServe says who connected to the listener that is descriptor 3.
func playServe() error {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	conn, err := l.(*net.UnixListener).AcceptUnix()
	if err != nil {
		return err
	}
	peer, err := peerOf(conn)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(peer)
}

// rooted says what follows, where a process makes its cgroup the root first.
const rooted = "HORNET_TEST_ROOTED"

func playRooted() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, []string{playing + "=" + os.Getenv(rooted)})
}

// stage is a directory that everybody may enter, with a socket and a copy of the
// test binary, and the cgroup of a daemon.
type stage struct {
	t        *testing.T
	dir      string
	socket   string
	binary   string
	listener *net.UnixListener
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, dir: socketDir(t)}
	s.socket, s.binary = filepath.Join(s.dir, "s"), filepath.Join(s.dir, "peer")
	s.copy(s.binary, 0o755)
	l, err := Listen(s.socket, 0o666, "0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.listener = l
	return s
}

// copy puts the test binary at path.
func (s *stage) copy(path string, mode os.FileMode) {
	s.t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(path, self, 0o755)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// actor is a process that plays something.
type actor struct {
	*exec.Cmd
	t   *testing.T
	out io.Reader
	in  io.Closer
}

// start has a user play what, and waits until that says it is ready.
func (s *stage) start(what string, uid uint32, change func(*exec.Cmd), args ...string) *actor {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.binary, append([]string{s.socket}, args...)...)
	cmd.Env = []string{playing + "=" + what}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{7, 50}}}
	out, err1 := cmd.StdoutPipe()
	in, err2 := cmd.StdinPipe()
	if change != nil {
		change(cmd)
	}
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		s.t.Fatal(err)
	}
	a := &actor{cmd, s.t, out, in}
	if b, err := io.ReadAll(io.LimitReader(out, int64(len("ready\n")))); err != nil || string(b) != "ready\n" {
		s.t.Fatalf("%s: %q, %v", what, b, err)
	}
	return a
}

func (a *actor) end() {
	a.in.Close()
	a.Wait()
}

// accept returns who connected.
func (s *stage) accept() Peer {
	s.t.Helper()
	s.listener.SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	peer, err := peerOf(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return peer
}

// is refuses a peer that is not this user, with the groups that start gives, and
// this file; "" where none may be known.
func (s *stage) is(peer Peer, uid uint32, exe string) {
	s.t.Helper()
	if peer.UID != uid || peer.GID != uid || !slices.Equal(peer.Groups, []uint32{7, 50}) {
		s.t.Errorf("peer %+v, want user %d", peer, uid)
	}
	want := policy.File{}
	if exe != "" && hasPeerPIDFD(s.t) {
		var st unix.Stat_t
		if err := unix.Stat(exe, &st); err != nil {
			s.t.Fatal(err)
		}
		want = policy.File{Path: exe, Device: st.Dev, Inode: st.Ino}
	}
	if peer.Exe != want {
		s.t.Errorf("runs %+v, want %+v", peer.Exe, want)
	}
}

// hasPeerPIDFD asks the kernel, with a pair of sockets of this process.
func hasPeerPIDFD(t *testing.T) bool {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		unix.Close(pidfd)
	} else if !errors.Is(err, unix.ENOPROTOOPT) {
		t.Fatal(err)
	}
	return err == nil
}

func TestPeer(t *testing.T) {
	s := newStage(t)
	t.Run("lives", func(t *testing.T) {
		a := s.start("connect", 1234, nil)
		defer a.end()
		peer := s.accept()
		s.is(peer, 1234, s.binary)
		if peer.PID != int32(a.Process.Pid) {
			t.Errorf("pid %d, want %d", peer.PID, a.Process.Pid)
		}
	})
	// Its number is free for others when the connection is accepted.
	t.Run("is gone", func(t *testing.T) {
		a := s.start("leave", 1234, nil)
		if _, err := a.Process.Wait(); err != nil {
			t.Fatal(err)
		}
		s.is(s.accept(), 1234, "")
		a.in.Close()
	})
	// Its number is still its own, but it runs nothing.
	t.Run("is a zombie", func(t *testing.T) {
		a := s.start("leave", 1234, nil)
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, a.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		s.is(s.accept(), 1234, "")
		a.end()
	})
	t.Run("executes another program", func(t *testing.T) {
		other := filepath.Join(s.dir, "other")
		s.copy(other, 0o755)
		a := s.start("exec", 1234, nil, other)
		defer a.end()
		s.is(s.accept(), 1234, other)
	})
	t.Run("executes a program that makes it root", func(t *testing.T) {
		setuid := filepath.Join(s.dir, "setuid")
		s.copy(setuid, 0o755|os.ModeSetuid|os.ModeSetgid)
		a := s.start("exec", 1234, nil, setuid)
		defer a.end()
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.Process.Pid)); err != nil || !strings.Contains(string(status), "Uid:\t1234\t0\t0\t0\n") {
			t.Fatalf("it is not root: %v\n%s", err, status)
		}
		s.is(s.accept(), 1234, setuid)
	})
	t.Run("passes the connection to root", func(t *testing.T) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		mine, theirs := os.NewFile(uintptr(fds[0]), "mine"), os.NewFile(uintptr(fds[1]), "theirs")
		defer mine.Close()
		defer theirs.Close()
		a := s.start("pass", 1234, func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{theirs} })
		oob := make([]byte, 64)
		_, n, _, _, err := unix.Recvmsg(int(mine.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) != 1 {
			t.Fatal(messages, err)
		}
		passed, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(passed) != 1 {
			t.Fatal(passed, err)
		}
		defer unix.Close(passed[0])
		a.end()
		if _, err := unix.Write(passed[0], []byte("GET / HTTP/1.1\r\n")); err != nil { // root has it now
			t.Fatal(err)
		}
		s.is(s.accept(), 1234, "")
	})
}

// A user of another user namespace whom the kernel cannot name here is 65534, and
// root of a namespace is not root.
func TestPeerOfAnotherUserNamespace(t *testing.T) {
	s := newStage(t)
	own := func(inside, outside, size int) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			ids := []syscall.SysProcIDMap{{ContainerID: inside, HostID: outside, Size: size}}
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
				GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{Groups: []uint32{}}}
		}
	}
	t.Run("the peer's", func(t *testing.T) {
		a := s.start("connect", 0, own(0, 100000, 10))
		defer a.end()
		if peer := s.accept(); peer.UID != 100000 || peer.GID != 100000 || len(peer.Groups) != 0 {
			t.Errorf("%+v", peer)
		}
	})
	t.Run("the daemon's", func(t *testing.T) {
		l, err := s.listener.File()
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		inside := own(0, 0, 1)
		daemon := s.start("serve", 0, func(cmd *exec.Cmd) {
			inside(cmd)
			cmd.ExtraFiles = []*os.File{l}
		})
		a := s.start("connect", 1234, nil)
		defer a.end()
		var peer Peer
		if err := json.NewDecoder(daemon.out).Decode(&peer); err != nil {
			t.Fatal(err)
		}
		daemon.end()
		if peer.UID != overflowID || peer.GID != overflowID || !slices.Equal(peer.Groups, []uint32{overflowID, overflowID}) {
			t.Errorf("%+v", peer)
		}
		who := peer.subject()
		if err := allowed(who, "nobody"); err == nil {
			t.Error("whom the kernel cannot name is nobody, by name")
		}
		if err := allowed(who, "65534"); err != nil {
			t.Errorf("by its number: %v", err)
		}
	})
}

// The unit is the one whose cgroup the process is in, for a daemon whose root of
// cgroups is systemd's.
func TestPeerUnit(t *testing.T) {
	s := newStage(t)
	root := testenv.Cgroup(t)
	unit := filepath.Join(root, "system.slice", `web\x2dserver@1.service`)
	below := filepath.Join(unit, "ssh.service")
	cgroups(t, filepath.Dir(unit), unit, below)
	l, err := s.listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	within := func(dir string) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			f, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
		}
	}
	for dir, want := range map[string]string{root: "", filepath.Dir(unit): "", unit: filepath.Base(unit), below: filepath.Base(unit)} {
		daemon := s.start("rooted", 0, func(cmd *exec.Cmd) {
			within(root)(cmd)
			cmd.ExtraFiles = []*os.File{l}
			cmd.Env = append(cmd.Env, rooted+"=serve")
		})
		a := s.start("connect", 1234, within(dir))
		var peer Peer
		if err := json.NewDecoder(daemon.out).Decode(&peer); err != nil {
			t.Fatal(err)
		}
		daemon.end()
		a.end()
		if !hasPeerPIDFD(t) {
			want = ""
		}
		if peer.UID != 1234 || peer.Unit != want {
			t.Errorf("in %s: %+v, want unit %q", dir, peer, want)
		}
	}
}

// cgroups makes directories in a cgroup of testenv.Cgroup, and removes them
// before that is.
func cgroups(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := os.Remove(dir)
			for tries := 0; err != nil && tries < 500; tries++ { // what ended in it may not be gone
				time.Sleep(10 * time.Millisecond)
				err = os.Remove(dir)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// allowed asks the policy about a manifest that lets a user do something.
func allowed(s policy.Subject, user string) error {
	m := manifest.Manifest{Name: "m", Allow: []manifest.Allow{{User: user, May: []manifest.Right{manifest.RightStatus}}}}
	_, err := policy.New(policy.Limits{}, new(names.Host)).Authorize(s, policy.Status, m)
	return err
}

func TestWithoutProcess(t *testing.T) {
	for err, known := range map[error]bool{unix.ENOPROTOOPT: true, unix.EINVAL: true, unix.ESRCH: true,
		unix.EMFILE: false, unix.ENFILE: false, unix.ENOMEM: false, unix.ENODATA: false, unix.EPERM: false, unix.EBADF: false} {
		if got := withoutProcess(err); (got == nil) != known || got != nil && got != err {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// What the kernel will not say keeps the peer out: here, because there is no
// descriptor left.
func TestPeerThatCannotBeNamed(t *testing.T) {
	if !hasPeerPIDFD(t) {
		t.Skip("this kernel has no SO_PEERPIDFD, so that there is none to run out of")
	}
	s := newStage(t)
	a := s.start("connect", 1234, nil)
	defer a.end()
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	_, err = peerOf(conn)
	if back := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); back != nil {
		t.Fatal(back)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("%v, want EMFILE", err)
	}
}
