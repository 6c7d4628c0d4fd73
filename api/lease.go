package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// UpgradeLease is what a load asks to upgrade its connection to, to run for as long
// as that connection. After the 101 the daemon sends a line of JSON, the
// LeaseGrant, and where the lease ends while the connection lives one more, an
// Error. The client sends nothing.
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
// held: when this process ends, however it ends, the daemon unloads it. ctx bounds
// the beginning only.
func (c *Client) LoadLease(ctx context.Context, name string) (*Lease, error) {
	return c.lease(ctx, name, "")
}

// ResumeLease takes up a lease by its token, which the same user was granted: where
// the daemon was restarted, within the grace.
func (c *Client) ResumeLease(ctx context.Context, name, token string) (*Lease, error) {
	if token == "" {
		return nil, Errorf(KindBadRequest, "lease of %q: the token is empty", name)
	}
	return c.lease(ctx, name, token)
}

func (c *Client) lease(ctx context.Context, name, token string) (*Lease, error) {
	l := &Lease{client: c, name: name}
	if err := l.load(ctx, token); err != nil {
		return nil, err
	}
	return l, nil
}

// load asks for the lease of a load, or for the one that token is of.
func (l *Lease) load(ctx context.Context, token string) error {
	req, err := newRequest(ctx, RouteLoad, []string{l.name}, nil, LoadRequest{Lease: true, Resume: token})
	if err != nil {
		return err
	}
	return l.begin(req)
}

// begin asks for a lease and reads its grant.
func (l *Lease) begin(req *http.Request) error {
	ctx := req.Context()
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", UpgradeLease)
	resp, err := l.client.http.Do(req)
	if err != nil {
		return l.client.unreachable(ctx, err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok || !strings.EqualFold(resp.Header.Get("Upgrade"), UpgradeLease) {
		defer resp.Body.Close()
		if resp.StatusCode/100 == 4 || resp.StatusCode/100 == 5 {
			return l.client.refusal(ctx, resp)
		}
		return l.client.stranger("answer to a lease: status %d", resp.StatusCode)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := bufio.NewReader(io.LimitReader(conn, maxLeaseLine))
	line, err := r.ReadBytes('\n')
	var grant LeaseGrant
	if err == nil {
		err = json.Unmarshal(line, &grant)
	}
	if err != nil || grant.Token == "" {
		conn.Close()
		return l.client.broken(ctx, errors.Join(err, io.ErrUnexpectedEOF))
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
		err := l.load(ctx, l.Grant().Token)
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
