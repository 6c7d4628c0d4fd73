package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hornetd/hornetd/api"
)

// asksLease reports whether a request asks for a lease. Its header must, and it
// must say so besides, in its body or query: a daemon that knows no leases takes the
// header for nothing, and refuses the rest.
func asksLease(r request, says bool) (bool, error) {
	upgrade := r.Header.Values("Upgrade")
	switch {
	case len(upgrade) == 0 && !says:
		return false, nil
	case !says || len(upgrade) != 1 || !changesTo(r.Request, api.UpgradeLease):
		return false, api.Errorf(api.KindBadRequest, "a lease is asked for in part only").
			WithHint(`send "Connection: Upgrade" and "Upgrade: %s" by HTTP/1.1, and "lease": true in the body, of a run lease=true in the query`, api.UpgradeLease)
	}
	return true, nil
}

// hold takes a lease for as long as the connection lives. After the 101 each
// side has one thing to say: the daemon the grant, and perhaps why the lease has
// ended; the client nothing.
func hold(core Core, r request, take func() (api.LeaseGrant, error)) (any, error) {
	grant, err := take()
	if err != nil {
		return nil, err
	}
	name := grant.Collection.Name
	conn, rw, err := http.NewResponseController(r.w).Hijack()
	if err != nil {
		core.EndLease(name, grant.Token, "the connection cannot be taken over")
		return nil, err
	}
	defer conn.Close()
	// The request's context ends with the client too; this one only with the daemon.
	daemon := stopping(r.Context())
	ctx, cancel := context.WithCancel(daemon)
	defer cancel()
	why := "the client is gone"
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.UpgradeLease+"\r\n\r\n"); err == nil && tell(conn, grant) == nil {
		go func() {
			if ended := core.LeaseEnds(ctx, name, grant.Token); ended != nil {
				_ = tell(conn, ended) // or nobody is there to be told
			}
			conn.Close()
		}()
		why = hungUp(conn, rw.Reader)
	}
	// A daemon that stops closes the connection itself, and the lease waits for its
	// client.
	if daemon.Err() == nil {
		core.EndLease(name, grant.Token, why)
	}
	return nil, nil
}

// hungUp waits for the end of the connection and says what it was. A client that
// closes only its half has ended it too.
func hungUp(conn net.Conn, r *bufio.Reader) string {
	if _, err := r.ReadByte(); err != nil {
		return "the client is gone"
	}
	_ = tell(conn, api.Errorf(api.KindProtocol, "lease: the client sent something, and there is nothing to be said").
		WithHint("close the connection to end the lease"))
	return "the client sent something"
}

// tell sends one line of JSON to a client that may not read.
func tell(conn net.Conn, v any) error {
	if err := conn.SetWriteDeadline(time.Now().Add(eventTimeout)); err != nil {
		return err
	}
	enc := json.NewEncoder(conn)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
