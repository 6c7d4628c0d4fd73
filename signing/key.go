package signing

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
	"github.com/hornetd/hornetd/internal/remedy"
)

// lifetime of the certificates that Keygen makes, in years.
const lifetime = 10

// Issuer is a CA that issues certificates.
type Issuer struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// Keygen makes a key and a self-signed code-signing certificate for it, valid
// for ten years, both in PEM. See Issue.
func Keygen(name, algorithm string) (keyPEM, certPEM []byte, err error) {
	return Issue(name, algorithm, false, nil)
}

// Issue makes a key and a certificate for it, both in PEM: for signing code or,
// with ca, for issuing certificates; by issuer or, where that is nil, by the key
// itself. It is valid for ten years or as long as its issuer. name becomes the subject's common name; it has
// the form of a name in the trust store. Algorithms: ecdsa (P-256), ecdsa-p384,
// ecdsa-p521, rsa (3072 bits), rsa-2048, rsa-4096, ed25519; empty is ecdsa.
func Issue(name, algorithm string, ca bool, issuer *Issuer) (keyPEM, certPEM []byte, err error) {
	if !validName.MatchString(name) {
		return nil, nil, remedy.With(fmt.Errorf("key name %.80q is not valid", name),
			"use 1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first")
	}
	if issuer != nil {
		if err := issuer.check(ca); err != nil {
			return nil, nil, err
		}
	}
	key, err := generate(algorithm)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("key: %w", err)
	}
	cert, err := certify(name, key, ca, issuer)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), nil
}

func generate(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "", "ecdsa", "ecdsa-p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ecdsa-p521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "rsa", "rsa-3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "rsa-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "rsa-4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, remedy.With(fmt.Errorf("key algorithm %.40q is not known", algorithm),
		"use ecdsa, ecdsa-p384, ecdsa-p521, rsa, rsa-2048, rsa-4096 or ed25519")
}

// check says why i cannot issue certificates that count, or nil.
func (i *Issuer) check(ca bool) error {
	if ca && i.Cert.MaxPathLenZero {
		return remedy.With(fmt.Errorf("certificate of %q allows no CA below it", i.Cert.Subject.String()), "have its own issuer make the certificate")
	}
	if !isCA(i.Cert) {
		return remedy.With(fmt.Errorf("certificate of %q is not a CA's that may sign certificates", i.Cert.Subject.String()), "make one: hornetctl keygen --ca")
	}
	if now := time.Now(); now.Before(i.Cert.NotBefore) || now.After(i.Cert.NotAfter) {
		return remedy.With(fmt.Errorf("certificate of %q is valid from %s until %s, the clock says %s", i.Cert.Subject.String(),
			i.Cert.NotBefore.UTC().Format(time.RFC3339), i.Cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)),
			"have a new one issued, or make one: hornetctl keygen --ca; what one that is not valid issues counts nowhere")
	}
	if len(i.Cert.SubjectKeyId) == 0 {
		return remedy.With(fmt.Errorf("certificate of %q has no subject key identifier", i.Cert.Subject.String()), "make one that has: hornetctl keygen --ca")
	}
	if !matches(i.Key, i.Cert) {
		return remedy.With(fmt.Errorf("certificate of %q is not for the issuer's key", i.Cert.Subject.String()), "give the certificate that was made with the key")
	}
	return nil
}

// SelfSigned reports whether cert's own key issued it. That issuer and subject have
// one name is not enough: a CA may issue to its own.
func SelfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, cert.RawSubject) && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// matches reports whether cert is for key.
func matches(key crypto.Signer, cert *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

// certify makes a certificate that the kernel's keyrings take too: an end
// entity that may sign code, with a subject key identifier; or a CA. One that
// was issued by another CA issues none below itself.
func certify(name string, key crypto.Signer, ca bool, issuer *Issuer) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	ids, err := derivedKeyIDs(spki)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-time.Hour), // hosts whose clocks are a little behind
		NotAfter:              now.AddDate(lifetime, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true,
		SubjectKeyId:          ids[0],
		AuthorityKeyId:        ids[0],
	}
	if ca {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	}
	if issuer == nil {
		return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	}
	if template.NotAfter.After(issuer.Cert.NotAfter) {
		template.NotAfter = issuer.Cert.NotAfter
	}
	template.AuthorityKeyId = issuer.Cert.SubjectKeyId
	template.MaxPathLenZero = ca
	return x509.CreateCertificate(rand.Reader, template, issuer.Cert, key.Public(), issuer.Key)
}

// ParseKey reads a private key in PEM: PKCS #8, or what older OpenSSL commands
// write (RSA PRIVATE KEY, EC PRIVATE KEY). Encrypted ones are refused.
func ParseKey(b []byte) (crypto.Signer, error) { return ParseEncryptedKey(b, nil) }

// ParseEncryptedKey is ParseKey for keys that may be encrypted PKCS #8.
// passphrase is called if the key is.
func ParseEncryptedKey(b []byte, passphrase func() ([]byte, error)) (crypto.Signer, error) {
	block, rest := pem.Decode(b)
	if block != nil && block.Type == "EC PARAMETERS" { // `openssl ecparam -genkey` writes them first
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, remedy.With(errors.New("private key: no PEM block (-----BEGIN PRIVATE KEY-----)"), "make one: hornetctl keygen NAME")
	}
	key, err := parsePrivate(block, passphrase)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key: a key of type %T cannot sign", key)
	}
	return signer, nil
}

func parsePrivate(block *pem.Block, passphrase func() ([]byte, error)) (any, error) {
	if block.Headers["DEK-Info"] != "" || block.Type == "ENCRYPTED PRIVATE KEY" && passphrase == nil {
		return nil, remedy.With(errors.New("it is encrypted"), "decrypt it on the way, without a file: --key <(openssl pkey -in KEY); or encrypt it anew: openssl pkcs8 -topk8 -in KEY")
	}
	switch block.Type {
	case "ENCRYPTED PRIVATE KEY":
		secret, err := passphrase()
		if err != nil {
			return nil, err
		}
		der, err := decrypt(block.Bytes, secret)
		if err != nil {
			return nil, err
		}
		key, err := x509.ParsePKCS8PrivateKey(der)
		var syntax asn1.SyntaxError
		var structure asn1.StructuralError
		if errors.As(err, &syntax) || errors.As(err, &structure) {
			return nil, wrongPassphrase() // one in 256 leaves something that looks padded
		}
		return key, err
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	return nil, fmt.Errorf("PEM block %.40q is not one", block.Type)
}

// ParseCertificate reads one certificate, in PEM or (as the kernel's build
// writes them) DER.
func ParseCertificate(b []byte) (*x509.Certificate, error) {
	cert, more, err := ParseCertificates(b)
	if err == nil && len(more) > 0 {
		err = fmt.Errorf("certificate: %d PEM blocks: one certificate is needed", 1+len(more))
	}
	if err != nil {
		return nil, err
	}
	return cert, nil
}

// ParseCertificates is ParseCertificate for a file that may hold more: behind the
// signer's certificate those of the CAs between it and one of a trust store.
func ParseCertificates(b []byte) (cert *x509.Certificate, more []*x509.Certificate, err error) {
	ders := [][]byte{b}
	if !bytes.HasPrefix(b, []byte{0x30}) { // a DER SEQUENCE
		blocks, err := pemBlocks(b)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate: %w", err)
		}
		ders = nil
		for _, block := range blocks {
			if block.Type != "CERTIFICATE" {
				return nil, nil, fmt.Errorf("certificate: PEM block %.40q: one certificate is needed", block.Type)
			}
			ders = append(ders, block.Bytes)
		}
	}
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate: %w", err)
		}
		more = append(more, c)
	}
	return more[0], more[1:], nil
}

// Sign makes the detached signature of an object that Verify accepts where
// cert is in the trust store: the contents of FILE.p7s. One that another key
// issued travels in it, and so do the certificates in more, so that the CA in the
// trust store is enough.
func Sign(object []byte, key crypto.Signer, cert *x509.Certificate, more ...*x509.Certificate) ([]byte, error) {
	if len(object) == 0 {
		return nil, errors.New("object is empty")
	}
	if !matches(key, cert) {
		return nil, remedy.With(fmt.Errorf("certificate of %q is not for this key", cert.Subject.String()),
			"give the certificate that was made with the key")
	}
	if err := maySign(cert); err != nil {
		return nil, remedy.With(err, "use a code-signing certificate; hornetctl keygen makes one")
	}
	if len(cert.SubjectKeyId) == 0 {
		return nil, remedy.With(errors.New("certificate has no subject key identifier to name the signer by"),
			"issue it with subjectKeyIdentifier = hash; hornetctl keygen does")
	}
	var carried [][]byte
	if !SelfSigned(cert) || len(more) > 0 {
		carried = append(carried, cert.Raw)
	}
	for _, c := range more {
		carried = append(carried, c.Raw)
	}
	signature, err := cms.Sign(object, key, cert.SubjectKeyId, carried...)
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return signature, nil
}
