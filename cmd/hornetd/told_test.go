package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// told is a refusal as one who reads it gets it.
type told struct{ text, hint string }

var clockSays = regexp.MustCompile(`, the clock says \S+`)

// askAll asks for a load of "count" over the socket with curl, and with hornetctl,
// and returns what each was told, and what the log and the audit log say of it.
func askAll(t *testing.T, h *testdaemon.Host) map[string]told {
	t.Helper()
	all := map[string]told{}
	logged := len(h.Log())
	out, err := exec.Command("curl", "-sS", "--unix-socket", h.Socket, "-X", "POST", "-d", "{}", "http://hornetd/v1/collections/count/load").Output()
	if err != nil {
		t.Fatalf("curl: %v", err)
	}
	var body api.Error
	if err := json.Unmarshal(out, &body); err != nil || body.Kind != api.KindSignature {
		t.Errorf("curl: %s", out)
	}
	all["curl"] = told{body.Message, body.Hint}
	_, stderr, exit := h.Ctl("load", "count")
	first, rest, _ := strings.Cut(stderr, "\nhint: ")
	all["hornetctl"] = told{strings.TrimPrefix(first, "hornetctl: "), strings.TrimSuffix(rest, "\n")}
	if exit != api.ExitSignature {
		t.Errorf("hornetctl: exit status %d", exit)
	}
	for line := range strings.Lines(h.Log()[logged:]) {
		var l struct{ Msg, Error, Hint string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "load refused" {
			all["log"] = told{l.Error, l.Hint}
		}
	}
	lines := loads(t, h)
	var rec struct{ Error, Hint, Verdict string }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &rec); err != nil {
		t.Fatal(err)
	}
	all["audit"] = told{rec.Error, rec.Hint}
	if !strings.Contains(rec.Error, ": "+rec.Verdict+": ") {
		t.Errorf("audit: verdict %q of %q", rec.Verdict, rec.Error)
	}
	return all
}

// TestRefusalsAreToldAlike: whatever signing says no to, the socket, hornetctl, the
// daemon's log and the audit log say in the same words: the file, the verdict, the
// key where it is known, the rule and what to do.
func TestRefusalsAreToldAlike(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, rooted)
	team, late := signer(t, h, "team"), signer(t, h, "late")
	stranger := signer(t, h, "stranger")
	remove(t, filepath.Join(h.Trust, "stranger.pem"))
	h.Write("trust.d/late.pem", certifiedAgain(t, h.Write("late.key", late.key), h.Write("late.pem", late.cert), time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)))
	object := example(t, "conn-count/conn_count.bpf.o")
	path := h.Object("conn_count.bpf.o", object)
	key, cert := h.Key()
	manifest := func(version int, more string) string {
		return h.Manifest("count", fmt.Sprintf("name = \"count\"\nversion = %d\nstart = \"request\"\n[object]\npath = \"conn_count.bpf.o\"\n%s[maps.\"*\"]\nclass = \"mutable\"\n", version, more))
	}
	m := manifest(2, "")
	h.Start()
	load(t, h, "count")
	unload(t, h, "count")
	signed := func(by second) { h.Write("hornet.d/conn_count.bpf.o.p7s", by.sign(t, object)) }
	for _, test := range []struct {
		name, verdict string
		file          func() string // what is refused
		by            *second       // whose key is known
		rule, hint    string
		make          func()
	}{
		{"rolled-back", "rolled-back", nil, nil, `version 1 of "count" by signer "dev" is older than version 2`, "load version 2 or a newer one", func() { manifest(1, "") }},
		{"unsigned", "unsigned", nil, nil, "there is no signature " + path + ".p7s", "sign it with a key of the trust store", func() { remove(t, path+".p7s") }},
		{"unknown key", "unknown-key", nil, nil, "names key identifier", "put the signer's certificate into", func() { signed(stranger) }},
		{"another signer", "unknown-key", nil, &team, `names the key of "team", the manifest allows "dev"`, `add "team" to the manifest's signers`, func() { manifest(3, "signers = [\"dev\"]\n"); signed(team) }},
		{"bad signature", "bad-signature", nil, &team, `is not a signature over this file by "team"`, "the file or its signature was changed", func() { h.Write("hornet.d/conn_count.bpf.o.p7s", team.sign(t, []byte("another"))) }},
		{"no signature at all", "bad-signature", nil, nil, path + ".p7s: ", "make a detached DER signature", func() { h.Write("hornet.d/conn_count.bpf.o.p7s", []byte("hello")) }},
		{"expired", "expired", nil, &late, `certificate of "late" was valid until`, "put a renewed certificate into", func() { signed(late) }},
		{"another object", "digest-mismatch", nil, nil, "the manifest pins 0000", "restore the object the manifest was written for", func() { manifest(3, "sha256 = \""+strings.Repeat("00", 32)+"\"\n") }},
		{"manifest without a name", "digest-mismatch", func() string { return m }, nil, "name: is missing, and a signed manifest must have it", "have it filled in and signed", func() {
			ctl(t, h, "sign", "--key", key, "--cert", cert, manifest(3, ""))
			text := strings.Replace(string(read(t, m)), "name = \"count\"\n", "", 1)
			h.Write("hornet.d/count.toml", []byte(text))
			h.Write("hornet.d/count.toml.p7s", h.Sign([]byte(text)))
		}},
		{"drop-in", "unsigned", func() string { return filepath.Join(m+".d", "1.toml") }, nil, "a drop-in that is not may only narrow it", "have it signed", func() {
			ctl(t, h, "sign", "--key", key, "--cert", cert, manifest(3, ""))
			if err := os.Mkdir(m+".d", 0o755); err != nil {
				t.Fatal(err)
			}
			h.Write("hornet.d/count.toml.d/1.toml", []byte("description = \"more\"\n"))
		}},
		{"revoked", "revoked", nil, &team, `is by "team"`, "have it signed with a key that is not revoked", func() {
			signed(team)
			h.Revoke(revokedKey(1, team.keyID(t)))
			if _, err := reload(t, h); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer func() {
				os.RemoveAll(m + ".d")
				os.Remove(m + ".p7s")
				h.Object("conn_count.bpf.o", object)
				manifest(2, "")
			}()
			test.make()
			file := path
			if test.file != nil {
				file = test.file()
			}
			all := askAll(t, h)
			want := all["curl"]
			want.text = clockSays.ReplaceAllString(want.text, "") // they are not of the same second
			for where, got := range all {
				if got.text = clockSays.ReplaceAllString(got.text, ""); got != want {
					t.Errorf("%s: %q (%q)\ncurl: %q (%q)", where, got.text, got.hint, want.text, want.hint)
				}
			}
			if len(all) != 4 {
				t.Errorf("told %v", all)
			}
			if !strings.HasPrefix(want.text, file+": "+test.verdict+": ") || !strings.Contains(want.text, test.rule) || !strings.Contains(want.hint, test.hint) {
				t.Errorf("%q (%q)\nwant %s: %s: … %s (%s)", want.text, want.hint, file, test.verdict, test.rule, test.hint)
			}
			if test.by != nil && !strings.Contains(want.text, "(key "+test.by.keyID(t)+", \"CN=") {
				t.Errorf("%q does not name key %s and its subject", want.text, test.by.keyID(t))
			}
			if offline, stderr, exit := h.Ctl("verify-file", "--trust", h.Trust, m); test.verdict != "rolled-back" && test.verdict != "revoked" &&
				(exit != api.ExitSignature || stderr != "hornetctl: "+want.text+"\nhint: "+want.hint+"\n") && test.verdict != "expired" {
				t.Errorf("verify-file: exit status %d: %s%s", exit, offline, stderr)
			}
		})
	}
}
