package cms

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// Sign makes a detached signature over content as `bpftool prog load -S` and
// `sign-file -k` do: SHA-256, the signer named by its subject key identifier,
// no attributes, and no certificates but those given, in DER. Ed25519 goes with
// SHA-512 (RFC 8419). The signature is verified before it is returned.
func Sign(content []byte, key crypto.Signer, keyID []byte, certificates ...[]byte) ([]byte, error) {
	if err := CheckKey(key.Public()); err != nil {
		return nil, err
	}
	if isAttributes(content) {
		return nil, ErrAmbiguous
	}
	digestID, signatureID := oidSHA256, oidECDSASHA256
	signed, options := (&Message{hash: crypto.SHA256}).sum(content), crypto.SHA256
	switch key.Public().(type) {
	case *rsa.PublicKey:
		signatureID = oidRSA
	case ed25519.PublicKey:
		digestID, signatureID = oidSHA512, oidEd25519
		signed, options = content, 0 // the bytes themselves
	}
	signature, err := key.Sign(rand.Reader, signed, options)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	certificates = slices.SortedFunc(slices.Values(certificates), bytes.Compare) // as DER has a SET
	b := marshal(keyID, digestID, signatureID, signature, certificates...)
	m, err := Parse(b)
	if err != nil {
		return nil, err
	}
	if err := m.Verify(content, key.Public()); err != nil {
		return nil, fmt.Errorf("key made a wrong signature: %w", err)
	}
	return b, nil
}

// marshal builds the message around a signature.
func marshal(keyID []byte, digestID, signatureID string, signature []byte, certificates ...[]byte) []byte {
	version := element(der.INTEGER, []byte{3}) // of both, where a key identifier names the signer
	var carried []byte
	if len(certificates) > 0 {
		carried = element(tag0, certificates...)
	}
	info := element(der.SEQUENCE, version, element(tagKeyID, keyID), // SignerInfo
		algorithmID(digestID), algorithmID(signatureID), element(der.OCTET_STRING, signature))
	signed := element(der.SEQUENCE, version, element(der.SET, algorithmID(digestID)), // SignedData
		element(der.SEQUENCE, objectID(oidData)), carried, element(der.SET, info))
	return element(der.SEQUENCE, objectID(oidSignedData), element(tag0, signed))
}

// element encodes one element in DER.
func element(tag der.Tag, contents ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(contents, nil)) })
	return b.BytesOrPanic()
}

// algorithmID encodes an AlgorithmIdentifier. Of those made here only
// rsaEncryption has parameters: NULL.
func algorithmID(id string) []byte {
	if id == oidRSA {
		return element(der.SEQUENCE, objectID(id), element(der.NULL))
	}
	return element(der.SEQUENCE, objectID(id))
}

// objectID encodes one of this package's object identifiers. They parse; if one
// did not, neither would the message, which Sign reads before it returns it.
func objectID(id string) []byte {
	oid, _ := x509.ParseOID(id)
	body, _ := oid.MarshalBinary()
	return element(der.OBJECT_IDENTIFIER, body)
}
