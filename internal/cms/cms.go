// Package cms verifies detached CMS signatures (PKCS #7), and makes the one
// shape that bpftool and the kernel's sign-file make.
//
// It accepts what `openssl cms -sign -binary -outform DER`, bpftool and
// sign-file produce: one signer, named by issuer and serial number or by
// subject key identifier, with or without signed attributes, with or without
// certificates. It does not accept the rest of CMS. Everything is DER; what
// has two encodings, or what nobody signed and nobody needs, is refused, so
// that a signature has one meaning and, certificates aside, one form.
//
//   - Certificates in the message are stepped over, never read: the key comes
//     from the caller.
//   - Unsigned attributes and revocation lists are refused: no key covers
//     them, and nothing here would read them.
//   - Content inside the message is refused: the bytes to be verified are the
//     caller's, and there must be no second copy to mix them up with.
//
// Sources: RFC 5652 (CMS), RFC 3370, 4056 and 5754 (RSA, RSASSA-PSS, ECDSA and
// SHA-2 in CMS), RFC 8419 (Ed25519), RFC 6211 (algorithm protection), X.690
// (DER). The kernel's reader of the same messages is crypto/asymmetric_keys.
package cms

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxSize is the size in bytes of the largest message Parse looks at. A
// signature without certificates has a few hundred.
const MaxSize = 64 << 10

// Bounds on the parts of a message that end up in errors and comparisons.
const (
	maxOID    = 64 // bytes; a UUID's object identifier has 20
	maxSerial = 21 // bytes: 20 (RFC 5280, 4.1.2.2) and a leading zero
	maxKeyID  = 64 // bytes; SHA-1 gives 20, SHA-512 64
)

const (
	oidData       = "1.2.840.113549.1.7.1" // RFC 5652, section 4
	oidSignedData = "1.2.840.113549.1.7.2" // RFC 5652, section 5.1
)

var (
	tagExplicit0 = der.Tag(0).Constructed().ContextSpecific()
	tagImplicit0 = der.Tag(0).ContextSpecific()
	tagExplicit1 = der.Tag(1).Constructed().ContextSpecific()
	tagExplicit2 = der.Tag(2).Constructed().ContextSpecific()
)

// Message is one parsed detached signature. Nothing in it is to be believed
// before Verify has returned nil.
type Message struct {
	issuer, serial []byte // DER Name and the bytes of an INTEGER; nil where keyID is set
	keyID          []byte // subject key identifier

	hash      crypto.Hash
	algorithm algorithm
	salt      int // RSASSA-PSS: bytes

	attributes    []byte // signed attributes as the SET that is signed; nil where there are none
	messageDigest []byte // from the signed attributes
	signature     []byte
}

// Parse reads a message of at most MaxSize bytes. It keeps no reference to b.
func Parse(b []byte) (*Message, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("signature of %d bytes: at most %d are read", len(b), MaxSize)
	}
	if len(b) == 0 {
		return nil, errors.New("signature is empty")
	}
	content, err := contentInfo(bytes.Clone(b))
	if err != nil {
		return nil, fmt.Errorf("signature is not detached DER CMS: %w", err)
	}
	m, err := signedData(content)
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return m, nil
}

// contentInfo opens the outermost SEQUENCE (RFC 5652, section 3).
func contentInfo(b cryptobyte.String) (content cryptobyte.String, err error) {
	var info, explicit cryptobyte.String
	if !b.ReadASN1(&info, der.SEQUENCE) {
		return nil, malformed("ContentInfo")
	}
	if !b.Empty() {
		return nil, fmt.Errorf("%d bytes behind the message", len(b))
	}
	contentType, err := readOID(&info)
	if err != nil {
		return nil, err
	}
	if contentType != oidSignedData {
		return nil, fmt.Errorf("content type %s is not signed data", contentType)
	}
	if !info.ReadASN1(&explicit, tagExplicit0) || !info.Empty() ||
		!explicit.ReadASN1(&content, der.SEQUENCE) || !explicit.Empty() {
		return nil, malformed("SignedData")
	}
	return content, nil
}

// signedData reads SignedData (RFC 5652, section 5.1).
func signedData(s cryptobyte.String) (*Message, error) {
	var version int64
	var digests, encap, signers cryptobyte.String
	if !s.ReadASN1Integer(&version) {
		return nil, malformed("version")
	}
	if !s.ReadASN1(&digests, der.SET) {
		return nil, malformed("digestAlgorithms")
	}
	digest, err := readDigest(&digests)
	if err != nil {
		return nil, fmt.Errorf("digestAlgorithms: %w", err)
	}
	if !digests.Empty() {
		return nil, errors.New("digestAlgorithms: more than one for one signer")
	}
	if !s.ReadASN1(&encap, der.SEQUENCE) {
		return nil, malformed("encapContentInfo")
	}
	if err := detachedData(encap); err != nil {
		return nil, err
	}
	if err := skipCertificates(&s); err != nil {
		return nil, err
	}
	if s.PeekASN1Tag(tagExplicit1) {
		return nil, errors.New("revocation lists in the message are not accepted")
	}
	if !s.ReadASN1(&signers, der.SET) || !s.Empty() {
		return nil, malformed("signerInfos")
	}
	return oneSigner(signers, version, digest)
}

// detachedData checks that the content is plain data and is not in the message.
func detachedData(encap cryptobyte.String) error {
	contentType, err := readOID(&encap)
	if err != nil {
		return fmt.Errorf("encapContentInfo: %w", err)
	}
	if contentType != oidData {
		return fmt.Errorf("signed content type %s is not data (%s)", contentType, oidData)
	}
	if !encap.Empty() {
		return errors.New("content is inside the message: the signature must be detached")
	}
	return nil
}

// skipCertificates steps over the certificates. Other kinds of certificate
// (CertificateChoices, section 10.2.2) would need other versions.
func skipCertificates(s *cryptobyte.String) error {
	var certificates cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&certificates, &present, tagExplicit0) {
		return malformed("certificates")
	}
	if present && certificates.Empty() {
		return malformed("certificates")
	}
	for !certificates.Empty() {
		if !certificates.SkipASN1(der.SEQUENCE) {
			return malformed("certificates")
		}
	}
	return nil
}

// oneSigner reads the only SignerInfo (RFC 5652, section 5.3). Its version
// follows from how it names the signer, and the outer one from that.
func oneSigner(signers cryptobyte.String, version int64, digest crypto.Hash) (*Message, error) {
	var info cryptobyte.String
	var own int64
	if signers.Empty() {
		return nil, errors.New("message has no signer")
	}
	if !signers.ReadASN1(&info, der.SEQUENCE) || !info.ReadASN1Integer(&own) {
		return nil, malformed("SignerInfo")
	}
	if !signers.Empty() {
		return nil, errors.New("message has more than one signer")
	}
	m := new(Message)
	if err := m.readSigner(&info); err != nil {
		return nil, err
	}
	if want := m.version(); own != want || version != want {
		return nil, fmt.Errorf("versions %d and %d: %d and %d belong to this kind of signer identifier", version, own, want, want)
	}
	return m, m.readSignature(&info, digest)
}

// version is CMSVersion for the kind of signer identifier.
func (m *Message) version() int64 {
	if m.keyID != nil {
		return 3
	}
	return 1
}

// readSigner reads SignerIdentifier.
func (m *Message) readSigner(info *cryptobyte.String) error {
	if info.PeekASN1Tag(tagImplicit0) {
		var id cryptobyte.String
		if !info.ReadASN1(&id, tagImplicit0) || id.Empty() || len(id) > maxKeyID {
			return malformed("subjectKeyIdentifier")
		}
		m.keyID = id
		return nil
	}
	var pair, issuer, serial cryptobyte.String
	if !info.ReadASN1(&pair, der.SEQUENCE) || !pair.ReadASN1Element(&issuer, der.SEQUENCE) {
		return malformed("issuerAndSerialNumber")
	}
	if !minimalInteger(&pair, &serial) || len(serial) > maxSerial || !pair.Empty() {
		return malformed("serialNumber")
	}
	if serial[0]&0x80 != 0 {
		return errors.New("serial number is negative (RFC 5280, 4.1.2.2)")
	}
	m.issuer, m.serial = issuer, serial
	return nil
}

// readSignature reads what follows the signer's identifier.
func (m *Message) readSignature(info *cryptobyte.String, digest crypto.Hash) (err error) {
	var identifiers [2]cryptobyte.String // digestAlgorithm, signatureAlgorithm
	if m.hash, identifiers[0], err = readDigestElement(info); err != nil {
		return fmt.Errorf("digestAlgorithm: %w", err)
	}
	if m.hash != digest {
		return fmt.Errorf("digestAlgorithms names %v, the signer %v", digest, m.hash)
	}
	var attributes, signature cryptobyte.String
	if info.PeekASN1Tag(tagExplicit0) && !info.ReadASN1Element(&attributes, tagExplicit0) {
		return malformed("signedAttrs")
	}
	if identifiers[1], err = m.readAlgorithm(info); err != nil {
		return fmt.Errorf("signatureAlgorithm: %w", err)
	}
	if !info.ReadASN1(&signature, der.OCTET_STRING) {
		return malformed("signature")
	}
	if info.PeekASN1Tag(tagExplicit1) {
		return errors.New("unsigned attributes are not accepted: no key covers them")
	}
	if !info.Empty() {
		return malformed("SignerInfo")
	}
	m.signature = signature
	if attributes == nil {
		return nil
	}
	return m.readAttributes(attributes, identifiers)
}

// Names reports whether the message says that cert's key made it. That is a
// claim to choose a key by, not proof.
func (m *Message) Names(cert *x509.Certificate) bool {
	if m.keyID != nil {
		return m.NamesKeyID(cert.SubjectKeyId)
	}
	// math/big has no leading zeros; DER has one where the top bit is set.
	return bytes.Equal(m.issuer, cert.RawIssuer) &&
		bytes.Equal(bytes.TrimLeft(m.serial, "\x00"), cert.SerialNumber.Bytes())
}

// NamesKeyID reports whether the message names its signer by the subject key
// identifier id.
func (m *Message) NamesKeyID(id []byte) bool {
	return m.keyID != nil && bytes.Equal(m.keyID, id)
}

// Signer describes the claimed signer for people: its key identifier, or its
// issuer and serial number.
func (m *Message) Signer() string {
	if m.keyID != nil {
		return fmt.Sprintf("key id %x", m.keyID)
	}
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(m.issuer, &name); err != nil || len(rest) > 0 {
		return fmt.Sprintf("serial %x of an issuer that is not a name", m.serial)
	}
	return fmt.Sprintf("serial %x of issuer %.200q", m.serial, name.String())
}

// minimalInteger reads the bytes of a DER INTEGER.
func minimalInteger(s, out *cryptobyte.String) bool {
	return s.ReadASN1(out, der.INTEGER) && len(*out) > 0 &&
		(len(*out) == 1 || (*out)[0] != 0 && (*out)[0] != 0xff || ((*out)[0]^(*out)[1])&0x80 != 0)
}

// readOID reads an object identifier and returns it in dotted form.
func readOID(s *cryptobyte.String) (string, error) {
	var body cryptobyte.String
	var id x509.OID
	if !s.ReadASN1(&body, der.OBJECT_IDENTIFIER) || len(body) > maxOID || id.UnmarshalBinary(body) != nil {
		return "", malformed("object identifier")
	}
	return id.String(), nil
}

func malformed(what string) error { return fmt.Errorf("%s is malformed or missing", what) }
