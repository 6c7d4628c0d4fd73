// Package vectors holds internal/cms against the test vectors of Project
// Wycheproof. They are 100 MB, which the other tests of that package are spared.
package vectors

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/hornetd/hornetd/internal/cms"
)

// file, group and vector are what is needed of a file's JSON.
type file struct {
	Algorithm  string  `json:"algorithm"`
	TestGroups []group `json:"testGroups"`
}

type group struct {
	Type         string          `json:"type"`
	Sha          string          `json:"sha"`
	MgfSha       string          `json:"mgfSha"`
	SLen         int             `json:"sLen"`
	KeySize      int             `json:"keySize"`
	PublicKey    json.RawMessage `json:"publicKey"` // RSA: numbers; ECDSA, EdDSA: a curve
	PublicKeyDer string          `json:"publicKeyDer"`
	PrivateKey   json.RawMessage `json:"privateKey"` // RsassaPkcs1Generate: its numbers
	Tests        []vector        `json:"tests"`
}

type vector struct {
	ID      int      `json:"tcId"`
	Comment string   `json:"comment"`
	Flags   []string `json:"flags"`
	Msg     string   `json:"msg"`
	Sig     string   `json:"sig"`
	Result  string   `json:"result"` // valid, invalid, acceptable
}

var digests = map[string]string{
	"SHA-1": "1.3.14.3.2.26", "SHA-224": "2.16.840.1.101.3.4.2.4", "SHA-256": "2.16.840.1.101.3.4.2.1",
	"SHA-384": "2.16.840.1.101.3.4.2.2", "SHA-512": "2.16.840.1.101.3.4.2.3", "SHA-512/224": "2.16.840.1.101.3.4.2.5",
	"SHA-512/256": "2.16.840.1.101.3.4.2.6", "SHA3-224": "2.16.840.1.101.3.4.2.7", "SHA3-256": "2.16.840.1.101.3.4.2.8",
	"SHA3-384": "2.16.840.1.101.3.4.2.9", "SHA3-512": "2.16.840.1.101.3.4.2.10",
	"SHAKE128": "2.16.840.1.101.3.4.2.11", "SHAKE256": "2.16.840.1.101.3.4.2.12",
}

// ecdsa are ecdsa-with-SHA2 (RFC 5754, section 3.3) and, for digests that are
// not accepted, one that would not be either.
var ecdsa = map[string]string{
	"SHA-256": "1.2.840.10045.4.3.2", "SHA-384": "1.2.840.10045.4.3.3", "SHA-512": "1.2.840.10045.4.3.4",
}

var null = asn1.RawValue{Tag: asn1.TagNull}

// der encodes its arguments as a SEQUENCE, with encoding/asn1 and not with the
// encoder of the code under test.
func der(t testing.TB, parts ...any) asn1.RawValue { return wrap(t, 0, 0x10, parts...) }

func wrap(t testing.TB, class, tag int, parts ...any) asn1.RawValue {
	t.Helper()
	v := asn1.RawValue{Class: class, Tag: tag, IsCompound: true}
	for _, p := range parts {
		b, err := asn1.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		v.Bytes = append(v.Bytes, b...)
	}
	return v
}

func oid(t testing.TB, dotted string) asn1.ObjectIdentifier {
	t.Helper()
	var id x509.OID
	if err := id.UnmarshalText([]byte(dotted)); err != nil {
		t.Fatalf("%q: %v", dotted, err)
	}
	var o asn1.ObjectIdentifier
	for s := range strings.SplitSeq(dotted, ".") {
		var n int
		fmt.Sscan(s, &n)
		o = append(o, n)
	}
	return o
}

// algorithm is the AlgorithmIdentifier under which CMS would carry g's
// signatures; nil where it has none.
func algorithm(t testing.TB, f file, g group) any {
	switch f.Algorithm {
	case "RSASSA-PKCS1-v1_5":
		return der(t, oid(t, "1.2.840.113549.1.1.1"), null)
	case "RSASSA-PSS":
		hash, mask := der(t, oid(t, digests[g.Sha]), null), any(null)
		if g.MgfSha != "" {
			mask = der(t, oid(t, digests[g.MgfSha]), null)
		}
		return der(t, oid(t, "1.2.840.113549.1.1.10"), der(t, wrap(t, 2, 0, hash),
			wrap(t, 2, 1, der(t, oid(t, "1.2.840.113549.1.1.8"), mask)), wrap(t, 2, 2, g.SLen)))
	case "ECDSA":
		if ecdsa[g.Sha] == "" {
			return der(t, oid(t, "1.2.840.10045.4.1"))
		}
		return der(t, oid(t, ecdsa[g.Sha]))
	}
	return der(t, oid(t, "1.3.101.112"))
}

// message is a signature in the shape that bpftool and the kernel's tools make.
func message(t testing.TB, digest, algorithm any, sig []byte) []byte {
	t.Helper()
	data := der(t, 3, wrap(t, 0, 0x11, digest), der(t, oid(t, "1.2.840.113549.1.7.1")),
		wrap(t, 0, 0x11, der(t, 3, asn1.RawValue{Class: 2, Tag: 0, Bytes: []byte("vector")}, digest, algorithm, sig)))
	b, err := asn1.Marshal(der(t, oid(t, "1.2.840.113549.1.7.2"), wrap(t, 2, 0, data)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// key is g's public key; nil where crypto/x509 knows no such curve.
func (g group) key(t testing.TB) crypto.PublicKey {
	var n struct{ Modulus, PublicExponent string }
	raw := g.PublicKey
	if g.PrivateKey != nil {
		raw = g.PrivateKey
	}
	json.Unmarshal(raw, &n)
	if n.Modulus != "" { // the numbers: a key that says it is for PSS is one that crypto/x509 does not read
		return &rsa.PublicKey{N: new(big.Int).SetBytes(unhex(t, n.Modulus)), E: int(new(big.Int).SetBytes(unhex(t, n.PublicExponent)).Int64())}
	}
	key, err := x509.ParsePKIXPublicKey(unhex(t, g.PublicKeyDer))
	if err != nil {
		return nil
	}
	return key
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// beyond says why none of g's signatures is accepted here, however good, or "".
func (g group) beyond(key crypto.PublicKey) string {
	_, isRSA := key.(*rsa.PublicKey)
	accepted := map[string]int{"SHA-256": 32, "SHA-384": 48, "SHA-512": 64}[g.Sha]
	switch {
	case key == nil:
		return "curve that crypto/x509 does not know"
	case cms.CheckKey(key) != nil && isRSA:
		return "RSA key below 2048 bits"
	case cms.CheckKey(key) != nil:
		return "curve P-224"
	case g.Type == "EddsaVerify":
		return ""
	case accepted == 0:
		return "digest " + g.Sha
	case strings.Contains(g.Type, "P1363"):
		return "ECDSA signature not in DER"
	case strings.HasPrefix(g.Type, "RsassaPss") && g.MgfSha != g.Sha:
		return "PSS whose mask has another digest"
	case strings.HasPrefix(g.Type, "RsassaPss") && g.SLen < accepted:
		return "PSS with a salt shorter than the digest"
	}
	return ""
}

// acceptable says whether what Wycheproof leaves open is accepted here.
func (v vector) acceptable() bool {
	return slices.Equal(v.Flags, []string{"SmallPublicKey"}) // an exponent of 3; not "MissingNull" in DigestInfo
}

// least are how many vectors there are at least, by algorithm: those that must
// be accepted, and those that must be refused because they are wrong.
var least = map[string][2]int{
	"RSASSA-PKCS1-v1_5": {150, 3000}, "RSASSA-PSS": {750, 400}, "ECDSA": {1200, 1800}, "EDDSA": {80, 60},
}

// TestWycheproof puts every signature of the vectors into a message and
// verifies it: every good one in an algorithm that is accepted verifies, and no
// other does.
func TestWycheproof(t *testing.T) {
	names, err := fs.Glob(wycheproof.TestVectors, "*_test.json")
	if err != nil {
		t.Fatal(err)
	}
	accepted, wrong, beyond := map[string]int{}, map[string]int{}, map[string]int{}
	for _, name := range names {
		if !strings.HasPrefix(name, "rsa_") && !strings.HasPrefix(name, "ecdsa_") && !strings.HasPrefix(name, "ed25519") {
			continue
		}
		b, err := fs.ReadFile(wycheproof.TestVectors, name)
		if err != nil {
			t.Fatal(err)
		}
		var f file
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, ok := least[f.Algorithm]; !ok {
			continue // encryption
		}
		for _, g := range f.TestGroups {
			key := g.key(t)
			why := g.beyond(key)
			for _, v := range g.Tests {
				err := verify(t, f, g, v, key)
				want := why == "" && (v.Result == "valid" || v.Result == "acceptable" && v.acceptable())
				if (err == nil) != want {
					t.Errorf("%s: %d (%s, %q, %v): %v, %q", name, v.ID, v.Result, v.Comment, v.Flags, err, why)
				}
				switch {
				case want:
					accepted[f.Algorithm]++
				case v.Result == "valid":
					beyond[why]++
				case why == "":
					wrong[f.Algorithm]++
				}
			}
		}
	}
	for _, a := range slices.Sorted(maps.Keys(least)) {
		t.Logf("%-18s %5d accepted, %5d wrong ones refused", a, accepted[a], wrong[a])
		if accepted[a] < least[a][0] || wrong[a] < least[a][1] {
			t.Errorf("%s: fewer than %v vectors: were they read?", a, least[a])
		}
	}
	for _, why := range slices.Sorted(maps.Keys(beyond)) {
		t.Logf("good, but not accepted here: %5d %s", beyond[why], why)
	}
}

func verify(t testing.TB, f file, g group, v vector, key crypto.PublicKey) error {
	digest := g.Sha
	if g.Type == "EddsaVerify" {
		digest = "SHA-512" // RFC 8419
	}
	m, err := cms.Parse(message(t, der(t, oid(t, digests[digest])), algorithm(t, f, g), unhex(t, v.Sig)))
	if err != nil {
		return err
	}
	return m.Verify(unhex(t, v.Msg), key)
}
