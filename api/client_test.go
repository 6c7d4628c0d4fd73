package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve answers requests on a Unix socket with h and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	c := New(socket)
	t.Cleanup(c.Close)
	return c
}

// answer is a handler that says one thing.
func answer(status int, mediaType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// formPart is one part of a form with the boundary B.
func formPart(name, contents string) string {
	return fmt.Sprintf("--B\nContent-Disposition: form-data; name=%q; filename=%q\nContent-Type: application/octet-stream\n\n%s\n", name, name, contents)
}

func TestClientRequests(t *testing.T) {
	var got atomic.Value
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent := fmt.Sprintf("%s %s %s %s", r.Method, r.RequestURI, r.Header.Get("Content-Type"), body)
		if _, boundary, isForm := strings.Cut(r.Header.Get("Content-Type"), "boundary="); isForm {
			sent = strings.ReplaceAll(sent, boundary, "B")
		}
		got.Store(sent)
		mediaType := "application/json"
		if r.URL.Path == "/v1/events" || strings.HasSuffix(r.URL.Path, "/stream") {
			mediaType = EventsType
		}
		answer(200, mediaType, "")(w, r)
		if mediaType == "application/json" {
			io.WriteString(w, "{}")
		}
	})
	ctx := t.Context()
	calls := map[string]func() error{
		RouteList:    func() error { _, err := c.List(ctx); return err },
		RouteGet:     func() error { _, err := c.Get(ctx, "a b?"); return err },
		RouteLoad:    func() error { _, err := c.Load(ctx, "a"); return err },
		RouteUpgrade: func() error { _, err := c.Upgrade(ctx, "a"); return err },
		RouteUnload: func() error {
			_, err := c.Unload(ctx, "a", UnloadRequest{Force: true})
			return err
		},
		RouteRollback: func() error {
			_, err := c.Rollback(ctx, "a", RollbackRequest{Version: 4, Reason: "why"})
			return err
		},
		RouteRecover: func() error { _, err := c.Recover(ctx, "quarantine-1-a"); return err },
		RouteMap: func() error {
			_, _, err := c.OpenMap(ctx, "a", ".bss", AccessReadWrite)
			wantKind(t, err, KindProtocol) // an answer, but not a 101
			return nil
		},
		RouteEntries: func() error {
			_, err := c.Entries(ctx, "a", ".rodata", EntriesOptions{Limit: 5, After: "00&", PerCPU: PerCPUSum})
			return err
		},
		RouteWrite: func() error {
			_, err := c.Write(ctx, "a", "m", WriteRequest{List[WriteEntry]{{Key: []byte("1"), Value: []byte(`{"a":2}`), Flags: WriteExist}}})
			return err
		},
		RouteDelete: func() error {
			_, err := c.Delete(ctx, "a", "m", DeleteRequest{List[json.RawMessage]{[]byte(`"k"`)}})
			return err
		},
		RouteStream: func() error {
			for _, err := range c.Samples(ctx, "a", "m") {
				return err
			}
			return nil
		},
		RouteRun: func() error {
			_, err := c.Run(ctx, "a", Bundle{Manifest: []byte("m"), Object: []byte("o"), Signature: []byte("s")})
			return err
		},
		RouteStatus: func() error { _, err := c.Status(ctx); return err },
		RouteReload: func() error { _, err := c.Reload(ctx); return err },
		RoutePlan:   func() error { _, err := c.Plan(ctx); return err },
		RouteGuard: func() error {
			_, err := c.Guard(ctx, GuardRequest{Mode: GuardEnforce, ConfirmWithin: "10m"})
			return err
		},
		RouteEnroll: func() error { _, err := c.Enroll(ctx, "/a"); return err },
		RouteRetire: func() error { _, err := c.Retire(ctx, RetireRequest{SHA256: "0a"}); return err },
		RouteStatement: func() error {
			_, err := c.Statement(ctx, StatementRequest{Act: ActDisarm, Reason: "why"})
			return err
		},
		RouteSigned: func() error {
			_, err := c.Signed(ctx, SignedRequest{Act: ActTrust, Statement: "s", Signature: []byte("t")})
			return err
		},
		RouteEvents: func() error {
			for _, err := range c.Events(ctx, EventsOptions{Since: 7, Follow: true}) {
				return err
			}
			return nil
		},
	}
	want := map[string]string{
		RouteList:     "GET /v1/collections  ",
		RouteGet:      "GET /v1/collections/a%20b%3F  ",
		RouteLoad:     "POST /v1/collections/a/load application/json {}",
		RouteUpgrade:  "POST /v1/collections/a/upgrade application/json {}",
		RouteUnload:   `POST /v1/collections/a/unload application/json {"force":true}`,
		RouteRollback: `POST /v1/collections/a/rollback application/json {"version":4,"reason":"why"}`,
		RouteRecover:  "POST /v1/collections/quarantine-1-a/recover application/json {}",
		RouteMap:      "GET /v1/collections/a/maps/.bss?access=read-write  ",
		RouteEntries:  "GET /v1/collections/a/maps/.rodata/entries?after=00%26&limit=5&percpu=sum  ",
		RouteWrite:    `PUT /v1/collections/a/maps/m/entries application/json {"entries":[{"key":1,"value":{"a":2},"flags":"exist"}]}`,
		RouteDelete:   `DELETE /v1/collections/a/maps/m/entries application/json {"keys":["k"]}`,
		RouteStream:   "GET /v1/collections/a/maps/m/stream  ",
		RouteRun:      "POST /v1/run?name=a multipart/form-data; boundary=B " + strings.ReplaceAll(formPart("manifest", "m")+formPart("object", "o")+formPart("signature", "s")+"--B--\n", "\n", "\r\n"),
		RouteStatus:   "GET /v1/status  ",
		RouteReload:   "POST /v1/reload application/json {}",
		RoutePlan:     "POST /v1/plan application/json {}",
		RouteGuard:    `POST /v1/guard application/json {"mode":"enforce","confirm_within":"10m"}`,
		RouteEnroll:   `POST /v1/guard/enroll application/json {"file":"/a"}`,
		RouteRetire:   `POST /v1/guard/retire application/json {"sha256":"0a"}`,

		RouteStatement: `POST /v1/guard/statement application/json {"act":"disarm","reason":"why"}`,
		RouteSigned:    `POST /v1/guard/signed application/json {"act":"trust","statement":"s","signature":"dA=="}`,

		RouteEvents: "GET /v1/events?follow=true&since=7  ",
	}
	for _, r := range Routes() {
		if calls[r.Pattern] == nil {
			t.Errorf("%s: the client has no call for it", r.Pattern)
			continue
		}
		if err := calls[r.Pattern](); err != nil {
			t.Errorf("%s: %v", r.Pattern, err)
		}
		if got.Load() != want[r.Pattern] {
			t.Errorf("%s: sent %q, want %q", r.Pattern, got.Load(), want[r.Pattern])
		}
	}
}

// pages answers with a map of the keys 0 to n-1, size of them in a page.
func pages(n, size int, maxEntries uint32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		first, _ := strconv.Atoi(r.URL.Query().Get("after"))
		page := Entries{Map: "m", MaxEntries: maxEntries}
		for key := first; key < min(first+size, n); key++ {
			page.Entries = append(page.Entries, Entry{Key: json.RawMessage(strconv.Itoa(key)), Value: json.RawMessage("0")})
		}
		if first+size < n {
			page.Next = strconv.Itoa(first + size)
		}
		b, _ := json.Marshal(page)
		answer(200, "application/json", string(b))(w, r)
	}
}

func TestPages(t *testing.T) {
	for _, test := range []struct {
		name       string
		n, size    int
		maxEntries uint32
		keys       int
		kind       Kind
	}{
		{"empty", 0, 2, 10, 0, ""},
		{"one page", 2, 2, 10, 2, ""},
		{"several", 5, 2, 5, 5, ""},
		{"twice as many as there can be", 8, 2, 4, 8, ""},
		{"more than that", 100, 2, 4, 10, KindConflict},
		{"no progress", 1, 0, 4, 0, KindConflict},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := serve(t, pages(test.n, test.size, test.maxEntries))
			keys := 0
			var last error
			for page, err := range c.Pages(t.Context(), "c", "m", "") {
				keys, last = keys+len(page.Entries), err
			}
			if keys != test.keys {
				t.Errorf("%d entries, want %d", keys, test.keys)
			}
			if test.kind != "" {
				wantKind(t, last, test.kind)
			} else if last != nil {
				t.Error(last)
			}
		})
	}
}

func TestClientRefusesNamesThatChangeTheRoute(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	for _, name := range []string{"", ".", "..", "../status", "a/load", "a\x00b"} {
		_, err := c.Get(t.Context(), name)
		wantKind(t, err, KindBadRequest)
		_, err = c.Entries(t.Context(), "a", name, EntriesOptions{})
		wantKind(t, err, KindBadRequest)
	}
}

func TestClientErrors(t *testing.T) {
	for name, test := range map[string]struct {
		server http.HandlerFunc
		want   Error
	}{
		"refusal": {
			answer(403, "application/json", `{"kind":"denied","message":"m","hint":"h","detail":"d"}`),
			Error{Kind: KindDenied, Message: "m", Hint: "h", Detail: "d"},
		},
		"kind of a newer daemon": {
			answer(418, "application/json; charset=utf-8", `{"kind":"teapot","message":"m","other":1}`),
			Error{Kind: "teapot", Message: "m"},
		},
		"error without a kind":  {answer(500, "application/json", `{"message":"m"}`), Error{Kind: KindProtocol}},
		"error that is no JSON": {answer(500, "application/json", `oops`), Error{Kind: KindProtocol}},
		"another server":        {answer(200, "text/html", `{}`), Error{Kind: KindProtocol}},
		"another server's 404":  {answer(404, "text/plain", `404 page not found`), Error{Kind: KindProtocol}},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/v1/elsewhere", http.StatusFound)
		}, Error{Kind: KindProtocol}},
		"success that is no JSON": {answer(200, "application/json", `{"collections":[`), Error{Kind: KindProtocol}},
		"another shape":           {answer(200, "application/json", `{"collections":{}}`), Error{Kind: KindProtocol}},
		"cut in the middle": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			answer(200, "application/json", `{"collections":`)(w, r)
		}, Error{Kind: KindUnavailable}},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			answer(200, "application/json", "{}")(w, r)
			for spaces := []byte(strings.Repeat(" ", 1<<20)); ; {
				if _, err := w.Write(spaces); err != nil {
					return
				}
			}
		}, Error{Kind: KindProtocol, Message: "answer is longer than 33554432 bytes"}},
		"huge header": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			answer(200, "application/json", `{}`)(w, r)
		}, Error{Kind: KindProtocol}},
		"no HTTP": {func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
			conn.Close()
		}, Error{Kind: KindProtocol}},
		"hangs up": {func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}, Error{Kind: KindUnavailable}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, test.server).List(t.Context())
			e := wantKind(t, err, test.want.Kind)
			if test.want.Message != "" && (e.Message != test.want.Message || e.Hint != test.want.Hint || e.Detail != test.want.Detail) {
				t.Errorf("error is %+v, want %+v", *e, test.want)
			}
		})
	}
}

func TestClientUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, socket string
		cause        error
	}{
		{"no socket", filepath.Join(dir, "none"), fs.ErrNotExist},
		{"nobody listens", dead, syscall.ECONNREFUSED},
		{"not a socket", file, syscall.ECONNREFUSED},
		{"path too long", filepath.Join(dir, strings.Repeat("x", 200)), syscall.EINVAL},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := New(test.socket).Status(t.Context())
			e := wantKind(t, err, KindUnavailable)
			if !errors.Is(err, test.cause) || !strings.Contains(e.Message, test.socket) {
				t.Errorf("error is %q, want one that names the socket and %v", err, test.cause)
			}
			if e.Hint == "" && test.cause != syscall.EINVAL {
				t.Error("no hint")
			}
		})
	}
}

// The client's own side of a denied socket; a file mode does not stop root.
func TestClientMayNotConnect(t *testing.T) {
	c := New("/s")
	e := wantKind(t, c.unreachable(t.Context(), &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}), KindDenied)
	if e.Hint == "" || !errors.Is(e, fs.ErrPermission) {
		t.Errorf("error is %+v", e)
	}
}

func TestClientContext(t *testing.T) {
	asked := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := c.Load(ctx, "a")
	wantKind(t, err, KindUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

// stream sends events and then stays, until the client has gone.
func stream(gone chan<- struct{}, seqs ...uint64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		w.Header().Set("Content-Type", EventsType)
		for _, seq := range seqs {
			WriteEvent(w, Event{Seq: seq})
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func TestEventsArriveWhileTheStreamIsOpen(t *testing.T) {
	gone := make(chan struct{})
	c := serve(t, stream(gone, 1, 2, 3))
	var got []uint64
	for e, err := range c.Events(t.Context(), EventsOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.Seq); len(got) == 2 {
			break
		}
	}
	if diff := cmp.Diff([]uint64{1, 2}, got); diff != "" {
		t.Error(diff)
	}
	<-gone // leaving the loop hung up
}

func TestEventsEndWithTheContext(t *testing.T) {
	gone := make(chan struct{})
	c := serve(t, stream(gone, 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last error
	for _, err := range c.Events(ctx, EventsOptions{Follow: true}) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("last error is %v", last)
	}
	wantKind(t, last, KindUnavailable)
	<-gone
}

func TestEventsBreak(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", EventsType)
		WriteEvent(w, Event{Seq: 1})
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	n := 0
	var last error
	for e, err := range c.Events(t.Context(), EventsOptions{}) {
		if err == nil {
			n += int(e.Seq)
		}
		last = err
	}
	if n != 1 {
		t.Errorf("%d events before the break, want 1", n)
	}
	wantKind(t, last, KindUnavailable)
}

func wantKind(t *testing.T, err error, kind Kind) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %v (%T), want an *Error of kind %s", err, err, kind)
	}
	if e.Kind != kind {
		t.Errorf("error is %s: %s, want kind %s", e.Kind, e.Message, kind)
	}
	return e
}
