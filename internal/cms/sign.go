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
	b := marshal(keyID, digestID, signatureID, signature, slices.SortedFunc(slices.Values(certificates), bytes.Compare)...)
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
	info := cryptobyte.NewBuilder(nil) // SignerInfo
	info.AddASN1Int64(3)
	info.AddASN1(tagKeyID, func(b *cryptobyte.Builder) { b.AddBytes(keyID) })
	addIdentifier(info, digestID)
	addIdentifier(info, signatureID)
	info.AddASN1OctetString(signature)

	signed := cryptobyte.NewBuilder(nil) // SignedData
	signed.AddASN1Int64(3)
	signed.AddASN1(der.SET, func(b *cryptobyte.Builder) { addIdentifier(b, digestID) })
	signed.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { addOID(b, oidData) })
	if len(certificates) > 0 {
		signed.AddASN1(tag0, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(certificates, nil)) })
	}
	signed.AddASN1(der.SET, wrap(der.SEQUENCE, info.BytesOrPanic()))

	message := cryptobyte.NewBuilder(nil)
	message.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, oidSignedData)
		b.AddASN1(tag0, wrap(der.SEQUENCE, signed.BytesOrPanic()))
	})
	return message.BytesOrPanic()
}

func wrap(tag der.Tag, contents []byte) cryptobyte.BuilderContinuation {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(contents) })
	}
}

// addIdentifier adds an AlgorithmIdentifier. Of those made here only
// rsaEncryption has parameters: NULL.
func addIdentifier(b *cryptobyte.Builder, id string) {
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, id)
		if id == oidRSA {
			b.AddASN1NULL()
		}
	})
}

// addOID adds one of this package's object identifiers.
func addOID(b *cryptobyte.Builder, id string) {
	oid, err := x509.ParseOID(id)
	if err != nil {
		panic("cms: internal error: object identifier " + id)
	}
	b.AddASN1(der.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) {
		body, _ := oid.MarshalBinary() // never fails for a parsed one
		b.AddBytes(body)
	})
}
