package cms

import (
	"bytes"
	"crypto"
	"crypto/dsa" //lint:ignore SA1019 a kind of key that must be refused
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// hornetOID is the attribute the Hornet LSM's tools add: a UUID.
const hornetOID = "2.25.316487325684022475439036912669789383960"

// TestAccepted builds what must pass: the counterpart of TestRefused, without
// which that could pass for the wrong reason.
func TestAccepted(t *testing.T) {
	pssParams := func(hash, mask string, salt int64) []byte {
		return seq(tlv(0xa0, identifier(hash, null5)), tlv(0xa1, identifier(oidMGF1, identifier(mask, null5))), tlv(0xa2, integer(salt)))
	}
	for name, test := range map[string]struct {
		key   *testKey
		parts func(k *testKey) *parts
	}{
		"ecdsa":               {ecKey(), plain},
		"rsa":                 {rsaKey(), plain},
		"ed25519":             {edKey(), plain},
		"ecdsa, attributes":   {ecKey(), attributed},
		"ed25519, attributes": {edKey(), attributed},
		"issuer and serial number": {ecKey(), func(k *testKey) *parts {
			p := plain(k)
			p.version, p.infoVersion, p.signer = integer(1), integer(1), issuerAndSerial(k)
			return p
		}},
		"digest parameters NULL": {ecKey(), func(k *testKey) *parts {
			p := plain(k)
			p.digest = identifier(oidSHA256, null5)
			return p
		}},
		"sha256WithRSAEncryption": {rsaKey(), func(k *testKey) *parts {
			p := plain(k)
			p.algorithm = identifier("1.2.840.113549.1.1.11", null5)
			return p
		}},
		"sha256WithRSAEncryption, no parameters": {rsaKey(), func(k *testKey) *parts {
			p := plain(k)
			p.algorithm = identifier("1.2.840.113549.1.1.11")
			return p
		}},
		"PSS": {rsaKey(), func(k *testKey) *parts {
			p := plain(k)
			p.algorithm, p.pss = identifier(idPSS, pssParams(oidSHA256, oidSHA256, 32)), &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256}
			return p
		}},
		"PSS, long salt": {rsaKey(), func(k *testKey) *parts {
			p := plain(k)
			p.algorithm, p.pss = identifier(idPSS, pssParams(oidSHA256, oidSHA256, 222)), &rsa.PSSOptions{SaltLength: 222, Hash: crypto.SHA256}
			return p
		}},
		"certificates": {ecKey(), func(k *testKey) *parts {
			p := plain(k)
			p.certificates = tlv(0xa0, k.cert.Raw, seq([]byte("not read")))
			return p
		}},
		"unknown attributes": {ecKey(), func(k *testKey) *parts {
			p := attributed(k)
			p.attributes = append(p.attributes, attribute(idTime, tlv(0x17, []byte("261123144053Z"))), attribute(hornetOID, set(), seq()))
			return p
		}},
		"long identifiers": {ecKey(), func(k *testKey) *parts {
			p := attributed(k)
			p.attributes = append(p.attributes, seq(tlv(6, bytes.Repeat([]byte{1}, maxID)), set(null5)))
			return p
		}},
		"algorithm protection": {ecKey(), func(k *testKey) *parts {
			p := attributed(k)
			p.attributes = append(p.attributes, protection(p.digest, p.algorithm))
			return p
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := test.parts(test.key).message(t, test.key)
			if err := accept(b, content, test.key.cert); err != nil {
				t.Fatal(err)
			}
			if err := new(differences).compare(nil, b, content, test.key.cert); err != nil {
				t.Error(err)
			}
			if err := accept(b, append(slices.Clone(content), 0), test.key.cert); !errors.Is(err, ErrSignature) {
				t.Errorf("one byte more: %v", err)
			}
			other := newKey(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
			if err := accept(b, content, other.cert); err != errNotNamed {
				t.Errorf("another key: %v", err)
			}
		})
	}
}

// protection is CMSAlgorithmProtection over two AlgorithmIdentifiers.
func protection(digest, algorithm []byte) []byte {
	implicit := slices.Clone(algorithm)
	implicit[0] = 0xa1
	return attribute(oidAlgorithmProtection, seq(digest, implicit))
}

// TestRefused changes one thing of a good message at a time, and signs the
// result properly.
func TestRefused(t *testing.T) {
	ec, rk, ed := ecKey(), rsaKey(), edKey()
	pss := func(params ...[]byte) func(*parts) {
		return func(p *parts) {
			p.algorithm, p.pss = identifier(idPSS, params...), &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256}
		}
	}
	h256, m256 := tlv(0xa0, identifier(oidSHA256, null5)), tlv(0xa1, identifier(oidMGF1, identifier(oidSHA256, null5)))
	s32 := tlv(0xa2, integer(32))
	rename := func(serial []byte) func(*parts) {
		return func(p *parts) {
			p.version, p.infoVersion = integer(1), integer(1)
			p.signer = seq(ec.cert.RawIssuer, serial)
		}
	}
	rows := []struct {
		name   string
		key    *testKey
		parts  func(*testKey) *parts
		change func(*parts)
		want   string // part of the error
	}{
		// The outer layers.
		{"trailing byte", ec, plain, func(p *parts) { p.trailing = []byte{0} }, "something follows ContentInfo"},
		{"trailing message", ec, plain, func(p *parts) { p.trailing = seq() }, "something follows ContentInfo"},
		{"not signed data", ec, plain, func(p *parts) { p.contentType = oid("1.2.840.113549.1.7.3") }, "1.2.840.113549.1.7.3 is not signed data"},
		{"no content type", ec, plain, func(p *parts) { p.contentType = nil }, "object identifier is malformed"},
		{"more in content", ec, plain, func(p *parts) { p.inContent = null5 }, "something follows SignedData"},
		{"more in ContentInfo", ec, plain, func(p *parts) { p.inInfo = null5 }, "something follows content"},
		{"more in SignedData", ec, plain, func(p *parts) { p.inSigned = null5 }, "something follows signerInfos"},

		// Versions.
		{"version 1 with key identifier", ec, plain, func(p *parts) { p.version = integer(1) }, "versions 1 and 3"},
		{"inner version 1 with key identifier", ec, plain, func(p *parts) { p.infoVersion = integer(1) }, "versions 3 and 1"},
		{"both versions 1 with key identifier", ec, plain, func(p *parts) { p.version, p.infoVersion = integer(1), integer(1) }, "versions 1 and 1"},
		{"versions 3 with issuer", ec, plain, func(p *parts) { p.signer = issuerAndSerial(ec) }, "versions 3 and 3"},
		{"version 0", ec, plain, func(p *parts) { p.version = integer(0) }, "versions 0 and 3"},
		{"version 4", ec, plain, func(p *parts) { p.version = integer(4) }, "versions 4 and 3"},
		{"version -1", ec, plain, func(p *parts) { p.infoVersion = integer(-1) }, "versions 3 and -1"},
		{"version of 9 bytes", ec, plain, func(p *parts) { p.version = tlv(2, []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x03")) }, "version is malformed"},
		{"version not minimal", ec, plain, func(p *parts) { p.version = []byte{2, 2, 0, 3} }, "version is malformed"},
		{"inner version as ENUMERATED", ec, plain, func(p *parts) { p.infoVersion = []byte{10, 1, 3} }, "SignerInfo's version is malformed"},
		{"version as ENUMERATED", ec, plain, func(p *parts) { p.version = []byte{10, 1, 3} }, "version is malformed"},

		// Digests.
		{"no digest algorithms", ec, plain, func(p *parts) { p.digests = nil }, "AlgorithmIdentifier is malformed or missing"},
		{"two digest algorithms", ec, plain, func(p *parts) { p.digests = append(p.digests, identifier(oidSHA512)) }, "more digest algorithms than signers"},
		{"same digest twice", ec, plain, func(p *parts) { p.digests = append(p.digests, p.digests[0]) }, "more digest algorithms than signers"},
		{"another digest in the set", ec, plain, func(p *parts) { p.digests = [][]byte{identifier(oidSHA512)} }, "digestAlgorithms names SHA-512, the signer SHA-256"},
		{"another digest for the signer", rk, plain, func(p *parts) { p.digest = identifier(oidSHA512) }, "digestAlgorithms names SHA-256, the signer SHA-512"},
		{"MD5", ec, plain, func(p *parts) { p.digests = [][]byte{identifier("1.2.840.113549.2.5", null5)} }, "(MD5) is not accepted"},
		{"SHA-1", ec, plain, func(p *parts) { p.digests = [][]byte{identifier(idSHA1)} }, "(SHA-1) is not accepted"},
		{"SHA-224", ec, plain, func(p *parts) { p.digests = [][]byte{identifier("2.16.840.1.101.3.4.2.4")} }, "(SHA-224) is not accepted"},
		{"SHA-1 for the signer", ec, plain, func(p *parts) { p.digest = identifier(idSHA1) }, "(SHA-1) is not accepted"},
		{"digest with parameters", ec, plain, func(p *parts) { p.digest = identifier(oidSHA256, integer(1)) }, "neither NULL nor absent"},
		{"digest with two NULLs", ec, plain, func(p *parts) { p.digest = identifier(oidSHA256, null5, null5) }, "neither NULL nor absent"},
		{"digest with NULL that has contents", ec, plain, func(p *parts) { p.digest = identifier(oidSHA256, []byte{5, 1, 0}) }, "neither NULL nor absent"},
		{"digest identifier not a sequence", ec, plain, func(p *parts) { p.digest = oid(oidSHA256) }, "AlgorithmIdentifier is malformed"},
		{"object identifier not minimal", ec, plain, func(p *parts) { p.digest = seq(tlv(6, []byte{0x60, 0x80, 0x01})) }, "object identifier is malformed"},
		{"object identifier empty", ec, plain, func(p *parts) { p.digest = seq(tlv(6)) }, "object identifier is malformed"},
		{"object identifier too long", ec, plain, func(p *parts) { p.digest = seq(tlv(6, bytes.Repeat([]byte{1}, 65))) }, "object identifier is malformed"},

		// Content.
		{"content inside", ec, plain, func(p *parts) { p.encap = seq(oid(oidData), tlv(0xa0, octets(content))) }, "content is inside the message"},
		{"empty content inside", ec, plain, func(p *parts) { p.encap = seq(oid(oidData), tlv(0xa0, octets(nil))) }, "content is inside the message"},
		{"signed receipt", ec, plain, func(p *parts) { p.encap = seq(oid("1.2.840.113549.1.9.16.1.1")) }, "not data"},
		{"encapContentInfo missing", ec, plain, func(p *parts) { p.encap = nil }, "encapContentInfo is malformed"},

		// Certificates and revocation lists.
		{"no certificate in the set", ec, plain, func(p *parts) { p.certificates = tlv(0xa0) }, "empty set"},
		{"certificate of another kind", ec, plain, func(p *parts) { p.certificates = tlv(0xa0, tlv(0xa1)) }, "a certificate is malformed"},
		{"certificate cut off", ec, plain, func(p *parts) { p.certificates = tlv(0xa0, []byte{0x30, 5, 0}) }, "a certificate is malformed"},
		{"certificates cut off", ec, plain, func(p *parts) { p.certificates = []byte{0xa0, 0x84, 1, 0, 0, 0} }, "certificates is malformed or missing"},
		{"certificates twice", ec, plain, func(p *parts) { p.certificates = append(tlv(0xa0, seq()), tlv(0xa0, seq())...) }, "signerInfos is malformed"},
		{"revocation lists", ec, plain, func(p *parts) { p.crls = tlv(0xa1, seq()) }, "revocation lists are not accepted"},

		// Signers.
		{"no signer", ec, plain, func(p *parts) { p.signers = 0 }, "there is no signer"},
		{"two signers", ec, plain, func(p *parts) { p.signers = 2 }, "there is more than one signer"},
		{"empty key identifier", ec, plain, func(p *parts) { p.signer = tlv(0x80) }, "subjectKeyIdentifier of 0 bytes"},
		{"long key identifier", ec, plain, func(p *parts) { p.signer = tlv(0x80, make([]byte, 65)) }, "subjectKeyIdentifier of 65 bytes"},
		{"key identifier cut off", ec, plain, func(p *parts) { p.signer = []byte{0x80, 0x84, 1, 0, 0, 0} }, "subjectKeyIdentifier is malformed or missing"},
		{"constructed key identifier", ec, plain, func(p *parts) { p.signer = tlv(0xa0, octets(ec.cert.SubjectKeyId)) }, "issuerAndSerialNumber is malformed"},
		{"signer missing", ec, plain, func(p *parts) { p.signer = nil }, "issuer is malformed"},
		{"issuer not a sequence", ec, plain, func(p *parts) { rename(integer(1))(p); p.signer = seq(set(), integer(1)) }, "issuer is malformed"},
		{"serial number missing", ec, plain, rename(nil), "serial number is malformed"},
		{"serial number empty", ec, plain, rename(tlv(2)), "serial number is malformed"},
		{"serial number negative", ec, plain, rename(integer(-5)), "serial number is malformed, negative"},
		{"serial number not minimal", ec, plain, rename(append([]byte{2, 9, 0}, integer(5)...)), "serial number is malformed"},
		{"serial number with two zeros", ec, plain, rename([]byte{2, 2, 0, 5}), "serial number is malformed"},
		{"serial number of 21 bytes", ec, plain, rename(tlv(2, bytes.Repeat([]byte{1}, 21))), "serial number is malformed, negative or above 20 bytes"},
		{"more behind the serial number", ec, plain, rename(append(integer(5), null5...)), "serial number is malformed"},
		{"unsigned attributes", ec, plain, func(p *parts) { p.unsigned = tlv(0xa1, attribute(idTime, null5)) }, "unsigned attributes are not accepted"},
		{"empty unsigned attributes", ec, plain, func(p *parts) { p.unsigned = tlv(0xa1) }, "unsigned attributes are not accepted"},
		{"more in SignerInfo", ec, plain, func(p *parts) { p.inSigner = null5 }, "something follows the signature"},

		// Signature algorithms.
		{"unknown algorithm", ec, plain, func(p *parts) { p.algorithm = identifier("1.2.3.4") }, "signature algorithm 1.2.3.4 is not accepted"},
		{"RSA with SHA-1", rk, plain, func(p *parts) { p.algorithm = identifier("1.2.840.113549.1.1.5", null5) }, "1.2.840.113549.1.1.5 is not accepted"},
		{"a digest as the algorithm", ec, plain, func(p *parts) { p.algorithm = identifier(oidSHA256) }, "is not accepted"},
		{"ECDSA with another digest", ec, plain, func(p *parts) { p.algorithm = identifier("1.2.840.10045.4.3.3") }, "ECDSA with SHA-384, but the signer names SHA-256"},
		{"RSA with another digest", rk, plain, func(p *parts) { p.algorithm = identifier("1.2.840.113549.1.1.13", null5) }, "RSA with SHA-512, but the signer names SHA-256"},
		{"Ed25519 with SHA-256", ed, plain, func(p *parts) {
			p.digest, p.digests = identifier(oidSHA256), [][]byte{identifier(oidSHA256)}
		}, "Ed25519 with SHA-512, but the signer names SHA-256"},
		{"ECDSA with NULL", ec, plain, func(p *parts) { p.algorithm = identifier(oidECDSASHA256, null5) }, "parameters where it takes none"},
		{"Ed25519 with NULL", ed, plain, func(p *parts) { p.algorithm = identifier(oidEd25519, null5) }, "parameters where it takes none"},
		{"RSA without NULL", rk, plain, func(p *parts) { p.algorithm = identifier(oidRSA) }, "parameters are not NULL"},
		{"RSA with other parameters", rk, plain, func(p *parts) { p.algorithm = identifier(oidRSA, seq()) }, "parameters are not NULL"},
		{"RSA's identifier, ECDSA key", ec, plain, func(p *parts) { p.algorithm = identifier(oidRSA, null5) }, "signature does not match"},
		{"ECDSA's identifier, RSA key", rk, plain, func(p *parts) { p.algorithm = identifier(oidECDSASHA256) }, "signature does not match"},
		{"PSS's identifier, ECDSA key", ec, plain, func(p *parts) { p.algorithm = identifier(idPSS, seq(h256, m256, s32)) }, "signature does not match"},
		{"Ed25519's identifier, ECDSA key", ec, plain, func(p *parts) {
			p.algorithm = identifier(oidEd25519)
			p.digest, p.digests = identifier(oidSHA512), [][]byte{identifier(oidSHA512)}
		}, "signature does not match"},
		{"signature over something else", ec, plain, func(p *parts) { p.wrongSign = true }, "signature does not match"},

		// RSASSA-PSS.
		{"PSS without parameters", rk, plain, pss(), "RSASSA-PSS-params is malformed"},
		{"PSS with NULL", rk, plain, pss(null5), "RSASSA-PSS-params is malformed"},
		{"PSS with all defaults", rk, plain, pss(seq()), "hashAlgorithm is malformed or missing"},
		{"PSS with default hash", rk, plain, pss(seq(m256, s32)), "hashAlgorithm is malformed or missing"},
		{"PSS with default mask", rk, plain, pss(seq(h256, s32)), "maskGenAlgorithm is malformed or missing"},
		{"PSS with default salt", rk, plain, pss(seq(h256, m256)), "saltLength is malformed or missing"},
		{"PSS with trailer field", rk, plain, pss(seq(h256, m256, s32, tlv(0xa3, integer(1)))), "something follows saltLength"},
		{"PSS with more", rk, plain, pss(seq(h256, m256, s32), null5), "something follows RSASSA-PSS-params"},
		{"PSS with another hash", rk, plain, pss(seq(tlv(0xa0, identifier(oidSHA512)), m256, s32)), "RSASSA-PSS with SHA-512 and SHA-256"},
		{"PSS with another mask hash", rk, plain, pss(seq(h256, tlv(0xa1, identifier(oidMGF1, identifier(oidSHA512))), s32)), "RSASSA-PSS with SHA-256 and SHA-512"},
		{"PSS with mask over SHA-1", rk, plain, pss(seq(h256, tlv(0xa1, identifier(oidMGF1, identifier(idSHA1))), s32)), "(SHA-1) is not accepted"},
		{"PSS with another mask", rk, plain, pss(seq(h256, tlv(0xa1, identifier("1.2.3", identifier(oidSHA256))), s32)), "mask generation 1.2.3 is not MGF1"},
		{"PSS with short salt", rk, plain, pss(seq(h256, m256, tlv(0xa2, integer(20)))), "salt of 20 bytes"},
		{"PSS with no salt", rk, plain, pss(seq(h256, m256, tlv(0xa2, integer(0)))), "salt of 0 bytes"},
		{"PSS with negative salt", rk, plain, pss(seq(h256, m256, tlv(0xa2, integer(-1)))), "salt of -1 bytes"},
		{"PSS with huge salt", rk, plain, pss(seq(h256, m256, tlv(0xa2, integer(1<<62)))), "bytes, 32 to 1024 are accepted"},
		{"PSS with salt beyond the modulus", rk, plain, pss(seq(h256, m256, tlv(0xa2, integer(1024)))), "signature does not match"},
		{"PSS with salt above the largest key", rk, plain, pss(seq(h256, m256, tlv(0xa2, integer(1025)))), "salt of 1025 bytes, 32 to 1024 are accepted"},
		{"PSS with salt as ENUMERATED", rk, plain, pss(seq(h256, m256, tlv(0xa2, []byte{10, 1, 32}))), "saltLength is malformed or missing"},
		{"PSS with another salt", rk, plain, pss(seq(h256, m256, tlv(0xa2, integer(33)))), "signature does not match"},
		{"PSS with more in the hash", rk, plain, pss(seq(tlv(0xa0, identifier(oidSHA256), null5), m256, s32)), "RSASSA-PSS-params are malformed"},
		{"PSS with more in the mask", rk, plain, pss(seq(h256, tlv(0xa1, identifier(oidMGF1, identifier(oidSHA256)), null5), s32)), "RSASSA-PSS-params are malformed"},
		{"PSS with more in the mask's hash", rk, plain, pss(seq(h256, tlv(0xa1, identifier(oidMGF1, identifier(oidSHA256), null5)), s32)), "RSASSA-PSS-params are malformed"},
		{"PSS with more in the salt", rk, plain, pss(seq(h256, m256, tlv(0xa2, integer(32), null5))), "RSASSA-PSS-params are malformed"},
		{"PSS with an unknown hash", rk, plain, pss(seq(tlv(0xa0, identifier("1.2.3")), m256, s32)), "digest algorithm 1.2.3 is not accepted"},

		// Signed attributes.
		{"no attributes in the set", ec, plain, func(p *parts) { p.attributes = [][]byte{} }, "contentType attribute is missing"},
		{"contentType missing", ec, attributed, func(p *parts) { p.attributes = p.attributes[1:] }, "contentType attribute is missing"},
		{"messageDigest missing", ec, attributed, func(p *parts) { p.attributes = p.attributes[:1] }, "messageDigest attribute is missing"},
		{"contentType twice", ec, attributed, func(p *parts) {
			p.attributes, p.unsorted = append(p.attributes, p.attributes[0]), true
			slices.SortFunc(p.attributes, bytes.Compare)
		}, "not in DER order"},
		{"messageDigest twice", ec, attributed, func(p *parts) {
			p.attributes = append(p.attributes, attribute(oidMessageDigest, octets(make([]byte, 32))))
		}, oidMessageDigest + " is there twice"},
		{"unknown attribute twice", ec, attributed, func(p *parts) {
			p.attributes = append(p.attributes, attribute(hornetOID, integer(1)), attribute(hornetOID, integer(2)))
		}, hornetOID + " is there twice"},
		{"contentType with two values", ec, attributed, func(p *parts) { p.attributes[0] = attribute(oidContentType, oid(oidData), oid(oidData)) }, "more than one value"},
		{"messageDigest with two values", ec, attributed, func(p *parts) {
			p.attributes[1] = attribute(oidMessageDigest, octets(p.sum(content)), octets(make([]byte, 32)))
		}, "more than one value"},
		{"contentType without value", ec, attributed, func(p *parts) { p.attributes[0] = attribute(oidContentType) }, "has no value"},
		{"unknown attribute without value", ec, attributed, func(p *parts) { p.attributes = append(p.attributes, attribute("1.2.3")) }, "has no value"},
		{"signingTime with two values", ec, attributed, func(p *parts) {
			p.attributes = append(p.attributes, attribute(idTime, tlv(0x17, []byte("261123144053Z")), tlv(0x17, []byte("261123144054Z"))))
		}, "more than one value"},
		{"signingTime without value", ec, attributed, func(p *parts) { p.attributes = append(p.attributes, attribute(idTime)) }, "has no value"},
		{"signingTime is no time", ec, attributed, func(p *parts) {
			p.attributes = append(p.attributes, attribute(idTime, octets([]byte("261123144053Z"))))
		}, "signingTime is malformed"},
		{"signingTime of month 13", ec, attributed, func(p *parts) {
			p.attributes = append(p.attributes, attribute(idTime, tlv(0x17, []byte("261323144053Z"))))
		}, "signingTime is malformed"},
		{"signingTime cut off", ec, attributed, func(p *parts) { p.attributes = append(p.attributes, attribute(idTime, []byte{0x17, 13, '2'})) }, "signingTime is malformed"},
		{"unknown attribute's value cut off", ec, attributed, func(p *parts) { p.attributes = append(p.attributes, attribute("1.2.3", []byte{4, 5})) }, "value is malformed"},
		{"contentType is another", ec, attributed, func(p *parts) { p.attributes[0] = attribute(oidContentType, oid(oidSignedData)) }, "contentType attribute is 1.2.840.113549.1.7.2"},
		{"contentType of another type", ec, attributed, func(p *parts) { p.attributes[0] = attribute(oidContentType, integer(1)) }, "object identifier is malformed"},
		{"messageDigest of another type", ec, attributed, func(p *parts) { p.attributes[1] = attribute(oidMessageDigest, tlv(0x0c, p.sum(content))) }, "messageDigest is malformed"},
		{"messageDigest too short", ec, attributed, func(p *parts) { p.attributes[1] = attribute(oidMessageDigest, octets(p.sum(content)[:31])) }, "messageDigest has 31 bytes, SHA-256 has 32"},
		{"messageDigest of something else", ec, attributed, func(p *parts) { p.attributes[1] = attribute(oidMessageDigest, octets(p.sum(nil))) }, "it is one over other bytes"},
		{"attributes in another order", ec, attributed, func(p *parts) { p.unsorted = true; slices.Reverse(p.attributes) }, "not in DER order"},
		{"attribute not a sequence", ec, attributed, func(p *parts) { p.attributes = append(p.attributes, set()) }, "attribute is malformed"},
		{"attribute without values", ec, attributed, func(p *parts) { p.attributes = append(p.attributes, seq(oid("1.2.3"))) }, "attribute's values is malformed"},
		{"attribute with more", ec, attributed, func(p *parts) { p.attributes = append(p.attributes, seq(oid("1.2.3"), set(null5), null5)) }, "something follows attribute's values"},
		{"attribute without type", ec, attributed, func(p *parts) { p.attributes = append(p.attributes, seq(set(null5))) }, "object identifier is malformed"},
		{"attributes signed, something else sent", ec, attributed, func(p *parts) { p.wrongSign = true }, "signature does not match"},
		{"protection of another digest", rk, attributed, func(p *parts) {
			p.attributes = append(p.attributes, protection(identifier(idSHA384), p.algorithm))
		}, "algorithms are not those that were signed"},
		{"protection of another algorithm", rk, attributed, func(p *parts) {
			p.attributes = append(p.attributes, protection(p.digest, identifier("1.2.840.113549.1.1.11", null5)))
		}, "algorithms are not those that were signed"},
		{"protection without algorithm", rk, attributed, func(p *parts) {
			p.attributes = append(p.attributes, attribute(oidAlgorithmProtection, seq(p.digest)))
		}, "signatureAlgorithm is malformed or missing"},
		{"protection with more", rk, attributed, func(p *parts) {
			implicit := append([]byte{0xa1}, p.algorithm[1:]...)
			p.attributes = append(p.attributes, attribute(oidAlgorithmProtection, seq(p.digest, implicit, null5)))
		}, "something follows signatureAlgorithm"},
		{"protection for a MAC", rk, attributed, func(p *parts) {
			p.attributes = append(p.attributes, attribute(oidAlgorithmProtection, seq(p.digest, tlv(0xa2, oid(oidRSA)))))
		}, "signatureAlgorithm is malformed"},
	}
	seen := map[string]bool{}
	for _, test := range rows {
		if test.want == "" || seen[test.name] {
			t.Errorf("%s: says nothing, or is there twice", test.name)
		}
		seen[test.name] = true
	}
	if t.Logf("%d rows", len(rows)); len(rows) < 80 {
		t.Error("must be at least 80")
	}
	for _, test := range rows {
		t.Run(test.name, func(t *testing.T) {
			p := test.parts(test.key)
			test.change(p)
			err := accept(p.message(t, test.key), content, test.key.cert)
			if err == nil {
				t.Fatal("accepted")
			}
			// The same change to a message of the kind that the other library reads.
			p = test.parts(test.key)
			p.version, p.infoVersion, p.signer = integer(1), integer(1), issuerAndSerial(test.key)
			test.change(p)
			b := p.message(t, test.key)
			if err := new(differences).compare(accept(b, content, test.key.cert), b, content, test.key.cert); err != nil {
				t.Error(err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not say %q", err, test.want)
			}
		})
	}
}

// TestOtherTags: each element that is looked for is missed by its name.
func TestOtherTags(t *testing.T) {
	k := ecKey()
	message := attributed(k).message(t, k)
	for want, at := range map[string]func(message, data, info *node) *node{
		"ContentInfo":           func(message, _, _ *node) *node { return message },
		"content":               func(message, _, _ *node) *node { return message.children[1] },
		"SignedData":            func(_, data, _ *node) *node { return data },
		"version":               func(_, data, _ *node) *node { return data.children[0] },
		"digestAlgorithms":      func(_, data, _ *node) *node { return data.children[1] },
		"encapContentInfo":      func(_, data, _ *node) *node { return data.children[2] },
		"signerInfos":           func(_, data, _ *node) *node { return data.children[3] },
		"SignerInfo":            func(_, _, info *node) *node { return info },
		"SignerInfo's version":  func(_, _, info *node) *node { return info.children[0] },
		"issuerAndSerialNumber": func(_, _, info *node) *node { return info.children[1] },
		"AlgorithmIdentifier":   func(_, _, info *node) *node { return info.children[2] },
		"signature":             func(_, _, info *node) *node { return info.children[5] },
		"attribute's values":    func(_, _, info *node) *node { return info.children[3].children[0].children[1] },
		"object identifier":     func(_, _, info *node) *node { return info.children[3].children[0].children[0] },
		"messageDigest":         func(_, _, info *node) *node { return info.children[3].children[1].children[1].children[0] },
	} {
		root, _ := parseNode(message)
		data := root.children[1].children[0]
		at(root, data, data.children[3].children[0]).tag = 0x44
		_, err := Parse(root.encode())
		if want := "signature not accepted: " + want + " is malformed or missing"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestGarbage: what is no message at all.
func TestGarbage(t *testing.T) {
	random := make([]byte, 1<<20)
	rand.Read(random)
	message := plain(ecKey()).message(t, ecKey())
	indefinite := slices.Concat([]byte{0x30, 0x80}, message[3:], []byte{0, 0})
	for name, b := range map[string][]byte{
		"nothing":                      nil,
		"empty":                        {},
		"one byte":                     {0x30},
		"1 MiB of noise":               random,
		"64 KiB of noise":              random[:MaxSize],
		"64 KiB of zeros":              make([]byte, MaxSize),
		"a length beyond the end":      {0x30, 0x84, 0xff, 0xff, 0xff, 0xff},
		"a length of 2^56":             {0x30, 0x87, 1, 0, 0, 0, 0, 0, 0},
		"BER's indefinite length":      indefinite,
		"PEM":                          []byte("-----BEGIN CMS-----\n"),
		"a message of 64 KiB + 1 byte": tlv(0x30, oid(oidSignedData), make([]byte, MaxSize)),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(b); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// TestSize: a message of MaxSize bytes is read, a longer one is not.
func TestSize(t *testing.T) {
	if MaxSize != 65536 {
		t.Errorf("MaxSize is %d", MaxSize)
	}
	k := ecKey()
	p := plain(k)
	p.certificates = tlv(0xa0, seq(make([]byte, MaxSize-1000)))
	spare := MaxSize - len(p.message(t, k))
	for _, test := range []struct {
		size int
		ok   bool
	}{{MaxSize - 1, true}, {MaxSize, true}, {MaxSize + 1, false}} {
		// An ECDSA signature has one of several lengths: make messages until one fits.
		for b := []byte(nil); len(b) != test.size; {
			p.certificates = tlv(0xa0, seq(make([]byte, MaxSize-1000+spare+test.size-MaxSize)))
			b = p.message(t, k)
			if err := accept(b, content, k.cert); len(b) == test.size && (err == nil) != test.ok {
				t.Errorf("%d bytes: %v", len(b), err)
			}
		}
	}
	if _, err := Parse(nil); err == nil || !strings.Contains(err.Error(), "signature of 0 bytes") {
		t.Errorf("nothing: %v", err)
	}
}

// TestLongKeyID: the shortest and the longest key identifier that are accepted.
func TestLongKeyID(t *testing.T) {
	for _, n := range []int{1, 64} {
		k, id := ecKey(), bytes.Repeat([]byte{7}, n)
		b, err := Sign(content, k, id)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := Parse(b); err != nil || !m.NamesKeyID(id) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// A signature over a set of attributes must not count as one over what they
// describe, nor the other way round.
func TestAttributesAsContent(t *testing.T) {
	k := ecKey()
	p := attributed(k)
	withAttributes := p.message(t, k)
	attributes := set(p.attributes...)

	t.Run("attributes taken for content", func(t *testing.T) {
		m, err := Parse(withAttributes)
		if err != nil {
			t.Fatal(err)
		}
		b := marshal(k.cert.SubjectKeyId, oidSHA256, oidECDSASHA256, m.signature)
		if err := accept(b, attributes, k.cert); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("got %v, want %v", err, ErrAmbiguous)
		}
	})
	t.Run("content taken for attributes", func(t *testing.T) {
		unused := brokenKey{k, errors.New("the key was used")}
		if _, err := Sign(attributes, unused, k.cert.SubjectKeyId); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("got %v, want %v", err, ErrAmbiguous)
		}
	})
	t.Run("nearly attributes", func(t *testing.T) {
		for _, b := range [][]byte{attributes[:len(attributes)-1], append(attributes, 0), set(p.attributes[:1]...)} {
			if _, err := Sign(b, k, k.cert.SubjectKeyId); err != nil {
				t.Errorf("%x: %v", b, err)
			}
		}
	})
}

func TestCheckKey(t *testing.T) {
	rsaOf := func(bits int) *rsa.PublicKey {
		return &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), uint(bits-1)), E: 65537}
	}
	for _, test := range []struct {
		key  crypto.PublicKey
		want string // empty: accepted
	}{
		{rsaOf(1024), "RSA key of 1024 bits"},
		{rsaOf(2047), "RSA key of 2047 bits"},
		{rsaOf(2048), ""},
		{rsaOf(8192), ""},
		{rsaOf(8193), "RSA key of 8193 bits"},
		{&ecdsa.PublicKey{Curve: elliptic.P224()}, "ECDSA key on P-224"},
		{&ecdsa.PublicKey{Curve: elliptic.P256()}, ""},
		{&ecdsa.PublicKey{Curve: elliptic.P384()}, ""},
		{&ecdsa.PublicKey{Curve: elliptic.P521()}, ""},
		{make(ed25519.PublicKey, 32), ""},
		{make(ed25519.PublicKey, 31), "Ed25519 key of 31 bytes"},
		{&dsa.PublicKey{}, "*dsa.PublicKey"},
		{nil, "key of an unknown kind (<nil>)"},
		{[]byte("key"), "key of an unknown kind ([]uint8)"},
	} {
		err := CheckKey(test.key)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%T: got %v, want %q", test.key, err, test.want)
		}
	}
}

// A key that is too weak is refused although its signature is good.
func TestVerifyWithWeakKey(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak := newKey(rsa.GenerateKey(rand.Reader, 1024))
	err := accept(plain(weak).message(t, weak), content, weak.cert)
	if err == nil || !strings.Contains(err.Error(), "RSA key of 1024 bits") {
		t.Errorf("got %v", err)
	}
	if _, err := Sign(content, weak, weak.cert.SubjectKeyId); err == nil {
		t.Error("signed with it")
	}
}

// brokenKey signs, but not what it is asked to.
type brokenKey struct {
	*testKey
	err error
}

func (k brokenKey) Sign(random io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.err != nil {
		return nil, k.err
	}
	digest = slices.Clone(digest)
	digest[0] ^= 1 // a bit that flipped in memory
	return k.testKey.Sign(random, digest, o)
}

func TestSignRefuses(t *testing.T) {
	k := ecKey()
	for _, test := range []struct {
		name  string
		key   crypto.Signer
		keyID []byte
		want  string
	}{
		{"no key identifier", k, nil, "subjectKeyIdentifier of 0 bytes"},
		{"long key identifier", k, make([]byte, 65), "subjectKeyIdentifier of 65 bytes"},
		{"a fault while signing", brokenKey{k, nil}, k.cert.SubjectKeyId, "key made a wrong signature"},
		{"a key that is away", brokenKey{k, errors.New("token is not present")}, k.cert.SubjectKeyId, "key: token is not present"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, err := Sign(content, test.key, test.keyID)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if b != nil {
				t.Error("a signature came with the error")
			}
		})
	}
}

func TestSigner(t *testing.T) {
	k := ecKey()
	issuer := func(name []byte) *parts {
		p := plain(k)
		p.version, p.infoVersion, p.signer = integer(1), integer(1), seq(name, integer(0x1234))
		return p
	}
	long := bytes.Repeat([]byte("n"), 5000)
	rdn := func(b []byte) []byte { return seq(set(seq(oid("2.5.4.3"), tlv(0x0c, b)))) }
	for name, test := range map[string]struct {
		parts *parts
		want  string
	}{
		"key identifier":     {plain(k), "key identifier "},
		"issuer":             {issuer(k.cert.RawIssuer), `serial number 1234 of issuer "CN=test,O=hornetd"`},
		"malformed issuer":   {issuer(seq(integer(1))), "serial number 1234 of an issuer whose name is malformed"},
		"terminal escapes":   {issuer(rdn([]byte("\x1b[2J\n"))), `"CN=\x1b[2J\n"`},
		"a very long issuer": {issuer(rdn(long)), `nnn"`},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Parse(test.parts.message(t, k))
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Signer(); !strings.Contains(got, test.want) || len(got) > 300 {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// A certificate without key identifier is not named by a message with one.
func TestNamesNothing(t *testing.T) {
	k := ecKey()
	m, err := Parse(plain(k).message(t, k))
	if err != nil {
		t.Fatal(err)
	}
	cert := *k.cert
	cert.SubjectKeyId = nil
	if m.Names(&cert) || m.NamesKeyID(nil) || m.NamesKeyID([]byte{}) {
		t.Error("named without a key identifier")
	}
	p := plain(k)
	p.version, p.infoVersion, p.signer = integer(1), integer(1), issuerAndSerial(k)
	if m, err = Parse(p.message(t, k)); err != nil {
		t.Fatal(err)
	}
	if m.NamesKeyID(nil) || m.NamesKeyID(k.cert.SubjectKeyId) {
		t.Error("a message with issuer and serial number named a key identifier")
	}
	cert.SerialNumber = new(big.Int).Add(cert.SerialNumber, big.NewInt(1))
	if m.Names(&cert) {
		t.Error("named with another serial number")
	}
}

// TestSignedAt: both forms of a time, and none.
func TestSignedAt(t *testing.T) {
	k := ecKey()
	for want, value := range map[string][]byte{
		"2026-11-23T14:40:53Z": tlv(0x17, []byte("261123144053Z")),
		"2050-01-02T03:04:05Z": tlv(0x18, []byte("20500102030405Z")),
		"0001-01-01T00:00:00Z": nil,
	} {
		p := attributed(k)
		if value != nil {
			p.attributes = append(p.attributes, attribute(idTime, value))
		}
		m, err := Parse(p.message(t, k))
		if err != nil {
			t.Fatal(err)
		}
		if got := m.SignedAt.UTC().Format(time.RFC3339); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestAlgorithms: which digest goes with which algorithm, with the numbers of
// the RFCs once more, and what is said of the others.
func TestAlgorithms(t *testing.T) {
	all := map[crypto.Hash]string{crypto.SHA256: "2.16.840.1.101.3.4.2.1", crypto.SHA384: "2.16.840.1.101.3.4.2.2", crypto.SHA512: "2.16.840.1.101.3.4.2.3"}
	any := []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
	rows := []struct {
		id, name string
		with     []crypto.Hash
		null     bool // parameters are NULL, or else there are none
	}{
		{"1.2.840.113549.1.1.1", "RSA", any, true},
		{"1.2.840.113549.1.1.11", "RSA", any[:1], true},
		{"1.2.840.113549.1.1.12", "RSA", any[1:2], true},
		{"1.2.840.113549.1.1.13", "RSA", any[2:], true},
		{"1.2.840.10045.4.3.2", "ECDSA", any[:1], false},
		{"1.2.840.10045.4.3.3", "ECDSA", any[1:2], false},
		{"1.2.840.10045.4.3.4", "ECDSA", any[2:], false},
		{"1.3.101.112", "Ed25519", any[2:], false},
	}
	if len(rows)+1 != len(algorithms) { // and RSASSA-PSS, which TestRefused has
		t.Errorf("%d algorithms, %d here", len(algorithms), len(rows)+1)
	}
	k := ecKey()
	for _, row := range rows {
		for hash, id := range all {
			p := plain(k)
			p.digest, p.digests, p.algorithm = identifier(id), [][]byte{identifier(id)}, identifier(row.id)
			if row.null {
				p.algorithm = identifier(row.id, null5)
			}
			_, err := Parse(p.message(t, k))
			if slices.Contains(row.with, hash) {
				if err != nil {
					t.Errorf("%s with %v: %v", row.id, hash, err)
				}
				continue
			}
			want := fmt.Sprintf("signature not accepted: %s with %v, but the signer names %v", row.name, row.with[0], hash)
			if err == nil || err.Error() != want {
				t.Errorf("%s with %v: got %v, want %s", row.id, hash, err, want)
			}
		}
	}
}
