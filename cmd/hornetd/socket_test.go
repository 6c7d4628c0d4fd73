package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// connsPerUID is how many connections one user may have.
const connsPerUID = 16

// curled is an answer as curl saw it.
type curled struct {
	status int
	media  string
	body   string
}

// curl asks as a user, with a client that shares no code with ours.
func curl(t *testing.T, h *testdaemon.Host, uid uint32, method, path string, args ...string) curled {
	t.Helper()
	argv := append([]string{"curl", "-sS", "--max-time", "20", "--path-as-is", "--unix-socket", h.Socket, "-X", method,
		"-w", "\n%{content_type}\n%{http_code}"}, append(args, "http://hornet"+path)...)
	stdout, stderr, exit := h.RunAs(uid, argv...)
	if exit != 0 {
		t.Fatalf("curl %s %s: exit status %d: %s", method, path, exit, stderr)
	}
	lines := strings.Split(stdout, "\n")
	n := len(lines)
	status, err := strconv.Atoi(lines[n-1])
	if err != nil {
		t.Fatalf("curl: %q: %v", stdout, err)
	}
	return curled{status, lines[n-2], strings.Join(lines[:n-2], "\n")}
}

// decode decodes the body as JSON without keys that v does not have.
func (c curled) decode(t *testing.T, v any) {
	t.Helper()
	if c.media != "application/json" {
		t.Errorf("content type %q", c.media)
	}
	dec := json.NewDecoder(strings.NewReader(c.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		t.Errorf("%q: %v", c.body, err)
	}
}

// refusal decodes the body as an error of this kind.
func (c curled) refusal(t *testing.T, kind api.Kind) api.Error {
	t.Helper()
	var e api.Error
	c.decode(t, &e)
	if e.Kind != kind || c.status != kind.Status() || e.Message == "" {
		t.Errorf("status %d, want %s: %s", c.status, kind, c.body)
	}
	return e
}

// newOffice is a host with two collections: "open", of which stranger may do
// some things, and "shut", of which nobody but root may do anything.
func newOffice(t *testing.T) *testdaemon.Host {
	t.Helper()
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("open", connCount(testenv.Cgroup(t))+fmt.Sprintf("[[allow]]\nuser = %q\nmay = [\"status\", \"load\", \"read:connects\"]\n[[allow]]\ngroup = \"4321\"\nmay = [\"status\", \"unload\", \"events\"]\n", strconv.Itoa(stranger)))
	h.Manifest("shut", connCount(testenv.Cgroup(t)))
	h.Start()
	return h
}

func TestCurl(t *testing.T) {
	testenv.NoLeaks(t)
	h := newOffice(t)

	var status api.Status
	curl(t, h, 0, "GET", "/v1/status").decode(t, &status)
	if status.PID != h.PID() || status.Collections.Available != 2 || len(status.Signers) != 1 || status.Signers[0].Name != "dev" {
		t.Errorf("status: %+v", status)
	}
	var loaded, shown api.Collection
	curl(t, h, 0, "POST", "/v1/collections/shut/load").decode(t, &loaded)
	curl(t, h, 0, "GET", "/v1/collections/shut").decode(t, &shown)
	if len(loaded.Links) != 2 || cmp.Diff(kernelLinks(t, shown), kernelLinks(t, loaded)) != "" {
		t.Errorf("loaded %+v, shown %+v", loaded, shown)
	}
	var list api.Collections
	curl(t, h, 0, "GET", "/v1/collections").decode(t, &list)
	if len(list.Collections) != 2 || list.Collections[0].Name != "open" || list.Collections[1].State != api.StateRunning {
		t.Errorf("list: %+v", list)
	}
	var entries api.Entries
	curl(t, h, 0, "GET", "/v1/collections/shut/maps/connects/entries?limit=5").decode(t, &entries)
	if entries.Map != "connects" || entries.MaxEntries != 4096 {
		t.Errorf("entries: %+v", entries)
	}
	var plan api.Plan
	curl(t, h, 0, "POST", "/v1/plan", "-d", "{}").decode(t, &plan)
	curl(t, h, 0, "POST", "/v1/reload", "-d", "{}").decode(t, &plan)
	curl(t, h, 0, "POST", "/v1/collections/shut/unload", "-d", `{"force":false}`).decode(t, &shown)
	if shown.State != api.StateAvailable || len(kernelLinks(t, loaded)) != 0 {
		t.Errorf("after the unload: %+v", shown)
	}
	if events := curl(t, h, 0, "GET", "/v1/events"); events.media != api.EventsType || !strings.HasPrefix(events.body, "\x1e{") {
		t.Errorf("events: %+v", events)
	}
}

// TestCurlRefused: everything that is not a request of this API is an error in
// JSON, with the status that goes with it.
func TestCurlRefused(t *testing.T) {
	h := newOffice(t)
	deep := strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000)
	big := h.Write("big", bytes.Repeat([]byte(" "), 128<<10))
	for _, test := range []struct {
		method, path string
		kind         api.Kind
		args         []string
	}{
		{"GET", "/", api.KindNotFound, nil},
		{"GET", "/v2/status", api.KindNotFound, nil},
		{"GET", "/v1/collections/", api.KindNotFound, nil},
		{"GET", "//v1/status", api.KindNotFound, nil},
		{"GET", "/v1/../v1/status", api.KindNotFound, nil},
		{"GET", "/v1/./status", api.KindNotFound, nil},
		{"DELETE", "/v1/collections/open", api.KindNotFound, nil},
		{"GET", "/v1/collections/open/load", api.KindNotFound, nil},
		{"POST", "/v1/status", api.KindNotFound, nil},
		{"GET", "/v1/collections/nobody", api.KindNotFound, nil},
		{"GET", "/v1/collections/open/maps/nothing/entries", api.KindNotFound, nil},
		{"POST", "/v1/collections/nobody/load", api.KindNotFound, nil},
		{"POST", "/v1/collections/..%2Fopen/load", api.KindBadRequest, nil},
		{"POST", "/v1/collections/open%00/load", api.KindBadRequest, nil},
		{"GET", "/v1/status?verbose=1", api.KindBadRequest, nil},
		{"GET", "/v1/collections?state=running", api.KindBadRequest, nil},
		{"GET", "/v1/collections/open?x", api.KindBadRequest, nil},
		{"POST", "/v1/collections/open/load?force=1", api.KindBadRequest, nil},
		{"GET", "/v1/events?sinze=1", api.KindBadRequest, nil},
		{"GET", "/v1/events?since=-1", api.KindBadRequest, nil},
		{"GET", "/v1/events?since=%zz", api.KindBadRequest, nil},
		{"GET", "/v1/events?since=1;follow=true", api.KindBadRequest, nil},
		{"GET", "/v1/events?since=1&since=2", api.KindBadRequest, nil},
		{"GET", "/v1/events?follow=maybe", api.KindBadRequest, nil},
		{"GET", "/v1/collections/open/maps/connects/entries?limit=0", api.KindBadRequest, nil},
		{"POST", "/v1/collections/open/load", api.KindBadRequest, []string{"-d", "{"}},
		{"POST", "/v1/collections/open/load", api.KindBadRequest, []string{"-d", "[]"}},
		{"POST", "/v1/collections/open/load", api.KindBadRequest, []string{"-d", "null"}},
		{"POST", "/v1/collections/open/load", api.KindBadRequest, []string{"-d", "{} {}"}},
		{"POST", "/v1/collections/open/load", api.KindBadRequest, []string{"-d", `{"path":"/etc/shadow"}`}},
		{"POST", "/v1/collections/open/unload", api.KindBadRequest, []string{"-d", `{"Force":true}`}},
		{"POST", "/v1/collections/open/unload", api.KindBadRequest, []string{"-d", `{"force":true,"force":false}`}},
		{"POST", "/v1/collections/open/unload", api.KindBadRequest, []string{"-d", `{"force":1}`}},
		{"POST", "/v1/reload", api.KindBadRequest, []string{"-d", deep}},
		{"POST", "/v1/reload", api.KindLimit, []string{"--data-binary", "@" + big}},
		{"POST", "/v1/reload", api.KindLimit, []string{"--data-binary", "@" + big, "-H", "Transfer-Encoding: chunked"}},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			curl(t, h, 0, test.method, test.path, test.args...).refusal(t, test.kind)
		})
	}
	// net/http's own answer, before there is a request to answer.
	if c := curl(t, h, 0, "GET", "/v1/status", "-H", "X-Long: "+strings.Repeat("x", 64<<10)); c.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("header of 64 KiB: %+v", c)
	}
	if s, err := h.Client().Status(context.Background()); err != nil || s.Collections.Running != 0 {
		t.Errorf("after all that: %+v, %v", s, err)
	}
}

// TestUnprivileged: a user may do exactly what the manifest says, and cannot
// tell what is forbidden from what does not exist.
func TestUnprivileged(t *testing.T) {
	testenv.NoLeaks(t)
	h := newOffice(t)
	load(t, h, "shut")
	groups := []string{"setpriv", "--reuid=5000", "--regid=5000", "--groups=4321", testdaemon.Binary(t, "hornetctl")}
	for _, test := range []struct {
		as   string
		args string
		exit int
		says string // on either output
	}{
		{"stranger", "status", 0, ""},
		{"stranger", "list", 0, "open"},
		{"stranger", "load open", 0, "open: running"},
		{"stranger", "load open", 0, "open: running"},
		{"stranger", "show open", 0, "connect4"},
		{"stranger", "map dump open connects", 0, "no entries"},
		{"stranger", "events", 0, ""},
		{"stranger", "unload open", 3, "uid 1234"},
		{"stranger", "map dump open .rodata", 3, "uid 1234"},
		{"stranger", "show shut", 3, "uid 1234"},
		{"stranger", "load shut", 3, "uid 1234"},
		{"stranger", "unload shut", 3, "uid 1234"},
		{"stranger", "unload --force quarantine-1", 3, "uid 1234"},
		{"stranger", "map dump shut connects", 3, "uid 1234"},
		{"stranger", "load nobody", 3, "uid 1234"},
		{"stranger", "reload", 3, "only root"},
		{"stranger", "plan", 3, "only root"},
		{"other", "list", 0, "no collections"},
		{"other", "load open", 3, "uid 1235"},
		{"other", "show open", 3, "uid 1235"},
		{"group", "show open", 0, "connect4"},
		{"group", "load open", 3, "uid 5000"},
		{"group", "map dump open connects", 3, "uid 5000"},
		{"group", "events", 0, "open"},
		{"group", "unload open", 0, "open: unloaded"},
	} {
		args := strings.Fields(test.args)
		var stdout, stderr string
		var exit int
		switch test.as {
		case "stranger":
			stdout, stderr, exit = h.CtlAs(stranger, args...)
		case "other":
			stdout, stderr, exit = h.CtlAs(stranger+1, args...)
		case "group":
			stdout, stderr, exit = h.RunAs(0, append(groups, args...)...)
		}
		if exit != test.exit || !strings.Contains(stdout+stderr, test.says) {
			t.Errorf("%s: %s: exit status %d, want %d and %q: %s%s", test.as, test.args, exit, test.exit, test.says, stdout, stderr)
		}
		if exit == 3 && strings.Count(stderr, "\nhint: ") != 1 {
			t.Errorf("%s: %s: no remedy: %s", test.as, test.args, stderr)
		}
		if strings.Contains(stdout, "shut") {
			t.Errorf("%s: %s: tells of what it may not see: %s", test.as, test.args, stdout)
		}
	}
	if c := get(t, h, "shut"); c.State != api.StateRunning {
		t.Errorf("shut is %s", c.State)
	}
	refused := 0
	for _, r := range auditRecords(t, h.State) {
		if r.Phase == "refusal" && r.Caller.UID == stranger && r.Kind == "denied" {
			refused++
		}
	}
	// One a minute of each verb: status, load, unload, entries, reload, plan.
	if refused != 6 {
		t.Errorf("%d refusals of uid %d on record, want the first of each verb: %+v", refused, stranger, auditRecords(t, h.State))
	}
}

// TestForbiddenLooksLikeMissing compares the very bytes.
func TestForbiddenLooksLikeMissing(t *testing.T) {
	h := newOffice(t)
	h.Kill()
	h.Manifest("broken", "x = 1\n")
	h.Start()
	for _, test := range []struct{ method, path string }{
		{"GET", "/v1/collections/%s"},
		{"POST", "/v1/collections/%s/load"},
		{"POST", "/v1/collections/%s/unload"},
		{"GET", "/v1/collections/%s/maps/connects/entries"},
	} {
		ask := func(name string) string {
			c := curl(t, h, stranger, test.method, fmt.Sprintf(test.path, name))
			c.refusal(t, api.KindDenied)
			return strings.ReplaceAll(c.body, name, "NAME")
		}
		missing := ask("gone")
		for _, name := range []string{"shut", "broken"} {
			if diff := cmp.Diff(missing, ask(name)); diff != "" {
				t.Errorf("%s %s: a client can tell that %s exists: %s", test.method, test.path, name, diff)
			}
		}
	}
	var status api.Status
	curl(t, h, stranger, "GET", "/v1/status").decode(t, &status)
	if status.Paths.State != "" || len(status.Signers) > 0 || len(status.Problems) > 0 {
		t.Errorf("status tells a stranger %+v", status)
	}
	for _, path := range []string{"/v1/reload", "/v1/plan"} {
		curl(t, h, stranger, "POST", path).refusal(t, api.KindDenied)
	}
}

// dialAs connects as another user without groups. The kernel takes a peer's
// credentials from the thread that connects, so a thread is all it takes. It
// gets its own back afterwards, because it may be the one that started the
// daemon, which is killed when that ends (Pdeathsig).
func dialAs(t *testing.T, uid int, path string) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	onThreadOf(t, uid, func() { conn, err = dial(path) })
	if err != nil {
		t.Fatalf("connect as uid %d: %v", uid, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// onThreadOf runs f on a thread that is another user's, who is in more groups.
func onThreadOf(t *testing.T, uid int, f func(), more ...int) {
	t.Helper()
	groups, err := unix.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := become(uid, more)
		if err == nil {
			f()
		}
		back := become(0, groups)
		if back == nil {
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, back)
	}()
	if err := <-done; err != nil {
		t.Fatalf("as uid %d: %v", uid, err)
	}
}

// become changes the effective ids and the groups of this thread. Package
// syscall's functions would change them for every thread.
func become(id int, groups []int) error {
	const keep = ^uintptr(0)
	gids := make([]uint32, len(groups)+1)
	for i, g := range groups {
		gids[i] = uint32(g)
	}
	set := []func() syscall.Errno{
		func() syscall.Errno {
			_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&gids[0])), 0)
			return errno
		},
		func() syscall.Errno {
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(id), keep)
			return errno
		},
		func() syscall.Errno {
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(id), keep)
			return errno
		},
	}
	if id == 0 {
		slices.Reverse(set) // only root may set the others
	}
	for _, f := range set {
		if errno := f(); errno != 0 {
			return errno
		}
	}
	return nil
}

// dial is net.Dial on this thread.
func dial(path string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// open reports whether the daemon still keeps the connection, and has not
// answered on it.
func open(conn net.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// clientAs is a client whose every connection is another user's.
func clientAs(t *testing.T, h *testdaemon.Host, uid int) *http.Client {
	c := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return dialAs(t, uid, h.Socket), nil
	}}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// TestSlowClients: all that a user may open, each sending a byte now and then,
// and somebody else goes about their business meanwhile.
func TestSlowClients(t *testing.T) {
	for name, begin := range map[string]string{
		"request line": "GET /v1/sta",
		"header":       "GET /v1/status HTTP/1.1\r\nHost: h\r\nX-Slow: ",
		"body":         "POST /v1/collections/open/load HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{",
		"nothing":      "",
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			h := newOffice(t) // one that still forgets others' connections may refuse these
			var slow []net.Conn
			for range connsPerUID {
				conn := dialAs(t, stranger, h.Socket)
				if _, err := conn.Write([]byte(begin)); err != nil {
					t.Fatal(err)
				}
				slow = append(slow, conn)
			}
			var dripped atomic.Int64
			stop := drip(slow, begin, &dripped)
			good := clientAs(t, h, stranger+1)
			for i := range 50 {
				resp, err := good.Get("http://hornet/v1/status")
				if err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			// And changes, too, are nobody's hostage.
			load(t, h, "shut")
			if _, err := h.Client().Unload(context.Background(), "shut", api.UnloadRequest{}); err != nil {
				t.Fatal(err)
			}
			for i, conn := range slow {
				if !open(conn) {
					t.Errorf("slow client %d is gone already: nothing was shown", i)
				}
			}
			stop()
			for _, conn := range slow {
				conn.Close()
			}
			if begin != "" && dripped.Load() == 0 {
				t.Error("nobody was slow: not a byte was sent")
			}
			waitForSlot(t, h)
		})
	}
}

// drip sends one more byte on each connection every few milliseconds.
func drip(conns []net.Conn, begin string, sent *atomic.Int64) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(2 * time.Millisecond):
			}
			for _, conn := range conns {
				if begin == "" {
					continue
				}
				if _, err := conn.Write([]byte(" ")); err == nil {
					sent.Add(1)
				}
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// waitForSlot waits until stranger's closed connections are forgotten.
func waitForSlot(t *testing.T, h *testdaemon.Host) {
	t.Helper()
	for range 2000 {
		if answered(dialAs(t, stranger, h.Socket)) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("a user whose connections are all closed does not get in")
}

// answered asks for the status on the connection and closes it.
func answered(conn net.Conn) bool {
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); err != nil {
		return false
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	return err == nil && resp.StatusCode == http.StatusOK
}

// TestTooManyConnections: a user who has all that one may have is refused one
// more, and nobody else is.
func TestTooManyConnections(t *testing.T) {
	h := newOffice(t)
	var held []net.Conn
	for range connsPerUID {
		conn := dialAs(t, stranger, h.Socket)
		if _, err := io.WriteString(conn, "GET "); err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	for range 3 {
		if answered(dialAs(t, stranger, h.Socket)) {
			t.Fatalf("connection %d was answered", connsPerUID+1)
		}
	}
	if !answered(dialAs(t, stranger+1, h.Socket)) || !answered(dialAs(t, 0, h.Socket)) {
		t.Error("another user was refused")
	}
	for i, conn := range held {
		if !open(conn) {
			t.Errorf("connection %d was closed", i)
		}
	}
	held[0].Close()
	waitForSlot(t, h)

	if n := limitsOnRecord(t, h, "connect"); n != 1 {
		t.Errorf("%d refused connections on record, want the first one of the minute", n)
	}
}

// limitsOnRecord counts the records of what stranger was refused for a limit.
func limitsOnRecord(t *testing.T, h *testdaemon.Host, verb string) (n int) {
	t.Helper()
	for _, r := range auditRecords(t, h.State) {
		if r.Phase == "refusal" && r.Verb == verb && r.Kind == "limit" && r.Caller.UID == stranger {
			n++
		}
	}
	return n
}

// TestEventsResume: over a broken stream, over a restart, and for one who sees
// only a part.
func TestEventsResume(t *testing.T) {
	testenv.NoLeaks(t)
	h := newOffice(t)
	load(t, h, "open")
	load(t, h, "shut")
	all := events(t, h, 0)
	var kinds []string
	for i, e := range all {
		if i > 0 && e.Seq != all[i-1].Seq+1 {
			t.Errorf("event %d follows %d", e.Seq, all[i-1].Seq)
		}
		kinds = append(kinds, string(e.Kind)+" "+e.Collection)
	}
	if diff := cmp.Diff([]string{"started ", "loaded open", "loaded shut"}, kinds); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(all[2:], events(t, h, all[1].Seq)); diff != "" {
		t.Errorf("since %d: %s", all[1].Seq, diff)
	}
	if rest := events(t, h, all[2].Seq); len(rest) != 0 {
		t.Errorf("since the last one: %+v", rest)
	}

	// A stream that is broken and taken up again misses nothing.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	last := all[2].Seq
	for i, verb := range []string{"unloaded", "loaded"} {
		go func() {
			if verb == "unloaded" {
				h.Client().Unload(ctx, "open", api.UnloadRequest{})
			} else {
				h.Client().Load(ctx, "open")
			}
		}()
		for e, err := range h.Client().Events(ctx, api.EventsOptions{Since: last, Follow: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if string(e.Kind) != verb || e.Seq != last+1 {
				t.Errorf("stream %d: %+v", i, e)
			}
			last = e.Seq
			break
		}
	}

	h.Kill()
	h.Start()
	after := events(t, h, last)
	if len(after) < 2 || after[0].Kind != api.EventLost || after[0].Seq <= last {
		t.Fatalf("after a restart: %+v", after)
	}
	var adopted int
	for _, e := range after {
		if e.Kind == api.EventAdopted {
			adopted++
		}
	}
	if adopted != 2 {
		t.Errorf("%d adoptions told: %+v", adopted, after)
	}
	if got := curl(t, h, stranger, "GET", "/v1/events"); got.status != http.StatusOK || got.body != "" {
		t.Errorf("a stranger is told %+v", got)
	}
}

// events returns what happened after since.
func events(t *testing.T, h *testdaemon.Host, since uint64) []api.Event {
	t.Helper()
	var all []api.Event
	for e, err := range h.Client().Events(context.Background(), api.EventsOptions{Since: since}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// TestClientWhoNeverReads: a follower that stands still holds up neither what
// happens nor those who do read.
func TestClientWhoNeverReads(t *testing.T) {
	testenv.NoLeaks(t)
	h := newOffice(t)
	for range 8 {
		conn := dialAs(t, 0, h.Socket)
		if _, err := io.WriteString(conn, "GET /v1/events?follow=true HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	// Refusals of root are told one by one: enough to fill a socket's buffer.
	const told = 2000
	client := h.Client()
	for range told {
		if _, err := client.Load(context.Background(), "nobody"); err == nil {
			t.Fatal("loaded")
		}
	}
	load(t, h, "open")
	all := events(t, h, 0)
	if last := all[len(all)-1]; last.Kind != api.EventLoaded {
		t.Errorf("the last event is %+v", last)
	}
}
