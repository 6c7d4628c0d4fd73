package signing

import (
	"bytes"
	"time"
)

// Verified is proof: an object whose bytes are covered by a valid signature of
// a trusted key, directly or by their digest in a manifest. Only Trust.Verify
// makes one; the zero Verified proves nothing.
type Verified struct {
	object  []byte
	digest  [32]byte
	signer  Signer
	format  string
	covers  string
	time    time.Time
	verdict Verdict
	made    bool

	dropIns []VerifiedDropIn
}

// Formats of signatures.
const (
	FormatDetached = "cms-detached" // in a file of its own
	FormatAppended = "cms-appended" // at the end of the object
)

// Signer is one key of the trust store.
type Signer struct {
	Name      string    // file name in the trust store without .pem
	Subject   string    // subject of the certificate that signed; empty for a bare public key
	KeyID     string    // subject key identifier, hexadecimal
	KeySHA256 string    // of the SubjectPublicKeyInfo as Go encodes it, hexadecimal
	Algorithm string    // "RSA 2048", "ECDSA P-256", "Ed25519"
	NotBefore time.Time // zero for a bare public key, as NotAfter
	NotAfter  time.Time
	Problem   string // why nothing it signed is accepted; empty where that is not so
	Revoked   bool   // Problem is that the revocation list says so
	CA        bool   // its certificate may issue others, and their keys sign under its name
	Chain     []Key  // from the key that signs to the one in the store, which may be the same
}

// Key is one key that a signature is accepted through, under every name that a
// revocation list may call it by. All are hexadecimal.
type Key struct {
	Certificate string   // SHA-256 of its certificate's DER; empty for a bare public key
	SHA256      string   // of its SubjectPublicKeyInfo as Go encodes it; empty where that does not know it
	IDs         []string // subject key identifiers, the certificate's first
}

// What signatures cover.
const (
	CoversObject   = "object"
	CoversManifest = "object+manifest" // the manifest, and by the digest in it the object; of its drop-ins what does more than narrow
)

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

// Size returns the object's size in bytes, without a signature at its end.
func (v Verified) Size() int { return len(v.object) }

// Digest returns the object's SHA-256, without a signature at its end.
func (v Verified) Digest() [32]byte { return v.digest }

// Signer returns whose signature it was.
func (v Verified) Signer() Signer { return v.signer }

// Verdict returns OK, or which of the other verdicts that let it run.
func (v Verified) Verdict() Verdict { return v.verdict }

// RolledBack returns v with the verdict OKRolledBack: it runs although a ratchet
// refused its version.
func (v Verified) RolledBack() Verified {
	v.verdict = OKRolledBack
	return v
}

// Validity is the time at which all certificates behind something are valid, and
// whose they are that bound it. Its zero value has no bounds.
type Validity struct {
	NotBefore time.Time // zero: no beginning
	NotAfter  time.Time // zero: no end
	From      string    // name of the signer whose certificate begins last; empty without NotBefore
	Until     string    // the same of that which ends first
}

// And returns v narrowed to the validity of s.
func (v Validity) And(s Signer) Validity {
	if s.NotBefore.After(v.NotBefore) {
		v.NotBefore, v.From = s.NotBefore, s.Name
	}
	if !s.NotAfter.IsZero() && (v.NotAfter.IsZero() || s.NotAfter.Before(v.NotAfter)) {
		v.NotAfter, v.Until = s.NotAfter, s.Name
	}
	return v
}

// Validity returns that of the signer and of those of the drop-ins together.
func (v Verified) Validity() Validity {
	valid := Validity{}.And(v.signer)
	for _, d := range v.dropIns {
		valid = valid.And(d.Signer)
	}
	return valid
}

// Format returns the signature's format: FormatDetached or FormatAppended.
func (v Verified) Format() string { return v.format }

// SignedAt returns when the signer says that it signed; zero where it does not
// say so. It is covered by the signature, but no clock stands behind it.
func (v Verified) SignedAt() time.Time { return v.time }

// Covers returns what the signature covers: CoversObject or CoversManifest.
func (v Verified) Covers() string { return v.covers }
