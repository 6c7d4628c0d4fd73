package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/policy"
)

// Peer is who holds the other end of a connection, as the kernel said when the
// connection was accepted. PID is for the record only: a pid is reused, and a
// connection outlives it, so it is never identity.
type Peer struct {
	UID, GID uint32
	Groups   []uint32
	PID      int32
}

// subject is the part of a peer that policy decides on.
func (p Peer) subject() policy.Subject {
	return policy.Subject{UID: p.UID, GID: p.GID, Groups: p.Groups}
}

// self is the daemon acting on its manifests, not for a client.
func self() Peer { return Peer{PID: int32(unix.Getpid())} }

// peerOf asks the kernel who connected. Any error means that the connection
// must be refused: whoever cannot be named is nobody.
//
// Source: unix(7), SO_PEERCRED and SO_PEERGROUPS.
func peerOf(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var peer Peer
	var credErr error
	if err := raw.Control(func(fd uintptr) { peer, credErr = peerCredentials(int(fd)) }); err != nil {
		return Peer{}, err
	}
	return peer, credErr
}

func peerCredentials(fd int) (Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return Peer{}, fmt.Errorf("peer groups: %w", err)
	}
	return Peer{UID: cred.Uid, GID: cred.Gid, Groups: groups, PID: cred.Pid}, nil
}

// peerGroups reads the supplementary groups. The kernel answers ERANGE with
// the size it needs.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE:
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}

type peerKey struct{}

// withPeer is the http.Server's ConnContext: it carries what limiter.Accept
// found out.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	ctx = context.WithValue(ctx, daemonKey{}, ctx)
	if pc, ok := conn.(*peerConn); ok {
		return context.WithValue(ctx, peerKey{}, pc.peer)
	}
	return ctx
}

type daemonKey struct{}

// stopping is the context of all connections, which ends with the daemon.
func stopping(ctx context.Context) context.Context { return ctx.Value(daemonKey{}).(context.Context) }

var errNoPeer = errors.New("peer: not known")

func peerFrom(ctx context.Context) (Peer, error) {
	if p, ok := ctx.Value(peerKey{}).(Peer); ok {
		return p, nil
	}
	return Peer{}, errNoPeer
}
