package main_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// sampled is an open stream of samples, read with a client that shares no code
// with ours.
type sampled struct {
	t    *testing.T
	body io.ReadCloser
	r    *bufio.Reader
}

// stream opens one, and returns when the daemon reads the map.
func stream(t *testing.T, h *testdaemon.Host, uid int, mapName string) *sampled {
	t.Helper()
	client := clientAs(t, h, uid)
	resp, err := client.Get("http://h/v1/collections/maps/maps/" + mapName + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json-seq" {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, b)
	}
	return &sampled{t, resp.Body, bufio.NewReaderSize(resp.Body, 1<<20)}
}

// next is one record.
func (s *sampled) next() api.Sample {
	s.t.Helper()
	line, err := s.r.ReadString('\n')
	if err != nil {
		s.t.Fatalf("%q: %v", line, err)
	}
	var sample api.Sample
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "\x1e")), &sample); err != nil || line[0] != 0x1e {
		s.t.Fatalf("%q: %v", line, err)
	}
	return sample
}

func (s *sampled) ends(says string) {
	s.t.Helper()
	if last := s.next(); !strings.Contains(last.End, says) || len(last.Data) > 0 {
		s.t.Errorf("%+v, want the end: %s", last, says)
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		s.t.Errorf("behind the end: %v", err)
	}
}

func TestSamples(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"status", "read:events", "read:samples"`)
	before := openFDs(t, h.PID())
	ring, perf := stream(t, h, stranger, "events"), stream(t, h, stranger, "samples")
	const count = 500
	emit(t, c, count)
	for n := range uint64(count) {
		for _, s := range []*sampled{ring, perf} {
			sample := s.next()
			if len(sample.Data) < 64 || sample.Seq != n+1 || sample.Lost != 0 || binary.NativeEndian.Uint64(sample.Data) != n || (sample.CPU != nil) != (s == perf) {
				t.Fatalf("sample %d is %+v", n, sample)
			}
		}
	}
	// One at a time, root too, and the next when the first has left.
	for _, name := range []string{"events", "samples"} {
		curl(t, h, 0, "GET", "/v1/collections/maps/maps/"+name+"/stream").refusal(t, api.KindConflict)
	}
	ring.body.Close()
	perf.body.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if openFDs(t, h.PID()) <= before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, before the streams %d", openFDs(t, h.PID()), before)
		}
	}
	ring = stream(t, h, 0, "events")
	emit(t, c, 1)
	if s := ring.next(); s.Seq != 1 || binary.NativeEndian.Uint64(s.Data) != count {
		t.Errorf("the next reader gets %+v", s)
	}
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/counts/stream").refusal(t, api.KindBadRequest)
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/none/stream").refusal(t, api.KindNotFound)
	curl(t, h, stranger+1, "GET", "/v1/collections/maps/maps/events/stream").refusal(t, api.KindDenied)
	if len(recordsOf(t, h, "stream")) < 4 {
		t.Errorf("records: %+v", recordsOf(t, h, "stream"))
	}
}

// TestSamplesEnd: whoever reads is told why it ends, and nothing keeps the map.
func TestSamplesEnd(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"read:events"`)
	ring, perf := stream(t, h, stranger, "events"), stream(t, h, 0, "samples")
	h.Manifest("maps", strings.Replace(mapsManifest(`"read:events"`), "version = 1", "version = 2", 1))
	c, err := h.Client().Upgrade(t.Context(), "maps")
	if err != nil {
		t.Fatal(err)
	}
	ring.ends("replaced")
	perf.ends("replaced")

	// The map is kept, but the right is gone.
	ring = stream(t, h, stranger, "events")
	emit(t, c, 3)
	for range 3 {
		ring.next()
	}
	h.Manifest("maps", strings.Replace(mapsManifest(`"status"`), "version = 1", "version = 3", 1)+"[maps.events]\nclass = \"mutable\"\nkeep = true\n")
	if _, err := h.Client().Upgrade(t.Context(), "maps"); err != nil {
		t.Fatal(err)
	}
	ring.ends("no longer")

	ring, perf = stream(t, h, 0, "events"), stream(t, h, 0, "samples")
	if _, err := h.Client().Unload(t.Context(), "maps", api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}
	ring.ends("unloaded")
	perf.ends("unloaded")

	load(t, h, "maps")
	ring = stream(t, h, 0, "events")
	h.Stop()
	ring.ends("stops")
}

// TestSamplesHalfClosed: a client that closes its side and reads on is told that, and not
// that the daemon stops.
func TestSamplesHalfClosed(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"read:events"`)
	conn := dialAs(t, stranger, h.Socket).(*net.UnixConn)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	_, err := io.WriteString(conn, "GET /v1/collections/maps/maps/events/stream HTTP/1.1\r\nHost: h\r\n\r\n")
	must(t, err)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	must(t, err)
	ring := &sampled{t, resp.Body, bufio.NewReaderSize(resp.Body, 1<<20)}
	emit(t, c, 1)
	ring.next()
	must(t, conn.CloseWrite())
	ring.ends("the client closed its side")
}

// TestSamplesStalled: a client that stands still misses samples and is told how
// many; the daemon neither waits for it nor grows.
func TestSamplesStalled(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"read:events"`)
	ring := stream(t, h, stranger, "events")
	const rounds, each = 120, 500
	for range rounds {
		emit(t, c, each)
		time.Sleep(2 * time.Millisecond) // or the ring itself is full, which no reader can know
	}
	answer := time.Now()
	if _, err := h.Client().Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("another client is answered in %v", time.Since(answer))
	// What is lost is told with the next sample that is not. Every 500 there is
	// one more: one of them comes when there is room again.
	var came, lost, seq uint64
	for lost == 0 && came < rounds*each {
		s := ring.next()
		if s.Seq != seq+s.Lost+1 {
			t.Fatalf("%+v behind %d", s, seq)
		}
		seq, lost = s.Seq, s.Lost
		if came++; came%500 == 0 {
			emit(t, c, 1)
		}
	}
	if lost == 0 {
		t.Error("nothing was lost: the client did not stall")
	}
	t.Logf("%d came, then %d were lost, of %d", came, lost, rounds*each)
	if most := memory(t, h.PID()); most > 80_000 {
		t.Errorf("the daemon used %d KiB", most)
	}
}

// TestSamplesLimits: how many streams, what they hold and how many events, says
// hornetd.toml, and the status how near it is.
func TestSamplesLimits(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMapsWith(t, "[limits]\nuser_streams = 1\ntotal_streams = 1\nstream_memory = \"64KiB\"\nevents = 2\n", `"read:events", "read:samples"`)
	ring := stream(t, h, stranger, "events")
	if e := curl(t, h, stranger, "GET", "/v1/collections/maps/maps/samples/stream").refusal(t, api.KindLimit); !strings.Contains(e.Hint, "[limits] user_streams ") {
		t.Errorf("told %+v", e)
	}
	for uid, want := range map[int][]string{
		stranger: {"1234: limits.user_streams 1 of 1"},
		0:        {"1234: limits.user_streams 1 of 1", "limits.total_streams 1 of 1", "limits.events 2 of 2"},
	} {
		got := limitsOf(t, h, uid)
		for _, line := range want {
			if !slices.Contains(got, line) {
				t.Errorf("uid %d is not told %q: %q", uid, line, got)
			}
		}
	}
	ring.body.Close()
	eventually(t, "the stream has ended", func() bool { return slices.Contains(limitsOf(t, h, 0), "limits.total_streams 0 of 1") })

	// Root's counts for nobody, and holds as little: of samples of 64 bytes and more 64 KiB
	// are at most a thousand, and then come those that the socket had taken.
	ring = stream(t, h, 0, "events")
	if !slices.Contains(limitsOf(t, h, 0), "limits.total_streams 0 of 1") {
		t.Error("root's counts")
	}
	for range 20 {
		emit(t, c, 500)
		time.Sleep(2 * time.Millisecond)
	}
	var came, lost uint64
	for lost == 0 && came < 10_000 {
		lost = ring.next().Lost
		if came++; came%500 == 0 {
			emit(t, c, 1)
		}
	}
	if lost == 0 {
		t.Error("nothing was lost")
	}
	t.Logf("%d came, then %d were lost", came, lost)
	for range 5 {
		h.Client().Load(t.Context(), "nobody")
	}
	if kept := events(t, h, 0); len(kept) != 2 {
		t.Errorf("%d events are kept", len(kept))
	}
}

// TestSamplesDripped: a client that takes a little now and then keeps neither the
// map nor its right for longer than it takes to find that out.
func TestSamplesDripped(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"read:events"`)
	ring := stream(t, h, stranger, "events")
	for range 40 { // 20,000: more than wait
		emit(t, c, 500)
		time.Sleep(2 * time.Millisecond)
	}
	var id ebpf.MapID
	for _, m := range c.Maps {
		if m.Name == "events" {
			id = ebpf.MapID(m.ID)
		}
	}
	unload(t, h, "maps")
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return // nobody holds it
		}
		m.Close()
		if time.Now().After(deadline) {
			t.Fatal("the map is held still")
		}
		if _, err := io.CopyN(io.Discard, ring.body, 16<<10); err != nil {
			t.Fatalf("the client is not served, and the map is held: %v", err)
		}
	}
}
