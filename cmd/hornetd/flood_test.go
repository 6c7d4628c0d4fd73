package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestFloodOfAll: users who connect up to ten thousand times, drip, ask and do not read,
// bring programs that the kernel takes long to verify, and bodies as long as may be,
// all at once; one who asks and changes things meanwhile is never refused.
func TestFloodOfAll(t *testing.T) {
	testenv.NoLeaks(t)
	h := newStudio(t, mayRun, "open")
	const dripper, silent, good = stranger + 20, stranger + 21, stranger
	ctx := context.Background()
	took := func(client *api.Client, until func(n int) bool) (asked, changed []time.Duration) {
		t.Helper()
		for n := 0; !until(n); n++ {
			began := time.Now()
			_, err := client.List(ctx)
			must(t, err)
			asked = append(asked, time.Since(began))
			client.Close() // the next one connects anew
			if n%100 == 0 {
				began := time.Now()
				_, err := client.Load(ctx, "open")
				must(t, err)
				_, err = client.Unload(ctx, "open", api.UnloadRequest{})
				must(t, err)
				changed = append(changed, time.Since(began))
			}
		}
		slices.Sort(asked)
		slices.Sort(changed)
		return asked, changed
	}
	attempts, questions := int64(10_000), 300
	if testing.Short() {
		attempts, questions = 1_000, 60
	}
	client := apiAs(t, h, good)
	quiet, quietChanges := took(client, func(n int) bool { return n >= questions })
	before := descriptors(t, h)

	var made, dripped, unread, verified, long atomic.Int64
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	var flood sync.WaitGroup
	flood.Go(func() { floodAs(t, h, stranger+22, &made, stop) })
	var slow []net.Conn
	for range connsPerUID {
		conn := dialAs(t, dripper, h.Socket)
		io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: h\r\nX-Slow: ")
		slow = append(slow, conn)
	}
	stopDrip := drip(slow, "GET", &dripped)
	flood.Go(func() { // each asks until the daemon can send no more
		for !stopped() {
			var all []net.Conn
			for range connsPerUID - 2 {
				conn := dialAs(t, silent, h.Socket)
				conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
				io.WriteString(conn, strings.Repeat("GET /v1/collections HTTP/1.1\r\nHost: h\r\n\r\n", 2000))
				all = append(all, conn)
				unread.Add(1)
			}
			for _, conn := range all {
				conn.Close()
			}
		}
	})
	// run runs one bundle after the other as uid and counts what came of it.
	run := func(uid int, b api.Bundle, n *atomic.Int64, kinds ...api.Kind) {
		flood.Go(func() {
			client := apiAs(t, h, uid)
			defer client.Close()
			for !stopped() {
				_, err := client.Run(ctx, "count", b)
				if kind := kindOf(err); err != nil && !slices.Contains(kinds, kind) {
					t.Errorf("uid %d: %v", uid, err)
					return
				}
				n.Add(1)
				if _, err := client.Unload(ctx, fmt.Sprintf("u%d-count", uid), api.UnloadRequest{}); err != nil && kindOf(err) == "" {
					t.Error(err)
					return
				}
			}
		})
	}
	object := read(t, "testdata/slow.bpf.o")
	manifest := fmt.Sprintf("[object]\npath = \"slow.bpf.o\"\n[[attach]]\nprogram = \"slow\"\ncgroup = %q\n", testenv.Cgroup(t))
	run(1000, api.Bundle{Manifest: []byte(manifest), Object: object, Signature: h.Sign(object)}, &verified, api.KindLimit, api.KindConflict)
	longest := make([]byte, api.MaxObjectBytes)
	for range 4 {
		run(1001, api.Bundle{Manifest: []byte(manifest), Object: longest, Signature: h.Sign(object)}, &long, api.KindSignature, api.KindLimit)
	}

	began := time.Now() // a machine that does other things too has had enough some time
	loud, loudChanges := took(client, func(n int) bool {
		all := n >= questions && made.Load() >= attempts && verified.Load() > 0
		return all || n > 0 && verified.Load() > 0 && time.Since(began) > 25*time.Second
	})
	t.Logf("flooded for %v", time.Since(began).Round(time.Second))
	close(stop)
	stopDrip()
	flood.Wait()
	for _, conn := range slow {
		conn.Close()
	}
	p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }
	t.Logf("meanwhile: %d connections, %d bytes dripped, %d connections with unread answers, %d long verifications, %d bodies of 8 MiB",
		made.Load(), dripped.Load(), unread.Load(), verified.Load(), long.Load())
	t.Logf("questions: p99 of %d without flood %v, of %d under flood %v, %.1f times as long; medians %v and %v", len(quiet), p99(quiet), len(loud), p99(loud),
		float64(p99(loud))/float64(p99(quiet)), quiet[len(quiet)/2], loud[len(loud)/2])
	t.Logf("a load and an unload: median without flood %v, under flood %v; slowest %v and %v", quietChanges[len(quietChanges)/2], loudChanges[len(loudChanges)/2],
		quietChanges[len(quietChanges)-1], loudChanges[len(loudChanges)-1])
	for what, n := range map[string]*atomic.Int64{"dripped": &dripped, "unread": &unread, "verified": &verified, "long": &long} {
		if n.Load() == 0 {
			t.Errorf("%s: nothing: nothing was shown", what)
		}
	}
	client.Close()
	if now := settledFDs(t, h.PID(), before); now > before {
		t.Errorf("%d descriptors, %d before", now, before)
	}
	if most := memory(t, h.PID()); most > 4*mostMemory {
		t.Errorf("the daemon used %d KiB", most)
	}
	t.Logf("at most %d KiB", memory(t, h.PID()))
}
