package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"
)

// content is what the messages built here sign.
var content = []byte("\x7fELF what is signed")

// Object identifiers in dotted form, for the builder.
const (
	idSHA1   = "1.3.14.3.2.26"
	idSHA384 = "2.16.840.1.101.3.4.2.2"
	idPSS    = "1.2.840.113549.1.1.10"
	idTime   = "1.2.840.113549.1.9.5"
)

// tlv encodes one element in DER.
func tlv(tag byte, contents ...[]byte) []byte {
	body := bytes.Join(contents, nil)
	length := []byte{byte(len(body))}
	if len(body) > 127 {
		length = big.NewInt(int64(len(body))).Bytes()
		length = append([]byte{0x80 | byte(len(length))}, length...)
	}
	return slices.Concat([]byte{tag}, length, body)
}

func seq(contents ...[]byte) []byte { return tlv(0x30, contents...) }
func set(contents ...[]byte) []byte { return tlv(0x31, contents...) }
func octets(b []byte) []byte        { return tlv(0x04, b) }

func integer(n int64) []byte {
	b, err := asn1.Marshal(n)
	if err != nil {
		panic(err)
	}
	return b
}

func oid(dotted string) []byte {
	id, err := x509.ParseOID(dotted)
	if err != nil {
		panic(err)
	}
	body, err := id.MarshalBinary()
	if err != nil {
		panic(err)
	}
	return tlv(0x06, body)
}

// identifier is an AlgorithmIdentifier.
func identifier(dotted string, parameters ...[]byte) []byte {
	return seq(append([][]byte{oid(dotted)}, parameters...)...)
}

var null5 = []byte{5, 0}

func attribute(dotted string, values ...[]byte) []byte { return seq(oid(dotted), set(values...)) }

// parts is a message in pieces, each in DER, so that a test can say exactly
// which one is wrong. The rest stays right, and properly signed.
type parts struct {
	contentType  []byte
	version      []byte
	digests      [][]byte
	encap        []byte
	certificates []byte // with its tag, or nil
	crls         []byte
	infoVersion  []byte
	signer       []byte
	digest       []byte
	attributes   [][]byte // nil: none
	unsorted     bool
	algorithm    []byte
	unsigned     []byte // with its tag, or nil
	inSigner     []byte // behind everything else in SignerInfo
	inSigned     []byte
	inContent    []byte
	inInfo       []byte
	trailing     []byte
	signers      int  // how many times the SignerInfo is there
	wrongSign    bool // sign something else
	hash         crypto.Hash
	pss          *rsa.PSSOptions
}

// plain are the parts of what bpftool makes with an ECDSA key.
func plain(k *testKey) *parts {
	p := &parts{
		contentType: oid(oidSignedData),
		version:     integer(3),
		digests:     [][]byte{identifier(oidSHA256)},
		encap:       seq(oid(oidData)),
		infoVersion: integer(3),
		signer:      tlv(0x80, k.cert.SubjectKeyId),
		digest:      identifier(oidSHA256),
		signers:     1,
		hash:        crypto.SHA256,
	}
	switch k.Signer.Public().(type) {
	case *rsa.PublicKey:
		p.algorithm = identifier(oidRSA, null5)
	case *ecdsa.PublicKey:
		p.algorithm = identifier(oidECDSASHA256)
	case ed25519.PublicKey:
		p.algorithm, p.hash = identifier(oidEd25519), crypto.SHA512
		p.digest, p.digests = identifier(oidSHA512), [][]byte{identifier(oidSHA512)}
	}
	return p
}

// attributed are plain's parts with the attributes there must be.
func attributed(k *testKey) *parts {
	p := plain(k)
	p.attributes = [][]byte{
		attribute(oidContentType, oid(oidData)),
		attribute(oidMessageDigest, octets(p.sum(content))),
	}
	return p
}

func (p *parts) sum(b []byte) []byte { return (&Message{hash: p.hash}).sum(b) }

// message signs the parts and puts them together.
func (p *parts) message(t testing.TB, k *testKey) []byte {
	t.Helper()
	signed := content
	var attributes []byte
	if p.attributes != nil {
		if !p.unsorted {
			slices.SortFunc(p.attributes, bytes.Compare)
		}
		attributes = tlv(0xa0, p.attributes...)
		signed = tlv(0x31, p.attributes...)
	}
	if p.wrongSign {
		signed = append([]byte("not "), signed...)
	}
	var options crypto.SignerOpts = p.hash
	if p.pss != nil {
		options = p.pss
	}
	if _, ok := k.Signer.(ed25519.PrivateKey); ok {
		options = crypto.Hash(0)
	} else {
		signed = p.sum(signed)
	}
	signature, err := k.Sign(rand.Reader, signed, options)
	if err != nil {
		t.Fatal(err)
	}
	info := seq(p.infoVersion, p.signer, p.digest, attributes, p.algorithm, octets(signature), p.unsigned, p.inSigner)
	return slices.Concat(seq(p.contentType, tlv(0xa0, seq(
		p.version, set(p.digests...), p.encap, p.certificates, p.crls,
		set(bytes.Repeat(info, p.signers)), p.inSigned,
	), p.inContent), p.inInfo), p.trailing)
}

// testKey is a key with its certificate.
type testKey struct {
	crypto.Signer
	cert *x509.Certificate
}

// newKey gives key a certificate with a serial number whose top bit is set,
// so that DER needs a leading zero.
func newKey(key crypto.Signer, err error) *testKey {
	if err != nil {
		panic(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	id := sha256.Sum256(spki)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(append([]byte{0xf0}, id[:7]...)),
		Subject:      pkix.Name{CommonName: "test", Organization: []string{"hornetd"}},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Unix(1<<32, 0),
		SubjectKeyId: id[:20],
	}
	b, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(b)
	if err != nil {
		panic(err)
	}
	return &testKey{key, cert}
}

var (
	ecKey  = sync.OnceValue(func() *testKey { return newKey(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	rsaKey = sync.OnceValue(func() *testKey { return newKey(rsa.GenerateKey(rand.Reader, 2048)) })
	edKey  = sync.OnceValue(func() *testKey {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return newKey(key, err)
	})
)

// issuerAndSerial names k the other way.
func issuerAndSerial(k *testKey) []byte {
	serial, err := asn1.Marshal(k.cert.SerialNumber)
	if err != nil {
		panic(err)
	}
	return seq(k.cert.RawIssuer, serial)
}

// accept parses b and verifies it as a caller does who trusts cert.
func accept(b, content []byte, cert *x509.Certificate) error {
	m, err := Parse(b)
	if err != nil {
		return err
	}
	if !m.Names(cert) {
		return errNotNamed
	}
	return m.Verify(content, cert.PublicKey)
}

type constError string

func (e constError) Error() string { return string(e) }

const errNotNamed = constError("the message names another certificate")
