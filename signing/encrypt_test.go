package signing

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
)

// TestEncryptKey: openssl finds the same key in it, and nothing without the
// passphrase.
func TestEncryptKey(t *testing.T) {
	for _, algorithm := range []string{"ecdsa", "ecdsa-p521", "rsa-2048", "ed25519"} {
		keyPEM, _, err := Keygen("team", algorithm)
		if err != nil {
			t.Fatal(err)
		}
		b, err := EncryptKey(keyPEM, []byte("correct horse"))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := EncryptKey(keyPEM, []byte("correct horse")); err != nil || bytes.Equal(again, b) {
			t.Errorf("%s: the same bytes twice: %v", algorithm, err)
		}
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		plain, err := exec.Command("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", file, "-passin", "pass:correct horse").Output()
		want, _ := pem.Decode(keyPEM)
		if got, _ := pem.Decode(plain); err != nil || got == nil || !bytes.Equal(got.Bytes, want.Bytes) {
			t.Errorf("%s: openssl: %v, another key", algorithm, err)
		}
		if out, err := exec.Command("openssl", "pkey", "-noout", "-in", file, "-passin", "pass:wrong horse").CombinedOutput(); err == nil {
			t.Errorf("%s: openssl with another passphrase: %s", algorithm, out)
		}
		key, err := ParseEncryptedKey(b, secret("correct horse"))
		if err != nil || !mustKey(t, keyPEM).Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
	keyPEM, certPEM, err := Keygen("team", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, passphrase := range []string{"", strings.Repeat("x", maxPassphrase+1)} {
		if _, err := EncryptKey(keyPEM, []byte(passphrase)); err == nil || remedy.Of(err) == "" {
			t.Errorf("passphrase of %d bytes: %v", len(passphrase), err)
		}
	}
	if _, err := EncryptKey(certPEM, []byte("x")); err == nil {
		t.Error("a certificate was encrypted")
	}
}

func mustKey(t testing.TB, b []byte) crypto.Signer {
	t.Helper()
	key, err := ParseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestIssuerOutsideItsValidity: what such a CA issues would count nowhere.
func TestIssuerOutsideItsValidity(t *testing.T) {
	for name, change := range map[string]func(*x509.Certificate){
		"over": func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) },
		"not yet": func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		},
		"now": func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) },
	} {
		ca := issued(t, nil, func(c *x509.Certificate) {
			c.NotBefore = time.Now().AddDate(0, 0, -1)
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
			change(c)
		})
		_, _, err := Issue("leaf", "", false, &Issuer{Cert: ca.cert, Key: ca.key})
		if name == "now" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), `certificate of "CN=issued" is valid from `) || remedy.Of(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSelfSigned: the name alone does not say it.
func TestSelfSigned(t *testing.T) {
	caKey, caCert, err := Issue("same", "", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	ca := parsed(t, caKey, caCert)
	leafKey, leafCert, err := Issue("same", "", false, &Issuer{Cert: ca.cert, Key: ca.key})
	if err != nil {
		t.Fatal(err)
	}
	leaf := parsed(t, leafKey, leafCert)
	if !SelfSigned(ca.cert) || SelfSigned(leaf.cert) {
		t.Errorf("CA %t, leaf %t", SelfSigned(ca.cert), SelfSigned(leaf.cert))
	}
	signature, err := Sign(object, leaf.key, leaf.cert)
	if err != nil {
		t.Fatal(err)
	}
	v, err := trust(t, map[string][]byte{"ca.pem": ca.pem()}).Verify(Bundle{Object: object, ObjectFile: "x.o", Signature: signature}, nil, time.Now())
	if err != nil || v.Signer().Name != "ca" {
		t.Errorf("%v, by %q", err, v.Signer().Name)
	}
}
