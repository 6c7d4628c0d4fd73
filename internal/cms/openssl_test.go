package cms

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// opensslKeys are the keys OpenSSL makes for these tests: name and arguments
// of `openssl req -newkey`.
var opensslKeys = [][]string{
	{"rsa", "rsa:2048"},
	{"rsa3072", "rsa:3072"},
	{"rsa4096", "rsa:4096"},
	{"p256", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"},
	{"p384", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"},
	{"p521", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"},
	{"ed25519", "ed25519"},
}

// openssl runs in a directory with the keys, a file "object" that holds
// content, and a file "other".
type openssl struct{ dir, version string }

// opensslDir is sharedOpenSSL's directory once there is one, for TestMain.
var opensslDir string

// sharedOpenSSL is made by the first test that needs it.
var sharedOpenSSL = sync.OnceValues(func() (*openssl, error) {
	version, err := exec.Command("openssl", "version").Output()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hornet-cms-")
	if err != nil {
		return nil, err
	}
	opensslDir = dir
	o := &openssl{dir, strings.TrimSpace(string(version))}
	err = errors.Join(os.WriteFile(filepath.Join(dir, "object"), content, 0o600),
		os.WriteFile(filepath.Join(dir, "other"), append([]byte("not "), content...), 0o600))
	for _, k := range append(opensslKeys, []string{"chain", "ed25519"}) {
		name := k[0]
		_, failed := o.run(append([]string{"req", "-x509", "-nodes", "-keyout", name + ".key", "-out", name + ".pem", "-subj", "/O=hornetd/CN=" + name,
			"-addext", "keyUsage=digitalSignature", "-newkey"}, k[1:]...)...)
		err = errors.Join(err, failed)
	}
	return o, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if opensslDir != "" {
		os.RemoveAll(opensslDir)
	}
	os.Exit(code)
}

func newOpenSSL(t *testing.T) *openssl {
	t.Helper()
	o, err := sharedOpenSSL()
	switch {
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true":
		t.Skipf("openssl, the second implementation, is not installed: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	return o
}

func (o *openssl) run(args ...string) ([]byte, error) {
	cmd := exec.Command("openssl", args...)
	cmd.Dir = o.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("openssl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return out, nil
}

func (o *openssl) must(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := o.run(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (o *openssl) write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (o *openssl) read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(o.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (o *openssl) cert(t *testing.T, name string) *x509.Certificate {
	return parseCert(t, o.read(t, name+".pem"))
}

func (o *openssl) key(t *testing.T, name string) crypto.Signer {
	t.Helper()
	block, _ := pem.Decode(o.read(t, name+".key"))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(crypto.Signer)
}

func parseCert(t testing.TB, b []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(b)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// sign writes object.p7s.
func (o *openssl) sign(key string, more ...string) error {
	_, err := o.run(append([]string{"cms", "-sign", "-binary", "-in", "object", "-signer", key + ".pem", "-inkey", key + ".key",
		"-outform", "DER", "-out", "object.p7s"}, more...)...)
	return err
}

// TestOpenSSLVerifies: what Sign makes, OpenSSL accepts, and not for another
// object.
func TestOpenSSLVerifies(t *testing.T) {
	o := newOpenSSL(t)
	for _, k := range opensslKeys {
		key := k[0]
		t.Run(key, func(t *testing.T) {
			b, err := Sign(content, o.key(t, key), o.cert(t, key).SubjectKeyId)
			if err != nil {
				t.Fatal(err)
			}
			if err := accept(b, content, o.cert(t, key)); err != nil {
				t.Fatal(err)
			}
			o.write(t, "object.p7s", b)
			verify := []string{"cms", "-verify", "-binary", "-inform", "DER", "-in", "object.p7s",
				"-certfile", key + ".pem", "-CAfile", key + ".pem", "-purpose", "any", "-out", os.DevNull, "-content"}
			if key == "ed25519" {
				o.verifyEd25519(t, b)
				if _, err := o.run(append(verify, "object")...); err != nil {
					t.Skipf("%s cannot verify CMS with Ed25519; the signature in it was checked with openssl pkeyutl: %v", o.version, err)
				}
			}
			o.must(t, append(verify, "object")...)
			if _, err := o.run(append(verify, "other")...); err == nil {
				t.Error("openssl verified another object: this test proves nothing")
			}
		})
	}
}

// verifyEd25519 checks the bare signature inside a message.
func (o *openssl) verifyEd25519(t *testing.T, message []byte) {
	t.Helper()
	o.write(t, "bare", message[len(message)-ed25519.SignatureSize:])
	verify := []string{"pkeyutl", "-verify", "-rawin", "-certin", "-inkey", "ed25519.pem", "-sigfile", "bare", "-in"}
	o.must(t, append(verify, "object")...)
	if _, err := o.run(append(verify, "other")...); err == nil {
		t.Error("openssl verified another object: this test proves nothing")
	}
}

// TestSameBytes: with RSA, whose signatures are not random, Sign makes the very
// bytes that OpenSSL makes with bpftool's flags.
func TestSameBytes(t *testing.T) {
	o := newOpenSSL(t)
	if err := o.sign("rsa", "-noattr", "-nocerts", "-keyid", "-md", "sha256"); err != nil {
		t.Fatal(err)
	}
	got, err := Sign(content, o.key(t, "rsa"), o.cert(t, "rsa").SubjectKeyId)
	if err != nil {
		t.Fatal(err)
	}
	if want := o.read(t, "object.p7s"); !bytes.Equal(got, want) {
		t.Errorf("Sign made\n%x, OpenSSL\n%x", got, want)
	}
}

// TestSignCarries: the certificates travel in the order DER has for a SET, and
// the caller's are left as they are. OpenSSL lists what is inside.
func TestSignCarries(t *testing.T) {
	k := ecKey()
	carried := [][]byte{rsaKey().cert.Raw, k.cert.Raw, edKey().cert.Raw}
	slices.SortFunc(carried, func(a, b []byte) int { return bytes.Compare(b, a) }) // the wrong way round
	before := slices.Clone(carried)
	b, err := Sign(content, k, k.cert.SubjectKeyId, carried...)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(carried, before, bytes.Equal) {
		t.Error("Sign sorted its caller's certificates")
	}
	m, err := Parse(b)
	if err != nil || !slices.IsSortedFunc(m.Certificates, bytes.Compare) || len(m.Certificates) != 3 {
		t.Fatalf("%v, %d certificates", err, len(m.Certificates))
	}
	// One that is no certificate is one that Parse does not read.
	if _, err := Sign(content, k, k.cert.SubjectKeyId, []byte("not DER")); err == nil || !strings.Contains(err.Error(), "a certificate is malformed") {
		t.Errorf("not DER: %v", err)
	}
	o := newOpenSSL(t)
	o.write(t, "carried.p7s", b)
	o.must(t, "cms", "-verify", "-noverify", "-binary", "-inform", "DER", "-in", "carried.p7s", "-content", "object", "-certsout", "carried", "-out", os.DevNull)
	if n := bytes.Count(o.read(t, "carried"), []byte("-----BEGIN CERTIFICATE-----")); n != 3 {
		t.Errorf("openssl finds %d certificates in it", n)
	}
}
