package cms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// dataOID is the DER body of oidData.
var dataOID = oidBody(oidData)

// Sign makes a detached signature over content as `bpftool prog load -S` and
// `sign-file -k` do: SHA-256, the signer named by its subject key identifier,
// no attributes, no certificates. Ed25519 goes with SHA-512 (RFC 8419). The
// signature is verified before it is returned.
func Sign(content []byte, key crypto.Signer, keyID []byte) ([]byte, error) {
	if err := CheckKey(key.Public()); err != nil {
		return nil, err
	}
	if len(keyID) == 0 || len(keyID) > maxKeyID {
		return nil, fmt.Errorf("subject key identifier of %d bytes: 1 to %d are accepted", len(keyID), maxKeyID)
	}
	if _, err := parseAttributes(content); err == nil {
		return nil, errAmbiguous
	}
	hash, digest, algorithm := shape(key.Public())
	signed, options := content, crypto.SignerOpts(crypto.Hash(0))
	if algorithm != oidEd25519 {
		signed, options = (&Message{hash: hash}).sum(content), hash
	}
	signature, err := key.Sign(rand.Reader, signed, options)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	b, err := marshal(keyID, digest, algorithm, signature)
	if err != nil {
		return nil, err
	}
	m, err := Parse(b)
	if err != nil {
		return nil, err
	}
	if err := m.Verify(content, key.Public()); err != nil {
		return nil, fmt.Errorf("the key's own signature: %w", err)
	}
	return b, nil
}

// shape returns the digest for a kind of key, and the object identifiers of
// digest and signature algorithm.
func shape(key crypto.PublicKey) (h crypto.Hash, digest, algorithm string) {
	switch key.(type) {
	case *rsa.PublicKey:
		return crypto.SHA256, "2.16.840.1.101.3.4.2.1", oidRSA
	case *ecdsa.PublicKey:
		return crypto.SHA256, "2.16.840.1.101.3.4.2.1", "1.2.840.10045.4.3.2"
	case ed25519.PublicKey:
		return crypto.SHA512, "2.16.840.1.101.3.4.2.3", oidEd25519
	}
	panic("cms: internal error: CheckKey let a key pass")
}

// marshal builds the message around a signature.
func marshal(keyID []byte, digest, algorithm string, signature []byte) ([]byte, error) {
	var b cryptobyte.Builder
	sequence(&b, func(b *cryptobyte.Builder) { // ContentInfo
		addOID(b, oidSignedData)
		b.AddASN1(tagExplicit0, func(b *cryptobyte.Builder) {
			sequence(b, func(b *cryptobyte.Builder) { // SignedData
				b.AddASN1Int64(3)
				b.AddASN1(der.SET, func(b *cryptobyte.Builder) { addIdentifier(b, digest) })
				sequence(b, func(b *cryptobyte.Builder) { addOID(b, oidData) })
				b.AddASN1(der.SET, func(b *cryptobyte.Builder) {
					sequence(b, func(b *cryptobyte.Builder) { // SignerInfo
						b.AddASN1Int64(3)
						b.AddASN1(tagImplicit0, func(b *cryptobyte.Builder) { b.AddBytes(keyID) })
						addIdentifier(b, digest)
						addIdentifier(b, algorithm)
						b.AddASN1OctetString(signature)
					})
				})
			})
		})
	})
	out, err := b.Bytes()
	if err != nil || len(out) > MaxSize {
		return nil, errors.Join(errors.New("signature does not fit into a message"), err)
	}
	return out, nil
}

func sequence(b *cryptobyte.Builder, f cryptobyte.BuilderContinuation) { b.AddASN1(der.SEQUENCE, f) }

// addIdentifier adds an AlgorithmIdentifier. Of those made here only
// rsaEncryption has parameters, NULL.
func addIdentifier(b *cryptobyte.Builder, id string) {
	sequence(b, func(b *cryptobyte.Builder) {
		addOID(b, id)
		if id == oidRSA {
			b.AddASN1NULL()
		}
	})
}

func addOID(b *cryptobyte.Builder, id string) {
	b.AddASN1(der.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(oidBody(id)) })
}

// oidBody returns the DER body of an object identifier of this package.
func oidBody(id string) []byte {
	oid, err := x509.ParseOID(id)
	if err != nil {
		panic("cms: internal error: object identifier " + id)
	}
	body, _ := oid.MarshalBinary() // a parsed one always has a body
	return body
}
