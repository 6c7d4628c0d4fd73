package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// newRunners is newShown where two users may run what is attached to what they show,
// and a third only what is attached elsewhere.
func newRunners(t *testing.T, libc string) *testdaemon.Host {
	t.Helper()
	rules := ""
	for uid, target := range map[int]string{owner: "caller", neighbour: "caller", member: "cgroup:/sys/fs/cgroup/**"} {
		rules += fmt.Sprintf("[[rule]]\nuser = \"%d\"\nmay = [\"run\"]\nsigners = [\"dev\"]\ntargets = [%q]\nunsigned_manifests = true\nlimits = { collections = 9 }\n"+
			"attach = [\"xdp\", \"tcx/*\", \"sk_lookup\", \"netfilter\", \"cgroup/*\", \"cgroup_skb/*\", \"tracepoint/*/*\", \"uprobe\", \"uprobe.multi\", \"uprobe/%s:*\", \"uprobe.multi/%[3]s:*\"]\n", uid, target, libc)
	}
	return newShownWith(t, libc, rules)
}

// shownBundle is one of shownKinds as a caller's own.
func shownBundle(t *testing.T, h *testdaemon.Host, libc, kind string) api.Bundle {
	t.Helper()
	for _, k := range shownKinds {
		if k.name != kind {
			continue
		}
		text := ownShownBy(k.program, strings.ReplaceAll(k.keys, "LIBRARY", libc))
		object := "caller.bpf.o"
		for _, own := range []string{"calls.bpf.o", "filter.bpf.o"} {
			if strings.Contains(text, own) {
				object = own
			}
		}
		b := api.Bundle{Manifest: []byte(text), Object: read(t, filepath.Join(h.Manifests, object))}
		b.Signature = h.Sign(b.Object)
		return b
	}
	t.Fatalf("no kind %q", kind)
	return api.Bundle{}
}

// runShown is loadShown of a bundle.
func runShown(t *testing.T, client *api.Client, name string, b api.Bundle, file *os.File) (api.Collection, error) {
	t.Helper()
	c, err := client.RunTargets(t.Context(), name, b, file)
	if name != "filter" {
		return c, err
	}
	if err == nil {
		t.Errorf("%s runs without a lease", name)
	}
	lease, err := client.RunLease(t.Context(), name, b, file)
	if err != nil {
		return api.Collection{}, err
	}
	t.Cleanup(func() { lease.Close() })
	return lease.Grant().Collection, nil
}

// TestTargetRun: a bundle of the caller's own attaches to what they show as a load
// does: to their own, and only where a rule says so.
func TestTargetRun(t *testing.T) {
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	h := newRunners(t, libc)
	parent := testenv.Cgroup(t)
	owned := map[int]shownThings{}
	for _, uid := range []int{0, owner, neighbour} {
		owned[uid] = things(t, parent, uint32(uid))
	}
	owned[member] = things(t, parent, member)
	anotherKind := map[string]string{"netns": "cgroup", "cgroup": "process", "process": "netns"}
	root := h.Client()
	defer root.Close()
	runs := 0
	for _, uid := range []int{0, owner, member, stranger} {
		client := clientOf(t, h, uid)
		for _, k := range shownHere(t) {
			if k.wants == "" {
				continue
			}
			for _, target := range []string{"own", "other's", "root's", "gone", "of another kind", "nothing"} {
				what := fmt.Sprintf("%d runs %s at %s", uid, k.name, target)
				of, state := uid, target
				switch {
				case target == "root's":
					of, state = 0, "own"
				case target == "other's":
					of, state = neighbour, "own"
				case uid == stranger:
					of = owner
				}
				kind := k.wants
				if target == "of another kind" {
					kind, state = anotherKind[kind], "own"
				}
				file := owned[of][kind+" "+state]
				b := shownBundle(t, h, libc, k.name)
				var c api.Collection
				var err error
				if target == "nothing" {
					c, err = client.Run(t.Context(), k.name, b)
				} else {
					c, err = runShown(t, client, k.name, b, file)
				}
				want := (uid == 0 || uid == owner) && (target == "own" || target == "gone" && kind == "netns" || uid == 0 && (target == "other's" || target == "root's"))
				links := shownLinks(t)
				if (err == nil) != want {
					t.Errorf("%s: %v, want %t", what, err, want)
				}
				if err != nil {
					var e *api.Error
					if !errors.As(err, &e) || e.Hint == "" || e.Kind == api.KindInternal || len(links) != 0 || lies(t, h) != "" {
						t.Errorf("%s: %#v, %d links, %q", what, err, len(links), lies(t, h))
					}
					continue
				}
				runs++
				if name := fmt.Sprintf("u%d-%s", uid, k.name); c.Name != name || len(links) != 1 || len(c.Links) != 1 || uint32(links[0].ID) != c.Links[0].ID {
					t.Errorf("%s: %d links, told %+v", what, len(links), c)
				} else {
					checkShown(t, what, links[0], k.name, file)
				}
				if _, err := client.Unload(t.Context(), c.Name, api.UnloadRequest{}); err != nil {
					t.Fatalf("%s: unload: %v", what, err)
				}
				noLinks(t, what)
			}
		}
		client.Close()
	}
	t.Logf("%d run", runs)
}

// TestTargetRunLives: what was shown for a bundle stays its target over a new version
// and a restart, and it ends with it.
func TestTargetRunLives(t *testing.T) {
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	h := newRunners(t, libc)
	parent := testenv.Cgroup(t)
	dir := cgroupOf(t, parent, "own", owner)
	src := filepath.Join(h.Dir, "mine")
	b := shownBundle(t, h, libc, "connect")
	must(t, os.Mkdir(src, 0o755))
	for name, content := range map[string][]byte{"mine/count.toml": b.Manifest, "mine/caller.bpf.o": b.Object, "mine/caller.bpf.o.p7s": b.Signature} {
		h.Write(name, content)
	}
	if _, stderr, exit := h.CtlAs(owner, "run", src, "--target-cgroup", cgroupOf(t, parent, "other", neighbour)); exit != api.ExitDenied {
		t.Errorf("another's: %d, %s", exit, stderr)
	}
	if _, stderr, exit := h.CtlAs(owner, "run", src); exit != api.ExitUsage || !strings.Contains(stderr, "hornetctl run DIR --target-cgroup") {
		t.Errorf("nothing is shown: %d, %s", exit, stderr)
	}
	stdout, stderr, exit := h.CtlAs(owner, "run", src, "--target-cgroup", dir)
	if exit != 0 || !strings.Contains(stdout, "u4301-count: running: ") {
		t.Fatalf("run: %d\n%s%s", exit, stdout, stderr)
	}
	c := get(t, h, "u4301-count")
	stays(t, h, c)
	if _, stderr, exit := h.CtlAs(owner, "run", src, "--target-cgroup", dir); exit == 0 || !strings.Contains(stderr, "hornetctl unload u4301-count first") {
		t.Errorf("shown again: %d, %s", exit, stderr)
	}
	if _, stderr, exit := h.CtlAs(owner, "run", src); exit != 0 {
		t.Errorf("the same again: %d, %s", exit, stderr)
	}
	stays(t, h, c)
	h.Write("mine/count.toml", append([]byte("description = \"next\"\n"), b.Manifest...))
	if _, stderr, exit := h.CtlAs(owner, "run", src); exit != 0 {
		t.Errorf("another version: %d, %s", exit, stderr)
	}
	next := get(t, h, "u4301-count")
	if next.Description != "next" || next.Links[0].Target != "cgroup "+dir || next.Links[0].ID != c.Links[0].ID {
		t.Errorf("another version: %+v", next)
	}
	h.Kill()
	h.Start()
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	stays(t, h, next)
	must(t, os.Remove(dir))
	eventually(t, "it ends", func() bool { return lies(t, h) == "" })
	noLinks(t, "ended")
}

// TestTargetRunNotAsAgreed: the form is the request; the descriptors wait for the 101.
func TestTargetRunNotAsAgreed(t *testing.T) {
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	h := newRunners(t, libc)
	own := int(opened(t, cgroupOf(t, testenv.Cgroup(t), "own", owner)).Fd())
	request := func(query string, b api.Bundle) string {
		var form bytes.Buffer
		for name, part := range map[string][]byte{"manifest": b.Manifest, "object": b.Object, "signature": b.Signature} {
			fmt.Fprintf(&form, "--B\r\nContent-Disposition: form-data; name=%q; filename=\"x\"\r\n\r\n%s\r\n", name, part)
		}
		form.WriteString("--B--\r\n")
		return fmt.Sprintf("POST /v1/run?name=mine%s HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\nUpgrade: hornet-target\r\n"+
			"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: %d\r\n\r\n", query, form.Len()) + form.String()
	}
	good := shownBundle(t, h, libc, "connect")
	root := h.Client()
	root.List(t.Context())
	before := openFDs(t, h.PID())

	switched := func() *net.UnixConn {
		t.Helper()
		conn := dialAs(t, owner, h.Socket).(*net.UnixConn)
		conn.SetDeadline(time.Now().Add(15 * time.Second))
		if _, err := io.WriteString(conn, request("", good)); err != nil {
			t.Fatal(err)
		}
		const want = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hornet-target\r\n\r\n"
		b := make([]byte, len(want))
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != want {
			t.Fatalf("%q, %v", b, err)
		}
		return conn
	}
	// As agreed, by a plain socket.
	conn := switched()
	if _, _, err := conn.WriteMsgUnix([]byte("\n"), unix.UnixRights(own), nil); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(all), `{"collection":{"name":"u4301-mine"`) || !bytes.HasSuffix(all, []byte("}\n")) {
		t.Errorf("%q, %v", all, err)
	}
	conn.Close()
	unload(t, h, "u4301-mine")

	// Nothing else, and too much.
	for name, sent := range map[string]struct {
		text string
		fds  []int
	}{"no descriptor": {"\n", nil}, "two of a kind": {"\n", []int{own, own}}, "more bytes": {"\n\n", []int{own}}} {
		conn := switched()
		if _, _, err := conn.WriteMsgUnix([]byte(sent.text), unix.UnixRights(sent.fds...), nil); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(conn); err != nil && !errors.Is(err, unix.ECONNRESET) || !strings.Contains(string(all), `"kind":"protocol"`) {
			t.Errorf("%s: %q, %v", name, all, err)
		}
		conn.Close()
	}
	elsewhere := good
	elsewhere.Manifest = bytes.Replace(good.Manifest, []byte(ofCaller), []byte("cgroup = \"/sys/fs/cgroup\"\n"), 1)
	for name, test := range map[string]struct {
		text   string
		fds    []int
		status int
		kind   api.Kind
	}{
		"a descriptor before the 101": {request("", good), []int{own}, http.StatusBadRequest, api.KindProtocol},
		"a byte before the 101":       {request("", good) + "\n", nil, http.StatusBadRequest, api.KindProtocol},
		"a lease":                     {request("&lease=true", good), nil, http.StatusBadRequest, api.KindBadRequest},
		"a lease, by the header too":  {strings.Replace(request("&lease=true", good), "hornet-target", "hornet-target, hornet-lease", 1), nil, http.StatusBadRequest, api.KindBadRequest},
		"nothing of the caller's":     {request("", elsewhere), nil, http.StatusBadRequest, api.KindBadRequest},
		"no manifest":                 {request("", api.Bundle{Manifest: []byte("x"), Object: []byte("x"), Signature: []byte("x")}), nil, api.KindManifest.Status(), api.KindManifest},
	} {
		if got := ask(t, dialAs(t, owner, h.Socket), test.text, test.fds...); got.status != test.status || got.kind != test.kind {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := ask(t, dialAs(t, stranger, h.Socket), request("", good)); got.kind != api.KindDenied {
		t.Errorf("without a rule: %+v", got)
	}

	// A peer dies at each step, but not at each byte of the object.
	whole := request("", good)
	for i := 0; i < len(whole); i += 1 + i/8 {
		conn := dialAs(t, owner, h.Socket)
		io.WriteString(conn, whole[:i])
		conn.Close()
	}
	switched().Close()
	if links := shownLinks(t); len(links) != 0 || lies(t, h) != "" {
		t.Errorf("%d links, %q", len(links), lies(t, h))
	}
	root.Close()
	if after := settledFDs(t, h.PID(), before); after > before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
}

// TestTargetInPython: docs/api.md shows how a plain socket does it.
func TestTargetInPython(t *testing.T) {
	testenv.NoLeaks(t)
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		t.Skip("needs Python")
	}
	h := newShown(t, copyOfLibc(t))
	dir := cgroupOf(t, testenv.Cgroup(t), "own", owner)
	_, program, _ := strings.Cut(string(read(t, "../../docs/api.md")), "```python\n")
	program, _, _ = strings.Cut(program, "```")
	program = strings.NewReplacer("/run/hornet/hornetd.sock", h.Socket, "/sys/fs/cgroup/user.slice/mine", dir, "collections/mine/", "collections/connect/").Replace(program)
	stdout, stderr, exit := h.RunAs(owner, python, "-c", program)
	if exit != 0 || !strings.HasPrefix(stdout, `{"collection":{"name":"connect"`) || len(shownLinks(t)) != 1 {
		t.Errorf("%d: %s%s", exit, stdout, stderr)
	}
	unload(t, h, "connect")
	if _, stderr, exit := h.RunAs(stranger, python, "-c", program); exit == 0 || !strings.Contains(stderr, "403 Forbidden") {
		t.Errorf("one who may not: %d: %s", exit, stderr)
	}
}
