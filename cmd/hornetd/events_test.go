package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// toldTo lists kinds and collections of what curl is told as uid.
func toldTo(t *testing.T, h *testdaemon.Host, uid uint32, query string) (all []string) {
	t.Helper()
	got := curl(t, h, uid, "GET", "/v1/events"+query)
	if got.status != http.StatusOK {
		t.Fatalf("%s: %+v", query, got)
	}
	for record := range strings.SplitSeq(got.body, "\x1e") {
		if record == "" {
			continue
		}
		var e api.Event
		must(t, json.Unmarshal([]byte(record), &e))
		all = append(all, strings.TrimSpace(string(e.Kind)+" "+e.Collection))
	}
	return all
}

// TestEventsFilter: by kind and collection, for root and for one who may see
// only a part, and what is not a filter.
func TestEventsFilter(t *testing.T) {
	testenv.NoLeaks(t)
	h := newStudio(t, "", "one", "two")
	h.Manifest("shut", connCount(testenv.Cgroup(t)))
	_, err := h.Client().Reload(context.Background())
	must(t, err)
	for _, name := range []string{"one", "two", "shut"} {
		load(t, h, name)
	}
	_, err = h.Client().Unload(context.Background(), "two", api.UnloadRequest{})
	must(t, err)
	for _, test := range []struct {
		uid   uint32
		query string
		want  []string
	}{
		{0, "?kind=loaded", []string{"loaded one", "loaded two", "loaded shut"}},
		{0, "?kind=unloaded,started", []string{"started", "unloaded two"}},
		{0, "?collection=two", []string{"loaded two", "unloaded two"}},
		{0, "?collection=two&kind=loaded", []string{"loaded two"}},
		{0, "?collection=nobody", nil},
		{0, "?since=1&kind=loaded&collection=one", []string{"lost", "loaded one"}},
		{0, "?since=9000000000000000&kind=drift", []string{"lost"}},
		{stranger, "", []string{"loaded one", "loaded two", "unloaded two"}},
		{stranger, "?kind=loaded", []string{"loaded one", "loaded two"}},
		{stranger, "?collection=shut", nil},
		{stranger, "?since=1&kind=started", []string{"lost"}},
	} {
		if diff := cmp.Diff(test.want, toldTo(t, h, test.uid, test.query)); diff != "" {
			t.Errorf("uid %d: %s: %s", test.uid, test.query, diff)
		}
	}
	for _, query := range []string{"?kind=nothing", "?kind=loaded,", "?kind=Loaded", "?kind=loaded&kind=lost", "?collections=one", "?since=-1"} {
		curl(t, h, 0, "GET", "/v1/events"+query).refusal(t, api.KindBadRequest)
	}
	stdout, stderr, exit := h.Ctl("events", "--kind", "loaded,unloaded", "--collection", "two")
	if exit != 0 || strings.Count(stdout, "\n") != 2 || !strings.Contains(stdout, "unloaded     two") {
		t.Errorf("exit status %d: %s%s", exit, stdout, stderr)
	}
	if _, stderr, exit := h.Ctl("events", "--kind", "nothing"); exit != api.ExitUsage || !strings.Contains(stderr, "rolled-back") {
		t.Errorf("an unknown kind: exit status %d: %s", exit, stderr)
	}
}

// TestTrustIsTold: a reload says whose word counts now and did not, or the other
// way round, and nothing where that is as it was.
func TestTrustIsTold(t *testing.T) {
	h := testdaemon.New(t, "[trust]\nroots = [\"dev\"]\n")
	h.Start()
	_, cert, err := signing.Keygen("second", "ecdsa")
	must(t, err)
	second := filepath.Join(h.Trust, "second.pem")
	for _, step := range []struct {
		do   func()
		want string // "": nothing is told
	}{
		{func() {}, ""},
		{func() { h.Write("trust.d/second.pem", cert) }, "new: second (key "},
		{func() {}, ""},
		{func() { h.Revoke("serial = 3\n") }, "revocation list: serial 3, signed by dev"},
		{func() { must(t, os.Remove(second)) }, "gone: second (key "},
		{func() {}, ""},
	} {
		before := events(t, h, 0)
		last := before[len(before)-1].Seq
		step.do()
		_, err := h.Client().Reload(context.Background())
		must(t, err)
		var got []string
		for _, e := range events(t, h, last) {
			if e.Kind == api.EventTrust {
				got = append(got, e.Message)
			}
		}
		if n := len(got); n > 1 || n == 1 != (step.want != "") || n == 1 && !strings.HasPrefix(got[0], step.want) {
			t.Errorf("want %q, told %q", step.want, got)
		}
	}
	// What a reload that fails takes away is told as well.
	h.Manifest("broken", "nonsense")
	h.Revoke("serial = 4\n")
	if _, err := h.Client().Reload(context.Background()); err == nil {
		t.Fatal("reloaded")
	}
	all := events(t, h, 0)
	var last string
	for _, e := range all {
		if e.Kind == api.EventTrust {
			last = e.Message
		}
	}
	if last != "revocation list: serial 4, signed by dev" {
		t.Errorf("after a reload that failed: %q", last)
	}
}

// TestSlowReaderIsTold: who does not read for a while is then told how much was
// passed over; who does not read at all is hung up on; nobody waits for either.
func TestSlowReaderIsTold(t *testing.T) {
	testenv.NoLeaks(t)
	h := newOffice(t)
	slow, dead := dialAs(t, 0, h.Socket), dialAs(t, 0, h.Socket)
	for _, conn := range []io.Writer{slow, dead} {
		_, err := io.WriteString(conn, "GET /v1/events?follow=true HTTP/1.1\r\nHost: h\r\n\r\n")
		must(t, err)
	}
	client := h.Client()
	began, made := time.Now(), 0
	for ; made < 4000 && time.Since(began) < 8*time.Second; made++ {
		if _, err := client.Load(context.Background(), "nobody"); err == nil {
			t.Fatal("loaded")
		}
	}
	last := events(t, h, 0)
	end := last[len(last)-1].Seq
	head := bufio.NewReader(slow)
	for {
		line, err := head.ReadString('\n')
		must(t, err)
		if line == "\r\n" {
			break
		}
	}
	body := bufio.NewReader(httputil.NewChunkedReader(head))
	slow.SetReadDeadline(time.Now().Add(time.Minute))
	var seq, lost uint64
	for seq < end {
		record, err := body.ReadBytes('\n')
		must(t, err)
		var e api.Event
		must(t, json.Unmarshal(bytes.TrimPrefix(record, []byte{0x1e}), &e))
		if e.Kind == api.EventLost {
			if e.Lost == 0 || e.Seq != seq+e.Lost {
				t.Errorf("after %d: %+v", seq, e)
			}
			lost += e.Lost
		} else if seq != 0 && e.Seq != seq+1 {
			t.Errorf("%d behind %d", e.Seq, seq)
		}
		seq = e.Seq
	}
	t.Logf("%d events in %v; who did not read meanwhile is told of the loss of %d", made, time.Since(began), lost)
	if lost == 0 {
		t.Error("nothing was lost: nothing was shown")
	}
	time.Sleep(time.Until(began.Add(15 * time.Second)))
	dead.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, dead); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("who did not read at all for 15 seconds is still told")
	}
}
