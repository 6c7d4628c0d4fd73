package signing

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
	"github.com/hornetd/hornetd/internal/remedy"
)

// keyAlgorithms are what Keygen takes, and what Signer.Algorithm says of it.
var keyAlgorithms = map[string]string{
	"":           "ECDSA P-256",
	"ecdsa":      "ECDSA P-256",
	"ecdsa-p256": "ECDSA P-256",
	"ecdsa-p384": "ECDSA P-384",
	"ecdsa-p521": "ECDSA P-521",
	"rsa":        "RSA 3072",
	"rsa-2048":   "RSA 2048",
	"rsa-3072":   "RSA 3072",
	"rsa-4096":   "RSA 4096",
	"ed25519":    "Ed25519",
}

func TestKeygen(t *testing.T) {
	for algorithm, want := range keyAlgorithms {
		t.Run(algorithm, func(t *testing.T) {
			s := generated(t, "team", algorithm)
			signature, err := Sign(object, s.key, s.cert)
			if err != nil {
				t.Fatal(err)
			}
			v, err := trust(t, map[string][]byte{"team.pem": s.pem()}).Verify(Bundle{Object: object, Signature: signature}, []string{"team"}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if got := v.Signer().Algorithm; got != want {
				t.Errorf("algorithm %q, want %q", got, want)
			}
			c := s.cert
			if c.Subject.String() != "CN=team" || c.IsCA || !c.BasicConstraintsValid || c.SerialNumber.Sign() <= 0 || len(c.SubjectKeyId) != 20 {
				t.Errorf("subject %s, CA %t, serial number %v, key identifier %x", c.Subject, c.IsCA, c.SerialNumber, c.SubjectKeyId)
			}
			if years := time.Until(c.NotAfter).Hours() / 24 / 365.25; years < 9.9 || years > 10.1 {
				t.Errorf("valid for %.2f years", years)
			}
			if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
				t.Errorf("not self-signed: %v", err)
			}
		})
	}
}

func TestKeygenRefuses(t *testing.T) {
	for _, test := range []struct{ name, algorithm, want string }{
		{"", "", `key name "" is not valid`},
		{"a/b", "", "is not valid"},
		{"../team", "", "is not valid"},
		{".hidden", "", "is not valid"},
		{strings.Repeat("n", 64), "", "is not valid"},
		{"team", "dsa", `key algorithm "dsa" is not known`},
		{"team", "rsa-1024", `key algorithm "rsa-1024" is not known`},
	} {
		if _, _, err := Keygen(test.name, test.algorithm); err == nil || !strings.Contains(err.Error(), test.want) || remedy.Of(err) == "" {
			t.Errorf("%q, %q: got %v, want %q", test.name, test.algorithm, err, test.want)
		}
	}
}

func TestParseKey(t *testing.T) {
	block := func(kind string, b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(exchange)
	sec1, sec1Err := x509.MarshalECPrivateKey(ec)
	parameters := block("EC PARAMETERS", []byte{5, 0}, nil)
	legacy := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-128-CBC,00"}, Bytes: []byte{1}})

	for _, test := range []struct {
		name string
		pem  []byte
		key  crypto.Signer
		want string
	}{
		{"SEC 1", block("EC PRIVATE KEY", sec1, sec1Err), ec, ""},
		{"SEC 1 behind parameters", append(parameters, block("EC PRIVATE KEY", sec1, nil)...), ec, ""},
		{"PKCS #1", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), nil), rsaKey, ""},
		{"nothing", nil, nil, "no PEM block"},
		{"parameters only", parameters, nil, "no PEM block"},
		{"parameters twice", append(parameters, parameters...), nil, `PEM block "EC PARAMETERS" is not one`},
		{"certificate", block("CERTIFICATE", []byte{1}, nil), nil, `PEM block "CERTIFICATE" is not one`},
		{"encrypted", block("ENCRYPTED PRIVATE KEY", []byte{1}, nil), nil, "it is encrypted"},
		{"encrypted the old way", legacy, nil, "it is encrypted"},
		{"damaged", block("PRIVATE KEY", []byte{1}, nil), nil, "private key: "},
		{"damaged SEC 1", block("EC PRIVATE KEY", []byte{1}, nil), nil, "private key: "},
		{"a key for exchanges", block("PRIVATE KEY", pkcs8, err), nil, "a key of type *ecdh.PrivateKey cannot sign"},
	} {
		t.Run(test.name, func(t *testing.T) {
			key, err := ParseKey(test.pem)
			if test.key == nil {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !test.key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
				t.Error("another key")
			}
		})
	}
	for _, b := range [][]byte{legacy, nil} {
		if _, err := ParseKey(b); remedy.Of(err) == "" {
			t.Errorf("%v has no remedy", err)
		}
	}
}

func TestParseCertificate(t *testing.T) {
	s := generated(t, "team", "")
	for _, test := range []struct {
		name string
		b    []byte
		want string // empty: accepted
	}{
		{"PEM", s.pem(), ""},
		{"DER", s.cert.Raw, ""},
		{"nothing", nil, "no PEM block"},
		{"two", append(s.pem(), s.pem()...), "2 PEM blocks"},
		{"public key", s.publicPEM(t), `"PUBLIC KEY": one certificate is needed`},
		{"damaged DER", s.cert.Raw[:100], "certificate: x509"},
		{"damaged PEM", bytes.Replace(s.pem(), []byte("-END"), []byte("-end"), 1), "damaged"},
	} {
		cert, err := ParseCertificate(test.b)
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: got %v, want %q", test.name, err, test.want)
			}
		} else if err != nil || !cert.Equal(s.cert) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// oddKey is a key of a kind that has no Equal.
type oddKey struct{ crypto.Signer }

func (oddKey) Public() crypto.PublicKey { return "odd" }

func TestSignRefuses(t *testing.T) {
	s, other := generated(t, "team", ""), generated(t, "other", "")
	web := issued(t, nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	nameless := issued(t, nil, func(c *x509.Certificate) { c.SubjectKeyId = nil })
	for _, test := range []struct {
		name   string
		object []byte
		key    crypto.Signer
		cert   *x509.Certificate
		want   string
		remedy bool
	}{
		{"nothing to sign", nil, s.key, s.cert, "object is empty", false},
		{"another's certificate", object, s.key, other.cert, `certificate of "CN=other" is not for this key`, true},
		{"an odd key", object, oddKey{s.key}, s.cert, "is not for this key", true},
		{"a web server's certificate", object, web.key, web.cert, "extended key usage has no codeSigning", true},
		{"no key identifier", object, nameless.key, nameless.cert, "no subject key identifier", true},
	} {
		b, err := Sign(test.object, test.key, test.cert)
		if err == nil || b != nil || !strings.Contains(err.Error(), test.want) || (remedy.Of(err) != "") != test.remedy {
			t.Errorf("%s: got %x, %v (remedy %q), want %q", test.name, b, err, remedy.Of(err), test.want)
		}
	}
	// A set of signed attributes with contentType and messageDigest.
	attributes := append([]byte("\x31\x3d\x30\x18\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x03\x31\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"+
		"\x30\x21\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x04\x31\x14\x04\x12"), make([]byte, 18)...)
	if _, err := Sign(attributes, s.key, s.cert); !errors.Is(err, cms.ErrAmbiguous) {
		t.Errorf("signed attributes: %v", err)
	}
}

// openssl runs in dir.
func openssl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skipf("openssl, the second implementation, is not installed: %v", err)
	}
	if err != nil {
		t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKeygenForOpenSSL: OpenSSL takes Keygen's keys and certificates, signs
// with them what Verify accepts, and verifies what Sign makes.
func TestKeygenForOpenSSL(t *testing.T) {
	for _, algorithm := range []string{"ecdsa", "ecdsa-p384", "ecdsa-p521", "rsa", "ed25519"} {
		t.Run(algorithm, func(t *testing.T) {
			dir := t.TempDir()
			keyPEM, certPEM, err := Keygen("team", algorithm)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, "key", keyPEM)
			write(t, dir, "cert", certPEM)
			write(t, dir, "object", object)
			openssl(t, dir, "pkey", "-in", "key", "-check", "-noout")
			openssl(t, dir, "verify", "-x509_strict", "-check_ss_sig", "-CAfile", "cert", "-partial_chain", "cert")
			text := openssl(t, dir, "x509", "-in", "cert", "-noout", "-text")
			for _, want := range []string{"Code Signing", "Digital Signature", "CA:FALSE", "Subject Key Identifier"} {
				if !strings.Contains(text, want) {
					t.Errorf("openssl sees no %s in\n%s", want, text)
				}
			}
			if algorithm == "ed25519" {
				t.Skip("CMS with Ed25519: OpenSSL 3.0 neither signs nor verifies it (internal/cms checks the bare signature)")
			}
			for _, shape := range [][]string{{"-noattr", "-nocerts", "-keyid"}, {"-nocerts"}, nil} {
				openssl(t, dir, append([]string{"cms", "-sign", "-binary", "-in", "object", "-signer", "cert", "-inkey", "key",
					"-outform", "DER", "-out", "theirs"}, shape...)...)
				theirs, err := os.ReadFile(filepath.Join(dir, "theirs"))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := trust(t, map[string][]byte{"team.pem": certPEM}).Verify(Bundle{Object: object, Signature: theirs}, nil, time.Now()); err != nil {
					t.Errorf("%q: %v", shape, err)
				}
				_, err = trust(t, map[string][]byte{"other.pem": generated(t, "team", "").pem()}).Verify(Bundle{Object: object, Signature: theirs}, nil, time.Now())
				if verdict, _, _ := refusal(t, err); verdict != UnknownKey {
					t.Errorf("%q, another key of the same name: %v", shape, err)
				}
			}
			s := parsed(t, keyPEM, certPEM)
			ours, err := Sign(object, s.key, s.cert)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, "ours", ours)
			openssl(t, dir, "cms", "-verify", "-binary", "-inform", "DER", "-in", "ours", "-content", "object", "-certfile", "cert",
				"-CAfile", "cert", "-purpose", "any", "-out", os.DevNull)
		})
	}
}

// TestOpenSSLKeyFiles: the private keys and certificates OpenSSL's commands
// write, old and new.
func TestOpenSSLKeyFiles(t *testing.T) {
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"PKCS #8":           {"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key"},
		"Ed25519":           {"genpkey", "-algorithm", "ED25519", "-out", "key"},
		"PKCS #1":           {"genrsa", "-traditional", "-out", "key", "2048"},
		"SEC 1, parameters": {"ecparam", "-name", "secp384r1", "-genkey", "-out", "key"},
	} {
		t.Run(name, func(t *testing.T) {
			openssl(t, dir, args...)
			openssl(t, dir, "req", "-x509", "-key", "key", "-out", "cert", "-subj", "/CN=team")
			openssl(t, dir, "x509", "-in", "cert", "-pubkey", "-noout", "-out", "pub")
			read := func(name string) []byte {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			s := parsed(t, read("key"), read("cert"))
			signature, err := Sign(object, s.key, s.cert)
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"cert", "pub"} {
				if _, err := trust(t, map[string][]byte{"team.pem": read(file)}).Verify(Bundle{Object: object, Signature: signature}, nil, time.Now()); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		})
	}
}

// TestPSSOnlyKey: crypto/x509 does not know keys that are restricted to
// RSASSA-PSS; the store says so instead of failing.
func TestPSSOnlyKey(t *testing.T) {
	dir := t.TempDir()
	openssl(t, dir, "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes", "-keyout", "key", "-out", "cert", "-subj", "/CN=team")
	openssl(t, dir, "x509", "-in", "cert", "-outform", "DER", "-out", "der")
	der, err := os.ReadFile(filepath.Join(dir, "der"))
	if err != nil {
		t.Fatal(err)
	}
	store := trust(t, map[string][]byte{"team.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})})
	if s := store.Signers()[0]; s.Algorithm != "unknown" || !strings.Contains(s.Problem, "of a kind that is not accepted") {
		t.Errorf("%+v", s)
	}
	cert, err := ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := cms.Sign(object, generated(t, "other", "").key, cert.SubjectKeyId)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Verify(Bundle{Object: object, Signature: signature}, nil, time.Now())
	if verdict, message, _ := refusal(t, err); verdict == OK || !strings.Contains(message, "of a kind that is not accepted") {
		t.Errorf("%v", err)
	}
}

func parsed(t testing.TB, keyPEM, certPEM []byte) signer {
	t.Helper()
	key, err := ParseKey(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, cert}
}
