package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// UpgradeLease is what a load asks to upgrade its connection to, to run for as long
// as that connection. After the 101 the daemon sends a line of JSON, the
// LeaseGrant, and where the lease ends while the connection lives one more, an
// Error. The client sends nothing, but where its request says targets: then its
// descriptors, as UpgradeTarget has it, come first, and the daemon's line may be an Error
// in the place of the grant.
const UpgradeLease = "hornet-lease"

// LeaseGrant is the beginning of a lease.
type LeaseGrant struct {
	Token      string     `json:"token"`    // 64 hex digits. With it the lease can be resumed: keep it to yourself
	GraceMS    uint64     `json:"grace_ms"` // how long after a restart of the daemon
	Collection Collection `json:"collection"`
}

// maxLeaseLine bounds a line of the protocol.
const maxLeaseLine = 1 << 20

// Lease is a collection that runs as long as this process, or until Close.
type Lease struct {
	client *Client
	name   string

	mu     sync.Mutex
	grant  LeaseGrant
	conn   io.ReadWriteCloser
	r      *bufio.Reader
	closed bool
}

// LoadLease makes a collection run that does not, for as long as the lease is
// held: when this process ends, however it ends, the daemon unloads it. Where its
// manifest says target = "caller" it is attached to what files are, as LoadTargets has
// it. ctx bounds the beginning only.
func (c *Client) LoadLease(ctx context.Context, name string, files ...*os.File) (*Lease, error) {
	return c.lease(ctx, name, "", files)
}

// ResumeLease takes up a lease by its token, which the same user was granted: where
// the daemon was restarted, within the grace.
func (c *Client) ResumeLease(ctx context.Context, name, token string) (*Lease, error) {
	if token == "" {
		return nil, Errorf(KindBadRequest, "lease of %q: the token is empty", name)
	}
	return c.lease(ctx, name, token, nil)
}

func (c *Client) lease(ctx context.Context, name, token string, files []*os.File) (*Lease, error) {
	l := &Lease{client: c, name: name}
	if err := l.load(ctx, token, files); err != nil {
		return nil, err
	}
	return l, nil
}

// load asks for the lease of a load, or for the one that token is of.
func (l *Lease) load(ctx context.Context, token string, files []*os.File) error {
	req, err := newRequest(ctx, RouteLoad, []string{l.name}, nil, LoadRequest{Lease: true, Resume: token, Targets: len(files) > 0})
	if err != nil {
		return err
	}
	return l.begin(req, files)
}

// begin asks for a lease, shows files where there are any, and reads its grant.
func (l *Lease) begin(req *http.Request, files []*os.File) error {
	ctx := req.Context()
	conn, socket, err := l.client.changeTo(req, UpgradeLease)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if len(files) > 0 {
		err = showOn(socket, files)
	}
	r := bufio.NewReader(io.LimitReader(conn, maxLeaseLine))
	var grant LeaseGrant
	if err == nil {
		grant, err = readGrant(r)
	}
	if err != nil {
		conn.Close()
		return l.client.broken(ctx, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close()
		return errLeaseClosed(l.name)
	}
	if l.conn != nil {
		l.conn.Close()
	}
	l.name, l.grant, l.conn, l.r = grant.Collection.Name, grant, conn, r
	return nil
}

// readGrant reads the daemon's first line.
func readGrant(r *bufio.Reader) (grant LeaseGrant, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return grant, noEOF(err)
	}
	var refused Error
	if err := errors.Join(json.Unmarshal(line, &refused), json.Unmarshal(line, &grant)); err != nil {
		return grant, err
	}
	switch {
	case refused.Kind != "" && refused.Message != "":
		return grant, &refused
	case grant.Token == "":
		return grant, errors.New("no line of the protocol")
	}
	return grant, nil
}

func errLeaseClosed(name string) error {
	return Errorf(KindConflict, "lease of %q: it was given up", name)
}

// Grant is what the daemon granted last.
func (l *Lease) Grant() LeaseGrant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.grant
}

// Wait waits for the end of the connection and returns why it ended, which is never
// nil. Of kind unavailable it is that the daemon is gone, and what runs goes on
// running: Resume. Anything else ends the lease: what ran is unloaded, or
// somebody else's.
func (l *Lease) Wait() error {
	l.mu.Lock()
	r := l.r
	l.mu.Unlock()
	line, err := r.ReadBytes('\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errLeaseClosed(l.name)
	}
	var e Error
	switch {
	case err != nil:
		return Errorf(KindUnavailable, "lease of %q: the daemon is gone: %w", l.name, err).
			WithHint("what it loaded goes on running; resume the lease when the daemon is back")
	case json.Unmarshal(line, &e) != nil || e.Kind == "" || e.Message == "":
		return l.client.stranger("lease of %q: no line of the protocol", l.name)
	}
	return &e
}

// Resume takes the lease up again after Wait has said that the daemon is gone. It
// tries until it can, until the daemon says that there is no such lease, or until
// ctx ends; give it the grace, from when the daemon can be expected back.
func (l *Lease) Resume(ctx context.Context) error {
	for {
		err := l.load(ctx, l.Grant().Token, nil)
		var e *Error
		if !errors.As(err, &e) || e.Kind != KindUnavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Close ends the lease: the daemon unloads the collection.
func (l *Lease) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.conn == nil {
		return nil
	}
	return l.conn.Close()
}
