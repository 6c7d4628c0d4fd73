package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
)

// oneMap shows a map, or hands out its descriptor to a client that asks for that
// protocol.
func oneMap(core Core, r request) (any, error) {
	name, mapName := r.PathValue("name"), r.PathValue("map")
	access := api.Access(r.query.Get("access"))
	switch {
	case r.query.Has("access") && access != api.AccessReadOnly && access != api.AccessReadWrite:
		return nil, api.Errorf(api.KindBadRequest, "access %.80q: want %s or %s", access, api.AccessReadOnly, api.AccessReadWrite)
	case changesTo(r.Request, api.UpgradeFD):
		if access == "" {
			access = api.AccessReadOnly
		}
		return nil, handOver(core, r, func() (Descriptor, error) { return core.OpenMap(r.who, name, mapName, access) })
	case r.query.Has("access"):
		return nil, api.Errorf(api.KindBadRequest, "access: without a descriptor there is none").
			WithHint("send Connection: Upgrade and Upgrade: %s", api.UpgradeFD)
	}
	c, err := core.Get(r.who, name)
	if err != nil {
		return nil, err
	}
	for _, m := range c.Maps {
		if m.Name == mapName {
			return m, nil
		}
	}
	return nil, noMap(name, mapName)
}

// changesTo tells whether the client asks to change to the protocol.
func changesTo(r *http.Request, protocol string) bool {
	has := func(header, token string) bool {
		for _, value := range r.Header.Values(header) {
			if slices.ContainsFunc(strings.Split(value, ","), func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), token) }) {
				return true
			}
		}
		return false
	}
	return r.ProtoAtLeast(1, 1) && has("Connection", "upgrade") && has("Upgrade", protocol)
}

// handOver takes the connection from the HTTP server and answers on it by
// itself: with what open gives, or with an error. Nothing is opened for a client
// that did not wait.
func handOver(core Core, r request, open func() (Descriptor, error)) error {
	if r.ContentLength != 0 {
		return early()
	}
	return takeOver(core, r, func(conn *peerConn) {
		d, err := open()
		if err != nil {
			answer(conn, asAPIError(err))
			return
		}
		err = conn.give(d) // an error means that the client left: what it was sent is closed with its socket
		d.File.Close()
		if err == nil {
			conn.awaitTaken(stopping(r.Context()))
		}
	})
}

// takeOver takes the connection of a client that waits for its 101, and whose body
// was read to its end, from the HTTP server, and closes it behind serve.
func takeOver(core Core, r request, serve func(*peerConn)) error {
	hijacked, buf, err := http.NewResponseController(r.w).Hijack()
	if err != nil {
		return fmt.Errorf("connection: %w", err)
	}
	defer hijacked.Close()
	conn, ok := hijacked.(*peerConn)
	if !ok {
		return errNoPeer
	}
	conn.SetDeadline(time.Now().Add(eventTimeout))
	if buf.Reader.Buffered() > 0 || conn.unsolicited.Load() || conn.waiting() {
		err := early()
		core.Refuse(r.who, "connect", err)
		answer(conn, err)
		return nil
	}
	serve(conn)
	return nil
}

// awaitTaken hangs up and returns when the peer has taken all that it was sent, or
// its socket is gone. Nothing that is done at this end takes back a descriptor
// that waits at the other: so the connection stays counted, and who does not take
// what they ask for spends their own.
//
// Source: unix(7), SIOCOUTQ; unix_release_sock in Linux.
func (c *peerConn) awaitTaken(ctx context.Context) {
	raw, err := c.SyscallConn()
	if err != nil || c.CloseWrite() != nil {
		return
	}
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		waits := 0
		if err := raw.Control(func(fd uintptr) { waits, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil || waits == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// early is what a peer hears that sends something before the 101.
func early() *api.Error {
	return api.Errorf(api.KindProtocol, "connection: something came before the 101").
		WithHint("send the request, wait for the answer, and receive both 101 and descriptor with recvmsg")
}

// unsolicited refuses a request that descriptors came with.
func unsolicited(r *http.Request) error {
	if pc, ok := r.Context().Value(connKey{}).(*peerConn); !ok || !pc.unsolicited.Load() {
		return nil
	}
	return api.Errorf(api.KindProtocol, "connection: descriptors came that nobody asked for; they are closed").
		WithHint("connect again, and send none with a request")
}

// waiting tells whether something has come that nobody has read.
func (c *peerConn) waiting() bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = raw.Control(func(fd uintptr) {
		n, _, _, _, err = unix.Recvmsg(int(fd), make([]byte, 1), nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && n > 0
}

// give answers 101 and then sends the descriptor, with one line that says what
// it is.
func (c *peerConn) give(d Descriptor) error {
	if err := switchTo(c, api.UpgradeFD); err != nil {
		return err
	}
	line, err := json.Marshal(d.MapDescriptor)
	if err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix(append(line, '\n'), unix.UnixRights(int(d.File.Fd())), nil)
	return err
}

// switchTo answers 101.
func switchTo(w io.Writer, protocol string) error {
	_, err := fmt.Fprintf(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	return err
}

// answer writes an error to a connection that the HTTP server has given up.
func answer(w io.Writer, e *api.Error) {
	body, err := json.Marshal(e)
	if err != nil {
		return
	}
	resp := http.Response{
		StatusCode: e.Kind.Status(), ProtoMajor: 1, ProtoMinor: 1, Close: true,
		Header:        http.Header{"Content-Type": {"application/json"}},
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	resp.Write(w) // an error here means that the client left
}
