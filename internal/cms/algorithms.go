package cms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // SHA-256
	_ "crypto/sha512" // SHA-384, SHA-512
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// ErrSignature is returned by Verify where the signature is not one by this
// key over these bytes.
var ErrSignature = errors.New("signature does not match")

// RSA moduli in bits. The upper bound is one of time: verifying costs the
// square of it.
const (
	minRSA = 2048
	maxRSA = 8192
)

const (
	oidMGF1    = "1.2.840.113549.1.1.8"
	oidRSA     = "1.2.840.113549.1.1.1"
	oidEd25519 = "1.3.101.112"
)

// digests are the digest algorithms (RFC 5754, section 2).
var digests = map[string]crypto.Hash{
	"2.16.840.1.101.3.4.2.1": crypto.SHA256,
	"2.16.840.1.101.3.4.2.2": crypto.SHA384,
	"2.16.840.1.101.3.4.2.3": crypto.SHA512,
}

// refused names algorithms that are known and not accepted, for messages.
var refused = map[string]string{
	"1.2.840.113549.2.5":      "MD5",
	"1.3.14.3.2.26":           "SHA-1",
	"2.16.840.1.101.3.4.2.4":  "SHA-224",
	"1.2.840.113549.1.1.4":    "RSA with MD5",
	"1.2.840.113549.1.1.5":    "RSA with SHA-1",
	"1.2.840.10045.4.1":       "ECDSA with SHA-1",
	"1.2.840.10040.4.3":       "DSA with SHA-1",
	"1.3.101.113":             "Ed448",
	"2.16.840.1.101.3.4.3.17": "ML-DSA-44",
	"2.16.840.1.101.3.4.3.18": "ML-DSA-65",
	"2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}

// algorithm is one signature algorithm. verify gets the bytes that are signed,
// not their digest: Ed25519 (and ML-DSA, RFC 9882, when a row is added for it)
// sign the bytes themselves.
type algorithm struct {
	name       string
	digest     crypto.Hash // the only one it goes with; 0: the one the signer names
	parameters func(m *Message, p cryptobyte.String) error
	verify     func(m *Message, key crypto.PublicKey, signed []byte) error
}

// algorithms are the signature algorithms, by object identifier.
var algorithms = map[string]algorithm{
	oidRSA:                  {"RSA", 0, null, verifyRSA}, // RFC 3370, 3.2
	"1.2.840.113549.1.1.11": {"RSA", crypto.SHA256, nullOrAbsent, verifyRSA},
	"1.2.840.113549.1.1.12": {"RSA", crypto.SHA384, nullOrAbsent, verifyRSA},
	"1.2.840.113549.1.1.13": {"RSA", crypto.SHA512, nullOrAbsent, verifyRSA},
	"1.2.840.113549.1.1.10": {"RSA-PSS", 0, pss, verifyPSS}, // RFC 4056
	"1.2.840.10045.4.3.2":   {"ECDSA", crypto.SHA256, absent, verifyECDSA},
	"1.2.840.10045.4.3.3":   {"ECDSA", crypto.SHA384, absent, verifyECDSA},
	"1.2.840.10045.4.3.4":   {"ECDSA", crypto.SHA512, absent, verifyECDSA},
	oidEd25519:              {"Ed25519", crypto.SHA512, absent, verifyEd25519}, // RFC 8419
}

// Algorithm returns the signature algorithm and its digest: "ECDSA SHA-256".
func (m *Message) Algorithm() string { return m.algorithm.name + " " + m.hash.String() }

// readAlgorithm reads signatureAlgorithm and returns the contents of its
// SEQUENCE.
func (m *Message) readAlgorithm(s *cryptobyte.String) (cryptobyte.String, error) {
	id, parameters, raw, err := readIdentifier(s)
	if err != nil {
		return nil, err
	}
	a, ok := algorithms[id]
	if !ok {
		return nil, unsupported(id)
	}
	if a.digest != 0 && a.digest != m.hash {
		return nil, fmt.Errorf("%s with %v does not go with the signer's digest %v", a.name, a.digest, m.hash)
	}
	if err := a.parameters(m, parameters); err != nil {
		return nil, fmt.Errorf("%s: %w", a.name, err)
	}
	m.algorithm = a
	return raw, nil
}

// readIdentifier reads an AlgorithmIdentifier: its algorithm, what follows in
// the SEQUENCE, and all of the SEQUENCE's contents.
func readIdentifier(s *cryptobyte.String) (id string, parameters, raw cryptobyte.String, err error) {
	if !s.ReadASN1(&raw, der.SEQUENCE) {
		return "", nil, nil, malformed("AlgorithmIdentifier")
	}
	parameters = raw
	id, err = readOID(&parameters)
	return id, parameters, raw, err
}

func readDigest(s *cryptobyte.String) (crypto.Hash, error) {
	h, _, err := readDigestElement(s)
	return h, err
}

// readDigestElement reads the identifier of a digest algorithm, and returns
// the contents of its SEQUENCE too.
func readDigestElement(s *cryptobyte.String) (crypto.Hash, cryptobyte.String, error) {
	id, parameters, raw, err := readIdentifier(s)
	if err != nil {
		return 0, nil, err
	}
	h, ok := digests[id]
	if !ok {
		return 0, nil, unsupported(id)
	}
	return h, raw, nullOrAbsent(nil, parameters)
}

func unsupported(id string) error {
	if name, ok := refused[id]; ok {
		id = name
	}
	return fmt.Errorf("%s is not accepted", id)
}

func null(_ *Message, p cryptobyte.String) error {
	if len(p) != 2 || p[0] != byte(der.NULL) || p[1] != 0 {
		return errors.New("algorithm parameters are not NULL")
	}
	return nil
}

func absent(_ *Message, p cryptobyte.String) error {
	if !p.Empty() {
		return errors.New("algorithm has parameters where it takes none")
	}
	return nil
}

func nullOrAbsent(m *Message, p cryptobyte.String) error {
	if p.Empty() {
		return nil
	}
	return null(m, p)
}

// pss reads RSASSA-PSS-params (RFC 4055, 3.1). Hash and mask must be the
// signer's digest, so neither default (SHA-1) can apply, and the salt at least
// as long as the digest, as RFC 4056 recommends (OpenSSL's is longer), so its
// default of 20 cannot either. DER omits the trailer field, whose only value
// is its default.
func pss(m *Message, p cryptobyte.String) error {
	var params, hash, mask, maskID, salt cryptobyte.String
	if !p.ReadASN1(&params, der.SEQUENCE) || !p.Empty() ||
		!params.ReadASN1(&hash, tagExplicit0) || !params.ReadASN1(&mask, tagExplicit1) ||
		!params.ReadASN1(&salt, tagExplicit2) || !params.Empty() {
		return malformed("RSASSA-PSS-params")
	}
	h, err := readDigest(&hash)
	if err != nil {
		return err
	}
	id, maskHash, _, err := readIdentifier(&mask)
	if err != nil {
		return err
	}
	if id != oidMGF1 {
		return unsupported(id)
	}
	maskID = maskHash
	mgf, err := readDigest(&maskID)
	if err != nil {
		return err
	}
	if h != m.hash || mgf != m.hash {
		return fmt.Errorf("digests %v and %v (mask) differ from the signer's %v", h, mgf, m.hash)
	}
	if !hash.Empty() || !mask.Empty() || !maskID.Empty() || !salt.ReadASN1Integer(&m.salt) || !salt.Empty() {
		return malformed("RSASSA-PSS-params")
	}
	if m.salt < h.Size() || m.salt > maxRSA/8 {
		return fmt.Errorf("salt of %d bytes: at least %d are needed", m.salt, h.Size())
	}
	return nil
}

// CheckKey returns an error where Verify would accept nothing by this key:
// another kind than RSA, ECDSA and Ed25519, or one too weak.
func CheckKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA {
			return fmt.Errorf("RSA key of %d bits: %d to %d are accepted", bits, minRSA, maxRSA)
		}
		return nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("ECDSA key on %s: P-256, P-384 and P-521 are accepted", k.Params().Name)
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("Ed25519 key of %d bytes", len(k))
		}
		return nil
	}
	return fmt.Errorf("key of type %T: RSA, ECDSA and Ed25519 are accepted", key)
}

// verifySigned checks the signature over signed, which is the content or the
// signed attributes.
func (m *Message) verifySigned(key crypto.PublicKey, signed []byte) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	return m.algorithm.verify(m, key, signed)
}

func (m *Message) sum(b []byte) []byte {
	h := m.hash.New()
	h.Write(b)
	return h.Sum(nil)
}

func verifyRSA(m *Message, key crypto.PublicKey, signed []byte) error {
	k, ok := key.(*rsa.PublicKey)
	if !ok || rsa.VerifyPKCS1v15(k, m.hash, m.sum(signed), m.signature) != nil {
		return ErrSignature
	}
	return nil
}

func verifyPSS(m *Message, key crypto.PublicKey, signed []byte) error {
	k, ok := key.(*rsa.PublicKey)
	options := &rsa.PSSOptions{SaltLength: m.salt, Hash: m.hash}
	if !ok || rsa.VerifyPSS(k, m.hash, m.sum(signed), m.signature, options) != nil {
		return ErrSignature
	}
	return nil
}

func verifyECDSA(m *Message, key crypto.PublicKey, signed []byte) error {
	k, ok := key.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(k, m.sum(signed), m.signature) {
		return ErrSignature
	}
	return nil
}

func verifyEd25519(m *Message, key crypto.PublicKey, signed []byte) error {
	k, ok := key.(ed25519.PublicKey)
	if !ok || !ed25519.Verify(k, signed, m.signature) {
		return ErrSignature
	}
	return nil
}
