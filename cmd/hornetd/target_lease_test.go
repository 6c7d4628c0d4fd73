package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// held is a lease of what is attached to what files are, in the kernel's word too.
func held(t *testing.T, h *testdaemon.Host, what, kind string, lease *api.Lease, err error, file *os.File) api.Collection {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Cleanup(func() { lease.Close() })
	c := lease.Grant().Collection
	links := shownLinks(t)
	if c.State != api.StateRunning || c.Lease == nil || c.Lease.UID != owner || len(lease.Grant().Token) != 64 || len(links) != 1 || uint32(links[0].ID) != c.Links[0].ID {
		t.Fatalf("%s: granted %+v, %d links", what, c, len(links))
	}
	checkShown(t, what, links[0], kind, file)
	// What was shown is the kernel's and the client's to keep. (Of pidfds hornetd has its
	// own, by the same name.)
	if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err != nil || kind != "call" && slices.Contains(filesOf(t, h.PID()), name) {
		t.Errorf("%s: hornetd has %s open, %v", what, name, err)
	}
	return c
}

// filesOf is what a process has open, as the kernel calls it.
func filesOf(t *testing.T, pid int) (names []string) {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, fd := range all {
		if name, err := os.Readlink(fd); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// TestTargetLease: what is attached to what a client shows may hang on the client, and
// ends with either.
func TestTargetLease(t *testing.T) {
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	h := newRunners(t, libc)
	ctx := t.Context()
	dir := cgroupOf(t, testenv.Cgroup(t), "own", owner)
	cgroup := opened(t, dir)
	_, ns := spaceOf(t, owner)
	cmd := sleeper(t, owner)
	client := clientOf(t, h, owner)
	files := map[string]*os.File{"connect": cgroup, "lookup": ns, "filter": ns, "call": pidfdOf(t, cmd.Process.Pid)}
	for _, kind := range here(t, "connect", "lookup", "filter", "call") {
		file := files[kind]
		for _, ends := range []func(*api.Lease){
			func(l *api.Lease) { l.Close() },
			func(l *api.Lease) {
				unload(t, h, l.Grant().Collection.Name)
				if err := l.Wait(); refusedAs(err) != api.KindConflict {
					t.Errorf("%s: the client is told %v", kind, err)
				}
			},
		} {
			lease, err := client.LoadLease(ctx, kind, file)
			held(t, h, "load "+kind, kind, lease, err, file)
			if _, err := client.LoadLease(ctx, kind, file); refusedAs(err) != api.KindConflict || hintOf(err) == "" {
				t.Errorf("%s: a second one: %v", kind, err)
			}
			ends(lease)
			noLinks(t, kind)
		}
		lease, err := client.RunLease(ctx, kind, shownBundle(t, h, libc, kind), file)
		if c := held(t, h, "run "+kind, kind, lease, err, file); c.Name != "u4301-"+kind {
			t.Errorf("it is called %s", c.Name)
		}
		lease.Close()
		noLinks(t, kind)
		eventually(t, "no bundle lies there", func() bool { return lies(t, h) == "" })
	}

	// A restart in between: the token is enough, and nothing moves.
	lease, err := client.LoadLease(ctx, "connect", cgroup)
	was := held(t, h, "connect", "connect", lease, err, cgroup)
	h.Kill()
	if err := lease.Wait(); refusedAs(err) != api.KindUnavailable {
		t.Errorf("the client is told %v", err)
	}
	h.Start()
	must(t, lease.Resume(ctx))
	stays(t, h, was)
	// And it ends with what was shown, however long the client stays.
	must(t, os.Remove(dir))
	if err := lease.Wait(); refusedAs(err) != api.KindConflict || !strings.Contains(err.Error(), "the lease has ended") {
		t.Errorf("the client is told %v", err)
	}
	noLinks(t, "removed")

	for what, test := range map[string]struct {
		uid  int
		name string
		file *os.File
		kind api.Kind
	}{
		"another's":             {owner, "call", pidfdOf(t, sleeper(t, neighbour).Process.Pid), api.KindDenied},
		"one without the right": {stranger, "call", pidfdOf(t, sleeper(t, stranger).Process.Pid), api.KindDenied},
		"nothing shown":         {owner, "call", nil, api.KindBadRequest},
		"of another kind":       {owner, "call", ns, api.KindBadRequest},
		"not of the caller's":   {owner, "exec", ns, api.KindBadRequest},
		"no such":               {0, "none", ns, api.KindNotFound},
	} {
		files := []*os.File{test.file}
		if test.file == nil {
			files = nil
		}
		if _, err := clientOf(t, h, test.uid).LoadLease(ctx, test.name, files...); refusedAs(err) != test.kind || hintOf(err) == "" {
			t.Errorf("%s: %v, %q", what, err, hintOf(err))
		}
		if n := len(shownLinks(t)); n != 0 {
			t.Errorf("%s: %d links", what, n)
		}
	}
}

// TestTargetNetfilter: what would keep its network namespace there for ever has it
// for as long as the client, also where the namespace's own processes have ended, and over
// restarts for as long as somebody comes back.
func TestTargetNetfilter(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_NETFILTER")
	h := newShownWith(t, copyOfLibc(t), "lease_grace = \"2s\"\n")
	cmd, ns := spaceOf(t, owner)
	client := clientOf(t, h, owner)
	if _, err := client.LoadTargets(t.Context(), "filter", ns); refusedAs(err) != api.KindBadRequest || !strings.Contains(hintOf(err), "hornetctl load --lease filter --target-netns") {
		t.Errorf("without a lease: %v, %q", err, hintOf(err))
	}
	lease, err := client.LoadLease(t.Context(), "filter", ns)
	was := held(t, h, "filter", "filter", lease, err, ns)
	end(cmd)
	stays(t, h, was)
	for _, keys := range []string{"priority = -7\n", "priorities = [-7, -8]\n"} {
		h.Manifest("filter", "version = 2\n"+shownBy("shown_filter", ofCaller+"family = \"ipv4\"\nhook = \"input\"\n"+keys))
		if _, err := client.Upgrade(t.Context(), "filter"); err == nil || !strings.Contains(hintOf(err), "hornetctl unload filter") {
			t.Errorf("upgrade, %s: %v, %q", keys, err, hintOf(err))
		}
		stays(t, h, was)
	}
	h.Kill()
	h.Start()
	must(t, lease.Resume(t.Context()))
	stays(t, h, was)
	checkShown(t, "resumed", shownLinks(t)[0], "filter", ns)
	h.Kill()
	h.Start() // and nobody comes
	eventually(t, "unloaded after the grace", func() bool { return len(shownLinks(t)) == 0 })
}

// TestTargetLeaseByHand: hornetctl opens what it shows and holds the lease.
func TestTargetLeaseByHand(t *testing.T) {
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	h := newRunners(t, libc)
	parent := testenv.Cgroup(t)
	dir, other := cgroupOf(t, parent, "own", owner), cgroupOf(t, parent, "other", neighbour)
	b := shownBundle(t, h, libc, "connect")
	must(t, os.Mkdir(filepath.Join(h.Dir, "mine"), 0o755))
	for name, content := range map[string][]byte{"mine/count.toml": b.Manifest, "mine/caller.bpf.o": b.Object, "mine/caller.bpf.o.p7s": b.Signature} {
		h.Write(name, content)
	}
	ctl := testdaemon.Binary(t, "hornetctl")
	state := ctl + " --socket " + h.Socket + " show %s | grep -q 'lease of uid 4301' && exit 7"
	for _, test := range []struct {
		what, name, dir string
		exit            int
	}{
		{"load", "connect", dir, 7},
		{"load", "connect", other, api.ExitDenied},
		{"load", "connect", "/none", api.ExitUsage},
		{"run", filepath.Join(h.Dir, "mine"), dir, 7},
		{"run", filepath.Join(h.Dir, "mine"), other, api.ExitDenied},
	} {
		name := test.name
		if test.what == "run" {
			name = "u4301-count"
		}
		_, stderr, exit := h.CtlAs(owner, test.what, "--lease", "--target-cgroup", test.dir, test.name, "--", "sh", "-c", fmt.Sprintf(state, name))
		if exit != test.exit || exit != 7 && !strings.Contains(stderr, "hint: ") {
			t.Errorf("%s --lease at %s: %d, want %d: %s", test.what, test.dir, exit, test.exit, stderr)
		}
		noLinks(t, test.what)
	}
}

const leasing = "POST /v1/collections/connect/load HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\nUpgrade: hornet-lease\r\nContent-Length: 29\r\n\r\n{\"lease\":true,\"targets\":true}"

// leasesFrom101 sends that and reads the 101, behind which there is nothing yet.
func leasesFrom101(t *testing.T, h *testdaemon.Host) *net.UnixConn {
	t.Helper()
	conn := dialAs(t, owner, h.Socket).(*net.UnixConn)
	conn.SetDeadline(time.Now().Add(time.Minute))
	_, err := io.WriteString(conn, leasing)
	must(t, err)
	switched(t, conn, "hornet-lease")
	return conn
}

// TestTargetLeaseNotAsAgreed: too much, too little, too early, or a client that is gone.
func TestTargetLeaseNotAsAgreed(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	own := int(opened(t, cgroupOf(t, testenv.Cgroup(t), "own", owner)).Fd())
	null := int(opened(t, os.DevNull).Fd())
	root := h.Client()
	root.List(t.Context())
	before := openFDs(t, h.PID())
	show := func(conn *net.UnixConn, text string, fds ...int) {
		t.Helper()
		_, _, err := conn.WriteMsgUnix([]byte(text), unix.UnixRights(fds...), nil)
		must(t, err)
	}
	ended := func(what string) {
		t.Helper()
		settledFDs(t, h.PID(), before) // it has done with the connection
		if c, err := root.Get(t.Context(), "connect"); err != nil || c.State != api.StateAvailable || len(shownLinks(t)) != 0 {
			t.Errorf("%s: it is %s, %v", what, c.State, err)
		}
	}

	for what, sent := range map[string]struct {
		text string
		fds  []int
	}{
		"none": {"\n", nil}, "no line's end": {"x", []int{own}}, "two bytes": {"\n\n", []int{own}}, "four": {"\n", []int{own, own, own, own}},
		"as many as can": {"\n", slices.Repeat([]int{own}, 253)}, "two of a kind": {"\n", []int{own, own}}, "a device": {"\n", []int{null}},
		"one that is good": {"\n", []int{own, null}},
	} {
		conn := leasesFrom101(t, h)
		show(conn, sent.text, sent.fds...)
		if all, _ := io.ReadAll(conn); !strings.HasPrefix(string(all), `{"kind":"protocol"`) || !strings.Contains(string(all), `"hint":"`) || strings.Count(string(all), "\n") != 1 {
			t.Errorf("%s: %q", what, all)
		}
		conn.Close()
	}
	for what, test := range map[string]struct {
		text string
		fds  []int
		kind api.Kind
	}{
		"a descriptor before the 101":   {leasing, []int{own}, api.KindProtocol},
		"a byte before the 101":         {leasing + "\n", nil, api.KindProtocol},
		"both before the 101":           {leasing + "\n", []int{own}, api.KindProtocol},
		"targets of no lease":           {strings.Replace(leasing, `"lease":true,"targets":true}`, `"targets":true             }`, 1), nil, api.KindBadRequest},
		"targets without a 101":         {strings.Replace(leasing, "Upgrade: hornet-lease\r\n", "", 1), nil, api.KindBadRequest},
		"targets of what is resumed":    {strings.NewReplacer("29", "42", `true}`, `true,"resume":"x"}`).Replace(leasing), nil, api.KindBadRequest},
		"another protocol, with a body": {strings.Replace(leasing, "hornet-lease", "hornet-target", 1), nil, api.KindProtocol},
		"what shows nothing":            {strings.Replace(leasing, "connect", "exec", 1), nil, api.KindBadRequest},
	} {
		if got := ask(t, dialAs(t, owner, h.Socket), test.text, test.fds...); got.status != http.StatusBadRequest || got.kind != test.kind {
			t.Errorf("%s: %+v", what, got)
		}
	}
	noLinks(t, "refused")

	// One who dies at each step.
	for i := range len(leasing) + 1 {
		conn := dialAs(t, owner, h.Socket)
		io.WriteString(conn, leasing[:i])
		conn.Close()
	}
	settledFDs(t, h.PID(), before) // else the user has as many connections as one may
	leasesFrom101(t, h).Close()
	conn := leasesFrom101(t, h)
	conn.CloseWrite()
	if all, err := io.ReadAll(conn); err != nil || len(all) > 0 {
		t.Errorf("nobody shows anything: %q, %v", all, err)
	}
	for _, wait := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond} {
		conn := leasesFrom101(t, h)
		show(conn, "\n", own)
		time.Sleep(wait)
		conn.Close()
		ended(fmt.Sprintf("gone after %v", wait))
	}
	for what, leave := range map[string]func(*net.UnixConn){
		"a byte":       func(c *net.UnixConn) { show(c, "x") },
		"a descriptor": func(c *net.UnixConn) { show(c, "x", own) },
		"a half-close": func(c *net.UnixConn) { c.CloseWrite() },
	} {
		for _, granted := range []bool{true, false} {
			conn := leasesFrom101(t, h)
			show(conn, "\n", own)
			if granted {
				eventually(t, what+": it runs", func() bool { return len(shownLinks(t)) == 1 })
			}
			leave(conn)
			all, err := io.ReadAll(conn)
			if told := strings.Contains(string(all), `"kind":"protocol"`); granted && (err != nil || told == (what == "a half-close") || !strings.HasPrefix(string(all), `{"token":"`)) {
				t.Errorf("%s: %q, %v", what, all, err)
			}
			conn.Close()
			ended(what)
		}
	}

	// One who goes while root's change runs is not loaded for at all.
	_, ns := spaceOf(t, neighbour)
	strace := tracer(t, h.PID(), "-o", os.DevNull, "-e", "trace=bpf", "-e", "inject=bpf:delay_enter=20000")
	slow := make(chan error)
	go func() {
		_, err := h.Client().LoadTargets(context.Background(), "lookup", ns)
		slow <- err
	}()
	eventually(t, "root's load has begun", func() bool { return len(intents(t, h, "lookup")) == 1 })
	intended := len(intents(t, h, "connect"))
	gone := leasesFrom101(t, h)
	show(gone, "\n", own)
	time.Sleep(100 * time.Millisecond)
	gone.Close()
	must(t, <-slow)
	detach(t, strace)
	eventually(t, "the refusal is on record", func() bool {
		return slices.ContainsFunc(auditRecords(t, h.State), func(r auditRecord) bool { return strings.Contains(r.Error, "that wanted a lease is gone") })
	})
	if n := len(intents(t, h, "connect")); n != intended {
		t.Errorf("%d intents, were %d", n, intended)
	}
	_, err := root.Unload(t.Context(), "lookup", api.UnloadRequest{})
	must(t, err)
	if !testing.Short() {
		conn := leasesFrom101(t, h)
		if all, err := io.ReadAll(conn); err != nil || !strings.Contains(string(all), "nothing came behind the 101 within 10s") {
			t.Errorf("one that waits: %q, %v", all, err)
		}
	}
	root.Close()
	if after := settledFDs(t, h.PID(), before); after > before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
	waitForSlot(t, h)
}
