package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
)

// limiter accepts connections whose peer the kernel can name, bounded for each
// user and in total, so that a hostile client spends its own budget and nobody
// else's.
type limiter struct {
	*net.UnixListener
	limits  config.API
	refused func(Peer, error) // told of each refusal, by tell
	telling chan refusal
	untold  atomic.Int64  // refusals that there was no room for in telling
	parting chan struct{} // a place for each who is being told

	mu    sync.Mutex
	total int
	uids  map[uint32]int

	bundles map[uint32]int // that are read or run, of each user but root
}

// refusal is one that is to be told of.
type refusal struct {
	peer Peer
	err  error
}

// tellings is how many refusals wait to be told of.
const tellings = 256

// Those who are refused are told why, a few at a time and for a moment: it must
// cost less than to serve them.
const (
	partings    = 32
	partingTime = time.Second
)

func newLimiter(l *net.UnixListener, limits config.API, refused func(Peer, error)) *limiter {
	return &limiter{UnixListener: l, limits: limits, refused: refused, telling: make(chan refusal, tellings),
		parting: make(chan struct{}, partings), uids: make(map[uint32]int), bundles: make(map[uint32]int)}
}

// overflowID is the kernel's own number for users it cannot name.
const overflowID = 65534

// Accept waits for the next connection that may be served.
func (l *limiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, err := l.admit(conn)
		if err != nil {
			l.turnAway(conn, asAPIError(err))
			select {
			case l.telling <- refusal{peer, err}:
			default:
				l.untold.Add(1)
			}
			continue
		}
		return &peerConn{UnixConn: conn, peer: peer, release: sync.OnceFunc(func() { l.give(peer.UID) })}, nil
	}
}

// tell has refused told of each refusal, until telling is closed. It is not Accept
// that does: a record waits for the disk, and nobody who connects may.
func (l *limiter) tell() {
	for r := range l.telling {
		l.refused(r.peer, r.err)
		if n := l.untold.Swap(0); n > 0 {
			l.refused(Peer{UID: overflowID, GID: overflowID}, api.Errorf(api.KindLimit, "connection: %d were refused faster than it could be recorded", n))
		}
	}
}

// admit names the peer of a connection and counts it. Who has too many is not looked
// at closely: all others wait behind them in the kernel's one queue meanwhile.
func (l *limiter) admit(conn *net.UnixConn) (Peer, error) {
	nobody := Peer{UID: overflowID, GID: overflowID} // and never root
	cred, err := credentialsOf(conn)
	if err != nil {
		return nobody, unnamed(err)
	}
	if err := l.take(cred.Uid); err != nil {
		return Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, err
	}
	peer, err := peerOf(conn)
	if err != nil {
		l.give(cred.Uid)
		return nobody, unnamed(err)
	}
	return peer, nil
}

// unnamed is what one hears of whom the kernel does not say who they are.
func unnamed(err error) *api.Error {
	return api.Errorf(api.KindDenied, "connection: who you are is not to be had: %w", err).
		WithHint("connect again; if that does not help, have an administrator look at journalctl -u hornetd")
}

// take counts a connection. Root's are not counted against the total: an
// administrator must get in while others flood.
func (l *limiter) take(uid uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case uid == 0:
	case l.uids[uid] >= l.limits.ConnectionsPerUser:
		return api.Errorf(api.KindLimit, "connection: uid %d has %d already", uid, l.uids[uid]).
			WithHint("close one, or have an administrator raise [api] connections_per_user in hornetd.toml")
	case l.total >= l.limits.Connections:
		return api.Errorf(api.KindLimit, "connection: uid %d: all users together have %d already", uid, l.total).
			WithHint("try again later, or have an administrator raise [api] connections in hornetd.toml")
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

// takeBundle counts a bundle.
func (l *limiter) takeBundle(uid uint32) error {
	if uid == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bundles[uid] >= l.limits.ChangesPerUser {
		return api.Errorf(api.KindLimit, "run: uid %d sends %d bundles already", uid, l.bundles[uid]).
			WithHint("wait for the end of one, or have an administrator raise [api] changes_per_user in hornetd.toml")
	}
	l.bundles[uid]++
	return nil
}

func (l *limiter) giveBundle(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bundles[uid]--; l.bundles[uid] <= 0 {
		delete(l.bundles, uid)
	}
}

// turnAway closes a connection that is not served, and tells why where there is
// a place for that.
func (l *limiter) turnAway(conn *net.UnixConn, why *api.Error) {
	select {
	case l.parting <- struct{}{}:
	default:
		conn.Close()
		return
	}
	go func() {
		defer func() { <-l.parting }()
		defer conn.Close()
		part(conn, why)
	}()
}

// part answers the first request on conn, whatever it is. It waits for it,
// because a client takes an answer that comes before its question for an error,
// and for the client to close, because what is still to be read when this side
// closes makes the answer one.
func part(conn *net.UnixConn, why *api.Error) {
	if err := conn.SetDeadline(time.Now().Add(partingTime)); err != nil {
		return
	}
	if _, err := conn.Read(make([]byte, 4096)); err != nil {
		return
	}
	body, err := json.Marshal(why)
	if err != nil {
		return
	}
	status := why.Kind.Status()
	fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
	conn.CloseWrite()
	io.Copy(io.Discard, io.LimitReader(conn, api.MaxRequestBytes))
}

// status adds what the front knows to the daemon's own.
func (l *limiter) status(core Core, r request) (any, error) {
	s, err := core.Status(r.who)
	if err != nil {
		return nil, err
	}
	s.Limits = append(l.usage(r.who), s.Limits...)
	return s, nil
}

// usage is what who may know of the connections: root all, others their own.
func (l *limiter) usage(who Peer) []api.Limit {
	l.mu.Lock()
	users, total := maps.Clone(l.uids), l.total
	l.mu.Unlock()
	const perUser = "api.connections_per_user"
	most := uint64(l.limits.ConnectionsPerUser)
	if who.UID != 0 {
		return []api.Limit{userLimit(perUser, who.UID, uint64(users[who.UID]), most)}
	}
	all := []api.Limit{
		{Name: "api.connections", Used: new(uint64(total)), Most: uint64(l.limits.Connections)},
		timeLimit("api.header_time", l.limits.HeaderTime), timeLimit("api.request_time", l.limits.RequestTime),
		timeLimit("api.answer_time", l.limits.AnswerTime), timeLimit("api.idle_time", l.limits.IdleTime), timeLimit("api.lease_grace", l.limits.LeaseGrace),
	}
	return append(all, userLimits(perUser, users, most)...)
}

// userLimits is how near each user, not root, is to a limit, ordered by uid.
func userLimits[N int | uint64](name string, used map[uint32]N, most uint64) []api.Limit {
	all := []api.Limit{{Name: name, Most: most}}
	for _, uid := range slices.Sorted(maps.Keys(used)) {
		if uid != 0 {
			all = append(all, userLimit(name, uid, uint64(used[uid]), most))
		}
	}
	return all
}

func userLimit(name string, uid uint32, used, most uint64) api.Limit {
	return api.Limit{Name: name, UID: new(uid), Used: new(used), Most: most}
}

func timeLimit(name string, d time.Duration) api.Limit {
	return api.Limit{Name: name, Most: uint64(d.Milliseconds()), Unit: "ms"}
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
