// Package signing decides whether an object may run: whether its bytes are
// what a key of the trust store signed.
//
// Trust.Verify is the only function that makes a Verified, and a Verified is
// the only thing the loader opens. Keys come from the trust store (LoadTrust),
// never from a signature. A signature is a detached CMS message over the
// object's bytes beside it, NAME.p7s: what bpftool, the kernel's sign-file and
// `openssl cms -sign -binary -outform DER` make (package internal/cms says what
// exactly). Nothing here touches the network, and nothing but LoadTrust the
// file system.
//
// Keygen and Sign are the other side, for hornetctl.
package signing

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
)

// Verdict is what Verify says of a bundle. Only OK and OKExpired let it run.
type Verdict string

const (
	OK             Verdict = "ok"
	OKExpired      Verdict = "ok-expired"      // good but for the certificate's validity, and let run (Bundle.Accepted)
	Unsigned       Verdict = "unsigned"        // there is no signature
	UnknownKey     Verdict = "unknown-key"     // no key that may sign this is in the trust store
	BadSignature   Verdict = "bad-signature"   // malformed, or not over these bytes
	Expired        Verdict = "expired"         // good, but outside the certificate's validity
	Revoked        Verdict = "revoked"         // the key was withdrawn
	RolledBack     Verdict = "rolled-back"     // older than what ran here before
	DigestMismatch Verdict = "digest-mismatch" // not the bytes the manifest pins
)

// Error is a refusal. The error Verify returns carries a remedy too
// (internal/remedy).
type Error struct {
	Verdict Verdict
	File    string // the object's file
	Signer  string // name in the trust store, where one is known
	Reason  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %s", e.File, e.Verdict, e.Reason) }

// Bundle is what Verify is given: the bytes that were read, once, and where
// they came from (for messages only).
type Bundle struct {
	Object        []byte
	ObjectFile    string
	Signature     []byte // nil: there is none
	SignatureFile string
	SHA256        *[32]byte // the object's digest as the manifest pins it, or nil
	// Accepted decides on a signature that is good but for the validity of its
	// certificate: true lets it run as OKExpired. nil: none does.
	Accepted func(s Signer, object [32]byte) bool
}

// signatureFile is where the signature is, or would be.
func (b Bundle) signatureFile() string {
	if b.SignatureFile != "" {
		return b.SignatureFile
	}
	return b.ObjectFile + ".p7s"
}

// Verify decides whether b may run: signed by a key of the store, valid at
// now, and named in signers (an empty list allows every key of the store).
// What it refuses is an *Error with a remedy; the remedies name commands of
// hornetctl.
//
// The Verified keeps b.Object: from here on its bytes must not change.
func (t *Trust) Verify(b Bundle, signers []string, now time.Time) (Verified, error) {
	if t.closed != nil {
		return Verified{}, t.refuseAll(b)
	}
	if b.Signature == nil {
		return Verified{}, unsigned(b)
	}
	digest := sha256.Sum256(b.Object)
	if b.SHA256 != nil && *b.SHA256 != digest {
		return Verified{}, pinned(b, digest)
	}
	if reason := t.list.revokesObject(hex.EncodeToString(digest[:])); reason != "" {
		return Verified{}, revokedBy(b, "", reason)
	}
	message, err := cms.Parse(b.Signature)
	if err != nil {
		return Verified{}, malformed(b, err)
	}
	candidates, err := t.candidates(b, message, signers)
	if err != nil {
		return Verified{}, err
	}
	e, err := firstGood(b, message, candidates, t.list, now)
	if err != nil && !(verdictOf(err) == Expired && b.Accepted != nil && b.Accepted(e.signer(), digest)) {
		return Verified{}, err
	}
	v := Verified{object: b.Object, digest: digest, signer: e.signer(), verdict: OK, made: true}
	if err != nil {
		v.verdict = OKExpired
	}
	return v, nil
}

// candidates are the entries the message may be verified with: those it names
// and the caller allows.
func (t *Trust) candidates(b Bundle, m *cms.Message, signers []string) ([]entry, error) {
	for _, name := range signers {
		if !slices.ContainsFunc(t.entries, func(e entry) bool { return e.name == name }) {
			return nil, t.unknownName(b, name)
		}
	}
	var named, allowed []entry
	for _, e := range t.entries {
		if e.named(m) {
			named = append(named, e)
			if len(signers) == 0 || slices.Contains(signers, e.name) {
				allowed = append(allowed, e)
			}
		}
	}
	switch {
	case len(named) == 0:
		return nil, t.unknownKey(b, m)
	case len(allowed) == 0:
		return nil, notAllowed(b, named[0].name, signers)
	}
	return allowed, nil
}

// firstGood returns the first entry that passes. Several may be named: a
// renewed certificate often keeps its key and with it the key identifier. The
// refusal is of the entry that came furthest, which is returned with it.
func firstGood(b Bundle, m *cms.Message, candidates []entry, list *Revocations, now time.Time) (entry, error) {
	var refusal *Error
	var hinted error
	var furthest entry
	for _, e := range candidates {
		err := e.check(b, m, list, now)
		if err == nil {
			return e, nil
		}
		if refusal == nil || refusal.Verdict == BadSignature {
			errors.As(err, &refusal)
			hinted, furthest = err, e
		}
	}
	return furthest, hinted
}

// check verifies m with one entry. The validity comes last, so that an expired
// signature is one that is good but for that.
func (e entry) check(b Bundle, m *cms.Message, list *Revocations, now time.Time) error {
	if e.problem != nil {
		return e.unusable(b)
	}
	if err := m.Verify(b.Object, e.key); err != nil {
		return e.bad(b, err)
	}
	if reason := list.revokes(e); reason != "" {
		return revokedBy(b, e.name, fmt.Sprintf("%s is by %q: %s", b.signatureFile(), e.name, reason))
	}
	if e.cert != nil && (now.Before(e.cert.NotBefore) || now.After(e.cert.NotAfter)) {
		return e.expired(b, now)
	}
	return nil
}

func verdictOf(err error) Verdict {
	var e *Error
	errors.As(err, &e)
	return e.Verdict
}
