package cms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // SHA-256
	_ "crypto/sha512" // SHA-384, SHA-512
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	minRSA, maxRSA = 2048, 8192 // bits of the modulus; the upper bound is one of time

	oidSHA256      = "2.16.840.1.101.3.4.2.1"
	oidSHA512      = "2.16.840.1.101.3.4.2.3"
	oidRSA         = "1.2.840.113549.1.1.1"
	oidMGF1        = "1.2.840.113549.1.1.8"
	oidECDSASHA256 = "1.2.840.10045.4.3.2"
	oidEd25519     = "1.3.101.112"
)

// digests are the digest algorithms (RFC 5754, section 2).
var digests = map[string]crypto.Hash{
	oidSHA256:                crypto.SHA256,
	"2.16.840.1.101.3.4.2.2": crypto.SHA384,
	oidSHA512:                crypto.SHA512,
}

// algorithm is one signature algorithm. verify gets the bytes that are signed,
// not their digest: Ed25519 signs the bytes themselves, and so does ML-DSA
// (RFC 9882), whose three parameter sets would be three more rows.
type algorithm struct {
	name       string
	digest     crypto.Hash // the only one it goes with; 0: the one the signer names
	parameters func(*Message, *reader, cryptobyte.String)
	verify     func(m *Message, key crypto.PublicKey, signed []byte) bool
}

// algorithms are the signature algorithms, by object identifier.
var algorithms = map[string]algorithm{
	oidRSA:                  {"RSA", 0, null, verifyRSA}, // RFC 3370, 3.2
	"1.2.840.113549.1.1.11": {"RSA", crypto.SHA256, nullOrAbsent, verifyRSA},
	"1.2.840.113549.1.1.12": {"RSA", crypto.SHA384, nullOrAbsent, verifyRSA},
	"1.2.840.113549.1.1.13": {"RSA", crypto.SHA512, nullOrAbsent, verifyRSA},
	"1.2.840.113549.1.1.10": {"RSA-PSS", 0, pss, verifyPSS}, // RFC 4056
	oidECDSASHA256:          {"ECDSA", crypto.SHA256, absent, verifyECDSA},
	"1.2.840.10045.4.3.3":   {"ECDSA", crypto.SHA384, absent, verifyECDSA},
	"1.2.840.10045.4.3.4":   {"ECDSA", crypto.SHA512, absent, verifyECDSA},
	oidEd25519:              {"Ed25519", crypto.SHA512, absent, verifyEd25519}, // RFC 8419
}

// refused names digests that people may meet and that are not accepted.
var refused = map[string]string{
	"1.2.840.113549.2.5":     " (MD5)",
	"1.3.14.3.2.26":          " (SHA-1)",
	"2.16.840.1.101.3.4.2.4": " (SHA-224)",
}

// readAlgorithm reads signatureAlgorithm and returns its contents.
func (m *Message) readAlgorithm(r *reader, s *cryptobyte.String) cryptobyte.String {
	id, parameters, raw := r.identifier(s)
	a, ok := algorithms[id]
	r.check(ok, "signature algorithm %s is not accepted", id)
	if r.err != nil {
		return nil
	}
	r.check(a.digest == 0 || a.digest == m.hash, "%s with %v, but the signer names %v", a.name, a.digest, m.hash)
	a.parameters(m, r, parameters)
	m.algorithm = a
	return raw
}

// identifier reads an AlgorithmIdentifier: its algorithm, what follows that,
// and both together.
func (r *reader) identifier(s *cryptobyte.String) (id string, parameters, raw cryptobyte.String) {
	raw = r.open(s, der.SEQUENCE, "AlgorithmIdentifier")
	parameters = raw
	id = r.oid(&parameters)
	return id, parameters, raw
}

// digest reads the AlgorithmIdentifier of a digest.
func (r *reader) digest(s *cryptobyte.String) (crypto.Hash, cryptobyte.String) {
	id, parameters, raw := r.identifier(s)
	h, ok := digests[id]
	r.check(ok, "digest algorithm %s%s is not accepted", id, refused[id])
	nullOrAbsent(nil, r, parameters)
	return h, raw
}

func null(_ *Message, r *reader, p cryptobyte.String) {
	r.check(string(p) == "\x05\x00", "algorithm's parameters are not NULL")
}

func absent(_ *Message, r *reader, p cryptobyte.String) {
	r.check(p.Empty(), "algorithm has parameters where it takes none")
}

func nullOrAbsent(_ *Message, r *reader, p cryptobyte.String) {
	r.check(p.Empty() || string(p) == "\x05\x00", "algorithm's parameters are neither NULL nor absent")
}

// pss reads RSASSA-PSS-params (RFC 4055, 3.1). Both digests must be the
// signer's, and the salt at least as long as the digest, as RFC 4056 recommends
// (OpenSSL's are longer), so no default, SHA-1 or 20 bytes, can apply. DER
// leaves out the trailer field, whose only value is its default.
func pss(m *Message, r *reader, p cryptobyte.String) {
	params := r.last(&p, der.SEQUENCE, "RSASSA-PSS-params")
	hashAlgorithm := r.open(&params, tag0, "hashAlgorithm")
	maskGen := r.open(&params, tag1, "maskGenAlgorithm")
	saltLength := r.last(&params, tag2, "saltLength")

	hash, _ := r.digest(&hashAlgorithm)
	id, maskHash, _ := r.identifier(&maskGen)
	r.check(id == oidMGF1, "mask generation %s is not MGF1", id)
	mask, _ := r.digest(&maskHash)
	r.check(hash == m.hash && mask == m.hash, "RSASSA-PSS with %v and %v, but the signer names %v", hash, mask, m.hash)
	m.salt = r.integer(&saltLength, "saltLength")
	r.check(m.salt >= m.hash.Size() && m.salt <= maxRSA/8, "salt of %d bytes, %d to %d are accepted", m.salt, m.hash.Size(), maxRSA/8)
	r.check(hashAlgorithm.Empty() && maskGen.Empty() && maskHash.Empty() && saltLength.Empty(), "RSASSA-PSS-params are malformed")
}

// CheckKey returns an error for keys by which Verify accepts nothing: of
// another kind than RSA, ECDSA and Ed25519, or too weak.
func CheckKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA {
			return fmt.Errorf("RSA key of %d bits, %d to %d are accepted", bits, minRSA, maxRSA)
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return fmt.Errorf("ECDSA key on %s, P-256, P-384 and P-521 are accepted", k.Params().Name)
		}
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("Ed25519 key of %d bytes", len(k))
		}
	default:
		return fmt.Errorf("key of an unknown kind (%T), RSA, ECDSA and Ed25519 are accepted", key)
	}
	return nil
}

func (m *Message) sum(b []byte) []byte {
	h := m.hash.New()
	h.Write(b)
	return h.Sum(nil)
}

func verifyRSA(m *Message, key crypto.PublicKey, signed []byte) bool {
	k, ok := key.(*rsa.PublicKey)
	return ok && rsa.VerifyPKCS1v15(k, m.hash, m.sum(signed), m.signature) == nil
}

func verifyPSS(m *Message, key crypto.PublicKey, signed []byte) bool {
	k, ok := key.(*rsa.PublicKey)
	return ok && rsa.VerifyPSS(k, m.hash, m.sum(signed), m.signature, &rsa.PSSOptions{SaltLength: m.salt}) == nil
}

func verifyECDSA(m *Message, key crypto.PublicKey, signed []byte) bool {
	k, ok := key.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(k, m.sum(signed), m.signature)
}

func verifyEd25519(m *Message, key crypto.PublicKey, signed []byte) bool {
	k, ok := key.(ed25519.PublicKey)
	return ok && ed25519.Verify(k, signed, m.signature)
}
