package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// UpgradeTarget is the protocol that a connection changes to in order to show what a
// collection shall be attached to, where its manifest says target = "caller". Behind
// the 101 the client sends one byte, a line's end, in one message with one to
// MostTargets descriptors (SCM_RIGHTS, unix(7)), each of another kind: a directory of
// cgroup2, a network namespace, a pidfd. The daemon answers with one line of JSON, a
// Loaded, and hangs up. Descriptors that come before the 101 are closed.
const UpgradeTarget = "hornet-target"

// MostTargets is how many descriptors a client may show for one load or run.
const MostTargets = 3

// Loaded is what came of a load or run with descriptors: one of the two.
type Loaded struct {
	Collection *Collection `json:"collection,omitempty"`
	Error      *Error      `json:"error,omitempty"`
}

// LoadTargets is Load of a collection that is attached to what files are: a directory
// of cgroup2 that the caller's user owns, a pidfd of a process of that user and of
// nobody's else, or a network namespace of a user namespace that the user made. The
// files stay the caller's, and may be closed when it returns.
func (c *Client) LoadTargets(ctx context.Context, name string, files ...*os.File) (Collection, error) {
	req, err := newRequest(ctx, RouteLoad, []string{name}, nil, nil)
	if err != nil {
		return Collection{}, err
	}
	return c.show(req, RouteLoad, files)
}

// RunTargets is Run of what does not run, attached to what files are as LoadTargets
// has it.
func (c *Client) RunTargets(ctx context.Context, name string, b Bundle, files ...*os.File) (Collection, error) {
	req, err := newRun(ctx, url.Values{"name": {name}}, b)
	if err != nil {
		return Collection{}, err
	}
	return c.show(req, RouteRun, files)
}

// show sends a request, and behind the 101 the files.
func (c *Client) show(req *http.Request, route string, files []*os.File) (Collection, error) {
	ctx := req.Context()
	body, conn, err := c.changeTo(req, UpgradeTarget)
	if err != nil {
		return Collection{}, err
	}
	defer body.Close()
	defer context.AfterFunc(ctx, func() { body.Close() })()
	if err := showOn(conn, files); err != nil {
		return Collection{}, c.broken(ctx, err)
	}
	line, err := io.ReadAll(io.LimitReader(body, MaxResponseBytes))
	if err != nil {
		return Collection{}, c.broken(ctx, err)
	}
	var loaded Loaded
	err = json.Unmarshal(line, &loaded)
	switch {
	case len(line) == 0:
		return Collection{}, c.broken(ctx, io.ErrUnexpectedEOF)
	case err == nil && (loaded.Error == nil) == (loaded.Collection == nil):
		err = errors.New("not one of collection and error")
	}
	if err != nil {
		return Collection{}, c.stranger("answer to %s: %w", route, err)
	}
	if loaded.Error != nil {
		return Collection{}, loaded.Error
	}
	return *loaded.Collection, nil
}

// changeTo sends a request that has its connection change to protocol. What comes is
// read by body, which has read some of it already maybe; socket is for descriptors.
func (c *Client) changeTo(req *http.Request, protocol string) (body io.ReadWriteCloser, socket *net.UnixConn, err error) {
	ctx := req.Context()
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	trace := httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { socket, _ = got.Conn.(*net.UnixConn) }}
	resp, err := c.http.Do(req.WithContext(httptrace.WithClientTrace(ctx, &trace)))
	if err != nil {
		return nil, nil, c.unreachable(ctx, err)
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode == http.StatusSwitchingProtocols && ok && strings.EqualFold(resp.Header.Get("Upgrade"), protocol) {
		return body, socket, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 4 || resp.StatusCode/100 == 5 {
		return nil, nil, c.refusal(ctx, resp)
	}
	return nil, nil, c.stranger("answer to %s: status %d, not a change to %s", req.URL.Path, resp.StatusCode, protocol)
}

// showOn sends files, as UpgradeTarget has it.
func showOn(socket *net.UnixConn, files []*os.File) error {
	if socket == nil {
		return Errorf(KindInternal, "client: connects to something that takes no descriptors")
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	_, _, err := socket.WriteMsgUnix([]byte{'\n'}, syscall.UnixRights(fds...), nil)
	runtime.KeepAlive(files)
	return err
}
