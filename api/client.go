package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MaxResponseBytes bounds an answer that is not a stream.
const MaxResponseBytes = 32 << 20

// expectTimeout is how long a bundle waits to be asked for. hornetd always answers.
const expectTimeout = 10 * time.Second

// Client asks one hornetd. It may be used by several goroutines at once.
type Client struct {
	socket string
	dial   func(context.Context) (net.Conn, error)
	http   *http.Client
}

// New returns a client of the daemon that listens on the Unix socket. It does
// not connect yet.
func New(socket string) *Client {
	return NewDialer(socket, func(ctx context.Context) (net.Conn, error) { return connect(ctx, socket) })
}

// NewDialer returns a client that connects by dial; socket is for messages.
func NewDialer(socket string, dial func(context.Context) (net.Conn, error)) *Client {
	dialHTTP := func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	return &Client{socket, dial, &http.Client{
		Transport: &http.Transport{DialContext: dialHTTP, DisableCompression: true, ExpectContinueTimeout: expectTimeout, MaxResponseHeaderBytes: 64 << 10},
		// A redirect would be somebody else's answer.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// connectTime is how long a client waits for a place in the queue of a socket
// that others flood.
const connectTime = 5 * time.Second

// connect connects to the socket. Where its queue is full the kernel says so at
// once, to one who would not wait; it has room again soon.
func connect(ctx context.Context, socket string) (net.Conn, error) {
	for end := time.Now().Add(connectTime); ; {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(end) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Close closes the connections that wait for the next request.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// List returns the collections the caller may see, ordered by name.
func (c *Client) List(ctx context.Context) ([]Collection, error) {
	var out Collections
	err := c.call(ctx, RouteList, nil, nil, nil, &out)
	return out.Collections, err
}

// Get returns one collection.
func (c *Client) Get(ctx context.Context, name string) (Collection, error) {
	var out Collection
	err := c.call(ctx, RouteGet, []string{name}, nil, nil, &out)
	return out, err
}

// Load makes a collection run and returns it as it then is. It waits for the
// kernel's verifier; giving up waiting does not stop the load.
func (c *Client) Load(ctx context.Context, name string) (Collection, error) {
	var out Collection
	err := c.call(ctx, RouteLoad, []string{name}, nil, LoadRequest{}, &out)
	return out, err
}

// Upgrade replaces what runs by what is on disk now and returns it as it then is.
func (c *Client) Upgrade(ctx context.Context, name string) (Collection, error) {
	var out Collection
	err := c.call(ctx, RouteUpgrade, []string{name}, nil, UpgradeRequest{}, &out)
	return out, err
}

// Unload stops a collection and returns it as it then is.
func (c *Client) Unload(ctx context.Context, name string, req UnloadRequest) (Collection, error) {
	var out Collection
	err := c.call(ctx, RouteUnload, []string{name}, nil, req, &out)
	return out, err
}

// Recover has a quarantined directory, quarantine-ID-NAME, run as NAME again.
func (c *Client) Recover(ctx context.Context, dir string) (Collection, error) {
	var out Collection
	err := c.call(ctx, RouteRecover, []string{dir}, nil, RecoverRequest{}, &out)
	return out, err
}

// Rollback lets an older version of a collection load again.
func (c *Client) Rollback(ctx context.Context, name string, req RollbackRequest) (Collection, error) {
	var out Collection
	err := c.call(ctx, RouteRollback, []string{name}, nil, req, &out)
	return out, err
}

// Guard has the guard do something else, and returns how it then is.
func (c *Client) Guard(ctx context.Context, req GuardRequest) (Guard, error) {
	var out Guard
	err := c.call(ctx, RouteGuard, nil, nil, req, &out)
	return out, err
}

// Enroll makes an executable one that the guard takes for hornetd.
func (c *Client) Enroll(ctx context.Context, file string) (Guard, error) {
	var out Guard
	err := c.call(ctx, RouteEnroll, nil, nil, EnrollRequest{File: file}, &out)
	return out, err
}

// Retire makes executables not be hornetd any more.
func (c *Client) Retire(ctx context.Context, req RetireRequest) (Guard, error) {
	var out Guard
	err := c.call(ctx, RouteRetire, nil, nil, req, &out)
	return out, err
}

// Statement returns what a root has to sign for something to be done.
func (c *Client) Statement(ctx context.Context, req StatementRequest) (Statement, error) {
	var out Statement
	err := c.call(ctx, RouteStatement, nil, nil, req, &out)
	return out, err
}

// Signed has what a root signed be done.
func (c *Client) Signed(ctx context.Context, req SignedRequest) (Guard, error) {
	var out Guard
	err := c.call(ctx, RouteSigned, nil, nil, req, &out)
	return out, err
}

// Status returns the daemon's own state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	err := c.call(ctx, RouteStatus, nil, nil, nil, &out)
	return out, err
}

// Plan returns what Reload would do.
func (c *Client) Plan(ctx context.Context) (Plan, error) {
	var out Plan
	err := c.call(ctx, RoutePlan, nil, nil, PlanRequest{}, &out)
	return out, err
}

// Reload reads the manifests again, applies the differences and returns what it
// did; with the error of one that was stopped, what it did all the same.
func (c *Client) Reload(ctx context.Context) (Plan, error) {
	var out Plan
	err := c.call(ctx, RouteReload, nil, nil, ReloadRequest{}, &out)
	var e *Error
	if errors.As(err, &e) && e.Plan != nil {
		out = *e.Plan
	}
	return out, err
}

// EntriesOptions choose a page of a map.
type EntriesOptions struct {
	Limit int    // entries in one page; 0: as many as the daemon gives
	After string // Next of the page before; "": the beginning
	// PerCPU says how the values of a per-CPU map are shown; "": as a list.
	PerCPU PerCPU
}

// Entries returns one page of a map's entries.
func (c *Client) Entries(ctx context.Context, collection, mapName string, opts EntriesOptions) (Entries, error) {
	query := make(url.Values)
	if opts.Limit > 0 {
		query.Set("limit", strconv.Itoa(opts.Limit))
	}
	if opts.After != "" {
		query.Set("after", opts.After)
	}
	if opts.PerCPU != "" {
		query.Set("percpu", string(opts.PerCPU))
	}
	var out Entries
	err := c.call(ctx, RouteEntries, []string{collection, mapName}, query, nil, &out)
	return out, err
}

// Pages yields a whole map, page by page. A map that changes so fast that its
// end cannot be reached ends with an error of kind conflict.
func (c *Client) Pages(ctx context.Context, collection, mapName string, perCPU PerCPU) iter.Seq2[Entries, error] {
	return func(yield func(Entries, error) bool) {
		opts := EntriesOptions{PerCPU: perCPU}
		for seen := 0; ; {
			page, err := c.Entries(ctx, collection, mapName, opts)
			if err != nil {
				yield(Entries{}, err)
				return
			}
			if !yield(page, nil) || page.Next == "" {
				return
			}
			// Entries may come as fast as they are read.
			if seen += len(page.Entries); len(page.Entries) == 0 || seen > 2*int(page.MaxEntries) {
				yield(Entries{}, Errorf(KindConflict, "map %q: it changes faster than it can be read", mapName).
					WithHint("try again, or read it with a program of your own"))
				return
			}
			opts.After = page.Next
		}
	}
}

// EventsOptions choose a part of the events.
type EventsOptions struct {
	Since  uint64 // events with a greater Seq
	Follow bool   // wait for more instead of ending with the last one there is

	// Only some; lost ones are told in any case.
	Kinds      []EventKind // none: all
	Collection string      // "": all, and what is about none
}

// Events yields events in their order. After an error, which comes last, ask
// again with Since set to the last Seq seen. Leaving the loop or ending the
// context closes the stream.
func (c *Client) Events(ctx context.Context, opts EventsOptions) iter.Seq2[Event, error] {
	query := url.Values{"since": {strconv.FormatUint(opts.Since, 10)}}
	if opts.Follow {
		query.Set("follow", "true")
	}
	if len(opts.Kinds) > 0 {
		var kinds []string
		for _, k := range opts.Kinds {
			kinds = append(kinds, string(k))
		}
		query.Set("kind", strings.Join(kinds, ","))
	}
	if opts.Collection != "" {
		query.Set("collection", opts.Collection)
	}
	return func(yield func(Event, error) bool) {
		resp, err := c.send(ctx, RouteEvents, nil, query, nil, EventsType)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer resp.Body.Close()
		events := newEventReader(resp.Body)
		for {
			event, err := events.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Event{}, c.broken(ctx, err))
				return
			}
			if !yield(event, nil) {
				return
			}
		}
	}
}

// call sends one request and decodes its answer into out.
func (c *Client) call(ctx context.Context, route string, names []string, query url.Values, body, out any) error {
	resp, err := c.send(ctx, route, names, query, body, "application/json")
	if err != nil {
		return err
	}
	return c.decode(ctx, route, resp, out)
}

// decode reads an answer into out.
func (c *Client) decode(ctx context.Context, route string, resp *http.Response, out any) error {
	defer resp.Body.Close()
	b, err := readBody(resp.Body)
	if err != nil {
		return c.broken(ctx, err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return c.stranger("answer to %s: %w", route, err)
	}
	return nil
}

// send sends one request and returns its answer if that is a success of type
// mediaType; else the error that the answer holds.
func (c *Client) send(ctx context.Context, route string, names []string, query url.Values, body any, mediaType string) (*http.Response, error) {
	req, err := newRequest(ctx, route, names, query, body)
	if err != nil {
		return nil, err
	}
	return c.do(req, route, mediaType)
}

// do is send for a request that is made.
func (c *Client) do(req *http.Request, route, mediaType string) (*http.Response, error) {
	ctx := req.Context()
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	got, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode/100 == 2 && got == mediaType {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 && got == "application/json" {
		return nil, c.refusal(ctx, resp)
	}
	return nil, c.stranger("answer to %s: status %d with %q", route, resp.StatusCode, got)
}

// refusal reads the error in an answer.
func (c *Client) refusal(ctx context.Context, resp *http.Response) error {
	b, err := readBody(resp.Body)
	if err != nil {
		return c.broken(ctx, err)
	}
	var e Error
	if err := json.Unmarshal(b, &e); err != nil || e.Kind == "" || e.Message == "" {
		return c.stranger("answer with status %d holds no error", resp.StatusCode)
	}
	return &e
}

func newRequest(ctx context.Context, route string, names []string, query url.Values, body any) (*http.Request, error) {
	method, pattern, _ := strings.Cut(route, " ")
	path, err := fill(pattern, names)
	if err != nil {
		return nil, err
	}
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, Errorf(KindInternal, "request: %w", err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://hornetd"+path, r)
	if err != nil {
		return nil, Errorf(KindInternal, "request: %w", err)
	}
	req.URL.RawQuery = query.Encode()
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// fill puts names in the place of a pattern's wildcards. A name that would
// change which route is meant is refused.
func fill(pattern string, names []string) (string, error) {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		if !strings.HasPrefix(s, "{") {
			continue
		}
		name := names[0]
		names = names[1:]
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return "", Errorf(KindBadRequest, "name %q: not a name", name)
		}
		segments[i] = url.PathEscape(name)
	}
	return strings.Join(segments, "/"), nil
}

func readBody(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxResponseBytes+1))
	if err == nil && len(b) > MaxResponseBytes {
		return nil, Errorf(KindProtocol, "answer is longer than %d bytes", MaxResponseBytes)
	}
	return b, err
}

// unreachable explains why no answer came.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return Errorf(KindUnavailable, "hornetd: %w", ctx.Err())
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Errorf(KindUnavailable, "socket %s: %w", c.socket, syscall.ENOENT).
			WithHint("start the daemon: systemctl start hornetd; or name its socket with --socket or HORNET_SOCKET")
	case errors.Is(err, syscall.ECONNREFUSED):
		return Errorf(KindUnavailable, "socket %s: nobody listens: %w", c.socket, syscall.ECONNREFUSED).
			WithHint("the daemon has ended; see journalctl -u hornetd")
	case errors.Is(err, fs.ErrPermission):
		return Errorf(KindDenied, "socket %s: %w", c.socket, syscall.EACCES).
			WithHint("use sudo, or let an administrator add you to the group that owns the socket")
	}
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return Errorf(KindUnavailable, "socket %s: %w", c.socket, op.Err)
	case errors.Is(err, io.EOF), errors.As(err, &op):
		return Errorf(KindUnavailable, "socket %s: hung up without an answer: %w", c.socket, err).
			WithHint("the daemon was stopped or gave up on this client; see journalctl -u hornetd")
	}
	return c.stranger("answer: %w", err)
}

// broken explains an answer that ended early.
func (c *Client) broken(ctx context.Context, err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case ctx.Err() != nil:
		return Errorf(KindUnavailable, "hornetd: %w", ctx.Err())
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return Errorf(KindUnavailable, "hornetd: the answer ended in the middle: %w", err).
			WithHint("the daemon was stopped or gave up on this client; see journalctl -u hornetd")
	}
	return c.stranger("answer: %w", err)
}

// stranger says that what listens does not speak this API.
func (c *Client) stranger(format string, args ...any) error {
	e := Errorf(KindProtocol, format, args...)
	e.Message = "socket " + c.socket + ": " + e.Message
	return e.WithHint("check that hornetd listens there, and that its version fits this program's")
}
