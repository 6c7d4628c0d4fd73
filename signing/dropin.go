package signing

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
)

// DropIn is a drop-in that was applied to the manifest, and what its own
// signature decides where the manifest is signed.
type DropIn struct {
	File      string
	Text      []byte
	Signature []byte // nil: there is none
	Widens    error  // what it asks for that was not there before it; nil: it only narrows, and needs no signature
	Alters    error  // what a signature does not make good either, or nil
}

// dropIns decides whether the drop-ins of b may count. v is what was proven
// without them; v with their signers is returned. A drop-in that has a signature
// must have a good one, whatever it says and whatever it belongs to. Where a signed
// manifest names no signers, only its own signer may add to it.
func (t *Trust) dropIns(b Bundle, v Verified, signers []string, now time.Time) (Verified, error) {
	for _, d := range b.DropIns {
		one := Bundle{Object: d.Text, ObjectFile: d.File, Signature: d.Signature}
		if d.Signature == nil {
			if v.covers == CoversManifest && d.Widens != nil {
				return Verified{}, remedy.With(refuse(one, Unsigned, "", d.Widens.Error()), "%s", remedy.Of(d.Widens))
			}
			v.dropIns = append(v.dropIns, d.verified(Signer{}))
			continue
		}
		if b.Accepted != nil {
			one.Accepted = func(Signer, [32]byte) bool { return b.Accepted(v.signer, v.digest) }
		}
		signed, err := t.signer(one, signers, now)
		if err != nil {
			return Verified{}, err
		}
		if v.covers == CoversManifest && len(signers) == 0 && signed.signer.Name != v.signer.Name {
			return Verified{}, by(notTheirs(one, signed.signer.Name, v.signer.Name), signed.signer)
		}
		if v.covers == CoversManifest && d.Alters != nil {
			reason := fmt.Sprintf("it is signed by %q, and yet not for this: %v", signed.signer.Name, d.Alters)
			return Verified{}, by(remedy.With(refuse(one, DigestMismatch, "", reason), "%s", remedy.Of(d.Alters)), signed.signer)
		}
		if signed.verdict != OK {
			v.verdict = signed.verdict
		}
		v.dropIns = append(v.dropIns, d.verified(signed.signer))
	}
	return v, nil
}

// VerifiedDropIn is a drop-in that counts.
type VerifiedDropIn struct {
	File   string
	Digest [32]byte // SHA-256
	Signer Signer   // zero where nobody signed it
}

func (d DropIn) verified(by Signer) VerifiedDropIn {
	return VerifiedDropIn{d.File, sha256.Sum256(d.Text), by}
}

// DropIns returns the drop-ins that were applied, in the order of Bundle.DropIns.
func (v Verified) DropIns() []VerifiedDropIn { return v.dropIns }
