package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// stranger is a user who may nothing. Not 65534: that one is special.
const stranger = 1234

// badManifest is the manifest of the collection "bad", in which nothing is
// wrong yet. The tests name its lines.
const badManifest = `version = 0
start = "request"
[object]
path = "bad.bpf.o"
signers = ["dev"]
[variables]
dry_run = true
[maps.blocked]
class = "frozen"
entries = [
  { key = "192.0.2.0/24", value = 1 },
]
[maps.hits]
class = "mutable"
[[attach]]
program = "xdp_drop"
interface = "veth0"
netns = "NETNS"
`

// place is where bad things are put: a host with a neighbour that must not
// notice.
type place struct {
	*testdaemon.Host
	manifest  string // text of bad.toml
	object    []byte
	neighbour api.Collection
}

// newPlace starts a host on which "good" runs, on a cgroup.
func newPlace(t *testing.T) *place {
	t.Helper()
	cgroup, netns := testenv.Cgroup(t), testenv.Veth(t).B.Netns
	p := &place{
		Host:     testdaemon.New(t, ""),
		manifest: strings.Replace(badManifest, "NETNS", netns, 1),
		object:   example(t, "xdp-drop/xdp_drop.bpf.o"),
	}
	p.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	p.Manifest("good", connCount(cgroup))
	p.Start()
	p.neighbour = load(t, p.Host, "good")
	return p
}

func connCount(cgroup string) string {
	return fmt.Sprintf(`
start = "request"
[object]
path = "conn_count.bpf.o"
[maps.connects]
class = "mutable"
[[attach]]
program = "connect4"
cgroup = %[1]q
[[attach]]
program = "connect6"
cgroup = %[1]q
`, cgroup)
}

// file is a path in the manifest directory.
func (p *place) file(name string) string { return filepath.Join(p.Manifests, name) }

// put lays out the collection "bad" so that it loads.
func (p *place) put() {
	p.Object("bad.bpf.o", p.object)
	p.Manifest("bad", p.manifest)
}

// clear takes away whatever a case left.
func (p *place) clear(t *testing.T) {
	t.Helper()
	paths, err := filepath.Glob(p.file("*[bB]ad*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// wrong is one thing that is wrong with the collection "bad".
type wrong struct {
	name string
	with func(p *place) error // makes it so
	kind api.Kind             // what the API says, and with it the exit status
	exit int
	line int      // of bad.toml; 0 where it is not about a line of it
	says []string // in the message
}

// text changes the manifest's text.
func text(old, new string) func(*place) error {
	return func(p *place) error {
		if strings.Count(p.manifest, old) != 1 {
			return fmt.Errorf("%q does not stand in the manifest once", old)
		}
		return os.WriteFile(p.file("bad.toml"), []byte(strings.Replace(p.manifest, old, new, 1)), 0o644)
	}
}

// replaced puts something else in the place of a file.
func replaced(name string, with func(path string) error) func(*place) error {
	return func(p *place) error {
		if err := os.Remove(p.file(name)); err != nil {
			return err
		}
		return with(p.file(name))
	}
}

// changed overwrites a file with what f makes of its contents.
func changed(name string, f func([]byte) []byte) func(*place) error {
	return func(p *place) error {
		b, err := os.ReadFile(p.file(name))
		if err != nil {
			return err
		}
		return os.WriteFile(p.file(name), f(b), 0o644)
	}
}

// signed makes the object something else, with a good signature over that.
func signed(f func([]byte) []byte) func(*place) error {
	return func(p *place) error {
		p.Object("bad.bpf.o", f(slices.Clone(p.object)))
		return nil
	}
}

func gone(string) error         { return nil }
func fifo(path string) error    { return unix.Mkfifo(path, 0o644) }
func subdir(path string) error  { return os.Mkdir(path, 0o755) }
func emptied([]byte) []byte     { return nil }
func halved(b []byte) []byte    { return b[:len(b)/2] }
func foreign(path string) error { return os.Lchown(path, stranger, stranger) }
func tampered(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

// sparse makes a file of 1 TiB that takes no room.
func sparse(path string) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	return os.Truncate(path, 1<<40)
}

// linked moves a file away and leaves a symbolic link to it.
func linked(name string) func(*place) error {
	return func(p *place) error {
		if err := os.Rename(p.file(name), p.file("elsewhere-bad")); err != nil {
			return err
		}
		return os.Symlink("elsewhere-bad", p.file(name))
	}
}

// strangersSignature signs with a key that nobody trusts.
func strangersSignature(p *place) error {
	keyPEM, certPEM, err := signing.Keygen("stranger", "ecdsa")
	if err != nil {
		return err
	}
	key, err := signing.ParseKey(keyPEM)
	if err != nil {
		return err
	}
	cert, err := signing.ParseCertificate(certPEM)
	if err != nil {
		return err
	}
	sig, err := signing.Sign(p.object, key, cert)
	if err != nil {
		return err
	}
	return os.WriteFile(p.file("bad.bpf.o.p7s"), sig, 0o644)
}

var wrongs = []wrong{
	// The manifest's text.
	{"unknown key", text("signers =", "singers ="), api.KindManifest, 1, 5, []string{"object.singers"}},
	{"unknown key of another case", text("path =", "Path ="), api.KindManifest, 1, 4, []string{"Path"}},
	{"wrong type", text("version = 0", `version = "one"`), api.KindManifest, 1, 1, []string{"version"}},
	{"no TOML", text("[variables]", "[variables"), api.KindManifest, 1, 6, nil},
	{"unknown variable", text("dry_run", "dry_rum"), api.KindManifest, 1, 7, []string{"dry_rum"}},
	{"variable of another type", text("dry_run = true", `dry_run = "yes"`), api.KindManifest, 1, 7, []string{"dry_run"}},
	{"map that is not declared", text("[maps.hits]\nclass = \"mutable\"\n", ""), api.KindManifest, 1, 0, []string{"hits"}},
	{"map that is not there", text("[maps.hits]", "[maps.hots]"), api.KindManifest, 1, 13, []string{"hots"}},
	{"entry of the wrong shape", text(`value = 1 }`, `value = { a = 1 } }`), api.KindManifest, 1, 11, []string{"maps.blocked.entries[0]"}},
	{"entry out of range", text(`value = 1 }`, `value = 4294967296 }`), api.KindManifest, 1, 11, []string{"maps.blocked.entries[0]"}},
	{"key of the wrong shape", text(`"192.0.2.0/24"`, `"2001:db8::/32"`), api.KindManifest, 1, 11, []string{"maps.blocked.entries[0]"}},
	{"program that is not there", text(`program = "xdp_drop"`, `program = "xdp_dorp"`), api.KindManifest, 1, 16, []string{"xdp_dorp"}},
	{"interface that does not exist", text(`interface = "veth0"`, `interface = "veth9"`), api.KindManifest, 1, 17, []string{"attach[0].interface", "veth9"}},
	{"attach key of another kind", text(`interface = "veth0"`, "interface = \"veth0\"\ncgroup = \"/x\""), api.KindManifest, 1, 18, []string{"attach[0].cgroup"}},
	{"limit exceeded", text("[variables]", "[limits]\nmemory = \"1KiB\"\n[variables]"), api.KindLimit, 1, 0, []string{"memory"}},
	// The manifest's file.
	{"manifest empty", changed("bad.toml", emptied), api.KindManifest, 1, 0, []string{"bad.toml", "empty"}},
	{"manifest is a directory", replaced("bad.toml", subdir), api.KindManifest, 1, 0, []string{"bad.toml", "directory"}},
	{"manifest is a FIFO", replaced("bad.toml", fifo), api.KindManifest, 1, 0, []string{"bad.toml", "FIFO"}},
	{"manifest is a symbolic link", linked("bad.toml"), api.KindManifest, 1, 0, []string{"bad.toml", "symbolic link"}},
	{"manifest of 1 TiB", replaced("bad.toml", sparse), api.KindManifest, 1, 0, []string{"bad.toml", "1099511627776"}},
	{"manifest belongs to somebody", func(p *place) error { return foreign(p.file("bad.toml")) }, api.KindManifest, 1, 0, []string{"bad.toml", "1234"}},
	{"manifest can be written by others", func(p *place) error { return os.Chmod(p.file("bad.toml"), 0o646) }, api.KindManifest, 1, 0, []string{"bad.toml", "0646"}},
	// The object.
	{"object missing", replaced("bad.bpf.o", gone), api.KindManifest, 1, 4, []string{"bad.bpf.o", "no such file"}},
	{"object empty", changed("bad.bpf.o", emptied), api.KindManifest, 1, 4, []string{"bad.bpf.o", "empty"}},
	{"object is a directory", replaced("bad.bpf.o", subdir), api.KindManifest, 1, 4, []string{"directory"}},
	{"object is a FIFO", replaced("bad.bpf.o", fifo), api.KindManifest, 1, 4, []string{"FIFO"}},
	{"object is a symbolic link", linked("bad.bpf.o"), api.KindManifest, 1, 4, []string{"symbolic link"}},
	{"object of 1 TiB", replaced("bad.bpf.o", sparse), api.KindManifest, 1, 4, []string{"1099511627776"}},
	{"object belongs to somebody", func(p *place) error { return foreign(p.file("bad.bpf.o")) }, api.KindManifest, 1, 4, []string{"1234"}},
	{"object truncated", changed("bad.bpf.o", halved), api.KindSignature, 4, 0, []string{"bad.bpf.o", "bad-signature"}},
	{"object tampered with", changed("bad.bpf.o", tampered), api.KindSignature, 4, 0, []string{"bad.bpf.o", "bad-signature"}},
	{"object is another than the manifest pins", text(`signers = ["dev"]`, `sha256 = "`+strings.Repeat("00", 32)+`"`), api.KindSignature, 4, 0, []string{"digest-mismatch"}},
	{"object truncated, then signed", signed(halved), api.KindObject, 1, 0, []string{"bad.bpf.o"}},
	{"object is no ELF file", signed(func([]byte) []byte { return []byte("#!/bin/sh\n") }), api.KindObject, 1, 0, []string{"bad.bpf.o", "ELF"}},
	{"object of the other byte order", signed(func(b []byte) []byte { b[5] = 3 - b[5]; return b }), api.KindObject, 1, 0, []string{"bad.bpf.o", "byte order"}},
	{"object larger than 8 MiB", changed("bad.bpf.o", func(b []byte) []byte { return append(b, make([]byte, 8<<20)...) }), api.KindManifest, 1, 4, []string{"8388608"}},
	{"object that the verifier rejects", rejected, api.KindKernel, 1, 0, []string{"overread", "invalid access to packet"}},
	// The signature.
	{"signature missing", replaced("bad.bpf.o.p7s", gone), api.KindSignature, 4, 0, []string{"bad.bpf.o", "unsigned"}},
	{"signature empty", changed("bad.bpf.o.p7s", emptied), api.KindSignature, 4, 0, []string{"bad.bpf.o.p7s", "empty"}},
	{"signature truncated", changed("bad.bpf.o.p7s", halved), api.KindSignature, 4, 0, []string{"bad-signature"}},
	{"signature tampered with", changed("bad.bpf.o.p7s", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), api.KindSignature, 4, 0, []string{"bad-signature"}},
	{"signature with something behind it", changed("bad.bpf.o.p7s", func(b []byte) []byte { return append(b, 0) }), api.KindSignature, 4, 0, []string{"bad-signature"}},
	{"signature of 1 TiB", replaced("bad.bpf.o.p7s", sparse), api.KindSignature, 4, 0, []string{"bad.bpf.o.p7s", "1099511627776"}},
	{"signature is a FIFO", replaced("bad.bpf.o.p7s", fifo), api.KindSignature, 4, 0, []string{"bad.bpf.o.p7s", "FIFO"}},
	{"signature belongs to somebody", func(p *place) error { return foreign(p.file("bad.bpf.o.p7s")) }, api.KindSignature, 4, 0, []string{"bad.bpf.o.p7s", "1234"}},
	{"signature of another object", func(p *place) error {
		return os.Rename(p.file("bad.bpf.o"), p.Write("hornet.d/bad.bpf.o", []byte("x")))
	}, api.KindSignature, 4, 0, nil},
	{"signature by an unknown key", strangersSignature, api.KindSignature, 4, 0, []string{"unknown-key"}},
	{"signer that is not in the trust store", text(`["dev"]`, `["prod"]`), api.KindSignature, 4, 0, []string{"prod"}},
	// The name.
	{"two files for one name", func(p *place) error {
		return errors.Join(os.Rename(p.file("bad.toml"), p.file("10-bad.toml")), os.WriteFile(p.file("20-bad.toml"), []byte(p.manifest), 0o644))
	}, api.KindManifest, 1, 0, []string{"10-bad.toml", "20-bad.toml"}},
	{"no manifest", replaced("bad.toml", gone), api.KindNotFound, 1, 0, []string{"bad"}},
}

func rejected(p *place) error {
	object, err := os.ReadFile("testdata/reject.bpf.o")
	if err != nil {
		return err
	}
	p.Object("bad.bpf.o", object)
	return os.WriteFile(p.file("bad.toml"), []byte(strings.NewReplacer("[variables]\ndry_run = true\n", "", "xdp_drop", "overread").Replace(
		p.manifest[:strings.Index(p.manifest, "[maps.")]+p.manifest[strings.Index(p.manifest, "[[attach]]"):])), 0o644)
}

// TestBadInput gets each thing wrong, one at a time, and asks for a load.
func TestBadInput(t *testing.T) {
	testenv.NoLeaks(t)
	p := newPlace(t)
	p.put()
	load(t, p.Host, "bad") // else every case would prove nothing
	if _, err := p.Client().Unload(context.Background(), "bad", api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, w := range wrongs {
		t.Run(w.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			p.put()
			defer p.clear(t)
			if err := w.with(p); err != nil {
				t.Fatal(err)
			}
			w.check(t, p)
		})
	}
}

// check asks twice for a load, as a program and as a person.
func (w wrong) check(t *testing.T, p *place) {
	t.Helper()
	pins, records := tree(t, p.BPFFS), auditRecords(t, p.State)

	_, err := p.Client().Load(context.Background(), "bad")
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("load: %v, want a refusal", err)
	}
	if e.Kind != w.kind {
		t.Errorf("kind %s, want %s", e.Kind, w.kind)
	}
	want := w.says
	if w.line > 0 {
		want = append(want[:len(want):len(want)], fmt.Sprintf("%s:%d: ", p.file("bad.toml"), w.line))
	}
	for _, s := range want {
		if !strings.Contains(e.Message, s) {
			t.Errorf("%q is not in the message", s)
		}
	}
	if e.Hint == "" {
		t.Error("no remedy")
	}
	if strings.ContainsAny(e.Message, "\n\r\t") || strings.Count(e.Message, p.file("bad.toml")) > 1 {
		t.Error("the message is not one clear line")
	}
	_, stderr, exit := p.Ctl("load", "bad")
	hint, _, _ := strings.Cut(e.Hint, "\n") // the rest is what to paste, indented
	if exit != w.exit || !strings.HasPrefix(stderr, fmt.Sprintf("hornetctl: %s\nhint: %s\n", e.Message, hint)) {
		t.Errorf("exit status %d, want %d; hornetctl said:\n%s", exit, w.exit, stderr)
	}
	if t.Failed() {
		t.Logf("error: %s: %s\nhint: %s", e.Kind, e.Message, e.Hint)
	}

	added := auditRecords(t, p.State)[len(records):]
	checkRecorded(t, added, "bad", e, 2)
	if diff := cmp.Diff(pins, tree(t, p.BPFFS)); diff != "" {
		t.Errorf("bpffs changed: %s", diff)
	}
	p.checkNeighbour(t)
}

// checkNeighbour asks the kernel whether "good" still runs as it did.
func (p *place) checkNeighbour(t *testing.T) {
	t.Helper()
	want := make(map[uint32]bool)
	for _, l := range p.neighbour.Links {
		want[l.ID] = true
	}
	if diff := cmp.Diff(want, kernelLinks(t, p.neighbour)); diff != "" {
		t.Errorf("the neighbour's links: %s", diff)
	}
	c := get(t, p.Host, "good")
	for end := time.Now().Add(30 * time.Second); c.Reason != "" && time.Now().Before(end); c = get(t, p.Host, "good") {
		time.Sleep(50 * time.Millisecond) // a fault that a test injects may hit the look
	}
	if c.State != api.StateRunning || c.Reason != "" {
		t.Errorf("the neighbour is %s: %s", c.State, c.Reason)
	}
}

// auditRecord is the part of an audit record that these tests look at.
type auditRecord struct {
	Seq        uint64            `json:"seq"`
	Phase      string            `json:"phase"`
	Verb       string            `json:"verb"`
	Collection string            `json:"collection"`
	Version    uint64            `json:"version"`
	Error      string            `json:"error"`
	Kind       string            `json:"kind"`
	Verdict    string            `json:"verdict"`
	Signer     string            `json:"signer"`
	SignerKey  string            `json:"signer_key"`
	Intent     uint64            `json:"intent"`
	Shown      map[string]uint64 `json:"shown"`
	Caller     struct {
		UID uint32 `json:"uid"`
	} `json:"caller"`
}

// auditRecords reads the log as the plain file it is.
func auditRecords(t testing.TB, state string) []auditRecord {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(state, "audit", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("audit log: %v, %v", files, err)
	}
	var all []auditRecord
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b = b[:bytes.LastIndexByte(b, '\n')+1] // behind it is a write that has just begun
		lines := bufio.NewScanner(bytes.NewReader(b))
		for lines.Scan() {
			var r auditRecord
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Fatalf("%s: %q: %v", file, lines.Text(), err)
			}
			all = append(all, r)
		}
	}
	return all
}

// checkRecorded wants n loads of name that ended with e, and an outcome for
// every intent.
func checkRecorded(t *testing.T, records []auditRecord, name string, e *api.Error, n int) {
	t.Helper()
	open := make(map[uint64]bool)
	ended := 0
	for i, r := range records {
		if i > 0 && r.Seq != records[i-1].Seq+1 {
			t.Errorf("record %d follows record %d", r.Seq, records[i-1].Seq)
		}
		switch {
		case r.Phase == "intent":
			open[r.Seq] = true
			continue
		case r.Phase == "outcome":
			delete(open, r.Intent)
		}
		if r.Verb == "load" && r.Collection == name && r.Kind == string(e.Kind) && r.Error == e.Message && r.Caller.UID == 0 {
			ended++
		}
	}
	if ended != n || len(open) > 0 {
		t.Errorf("%d of %d loads recorded, %d intents without an outcome, in %+v", ended, n, len(open), records)
	}
	if e.Kind == api.KindSignature && records[len(records)-1].Verdict == "" {
		t.Error("no verdict in the record")
	}
}

// tree lists what is below dir, but for dir itself.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		// The kernel's own, on every bpffs once it has its preloaded iterators.
		if path != dir && !strings.HasSuffix(path, ".debug") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// TestBadNames: names that no manifest can have.
func TestBadNames(t *testing.T) {
	p := newPlace(t)
	for _, name := range []string{"Bad", "-bad", "stage-1", "bad@", "10-", strings.Repeat("b", 64), "bad\x1b[31m"} {
		before := auditRecords(t, p.State)
		_, stderr, exit := p.Ctl("load", "--", name)
		if exit != api.ExitUsage || strings.Count(stderr, "\n") != 2 || strings.ContainsRune(stderr, 0x1b) {
			t.Errorf("load %q: exit status %d: %q", name, exit, stderr)
		}
		if added := auditRecords(t, p.State)[len(before):]; len(added) != 1 || added[0].Phase != "refusal" {
			t.Errorf("load %q: recorded %+v", name, added)
		}
	}
	p.checkNeighbour(t)
}

// TestReloadRefusesAll: one bad file, and nothing at all changes.
func TestReloadRefusesAll(t *testing.T) {
	testenv.NoLeaks(t)
	p := newPlace(t)
	for _, test := range []struct {
		name string
		with func(*place) error
		exit int
		says string
	}{
		{"unknown key", text("signers", "singers"), 1, "bad.toml:5: "},
		{"name", func(p *place) error { return os.Rename(p.file("bad.toml"), p.file("Bad.toml")) }, 1, "Bad.toml"},
		{"twice", func(p *place) error {
			return errors.Join(os.Rename(p.file("bad.toml"), p.file("10-bad.toml")), os.WriteFile(p.file("20-bad.toml"), []byte(p.manifest), 0o644))
		}, 1, "20-bad.toml"},
		{"unsigned at boot", func(p *place) error {
			return errors.Join(os.Remove(p.file("bad.bpf.o.p7s")), text("start = \"request\"\n", "")(p))
		}, 4, "unsigned"},
		{"directory", func(p *place) error { return os.Chmod(p.Manifests, 0o777) }, 1, "0777"},
		{"trust store", func(p *place) error { return os.WriteFile(filepath.Join(p.Trust, "bad.pem"), []byte("x"), 0o644) }, 1, "bad.pem"},
	} {
		t.Run(test.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			p.put()
			p.Manifest("other-bad", strings.Replace(strings.Replace(p.manifest, "start = \"request\"\n", "", 1), "veth0", "lo", 1))
			defer p.clear(t)
			defer os.Chmod(p.Manifests, 0o755)
			defer os.Remove(filepath.Join(p.Trust, "bad.pem"))
			if err := test.with(p); err != nil {
				t.Fatal(err)
			}
			before := len(auditRecords(t, p.State))
			_, stderr, exit := p.Ctl("reload")
			if exit != test.exit || !strings.Contains(stderr, test.says) || strings.Count(stderr, "\nhint: ") != 1 {
				t.Errorf("exit status %d, want %d and %q: %q", exit, test.exit, test.says, stderr)
			}
			if added := auditRecords(t, p.State)[before:]; len(added) != 1 || added[0].Verb != "reload" || added[0].Phase != "refusal" {
				t.Errorf("recorded %+v", added)
			}
			list, err := p.Client().List(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range list {
				if c.State == api.StateRunning && c.Name != "good" {
					t.Errorf("%s runs", c.Name)
				}
			}
			p.checkNeighbour(t)
		})
	}
}

// TestStartBesideBadManifests: at a start there is no last good state to stay
// with, so what is in order runs and what is not is told.
func TestStartBesideBadManifests(t *testing.T) {
	testenv.NoLeaks(t)
	cgroup := testenv.Cgroup(t)
	for name, with := range map[string]func(*place) error{
		"unknown key": text("signers", "singers"),
		"name":        func(p *place) error { return os.Rename(p.file("bad.toml"), p.file("Bad.toml")) },
		"twice": func(p *place) error {
			return errors.Join(os.Rename(p.file("bad.toml"), p.file("10-bad.toml")), os.WriteFile(p.file("20-bad.toml"), []byte(p.manifest), 0o644))
		},
		"no interface": text("start = \"request\"\n", ""),
	} {
		t.Run(name, func(t *testing.T) {
			p := &place{Host: testdaemon.New(t, ""), manifest: strings.Replace(badManifest, "NETNS", "/proc/self/ns/net", 1), object: example(t, "xdp-drop/xdp_drop.bpf.o")}
			p.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
			p.Manifest("good", strings.Replace(connCount(cgroup), "start = \"request\"\n", "", 1))
			p.put()
			if err := with(p); err != nil {
				t.Fatal(err)
			}
			p.Start()
			if c := get(t, p.Host, "good"); c.State != api.StateRunning {
				t.Errorf("good is %s: %s", c.State, c.Reason)
			}
			s, err := p.Client().Status(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Problems) != 1 || s.Problems[0].Hint == "" || !strings.Contains(strings.ToLower(s.Problems[0].Message), "bad.toml") {
				t.Errorf("problems: %+v", s.Problems)
			}
		})
	}
}

// refusedStart runs hornetd where it must not start and returns what it said.
func refusedStart(t *testing.T, p *place) string {
	t.Helper()
	_, stderr, exit := p.RunAs(0, "timeout", "20", testdaemon.Binary(t, "hornetd"), "--config", p.Config)
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	if exit != 1 || len(lines) != 2 || !strings.HasPrefix(lines[0], "hornetd: ") || !strings.HasPrefix(lines[1], "hint: ") {
		t.Errorf("exit status %d, want 1, one error and its remedy:\n%s", exit, stderr)
	}
	return stderr
}

// setting changes a line of hornetd.toml.
func (p *place) setting(key, value string) error {
	b, err := os.ReadFile(p.Config)
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, key+" = ") })
	if i < 0 {
		return fmt.Errorf("no %s in %s", key, b)
	}
	lines[i] = fmt.Sprintf("%s = %q", key, value)
	return os.WriteFile(p.Config, []byte(strings.Join(lines, "\n")), 0o644)
}

// rename renames a key of hornetd.toml.
func (p *place) rename(key, to string) error {
	b, err := os.ReadFile(p.Config)
	if err != nil {
		return err
	}
	return os.WriteFile(p.Config, bytes.Replace(b, []byte("\n"+key+" = "), []byte("\n"+to+" = "), 1), 0o644)
}

// elsewhere moves what lies at path away and leaves something else there.
func elsewhere(path string, with func(string) error) error {
	if err := os.Rename(path, path+".real"); err != nil {
		return err
	}
	return with(path)
}

// TestRefusedStarts: whatever keeps hornetd from starting is said once, with
// the remedy, and what runs goes on running. Where the cause is taken away it
// starts and adopts.
func TestRefusedStarts(t *testing.T) {
	testenv.NoLeaks(t)
	for name, test := range map[string]struct {
		with func(*place) error
		says string
	}{
		"config, unknown key":        {func(p *place) error { return p.rename("trust", "turst") }, "hornetd.toml:3: paths.turst"},
		"config, wrong type":         {func(p *place) error { return p.setting("mode", "rw-rw----") }, "hornetd.toml:"},
		"config written by others":   {func(p *place) error { return os.Chmod(p.Config, 0o666) }, "0666"},
		"config belongs to somebody": {func(p *place) error { return foreign(p.Config) }, "1234"},
		"config is a link": {func(p *place) error {
			return elsewhere(p.Config, func(path string) error { return os.Symlink(path+".real", path) })
		}, "symbolic link"},
		"config is a FIFO":  {func(p *place) error { return elsewhere(p.Config, fifo) }, "FIFO"},
		"config of 1 TiB":   {func(p *place) error { return elsewhere(p.Config, sparse) }, "1099511627776"},
		"config missing":    {func(p *place) error { return elsewhere(p.Config, gone) }, "no such file"},
		"bpffs missing":     {func(p *place) error { return p.setting("bpffs", p.Dir+"/no/where") }, "/no/where"},
		"bpffs not a bpffs": {func(p *place) error { return errors.Join(subdir(p.Dir+"/plain"), p.setting("bpffs", p.Dir+"/plain")) }, "not a bpffs"},
		"bpffs is a file":   {func(p *place) error { return p.setting("bpffs", p.Config) }, "not a directory"},
		"bpffs is a link": {func(p *place) error {
			return errors.Join(os.Symlink(p.BPFFS, p.Dir+"/link"), p.setting("bpffs", p.Dir+"/link"))
		}, "symbolic link"},
		"bpffs open to all": {func(p *place) error { return os.Chmod(p.BPFFS, 0o755) }, "0755"},
		"bpffs of somebody": {func(p *place) error { return foreign(p.BPFFS) }, "1234"},
		"socket is a file":  {func(p *place) error { return errors.Join(os.Remove(p.Socket), os.WriteFile(p.Socket, nil, 0o600)) }, "regular file"},
		"socket is a dir":   {func(p *place) error { return errors.Join(os.Remove(p.Socket), subdir(p.Socket)) }, "directory"},
		"socket group":      {func(p *place) error { return p.setting("group", "no-such-group") }, "no-such-group"},
		"trust store open":  {func(p *place) error { return os.Chmod(p.Trust, 0o777) }, "0777"},
		"state is a file": {func(p *place) error {
			return elsewhere(p.State, func(s string) error { return os.WriteFile(s, nil, 0o600) })
		}, "state"},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			p := newPlace(t)
			p.put()
			p.Kill()
			links, pins := kernelLinks(t, p.neighbour), tree(t, p.BPFFS)
			config, err := os.ReadFile(p.Config)
			if err != nil {
				t.Fatal(err)
			}
			if err := test.with(p); err != nil {
				t.Fatal(err)
			}
			// Were it to start, it would load this one.
			p.Manifest("bad", strings.Replace(p.manifest, "start = \"request\"\n", "", 1))
			if said := refusedStart(t, p); !strings.Contains(said, test.says) {
				t.Errorf("%q is not in %q", test.says, said)
			}
			if diff := cmp.Diff(links, kernelLinks(t, p.neighbour)); diff != "" || len(links) != 2 {
				t.Errorf("%d links before; the neighbour's: %s", len(links), diff)
			}
			if diff := cmp.Diff(pins, tree(t, p.BPFFS)); diff != "" {
				t.Errorf("bpffs changed: %s", diff)
			}
			p.undo(t, config)
			p.Start()
			p.checkNeighbour(t)
		})
	}
}

// undo takes away what a case of TestRefusedStarts did.
func (p *place) undo(t *testing.T, config []byte) {
	t.Helper()
	p.clear(t)
	for _, path := range []string{p.Config, p.State} {
		if _, err := os.Lstat(path + ".real"); err == nil {
			if err := errors.Join(os.RemoveAll(path), os.Rename(path+".real", path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(os.Chown(p.Config, 0, 0), os.Chmod(p.Config, 0o644), os.WriteFile(p.Config, config, 0o644),
		os.Chown(p.BPFFS, 0, 0), os.Chmod(p.BPFFS, 0o700), os.Chmod(p.Trust, 0o755), os.RemoveAll(p.Socket)); err != nil {
		t.Fatal(err)
	}
}

// TestSecondInstance: the first one does not notice.
func TestSecondInstance(t *testing.T) {
	testenv.NoLeaks(t)
	p := newPlace(t)
	if said := refusedStart(t, p); !strings.Contains(said, p.BPFFS) {
		t.Errorf("%s is not in %q", p.BPFFS, said)
	}
	// Nor one with a bpffs of its own and the first one's socket.
	if err := p.setting("bpffs", testenv.BPFFS(t)); err != nil {
		t.Fatal(err)
	}
	if err := p.setting("state", p.Dir+"/state2"); err != nil {
		t.Fatal(err)
	}
	if said := refusedStart(t, p); !strings.Contains(said, p.Socket) || !strings.Contains(said, "in use") {
		t.Errorf("%q", said)
	}
	p.checkNeighbour(t)
}

// TestSocketOfAnother: a socket that somebody else answers on stays theirs.
func TestSocketOfAnother(t *testing.T) {
	testenv.NoLeaks(t)
	p := newPlace(t)
	p.Kill()
	if err := os.Remove(p.Socket); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if said := refusedStart(t, p); !strings.Contains(said, "in use") {
		t.Errorf("%q", said)
	}
	if conn, err := net.Dial("unix", p.Socket); err != nil {
		t.Errorf("the other's socket: %v", err)
	} else {
		conn.Close()
	}
}

// TestFullDisk: without room for the record nothing is loaded. What runs is
// adopted, goes on running, and can be stopped.
func TestFullDisk(t *testing.T) {
	testenv.NoLeaks(t)
	for name, size := range map[string]string{
		"all but the reserve is taken": "size=16900k", // of which 16384k are for unloads and outcomes
		"the reserve does not fit":     "size=4m",
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			p := newPlace(t)
			p.Kill()
			if err := os.RemoveAll(p.State); err != nil {
				t.Fatal(err)
			}
			tmpfs(t, p.State, size)
			p.put()
			p.Start()
			filler := filepath.Join(p.State, "filler")
			if name == "all but the reserve is taken" {
				fill(t, filler)
			}
			// The last page that the log has is used up first.
			_, err := p.Client().Load(context.Background(), "bad")
			for i := 0; i < 10 && err == nil; i++ {
				unload(t, p.Host, "bad")
				_, err = p.Client().Load(context.Background(), "bad")
			}
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.KindUnavailable || e.Hint == "" || !strings.Contains(e.Message, p.State) {
				t.Errorf("load: %+v", err)
			}
			if _, stderr, exit := p.Ctl("load", "bad"); exit != api.ExitUnavailable {
				t.Errorf("exit status %d: %s", exit, stderr)
			}
			p.checkNeighbour(t)
			if _, err := p.Client().Unload(context.Background(), "good", api.UnloadRequest{}); err != nil {
				t.Errorf("unload: %v", err)
			}
			if left := tree(t, p.BPFFS); len(left) > 0 {
				t.Errorf("on bpffs: %v", left)
			}
			if os.Remove(filler) == nil {
				load(t, p.Host, "bad")
			}
		})
	}
}

func tmpfs(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options+",mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill writes a file until its filesystem is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// TestKernelSaysNo makes the system calls of a load fail, one at a time, as on
// a bpffs without inodes or a machine without memory. What the load cannot do
// without makes it fail, and then nothing is left of it.
func TestKernelSaysNo(t *testing.T) {
	testenv.NoLeaks(t)
	p := newPlace(t)
	p.put()
	for _, fault := range []struct {
		call, errno   string
		calls, refuse int // how many of the first calls are tried; how many at least must fail
	}{
		{"mkdirat", "ENOSPC", 4, 4},
		{"renameat2", "ENOSPC", 1, 1},
		{"fdatasync", "EIO", 1, 1},
		{"bpf", "ENOMEM", 40, 20},
		{"bpf", "EPERM", 40, 20},
	} {
		t.Run(fault.call+" "+fault.errno, func(t *testing.T) {
			testenv.NoLeaks(t) // nor in the daemon's descriptors
			step := 1
			if testing.Short() && fault.calls > 10 {
				step = 7
			}
			refused := 0
			for when := 1; when <= fault.calls; when += step {
				if p.loadWith(t, fmt.Sprintf("%s:error=%s:when=%d", fault.call, fault.errno, when)) != 0 {
					refused++
				}
				if t.Failed() {
					t.Fatalf("at call %d", when)
				}
			}
			if refused < fault.refuse/step {
				t.Errorf("%d of %d faults made the load fail, want %d or more", refused, fault.calls/step, fault.refuse/step)
			}
		})
	}
	load(t, p.Host, "bad")
}

// loadWith loads "bad" while strace injects a fault, and returns the exit
// status. Either way there is nothing left of it afterwards.
func (p *place) loadWith(t *testing.T, inject string) int {
	t.Helper()
	pins := tree(t, p.BPFFS)
	strace := tracer(t, p.PID(), "-o", os.DevNull, "-e", "inject="+inject)
	_, stderr, exit := p.Ctl("load", "bad")
	detach(t, strace)
	switch {
	case exit == 0:
		if _, err := p.Client().Unload(context.Background(), "bad", api.UnloadRequest{}); err != nil {
			t.Error(err)
		}
	case !strings.HasPrefix(stderr, "hornetctl: "):
		t.Errorf("exit status %d: %q", exit, stderr)
	}
	if diff := cmp.Diff(pins, tree(t, p.BPFFS)); diff != "" {
		t.Errorf("bpffs changed: %s", diff)
	}
	p.checkNeighbour(t)
	return exit
}

func detach(t *testing.T, tracer *exec.Cmd) {
	t.Helper()
	if err := tracer.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	tracer.Wait()
}
