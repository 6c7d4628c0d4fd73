package daemon

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// socketDir is a directory that every user may enter.
func socketDir(t *testing.T) string {
	t.Helper()
	testenv.RequireRoot(t)
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestListenMakesTheSocketAsAsked(t *testing.T) {
	path := filepath.Join(socketDir(t), "run", "s")
	defer unix.Umask(unix.Umask(0o077)) // as the daemon runs
	l, err := Listen(path, 0o660, "12345")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err := os.Stat(filepath.Dir(path)); err != nil || dir.Mode().Perm() != 0o755 {
		t.Errorf("socket directory: %v, %v", dir.Mode(), err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if info.Mode().Perm() != 0o660 || st.Uid != 0 || st.Gid != 12345 {
		t.Errorf("socket is %v %d:%d", info.Mode(), st.Uid, st.Gid)
	}
	l.Close()
}

func TestListenReplacesOnlyADeadSocket(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "s")
	first, err := Listen(path, 0o600, "0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, 0o600, "0"); err == nil || !strings.Contains(err.Error(), "in use") || remedy.Of(err) == "" {
		t.Errorf("a served socket: %v (hint %q)", err, remedy.Of(err))
	}
	first.SetUnlinkOnClose(false)
	first.Close()
	second, err := Listen(path, 0o600, "0")
	if err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	second.Close()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, 0o600, "0"); err == nil || !strings.Contains(err.Error(), "regular file is in the way") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file in the way is gone")
	}
}

func TestListenNamesAMissingGroup(t *testing.T) {
	_, err := Listen(filepath.Join(socketDir(t), "s"), 0o660, "no-such-group-here")
	if err == nil || !strings.Contains(remedy.Of(err), "groupadd") {
		t.Errorf("err = %v, hint %q", err, remedy.Of(err))
	}
}

// TestPeerIsWhoConnected has another user connect, with supplementary groups,
// and compares what the kernel says of it.
func TestPeerIsWhoConnected(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	l, err := Listen(path, 0o666, "0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lim := newLimiter(l, config.Default().API, func(p Peer, err error) { t.Errorf("refused %+v: %v", p, err) })

	groups := make([]uint32, 100) // more than the first buffer holds
	for i := range groups {
		groups[i] = uint32(50000 + i)
	}
	cmd := exec.Command("/bin/bash", "-c", "exec 3<>/dev/null; exec curl -s --unix-socket "+path+" http://x/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 4321, Groups: groups}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := lim.Accept()
	if err != nil {
		t.Fatal(err)
	}
	peer := conn.(*peerConn).peer
	conn.Close()
	cmd.Wait()
	if peer.UID != 1234 || peer.GID != 4321 || peer.PID != int32(cmd.Process.Pid) {
		t.Errorf("peer = %+v, the client is pid %d", peer, cmd.Process.Pid)
	}
	if len(peer.Groups) != len(groups) || peer.Groups[0] != 50000 || peer.Groups[99] != 50099 {
		t.Errorf("groups = %v", peer.Groups)
	}
}

// few is a limit that is soon reached.
var few = config.API{Connections: 8, ConnectionsPerUser: 3}

func TestLimiterBoundsEachUser(t *testing.T) {
	l := newLimiter(nil, few, nil)
	for i := range few.ConnectionsPerUser {
		if err := l.take(1000); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if err := l.take(1000); err == nil || asAPIError(err).Kind != api.KindLimit || asAPIError(err).Hint == "" {
		t.Errorf("one too many: %v", err)
	}
	if err := l.take(1001); err != nil {
		t.Errorf("another user: %v", err)
	}
	l.give(1000)
	if err := l.take(1000); err != nil {
		t.Errorf("after one closed: %v", err)
	}

	l = newLimiter(nil, few, nil)
	for i := range few.Connections {
		if err := l.take(uint32(2000 + i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.take(9999); err == nil || asAPIError(err).Kind != api.KindLimit || asAPIError(err).Hint == "" {
		t.Errorf("above the total: %v", err)
	}
	if err := l.take(0); err != nil {
		t.Errorf("root while others flood: %v", err)
	}
	if len(l.uids) != few.Connections+1 {
		t.Errorf("%d users counted", len(l.uids))
	}
}

func TestConnectionIsGivenBackOnce(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	ul, err := Listen(path, 0o666, "0")
	if err != nil {
		t.Fatal(err)
	}
	defer ul.Close()
	l := newLimiter(ul, few, func(Peer, error) {})
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	conn.Close()
	if n := l.uids[uint32(os.Geteuid())]; n != 0 || l.total != 0 {
		t.Errorf("after closing twice %s counts %d, in all %d", strconv.Itoa(os.Geteuid()), n, l.total)
	}
}

// Whoever is refused while the record of a refusal waits for the disk keeps
// nobody from being accepted.
func TestAcceptDoesNotWaitForRecords(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	ul, err := Listen(path, 0o666, "0")
	if err != nil {
		t.Fatal(err)
	}
	defer ul.Close()
	disk, told := make(chan struct{}), 0
	var lost string
	none := config.API{} // no connections but root's
	l := newLimiter(ul, none, func(p Peer, err error) {
		<-disk
		told++
		if p.UID == overflowID {
			lost = err.Error()
		}
	})
	done := make(chan struct{})
	go func() { defer close(done); l.tell() }()
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	}()
	const refused = tellings + 50
	runtime.LockOSThread() // only this thread is another user
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 4711, ^uintptr(0)); errno != 0 {
		t.Fatal(errno)
	}
	for range refused {
		dial().Close()
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)); errno != 0 {
		t.Fatal(errno)
	}
	runtime.UnlockOSThread()
	defer dial().Close()
	select {
	case conn := <-accepted:
		conn.Close()
	case <-time.After(20 * time.Second):
		t.Fatal("root is not accepted")
	}
	close(disk)
	close(l.telling)
	<-done
	if told < tellings || told > refused || told < refused && !strings.Contains(lost, "were refused faster") {
		t.Errorf("%d refusals are told of, and of the others %q", told, lost)
	}
}
