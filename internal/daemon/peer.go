package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/policy"
)

// Peer is who connected, as the kernel said when the connection was accepted.
//
// UID, GID, Groups and Label are of the process that called connect, at that
// moment: the kernel keeps them with the socket, so whoever the socket is passed
// to, and whatever the process executes or becomes later, asks as the one who
// connected. Unit and Exe are of that process when the connection was accepted,
// and known only where it lived then; what it executed in between is what Exe
// says, so that Exe can narrow what a user may, and never name somebody. PID is
// for the record only: a pid is reused, and a connection outlives it.
type Peer struct {
	UID, GID uint32
	Groups   []uint32
	PID      int32
	Unit     string      // of the system's systemd; "" where it is not known
	Exe      policy.File // the zero one where it is not known
	Label    string      // by a security module; "" where there is none
}

// subject is the part of a peer that policy decides on.
func (p Peer) subject() policy.Subject {
	return policy.Subject{UID: p.UID, GID: p.GID, Groups: p.Groups, Unit: p.Unit, Exe: p.Exe}
}

// recorded is who a peer is in the audit log.
func (p Peer) recorded() audit.Caller {
	return audit.Caller{UID: p.UID, GID: p.GID, PID: p.PID, Unit: p.Unit, Exe: p.Exe.Path, Label: p.Label}
}

// self is the daemon acting on its manifests, not for a client.
func self() Peer { return Peer{PID: int32(unix.Getpid())} }

// peerOf asks the kernel who connected. Any error means that the connection
// must be refused: whoever cannot be named is nobody.
//
// Source: unix(7), SO_PEERCRED, SO_PEERGROUPS and SO_PEERSEC; peerProcess.
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

// credentialsOf is the part of it that costs one system call.
func credentialsOf(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("peer credentials: %w", credErr)
	}
	return cred, nil
}

func peerCredentials(fd int) (Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	p := Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}
	groups, err := socketOption(fd, unix.SO_PEERGROUPS)
	if err != nil {
		return Peer{}, fmt.Errorf("peer groups: %w", err)
	}
	for ; len(groups) >= 4; groups = groups[4:] {
		p.Groups = append(p.Groups, binary.NativeEndian.Uint32(groups))
	}
	label, err := socketOption(fd, unix.SO_PEERSEC)
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) { // that: no security module labels sockets
		return Peer{}, fmt.Errorf("peer label: %w", err)
	}
	p.Label = strings.TrimRight(string(label), "\x00")
	process, err := peerProcess(fd)
	if err != nil {
		return Peer{}, fmt.Errorf("peer process: %w", err)
	}
	if process >= 0 {
		defer unix.Close(process)
		p.Unit, p.Exe = processFacts(process)
	}
	return p, nil
}

// socketOption reads an option of any length. The kernel answers ERANGE with the
// size it needs.
func socketOption(fd, option int) ([]byte, error) {
	b := make([]byte, 256)
	for {
		size := uint32(len(b))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, uintptr(option),
			uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return b[:size], nil
		case errno == unix.ERANGE && int(size) > len(b):
			b = make([]byte, size)
		default:
			return nil, errno
		}
	}
}

type connKey struct{}

// withPeer is the http.Server's ConnContext: it carries what limiter.Accept
// found out.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	ctx = context.WithValue(ctx, daemonKey{}, ctx)
	if pc, ok := conn.(*peerConn); ok {
		return context.WithValue(ctx, connKey{}, pc)
	}
	return ctx
}

type daemonKey struct{}

// stopping is the context of all connections, which ends with the daemon.
func stopping(ctx context.Context) context.Context { return ctx.Value(daemonKey{}).(context.Context) }

var errNoPeer = errors.New("peer: not known")

func peerFrom(ctx context.Context) (Peer, error) {
	if pc, ok := ctx.Value(connKey{}).(*peerConn); ok {
		return pc.peer, nil
	}
	return Peer{}, errNoPeer
}
