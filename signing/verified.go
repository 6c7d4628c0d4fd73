package signing

import (
	"bytes"
	"time"
)

// Verified is proof: an object whose bytes are covered by a valid signature of
// a trusted key. Only Trust.Verify makes one; the zero Verified proves nothing.
type Verified struct {
	object  []byte
	digest  [32]byte
	signer  Signer
	verdict Verdict
	made    bool
}

// Signer is one key of the trust store.
type Signer struct {
	Name      string    // file name in the trust store without .pem
	Subject   string    // the certificate's subject; empty for a bare public key
	KeyID     string    // subject key identifier, hexadecimal
	Algorithm string    // "RSA 2048", "ECDSA P-256", "Ed25519"
	NotBefore time.Time // zero for a bare public key, as NotAfter
	NotAfter  time.Time
	Problem   string // why nothing it signed is accepted; empty where that is not so
	Revoked   bool   // Problem is that the revocation list says so
}

// IsZero reports whether v proves nothing.
func (v Verified) IsZero() bool { return !v.made }

// Reader reads the verified bytes: the same buffer that was verified. It
// panics on a zero Verified.
func (v Verified) Reader() *bytes.Reader {
	if !v.made {
		panic("signing: internal error: a Verified that Verify did not make")
	}
	return bytes.NewReader(v.object)
}

// Size returns the object's size in bytes.
func (v Verified) Size() int { return len(v.object) }

// Digest returns the object's SHA-256.
func (v Verified) Digest() [32]byte { return v.digest }

// Signer returns whose signature it was.
func (v Verified) Signer() Signer { return v.signer }

// Verdict returns OK, or OKExpired.
func (v Verified) Verdict() Verdict { return v.verdict }

// Format returns the signature's format: "cms-detached".
func (v Verified) Format() string { return "cms-detached" }

// Covers returns what the signature covers: "object", not the manifest.
func (v Verified) Covers() string { return "object" }
