package main_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// farFuture is when every certificate here has expired.
var farFuture = time.Date(time.Now().Year()+34, 1, 1, 0, 0, 0, 0, time.UTC)

// age makes the last audit record one of farFuture: hornetd's clock is never
// before it.
func age(t testing.TB, h *testdaemon.Host) {
	t.Helper()
	path := filepath.Join(h.State, "audit", "audit.jsonl")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	next := bytes.Count(b, []byte("\n")) + 1
	b = fmt.Appendf(b, `{"seq":%d,"time":%q,"phase":"note","verb":"test","caller":{"uid":0,"gid":0}}`+"\n", next, farFuture.Format(time.RFC3339))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// reboot ends the daemon and takes away what a reboot takes away.
func reboot(t testing.TB, h *testdaemon.Host) {
	t.Helper()
	h.Kill()
	for name := range onBPFFS(t, h) {
		if err := os.RemoveAll(filepath.Join(h.BPFFS, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// expired wants the verdict expired.
func expired(t testing.TB, err error) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindSignature || !strings.Contains(e.Message, ": expired: ") || e.Hint == "" {
		t.Errorf("%#v, want expired", err)
	}
}

// TestExpiredLoadsAgainAtBoot and nothing else of the same signer does.
func TestExpiredLoadsAgainAtBoot(t *testing.T) {
	h, cgroup := ratcheted(t, "boot", "")
	reboot(t, h)
	age(t, h)
	h.Start()
	c := get(t, h, "count")
	if c.State != api.StateRunning || c.Adopted || c.Signature.Verdict != "ok-expired" || !strings.Contains(c.Reason, "is not valid now") {
		t.Errorf("%s, adopted %t, verdict %s, %q", c.State, c.Adopted, c.Signature.Verdict, c.Reason)
	}
	if got := kernelLinks(t, c); len(got) != 1 {
		t.Errorf("links: %v", got)
	}
	if got := problems(t, h); !strings.Contains(got, "not valid now") && !strings.Contains(got, "expired") || !strings.Contains(got, "the clock says") {
		t.Errorf("status says %q", got)
	}
	var verdicts []string
	for _, r := range auditRecords(t, h.State) {
		if r.Verb == "load" && r.Phase == "outcome" {
			verdicts = append(verdicts, r.Verdict)
		}
	}
	if got := strings.Join(verdicts, " "); got != "ok ok-expired" {
		t.Errorf("on record: %s", got)
	}

	// Not when somebody asks, not on reload.
	unload(t, h, "count")
	expired(t, tryLoad(h))
	_, err := reload(t, h)
	expired(t, err)

	// At boot nothing that is not exactly what was loaded before.
	for name, change := range map[string]func(){
		"newer version": func() { h.Manifest("count", counting(cgroup, "boot", 6, "a")) },
		"other object":  func() { h.Object("conn_count.bpf.o", append(example(t, "conn-count/conn_count.bpf.o"), 0)) },
		"never loaded": func() {
			h.Manifest("count2", counting(cgroup, "boot", 1, "a"))
			if err := os.Remove(h.Manifests + "/count.toml"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		reboot(t, h)
		h.Manifest("count", counting(cgroup, "boot", 5, "a"))
		h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
		os.Remove(h.Manifests + "/count2.toml")
		change()
		age(t, h)
		h.Start()
		s := statusCounts(t, h)
		if s.Running != 0 || s.Failed != 1 {
			t.Errorf("%s: %+v\n%s", name, s, problems(t, h))
		}
	}
}

func statusCounts(t testing.TB, h *testdaemon.Host) api.Counts {
	t.Helper()
	s, err := h.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Collections
}

// TestExpiredRunsOn: what runs is never unloaded for it, and flagged from the
// first answer, with or without its files.
func TestExpiredRunsOn(t *testing.T) {
	h, _ := ratcheted(t, "boot", "")
	before := get(t, h, "count")
	for range 2 {
		h.Kill()
		age(t, h)
		h.Start()
		c := get(t, h, "count")
		list, err := h.Client().List(t.Context())
		if err != nil || !c.Adopted || list[0].Reason == "" {
			t.Errorf("adopted %t, reason %q, %v", c.Adopted, list[0].Reason, err)
		}
		if got := problems(t, h); !strings.Contains(got, "runs, but ") {
			t.Errorf("status says %q", got)
		}
		if _, err := reload(t, h); err != nil {
			t.Errorf("reload: %v", err)
		}
		if got := kernelLinks(t, before); len(got) != 1 {
			t.Errorf("links: %v", got)
		}
	}
}

// TestExpiryNotYetBegun: a certificate that is not valid yet, by this host's
// clock, is like one that has ended, and shown as what it is: by whoever loaded
// it and by the next start.
func TestExpiryNotYetBegun(t *testing.T) {
	h, _ := ratcheted(t, "boot", "")
	key, cert := h.Key()
	h.Write("trust.d/dev.pem", certifiedAgain(t, key, cert, farFuture, farFuture.AddDate(1, 0, 0)))
	reboot(t, h)
	h.Start()
	for range 2 {
		c := get(t, h, "count")
		list, err := h.Client().List(t.Context())
		if err != nil || c.State != api.StateRunning || c.Signature.Verdict != "ok-not-yet-valid" || list[0].Signature.Verdict != c.Signature.Verdict || !strings.Contains(list[0].Reason, "is not valid now (from "+farFuture.Format(time.DateOnly)) {
			t.Errorf("%s, verdict %s, %q, %v", c.State, c.Signature.Verdict, list[0].Reason, err)
		}
		if got := problems(t, h); !strings.Contains(got, "runs, but the certificate") {
			t.Errorf("status says %q", got)
		}
		h.Kill()
		h.Start()
	}
	records := auditRecords(t, h.State)
	if last := records[len(records)-1]; last.Verb != "load" || last.Verdict != "ok-not-yet-valid" {
		t.Errorf("on record: %+v", last)
	}
	unload(t, h, "count")
	expired(t, tryLoad(h))
}

// certifiedAgain is a certificate for the same key and name with another validity.
func certifiedAgain(t testing.TB, keyFile, certFile string, from, until time.Time) []byte {
	t.Helper()
	keyPEM, err1 := os.ReadFile(keyFile)
	certPEM, err2 := os.ReadFile(certFile)
	key, err3 := signing.ParseKey(keyPEM)
	cert, err4 := signing.ParseCertificate(certPEM)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	cert.NotBefore, cert.NotAfter = from, until
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf(der)
}

func pemOf(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }

// signedAt is openssl's signature over an object with another signing time in it,
// and openssl finds that good too. The key is RSA: all its signatures are of one
// length. The time is one that CMS writes as UTCTime: until 2049.
func signedAt(t *testing.T, h *testdaemon.Host, object string, at time.Time) []byte {
	t.Helper()
	openssl := func(args string) {
		t.Helper()
		cmd := exec.Command("openssl", strings.Fields(args)...)
		cmd.Dir = h.Dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v: %s", args, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(h.Dir, "rsa.key")); err != nil {
		openssl("req -x509 -newkey rsa:2048 -nodes -keyout rsa.key -out trust.d/rsa.pem -subj /CN=rsa -days 9000 -addext keyUsage=digitalSignature -addext extendedKeyUsage=codeSigning")
	}
	openssl("cms -sign -binary -nocerts -nosmimecap -md sha256 -in " + object + " -signer trust.d/rsa.pem -inkey rsa.key -outform DER -out made.p7s")
	b, err1 := os.ReadFile(filepath.Join(h.Dir, "made.p7s"))
	keyPEM, err2 := os.ReadFile(filepath.Join(h.Dir, "rsa.key"))
	key, err3 := signing.ParseKey(keyPEM)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	utc := bytes.Index(b, []byte("\x17\x0d"))
	copy(b[utc+2:], at.UTC().Format("060102150405Z"))
	// The attributes, between the contentType among them and the algorithm rsaEncryption.
	from := bytes.Index(b, []byte("\x30\x18\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x03"))
	to := bytes.LastIndex(b, []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"))
	digest := sha256.Sum256(append([]byte{0x31, byte(to - from)}, b[from:to]...))
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[len(b)-len(signature):], signature)
	if err := os.WriteFile(filepath.Join(h.Dir, "made.p7s"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	openssl("cms -verify -binary -inform DER -in made.p7s -content " + object + " -certfile trust.d/rsa.pem -CAfile trust.d/rsa.pem -purpose any -out /dev/null")
	return b
}

// TestExpiryBySigningTime: a certificate that has ended by the time at which
// something that runs was signed loads nothing, also over a restart; but no wrong
// clock of a signer makes all certificates ended, and without what they signed
// everything is as before.
func TestExpiryBySigningTime(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	days := func(n int) time.Time { return time.Now().AddDate(0, 0, n) }
	key, cert := h.Key()
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("other.bpf.o", object) // by dev
	h.Write("hornet.d/conn_count.bpf.o", object)
	h.Manifest("late", counting(testenv.Cgroup(t), "request", 0, "a"))
	h.Manifest("count", strings.Replace(counting(testenv.Cgroup(t), "request", 0, "a"), "conn_count.bpf.o", "other.bpf.o", 1))
	h.Start()
	for _, tt := range []struct {
		name             string
		signed, notAfter int // days from now
		want             string
	}{
		{"signed before", -1, 10, ""},
		{"signed when dev's certificate will have ended", 20, 10, "expired"},
		{"signed in some months, by a wrong clock", 100, 10, "expired"},
		{"signed in some months, dev's certificate not about to end", 100, 40, ""},
	} {
		h.Write("trust.d/dev.pem", certifiedAgain(t, key, cert, days(-1), days(tt.notAfter)))
		h.Write("hornet.d/conn_count.bpf.o.p7s", signedAt(t, h, "hornet.d/conn_count.bpf.o", days(tt.signed)))
		if _, err := reload(t, h); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Client().Load(t.Context(), "late"); err != nil {
			t.Fatal(err)
		}
		for _, when := range []string{"", ", after a start"} {
			switch err := tryLoad(h); {
			case tt.want == "" && err != nil:
				t.Errorf("%s%s: %v", tt.name, when, err)
			case tt.want != "":
				expired(t, err)
			}
			if got := problems(t, h); strings.Contains(got, "is still to come") != (tt.signed > 0) {
				t.Errorf("%s%s: status says %q", tt.name, when, got)
			}
			unload(t, h, "count")
			h.Kill()
			h.Start()
		}
		unload(t, h, "late")
		h.Kill()
		h.Start()
		if err := tryLoad(h); err != nil {
			t.Errorf("%s: with nothing of it left: %v", tt.name, err)
		}
		unload(t, h, "count")
	}
}

func TestExpiryStrict(t *testing.T) {
	h, _ := ratcheted(t, "boot", "[trust]\nexpiry = \"strict\"\n")
	reboot(t, h)
	age(t, h)
	h.Start()
	if c := get(t, h, "count"); c.State != api.StateFailed || !strings.Contains(c.Reason, ": expired: ") {
		t.Errorf("%s %q", c.State, c.Reason)
	}
}

// TestRevokedAndExpired: that it was accepted before does not help.
func TestRevokedAndExpired(t *testing.T) {
	h, team := teamed(t, rooted)
	reboot(t, h)
	age(t, h)
	h.Revoke(revokedKey(1, team.keyID(t)))
	h.Start()
	if c := get(t, h, "count"); c.State != api.StateFailed || !strings.Contains(c.Reason, ": revoked: ") {
		t.Errorf("%s %q", c.State, c.Reason)
	}
}

// TestExpiredWithoutRatchet: nobody knows that it was accepted before.
func TestExpiredWithoutRatchet(t *testing.T) {
	h, _ := ratcheted(t, "boot", "")
	reboot(t, h)
	age(t, h)
	if err := os.Remove(filepath.Join(h.State, "ratchet")); err != nil {
		t.Fatal(err)
	}
	h.Start()
	if c := get(t, h, "count"); c.State != api.StateFailed || !strings.Contains(c.Reason, ": expired: ") {
		t.Errorf("without the ratchet nothing was accepted before: %s %q", c.State, c.Reason)
	}
}
