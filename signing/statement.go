package signing

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
)

// StatementHeader is the first line of every statement. Nothing else that is signed
// can begin with it: an object is ELF; a manifest, a drop-in and a revocation list
// are TOML, in which it is no line. So none of their signatures is a statement's.
const StatementHeader = "hornetd guard statement 1\n"

// VerifiedStatement is proof that a root signed a statement. Only VerifyStatement
// makes one.
type VerifiedStatement struct {
	text   []byte
	signer Signer
}

// IsZero reports whether v proves nothing.
func (v VerifiedStatement) IsZero() bool { return v.text == nil }

// Text returns what was signed.
func (v VerifiedStatement) Text() []byte { return v.text }

// Signer returns whose signature it was.
func (v VerifiedStatement) Signer() Signer { return v.signer }

// VerifyStatement verifies the detached signature of a statement, in DER, with the
// entries of the store that roots names. As with revocation lists those a CA among
// them issued certificates to do not count, nor whom the list in force revokes; and the
// validity of certificates does not, so that a dead clock shuts nobody out. How long the
// statement itself is good for is not decided here.
func (t *Trust) VerifyStatement(text, signature []byte, roots []string) (VerifiedStatement, error) {
	if !bytes.HasPrefix(text, []byte(StatementHeader)) {
		return VerifiedStatement{}, errors.New("statement: it does not begin as one")
	}
	here := slices.DeleteFunc(slices.Clone(roots), func(name string) bool {
		return !slices.ContainsFunc(t.entries, func(e entry) bool { return e.name == name })
	})
	if len(here) == 0 {
		return VerifiedStatement{}, remedy.With(fmt.Errorf("statement: [trust] roots (%s) names no key of %s: nobody can sign it", quote(roots), t),
			"put the key back, then hornetctl reload")
	}
	b := Bundle{Object: text, ObjectFile: "statement", Signature: signature, SignatureFile: "the signature", inStore: true,
		Accepted: func(Signer, [32]byte) bool { return true }}
	if t.closed != nil {
		return VerifiedStatement{}, t.refuseAll(b)
	}
	v, err := t.signer(b, here, time.Time{})
	if err != nil {
		return VerifiedStatement{}, err
	}
	return VerifiedStatement{bytes.Clone(text), v.signer}, nil
}
