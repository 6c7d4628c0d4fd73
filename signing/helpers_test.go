package signing

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
	"github.com/hornetd/hornetd/internal/remedy"
)

// now is when tests take place that say to Verify when that is; what keygen makes is
// valid from the real time on.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// made is when the files below testdata were.
var made = time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)

var object = []byte("\x7fELF an object")

// signer is a key and its certificate.
type signer struct {
	key  crypto.Signer
	cert *x509.Certificate
}

func (s signer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw})
}

func (s signer) publicPEM(t testing.TB) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b})
}

// sign makes a signature without asking whether the certificate may.
func (s signer) sign(t testing.TB, object []byte) []byte {
	t.Helper()
	b, err := cms.Sign(object, s.key, s.cert.SubjectKeyId)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// generated is a signer by Keygen.
func generated(t testing.TB, name, algorithm string) signer {
	t.Helper()
	keyPEM, certPEM, err := Keygen(name, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, keyPEM, certPEM)
}

// issued is a signer with the certificate change makes of a good one. A nil
// key is a new one.
func issued(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) signer {
	t.Helper()
	if key == nil {
		key = generated(t, "issued", "").key
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := derivedKeyIDs(spki)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "issued"},
		NotBefore:    now.AddDate(0, 0, -1),
		NotAfter:     now.AddDate(0, 0, 1),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		SubjectKeyId: ids[0],
	}
	change(template)
	b, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(b)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, cert}
}

func trust(t testing.TB, files map[string][]byte) *Trust {
	t.Helper()
	trust, err := ParseTrust(files)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// refusal returns the verdict, the message and the remedy of an error by Verify.
func refusal(t testing.TB, err error) (Verdict, string, string) {
	t.Helper()
	if err == nil {
		return OK, "", ""
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is not an *Error", err)
	}
	if remedy.Of(err) == "" {
		t.Errorf("%v has no remedy", err)
	}
	return e.Verdict, err.Error(), remedy.Of(err)
}
