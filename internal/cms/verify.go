package cms

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	oidContentType         = "1.2.840.113549.1.9.3"  // RFC 5652, section 11.1
	oidMessageDigest       = "1.2.840.113549.1.9.4"  // RFC 5652, section 11.2
	oidSigningTime         = "1.2.840.113549.1.9.5"  // RFC 5652, section 11.3
	oidAlgorithmProtection = "1.2.840.113549.1.9.52" // RFC 6211
)

// ErrSignature is returned by Verify where the signature is not one by this
// key over these bytes.
var ErrSignature = errors.New("signature does not match")

// ErrAmbiguous is returned by Sign and Verify for content that is itself a set
// of signed attributes. A signature over it without attributes would be one
// with these attributes too, over whatever they say, and the other way round
// (draft-ietf-lamps-cms-euf-cma-signeddata).
var ErrAmbiguous = errors.New("content is itself a set of signed attributes")

// Verify checks that key signed content with this message. It returns
// ErrSignature where that is not so, ErrAmbiguous, or CheckKey's error.
func (m *Message) Verify(content []byte, key crypto.PublicKey) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	signed := content
	if m.attributes != nil {
		signed = m.attributes
	}
	switch {
	case !m.algorithm.verify(m, key, signed):
		return ErrSignature
	case m.attributes == nil && isAttributes(content):
		return ErrAmbiguous
	case m.attributes != nil && !bytes.Equal(m.digest, m.sum(content)):
		return fmt.Errorf("%w: it is one over other bytes", ErrSignature)
	}
	return nil
}

// readAttributes reads signedAttrs, given with its tag in the message.
func (m *Message) readAttributes(r *reader, element, digestID, signatureID cryptobyte.String) {
	m.attributes = bytes.Clone(element)
	m.attributes[0] = byte(der.SET) // as it is signed (RFC 5652, section 5.4)
	values := r.attributes(m.attributes)
	m.digest = values[oidMessageDigest]
	r.check(len(m.digest) == m.hash.Size(), "messageDigest has %d bytes, %v has %d", len(m.digest), m.hash, m.hash.Size())
	if t, ok := values[oidSigningTime]; ok {
		utc := t.PeekASN1Tag(der.UTCTime) // up to 2049
		r.check(utc && t.ReadASN1UTCTime(&m.SignedAt) || !utc && t.ReadASN1GeneralizedTime(&m.SignedAt), "signingTime is malformed")
	}
	if protection, ok := values[oidAlgorithmProtection]; ok {
		digest := r.open(&protection, der.SEQUENCE, "digestAlgorithm")
		signature := r.last(&protection, tag1, "signatureAlgorithm")
		r.check(bytes.Equal(digest, digestID) && bytes.Equal(signature, signatureID), "algorithms are not those that were signed")
	}
}

// attributes reads a DER SET OF Attribute (RFC 5652, section 5.3) that has the
// two it must have. It returns their values; those of other attributes (a time,
// S/MIME capabilities) are authentic but nobody's business here.
func (r *reader) attributes(b cryptobyte.String) map[string]cryptobyte.String {
	values := make(map[string]cryptobyte.String)
	var previous, element cryptobyte.String
	set := r.last(&b, der.SET, "signedAttrs")
	for r.err == nil && !set.Empty() {
		r.check(set.ReadASN1Element(&element, der.SEQUENCE), "attribute is malformed")
		r.check(bytes.Compare(previous, element) < 0, "attributes are not in DER order")
		previous = element
		id, value := r.attribute(element)
		_, twice := values[id]
		r.check(!twice, "attribute %s is there twice", id)
		values[id] = value
	}
	_, hasType := values[oidContentType]
	_, hasDigest := values[oidMessageDigest]
	r.check(hasType, "contentType attribute is missing")
	r.check(hasDigest, "messageDigest attribute is missing")
	return values
}

// attribute reads one Attribute. Those known here have exactly one value.
func (r *reader) attribute(element cryptobyte.String) (id string, value cryptobyte.String) {
	body := r.open(&element, der.SEQUENCE, "attribute")
	id = r.oid(&body)
	set := r.last(&body, der.SET, "attribute's values")
	r.check(!set.Empty(), "attribute %s has no value", id)
	switch id {
	case oidContentType:
		contentType := r.oid(&set)
		r.check(contentType == oidData, "contentType attribute is %s, not data", contentType)
	case oidMessageDigest:
		value = r.open(&set, der.OCTET_STRING, "messageDigest")
	case oidSigningTime:
		r.check(set.ReadAnyASN1Element(&value, new(der.Tag)), "signingTime is malformed")
	case oidAlgorithmProtection:
		value = r.open(&set, der.SEQUENCE, "CMSAlgorithmProtection")
	default:
		for r.err == nil && !set.Empty() {
			r.check(set.ReadAnyASN1(&value, new(der.Tag)), "attribute %s: value is malformed", id)
		}
	}
	r.check(set.Empty(), "attribute %s has more than one value", id)
	return id, value
}

func isAttributes(content []byte) bool {
	r := new(reader)
	r.attributes(content)
	return r.err == nil
}
