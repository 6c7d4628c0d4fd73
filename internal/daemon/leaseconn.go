package daemon

import (
	"context"
	"encoding/json"
	"errors"
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
	if switchTo(conn, api.UpgradeLease) != nil {
		core.EndLease(name, grant.Token, errGone.Error())
		return nil, nil
	}
	live(core, conn, whileQuiet(stopping(r.Context()), rw.Reader), grant)
	return nil, nil
}

// holdShown is hold of what is attached to what the client shows behind the 101. What
// is wrong then is told on a line in the place of the grant.
func holdShown(core Core, r request, may func() error, take func(ctx context.Context, fds []int) (api.LeaseGrant, error)) error {
	return takeOver(core, r, func(conn *peerConn) {
		fds, err := conn.shown(core, api.UpgradeLease, may)
		client := whileQuiet(stopping(r.Context()), conn)
		var grant api.LeaseGrant
		if err == nil {
			grant, err = take(client, fds)
		}
		closeAll(fds) // not only when the lease ends
		switch {
		case errors.Is(err, errLeft):
		case err != nil:
			_ = tell(conn, asAPIError(err)) // or the client left
		default:
			live(core, conn, client, grant)
		}
	})
}

// live keeps a lease until client, which is made by whileQuiet, or what was leased ends.
func live(core Core, conn net.Conn, client context.Context, grant api.LeaseGrant) {
	name := grant.Collection.Name
	why := errGone
	if tell(conn, grant) == nil {
		if ended := core.LeaseEnds(client, name, grant.Token); ended != nil {
			_ = tell(conn, ended) // or nobody is there to be told
			return
		}
		why = context.Cause(client)
	}
	switch {
	case errors.Is(why, errSent):
		_ = tell(conn, api.Errorf(api.KindProtocol, "lease: the client sent something, and there is nothing to be said").
			WithHint("close the connection to end the lease"))
	case !errors.Is(why, errGone):
		return // a daemon that stops closes the connection itself, and the lease waits for its client
	}
	core.EndLease(name, grant.Token, why.Error())
}

// What ends a lease at the client's end. One that closes only its half has ended it
// too.
var (
	errGone = errors.New("the client is gone")
	errSent = errors.New("the client sent something")
)

// whileQuiet returns a context that ends with daemon, or with one of those as its
// cause. It reads until the connection is closed.
func whileQuiet(daemon context.Context, conn io.Reader) context.Context {
	ctx, cancel := context.WithCancelCause(daemon)
	go func() {
		if n, _ := conn.Read(make([]byte, 1)); n > 0 {
			cancel(errSent)
			return
		}
		cancel(errGone)
	}()
	return ctx
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
