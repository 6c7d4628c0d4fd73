package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"syscall"
	"time"
)

// UpgradeTarget is the protocol that a connection changes to in order to show what a
// collection shall be attached to, where its manifest says target = "caller". Behind
// the 101 the client sends one byte, a line's end, in one message with one to
// MostTargets descriptors (SCM_RIGHTS, unix(7)), each of another kind: a directory of
// cgroup2, a network namespace, a pidfd. The daemon answers with one line of JSON, a
// Loaded, and hangs up. Descriptors that come before the 101 are closed.
const UpgradeTarget = "hornet-target"

// MostTargets is how many descriptors a client may show for one load.
const MostTargets = 3

// Loaded is what came of a load with descriptors: one of the two.
type Loaded struct {
	Collection *Collection `json:"collection,omitempty"`
	Error      *Error      `json:"error,omitempty"`
}

// LoadTargets is Load of a collection that is attached to what files are: a directory
// of cgroup2 that the caller's user owns, a pidfd of a process of that user and of
// nobody's else, or a network namespace of a user namespace that the user made. The
// files stay the caller's, and may be closed when it returns.
func (c *Client) LoadTargets(ctx context.Context, name string, files ...*os.File) (Collection, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return Collection{}, c.unreachable(ctx, err)
	}
	defer conn.Close()
	// A deadline in the past ends whatever waits.
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	req, err := newRequest(ctx, RouteLoad, []string{name}, nil, nil)
	if err != nil {
		return Collection{}, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", UpgradeTarget)
	if err := req.Write(conn); err != nil {
		return Collection{}, c.unreachable(ctx, err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return Collection{}, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != UpgradeTarget {
		if resp.StatusCode/100 != 2 && resp.StatusCode >= 200 {
			return Collection{}, c.refusal(ctx, resp)
		}
		return Collection{}, c.stranger("answer to %s: status %d, not a change to %s", RouteLoad, resp.StatusCode, UpgradeTarget)
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return Collection{}, Errorf(KindInternal, "client: connects to a %T, which takes no descriptors", conn)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	_, _, err = uc.WriteMsgUnix([]byte{'\n'}, syscall.UnixRights(fds...), nil)
	runtime.KeepAlive(files)
	if err != nil {
		return Collection{}, c.broken(ctx, err)
	}
	line, err := io.ReadAll(io.LimitReader(r, MaxResponseBytes))
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
		return Collection{}, c.stranger("answer to %s: %w", RouteLoad, err)
	}
	if loaded.Error != nil {
		return Collection{}, loaded.Error
	}
	return *loaded.Collection, nil
}
