// Package cms verifies detached CMS signatures (PKCS #7), and makes the one
// shape that bpftool and the kernel's sign-file make.
//
// It accepts what `openssl cms -sign -binary -outform DER`, bpftool and
// sign-file produce: one signer, named by issuer and serial number or by
// subject key identifier, with or without signed attributes, with or without
// certificates. It does not accept the rest of CMS. Everything is DER; what
// nobody signed and nobody needs is refused, so that, certificates aside, no
// byte of a message can change without its meaning being lost:
//
//   - Certificates in the message are handed on as bytes, never read: the key
//     comes from the caller.
//   - Unsigned attributes and revocation lists are refused: no key covers
//     them, and nothing here would read them.
//   - Content inside the message is refused: the bytes to be verified are the
//     caller's, and there must be no second copy to mix them up with.
//
// Sources: RFC 5652 (CMS), RFC 3370, 4055, 4056 and 5754 (RSA, RSASSA-PSS,
// ECDSA and SHA-2 in CMS), RFC 8419 (Ed25519), RFC 6211 (algorithm protection),
// X.690 (DER). The kernel reads the same messages in crypto/asymmetric_keys.
package cms

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxSize is the size in bytes of the largest message Parse looks at. One
// without certificates has a few hundred.
const MaxSize = 64 << 10

const (
	maxSerial = 20 // bytes (RFC 5280, 4.1.2.2)
	maxID     = 64 // bytes of a key or object identifier

	oidData       = "1.2.840.113549.1.7.1" // RFC 5652, section 4
	oidSignedData = "1.2.840.113549.1.7.2" // RFC 5652, section 5.1

	tagKeyID = der.Tag(0x80) // [0] IMPLICIT OCTET STRING
	tag0     = der.Tag(0xa0) // [n] of something constructed
	tag1     = der.Tag(0xa1)
	tag2     = der.Tag(0xa2)
)

// Message is one parsed detached signature. Nothing in it is to be believed
// before Verify has returned nil.
type Message struct {
	Certificates [][]byte // DER, as found: whoever sent the message chose them

	issuer, serial []byte // DER Name and big-endian number, where keyID is nil
	keyID          []byte // subject key identifier

	hash      crypto.Hash
	algorithm algorithm
	salt      int // RSASSA-PSS: bytes

	attributes []byte    // signed attributes as the SET that is signed; nil where there are none
	digest     []byte    // messageDigest among them
	SignedAt   time.Time // signingTime among them, the word of the key and of no clock; zero where there is none
	signature  []byte
}

// Parse reads a message of at most MaxSize bytes. It keeps no reference to b.
func Parse(b []byte) (*Message, error) {
	if len(b) == 0 || len(b) > MaxSize {
		return nil, fmt.Errorf("signature of %d bytes, 1 to %d are accepted", len(b), MaxSize)
	}
	m, r, s := new(Message), new(reader), cryptobyte.String(bytes.Clone(b))
	info := r.last(&s, der.SEQUENCE, "ContentInfo") // RFC 5652, section 3
	contentType := r.oid(&info)
	r.check(contentType == oidSignedData, "content type %s is not signed data", contentType)
	content := r.last(&info, tag0, "content")
	m.readSignedData(r, r.last(&content, der.SEQUENCE, "SignedData"))
	if r.err != nil {
		return nil, fmt.Errorf("signature not accepted: %w", r.err)
	}
	return m, nil
}

// readSignedData reads SignedData (RFC 5652, section 5.1).
func (m *Message) readSignedData(r *reader, s cryptobyte.String) {
	version := r.integer(&s, "version")
	digests := r.open(&s, der.SET, "digestAlgorithms")
	hash, _ := r.digest(&digests)
	r.check(digests.Empty(), "more digest algorithms than signers")
	encap := r.open(&s, der.SEQUENCE, "encapContentInfo")
	contentType := r.oid(&encap)
	r.check(contentType == oidData, "what is signed is %s, not data", contentType)
	r.check(encap.Empty(), "content is inside the message, the signature must be detached")
	if s.PeekASN1Tag(tag0) {
		certificates := r.open(&s, tag0, "certificates")
		r.check(!certificates.Empty(), "certificates are an empty set")
		for r.err == nil && !certificates.Empty() {
			var element cryptobyte.String // of another kind: of another version
			r.check(certificates.ReadASN1Element(&element, der.SEQUENCE), "a certificate is malformed or missing")
			m.Certificates = append(m.Certificates, element)
		}
	}
	r.check(!s.PeekASN1Tag(tag1), "revocation lists are not accepted")

	signers := r.last(&s, der.SET, "signerInfos")
	r.check(!signers.Empty(), "there is no signer")
	info := r.open(&signers, der.SEQUENCE, "SignerInfo")
	r.check(signers.Empty(), "there is more than one signer")
	m.readSignerInfo(r, info, version)
	r.check(m.hash == hash, "digestAlgorithms names %v, the signer %v", hash, m.hash)
}

// readSignerInfo reads SignerInfo (RFC 5652, section 5.3). Its version follows
// from how the signer is named, and the outer version from that.
func (m *Message) readSignerInfo(r *reader, s cryptobyte.String, outer int) {
	version := r.integer(&s, "SignerInfo's version")
	want := 1
	if s.PeekASN1Tag(tagKeyID) {
		want = 3
		m.keyID = r.open(&s, tagKeyID, "subjectKeyIdentifier")
		r.check(len(m.keyID) > 0 && len(m.keyID) <= maxID, "subjectKeyIdentifier of %d bytes", len(m.keyID))
	} else {
		name := r.open(&s, der.SEQUENCE, "issuerAndSerialNumber")
		r.check(name.ReadASN1Element((*cryptobyte.String)(&m.issuer), der.SEQUENCE), "issuer is malformed or missing")
		r.check(name.ReadASN1Integer(&m.serial) && len(m.serial) <= maxSerial && name.Empty(),
			"serial number is malformed, negative or above %d bytes", maxSerial)
	}
	r.check(version == want && outer == want, "versions %d and %d, both must be %d", outer, version, want)

	hash, digestID := r.digest(&s)
	m.hash = hash
	var attributes cryptobyte.String
	if s.PeekASN1Tag(tag0) {
		r.check(s.ReadASN1Element(&attributes, tag0), "signedAttrs are malformed")
	}
	signatureID := m.readAlgorithm(r, &s)
	m.signature = r.open(&s, der.OCTET_STRING, "signature")
	r.check(!s.PeekASN1Tag(tag1), "unsigned attributes are not accepted, no key covers them")
	r.check(s.Empty(), "something follows the signature")
	if r.err == nil && attributes != nil {
		m.readAttributes(r, attributes, digestID, signatureID)
	}
}

// Names reports whether the message says that cert's key made it. That is a
// claim to choose a key by, not proof.
func (m *Message) Names(cert *x509.Certificate) bool {
	if m.keyID != nil {
		return m.NamesKeyID(cert.SubjectKeyId)
	}
	return bytes.Equal(m.issuer, cert.RawIssuer) && bytes.Equal(m.serial, cert.SerialNumber.Bytes())
}

// NamesKeyID reports whether the message names its signer by the subject key
// identifier id.
func (m *Message) NamesKeyID(id []byte) bool { return m.keyID != nil && bytes.Equal(m.keyID, id) }

// Signer describes the claimed signer for people: its key identifier, or its
// issuer and serial number.
func (m *Message) Signer() string {
	if m.keyID != nil {
		return fmt.Sprintf("key identifier %x", m.keyID)
	}
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(m.issuer, &name); err != nil || len(rest) > 0 {
		return fmt.Sprintf("serial number %x of an issuer whose name is malformed", m.serial)
	}
	return fmt.Sprintf("serial number %x of issuer %.200q", m.serial, name.String())
}

// reader reads DER. Its first error stays; after it, what is read is empty.
type reader struct{ err error }

func (r *reader) check(ok bool, format string, args ...any) {
	if !ok && r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// open takes an element off the front of s and returns its contents.
func (r *reader) open(s *cryptobyte.String, tag der.Tag, what string) (contents cryptobyte.String) {
	if !s.ReadASN1(&contents, tag) {
		r.check(false, "%s is malformed or missing", what)
		return nil
	}
	return contents
}

// last is open where nothing may follow.
func (r *reader) last(s *cryptobyte.String, tag der.Tag, what string) cryptobyte.String {
	contents := r.open(s, tag, what)
	r.check(s.Empty(), "something follows %s", what)
	return contents
}

func (r *reader) integer(s *cryptobyte.String, what string) (n int) {
	r.check(s.ReadASN1Integer(&n), "%s is malformed or missing", what)
	return n
}

// oid reads an object identifier in dotted form. UUIDs (2.25.…) do not fit
// encoding/asn1's.
func (r *reader) oid(s *cryptobyte.String) string {
	var id x509.OID
	body := r.open(s, der.OBJECT_IDENTIFIER, "object identifier")
	r.check(len(body) <= maxID && id.UnmarshalBinary(body) == nil, "object identifier is malformed")
	return id.String()
}
