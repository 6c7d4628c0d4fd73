package signing

import (
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
)

var statement = []byte(StatementHeader + "act disarm\n")

// TestStatement: only keys of the store that are roots sign statements, and nothing
// else that they sign is one.
func TestStatement(t *testing.T) {
	root, dev, ca := generated(t, "root", "ecdsa"), generated(t, "dev", "ecdsa"), certified(t, nil, "ca", nil, asCA)
	leaf := certified(t, &ca, "leaf", nil, asIs)
	old := issued(t, nil, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0) })
	weak := issued(t, nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	store := trust(t, map[string][]byte{"root.pem": root.pem(), "dev.pem": dev.pem(), "ca.pem": ca.pem(), "old.pem": old.pem(), "weak.pem": weak.pem()})
	roots := []string{"gone", "root", "ca", "old", "weak"}
	revoked := store.WithRevocations(list(t, "serial = 1\n[[key]]\nid = '"+hexOf(root.cert.RawSubjectPublicKeyInfo)+"'\n"))
	for _, tt := range []struct {
		name  string
		store *Trust
		text  []byte
		sig   []byte
		roots []string
		want  Verdict // "" is an error of another kind
	}{
		{"root", store, statement, root.sign(t, statement), roots, OK},
		{"root whose certificate has ended", store, statement, old.sign(t, statement), roots, OK},
		{"no root", store, statement, dev.sign(t, statement), roots, UnknownKey},
		{"whom a root issued a certificate to", store, statement, leaf.carry(t, statement, leaf), roots, UnknownKey},
		{"not made for signing", store, statement, weak.sign(t, statement), roots, UnknownKey},
		{"stranger", store, statement, generated(t, "stranger", "").sign(t, statement), roots, UnknownKey},
		{"object's", store, statement, root.sign(t, object), roots, BadSignature},
		{"object", store, object, root.sign(t, object), roots, ""},
		{"another statement's", store, statement, root.sign(t, append([]byte(StatementHeader), "act audit\n"...)), roots, BadSignature},
		{"none", store, statement, nil, roots, BadSignature},
		{"revoked", revoked, statement, root.sign(t, statement), roots, Revoked},
		{"list unknown", store.Closed(errors.New("why")), statement, root.sign(t, statement), roots, Revoked},
		{"no roots", store, statement, root.sign(t, statement), nil, ""},
	} {
		v, err := tt.store.VerifyStatement(tt.text, tt.sig, tt.roots)
		if v.IsZero() != (err != nil) {
			t.Errorf("%s: %+v and %v", tt.name, v, err)
		}
		var e *Error
		switch {
		case tt.want == "" && (err == nil || errors.As(err, &e)):
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && tt.want != OK && remedy.Of(err) == "" && tt.name != "list unknown":
			t.Errorf("%s: no remedy: %v", tt.name, err)
		case tt.want == OK && (err != nil || string(v.Text()) != string(tt.text) || v.Signer().Name == ""):
			t.Errorf("%s: %v, by %+v", tt.name, err, v.Signer())
		case tt.want != "" && tt.want != OK && (!errors.As(err, &e) || e.Verdict != tt.want):
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	// No statement is an object, a manifest or a revocation list.
	if _, err := ParseRevocations("f", statement); err == nil {
		t.Error("a statement is a revocation list")
	}
}

// TestStatementOpenSSL: what openssl signs as the manual says counts, and what it
// signs without -binary (with other ends of lines) does not.
func TestStatementOpenSSL(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	openssl := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v: %s", args, err, out)
		}
	}
	openssl("req", "-x509", "-nodes", "-newkey", "rsa:2048", "-keyout", path("k"), "-out", path("c"), "-subj", "/CN=root", "-addext", "keyUsage=digitalSignature")
	if err := os.WriteFile(path("s.txt"), statement, 0o600); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(path("c"))
	if err != nil {
		t.Fatal(err)
	}
	store := trust(t, map[string][]byte{"root.pem": pem})
	for _, tt := range []struct {
		flags []string
		good  bool
	}{{[]string{"-binary"}, true}, {[]string{"-binary", "-noattr", "-nocerts"}, true}, {nil, false}} {
		openssl(append([]string{"cms", "-sign", "-in", path("s.txt"), "-signer", path("c"), "-inkey", path("k"), "-outform", "DER", "-out", path("p7s")}, tt.flags...)...)
		sig, err := os.ReadFile(path("p7s"))
		if err != nil {
			t.Fatal(err)
		}
		v, err := store.VerifyStatement(statement, sig, []string{"root"})
		if (err == nil) != tt.good {
			t.Errorf("%v: %v, by %v", tt.flags, err, v.Signer())
		}
	}
}
