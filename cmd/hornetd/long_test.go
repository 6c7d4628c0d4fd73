package main_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestLongestVerification: while the kernel verifies one user's object, program after
// program, for as long as it takes for any, another's reads are answered, events arrive
// and the watchdog is fed; another's load does not wait for it.
func TestLongestVerification(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(h.Dir, "notify"), Net: "unixgram"})
	must(t, err)
	defer notify.Close()
	var mu sync.Mutex
	var fed []time.Time
	go func() {
		for b := make([]byte, 4096); ; {
			n, err := notify.Read(b)
			if err != nil {
				return
			}
			if strings.HasPrefix(string(b[:n]), "WATCHDOG=1") {
				mu.Lock()
				fed = append(fed, time.Now())
				mu.Unlock()
			}
		}
	}()
	t.Setenv("NOTIFY_SOCKET", notify.LocalAddr().String())
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", "")

	const hostile, good = stranger, stranger + 1
	h.Object("long.bpf.o", read(t, "testdata/long.bpf.o"))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	const programs = 8
	long := "start = \"request\"\n[object]\npath = \"long.bpf.o\"\n"
	for i := range programs {
		long += fmt.Sprintf("[[attach]]\nprogram = \"slow_%d\"\ncgroup = %q\n", i, testenv.Cgroup(t))
	}
	h.Manifest("long", long+fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"load\", \"unload\"]\n", hostile))
	for _, name := range []string{"open", "other"} {
		h.Manifest(name, connCount(testenv.Cgroup(t))+fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"status\", \"load\", \"unload\", \"events\", \"read:*\"]\n", good))
	}
	h.Start()
	ctx := context.Background()
	client, root := apiAs(t, h, good), h.Client()
	load(t, h, "open")

	// reads asks again and again, and returns how long each took.
	reads := func(until func(n int) bool) (took []time.Duration) {
		for n := 0; !until(n); n++ {
			for _, ask := range []func() error{
				func() error { _, err := client.Status(ctx); return err },
				func() error { _, err := client.Get(ctx, "open"); return err },
				func() error { _, err := client.Entries(ctx, "open", "connects", api.EntriesOptions{}); return err },
			} {
				began := time.Now()
				must(t, ask())
				took = append(took, time.Since(began))
			}
		}
		slices.Sort(took)
		return took
	}
	change := func() time.Duration {
		began := time.Now()
		_, err := client.Load(ctx, "other")
		must(t, err)
		return time.Since(began)
	}
	quiet := reads(func(n int) bool { return n == 300 })
	quietChange := change()
	_, err = client.Unload(ctx, "other", api.UnloadRequest{})
	must(t, err)

	began := time.Now()
	loaded := make(chan error, 1)
	go func() { _, err := apiAs(t, h, hostile).Load(ctx, "long"); loaded <- err }()
	eventually(t, "it is verified", func() bool { return len(intents(t, h, "long")) == 1 })
	seq := lastSeq(t, h)
	if _, err := root.Get(ctx, "nobody"); kindOf(err) != api.KindNotFound {
		t.Fatal(err)
	}
	if told := events(t, h, seq); len(told) != 1 || told[0].Kind != api.EventRefused {
		t.Errorf("events meanwhile: %+v", told)
	}
	changed := change()
	select {
	case err := <-loaded:
		t.Fatalf("the other load waited: %v", err)
	default:
	}
	var ended error
	loud := reads(func(int) bool {
		select {
		case ended = <-loaded:
			return true
		default:
			return false
		}
	})
	took := time.Since(began)
	must(t, ended)
	mu.Lock()
	meanwhile := slices.DeleteFunc(fed, func(at time.Time) bool { return at.Before(began) || at.After(began.Add(took)) })
	mu.Unlock()
	p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100].Round(10 * time.Microsecond) }
	t.Logf("an object of %d programs took %v to load; meanwhile %d reads, median %v, p99 %v (quiet: %v, %v); another's load took %v (quiet: %v); the watchdog was fed %d times",
		programs, took.Round(time.Millisecond), len(loud), loud[len(loud)/2], p99(loud), quiet[len(quiet)/2], p99(quiet), changed.Round(time.Millisecond), quietChange.Round(time.Millisecond), len(meanwhile))
	if len(loud) < 30 || p99(loud) > took/2 {
		t.Errorf("%d reads, p99 %v, while a load took %v", len(loud), p99(loud), took)
	}
	if len(meanwhile) < programs/2 {
		t.Errorf("the watchdog was fed %d times in %v", len(meanwhile), took)
	}
	if order := started(t, h); !slices.Equal(order[len(order)-2:], []string{"other", "long"}) {
		t.Errorf("in this order: %v", order)
	}
}

// started lists the collections of loads in the order of their outcomes.
func started(t *testing.T, h *testdaemon.Host) (all []string) {
	t.Helper()
	for _, r := range auditRecords(t, h.State) {
		if r.Verb == "load" && r.Phase == "outcome" {
			all = append(all, r.Collection)
		}
	}
	return all
}
