package signing

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// named are the attacks that whoever asks for this verifier names. Each has a
// row in TestNegative.
var named = []string{"zero signatures", "over another file", "over the hash", "over the hash of the hash", "wrong content type", "duplicate attributes",
	"one flipped bit anywhere in the object", "one flipped bit anywhere in the signature", "one flipped bit anywhere in a file with both",
	"truncated object", "truncated signature", "truncated file with both", "trailing bytes behind the object", "trailing bytes behind the signature", "trailing bytes behind the trailer",
	"expired", "not yet valid", "revoked key", "revoked certificate", "revoked object", "wrong usage", "weak key", "SHA-1", "unknown signer", "signer of another role",
	"older version", "older than the list's minimum", "same version with other content", "same version with another object"}

// clock is a time at which all certificates are valid, also those of testdata.
var clock = now.Add(12 * time.Hour)

// TestNegative is the table of what must be refused, as a whole: an object, or a
// claim about one, and the one word that is said. A row is good but for what its
// name says. TestRefused of internal/cms, TestTrailer, TestSignedManifest,
// TestCertificates, TestChains and TestListRefused have the finer differences.
func TestNegative(t *testing.T) {
	obj, err := os.ReadFile("../examples/exec-count/exec_count.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	team, dev, stranger, valid := issued(t, nil, asIs), issued(t, nil, asIs), issued(t, nil, asIs), issued(t, nil, asIs)
	store := trust(t, map[string][]byte{"team.pem": team.pem(), "dev.pem": dev.pem()})
	good := team.sign(t, obj)
	digest := sha256.Sum256(obj)
	twice := sha256.Sum256(digest[:])

	// bundle is row by row what Verify gets, and where.
	bundle := func(s *Trust, object, signature []byte, signers ...string) func() error {
		return func() error {
			_, err := s.Verify(Bundle{Object: object, ObjectFile: "x.o", Signature: signature}, signers, clock)
			return err
		}
	}
	// of is by a key whose certificate is changed.
	of := func(change func(*x509.Certificate)) func() error {
		s := issued(t, nil, change)
		return bundle(trust(t, map[string][]byte{"team.pem": s.pem()}), obj, s.sign(t, obj))
	}
	// der is good with its structure changed, with all lengths right.
	der := func(message []byte, change func(info, signer *element)) []byte {
		root := parseDER(message)
		data := root.kids[1].kids[0]
		change(data, data.kids[len(data.kids)-1].kids[0])
		return root.encode()
	}
	theirs, err := os.ReadFile("../internal/cms/testdata/p384-attributes.p7s")
	if err != nil {
		t.Fatal(err)
	}
	theirPEM, err := os.ReadFile("../internal/cms/testdata/p384.pem")
	if err != nil {
		t.Fatal(err)
	}
	theirObject, err := os.ReadFile("../internal/cms/testdata/object")
	if err != nil {
		t.Fatal(err)
	}
	their := trust(t, map[string][]byte{"p384.pem": theirPEM})
	sha1 := []byte("\x06\x05\x2b\x0e\x03\x02\x1a")
	sha256ID := []byte("\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01")
	at7 := advanced(t, claim(7, "a"))
	other := claim(7, "a")
	other.ObjectDigest = "another"
	minimum := new(Trust).WithRevocations(list(t, "serial = 1\n[[manifest]]\nname = 'm'\nversion = 8\n"))

	// What is changed below is accepted as it is.
	for name, accept := range map[string]func() error{
		"detached": bundle(store, obj, good, "team"), "appended": bundle(store, Append(obj, good), nil), "theirs": bundle(their, theirObject, theirs),
		"as it should be": of(asIs), "not revoked": bundle(store.with(t, valid), obj, valid.sign(t, obj)),
		"newer": func() error { return at7.Check(claim(8, "b")) }, "not too old": func() error { return minimum.CheckVersion(claim(8, "a")) },
	} {
		if err := accept(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}

	one := func(err error) []error { return []error{err} }
	always := func(f func() error) func() []error { return func() []error { return one(f()) } }
	for _, row := range []struct {
		name    string
		verdict []Verdict // of all, one of these
		refuse  func() []error
	}{
		{"zero signatures", []Verdict{BadSignature}, always(bundle(store, obj, der(good, func(data, _ *element) {
			data.kids[len(data.kids)-1].kids, data.kids[len(data.kids)-1].body = nil, nil
		})))},
		{"over another file", []Verdict{BadSignature}, always(bundle(store, obj, team.sign(t, []byte("another"))))},
		{"over the hash", []Verdict{BadSignature}, always(bundle(store, obj, team.sign(t, digest[:])))},
		{"over the hash of the hash", []Verdict{BadSignature}, always(bundle(store, obj, team.sign(t, twice[:])))},
		{"wrong content type", []Verdict{BadSignature}, always(bundle(store, obj, der(good, func(data, _ *element) {
			data.kids[2].kids[0].body = slices.Concat(data.kids[2].kids[0].body[:8], []byte{2})
		})))},
		{"duplicate attributes", []Verdict{BadSignature}, always(bundle(their, theirObject, der(theirs, func(_, signer *element) {
			attributes := signer.kids[3]
			attributes.kids = slices.Insert(attributes.kids, 1, attributes.kids[1])
		})))},
		{"one flipped bit anywhere in the object", []Verdict{BadSignature}, func() []error {
			return flipped(t, obj, func(b []byte) error { return bundle(store, b, good)() })
		}},
		{"one flipped bit anywhere in the signature", []Verdict{BadSignature, UnknownKey}, func() []error {
			return flipped(t, good, func(b []byte) error { return bundle(store, obj, b)() })
		}},
		{"one flipped bit anywhere in a file with both", []Verdict{BadSignature, UnknownKey, Unsigned}, func() []error {
			return flipped(t, Append(object, team.sign(t, object)), func(b []byte) error { return bundle(store, b, nil)() })
		}},
		{"truncated object", []Verdict{BadSignature}, func() []error {
			return truncated(obj, func(b []byte) error { return bundle(store, b, good)() })
		}},
		{"truncated signature", []Verdict{BadSignature}, func() []error {
			return truncated(good, func(b []byte) error { return bundle(store, obj, b)() })
		}},
		{"truncated file with both", []Verdict{Unsigned}, func() []error {
			return truncated(Append(obj, good), func(b []byte) error { return bundle(store, b, nil)() })
		}},
		{"trailing bytes behind the object", []Verdict{BadSignature}, always(bundle(store, append(slices.Clone(obj), 0), good))},
		{"trailing bytes behind the signature", []Verdict{BadSignature}, always(bundle(store, obj, append(slices.Clone(good), 0)))},
		{"trailing bytes behind the trailer", []Verdict{Unsigned}, always(bundle(store, append(Append(obj, good), 0), nil))},
		{"expired", []Verdict{Expired}, always(of(func(c *x509.Certificate) { c.NotAfter = clock.Add(-time.Second) }))},
		{"not yet valid", []Verdict{Expired}, always(of(func(c *x509.Certificate) { c.NotBefore = clock.Add(time.Second) }))},
		{"revoked key", []Verdict{Revoked}, always(bundle(store.WithRevocations(list(t, fmt.Sprintf("serial = 1\n[[key]]\nid = '%x'\n", valid.cert.SubjectKeyId))).with(t, valid), obj, valid.sign(t, obj)))},
		{"revoked certificate", []Verdict{Revoked}, always(bundle(store.WithRevocations(list(t, "serial = 1\n[[certificate]]\nsha256 = '"+hexOf(valid.cert.Raw)+"'\n")).with(t, valid), obj, valid.sign(t, obj)))},
		{"revoked object", []Verdict{Revoked}, always(bundle(store.WithRevocations(list(t, "serial = 1\n[[object]]\nsha256 = '"+hexOf(obj)+"'\n")), obj, good))},
		{"wrong usage", []Verdict{UnknownKey}, always(of(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))},
		{"weak key", []Verdict{UnknownKey}, always(weak(t, obj))},
		{"SHA-1", []Verdict{BadSignature}, always(bundle(store, obj, der(good, func(data, signer *element) {
			for _, id := range []*element{data.kids[1].kids[0], signer.kids[2]} {
				if !bytes.Equal(id.kids[0].encode(), sha256ID) {
					t.Fatalf("%x is not SHA-256", id.kids[0].encode())
				}
				id.kids[0] = parseDER(sha1)
			}
		})))},
		{"unknown signer", []Verdict{UnknownKey}, always(bundle(store, obj, stranger.sign(t, obj)))},
		{"signer of another role", []Verdict{UnknownKey}, always(bundle(store, obj, good, "dev"))},
		{"older version", []Verdict{RolledBack}, always(func() error { return at7.Check(claim(6, "a")) })},
		{"older than the list's minimum", []Verdict{RolledBack}, always(func() error { return minimum.CheckVersion(claim(7, "a")) })},
		{"same version with other content", []Verdict{RolledBack}, always(func() error { return at7.Check(claim(7, "b")) })},
		{"same version with another object", []Verdict{RolledBack}, always(func() error { return at7.Check(other) })},
	} {
		t.Run(row.name, func(t *testing.T) {
			if i := slices.Index(named, row.name); i < 0 {
				t.Error("the row has no name in named")
			} else {
				named = slices.Delete(slices.Clone(named), i, i+1)
			}
			got := map[Verdict]int{}
			for i, err := range row.refuse() {
				verdict, _, _ := refusal(t, err)
				if got[verdict]++; !slices.Contains(row.verdict, verdict) {
					t.Fatalf("%d: %s, %v", i, verdict, err)
				}
			}
			if len(got) != len(row.verdict) {
				t.Errorf("verdicts %v, want all of %s", got, row.verdict)
			}
		})
	}
	if len(named) > 0 {
		t.Errorf("no row for %s", strings.Join(named, ", "))
	}
}

// with is t and another key in it.
func (t *Trust) with(tb testing.TB, s signer) *Trust {
	more := trust(tb, map[string][]byte{"valid.pem": s.pem()})
	more.list = t.list
	return more
}

// flipped calls try with each bit of b flipped.
func flipped(t *testing.T, b []byte, try func([]byte) error) (all []error) {
	t.Helper()
	b = slices.Clone(b)
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			all = append(all, try(b))
			b[i] ^= 1 << bit
		}
	}
	return all
}

// truncated calls try with b cut after each byte.
func truncated(b []byte, try func([]byte) error) (all []error) {
	for n := range b {
		all = append(all, try(b[:n:n]))
	}
	return all
}

// weak is a signature by a key of 1024 bits that the store has.
func weak(t *testing.T, object []byte) func() error {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	s := issued(t, key, asIs)
	sum := sha256.Sum256(object)
	bits, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	// No signer of ours signs with it: its bits take the place of a good key's.
	strong := generated(t, "strong", "rsa-2048")
	root := parseDER(strong.sign(t, object))
	data := root.kids[1].kids[0]
	info := data.kids[len(data.kids)-1].kids[0]
	info.kids[1].body, info.kids[len(info.kids)-1].body = s.cert.SubjectKeyId, bits
	signature := root.encode()
	return func() error {
		_, err := trust(t, map[string][]byte{"weak.pem": s.pem()}).Verify(Bundle{Object: object, ObjectFile: "x.o", Signature: signature}, nil, clock)
		return err
	}
}
