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
	oidContentType       = "1.2.840.113549.1.9.3"  // RFC 5652, section 11.1
	oidMessageDigest     = "1.2.840.113549.1.9.4"  // RFC 5652, section 11.2
	oidAlgorithmProtects = "1.2.840.113549.1.9.52" // RFC 6211
)

// Verify checks that key signed content with this message. It returns
// ErrSignature where it did not.
func (m *Message) Verify(content []byte, key crypto.PublicKey) error {
	if m.attributes == nil {
		if _, err := parseAttributes(content); err == nil {
			return errAmbiguous
		}
		return m.verifySigned(key, content)
	}
	if err := m.verifySigned(key, m.attributes); err != nil {
		return err
	}
	if !bytes.Equal(m.messageDigest, m.sum(content)) {
		return fmt.Errorf("%w: it is one over other bytes", ErrSignature)
	}
	return nil
}

// errAmbiguous: a signature without attributes over bytes that are themselves
// signed attributes is also a signature with these attributes, over whatever
// they say. Neither made nor accepted (RFC 5652 does not tell the two apart).
var errAmbiguous = errors.New("content is itself a set of signed attributes")

// readAttributes checks signedAttrs, an element with its IMPLICIT tag.
func (m *Message) readAttributes(element cryptobyte.String, identifiers [2]cryptobyte.String) error {
	set := bytes.Clone(element)
	set[0] = byte(der.SET) // what is signed has the EXPLICIT tag (RFC 5652, section 5.4)
	values, err := parseAttributes(set)
	if err != nil {
		return fmt.Errorf("signedAttrs: %w", err)
	}
	if protects, ok := values[oidAlgorithmProtects]; ok && !protected(protects, identifiers) {
		return errors.New("signedAttrs: algorithms differ from those that were signed (RFC 6211)")
	}
	m.attributes, m.messageDigest = set, values[oidMessageDigest]
	if len(m.messageDigest) != m.hash.Size() {
		return fmt.Errorf("signedAttrs: messageDigest has %d bytes, %v gives %d", len(m.messageDigest), m.hash, m.hash.Size())
	}
	return nil
}

// parseAttributes reads a DER SET OF Attribute that has the two attributes
// RFC 5652 asks for. It returns the contents of the attributes this package
// reads; others are the signer's own business.
func parseAttributes(b cryptobyte.String) (map[string]cryptobyte.String, error) {
	var set, previous cryptobyte.String
	if !b.ReadASN1(&set, der.SET) || !b.Empty() {
		return nil, malformed("SET")
	}
	values := make(map[string]cryptobyte.String)
	for !set.Empty() {
		var element cryptobyte.String
		if !set.ReadASN1Element(&element, der.SEQUENCE) {
			return nil, malformed("attribute")
		}
		if bytes.Compare(previous, element) >= 0 {
			return nil, errors.New("attributes are not in DER order")
		}
		previous = element
		id, value, err := readAttribute(element)
		if err != nil {
			return nil, err
		}
		if _, twice := values[id]; twice {
			return nil, fmt.Errorf("attribute %s is there twice", id)
		}
		values[id] = value
	}
	return values, checkAttributes(values)
}

// readAttribute reads one Attribute and returns the contents of its value
// where it is one of those known here.
func readAttribute(element cryptobyte.String) (id string, value cryptobyte.String, err error) {
	var body, set cryptobyte.String
	if !element.ReadASN1(&body, der.SEQUENCE) {
		return "", nil, malformed("attribute")
	}
	if id, err = readOID(&body); err != nil {
		return "", nil, err
	}
	if !body.ReadASN1(&set, der.SET) || !body.Empty() || set.Empty() {
		return "", nil, fmt.Errorf("attribute %s: values are malformed or missing", id)
	}
	if tag, known := attributeTags[id]; known {
		if !set.ReadASN1(&value, tag) || !set.Empty() {
			return "", nil, fmt.Errorf("attribute %s does not have exactly one value of its type", id)
		}
		return id, value, nil
	}
	for !set.Empty() {
		if !set.ReadAnyASN1Element(&value, new(der.Tag)) {
			return "", nil, fmt.Errorf("attribute %s: values are malformed or missing", id)
		}
	}
	return id, nil, nil
}

// attributeTags are the single-valued attributes that are read, and their types.
var attributeTags = map[string]der.Tag{
	oidContentType:       der.OBJECT_IDENTIFIER,
	oidMessageDigest:     der.OCTET_STRING,
	oidAlgorithmProtects: der.SEQUENCE,
}

// checkAttributes asks for contentType, which must be data, and messageDigest.
func checkAttributes(values map[string]cryptobyte.String) error {
	contentType, ok := values[oidContentType]
	if !ok {
		return errors.New("contentType is missing")
	}
	if !bytes.Equal(contentType, dataOID) {
		return errors.New("contentType is not data")
	}
	if _, ok := values[oidMessageDigest]; !ok {
		return errors.New("messageDigest is missing")
	}
	return nil
}

// protected reports whether CMSAlgorithmProtection has the algorithm
// identifiers that the message uses.
func protected(value cryptobyte.String, identifiers [2]cryptobyte.String) bool {
	var digest, signature cryptobyte.String
	return value.ReadASN1(&digest, der.SEQUENCE) && value.ReadASN1(&signature, tagExplicit1) && value.Empty() &&
		bytes.Equal(digest, identifiers[0]) && bytes.Equal(signature, identifiers[1])
}
