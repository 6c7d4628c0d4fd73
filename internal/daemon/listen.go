package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Connections are bounded per user and in total, so that a hostile client
// spends its own budget and nobody else's.
const (
	connsPerUID = 16
	connsTotal  = 256
)

// Listen makes the API socket at path with the given mode and group. The
// socket never has wider access than asked for, not even for a moment: it is
// bound with mode 0 and opened up last. A socket file that nobody serves is
// replaced; one that answers is left alone and refused.
func Listen(path string, mode os.FileMode, group string) (*net.UnixListener, error) {
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	if err := makeSocketDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}

	old := unix.Umask(0o777)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Lchown(path, 0, gid); err != nil {
		l.Close()
		return nil, fmt.Errorf("socket %s: owner: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("socket %s: mode: %w", path, err)
	}
	return l, nil
}

// makeSocketDir makes the last directory of the socket's path where it is
// missing. Everybody may pass through it: the socket's own mode decides.
func makeSocketDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) // the umask took the bits away
	}
	if err != nil {
		return fmt.Errorf("socket directory: %w", err)
	}
	return nil
}

func groupID(name string) (int, error) {
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, remedy.With(fmt.Errorf("socket group %q: no such group", name),
			"make it with groupadd --system %s, or name another one in [api] group of hornetd.toml", name)
	}
	return strconv.Atoi(g.Gid)
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return remedy.With(fmt.Errorf("socket %s: a %s is in the way", path, kindOf(info.Mode())),
			"remove it, or name another path in [api] socket of hornetd.toml")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return remedy.With(fmt.Errorf("socket %s: in use by another process", path),
			"stop that process, or name another path in [api] socket of hornetd.toml")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("stale socket: %w", err)
	}
	return nil
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m.IsRegular():
		return "regular file"
	default:
		return "file of another kind"
	}
}

// limiter accepts connections whose peer the kernel can name, within the
// bounds above. The others are closed without an answer.
type limiter struct {
	*net.UnixListener
	refused func(Peer, error) // told of each refusal

	mu    sync.Mutex
	total int
	uids  map[uint32]int
}

func newLimiter(l *net.UnixListener, refused func(Peer, error)) *limiter {
	return &limiter{UnixListener: l, refused: refused, uids: make(map[uint32]int)}
}

// overflowID is the kernel's own number for users it cannot name.
const overflowID = 65534

var errTooMany = errors.New("too many connections")

// Accept waits for the next connection that may be served.
func (l *limiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, err := peerOf(conn)
		if err != nil {
			peer = Peer{UID: overflowID, GID: overflowID} // nobody, and never root
		} else {
			err = l.take(peer.UID)
		}
		if err != nil {
			conn.Close()
			l.refused(peer, err)
			continue
		}
		return &peerConn{UnixConn: conn, peer: peer, release: sync.OnceFunc(func() { l.give(peer.UID) })}, nil
	}
}

// take counts a connection. Root's are not counted against the total: an
// administrator must get in while others flood.
func (l *limiter) take(uid uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uid != 0 && (l.total >= connsTotal || l.uids[uid] >= connsPerUID) {
		return errTooMany
	}
	l.uids[uid]++
	if uid != 0 {
		l.total++
	}
	return nil
}

func (l *limiter) give(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uids[uid]--; l.uids[uid] == 0 {
		delete(l.uids, uid)
	}
	if uid != 0 {
		l.total--
	}
}

// peerConn is a connection that knows its peer.
type peerConn struct {
	*net.UnixConn
	peer    Peer
	release func()

	unsolicited atomic.Bool // descriptors came that nobody has asked for
}

// Read is what requests are read with. It gives the kernel no room for
// descriptors: those that a peer sends are closed before they are ours, and all
// that is left of them is this flag.
//
// Source: unix(7) and recvmsg(2), MSG_CTRUNC; scm_recv in Linux.
func (c *peerConn) Read(b []byte) (int, error) {
	n, _, flags, _, err := c.ReadMsgUnix(b, nil)
	if flags&unix.MSG_CTRUNC != 0 {
		c.unsolicited.Store(true)
	}
	return max(n, 0), err // it is -1 with an error
}

func (c *peerConn) Close() error {
	c.release()
	return c.UnixConn.Close()
}
