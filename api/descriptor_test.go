package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// give is a daemon that answers every connection with these messages, each with
// so many descriptors of a file.
type give []struct {
	text string
	fds  int
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hornet-fd\r\n\r\n"

func (g give) serve(t *testing.T) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
				t.Error(err)
			}
			for _, m := range g {
				rights := make([]int, m.fds)
				for i := range rights {
					rights[i] = int(file.Fd())
				}
				if _, _, err := conn.WriteMsgUnix([]byte(m.text), syscall.UnixRights(rights...), nil); err != nil && !errors.Is(err, syscall.EPIPE) { // it has had enough
					t.Error(err)
				}
			}
			if len(g) > 0 {
				conn.Close()
			}
		}
	}()
	return New(socket)
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestOpenMap(t *testing.T) {
	const line = `{"map":"m","type":"Hash","id":7,"access":"read-only"}` + "\n"
	for name, test := range map[string]struct {
		messages give
		kind     Kind // "" where it is given
		says     string
	}{
		"in two messages": {give{{switching, 0}, {line, 1}}, "", ""},
		"in one":          {give{{switching + line, 1}}, "", ""},
		"in pieces":       {give{{switching[:20], 0}, {switching[20:], 0}, {line[:5], 1}, {line[5:], 0}}, "", ""},
		"none":            {give{{switching, 0}, {line, 0}}, KindProtocol, "none came"},
		"two":             {give{{switching, 0}, {line, 2}}, KindProtocol, "more than one"},
		"one and one":     {give{{switching, 1}, {line, 1}}, KindProtocol, "more than one"},
		"many":            {give{{switching, 0}, {line, 100}}, KindProtocol, "more than one"},
		"no line":         {give{{switching, 0}}, KindUnavailable, "in the middle"},
		"half a line":     {give{{switching, 0}, {line[:9], 1}}, KindUnavailable, "in the middle"},
		"no JSON":         {give{{switching, 0}, {"hello\n", 1}}, KindProtocol, "invalid character"},
		"an endless line": {give{{switching, 0}, {strings.Repeat("x", 10000), 1}}, KindProtocol, "buffer full"},
		"another change":  {give{{strings.Replace(switching, "hornet-fd", "websocket", 1), 0}, {line, 1}}, KindProtocol, "not a change"},
		"an answer":       {give{{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 1}}, KindProtocol, "status 200"},
		"a refusal":       {give{{"HTTP/1.1 403 F\r\nContent-Length: 33\r\n\r\n" + `{"kind":"denied","message":"why"}`, 1}}, KindDenied, "why"},
		"no HTTP":         {give{{"hello\n", 1}}, KindProtocol, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			c := test.messages.serve(t)
			before := descriptors(t)
			f, d, err := c.OpenMap(t.Context(), "c", "m", "")
			if test.kind != "" {
				wantKind(t, err, test.kind)
				if !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v does not say %q", err, test.says)
				}
			} else if err != nil || d.ID != 7 || d.Access != AccessReadOnly {
				t.Fatalf("%+v, %v", d, err)
			}
			if f != nil {
				if flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_GETFD, 0); flags&syscall.FD_CLOEXEC == 0 {
					t.Error("not close-on-exec")
				}
				if _, err := f.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("not the file that was sent: %v", err)
				}
				f.Close()
			}
			for range 100 { // the other end closes its connection in its own time
				if descriptors(t) <= before {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("%d descriptors are open, were %d", descriptors(t), before)
		})
	}
}

func TestOpenMapWaits(t *testing.T) {
	c := give{}.serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err := c.OpenMap(ctx, "c", "m", AccessReadOnly)
	wantKind(t, err, KindUnavailable)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
