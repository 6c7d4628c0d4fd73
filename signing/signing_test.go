package signing

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestVerify(t *testing.T) {
	team, dev, stranger := generated(t, "team", ""), generated(t, "dev", "rsa-2048"), generated(t, "stranger", "ed25519")
	store := trust(t, map[string][]byte{"team.pem": team.pem(), "dev.pem": dev.pem()})
	digest, other := sha256.Sum256(object), sha256.Sum256(nil)
	tampered := append(slices.Clone(object), 0)
	good := team.sign(t, object)

	for _, test := range []struct {
		name    string
		trust   *Trust
		bundle  Bundle
		signers []string
		verdict Verdict
		says    []string // parts of the error
		remedy  string   // part of the remedy
	}{
		{name: "good", bundle: Bundle{Signature: good}, verdict: OK},
		{name: "good, signer named", bundle: Bundle{Signature: good}, signers: []string{"dev", "team"}, verdict: OK},
		{name: "good, digest pinned", bundle: Bundle{Signature: good, SHA256: &digest}, verdict: OK},
		{name: "no signature", verdict: Unsigned,
			says:   []string{"/o/x.o: unsigned: there is no signature /o/x.o.p7s"},
			remedy: "hornetctl sign --key KEY --cert CERT /o/x.o"},
		{name: "no signature, named file", bundle: Bundle{SignatureFile: "/sig/x.p7s"}, verdict: Unsigned, says: []string{"/sig/x.p7s"}, remedy: "hornetctl sign"},
		{name: "empty signature", bundle: Bundle{Signature: []byte{}}, verdict: BadSignature, says: []string{"/o/x.o.p7s: signature of 0 bytes"}, remedy: "hornetctl sign"},
		{name: "garbage", bundle: Bundle{Signature: []byte("-----BEGIN CMS-----")}, verdict: BadSignature, says: []string{"ContentInfo is malformed"}, remedy: "detached DER"},
		{name: "1 MiB of zeros", bundle: Bundle{Signature: make([]byte, 1<<20)}, verdict: BadSignature, says: []string{"1048576 bytes"}, remedy: "hornetctl sign"},
		{name: "tampered object", bundle: Bundle{Object: tampered, Signature: good}, verdict: BadSignature,
			says:   []string{"/o/x.o: bad-signature: /o/x.o.p7s is not a signature over this file by \"team\": signature does not match"},
			remedy: "the file or its signature was changed"},
		{name: "empty object", bundle: Bundle{Object: []byte{}, Signature: good}, verdict: BadSignature, says: []string{"does not match"}, remedy: "restore both"},
		{name: "signature of another object", bundle: Bundle{Signature: team.sign(t, []byte("another"))}, verdict: BadSignature, says: []string{`"team"`}, remedy: "do not belong together"},
		{name: "unknown key", bundle: Bundle{Signature: stranger.sign(t, object)}, verdict: UnknownKey,
			says:   []string{"/o/x.o.p7s names key identifier " + fmt.Sprintf("%x", stranger.cert.SubjectKeyId), `which is not in the trust store ("dev", "team")`},
			remedy: "NAME.pem"},
		{name: "unknown key, empty store", trust: new(Trust), bundle: Bundle{Signature: good}, verdict: UnknownKey, says: []string{"the trust store (empty)"}, remedy: "NAME.pem"},
		{name: "another signer wanted", bundle: Bundle{Signature: good}, signers: []string{"dev"}, verdict: UnknownKey,
			says: []string{`/o/x.o.p7s names the key of "team", the manifest allows "dev"`}, remedy: `add "team" to the manifest's signers`},
		{name: "unknown name", bundle: Bundle{Signature: good}, signers: []string{"team", "taem"}, verdict: UnknownKey,
			says: []string{`signer "taem" is not in the trust store ("dev", "team")`}, remedy: "taem.pem"},
		{name: "empty name", bundle: Bundle{Signature: good}, signers: []string{""}, verdict: UnknownKey, says: []string{`signer "" is not in`}, remedy: "correct"},
		{name: "another digest pinned", bundle: Bundle{Signature: good, SHA256: &other}, verdict: DigestMismatch,
			says: []string{fmt.Sprintf("its SHA-256 is %x, the manifest pins %x", digest, other)}, remedy: "object.sha256"},
		{name: "no signature, another digest pinned", bundle: Bundle{SHA256: &other}, verdict: Unsigned, says: []string{"no signature"}, remedy: "hornetctl sign"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, s := test.bundle, test.trust
			b.ObjectFile = "/o/x.o"
			if b.Object == nil {
				b.Object = object
			}
			if s == nil {
				s = store
			}
			v, err := s.Verify(b, test.signers, time.Now())
			check(t, v, err, test.verdict, test.says, test.remedy)
		})
	}
}

// check compares what Verify returned with what a test wants.
func check(t *testing.T, v Verified, err error, verdict Verdict, says []string, hint string) {
	t.Helper()
	got, message, remedy := refusal(t, err)
	if got != verdict {
		t.Fatalf("verdict %s, want %s: %v", got, verdict, err)
	}
	if v.IsZero() != (err != nil) {
		t.Errorf("zero %t with error %v", v.IsZero(), err)
	}
	for _, s := range says {
		if !strings.Contains(message, s) {
			t.Errorf("error %q does not say %q", message, s)
		}
	}
	if !strings.Contains(remedy, hint) {
		t.Errorf("remedy %q does not say %q", remedy, hint)
	}
}

// TestCertificates: what a certificate must say for its key's signature to count.
func TestCertificates(t *testing.T) {
	usage := func(u x509.KeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage = u }
	}
	extended := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	for _, test := range []struct {
		name    string
		change  func(*x509.Certificate)
		verdict Verdict
		says    string
		remedy  string
	}{
		{"as it should be", func(*x509.Certificate) {}, OK, "", ""},
		{"no usages at all", func(c *x509.Certificate) { c.KeyUsage, c.ExtKeyUsage = 0, nil }, OK, "", ""},
		{"contentCommitment", usage(x509.KeyUsageContentCommitment), OK, "", ""},
		{"any extended usage", extended(x509.ExtKeyUsageAny), OK, "", ""},
		{"codeSigning among others", extended(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageCodeSigning), OK, "", ""},
		{"serverAuth", extended(x509.ExtKeyUsageServerAuth), UnknownKey, "extended key usage has no codeSigning", "put a code-signing certificate into team.pem"},
		{"unknown extended usage", func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
		}, UnknownKey, "extended key usage has no codeSigning", "put a code-signing certificate into team.pem"},
		{"certSign only", usage(x509.KeyUsageCertSign), UnknownKey, "key usage has no digitalSignature", "put a code-signing certificate into team.pem"},
		{"critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, UnknownKey, "critical extension that is not understood (1.2.3)", "put a code-signing certificate into team.pem"},
		{"expired", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, Expired,
			`certificate of "team" was valid until 2026-11-23T11:59:59Z, the clock says 2026-11-23T12:00:00Z`, "put a renewed certificate into team.pem"},
		{"last second", func(c *x509.Certificate) { c.NotAfter = now }, OK, "", ""},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }, Expired,
			`certificate of "team" is valid from 2026-11-23T12:00:01Z, the clock says`, "set the clock"},
		{"first second", func(c *x509.Certificate) { c.NotBefore = now }, OK, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := issued(t, nil, test.change)
			store := trust(t, map[string][]byte{"team.pem": s.pem()})
			b := Bundle{Object: object, ObjectFile: "x.o", Signature: s.sign(t, object)}
			v, err := store.Verify(b, nil, now)
			check(t, v, err, test.verdict, []string{test.says}, test.remedy)

			// Expired is said of good signatures only.
			b.Object = []byte("another")
			v, err = store.Verify(b, nil, now)
			if test.verdict != UnknownKey {
				check(t, v, err, BadSignature, nil, "")
			}
		})
	}
}

// TestRenewed: several certificates with one key identifier.
func TestRenewed(t *testing.T) {
	old := issued(t, nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) })
	renewed := issued(t, old.key, func(*x509.Certificate) {})
	imposter := issued(t, nil, func(c *x509.Certificate) { c.SubjectKeyId = old.cert.SubjectKeyId })
	b := Bundle{Object: object, ObjectFile: "x.o", Signature: old.sign(t, object)}

	for _, test := range []struct {
		name    string
		files   map[string][]byte
		signers []string
		verdict Verdict
		signer  string
	}{
		{"old only", map[string][]byte{"a.pem": old.pem()}, nil, Expired, ""},
		{"both in one file", map[string][]byte{"a.pem": append(old.pem(), renewed.pem()...)}, nil, OK, "a"},
		{"both in one file, the other way round", map[string][]byte{"a.pem": append(renewed.pem(), old.pem()...)}, nil, OK, "a"},
		{"two files", map[string][]byte{"a.pem": old.pem(), "b.pem": renewed.pem()}, nil, OK, "b"},
		{"two files, old one wanted", map[string][]byte{"a.pem": old.pem(), "b.pem": renewed.pem()}, []string{"a"}, Expired, ""},
		{"with an imposter", map[string][]byte{"a.pem": imposter.pem(), "b.pem": renewed.pem()}, nil, OK, "b"},
		{"imposter only", map[string][]byte{"a.pem": imposter.pem()}, nil, BadSignature, ""},
		{"imposter before the expired", map[string][]byte{"a.pem": imposter.pem(), "b.pem": old.pem()}, nil, Expired, ""},
		{"imposter behind the expired", map[string][]byte{"a.pem": old.pem(), "b.pem": imposter.pem()}, nil, Expired, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, err := trust(t, test.files).Verify(b, test.signers, now)
			check(t, v, err, test.verdict, nil, "")
			if got := v.Signer().Name; got != test.signer {
				t.Errorf("signer %q, want %q", got, test.signer)
			}
		})
	}
}

func TestVerified(t *testing.T) {
	s := issued(t, nil, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "Platform Team"} })
	mine := slices.Clone(object)
	v, err := trust(t, map[string][]byte{"team.pem": s.pem()}).Verify(Bundle{Object: mine, ObjectFile: "x.o", Signature: s.sign(t, object)}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(v.Reader())
	if err != nil || !bytes.Equal(got, object) || v.Size() != len(object) || v.Digest() != sha256.Sum256(object) {
		t.Errorf("read %q (%v), size %d, digest %x", got, err, v.Size(), v.Digest())
	}
	mine[0] ^= 1
	if first, _ := v.Reader().ReadByte(); first != mine[0] {
		t.Error("the bytes were copied: those that are loaded must be those that were verified")
	}
	want := Signer{Name: "team", Subject: "CN=Platform Team", KeyID: fmt.Sprintf("%x", s.cert.SubjectKeyId), KeySHA256: hexOf(s.cert.RawSubjectPublicKeyInfo), Algorithm: "ECDSA P-256", NotBefore: s.cert.NotBefore, NotAfter: s.cert.NotAfter}
	want.Chain = []Key{{Certificate: hexOf(s.cert.Raw), SHA256: want.KeySHA256, IDs: v.Signer().Chain[0].IDs}}
	if diff := cmp.Diff(want, v.Signer()); diff != "" {
		t.Errorf("signer (-want +got):\n%s", diff)
	}
	if v.IsZero() || v.Format() != "cms-detached" || v.Covers() != "object" {
		t.Errorf("zero %t, format %s, covers %s", v.IsZero(), v.Format(), v.Covers())
	}
}

func TestZeroVerified(t *testing.T) {
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "internal error") {
			t.Errorf("recovered %v", r)
		}
	}()
	var v Verified
	if !v.IsZero() {
		t.Error("a Verified nobody made is not zero")
	}
	v.Reader()
	t.Error("read")
}

// TestEveryBit flips every bit of a signature and says which verdict it gives.
func TestEveryBit(t *testing.T) {
	for _, algorithm := range []string{"ecdsa", "rsa-2048", "ed25519"} {
		s := generated(t, "team", algorithm)
		store := trust(t, map[string][]byte{"team.pem": s.pem()})
		b := Bundle{Object: object, ObjectFile: "x.o", Signature: s.sign(t, object)}
		verdicts := make(map[Verdict]int)
		for i := range b.Signature {
			for bit := range 8 {
				b.Signature[i] ^= 1 << bit
				_, err := store.Verify(b, nil, time.Now())
				verdict, _, _ := refusal(t, err)
				verdicts[verdict]++
				b.Signature[i] ^= 1 << bit
			}
		}
		want := map[Verdict]int{UnknownKey: 8 * 20, BadSignature: 8 * (len(b.Signature) - 20)} // the key identifier, and all else
		if diff := cmp.Diff(want, verdicts); diff != "" {
			t.Errorf("%s: verdicts (-want +got):\n%s", algorithm, diff)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	s := generated(b, "team", "")
	store := trust(b, map[string][]byte{"team.pem": s.pem()})
	big := bytes.Repeat([]byte("hornetd "), 14<<10) // 112 KiB, the median of real objects
	bundle := Bundle{Object: big, ObjectFile: "x.o", Signature: s.sign(b, big)}
	for b.Loop() {
		if _, err := store.Verify(bundle, nil, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// What an entry that may not sign says hides nothing that another one says of the
// signature itself, in whatever order they stand.
func TestRefusalOfTheFurthestEntry(t *testing.T) {
	good := issued(t, nil, func(*x509.Certificate) {})
	unusable := issued(t, good.key, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	other := issued(t, nil, func(c *x509.Certificate) { c.SubjectKeyId = good.cert.SubjectKeyId })
	b := Bundle{Object: object, ObjectFile: "x.o", Signature: good.sign(t, object)}
	late := good.cert.NotAfter.AddDate(1, 0, 0)
	revoked := list(t, "serial = 1\n[[certificate]]\nsha256 = '"+hexOf(good.cert.Raw)+"'\n")
	for name, files := range map[string]map[string][]byte{
		"first": {"a.pem": unusable.pem(), "b.pem": other.pem(), "c.pem": good.pem()},
		"last":  {"c.pem": unusable.pem(), "b.pem": other.pem(), "a.pem": good.pem()},
	} {
		store := trust(t, files)
		if _, err := store.Verify(b, nil, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, _, _ := refusal(t, second(store.Verify(b, nil, late))); got != Expired {
			t.Errorf("%s: %s, want expired", name, got)
		}
		if got, _, _ := refusal(t, second(store.WithRevocations(revoked).Verify(b, nil, late))); got != Revoked {
			t.Errorf("%s: %s, want revoked", name, got)
		}
		accepted := b
		accepted.Accepted = func(Signer, [32]byte) bool { return true }
		if v, err := store.Verify(accepted, nil, late); err != nil || v.Verdict() != OKExpired {
			t.Errorf("%s: accepted before: %s, %v", name, v.Verdict(), err)
		}
	}
}
