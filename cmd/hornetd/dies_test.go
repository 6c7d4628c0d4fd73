package main_test

import (
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestClientDiesAnywhere: whatever is asked, and wherever in the request or in the
// answer the client goes, nothing of it stays: no descriptor, no connection, no lease,
// and nothing in the kernel that no collection accounts for.
func TestClientDiesAnywhere(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, strings.ReplaceAll(mayRun, "1000", strconv.Itoa(stranger)))
	h.Object("maps.bpf.o", read(t, "testdata/maps.bpf.o"))
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("conn_count.bpf.o", object)
	h.Manifest("maps", mapsManifest(`"status"`))
	h.Manifest("open", connCount(testenv.Cgroup(t)))
	h.Start()
	ctx, root := context.Background(), h.Client()
	began := afterAll(t, h)
	requests := cutRequests(api.Bundle{Manifest: []byte(connCount(testenv.Cgroup(t))), Object: object, Signature: h.Sign(object)})
	points := 40
	if testing.Short() {
		points = 8
	}

	t.Run("all", func(t *testing.T) {
		testenv.NoLeaks(t) // while the daemon lives
		died := 0
		for _, r := range requests {
			uid := 0
			if strings.HasPrefix(r.target, "/v1/run") { // root brings no bundles
				uid = stranger
			}
			_, err := root.Load(ctx, "maps")
			must(t, err)
			if r.header.Get("Upgrade") == api.UpgradeLease {
				_, err := root.Unload(ctx, "open", api.UnloadRequest{})
				must(t, err)
			}
			b := r.bytes()
			head := strings.Index(string(b), "\r\n\r\n") + 4
			cuts := []int{0, 1, head - 1, head, head + 1, len(b) - 1}
			for at := 2; at < len(b); at += 1 + len(b)/points {
				cuts = append(cuts, at)
			}
			for _, at := range cuts {
				goAway(t, h, uid, b[:min(at, len(b))], 0, false)
				died++
			}
			// With the whole request sent: at once, and within the answer; closed,
			// or closed with something of it unread.
			for _, answer := range []int{0, 0, 0, 1, 12, 60, 200, 1000} {
				goAway(t, h, uid, b, answer, true)
				died++
			}
			eventually(t, r.method+" "+r.target+": end of the leases", func() bool {
				c, err := root.Get(ctx, "open")
				return err == nil && c.Lease == nil
			})
		}
		t.Logf("%d clients died", died)
		if !answered(dialAs(t, 0, h.Socket)) {
			t.Error("the daemon answers no more")
		}
		root.Close()
		began.check(t, h)
	})
}

// goAway sends what is given, reads some bytes of the answer and closes the
// connection. Where the whole request was sent and nothing is to be read it goes
// within a moment in which the answer may come or not.
func goAway(t *testing.T, h *testdaemon.Host, uid int, sent []byte, answer int, whole bool) {
	t.Helper()
	conn := dialAs(t, uid, h.Socket)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	conn.Write(sent) // or the daemon has refused it already
	if answer > 0 {
		conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // an answer may be shorter, and a stream wait
		io.CopyN(io.Discard, conn, int64(answer))
	} else if whole {
		time.Sleep(time.Duration(len(sent)%3) * time.Millisecond)
		conn.(*net.UnixConn).CloseWrite()
	}
}
