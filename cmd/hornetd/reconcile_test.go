package main_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/internal/vmtest"
)

// in starts the daemon inside a network namespace, so that it hears of its
// interfaces.
func in(t testing.TB, h *testdaemon.Host, netns string) {
	t.Helper()
	if err := h.TryStart("nsenter", "--net="+netns); err != nil {
		t.Fatalf("%v\n%s", err, h.Log())
	}
}

// local is a manifest for a daemon that is in the namespace of its interface.
func local(m string, pair testenv.Pair) string {
	return strings.Replace(m, fmt.Sprintf("netns = %q\n", pair.B.Netns), "", 1)
}

// soon is well above what a repair takes on a busy machine, and below the ten
// seconds after which everything is looked at.
const soon = 5 * time.Second

// eventually waits until ok is true, and returns how long that took. It asks less
// often the longer that takes: asking costs time that, in a guest, is taken from
// what it waits for.
func eventually(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > time.Minute {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(min(max(2*time.Millisecond, time.Since(began)/20), 100*time.Millisecond))
	}
	return time.Since(began)
}

// xdpOn returns whether the interface of B runs an XDP program, as ip(8) says.
func xdpOn(t testing.TB, pair testenv.Pair) bool {
	t.Helper()
	return strings.Contains(testenv.IP(t, pair.B.Netns, "link", "show"), "prog/xdp")
}

// remake makes the pair anew, with the same names.
func remake(t testing.TB, pair *testenv.Pair) {
	t.Helper()
	testenv.IP(t, pair.B.Netns, "link", "del", pair.B.Name)
	pair.Join(t)
}

// eventsOf returns what the events of a kind said of a collection.
func eventsOf(t testing.TB, h *testdaemon.Host, kind api.EventKind, name string) (all []string) {
	t.Helper()
	for e, err := range h.Client().Events(context.Background(), api.EventsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == kind && e.Collection == name {
			all = append(all, e.Message)
		}
	}
	return all
}

// whole checks that the collection is what the kernel runs: all its pins, every
// link attached once, and nothing else on bpffs.
func whole(t testing.TB, h *testdaemon.Host, name string, links int) api.Collection {
	t.Helper()
	c := get(t, h, name)
	if c.State != api.StateRunning || c.Reason != "" || len(c.Links) != links {
		t.Errorf("%s: %s %q with %d links, want %d\n%s", name, c.State, c.Reason, len(c.Links), links, h.Log())
	}
	if got := kernelLinks(t, c); len(got) != links {
		t.Errorf("the kernel has links %v, want %d", got, links)
	}
	on := onBPFFS(t, h)
	for deadline := time.Now().Add(10 * time.Second); len(on) > 1 && time.Now().Before(deadline); on = onBPFFS(t, h) {
		time.Sleep(time.Millisecond) // what was replaced goes behind the commit
	}
	if len(on) != 1 || !on[name] {
		t.Errorf("on bpffs: %v", on)
	}
	for _, sub := range []string{"record", "links/" + c.Links[0].Name, "programs/" + c.Programs[0].Name} {
		if _, err := os.Lstat(filepath.Join(h.BPFFS, name, sub)); err != nil {
			t.Error(err)
		}
	}
	return c
}

// TestRepairs takes something away from a collection that drops and counts, and
// waits until it drops and counts again, with what it had counted before.
func TestRepairs(t *testing.T) {
	type place struct {
		*testdaemon.Host
		pair *testenv.Pair
		c    api.Collection
	}
	rm := func(names ...string) func(*testing.T, place) {
		return func(t *testing.T, p place) {
			for _, n := range names {
				found, err := filepath.Glob(filepath.Join(p.BPFFS, "xdp-drop", n))
				if err != nil || len(found) == 0 {
					t.Fatal(n, err)
				}
				for _, f := range found {
					must(t, os.RemoveAll(f))
				}
			}
		}
	}
	tests := map[string]struct {
		take   func(*testing.T, place)
		said   string // by the event
		forget bool   // what was counted may be gone with it, if it was before anybody looked
		reload bool   // it may take another program
	}{
		"link pin":    {rm("links/xdp_drop*"), "was removed", false, false},
		"program pin": {rm("programs/xdp_drop"), "pin programs/xdp_drop was removed", false, false},
		"map pin":     {rm("maps/hits"), "pin maps/hits was removed", false, false},
		"record":      {rm("record"), "pin record was removed", false, false},
		"detached": {func(t *testing.T, p place) {
			l, err := link.NewFromID(link.ID(p.c.Links[0].ID))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := l.Detach(); err != nil {
				t.Fatal(err)
			}
		}, "was detached", false, false},
		"interface":      {func(t *testing.T, p place) { remake(t, p.pair) }, "was made anew", false, false},
		"programs":       {rm("programs", "links"), "was removed", false, true},
		"whole":          {rm("."), "its directory was removed", true, true},
		"renamed away":   {func(t *testing.T, p place) { must(t, os.Rename(p.BPFFS+"/xdp-drop", p.BPFFS+"/other")) }, "its directory was removed", false, false},
		"links and maps": {rm("links", "maps/hits"), "is gone", false, false},
	}
	for what, test := range tests {
		for _, where := range []string{"own", "other"} {
			t.Run(what+" in "+where+" namespace", func(t *testing.T) {
				testenv.NoLeaks(t)
				pair := testenv.Veth(t)
				h := testdaemon.New(t, "")
				h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
				m := blocking(pair, "10.77.0.0/24", "")
				start := h.Start
				if where == "own" {
					m = local(m, pair)
					start = func() { in(t, h, pair.B.Netns) }
				}
				h.Manifest("xdp-drop", m)
				start()
				before := whole(t, h, "xdp-drop", 1)
				shoot(t, pair, 5)
				eventually(t, "5 packets counted", func() bool { return packets(t, h) >= 5 })
				counted := packets(t, h)
				// At once, not a part of it before a repair and a part behind it.
				h.Signal(syscall.SIGSTOP)
				test.take(t, place{h, &pair, before})
				h.Signal(syscall.SIGCONT)
				took := eventually(t, "repaired", func() bool {
					// Not all of it where the link that went is still on its way out.
					return len(eventsOf(t, h, api.EventRepaired, "xdp-drop")) > 0 && get(t, h, "xdp-drop").Reason == ""
				})
				t.Logf("repaired after %s", took)
				if took > soon && !vmtest.InGuest() {
					t.Errorf("repaired only after %s: what is found without a hint is found later", took)
				}
				if what == "renamed away" {
					must(t, os.RemoveAll(h.BPFFS+"/other"))
				}
				after := whole(t, h, "xdp-drop", 1)
				if !xdpOn(t, pair) {
					t.Error("no program on the interface")
				}
				if said := eventsOf(t, h, api.EventRepaired, "xdp-drop"); !strings.Contains(strings.Join(said, "; "), test.said) {
					t.Errorf("said %q, not %q", said, test.said)
				}
				if other := before.Programs[0].ID != after.Programs[0].ID; other && !test.reload {
					t.Errorf("program %d before, %d after", before.Programs[0].ID, after.Programs[0].ID)
				}
				if test.forget && packets(t, h) == 0 {
					counted = 0
				}
				if now := packets(t, h); now != counted {
					t.Errorf("counted %d before, %d after", counted, now)
				}
				shoot(t, pair, 7)
				arrived(t, h, counted+7)
				// More where a link was still on its way out when it was looked at.
				if n := len(recordsOf(t, h, "repair")); n < 2 || n%2 != 0 {
					t.Errorf("%d audit records, want an intent and an outcome", n)
				}
				h.Kill()
				start()
				whole(t, h, "xdp-drop", 1)
				if said := eventsOf(t, h, api.EventRepaired, ""); len(said) > 0 {
					t.Errorf("the restart found something to sweep: %v", said)
				}
			})
		}
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// shoot sends n packets that are dropped, from A to B.
func shoot(t testing.TB, pair testenv.Pair, n int) {
	t.Helper()
	must(t, testenv.InNetns(t, pair.A.Netns, func() error {
		c, err := net.Dial("udp4", pair.B.Addr.String()+":7777")
		if err != nil {
			return err
		}
		defer c.Close()
		for range n {
			if _, err := c.Write([]byte("hornet")); err != nil {
				return err
			}
		}
		return nil
	}))
}

// packets is how many the program of xdp-drop counted.
func packets(t testing.TB, h *testdaemon.Host) (n int) {
	t.Helper()
	fmt.Sscanf(hits(t, h), `{"packets":%d`, &n)
	return n
}

// arrived waits until the program of xdp-drop has counted n: the kernel brings packets
// to the other end of a pair a moment after they were sent.
func arrived(t testing.TB, h *testdaemon.Host, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d packets counted", n), func() bool { return packets(t, h) >= n })
	if now := packets(t, h); now != n {
		t.Errorf("%d counted, want %d", now, n)
	}
}

// recordsOf returns the audit records of a verb.
func recordsOf(t testing.TB, h *testdaemon.Host, verb string) (all []auditRecord) {
	t.Helper()
	for _, r := range auditRecords(t, h.State) {
		if r.Verb == verb {
			all = append(all, r)
		}
	}
	return all
}

// TestPending: a manifest whose interface does not exist yet waits, keeps nothing
// else from a reload, and is loaded when the interface is there.
func TestPending(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	testenv.IP(t, pair.B.Netns, "link", "del", pair.B.Name)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", local(blocking(pair, "10.77.0.0/24", ""), pair))
	in(t, h, pair.B.Netns)
	c := get(t, h, "xdp-drop")
	if c.State != api.StatePending || !strings.Contains(c.Reason, `there is no interface "veth0"`) || !strings.Contains(c.Hint, "loaded as soon as") {
		t.Fatalf("%s %q %q", c.State, c.Reason, c.Hint)
	}
	s, err := h.Client().Status(context.Background())
	if err != nil || s.Collections.Pending != 1 || s.Collections.Failed != 0 || len(s.Problems) != 1 {
		t.Errorf("status: %+v %+v, %v", s.Collections, s.Problems, err)
	}
	p, err := reload(t, h)
	if err != nil || p.Changes[0].Action != api.ActionRefuse || !strings.Contains(p.Changes[0].Reason, "waits") {
		t.Errorf("reload: %+v, %v", p, err)
	}
	if c = get(t, h, "xdp-drop"); c.State != api.StatePending {
		t.Errorf("after a reload: %s %q", c.State, c.Reason)
	}
	// Another manifest of the same kind is somebody's mistake, and refused.
	other := h.Manifest("other", strings.Replace(local(blocking(pair, "10.77.0.0/24", ""), pair), "veth0", "veth9", 1))
	if _, err := reload(t, h); err == nil || !strings.Contains(err.Error(), "veth9") {
		t.Errorf("reload with a new one: %v", err)
	}
	must(t, os.Remove(other))
	pair.Join(t)
	t.Logf("loaded after %s", eventually(t, "loaded", func() bool { return get(t, h, "xdp-drop").State == api.StateRunning }))
	whole(t, h, "xdp-drop", 1)
	shoot(t, pair, 5)
	arrived(t, h, 5)
}

// TestPendingClosed: what must run keeps the daemon from becoming ready.
func TestPendingClosed(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", "fail = \"closed\"\n"+strings.Replace(blocking(pair, "10.77.0.0/24", ""), "veth0", "veth9", 1))
	if err := h.TryStart(); err == nil || !strings.Contains(h.Log(), `there is no interface \"veth9\"`) {
		t.Errorf("%v\n%s", err, h.Log())
	}
}

// TestPendingUnloaded: what waits and is unloaded does not come with its target.
func TestPendingUnloaded(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	testenv.IP(t, pair.B.Netns, "link", "del", pair.B.Name)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", local(blocking(pair, "10.77.0.0/24", ""), pair))
	in(t, h, pair.B.Netns)
	if out, said, status := h.Ctl("unload", "xdp-drop"); status != 0 {
		t.Fatal(out, said)
	}
	if c := get(t, h, "xdp-drop"); c.State != api.StateAvailable {
		t.Errorf("%s %q", c.State, c.Reason)
	}
	if n := len(recordsOf(t, h, "unload")); n != 2 {
		t.Errorf("%d records, want intent and outcome", n)
	}
	pair.Join(t)
	time.Sleep(time.Second)
	if c := get(t, h, "xdp-drop"); c.State != api.StateAvailable || xdpOn(t, pair) {
		t.Errorf("it came with its target: %s", c.State)
	}
}

// TestPendingReplacement: what runs is replaced once the target of its new
// manifest is there.
func TestPendingReplacement(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	ns := pair.B.Netns
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	m := local(blocking(pair, "10.77.0.0/24", ""), pair)
	h.Manifest("xdp-drop", m)
	in(t, h, ns)
	whole(t, h, "xdp-drop", 1)
	h.Kill()
	h.Manifest("xdp-drop", strings.Replace(m, `"veth0"`, `"veth9"`, 1))
	in(t, h, ns)
	testenv.IP(t, ns, "link", "add", "veth9", "type", "bridge")
	eventually(t, "replaced", func() bool { return get(t, h, "xdp-drop").Links[0].Target == "interface veth9" })
	whole(t, h, "xdp-drop", 1)
	if out := testenv.IP(t, ns, "link", "show", "dev", "veth9"); !strings.Contains(out, "prog/xdp") {
		t.Error(out)
	}
}

// TestPattern: an interface that comes under a pattern gets the program, one
// that goes is forgotten, one that is renamed keeps it.
func TestPattern(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	ns := pair.B.Netns
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", strings.Replace(local(blocking(pair, "10.77.0.0/24", ""), pair), `"veth0"`, `"veth*"`, 1))
	in(t, h, ns)
	before := whole(t, h, "xdp-drop", 1)
	shoot(t, pair, 5)
	links := func(n int) func() bool {
		return func() bool { return len(get(t, h, "xdp-drop").Links) == n }
	}
	testenv.IP(t, ns, "link", "add", "veth1", "type", "veth", "peer", "name", "else0")
	took := eventually(t, "a second link", links(2))
	if t.Logf("attached after %s", took); took > soon {
		t.Errorf("attached only after %s", took)
	}
	after := whole(t, h, "xdp-drop", 2)
	if after.Links[0].ID != before.Links[0].ID || after.Programs[0].ID != before.Programs[0].ID {
		t.Errorf("before %+v, after %+v", before.Links, after.Links)
	}
	if out := testenv.IP(t, ns, "link", "show", "dev", "veth1"); !strings.Contains(out, fmt.Sprintf("prog/xdp id %d ", after.Programs[0].ID)) {
		t.Error(out)
	}
	arrived(t, h, 5)

	testenv.IP(t, ns, "link", "set", "veth1", "name", "veth7")
	eventually(t, "the name is on record", func() bool {
		l := get(t, h, "xdp-drop").Links
		return len(l) == 2 && l[1].Target == "interface veth7"
	})
	renamed := whole(t, h, "xdp-drop", 2)
	if renamed.Links[1].ID != after.Links[1].ID {
		t.Errorf("link %d, was %d", renamed.Links[1].ID, after.Links[1].ID)
	}

	testenv.IP(t, ns, "link", "set", "veth7", "name", "lan0")
	eventually(t, "drift", func() bool { return strings.Contains(get(t, h, "xdp-drop").Reason, "is called lan0 now") })
	if out := testenv.IP(t, ns, "link", "show", "dev", "lan0"); !strings.Contains(out, "prog/xdp") {
		t.Errorf("detached because of a name: %s", out)
	}
	testenv.IP(t, ns, "link", "set", "lan0", "name", "veth7")
	eventually(t, "no drift", func() bool { return get(t, h, "xdp-drop").Reason == "" })

	testenv.IP(t, ns, "link", "del", "veth7")
	eventually(t, "one link", links(1))
	eventually(t, "what it was has gone", func() bool { stages, _ := filepath.Glob(h.BPFFS + "/stage-*"); return len(stages) == 0 })
	if c := whole(t, h, "xdp-drop", 1); c.Links[0].ID != before.Links[0].ID {
		t.Errorf("link %d, was %d", c.Links[0].ID, before.Links[0].ID)
	}
}

// TestMoves: an interface that is renamed, or moved into another namespace and
// back, keeps its program; another one of its name gets one, whatever it is.
// rename renames an interface, which before Linux 6.2 must be down for that.
func rename(t *testing.T, ns, from, to string) {
	t.Helper()
	testenv.IP(t, ns, "link", "set", from, "down")
	testenv.IP(t, ns, "link", "set", from, "name", to)
	testenv.IP(t, ns, "link", "set", to, "up")
}

func TestMoves(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	ns := pair.B.Netns
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	m := local(blocking(pair, "10.77.0.0/24", ""), pair)
	h.Manifest("xdp-drop", strings.Replace(m, `mode = "generic"`, "", 1)) // native on veth
	in(t, h, ns)
	before := whole(t, h, "xdp-drop", 1)
	reason := func(text string) func() bool {
		return func() bool {
			r := get(t, h, "xdp-drop").Reason
			return text == "" && r == "" || text != "" && strings.Contains(r, text)
		}
	}
	rename(t, ns, "veth0", "lan0")
	eventually(t, "drift", reason("is called lan0 now"))
	s, err := h.Client().Status(context.Background())
	if err != nil || len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Message, "lan0") || s.Problems[0].Hint == "" {
		t.Errorf("status: %+v, %v", s.Problems, err)
	}
	if said := eventsOf(t, h, api.EventDrift, "xdp-drop"); len(said) != 1 {
		t.Errorf("events: %q", said)
	}
	rename(t, ns, "lan0", "veth0")
	eventually(t, "no drift", reason(""))

	testenv.IP(t, ns, "link", "set", "veth0", "netns", testenv.Netns(t))
	eventually(t, "drift", reason("runs still"))
	if got := kernelLinks(t, before); !got[before.Links[0].ID] {
		t.Error("the link is gone")
	}
	// Another kind of interface, of the same name and number, without XDP of its own.
	must(t, testenv.InNetns(t, ns, func() error {
		return exec.Command("sh", "-c", fmt.Sprintf("ip link add veth0 index %d type dummy || ip link add veth0 index %[1]d type bridge", pair.B.Ifindex)).Run()
	}))
	eventually(t, "attached to the other one", func() bool { return xdpOn(t, pair) && reason("")() })
	after := whole(t, h, "xdp-drop", 1)
	if after.Links[0].ID == before.Links[0].ID || after.Programs[0].ID != before.Programs[0].ID {
		t.Errorf("before %+v, after %+v", before.Links, after.Links)
	}
}

// TestCgroupAndNamespace: what a link was attached to goes, and comes again.
func TestCgroupAndNamespace(t *testing.T) {
	t.Run("cgroup", func(t *testing.T) {
		testenv.NoLeaks(t)
		cgroup := filepath.Join(testenv.Cgroup(t), "a/b")
		must(t, os.MkdirAll(cgroup, 0o755))
		h := testdaemon.New(t, "")
		h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
		h.Manifest("two", two(cgroup, ""))
		h.Start()
		before := whole(t, h, "two", 2)
		must(t, os.Remove(cgroup), os.Remove(filepath.Dir(cgroup)))
		eventually(t, "drift", func() bool { return len(eventsOf(t, h, api.EventDrift, "two")) > 0 })
		if r := get(t, h, "two").Reason; !strings.Contains(r, "there is no cgroup") {
			t.Errorf("%q", r)
		}
		if c := get(t, h, "two"); !strings.Contains(c.Hint, "when what is missing is there again") || len(c.Links) != 2 {
			t.Errorf("%+v", c)
		}
		must(t, os.MkdirAll(cgroup, 0o755))
		t.Logf("repaired after %s", eventually(t, "repaired", func() bool { return len(eventsOf(t, h, api.EventRepaired, "two")) > 0 }))
		after := whole(t, h, "two", 2)
		if after.Programs[0].ID != before.Programs[0].ID || after.Links[0].ID == before.Links[0].ID {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if show, _, _ := h.RunAs(0, "bpftool", "cgroup", "show", cgroup); strings.Count(show, "connect") < 2 {
			t.Error(show)
		}
	})
	t.Run("namespace", func(t *testing.T) {
		testenv.NoLeaks(t)
		pair := testenv.Veth(t)
		ns := testenv.Netns(t)
		file := filepath.Join(t.TempDir(), "ns")
		must(t, os.WriteFile(file, nil, 0o600), unix.Mount(ns, file, "", unix.MS_BIND, ""))
		t.Cleanup(func() { unix.Unmount(file, unix.MNT_DETACH) })
		testenv.IP(t, ns, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
		h := testdaemon.New(t, "")
		h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
		h.Manifest("xdp-drop", strings.Replace(blocking(pair, "10.77.0.0/24", ""), pair.B.Netns, file, 1))
		h.Start()
		before := whole(t, h, "xdp-drop", 1)
		must(t, unix.Unmount(file, 0), os.Remove(file))
		eventually(t, "drift", func() bool { return strings.Contains(get(t, h, "xdp-drop").Reason, "does not exist") })
		must(t, os.WriteFile(file, nil, 0o600), unix.Mount(pair.B.Netns, file, "", unix.MS_BIND, ""))
		t.Logf("repaired after %s", eventually(t, "repaired", func() bool { return len(eventsOf(t, h, api.EventRepaired, "xdp-drop")) > 0 }))
		after := whole(t, h, "xdp-drop", 1)
		if after.Programs[0].ID != before.Programs[0].ID || !xdpOn(t, pair) {
			t.Errorf("before %+v, after %+v", before, after)
		}
		shoot(t, pair, 5)
		arrived(t, h, 5)
	})
}

// TestFlapping: after a hundred times the interface has its program, once, and
// repairs were made less often than the interface.
func TestFlapping(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", local(blocking(pair, "10.77.0.0/24", ""), pair))
	in(t, h, pair.B.Netns)
	for range 100 {
		testenv.IP(t, pair.B.Netns, "link", "del", pair.B.Name)
		testenv.IP(t, pair.A.Netns, "link", "add", pair.A.Name, "type", "veth", "peer", "name", pair.B.Name, "netns", pair.B.Netns)
	}
	remake(t, &pair)
	t.Logf("attached %s after the last", eventually(t, "attached", func() bool { return xdpOn(t, pair) && get(t, h, "xdp-drop").Reason == "" }))
	whole(t, h, "xdp-drop", 1)
	shoot(t, pair, 5)
	arrived(t, h, 5)
	n := len(eventsOf(t, h, api.EventRepaired, "xdp-drop"))
	t.Logf("%d repairs of 101", n)
	if n > 60 {
		t.Errorf("%d repairs", n)
	}
}

// TestFight: what another tool takes away again and again is left to it, and
// said, until somebody reloads.
func TestFight(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
	h.Start()
	c := get(t, h, "xdp-drop")
	for strings.Contains(c.Reason, "left as it is") == false {
		for id := range kernelLinks(t, c) {
			h.RunAs(0, "bpftool", "link", "detach", "id", fmt.Sprint(id))
		}
		time.Sleep(50 * time.Millisecond)
		c = get(t, h, "xdp-drop")
		if n := len(eventsOf(t, h, api.EventRepaired, "xdp-drop")); n > 6 {
			t.Fatalf("%d repairs: %q", n, eventsOf(t, h, api.EventRepaired, "xdp-drop"))
		}
	}
	if !strings.Contains(c.Hint, "hornetctl reload") || xdpOn(t, pair) {
		t.Errorf("%q", c.Hint)
	}
	if p, err := h.Client().Plan(context.Background()); err != nil || action(p, "xdp-drop") != api.ActionRepair || !strings.Contains(p.Changes[0].Reason, "was detached") || len(p.Changes[0].Links) != 1 {
		t.Errorf("plan: %+v, %v", p, err)
	}
	// An interface that is made anew is nobody's fight.
	remake(t, &pair)
	eventually(t, "attached", func() bool { return xdpOn(t, pair) && get(t, h, "xdp-drop").Reason == "" })
	for id := range kernelLinks(t, get(t, h, "xdp-drop")) {
		h.RunAs(0, "bpftool", "link", "detach", "id", fmt.Sprint(id))
	}
	eventually(t, "left as it is", func() bool { return strings.Contains(get(t, h, "xdp-drop").Reason, "left as it is") })
	if p, err := reload(t, h); err != nil || action(p, "xdp-drop") != api.ActionRepair || !p.Changes[0].Done || !xdpOn(t, pair) {
		t.Fatalf("reload: %+v, %v", p, err)
	}
	eventually(t, "no drift", func() bool { return get(t, h, "xdp-drop").Reason == "" })
	c = get(t, h, "xdp-drop")
	for id := range kernelLinks(t, c) {
		h.RunAs(0, "bpftool", "link", "detach", "id", fmt.Sprint(id))
	}
	eventually(t, "repaired after the reload", func() bool { return get(t, h, "xdp-drop").Reason == "" && xdpOn(t, pair) })
}

// attachedAt says whether an interface runs an XDP program, as ip(8) says.
func attachedAt(t testing.TB, netns, name string) bool {
	t.Helper()
	return strings.Contains(testenv.IP(t, netns, "link", "show", "dev", name), "prog/xdp")
}

// TestComesAndGoesWithOneNumber: an interface that comes and goes by itself, with
// the number it had, is nobody's fight, whether it is seen to be gone or not.
func TestComesAndGoesWithOneNumber(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	ns := pair.B.Netns
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", local(blocking(pair, "10.77.0.0/24", ""), pair))
	in(t, h, ns)
	whole(t, h, "xdp-drop", 1)
	for i := range 10 {
		testenv.IP(t, ns, "link", "del", "veth0")
		if i%2 == 0 {
			eventually(t, "seen to be gone", func() bool { return strings.Contains(get(t, h, "xdp-drop").Reason, "is at nothing") })
		}
		testenv.IP(t, ns, "link", "add", "veth0", "index", fmt.Sprint(pair.B.Ifindex), "type", "bridge")
		eventually(t, fmt.Sprintf("attached, round %d: %s", i, get(t, h, "xdp-drop").Reason), func() bool { return attachedAt(t, ns, "veth0") })
	}
	eventually(t, "no drift", func() bool { return get(t, h, "xdp-drop").Reason == "" })
	whole(t, h, "xdp-drop", 1)
}

// TestOneInterfaceIsTaken: an interface under a pattern that runs another tool's
// program is told, keeps no other from being repaired, fills no record, and gets
// its program when it is free.
func TestOneInterfaceIsTaken(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	ns := pair.B.Netns
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", strings.Replace(local(blocking(pair, "10.77.0.0/24", ""), pair), `"veth0"`, `"veth*"`, 1))
	in(t, h, ns)
	before := whole(t, h, "xdp-drop", 1)
	testenv.IP(t, ns, "link", "add", "new0", "type", "bridge")
	testenv.IP(t, ns, "link", "set", "dev", "new0", "xdpgeneric", "pinned", h.BPFFS+"/xdp-drop/programs/xdp_drop")
	testenv.IP(t, ns, "link", "set", "new0", "name", "veth1")
	told := func() bool {
		return strings.Contains(get(t, h, "xdp-drop").Reason, "veth1 has come: not repaired: program")
	}
	eventually(t, "drift", told)
	if c := get(t, h, "xdp-drop"); !strings.Contains(c.Hint, "ip link set dev veth1 xdp off") {
		t.Errorf("hint %q", c.Hint)
	}
	time.Sleep(time.Second)
	if n := len(recordsOf(t, h, "repair")); n != 0 {
		t.Errorf("%d audit records of what was not done", n)
	}

	// A directory that is moved away keeps its links: they are pinned again.
	must(t, os.Rename(h.BPFFS+"/xdp-drop", h.BPFFS+"/other"))
	eventually(t, "a directory", func() bool { _, err := os.Lstat(h.BPFFS + "/xdp-drop/record"); return err == nil })
	if c := get(t, h, "xdp-drop"); len(kernelLinks(t, c)) != 1 || c.Links[0].ID != before.Links[0].ID || !attachedAt(t, ns, "veth0") {
		t.Errorf("%+v", c.Links)
	}
	must(t, os.RemoveAll(h.BPFFS+"/other"))

	testenv.IP(t, ns, "link", "del", "veth0")
	pair.Join(t)
	eventually(t, "attached", func() bool { return attachedAt(t, ns, "veth0") })
	eventually(t, "drift", told)
	if said := eventsOf(t, h, api.EventFailed, "xdp-drop"); len(said) != 0 {
		t.Errorf("%q", said)
	}
	testenv.IP(t, ns, "link", "set", "dev", "veth1", "xdpgeneric", "off")
	eventually(t, "attached to the other one", func() bool { return attachedAt(t, ns, "veth1") && get(t, h, "xdp-drop").Reason == "" })
	whole(t, h, "xdp-drop", 2)
}

// TestOneInterfaceRefuses: an interface under a pattern whose driver refuses the
// program is told, tried less and less, and keeps no other from being repaired.
func TestOneInterfaceRefuses(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	ns := pair.B.Netns
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	m := strings.Replace(local(blocking(pair, "10.77.0.0/24", ""), pair), `"veth0"`, `"veth*"`, 1)
	h.Manifest("xdp-drop", strings.Replace(m, `mode = "generic"`, `mode = "native"`, 1))
	in(t, h, ns)
	whole(t, h, "xdp-drop", 1)
	testenv.IP(t, ns, "link", "add", "veth1", "type", "bridge") // has no XDP of its own
	told := func() bool { return strings.Contains(get(t, h, "xdp-drop").Reason, "veth1 has come: not repaired: ") }
	eventually(t, "drift", told)
	testenv.IP(t, ns, "link", "del", "veth0")
	pair.Join(t)
	eventually(t, "attached", func() bool { return attachedAt(t, ns, "veth0") })
	time.Sleep(2 * time.Second)
	c := get(t, h, "xdp-drop")
	if got := kernelLinks(t, c); len(got) != 1 || len(c.Links) != 1 || !told() {
		t.Errorf("links %v, %q", got, c.Reason)
	}
	if n := len(recordsOf(t, h, "repair")); n > 24 {
		t.Errorf("%d audit records", n)
	}
	testenv.IP(t, ns, "link", "del", "veth1")
	eventually(t, "no drift", func() bool { return get(t, h, "xdp-drop").Reason == "" })
	whole(t, h, "xdp-drop", 1)
}

// TestForeignWhileRunning: what somebody puts among the pins, or in the place of
// one, is told, once, while nothing else is wrong.
func TestForeignWhileRunning(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
	h.Start()
	whole(t, h, "xdp-drop", 1)
	told := func(text string) func() bool { // by the watch, and not by who asks
		return func() bool {
			said := eventsOf(t, h, api.EventDrift, "xdp-drop")
			return len(said) > 0 && strings.Contains(said[len(said)-1], text)
		}
	}
	list := func() string { out, _, _ := h.Ctl("list"); return out }
	must(t, os.Mkdir(h.BPFFS+"/xdp-drop/links/foreign", 0o700))
	eventually(t, "told of a directory", told("links/foreign: not of hornetd's making"))
	if !strings.Contains(list(), "links/foreign: not of hornetd's making") {
		t.Error(list())
	}
	must(t, os.Remove(h.BPFFS+"/xdp-drop/links/foreign"))
	eventually(t, "no drift", func() bool { return !strings.Contains(list(), "not of hornetd's making") })

	// A map of the same kind in the place of another, in one step.
	m, err := ebpf.LoadPinnedMap(h.BPFFS+"/xdp-drop/maps/hits", nil)
	must(t, err)
	defer m.Close()
	other, err := ebpf.NewMap(&ebpf.MapSpec{Type: m.Type(), KeySize: m.KeySize(), ValueSize: m.ValueSize(), MaxEntries: m.MaxEntries()})
	must(t, err)
	defer other.Close()
	must(t, other.Pin(h.BPFFS+"/else"), os.Rename(h.BPFFS+"/else", h.BPFFS+"/xdp-drop/maps/hits"))
	eventually(t, "told of a map", told("maps/hits: not of hornetd's making"))
	time.Sleep(2 * time.Second)
	if said := eventsOf(t, h, api.EventDrift, "xdp-drop"); len(said) != 2 {
		t.Errorf("events: %q", said)
	}
	if n := len(recordsOf(t, h, "repair")); n != 0 {
		t.Errorf("%d audit records", n)
	}
}

// TestDrift: what cannot be repaired is told, with the reason and a remedy, and
// what runs is not touched.
func TestDrift(t *testing.T) {
	type place struct {
		*testdaemon.Host
		pair testenv.Pair
		c    api.Collection
	}
	stopped := func(p place, f func()) {
		p.Signal(syscall.SIGSTOP)
		f()
		p.Signal(syscall.SIGCONT)
	}
	for name, test := range map[string]struct {
		do         func(*testing.T, place)
		want, hint string
	}{
		"another program is there": {func(t *testing.T, p place) {
			stopped(p, func() {
				p.RunAs(0, "bpftool", "link", "detach", "id", fmt.Sprint(p.c.Links[0].ID))
				testenv.IP(t, p.pair.B.Netns, "link", "set", "dev", "veth0", "xdpgeneric", "pinned", p.BPFFS+"/xdp-drop/programs/xdp_drop")
			})
			t.Cleanup(func() { testenv.IP(t, p.pair.B.Netns, "link", "set", "dev", "veth0", "xdpgeneric", "off") })
		}, "runs there already", "xdp off"},
		"object gone": {func(t *testing.T, p place) {
			stopped(p, func() {
				must(t, os.RemoveAll(p.BPFFS+"/xdp-drop/programs"), os.RemoveAll(p.BPFFS+"/xdp-drop/links"), os.Remove(p.Manifests+"/xdp_drop.bpf.o"))
				eventually(t, "the program is gone", func() bool { return len(kernelLinks(t, p.c)) == 0 })
			})
		}, "no such file", "put"},
		"foreign pin": {func(t *testing.T, p place) {
			must(t, os.Mkdir(p.BPFFS+"/xdp-drop/maps/mine", 0o700))
			p.RunAs(0, "bpftool", "link", "detach", "id", fmt.Sprint(p.c.Links[0].ID))
			t.Cleanup(func() { os.Remove(p.BPFFS + "/xdp-drop/maps/mine") })
		}, "not of hornetd's making", "unload"},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			pair := testenv.Veth(t)
			h := testdaemon.New(t, "")
			h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
			h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
			h.Start()
			c := whole(t, h, "xdp-drop", 1)
			test.do(t, place{h, pair, c})
			eventually(t, "drift", func() bool { return len(eventsOf(t, h, api.EventDrift, "xdp-drop")) > 0 })
			if c := get(t, h, "xdp-drop"); !strings.Contains(c.Reason, test.want) || !strings.Contains(c.Hint, test.hint) {
				t.Errorf("%q, hint %q", c.Reason, c.Hint)
			}
			s, err := h.Client().Status(context.Background())
			if err != nil || len(s.Problems) == 0 || !strings.Contains(fmt.Sprint(s.Problems), "drift: ") {
				t.Errorf("status: %+v, %v", s.Problems, err)
			}
			if said := eventsOf(t, h, api.EventDrift, "xdp-drop"); len(said) != 1 {
				t.Errorf("events: %q", said)
			}
			time.Sleep(1500 * time.Millisecond)
			if n := len(recordsOf(t, h, "repair")); n > 12 {
				t.Errorf("%d audit records within 2 s", n)
			}
		})
	}
}

// TestKilledAtEverySystemCallOfARepair: whenever it dies, the old directory or
// the new one is there, whole, and the next daemon ends with one link attached.
func TestKilledAtEverySystemCallOfARepair(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
	h.Start()
	program := get(t, h, "xdp-drop").Programs[0].ID
	shoot(t, pair, 5)
	rounds, kept, swapped := 0, 0, 0
	for _, call := range []string{"mkdirat", "linkat", "renameat2", "unlinkat", "fdatasync", "bpf"} {
		for n := 1; ; n++ {
			if testing.Short() && n > 3 || call == "bpf" && n > 12 { // looking makes such calls too
				break
			}
			rounds++
			id := get(t, h, "xdp-drop").Links[0].ID
			cmd := tracer(t, h.PID(), "-o", os.DevNull, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n))
			l, err := link.NewFromID(link.ID(id))
			must(t, err)
			must(t, l.Detach(), l.Close())
			survived := true
			for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				c, err := h.Client().Get(context.Background(), "xdp-drop")
				if err != nil {
					survived = false
					break
				}
				if c.Reason == "" && c.Links[0].ID != id && len(onBPFFS(t, h)) == 1 && len(recordsOf(t, h, "repair"))%2 == 0 {
					break
				}
			}
			if survived {
				h.Kill()
			} else {
				h.Wait()
			}
			cmd.Wait()
			if !onBPFFS(t, h)["xdp-drop"] {
				t.Fatalf("%s %d: it is gone from bpffs: %v", call, n, onBPFFS(t, h))
			}
			on := attachedXDP(t, pair, program)
			if on != 0 {
				swapped++
			} else {
				kept++
			}
			h.Start()
			c := whole(t, h, "xdp-drop", 1)
			if on != 0 && c.Links[0].ID != on {
				t.Errorf("link %d ran when it was killed, and %d after the start: nothing did meanwhile", on, c.Links[0].ID)
			}
			if c.Programs[0].ID != program || !c.Adopted || !xdpOn(t, pair) {
				t.Errorf("program %d, was %d", c.Programs[0].ID, program)
			}
			arrived(t, h, 5)
			if t.Failed() {
				t.Fatalf("%s %d", call, n)
			}
			if survived && call != "bpf" {
				break // there are fewer than n such calls
			}
		}
	}
	t.Logf("%d kills: %d times without a program on the interface, %d with", rounds, kept, swapped)
	if kept == 0 || swapped == 0 {
		t.Error("the points do not span the repair")
	}
}

// TestKilledWhileItResumes: a start that is killed while it takes over what a
// repair made that was killed detaches it no more than the next one does.
func TestKilledWhileItResumes(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
	h.Start()
	kills := 0
	for _, call := range []string{"linkat", "renameat2", "unlinkat"} {
		for n := 1; n <= 5; n++ {
			c := whole(t, h, "xdp-drop", 1)
			cmd := tracer(t, h.PID(), "-o", os.DevNull, "-e", "inject=renameat2:signal=KILL:when=1")
			l, err := link.NewFromID(link.ID(c.Links[0].ID))
			must(t, err, l.Detach(), l.Close())
			h.Wait()
			cmd.Wait()
			on := attachedXDP(t, pair, c.Programs[0].ID)
			if on == 0 {
				t.Fatal("killed before it had attached anything")
			}
			err = h.TryStart("strace", "-D", "-f", "-qq", "-o", os.DevNull, "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n))
			if err != nil {
				kills++
			}
			h.Kill()
			if now := attachedXDP(t, pair, c.Programs[0].ID); now != on {
				t.Errorf("%s %d: link %d ran, and %d when the start was killed", call, n, on, now)
			}
			h.Start()
			if now := whole(t, h, "xdp-drop", 1); now.Links[0].ID != on {
				t.Errorf("%s %d: link %d ran, and %d after the next start", call, n, on, now.Links[0].ID)
			}
			if t.Failed() {
				t.FailNow()
			}
			if err == nil {
				break
			}
		}
	}
	if kills < 5 {
		t.Errorf("%d kills", kills)
	}
}

// attachedXDP is the link of the program that ip(8) shows at the interface of B,
// or 0.
func attachedXDP(t testing.TB, pair testenv.Pair, program uint32) uint32 {
	t.Helper()
	if !strings.Contains(testenv.IP(t, pair.B.Netns, "link", "show"), fmt.Sprintf("prog/xdp id %d ", program)) {
		return 0
	}
	for id := range kernelLinks(t, api.Collection{Programs: []api.Program{{ID: program}}}) {
		l, err := link.NewFromID(link.ID(id))
		must(t, err)
		info, err := l.Info()
		must(t, err, l.Close())
		if info.XDP().Ifindex == uint32(pair.B.Ifindex) { // 0 for one that was detached
			return id
		}
	}
	t.Fatal("a program and no link")
	return 0
}

// TestManyRepairsLeaveNothing: after two hundred repairs the daemon has as many
// descriptors and threads of execution, and the kernel as many objects, as
// before.
func TestManyRepairsLeaveNothing(t *testing.T) {
	testenv.NoLeaks(t)
	cgroup := testenv.Cgroup(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	// One collection each, so that no repair waits for the one before.
	const each = 50
	for i := range each {
		dir := filepath.Join(cgroup, fmt.Sprint("c", i))
		must(t, os.Mkdir(dir, 0o755))
		h.Manifest(fmt.Sprint("c", i), two(dir, ""))
	}
	h.Start()
	client := h.Client() // one, whose connection stays
	again := func() {
		for i := range each {
			dir := filepath.Join(cgroup, fmt.Sprint("c", i))
			must(t, os.Remove(dir), os.Mkdir(dir, 0o755))
		}
		began := time.Now()
		eventually(t, "all repaired", func() bool {
			list, err := client.List(context.Background())
			must(t, err)
			for _, c := range list {
				if c.Reason != "" || len(attachedTo(t, filepath.Join(cgroup, c.Name))) != 1 {
					return false
				}
			}
			return true
		})
		t.Logf("%d repaired within %s", each, time.Since(began))
		time.Sleep(500 * time.Millisecond)
	}
	again()
	fds := descriptors(t, h)
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		again()
	}
	if now := descriptors(t, h); now > fds+2 {
		t.Errorf("%d descriptors, %d before", now, fds)
	}
	t.Logf("%d descriptors before, %d after", fds, descriptors(t, h))
	if on := onBPFFS(t, h); len(on) != each {
		t.Errorf("on bpffs: %v", on)
	}
	for i := range each {
		if got := kernelLinks(t, get(t, h, fmt.Sprint("c", i))); len(got) != 2 {
			t.Errorf("c%d has links %v", i, got)
		}
	}
	h.Stop()
	if log := h.Log(); strings.Contains(log, "left behind") {
		t.Error(log)
	}
}

// attachedTo returns the programs that run for connect4 in a cgroup.
func attachedTo(t testing.TB, cgroup string) []link.AttachedProgram {
	t.Helper()
	dir, err := os.Open(cgroup)
	must(t, err)
	defer dir.Close()
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	must(t, err)
	return found.Programs
}

// descriptors is how many the daemon has open.
func descriptors(t testing.TB, h *testdaemon.Host) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.PID()))
	must(t, err)
	return len(all)
}

// BenchmarkRepair is the time from an interface that is there again to its
// program: how long it takes that nobody but hornetd sees to it.
func BenchmarkRepair(b *testing.B) {
	pair := testenv.Veth(b)
	h := testdaemon.New(b, "")
	h.Object("xdp_drop.bpf.o", example(b, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", local(blocking(pair, "10.77.0.0/24", ""), pair))
	in(b, h, pair.B.Netns)
	var worst time.Duration
	for b.Loop() {
		b.StopTimer()
		time.Sleep(11 * time.Second) // calm: the one before is forgotten
		testenv.IP(b, pair.B.Netns, "link", "del", pair.B.Name)
		b.StartTimer()
		testenv.IP(b, pair.A.Netns, "link", "add", pair.A.Name, "type", "veth", "peer", "name", pair.B.Name, "netns", pair.B.Netns)
		worst = max(worst, eventually(b, "attached", func() bool { return xdpOn(b, pair) }))
	}
	b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
}

// BenchmarkWatching is what it costs to look after 300 collections with which
// nothing happens, in milliseconds of processor time a second.
func BenchmarkWatching(b *testing.B) {
	cgroup := testenv.Cgroup(b)
	h := testdaemon.New(b, "")
	h.Object("conn_count.bpf.o", example(b, "conn-count/conn_count.bpf.o"))
	for i := range 300 {
		dir := filepath.Join(cgroup, fmt.Sprint("c", i))
		must(b, os.Mkdir(dir, 0o755))
		h.Manifest(fmt.Sprint("c", i), counting(dir, "boot", 1, "a"))
	}
	h.Start()
	time.Sleep(5 * time.Second)
	for b.Loop() {
		before := cpuTime(b, h)
		time.Sleep(10 * time.Second)
		b.ReportMetric(float64((cpuTime(b, h)-before).Milliseconds())/10, "cpu-ms/s")
	}
}

// cpuTime is what the daemon's threads have used of the processors. Not of
// /proc/PID/stat: what sleeps again before the next tick is not counted there.
func cpuTime(t testing.TB, h *testdaemon.Host) (sum time.Duration) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", h.PID()))
	must(t, err)
	for _, f := range threads {
		b, err := os.ReadFile(f)
		must(t, err)
		var ns int64
		fmt.Sscan(string(b), &ns)
		sum += time.Duration(ns)
	}
	return sum
}
