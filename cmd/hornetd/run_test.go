package main_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// bundle lays out a collection as its developer has it, for every user to read,
// and returns its directory.
func bundle(t testing.TB, h *testdaemon.Host, dir, text string, object []byte) string {
	t.Helper()
	text = strings.TrimPrefix(text, "\n")
	for name, b := range map[string][]byte{"count.toml": []byte(text), "conn_count.bpf.o": object, "conn_count.bpf.o.p7s": h.Sign(object)} {
		if err := os.MkdirAll(filepath.Join(h.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		h.Write(filepath.Join(dir, name), b)
	}
	return filepath.Join(h.Dir, dir)
}

// lies lists what is in the directory of bundles.
func lies(t testing.TB, h *testdaemon.Host) string {
	t.Helper()
	entries, err := os.ReadDir(h.Bundles())
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

const mayRun = `
[[rule]]
user = "1000"
may = ["run"]
signers = ["dev"]
attach = ["cgroup/*"]
targets = ["cgroup:/sys/fs/cgroup/**"]
unsigned_manifests = true
[[rule]]
user = "1001"
may = ["run"]
signers = ["dev"]
attach = ["cgroup/*"]
targets = ["cgroup:/sys/fs/cgroup/**"]
unsigned_manifests = true
`

func TestRun(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, mayRun)
	cgroup := testenv.Cgroup(t)
	object := example(t, "conn-count/conn_count.bpf.o")
	dir := bundle(t, h, "mine", connCount(cgroup), object)
	h.Start()

	stdout, stderr, exit := h.CtlAs(1000, "run", dir)
	if exit != 0 || !strings.Contains(stdout, "u1000-count: running: ") {
		t.Fatalf("run: %d\n%s%s", exit, stdout, stderr)
	}
	c := get(t, h, "u1000-count")
	if len(kernelLinks(t, c)) != 2 || c.LoadedBy.UID != 1000 || lies(t, h) != "u1000-count" {
		t.Errorf("%+v, %q", c, lies(t, h))
	}
	if info, err := os.Stat(h.Bundles()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	ids := c.Programs[0].ID

	t.Run("theirs", func(t *testing.T) {
		for _, verb := range []string{"show", "list"} {
			argv := []string{verb, "u1000-count"}[:map[string]int{"show": 2, "list": 1}[verb]]
			if stdout, stderr, exit := h.CtlAs(1000, argv...); exit != 0 || !strings.Contains(stdout, "u1000-count") {
				t.Errorf("%v: %d\n%s%s", argv, exit, stdout, stderr)
			}
		}
		if _, stderr, exit := h.CtlAs(1000, "map", "dump", "u1000-count", "connects"); exit != 0 {
			t.Errorf("map dump: %d, %s", exit, stderr)
		}
	})
	t.Run("nobody else's", func(t *testing.T) {
		if stdout, _, exit := h.CtlAs(1001, "list"); exit != 0 || strings.Contains(stdout, "count") {
			t.Errorf("list: %d\n%s", exit, stdout)
		}
		for _, verb := range []string{"show", "unload", "load", "upgrade"} {
			_, there, exit := h.CtlAs(1001, verb, "u1000-count")
			_, absent, exit2 := h.CtlAs(1001, verb, "u1000-absent")
			if exit != api.ExitDenied || exit2 != exit || there != strings.ReplaceAll(absent, "absent", "count") {
				t.Errorf("%s: %d, %d\n%s%s", verb, exit, exit2, there, absent)
			}
		}
		if stdout, stderr, exit := h.CtlAs(1001, "run", dir); exit != 0 || !strings.Contains(stdout, "u1001-count: running: ") {
			t.Errorf("the same name: %d\n%s%s", exit, stdout, stderr)
		}
		if stdout, stderr, exit := h.CtlAs(1001, "unload", "u1001-count"); exit != 0 {
			t.Errorf("unload: %d\n%s%s", exit, stdout, stderr)
		}
		if now := get(t, h, "u1000-count"); now.Programs[0].ID != ids || lies(t, h) != "u1000-count" {
			t.Errorf("%+v, %q", now, lies(t, h))
		}
	})
	t.Run("nobody without a rule", func(t *testing.T) {
		if _, stderr, exit := h.CtlAs(1002, "run", dir); exit != api.ExitDenied || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%d, %s", exit, stderr)
		}
		// Before what they send is read: they promise 4 MiB and send nothing.
		a := curl(t, h, 1002, "POST", "/v1/run?name=count", "-H", "Content-Length: 4194304", "-H", "Content-Type: multipart/form-data; boundary=B", "-d", "x")
		if a.status != 403 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("two at a time", func(t *testing.T) {
		// Two that stop in the middle, and a third.
		var waiting []net.Conn
		for range 2 {
			conn := dialAs(t, 1000, h.Socket)
			if _, err := io.WriteString(conn, "POST /v1/run?name=count HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: 9999\r\n\r\n--B\r\n"); err != nil {
				t.Fatal(err)
			}
			waiting = append(waiting, conn)
		}
		eventually(t, "a third is refused", func() bool {
			_, stderr, exit := h.CtlAs(1000, "run", dir)
			return exit != 0 && strings.Contains(stderr, "uid 1000 sends 2 bundles already")
		})
		if _, stderr, exit := h.CtlAs(1001, "run", dir); exit != 0 {
			t.Errorf("somebody else: %d, %s", exit, stderr)
		}
		for _, conn := range waiting {
			conn.Close()
		}
		eventually(t, "it runs", func() bool { _, _, exit := h.CtlAs(1000, "run", dir); return exit == 0 })
		if _, stderr, exit := h.CtlAs(1001, "unload", "u1001-count"); exit != 0 {
			t.Errorf("unload: %d, %s", exit, stderr)
		}
	})
	t.Run("the same again", func(t *testing.T) {
		if _, stderr, exit := h.CtlAs(1000, "run", filepath.Join(dir, "count.toml")); exit != 0 {
			t.Errorf("%d, %s", exit, stderr)
		}
		if now := get(t, h, "u1000-count"); now.Programs[0].ID != ids {
			t.Errorf("%+v", now)
		}
	})
	t.Run("refused", func(t *testing.T) {
		other := bundle(t, h, "unsigned", connCount(cgroup), object)
		if err := os.Remove(filepath.Join(other, "conn_count.bpf.o.p7s")); err != nil {
			t.Fatal(err)
		}
		if _, stderr, exit := h.CtlAs(1000, "run", other); exit != api.ExitSignature || !strings.Contains(stderr, "hint: ") {
			t.Errorf("unsigned: %d, %s", exit, stderr)
		}
		changed := bundle(t, h, "changed", connCount(cgroup)+"[limits]\nmaps = 1\n", append([]byte(nil), object...))
		h.Write("changed/conn_count.bpf.o", append(object, 0))
		if _, stderr, exit := h.CtlAs(1000, "run", changed); exit != api.ExitSignature {
			t.Errorf("changed: %d, %s", exit, stderr)
		}
		greedy := bundle(t, h, "greedy", connCount(cgroup)+"[[allow]]\nuser = \"7\"\nmay = [\"status\"]\n", object)
		if _, stderr, exit := h.CtlAs(1000, "run", greedy); exit != api.ExitFailure || !strings.Contains(stderr, "allow") {
			t.Errorf("allow: %d, %s", exit, stderr)
		}
		if now := get(t, h, "u1000-count"); now.Programs[0].ID != ids || lies(t, h) != "u1000-count" {
			t.Errorf("%+v, %q", now, lies(t, h))
		}
		if _, stderr, exit := h.Ctl("reload"); exit != 0 {
			t.Errorf("reload: %d, %s", exit, stderr)
		}
		if now := get(t, h, "u1000-count"); now.Programs[0].ID != ids {
			t.Errorf("%+v", now)
		}
	})
	t.Run("a restart keeps it", func(t *testing.T) {
		h.Stop()
		h.Start()
		h.Kill()
		// What a crash leaves there goes.
		for _, name := range []string{".new-7/x", "u1000-gone/u1000-gone.toml"} {
			if err := os.Mkdir(filepath.Join(h.Bundles(), filepath.Dir(name)), 0o700); err != nil {
				t.Fatal(err)
			}
			h.Write("bundles/"+name, []byte("x"))
		}
		h.Start()
		if now := get(t, h, "u1000-count"); now.Programs[0].ID != ids || lies(t, h) != "u1000-count" {
			t.Errorf("%+v, %q", now, lies(t, h))
		}
	})
	t.Run("curl, another version", func(t *testing.T) {
		next := bundle(t, h, "next", strings.Replace(connCount(cgroup), "start", "description = \"next\"\nstart", 1), object)
		a := curl(t, h, 1000, "POST", "/v1/run?name=count", "-F", "manifest=@"+next+"/count.toml", "-F", "object=@"+next+"/conn_count.bpf.o", "-F", "signature=@"+next+"/conn_count.bpf.o.p7s")
		if a.status != 200 || !strings.Contains(a.body, `"description":"next"`) {
			t.Errorf("%+v", a)
		}
		if now := get(t, h, "u1000-count"); now.Programs[0].ID == ids || now.Description != "next" || lies(t, h) != "u1000-count" {
			t.Errorf("%+v, %q", now, lies(t, h))
		}
		if b, err := os.ReadFile(filepath.Join(h.Bundles(), "u1000-count/u1000-count.toml")); err != nil || !strings.Contains(string(b), "next") {
			t.Errorf("%s, %v", b, err)
		}
	})
	t.Run("unloaded", func(t *testing.T) {
		if _, stderr, exit := h.CtlAs(1000, "unload", "u1000-count"); exit != 0 || lies(t, h) != "" {
			t.Errorf("%d, %s, %q", exit, stderr, lies(t, h))
		}
		for _, uid := range []uint32{0, 1000} {
			if _, stderr, exit := h.CtlAs(uid, "show", "u1000-count"); exit != api.ExitFailure || !strings.Contains(stderr, "does not run") {
				t.Errorf("uid %d, show: %d, %s", uid, exit, stderr)
			}
			if _, stderr, exit := h.CtlAs(uid, "unload", "u1000-count"); exit != 0 {
				t.Errorf("uid %d, once more: %d, %s", uid, exit, stderr)
			}
		}
		if stdout, stderr, exit := h.CtlAs(1000, "events"); exit != 0 || !strings.Contains(stdout, "unloaded") || strings.Contains(stdout, "1001") {
			t.Errorf("events: %d\n%s%s", exit, stdout, stderr)
		}
	})
	t.Run("a manifest of this host with such a name", func(t *testing.T) {
		h.Object("conn_count.bpf.o", object)
		h.Manifest("u1000-count", connCount(cgroup))
		if _, stderr, exit := h.Ctl("reload"); exit == 0 || !strings.Contains(stderr, "bring themselves") {
			t.Errorf("%d, %s", exit, stderr)
		}
	})
}

// TestRunStaysTheirs: a user's collection is made anew as theirs, where its
// directory was removed, and where it is loaded in place of one in quarantine.
func TestRunStaysTheirs(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, mayRun)
	dir := bundle(t, h, "mine", connCount(testenv.Cgroup(t)), example(t, "conn-count/conn_count.bpf.o"))
	h.Start()
	if _, stderr, exit := h.CtlAs(1000, "run", dir); exit != 0 {
		t.Fatalf("run: %d, %s", exit, stderr)
	}
	theirs := func(when string, was api.Collection) api.Collection {
		t.Helper()
		c := get(t, h, "u1000-count")
		if c.State != api.StateRunning || c.LoadedBy == nil || c.LoadedBy.UID != 1000 || c.LoadedBy.GID != was.LoadedBy.GID || c.Programs[0].ID == was.Programs[0].ID {
			t.Errorf("%s: %s %q, program %d, was %d, of %+v", when, c.State, c.Reason, c.Programs[0].ID, was.Programs[0].ID, c.LoadedBy)
		}
		return c
	}
	was := get(t, h, "u1000-count")
	h.Stopped(func() { must(t, os.RemoveAll(filepath.Join(h.BPFFS, "u1000-count"))) })
	eventually(t, "made anew", func() bool { return onBPFFS(t, h)["u1000-count"] && len(kernelLinks(t, get(t, h, "u1000-count"))) == 2 })
	was = theirs("made anew", was)

	held, _ := quarantined(t, h, "u1000-count")
	ctl(t, h, "recover", held)
	theirs("recovered", was)
}
