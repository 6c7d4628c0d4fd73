package main_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// bothEnds is a manifest that attaches to both ends of the pair, and the two
// [[attach]] alone.
func bothEnds(pair testenv.Pair) (text, a, b string) {
	text = xdpDrop(pair)
	_, b, _ = strings.Cut(text, "[[attach]]")
	b = "[[attach]]" + b
	a = strings.NewReplacer(pair.B.Name, pair.A.Name, pair.B.Netns, pair.A.Netns).Replace(b)
	return text + a, a, b
}

// dropIn writes a drop-in of xdp-drop and returns its path.
func dropIn(t testing.TB, h *testdaemon.Host, file, text string) string {
	t.Helper()
	dir := filepath.Join(h.Manifests, "xdp-drop.toml.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return h.Write("hornet.d/xdp-drop.toml.d/"+file, []byte(text))
}

// TestDropInNarrows: without a signature a drop-in takes from a signed manifest,
// and gives nothing. What is attached is the kernel's word.
func TestDropInNarrows(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	key, cert := h.Key()
	text, a, b := bothEnds(pair)
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	m := h.Manifest("xdp-drop", text)
	ctl(t, h, "sign", "--key", key, "--cert", cert, m)
	h.Start()
	c := load(t, h, "xdp-drop")
	if got := kernelLinks(t, c); len(got) != 2 {
		t.Fatalf("kernel: links %v, want two", got)
	}

	narrow := dropIn(t, h, "10-less.toml", b)
	if out := ctl(t, h, "plan"); !strings.Contains(out, "replace") {
		t.Errorf("plan:\n%s", out)
	}
	plan, err := reload(t, h)
	if err != nil || action(plan, "xdp-drop") != api.ActionReplace {
		t.Fatalf("reload: %+v, %v", plan, err)
	}
	with := get(t, h, "xdp-drop")
	if got := kernelLinks(t, with); len(got) != 1 || !strings.Contains(with.Links[0].Target, pair.B.Name) {
		t.Errorf("kernel: links %v, %+v, want one at %s", got, with.Links, pair.B.Name)
	}
	if got := pair.Ping(t, 1); got != 0 {
		t.Errorf("%d of 1 pings came back", got)
	}
	if with.Signature.Covers != "object+manifest" || with.Manifest.SHA256 == c.Manifest.SHA256 || len(with.DropIns) != 1 ||
		with.DropIns[0] != (api.DropIn{File: narrow, SHA256: sha256sum(t, narrow)}) {
		t.Errorf("%+v, manifest %s, drop-ins %+v", with.Signature, with.Manifest.SHA256, with.DropIns)
	}
	for _, args := range [][]string{{"show", "xdp-drop"}, {"verify-file", "--trust", h.Trust, m}} {
		if out := ctl(t, h, args...); !strings.Contains(out, narrow+", not signed") || !strings.Contains(out, "verified") {
			t.Errorf("%v:\n%s", args, out)
		}
	}
	if out := ctl(t, h, "cat", "--config", h.Config, "xdp-drop"); !strings.HasPrefix(out, "# "+m+"\n") || !strings.HasSuffix(out, "\n\n# "+narrow+"\n"+b) {
		t.Errorf("cat:\n%s", out)
	}
	if lines := loads(t, h); !strings.Contains(lines[len(lines)-1], `"manifest":"`+sha256sum(t, m)+`","drop_ins":"`+with.Manifest.SHA256+`"`) {
		t.Errorf("recorded: %s", lines[len(lines)-1])
	}

	// It runs on over a start as what it is, and nothing is changed again.
	h.Stop()
	h.Start()
	if plan, err := reload(t, h); err != nil || action(plan, "xdp-drop") != api.ActionKeep {
		t.Errorf("reload: %+v, %v", plan, err)
	}

	// What asks for more does not count, and changes nothing.
	for _, more := range []struct{ text, key string }{
		{b + strings.Replace(a, "generic", "auto", 1), "10-more.toml:6: attach[1]: is not in the manifest"},
		{"[[allow]]\nuser = \"1\"\nmay = [\"unload\"]\n", "10-more.toml:1: allow[0]: is not in the manifest"},
		{"version = 2\n", "10-more.toml:1: version: is 2, and the manifest's is 1"},
		{"[maps.blocked]\nentries = []\n", "10-more.toml:2: maps.blocked.entries: is another one"},
		{"description = \"another\"\n", "10-more.toml:1: description: is another one"},
	} {
		wide := dropIn(t, h, "10-more.toml", more.text)
		_, err := reload(t, h)
		if err == nil || !strings.Contains(err.Error(), more.key) {
			t.Errorf("reload: %v\nwant %s", err, more.key)
		}
		for _, args := range [][]string{{"check", "--trust", h.Trust, m}, {"verify-file", "--trust", h.Trust, m}} {
			if out, stderr, exit := h.Ctl(args...); exit == 0 || !strings.Contains(out+stderr, more.key) {
				t.Errorf("%v: exit status %d: %s%s", args, exit, out, stderr)
			}
		}
		if got := kernelLinks(t, get(t, h, "xdp-drop")); len(got) != 1 {
			t.Errorf("kernel: links %v", got)
		}
		if err := os.Remove(wide); err != nil {
			t.Fatal(err)
		}
	}

	// Gone, it is as it was.
	if err := os.Remove(narrow); err != nil {
		t.Fatal(err)
	}
	if plan, err := reload(t, h); err != nil || action(plan, "xdp-drop") != api.ActionReplace {
		t.Errorf("reload: %+v, %v", plan, err)
	}
	again := get(t, h, "xdp-drop")
	if got := kernelLinks(t, again); len(got) != 2 || again.Manifest.SHA256 != c.Manifest.SHA256 || len(again.DropIns) != 0 {
		t.Errorf("kernel: links %v, %+v", got, again.DropIns)
	}
	if _, err := h.Client().Unload(context.Background(), "xdp-drop", api.UnloadRequest{}); err != nil {
		t.Error(err)
	}
}

// TestDropInSigned: with a good signature a drop-in adds; with one that was
// revoked, is another's or is for something else, it does not.
func TestDropInSigned(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Write("hornetd.toml", fmt.Appendf(read(t, h.Config), "%s", rooted))
	ops, other := signer(t, h, "ops"), signer(t, h, "other")
	key, cert := h.Key()
	text, a, b := bothEnds(pair)
	one := strings.Replace(strings.Replace(text, a, "", 1), `["dev"]`, `["dev", "ops"]`, 1)
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	m := h.Manifest("xdp-drop", one)
	ctl(t, h, "sign", "--key", key, "--cert", cert, m)
	d := dropIn(t, h, "20.toml", b+a)
	h.Start()
	refused(t, h, "xdp-drop", d+": unsigned: "+d+":6: attach[1]: is not in the manifest")

	signedBy(t, h, other, d)
	refused(t, h, "xdp-drop", d+`: unknown-key: `+d+`.p7s names the key of "other", the manifest allows "dev", "ops"`)
	remove(t, d+".p7s")
	signedBy(t, h, ops, d)
	if got := string(read(t, d)); !strings.HasPrefix(got, "version = 1\nname = \"xdp-drop\"\n[[attach]]") {
		t.Errorf("sign made of it:\n%s", got)
	}
	c := load(t, h, "xdp-drop")
	if got := kernelLinks(t, c); len(got) != 2 || c.Signature.Covers != "object+manifest" || c.Signature.Signer.Name != "dev" || c.DropIns[0].Signer != "ops" {
		t.Errorf("kernel: links %v, %+v, %+v", got, c.Signature, c.DropIns)
	}
	if out := ctl(t, h, "verify-file", "--trust", h.Trust, m); !strings.Contains(out, d+", signed by ops") {
		t.Errorf("verify-file:\n%s", out)
	}

	// What ops may not have, ops gives to nobody.
	config := read(t, h.Config)
	h.Stop()
	h.Write("hornetd.toml", append(slices.Clone(config), "[signers.ops]\nattach = [\"tcx/*\"]\n"...))
	h.Start()
	unload(t, h, "xdp-drop")
	if _, err := h.Client().Load(context.Background(), "xdp-drop"); err == nil || !strings.Contains(err.Error(), `signer "ops" may not have program "xdp_drop" of section "xdp"`) {
		t.Errorf("load: %v", err)
	}
	h.Stop()
	h.Write("hornetd.toml", config)
	h.Start()

	// Moved beside another version it is good for nothing.
	signed := read(t, d)
	h.Write("hornet.d/xdp-drop.toml", []byte(strings.Replace(string(read(t, m)), "version = 1", "version = 2", 1)))
	ctl(t, h, "sign", "--key", key, "--cert", cert, m)
	if _, err := h.Client().Load(context.Background(), "xdp-drop"); err == nil || !strings.Contains(err.Error(), d+":1: version: is 1, and the manifest's is 2") {
		t.Errorf("load: %v", err)
	}
	h.Write("hornet.d/xdp-drop.toml.d/20.toml", []byte(strings.TrimPrefix(string(signed), "version = 1\n")))
	refused(t, h, "xdp-drop", d+": bad-signature")
	remove(t, d+".p7s")
	signedBy(t, h, ops, d)
	if got := string(read(t, d)); !strings.HasPrefix(got, "version = 2\n") {
		t.Errorf("sign made of it:\n%s", got)
	}
	if got := kernelLinks(t, load(t, h, "xdp-drop")); len(got) != 2 {
		t.Errorf("kernel: links %v", got)
	}

	h.Revoke(revokedKey(1, ops.keyID(t)))
	if _, err := reload(t, h); err == nil { // what runs would not load again
		t.Log("reload: no error")
	}
	if out := ctl(t, h, "status"); !strings.Contains(out, "stolen laptop") {
		t.Errorf("status:\n%s", out)
	}
	unload(t, h, "xdp-drop")
	refused(t, h, "xdp-drop", d+`: revoked: `+d+`.p7s is by "ops"`)
}

// TestDropInBadInput: drop-ins without a manifest are named, and keep nothing
// from loading; what cannot be read keeps its manifest from it.
func TestDropInBadInput(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", xdpDrop(pair))
	stray := filepath.Join(h.Manifests, "gone.toml.d")
	if err := os.Mkdir(stray, 0o755); err != nil {
		t.Fatal(err)
	}
	h.Start()
	load(t, h, "xdp-drop")
	says := stray + `: there is no manifest of "gone": these drop-ins do nothing`
	if _, err := reload(t, h); err != nil {
		t.Errorf("reload: %v", err)
	}
	_, stderr, _ := h.RunAs(0, testdaemon.Binary(t, "hornetd"), "--check", "--config", h.Config)
	if out := ctl(t, h, "status"); !strings.Contains(out, says) || strings.Count(h.Log(), "these drop-ins do nothing") != 1 || !strings.Contains(stderr, says) {
		t.Errorf("status:\n%s\n--check:\n%s\nlog:\n%s", out, stderr, h.Log())
	}
	unload(t, h, "xdp-drop")
	dir := filepath.Join(h.Manifests, "xdp-drop.toml.d")
	for _, bad := range []struct {
		name, says string
		make       func() error
	}{
		{"unknown key", dir + "/1.toml:1: atach: unknown key", func() error { dropIn(t, h, "1.toml", "atach = []"); return nil }},
		{"hostile TOML", dir + "/1.toml:1: a" + strings.Repeat("[0]", 15) + ": is nested more than 16 deep", func() error { dropIn(t, h, "1.toml", "a = "+strings.Repeat("[", 20_000)); return nil }},
		{"too large", dir + "/1.toml: has 65537 bytes", func() error { dropIn(t, h, "1.toml", strings.Repeat("#", 65537)); return nil }},
		{"too large together", dir + "/2.toml: with the drop-ins before it has 70000 bytes", func() error {
			dropIn(t, h, "1.toml", strings.Repeat("#", 35_000))
			dropIn(t, h, "2.toml", strings.Repeat("#", 35_000))
			return nil
		}},
		{"writable by others", dir + "/1.toml: can be written by others", func() error { return os.Chmod(dropIn(t, h, "1.toml", "attach = []"), 0o666) }},
		{"symbolic link", dir + "/1.toml: is a symbolic link", func() error { return os.Symlink(dropIn(t, h, "x", "attach = []"), dir+"/1.toml") }},
		{"another's directory", dir + ": drop-ins: belongs to uid 1234", func() error { return os.Chown(filepath.Dir(dropIn(t, h, "1.toml", "attach = []")), 1234, 0) }},
		{"a link for a directory", dir + ": drop-ins: is a symbolic link", func() error { return os.Symlink(stray, dir) }},
	} {
		t.Run(bad.name, func(t *testing.T) {
			if err := bad.make(); err != nil {
				t.Fatal(err)
			}
			_, err := h.Client().Load(context.Background(), "xdp-drop")
			if e, ok := err.(*api.Error); !ok || !strings.HasPrefix(e.Message, bad.says) || e.Hint == "" {
				t.Errorf("load: %v, want %s", err, bad.says)
			}
			if _, err := reload(t, h); err == nil || !strings.Contains(err.Error(), bad.says) {
				t.Errorf("reload: %v", err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		})
	}
	load(t, h, "xdp-drop")
	unload(t, h, "xdp-drop")
}

// signedBy signs a file with hornetctl.
func signedBy(t testing.TB, h *testdaemon.Host, s second, file string) {
	t.Helper()
	key := h.Write("second.key", s.key)
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	ctl(t, h, "sign", "--key", key, "--cert", h.Write("second.pem", s.cert), file)
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
