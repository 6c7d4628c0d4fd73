package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// atOnce is what a lease's end may take on a host that does nothing else; asserted
// is much more.
const (
	atOnce = 100 * time.Millisecond
	later  = 20 * time.Second
)

// ends waits until nothing is left of a collection, in the kernel's word: its links
// are gone and so are its pins. It returns how long that took.
func ends(t *testing.T, h *testdaemon.Host, c api.Collection) time.Duration {
	t.Helper()
	began := time.Now()
	for time.Since(began) < later {
		if len(kernelLinks(t, c)) == 0 {
			took := time.Since(began)
			for time.Since(began) < later {
				if _, err := os.Lstat(filepath.Join(h.BPFFS, c.Name)); errors.Is(err, fs.ErrNotExist) {
					return took
				}
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s still runs after %v", c.Name, later)
	return 0
}

// lives checks that a collection still runs after a while in which it would have
// been unloaded.
func lives(t *testing.T, c api.Collection) {
	t.Helper()
	time.Sleep(3 * atOnce)
	if n := len(kernelLinks(t, c)); n != len(c.Links) {
		t.Fatalf("%s has %d of its %d links", c.Name, n, len(c.Links))
	}
}

// leaseOf takes a lease as uid.
func leaseOf(t *testing.T, h *testdaemon.Host, uid int, name string) *api.Lease {
	t.Helper()
	l, err := apiAs(t, h, uid).LoadLease(context.Background(), name)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	if c := l.Grant().Collection; c.State != api.StateRunning || c.Lease == nil || c.Lease.UID != uint32(uid) || len(kernelLinks(t, c)) != 2 {
		t.Fatalf("granted: %+v", c)
	}
	return l
}

// leaseByHand sends a load that asks for a lease, by hand.
func leaseByHand(t *testing.T, conn net.Conn, name string) *bufio.Reader {
	t.Helper()
	_, err := io.WriteString(conn, "POST /v1/collections/"+name+"/load HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: hornet-lease\r\nContent-Length: 14\r\n\r\n{\"lease\":true}")
	must(t, err)
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "hornet-lease" {
		t.Fatalf("status %d", resp.StatusCode)
	}
	var grant api.LeaseGrant
	line, err := r.ReadBytes('\n')
	must(t, err)
	must(t, json.Unmarshal(line, &grant))
	if grant.Collection.Name != name || len(grant.Token) != 64 {
		t.Fatalf("grant %s", line)
	}
	return r
}

// TestLease: what a lease loads goes with the client, however it goes.
func TestLease(t *testing.T) {
	testenv.NoLeaks(t)
	h := newStudio(t, "", "one")
	hold := func(argv ...string) (*exec.Cmd, api.Collection) {
		t.Helper()
		cmd := exec.Command(testdaemon.Binary(t, "hornetctl"), append([]string{"--socket", h.Socket, "load", "--lease", "one"}, argv...)...)
		must(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		for range 2000 {
			if c := get(t, h, "one"); c.State == api.StateRunning && c.Lease != nil && c.Lease.PID != 0 {
				if c.Lease.PID != int32(cmd.Process.Pid) || c.Lease.UID != 0 {
					t.Errorf("held by %+v, not by %d", c.Lease, cmd.Process.Pid)
				}
				return cmd, c
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatal("it does not run")
		return nil, api.Collection{}
	}
	for what, f := range map[string]func() api.Collection{
		"close": func() api.Collection {
			l := leaseOf(t, h, stranger, "one")
			l.Close()
			return l.Grant().Collection
		},
		"kill -9": func() api.Collection {
			cmd, c := hold()
			cmd.Process.Kill()
			return c
		},
		"Ctrl-C": func() api.Collection {
			cmd, c := hold()
			cmd.Process.Signal(os.Interrupt)
			return c
		},
		"kill -9 of one who stands still": func() api.Collection {
			cmd, c := hold()
			cmd.Process.Signal(syscall.SIGSTOP)
			lives(t, c) // to stand still is not to die
			cmd.Process.Kill()
			return c
		},
		"end of the command": func() api.Collection {
			cmd, c := hold("--", "sleep", "2")
			lives(t, c)
			cmd.Wait()
			return c
		},
		"kill -9 while the command lives": func() api.Collection {
			cmd, c := hold("--", "sleep", "1.5") // it does not hold the connection
			cmd.Process.Kill()
			return c
		},
		"half-close": func() api.Collection {
			conn := dialAs(t, stranger, h.Socket)
			leaseByHand(t, conn, "one")
			c := get(t, h, "one")
			must(t, conn.(*net.UnixConn).CloseWrite())
			return c
		},
		"garbage": func() api.Collection {
			conn := dialAs(t, stranger, h.Socket)
			r := leaseByHand(t, conn, "one")
			c := get(t, h, "one")
			conn.Write(bytes.Repeat([]byte("x"), 1<<16))
			var e api.Error
			line, err := r.ReadBytes('\n')
			if err != nil || json.Unmarshal(line, &e) != nil || e.Kind != api.KindProtocol || e.Hint == "" {
				t.Errorf("told %q, %v", line, err)
			}
			return c
		},
	} {
		last := lastSeq(t, h)
		c := f()
		took := ends(t, h, c)
		t.Logf("%s: unloaded within %v of the client's end", what, took)
		var kinds []string
		for range 500 { // the event comes behind the unload
			if kinds = nil; len(events(t, h, last)) >= 2 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		for _, e := range events(t, h, last) {
			kinds = append(kinds, string(e.Kind))
			if e.Kind == api.EventUnloaded && !strings.Contains(e.Message, "the lease of uid") {
				t.Errorf("%s: told %q", what, e.Message)
			}
		}
		if diff := cmp.Diff([]string{"loaded", "unloaded"}, kinds); diff != "" {
			t.Errorf("%s: events: %s", what, diff)
		}
		if c := get(t, h, "one"); c.State != api.StateAvailable || c.Lease != nil {
			t.Errorf("%s: afterwards it is %s, %+v", what, c.State, c.Lease)
		}
	}
	var outcome auditRecord
	for _, r := range auditRecords(t, h.State) {
		if r.Verb == "unload" && r.Phase == "outcome" {
			outcome = r
		}
	}
	if outcome.Collection != "one" || outcome.Error != "" {
		t.Errorf("on record: %+v", outcome)
	}
}

func lastSeq(t *testing.T, h *testdaemon.Host) uint64 {
	t.Helper()
	all := events(t, h, 0)
	return all[len(all)-1].Seq
}

// TestLeaseCommand: hornetctl ends as the command did, and says what it must.
func TestLeaseCommand(t *testing.T) {
	testenv.NoLeaks(t)
	h := newStudio(t, "", "one")
	for _, test := range []struct {
		args   string
		exit   int
		stderr string
	}{
		{"load --lease one -- sh -c :", 0, ""},
		{"load --lease one -- sh -c exit\t7", 7, ""},
		{"load --lease one -- sh -c kill\t-9\t$$", 137, ""},
		{"load --lease one -- /no/such/command", 1, "no such file"},
		{"load --lease", 2, "NAME is missing"},
		{"load --lease -- sh", 2, "NAME is missing"},
		{"load --lease one sh", 2, "unexpected argument"},
		{"load one -- sh", 2, "unexpected argument"},
		{"load --lease nobody -- sh", 1, "nobody"},
	} {
		words := strings.Split(test.args, " ")
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "\t", " ") // within a script
		}
		_, stderr, exit := h.Ctl(words...)
		if exit != test.exit || !strings.Contains(stderr, test.stderr) || test.stderr == "" && stderr != "" {
			t.Errorf("%s: exit status %d: %s", test.args, exit, stderr)
		}
		for range 1000 {
			if get(t, h, "one").State == api.StateAvailable {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if c := get(t, h, "one"); c.State != api.StateAvailable {
		t.Errorf("it is %s", c.State)
	}
}

// TestLeaseRefused: what cannot be leased, or not by who asks, or not like that.
func TestLeaseRefused(t *testing.T) {
	testenv.NoLeaks(t)
	ctx := context.Background()
	h := newStudio(t, "", "one", "runs")
	h.Manifest("boot", strings.Replace(connCount(testenv.Cgroup(t)), `start = "request"`, `start = "boot"`, 1))
	load(t, h, "runs")
	for _, test := range []struct {
		uid  int
		name string
		kind api.Kind
	}{
		{stranger, "runs", api.KindConflict},
		{0, "boot", api.KindConflict},
		{stranger + 2, "one", api.KindDenied},
		{stranger, "nobody", api.KindDenied},
		{0, "nobody", api.KindNotFound},
		{0, "../x", api.KindBadRequest},
	} {
		_, err := apiAs(t, h, test.uid).LoadLease(ctx, test.name)
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != test.kind {
			t.Errorf("uid %d, %s: %v", test.uid, test.name, err)
		} else if e.Hint == "" && test.name != "../x" {
			t.Errorf("uid %d, %s: no remedy: %v", test.uid, test.name, err)
		}
	}
	upgrade := []string{"-H", "Connection: Upgrade", "-H", "Upgrade: hornet-lease"}
	for _, args := range [][]string{
		{"-d", `{"lease":true}`},
		append(slices.Clone(upgrade), "-d", `{}`),
		append(slices.Clone(upgrade), "-d", `{"lease":false}`),
		append(slices.Clone(upgrade), "-d", `{"resume":"x"}`),
		append(slices.Clone(upgrade), "-d", `{"lease":true}`, "--http1.0"),
		append(slices.Clone(upgrade), "-d", `{"lease":true}`, "-H", "Upgrade: websocket"),
		{"-H", "Upgrade: hornet-lease", "-d", `{"lease":true}`},
		{"-H", "Connection: Upgrade", "-H", "Upgrade: hornet-fd", "-d", `{"lease":true}`},
		{"-d", `{"resume":"` + strings.Repeat("0", 64) + `"}`},
	} {
		curl(t, h, 0, "POST", "/v1/collections/one/load", args...).refusal(t, api.KindBadRequest)
	}

	// Nobody else has it while it is held, by whatever token; nor resumes it.
	l := leaseOf(t, h, stranger, "one")
	token := l.Grant().Token
	for _, test := range []struct {
		uid   int
		token string
		kind  api.Kind
	}{
		{stranger, token, api.KindConflict},
		{stranger + 1, token, api.KindDenied},
		{0, token, api.KindDenied},
		{stranger, strings.Repeat("0", 64), api.KindDenied},
		{stranger, token[:63], api.KindDenied},
		{stranger, strings.ToUpper(token), api.KindDenied},
	} {
		if _, err := apiAs(t, h, test.uid).ResumeLease(ctx, "one", test.token); kindOf(err) != test.kind {
			t.Errorf("resumed by uid %d: %v", test.uid, err)
		}
	}
	if _, err := apiAs(t, h, stranger).LoadLease(ctx, "one"); kindOf(err) != api.KindConflict {
		t.Errorf("a second lease: %v", err)
	}
	// A success would say that it goes on.
	if _, err := apiAs(t, h, stranger+1).Load(ctx, "one"); kindOf(err) != api.KindConflict || !strings.Contains(err.Error(), "ends with that") {
		t.Errorf("a load of what runs already, by lease: %v", err)
	}
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("wants", "requires = [\"one\"]\n"+connCount(testenv.Cgroup(t)))
	if _, err := h.Client().Load(ctx, "wants"); kindOf(err) != api.KindConflict || !strings.Contains(err.Error(), "requires") {
		t.Errorf("a load of what requires it: %v", err)
	}
	lives(t, l.Grant().Collection)
	for _, name := range []string{"runs"} {
		if c := get(t, h, name); c.State != api.StateRunning || c.Lease != nil {
			t.Errorf("%s is %s, %+v", name, c.State, c.Lease)
		}
	}
	stdout, _, _ := h.Ctl("list")
	show, _, _ := h.Ctl("show", "one")
	if want := fmt.Sprintf("lease of uid %d, pid ", stranger); !strings.Contains(stdout, want) || !strings.Contains(show, want) {
		t.Errorf("list and show do not say who holds it:\n%s%s", stdout, show)
	}
	l.Close()
	ends(t, h, l.Grant().Collection)
}

// TestLeaseOverRestart: a daemon that was killed gives who held a lease time to
// come back, and unloads what nobody came for. Of the token nothing is kept but
// its hash.
func TestLeaseOverRestart(t *testing.T) {
	testenv.NoLeaks(t)
	ctx := context.Background()
	h := newStudio(t, "lease_grace = \"5s\"\n", "back", "gone", "free")
	back, gone := leaseOf(t, h, stranger, "back"), leaseOf(t, h, stranger, "gone")
	free := load(t, h, "free")
	token := back.Grant().Token

	for _, stop := range []func(){h.Kill, h.Stop} {
		stop()
		if err := back.Wait(); kindOf(err) != api.KindUnavailable {
			t.Fatalf("the client is told %v", err)
		}
		lives(t, back.Grant().Collection) // while nobody is there to unload it
		h.Start()
		if c := get(t, h, "back"); c.Lease == nil || c.Lease.PID != 0 || c.Lease.Until.IsZero() || c.Lease.UID != stranger {
			t.Errorf("after the start: %+v", c.Lease)
		}
		if _, err := apiAs(t, h, stranger+1).ResumeLease(ctx, "back", token); kindOf(err) != api.KindDenied {
			t.Errorf("resumed by another: %v", err)
		}
		must(t, back.Resume(ctx))
		if got := back.Grant(); got.Token != token || got.Collection.Lease.PID == 0 || got.GraceMS != 5000 {
			t.Errorf("resumed: %+v", got)
		}
	}
	took := ends(t, h, gone.Grant().Collection)
	t.Logf("what nobody came for was unloaded %v after the others were resumed, with a grace of 5s", took)
	lives(t, back.Grant().Collection)
	lives(t, free)
	var told bool
	for _, e := range events(t, h, 0) {
		told = told || e.Kind == api.EventUnloaded && e.Collection == "gone" && strings.Contains(e.Message, "nobody resumed it within 5s")
	}
	if !told {
		t.Errorf("no event tells why: %+v", events(t, h, 0))
	}
	if err := gone.Resume(ctx); kindOf(err) != api.KindDenied {
		t.Errorf("resumed too late: %v", err)
	}

	// The token is nowhere.
	record := recordOf(t, h, "back")
	sum := sha256.Sum256([]byte(token))
	if !bytes.Contains(record, []byte(hex.EncodeToString(sum[:]))) {
		t.Errorf("its hash is not in the record: %s", record)
	}
	if bytes.Contains(record, []byte(token)) || strings.Contains(h.Log(), token) {
		t.Error("the token is in the record or the log")
	}
	filepath.WalkDir(h.State, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && bytes.Contains(read(t, path), []byte(token)) {
			t.Errorf("the token is in %s", path)
		}
		return nil
	})
	if n := bytes.Count(read(t, filepath.Join(h.State, "audit/audit.jsonl")), []byte(`"verb":"resume"`)); n != 2 {
		t.Errorf("%d records of what was resumed, want 2", n)
	}

	// Who may not load it any more does not keep it either.
	h.Stop()
	file := filepath.Join(h.Manifests, "back.toml")
	h.Manifest("back", strings.ReplaceAll(string(read(t, file)), `"load", `, ``))
	h.Start()
	if err := back.Resume(ctx); kindOf(err) != api.KindDenied {
		t.Errorf("resumed without the right to load: %v", err)
	}
	back.Close()
	_, err := h.Client().Unload(ctx, "back", api.UnloadRequest{})
	must(t, err)
}

// TestLeaseWithoutManifest: where the manifest is broken or gone meanwhile, the lease is
// resumed all the same, and nobody else learns of it.
func TestLeaseWithoutManifest(t *testing.T) {
	testenv.NoLeaks(t)
	ctx := context.Background()
	names := []string{"whole", "broken", "gone"}
	h := newStudio(t, "lease_grace = \"3s\"\n", names...)
	leases := map[string]*api.Lease{}
	for _, name := range names {
		leases[name] = leaseOf(t, h, stranger, name)
	}
	h.Kill()
	h.Manifest("broken", "what is this")
	h.Start()
	must(t, os.Remove(filepath.Join(h.Manifests, "gone.toml"))) // before, the start would have unloaded it
	told := map[string]bool{}
	for _, name := range names {
		for _, uid := range []int{stranger, stranger + 1} {
			for _, token := range []string{leases[name].Grant().Token, strings.Repeat("0", 64)} {
				if uid == stranger && token == leases[name].Grant().Token {
					continue
				}
				_, err := apiAs(t, h, uid).ResumeLease(ctx, name, token)
				if kindOf(err) != api.KindDenied {
					t.Errorf("%s: resumed by uid %d: %v", name, uid, err)
				}
				told[strings.NewReplacer(name, "NAME", fmt.Sprint(uid), "UID").Replace(err.Error())] = true
			}
		}
		if err := leases[name].Resume(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(told) != 1 {
		t.Errorf("who has no lease can tell one manifest from another: %v", told)
	}
	time.Sleep(4 * time.Second) // more than the grace
	for _, name := range names {
		lives(t, leases[name].Grant().Collection)
		leases[name].Close()
		ends(t, h, leases[name].Grant().Collection)
	}
}

// recordOf reads a collection's record from its pin.
func recordOf(t *testing.T, h *testdaemon.Host, name string) []byte {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(h.BPFFS, name, "record"), &ebpf.LoadPinOptions{ReadOnly: true})
	must(t, err)
	defer m.Close()
	b, err := m.LookupBytes(uint32(0))
	must(t, err)
	return b
}

// TestLeaseAndOthers: who may unloads what is leased, and the holder is told;
// what replaces it, by upgrade or reload, goes on under the lease.
func TestLeaseAndOthers(t *testing.T) {
	testenv.NoLeaks(t)
	ctx := context.Background()
	h := newStudio(t, "", "one")
	l := leaseOf(t, h, stranger, "one")
	_, err := apiAs(t, h, stranger+1).Unload(ctx, "one", api.UnloadRequest{})
	must(t, err)
	err = l.Wait()
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindConflict || !strings.Contains(e.Message, "unloaded by uid 1235") {
		t.Errorf("the holder is told %v", err)
	}
	again := load(t, h, "one") // somebody else's now
	l.Close()
	lives(t, again)
	if again.Lease != nil {
		t.Errorf("held by %+v", again.Lease)
	}
	_, err = h.Client().Unload(ctx, "one", api.UnloadRequest{})
	must(t, err)

	// Whoever goes on waiting then is hung up on.
	conn := dialAs(t, stranger, h.Socket)
	r := leaseByHand(t, conn, "one")
	_, err = h.Client().Unload(ctx, "one", api.UnloadRequest{})
	must(t, err)
	if line, err := r.ReadBytes('\n'); err != nil || !bytes.Contains(line, []byte(`"kind":"conflict"`)) {
		t.Errorf("told %q, %v", line, err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("behind it %d bytes, %v", n, err)
	}

	manifest := string(read(t, filepath.Join(h.Manifests, "one.toml")))
	for i, replace := range []func() error{
		func() error { _, err := h.Client().Upgrade(ctx, "one"); return err },
		func() error { _, err := h.Client().Reload(ctx); return err },
	} {
		l := leaseOf(t, h, stranger, "one")
		before := get(t, h, "one")
		manifest += fmt.Sprintf("# version %d\n", i)
		h.Manifest("one", manifest)
		must(t, replace())
		after := get(t, h, "one")
		if after.Programs[0].ID == before.Programs[0].ID || after.Lease == nil || after.Lease.UID != stranger || after.Lease.PID == 0 {
			t.Errorf("replaced: program %d, was %d; lease %+v", after.Programs[0].ID, before.Programs[0].ID, after.Lease)
		}
		l.Close()
		ends(t, h, after)
	}

	l = leaseOf(t, h, stranger, "one")
	must(t, os.Remove(filepath.Join(h.Manifests, "one.toml")))
	_, err = h.Client().Reload(ctx)
	must(t, err)
	if err := l.Wait(); kindOf(err) != api.KindConflict {
		t.Errorf("whose manifest is gone is told %v", err)
	}
	ends(t, h, l.Grant().Collection)
}

// TestLeaseOfARun: a bundle of the caller's own goes with its client too, files and
// all, and survives a restart of the daemon under the name it was given.
func TestLeaseOfARun(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "lease_grace = \"20s\"\n"+mayRun)
	object := example(t, "conn-count/conn_count.bpf.o")
	dir := bundle(t, h, "mine", connCount(testenv.Cgroup(t)), object)
	h.Start()
	_, stderr, exit := h.CtlAs(1000, "run", "--lease", dir, "--", "sh", "-c", "exit 3")
	if exit != 3 || stderr != "" {
		t.Errorf("exit status %d: %s", exit, stderr)
	}
	for range 1000 {
		if lies(t, h) == "" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if left := lies(t, h) + strings.Join(tree(t, h.BPFFS), " "); left != "" {
		t.Errorf("left behind: %s", left)
	}
	text := read(t, filepath.Join(dir, "count.toml"))
	b := api.Bundle{Manifest: text, Object: object, Signature: h.Sign(object)}
	l, err := apiAs(t, h, 1000).RunLease(context.Background(), "count", b)
	must(t, err)
	if c := l.Grant().Collection; c.Name != "u1000-count" || c.Lease == nil || c.Lease.UID != 1000 || len(kernelLinks(t, c)) != 2 {
		t.Errorf("granted %+v", c)
	}
	if _, err := apiAs(t, h, 1000).RunLease(context.Background(), "count", b); kindOf(err) != api.KindConflict {
		t.Errorf("a second one: %v", err)
	}
	curl(t, h, 1000, "POST", "/v1/run?name=count&lease=yes", "-F", "manifest=x").refusal(t, api.KindBadRequest)
	curl(t, h, 1000, "POST", "/v1/run?name=count&lease=true", "-F", "manifest=x").refusal(t, api.KindBadRequest)
	h.Kill()
	if err := l.Wait(); kindOf(err) != api.KindUnavailable {
		t.Errorf("told %v", err)
	}
	h.Start()
	must(t, l.Resume(context.Background()))
	lives(t, l.Grant().Collection)
	l.Close()
	ends(t, h, l.Grant().Collection)
}

// TestLeaseOfOneWhoDies: a client that goes at each step of the asking leaves
// nothing that runs.
func TestLeaseOfOneWhoDies(t *testing.T) {
	h := newStudio(t, "", "one", "slow")
	request := "POST /v1/collections/one/load HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: hornet-lease\r\nContent-Length: 14\r\n\r\n{\"lease\":true}"
	for _, n := range []int{0, 1, 30, len(request) - 15, len(request) - 1} {
		conn := dialAs(t, stranger, h.Socket)
		_, err := io.WriteString(conn, request[:n])
		must(t, err)
		conn.Close()
	}
	load := func(wait time.Duration) {
		t.Helper()
		conn := dialAs(t, stranger, h.Socket)
		_, err := io.WriteString(conn, request)
		must(t, err)
		time.Sleep(wait)
		conn.Close()
		for range 2000 {
			if changes := limitsOf(t, h, 0); slices.Contains(changes, "api.connections_per_user 0 of 16") || !slices.ContainsFunc(changes, func(l string) bool {
				return strings.HasPrefix(l, "1234: api.connections_per_user")
			}) {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if c := get(t, h, "one"); c.State != api.StateAvailable {
			t.Errorf("gone after %v: it is %s, %+v", wait, c.State, c.Lease)
		}
		if left := tree(t, h.BPFFS); slices.ContainsFunc(left, func(pin string) bool { return strings.Contains(pin, "one") }) {
			t.Errorf("gone after %v: left behind: %v", wait, left)
		}
	}
	for _, wait := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond} {
		load(wait)
	}
	// And in the middle of a load that takes its time.
	strace := tracer(t, h.PID(), "-o", os.DevNull, "-e", "trace=bpf", "-e", "inject=bpf:delay_enter=20000")
	load(100 * time.Millisecond)
	load(400 * time.Millisecond)
	// One who goes while others' changes run is not loaded for at all.
	last := lastSeq(t, h)
	slow := make(chan error)
	go func() {
		_, err := h.Client().Load(context.Background(), "slow")
		slow <- err
	}()
	time.Sleep(100 * time.Millisecond)
	load(100 * time.Millisecond)
	must(t, <-slow)
	detach(t, strace)
	lives(t, get(t, h, "slow"))
	for _, e := range events(t, h, last) { // a refusal like this one was told before
		if e.Collection != "slow" && e.Kind != api.EventRefused {
			t.Errorf("told %+v", e)
		}
	}
}

// TestThousandLeases: descriptors, and what the daemon's runtime says it does, are
// afterwards what they were.
func TestThousandLeases(t *testing.T) {
	testenv.NoLeaks(t)
	n := 1000
	if testing.Short() {
		n = 60
	}
	before, began := afterLeases(t, 1)
	after, left := afterLeases(t, n)
	if after != before || left > began+2 { // the runtime starts some of its own
		t.Errorf("after %d leases %d descriptors and %d goroutines, after one %d and %d", n, after, left, before, began)
	}
}

// afterLeases takes and gives up a lease n times and returns how many descriptors
// and goroutines the daemon has then.
func afterLeases(t *testing.T, n int) (files, goroutines int) {
	t.Helper()
	ctx := context.Background()
	h := newStudio(t, "recorded_burst = 10000\n", "one")
	client, root := apiAs(t, h, stranger), h.Client()
	var slowest time.Duration
	for i := range n {
		l, err := client.LoadLease(ctx, "one")
		if err != nil {
			t.Fatalf("lease %d: %v", i, err)
		}
		began := time.Now()
		l.Close()
		slowest = max(slowest, ends(t, h, l.Grant().Collection))
		for time.Since(began) < later {
			if c, err := root.Get(ctx, "one"); err != nil || c.State == api.StateAvailable {
				must(t, err)
				break
			}
		}
	}
	client.Close()
	root.Close()
	t.Logf("%d leases, the slowest unloaded within %v", n, slowest)
	time.Sleep(500 * time.Millisecond) // for the connections to be gone
	files = descriptors(t, h)
	h.Signal(syscall.SIGQUIT)
	h.Wait()
	return files, strings.Count(h.Log(), "\ngoroutine ")
}
