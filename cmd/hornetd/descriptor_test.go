package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/api/bpfmap"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// mapsManifest is a manifest for testdata/maps.bpf.o. may are the rights of stranger.
func mapsManifest(may string) string {
	return fmt.Sprintf(`start = "request"
version = 1
[object]
path = "maps.bpf.o"
[maps."*"]
class = "mutable"
[maps.config]
class = "frozen"
entries = [ { key = 1, value = 7 } ]
[[allow]]
user = "%d"
may = [%s]
`, stranger, may)
}

// newMaps is a daemon that runs them as "maps".
func newMaps(t *testing.T, may string) (*testdaemon.Host, api.Collection) {
	t.Helper()
	return newMapsWith(t, "", may)
}

// newMapsWith has more in its hornetd.toml.
func newMapsWith(t *testing.T, extra, may string) (*testdaemon.Host, api.Collection) {
	t.Helper()
	h := testdaemon.New(t, extra)
	h.Object("maps.bpf.o", read(t, "testdata/maps.bpf.o"))
	h.Manifest("maps", mapsManifest(may))
	h.Start()
	return h, load(t, h, "maps")
}

// emit runs the program of maps.bpf.o n times, in the kernel.
func emit(t *testing.T, c api.Collection, n int) {
	t.Helper()
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(c.Programs[0].ID))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: uint32(n)}); err != nil {
		t.Fatal(err)
	}
}

// asked is what came for a request that was written byte by byte.
type asked struct {
	status int
	line   string // behind a 101
	kind   api.Kind
	fds    []int
	closed bool // the daemon hung up then
}

// ask sends a request, and descriptors with it, and takes all that comes.
func ask(t *testing.T, conn net.Conn, request string, rights ...int) asked {
	t.Helper()
	uc := conn.(*net.UnixConn)
	uc.SetDeadline(time.Now().Add(time.Minute))
	if _, _, err := uc.WriteMsgUnix([]byte(request), unix.UnixRights(rights...), nil); err != nil {
		t.Fatal(err)
	}
	return answerOn(t, uc)
}

func answerOn(t *testing.T, uc *net.UnixConn) asked {
	t.Helper()
	var got asked
	var all []byte
	for {
		b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
		n, oobn, _, _, err := uc.ReadMsgUnix(b, oob)
		all = append(all, b[:max(n, 0)]...)
		messages, _ := unix.ParseSocketControlMessage(oob[:max(oobn, 0)])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			got.fds = append(got.fds, fds...)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			got.closed = true
		}
		if err != nil {
			break
		}
	}
	t.Cleanup(func() {
		for _, fd := range got.fds {
			unix.Close(fd)
		}
	})
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(all)), nil)
	if err != nil {
		t.Fatalf("%q: %v", all, err)
	}
	got.status = resp.StatusCode
	_, got.line, _ = strings.Cut(string(all), "\r\n\r\n")
	var e api.Error
	if json.Unmarshal([]byte(got.line), &e) == nil {
		got.kind = e.Kind
	}
	return got
}

func forDescriptor(path string) string {
	return "GET /v1/collections/" + path + " HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\nUpgrade: hornet-fd\r\n\r\n"
}

func TestDescriptors(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"status", "fd:counts", "rw-fd:events", "rw-fd:config", "rw-fd:samples", "rw-fd:jumps", "fd:percpu"`)
	for _, test := range []struct {
		uid         int
		name, query string
		kind        api.Kind // "" for a descriptor
		writes      bool
	}{
		{0, "counts", "", "", false},
		{0, "counts", "?access=read-only", "", false},
		{0, "counts", "?access=read-write", "", true},
		{0, "events", "?access=read-write", "", true},
		{0, "config", "", "", false},
		{0, "config", "?access=read-write", api.KindConflict, false},
		{0, "jumps", "", "", false},
		{0, "jumps", "?access=read-write", api.KindDenied, false},
		{0, "samples", "", api.KindDenied, false},
		{0, "samples", "?access=read-write", api.KindDenied, false},
		{0, "none", "", api.KindNotFound, false},
		{0, "emit", "", api.KindNotFound, false}, // a program
		{0, "counts", "?access=all", api.KindBadRequest, false},
		{0, "counts", "?mode=read-write", api.KindBadRequest, false},
		{stranger, "counts", "", "", false},
		{stranger, "counts", "?access=read-write", api.KindDenied, false},
		{stranger, "events", "", "", false},
		{stranger, "events", "?access=read-write", "", true},
		{stranger, "config", "?access=read-write", api.KindConflict, false},
		{stranger, "samples", "?access=read-write", api.KindDenied, false},
		{stranger, "jumps", "?access=read-write", api.KindDenied, false},
		{stranger, "hosts", "", api.KindDenied, false},
		{stranger + 1, "counts", "", api.KindDenied, false},
	} {
		got := ask(t, dialAs(t, test.uid, h.Socket), forDescriptor("maps/maps/"+test.name+test.query))
		what := fmt.Sprintf("uid %d, %s%s", test.uid, test.name, test.query)
		if test.kind != "" {
			if got.kind != test.kind || len(got.fds) > 0 || got.status != test.kind.Status() {
				t.Errorf("%s: %+v, want %s", what, got, test.kind)
			}
			continue
		}
		if got.status != 101 || len(got.fds) != 1 || !got.closed {
			t.Errorf("%s: %+v", what, got)
			continue
		}
		var d api.MapDescriptor
		if err := json.Unmarshal([]byte(got.line), &d); err != nil || !strings.HasSuffix(got.line, "}\n") {
			t.Errorf("%s: %q: %v", what, got.line, err)
		}
		if info := bpftoolMap(t, d.ID); info.Name != d.Map || d.Map != test.name || !sameID(c, d) {
			t.Errorf("%s: told %+v, the kernel has %+v", what, d, info)
		}
		if flags, err := unix.FcntlInt(uintptr(got.fds[0]), unix.F_GETFL, 0); err != nil || (flags&unix.O_ACCMODE == unix.O_RDWR) != test.writes || !test.writes && flags&unix.O_ACCMODE != unix.O_RDONLY {
			t.Errorf("%s: descriptor opened with flags %o, %v", what, flags, err)
		}
	}
	// Without the header it is a question like any other.
	var m api.Map
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/config").decode(t, &m)
	if m.Name != "config" || !m.Frozen {
		t.Errorf("the map: %+v", m)
	}
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/config?access=read-only").refusal(t, api.KindBadRequest)
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/none").refusal(t, api.KindNotFound)
	curl(t, h, stranger+1, "GET", "/v1/collections/maps/maps/config").refusal(t, api.KindDenied)
	fds := 0
	for _, rec := range auditRecords(t, h.State) {
		if rec.Verb == "fd" || rec.Verb == "rw-fd" {
			fds++
			if (rec.Phase == "refusal") != (rec.Error != "") || rec.Collection != "maps" {
				t.Errorf("record %+v", rec)
			}
		}
	}
	if fds < 15 {
		t.Errorf("%d records of descriptors", fds)
	}
}

func sameID(c api.Collection, d api.MapDescriptor) bool {
	for _, m := range c.Maps {
		if m.Name == d.Map {
			return m.ID == d.ID && m.Type == d.Type
		}
	}
	return false
}

// bpftoolMap is what bpftool says of a map.
func bpftoolMap(t *testing.T, id uint32) (info struct{ Name, Type string }) {
	t.Helper()
	out, err := exec.Command("bpftool", "-j", "map", "show", "id", strconv.Itoa(int(id))).Output()
	if err == nil {
		err = json.Unmarshal(out, &info)
	}
	if err != nil {
		t.Fatalf("bpftool: %v: %s", err, out)
	}
	return info
}

// TestDescriptorReadOnly: whoever holds it, root too, can look up and nothing else.
func TestDescriptorReadOnly(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"fd:counts"`)
	m, err := bpfmap.Open(t.Context(), h.Client(), "maps", "counts", api.AccessReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	rw, err := bpfmap.Open(t.Context(), h.Client(), "maps", "counts", api.AccessReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	if err := rw.Put(uint32(5), uint64(6)); err != nil {
		t.Error(err)
	}
	var v uint64
	if err := m.Lookup(uint32(5), &v); err != nil || v != 6 {
		t.Errorf("lookup: %d, %v", v, err)
	}
	refused := map[string]error{
		"update": m.Put(uint32(1), uint64(1)), "delete": m.Delete(uint32(5)), "lookup and delete": m.LookupAndDelete(uint32(5), &v),
	}
	if !freezesByReading(t) {
		refused["freeze"] = m.Freeze()
	}
	for what, err := range refused {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v, want EPERM", what, err)
		}
	}
}

// Set in the environment of the process that TestRingBufferWithoutRights starts.
const ringReader = "HORNET_TEST_RING"

// TestRingBufferWithoutRights: a process of another user, without capabilities,
// reads a ring buffer with an ordinary library.
func TestRingBufferWithoutRights(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"rw-fd:events"`)
	const count = 100
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestRingReader$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), ringReader+"="+h.Socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		said = append(said, lines.Text())
		if lines.Text() == "reading" {
			emit(t, c, count)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v:\n%s", err, strings.Join(said, "\n"))
	}
	all := strings.Join(said, "\n")
	if !strings.Contains(all, fmt.Sprintf("\nread %d in order", count)) {
		t.Error(all)
	}
	t.Log(all)
}

// TestRingReader is that process.
func TestRingReader(t *testing.T) {
	socket := os.Getenv(ringReader)
	if socket == "" {
		return
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !bytes.Contains(status, []byte("CapEff:\t0000000000000000\n")) || os.Geteuid() != stranger {
		t.Fatalf("%v: uid %d, not without capabilities: %s", err, os.Geteuid(), status)
	}
	disabled, err := os.ReadFile("/proc/sys/kernel/unprivileged_bpf_disabled")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("kernel.unprivileged_bpf_disabled is %s", disabled)
	if own, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err == nil {
		own.Close()
		fmt.Println("this kernel lets anybody make maps")
	} else if !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	client := api.New(socket)
	defer client.Close()
	m, err := bpfmap.Open(context.Background(), client, "maps", "events", api.AccessReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r, err := ringbuf.NewReader(m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Println("reading")
	for n := range uint64(100) {
		rec, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.NativeEndian.Uint64(rec.RawSample); len(rec.RawSample) != 64 || got != n {
			t.Fatalf("sample %d is %d, %d bytes", n, got, len(rec.RawSample))
		}
	}
	fmt.Println("read 100 in order")
}

// TestSentEarly: whoever sends something before the 101 gets no descriptor.
func TestSentEarly(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"fd:counts"`)
	before := openFDs(t, h.PID())
	for name, request := range map[string]string{
		"a byte":          forDescriptor("maps/maps/counts") + "x",
		"a request":       forDescriptor("maps/maps/counts") + "GET /v1/status HTTP/1.1\r\nHost: h\r\n\r\n",
		"much":            forDescriptor("maps/maps/counts") + strings.Repeat("x", 100_000),
		"a body":          strings.Replace(forDescriptor("maps/maps/counts"), "Host: h\r\n", "Host: h\r\nContent-Length: 2\r\n", 1) + "{}",
		"a chunked body":  strings.Replace(forDescriptor("maps/maps/counts"), "Host: h\r\n", "Host: h\r\nTransfer-Encoding: chunked\r\n", 1) + "0\r\n\r\n",
		"a descriptor":    forDescriptor("maps/maps/counts"),
		"both":            forDescriptor("maps/maps/counts") + "x",
		"not an upgrade":  "GET /v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
		"with a JSON one": "POST /v1/collections/maps/unload HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
	} {
		var rights []int
		if !strings.HasPrefix(name, "a ") && name != "much" || name == "a descriptor" {
			rights = []int{0, 0, 0}
		}
		got := ask(t, dialAs(t, stranger, h.Socket), request, rights...)
		if got.status != 400 || got.kind != api.KindProtocol || len(got.fds) > 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// Descriptors that come with the body of a change stop the change.
	conn := dialAs(t, 0, h.Socket).(*net.UnixConn)
	if _, err := io.WriteString(conn, "POST /v1/collections/maps/unload HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // the header is read by itself
	if got := ask(t, conn, "{}", 0); got.kind != api.KindProtocol {
		t.Errorf("with the body: %+v", got)
	}
	if after := settledFDs(t, h.PID(), before); after > before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
	if got := get(t, h, "maps"); got.State != api.StateRunning {
		t.Errorf("the collection is %s", got.State)
	}
}

// TestUnsolicitedDescriptors: as many as a message can carry, message after
// message, and none of them is ever the daemon's.
func TestUnsolicitedDescriptors(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"status"`)
	before := openFDs(t, h.PID())
	full := make([]int, 253) // SCM_MAX_FD
	most := 0
	for range 20 {
		conn := dialAs(t, stranger, h.Socket).(*net.UnixConn)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: h\r\nX-Long: "); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if _, _, err := conn.WriteMsgUnix([]byte("x"), unix.UnixRights(full...), nil); err != nil && !errors.Is(err, unix.ETOOMANYREFS) {
				t.Fatal(err)
			}
			most = max(most, openFDs(t, h.PID()))
		}
		if got := ask(t, conn, "\r\nConnection: close\r\n\r\n"); got.kind != api.KindProtocol || !got.closed {
			t.Errorf("%+v", got)
		}
		conn.Close()
	}
	if most > before+20+5 {
		t.Errorf("%d descriptors were open, %d before", most, before)
	}
	if after := settledFDs(t, h.PID(), before); after > before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
}

func openFDs(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// settledFDs waits until no more than want are open, for a while.
func settledFDs(t *testing.T, pid, want int) int {
	t.Helper()
	for range 1000 {
		if openFDs(t, pid) <= want {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return openFDs(t, pid)
}

// TestClientDiesBeforeItsDescriptor: the daemon keeps nothing of what nobody took.
func TestClientDiesBeforeItsDescriptor(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"fd:counts"`)
	before := openFDs(t, h.PID())
	for i := range 200 {
		conn := dialAs(t, stranger, h.Socket)
		// EPIPE: the daemon has not seen the end of enough of those before it yet, and
		// takes no more of this user.
		if _, err := io.WriteString(conn, forDescriptor("maps/maps/counts")[:i]); err != nil && !errors.Is(err, unix.EPIPE) {
			t.Fatal(err)
		}
		conn.Close()
		if i+1 == len(forDescriptor("maps/maps/counts")) {
			break
		}
	}
	for range 100 {
		conn := dialAs(t, stranger, h.Socket)
		io.WriteString(conn, forDescriptor("maps/maps/counts"))
		conn.Close()
	}
	if after := settledFDs(t, h.PID(), before); after > before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
	waitForSlot(t, h)
}

// TestDescriptorsNobodyTakes: what waits for a client counts as a connection of
// its own until it has taken it, or is gone, whatever it does meanwhile.
func TestDescriptorsNobodyTakes(t *testing.T) {
	testenv.NoLeaks(t)
	const most = 3
	h := testdaemon.New(t, fmt.Sprintf("connections_per_user = %d\n", most))
	h.Object("maps.bpf.o", read(t, "testdata/maps.bpf.o"))
	h.Manifest("maps", mapsManifest(`"fd:counts"`))
	h.Start()
	load(t, h, "maps")
	used := func() uint64 {
		t.Helper()
		s, err := h.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range s.Limits {
			if l.Name == "api.connections_per_user" && l.UID != nil && *l.UID == stranger {
				return *l.Used
			}
		}
		return 0
	}
	settles := func(want uint64) {
		t.Helper()
		for range 1000 {
			if used() == want {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("%d connections are counted, want %d", used(), want)
	}
	var waiting []*net.UnixConn
	for range most {
		conn := dialAs(t, stranger, h.Socket).(*net.UnixConn)
		if _, err := io.WriteString(conn, forDescriptor("maps/maps/counts")); err != nil {
			t.Fatal(err)
		}
		must(t, conn.CloseWrite()) // nothing comes any more, but it still is there
		waiting = append(waiting, conn)
	}
	time.Sleep(time.Second)
	settles(most)
	curl(t, h, stranger, "GET", "/v1/status").refusal(t, api.KindLimit)
	if got := answerOn(t, waiting[0]); got.status != 101 || len(got.fds) != 1 || !got.closed {
		t.Errorf("taken late: %+v", got)
	}
	settles(most - 1)
	waiting[1].Close()
	settles(most - 2)
	waiting[2].Close()
	settles(0)
}

// freezesByReading reports whether this kernel freezes a map by a descriptor that
// only reads. Older ones do, for who has CAP_BPF, which this test has and no client.
func freezesByReading(t *testing.T) bool {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1, Flags: unix.BPF_F_RDONLY})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	return m.Freeze() == nil
}
