package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/api/bpfmap"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestMixed: users who do whatever can be done, all at once, and hang up in the
// middle; when they are gone the daemon has the descriptors, the goroutines and the
// programs that it had. HORNET_OPERATIONS=10000 for all of them.
func TestMixed(t *testing.T) {
	n := envCount("HORNET_OPERATIONS", 1000)
	if testing.Short() {
		n = min(n, 200)
	}
	seed := uint64(envCount("HORNET_SEED", 1))
	before := afterMixed(t, 60, seed)
	after := afterMixed(t, n, seed)
	if after > before+2 { // the runtime starts some of its own
		t.Errorf("%d goroutines after %d operations, %d after 60", after, n, before)
	}
	t.Logf("seed %d: goroutines after 60 operations %d, after %d operations %d", seed, before, n, after)
}

// afterMixed does n operations, holds what is then against what was before, and
// returns how many goroutines the daemon has.
func afterMixed(t *testing.T, n int, seed uint64) int {
	t.Helper()
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "recorded_burst = 1000000\n"+strings.ReplaceAll(mayRun, "1000", strconv.Itoa(stranger)))
	h.Object("maps.bpf.o", read(t, "testdata/maps.bpf.o"))
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("conn_count.bpf.o", object)
	h.Manifest("maps", mapsManifest(`"status", "load", "unload", "upgrade", "events", "read:counts", "write:counts", "fd:counts", "rw-fd:events"`))
	h.Manifest("open", connCount(testenv.Cgroup(t))+fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"status\", \"load\", \"unload\", \"upgrade\", \"events\"]\n", stranger))
	h.Manifest("kept", connCount(testenv.Cgroup(t)))
	h.Start()
	kept := load(t, h, "kept")
	testdaemon.Binary(t, "hornetctl")
	began := afterAll(t, h, "kept")

	// Within this test the daemon lives on: what is new in the kernel must go
	// without its end.
	t.Run(strconv.Itoa(n), func(t *testing.T) {
		testenv.NoLeaks(t)
		var left atomic.Int64
		left.Store(int64(n))
		var mu sync.Mutex
		count := map[string]map[string]int{}
		var wait sync.WaitGroup
		for i, uid := range []int{0, 0, stranger, stranger, 1001, stranger + 1} {
			w := &worker{Rand: rand.New(rand.NewPCG(seed, uint64(i))), t: t, h: h, uid: uid,
				client: apiAs(t, h, uid), bundle: api.Bundle{Manifest: []byte(connCount(testenv.Cgroup(t))), Object: object, Signature: h.Sign(object)}}
			wait.Go(func() {
				defer w.client.Close()
				for left.Add(-1) >= 0 {
					what, how := w.operate()
					mu.Lock()
					if count[what] == nil {
						count[what] = map[string]int{}
					}
					count[what][how]++
					mu.Unlock()
				}
			})
		}
		wait.Wait()
		for what, how := range count {
			t.Logf("%s: %v", what, how)
			if n >= 1000 && how["done"] == 0 {
				t.Errorf("%s: never done", what)
			}
		}
		eventually(t, "end of the leases", func() bool {
			root := h.Client()
			defer root.Close()
			list, err := root.List(context.Background())
			for _, c := range list {
				if c.Lease != nil {
					return false
				}
			}
			return err == nil
		})
		began.check(t, h, "kept")
	})
	if now := get(t, h, "kept"); cmp.Diff(kept.Programs, now.Programs) != "" || cmp.Diff(kernelLinks(t, kept), kernelLinks(t, now)) != "" || now.State != api.StateRunning {
		t.Errorf("what ran before is %+v, was %+v", now, kept)
	}
	h.Signal(syscall.SIGQUIT)
	h.Wait()
	return strings.Count(h.Log(), "\ngoroutine ")
}

// worker is a user who does one thing after the other.
type worker struct {
	*rand.Rand
	t      *testing.T
	h      *testdaemon.Host
	uid    int
	client *api.Client
	bundle api.Bundle
}

// operate does something and says what, and what came of it: "done", or the kind
// of the refusal.
func (w *worker) operate() (what, how string) {
	ctx := context.Background()
	name := []string{"open", "maps", "maps"}[w.IntN(3)]
	own := fmt.Sprintf("u%d-count", w.uid)
	var err error
	switch w.IntN(19) {
	case 0, 1:
		what, err = "load", errorOf(w.client.Load(ctx, name))
	case 2:
		what, err = "unload", errorOf(w.client.Unload(ctx, name, api.UnloadRequest{Force: w.IntN(2) == 0}))
	case 3:
		what, err = "upgrade", errorOf(w.client.Upgrade(ctx, name))
	case 4:
		what, err = "run", errorOf(w.client.Run(ctx, "count", w.bundle))
	case 5:
		what, err = "unload of one's own", errorOf(w.client.Unload(ctx, own, api.UnloadRequest{}))
	case 6:
		what, err = "entries", errorOf(w.client.Entries(ctx, "maps", "counts", api.EntriesOptions{}))
	case 7, 8:
		what = "write"
		key := json.RawMessage(strconv.Itoa(w.IntN(100)))
		_, err = w.client.Write(ctx, "maps", "counts", api.WriteRequest{Entries: []api.WriteEntry{{Key: key, Value: json.RawMessage("7")}}})
	case 9:
		what = "delete"
		_, err = w.client.Delete(ctx, "maps", "counts", api.DeleteRequest{Keys: []json.RawMessage{json.RawMessage(strconv.Itoa(w.IntN(100)))}})
	case 10:
		what = "descriptor"
		m, e := bpfmap.Open(ctx, w.client, "maps", "counts", api.AccessReadOnly)
		if err = e; err == nil {
			m.Close()
		}
	case 11:
		what = "lease"
		l, e := w.client.LoadLease(ctx, name)
		if err = e; err == nil {
			err = l.Close()
		}
	case 12:
		what = "lease of one who is killed"
		err = w.killed(name)
	case 13:
		what = "events"
		for _, e := range w.client.Events(ctx, api.EventsOptions{}) {
			if err = e; err != nil || w.IntN(20) == 0 {
				break
			}
		}
	case 14:
		what, err = "status", errorOf(w.client.Status(ctx))
	case 15:
		what, err = "list", errorOf(w.client.List(ctx))
	case 16:
		what, err = "reload", errorOf(w.client.Reload(ctx))
	case 17:
		what, err = "what is refused", errorOf(w.client.Rollback(ctx, "none", api.RollbackRequest{Reason: "x"}))
		if kindOf(err) != "" {
			return what, "done"
		}
	case 18:
		what, err = "hang up", w.hangUp()
	}
	switch {
	case err == nil:
		return what, "done"
	case kindOf(err) == "" || kindOf(err) == api.KindInternal:
		w.t.Errorf("uid %d: %s: %v", w.uid, what, err)
	}
	return what, string(kindOf(err))
}

func errorOf[T any](_ T, err error) error { return err }

// killed has hornetctl hold a lease and kills it at any time.
func (w *worker) killed(name string) error {
	cmd := exec.Command(testdaemon.Binary(w.t, "hornetctl"), "--socket", w.h.Socket, "load", "--lease", name)
	if w.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(w.uid), Gid: uint32(w.uid)}}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(time.Duration(w.IntN(50)) * time.Millisecond)
	cmd.Process.Kill()
	cmd.Wait()
	return nil
}

// hangUp sends a request, or a part of it, and closes the connection: after a
// moment, or at once.
func (w *worker) hangUp() error {
	requests := cutRequests(w.bundle)
	request := requests[w.IntN(len(requests))]
	conn := dialAs(w.t, w.uid, w.h.Socket)
	part := request.bytes()
	if w.IntN(2) == 0 {
		part = part[:w.IntN(len(part))]
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, err := conn.Write(part)
	if errors.Is(err, syscall.EPIPE) { // refused and closed before it was sent
		err = nil
	}
	if w.IntN(2) == 0 {
		time.Sleep(time.Duration(w.IntN(10)) * time.Millisecond)
	}
	return errors.Join(err, conn.Close())
}

// cutRequests are one of each kind.
func cutRequests(b api.Bundle) []*apiRequest {
	const open, counts = "/v1/collections/open", "/v1/collections/maps/maps/counts"
	form := &requestMaker{Rand: rand.New(rand.NewPCG(1, 1)), bundle: map[string][]byte{"manifest": b.Manifest, "object": b.Object, "signature": b.Signature}}
	run := &apiRequest{method: "POST", target: "/v1/run?name=count"}
	form.whole(run)
	all := []*apiRequest{run}
	upgrade := func(r *apiRequest, to string) {
		r.header = map[string][]string{"Connection": {"Upgrade"}, "Upgrade": {to}}
	}
	for _, line := range []string{
		"GET /v1/status", "GET /v1/collections", "GET " + open, "POST " + open + "/load {}", "POST " + open + "/upgrade {}", "POST " + open + "/unload {}",
		"POST " + open + `/rollback {"version":0,"reason":"x"}`, "POST " + open + "/recover {}",
		"GET " + counts, "GET " + counts + "/entries", "PUT " + counts + `/entries {"entries":[{"key":1,"value":2}]}`, "DELETE " + counts + `/entries {"keys":[1]}`,
		"POST /v1/reload {}", "POST /v1/plan {}", "GET /v1/events", "GET /v1/events?follow=true",
	} {
		words := strings.SplitN(line, " ", 3)
		r := &apiRequest{method: words[0], target: words[1]}
		if len(words) > 2 {
			r.body = []byte(words[2])
		}
		all = append(all, r)
	}
	lease, fd := &apiRequest{method: "POST", target: open + "/load", body: []byte(`{"lease":true}`)}, &apiRequest{method: "GET", target: counts}
	upgrade(lease, api.UpgradeLease)
	upgrade(fd, api.UpgradeFD)
	return append(all, lease, fd)
}
