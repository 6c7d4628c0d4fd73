// Package signing decides whether an object may run: whether its bytes are
// what a key of the trust store signed.
//
// Trust.Verify is the only function that makes a Verified, and a Verified is
// the only thing the loader opens. Keys come from the trust store (LoadTrust),
// never from a signature, which can at most bring certificates that a CA of the
// store issued. A signature is a detached CMS message over the
// object's bytes: in a file beside it, NAME.p7s, or at its end, as in the
// kernel's modules. bpftool, the kernel's sign-file and `openssl cms -sign
// -binary -outform DER` make them (package internal/cms says what exactly).
// Or the manifest is signed, in NAME.toml.p7s, and says which object it means by
// its digest: then the object needs no signature of its own. Nothing here touches
// the network, and nothing but LoadTrust the file system.
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
	"github.com/hornetd/hornetd/internal/remedy"
)

// Verdict is what is said of a bundle. Only those that begin with "ok" let it run.
type Verdict string

const (
	OK             Verdict = "ok"
	OKExpired      Verdict = "ok-expired"       // good but that the certificate has ended, and let run (Bundle.Accepted)
	OKNotYetValid  Verdict = "ok-not-yet-valid" // the same, of one that has not begun
	OKRolledBack   Verdict = "ok-rolled-back"   // an older version, and let run all the same
	Unsigned       Verdict = "unsigned"         // there is no signature
	UnknownKey     Verdict = "unknown-key"      // no key that may sign this is in the trust store
	BadSignature   Verdict = "bad-signature"    // malformed, or not over these bytes
	Expired        Verdict = "expired"          // good, but outside the certificate's validity
	Revoked        Verdict = "revoked"          // the key was withdrawn
	RolledBack     Verdict = "rolled-back"      // older than what ran here before
	DigestMismatch Verdict = "digest-mismatch"  // not the bytes the manifest pins
)

// Error is a refusal. The error Verify returns carries a remedy too
// (internal/remedy).
type Error struct {
	Verdict Verdict
	File    string // the object's file
	Signer  string // name in the trust store, where one is known
	KeyID   string // of their key, where it is known; hexadecimal
	Subject string // of their certificate, the same
	Key     string // Signer.KeySHA256, the same
	Reason  string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %s: %s", e.File, e.Verdict, e.Reason)
	switch {
	case e.KeyID != "" && e.Subject != "":
		text += fmt.Sprintf(" (key %s, %.200q)", e.KeyID, e.Subject)
	case e.KeyID != "":
		text += fmt.Sprintf(" (key %s)", e.KeyID)
	}
	return text
}

// by adds to a refusal of Verify whose signature it is about.
func by(err error, s Signer) error {
	var e *Error
	if errors.As(err, &e) {
		e.Signer, e.KeyID, e.Subject, e.Key = s.Name, s.KeyID, s.Subject, s.KeySHA256
	}
	return err
}

// Bundle is what Verify is given: the bytes that were read, once, and where
// they came from (for messages only).
type Bundle struct {
	Object        []byte // the file, with the signature at its end where it has one
	ObjectFile    string
	Signature     []byte // nil: there is none beside the object
	SignatureFile string
	SHA256        *[32]byte // the object's digest as the manifest pins it, or nil
	// Accepted decides on a signature that is good but for the validity of its
	// certificate: true lets it run as OKExpired or OKNotYetValid. nil: none does.
	Accepted func(s Signer, object [32]byte) bool

	Manifest          []byte // as it was parsed
	ManifestFile      string
	ManifestSignature []byte // nil: there is none, and the object's own decides
	SignedManifest    bool   // nothing but a signed manifest will do
	Unnamed           error  // why the manifest must not count as signed though its signature is good (its name is not in it), or nil
	DropIns           []DropIn

	appended bool // Signature was at the end of Object
	inStore  bool // keys that a CA of the store issued certificates to do not count
}

// manifest is the bundle in which the manifest itself is what is signed.
func (b Bundle) manifest() Bundle {
	m := Bundle{Object: b.Manifest, ObjectFile: b.ManifestFile, Signature: b.ManifestSignature}
	if b.Accepted != nil && b.SHA256 != nil { // which the object is compared with
		m.Accepted = func(s Signer, _ [32]byte) bool { return b.Accepted(s, *b.SHA256) }
	}
	return m
}

// open takes the signature at the object's end, if there is one, off it. A
// second one beside it is refused: it would be a matter of taste which of them
// counts.
func (b Bundle) open() (Bundle, error) {
	contents, signature, err := split(b.Object)
	if err != nil {
		return b, trailer(b, err)
	}
	if signature == nil {
		return b, nil
	}
	if b.Signature != nil {
		return b, twice(b)
	}
	b.Object, b.Signature, b.appended = contents, signature, true
	return b, nil
}

// signatureFile is where the signature is, or would be.
func (b Bundle) signatureFile() string {
	if b.appended {
		return "the signature at its end"
	}
	if b.SignatureFile != "" {
		return b.SignatureFile
	}
	return b.ObjectFile + ".p7s"
}

// Verify decides whether b may run: signed by a key of the store, valid at
// now, and named in signers (an empty list allows every key of the store).
// What it refuses is an *Error with a remedy; the remedies name commands of
// hornetctl. Where the manifest is signed that signature decides alone: if it is
// not good, none over the object makes up for it. Its drop-ins are signed by one
// of the same signers, or only narrow it: so that the coverage of object and manifest
// stays true.
//
// The Verified keeps b.Object: from here on its bytes must not change.
func (t *Trust) Verify(b Bundle, signers []string, now time.Time) (Verified, error) {
	switch {
	case t.closed != nil:
		return Verified{}, t.refuseAll(b)
	case b.ManifestSignature != nil:
		return t.verifyBoth(b, signers, now)
	case b.SignedManifest:
		return Verified{}, manifestUnsigned(b)
	}
	b, err := b.open()
	if err != nil {
		return Verified{}, err
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
	v, err := t.signer(b, signers, now)
	if err != nil {
		return Verified{}, err
	}
	v.object, v.digest, v.format, v.covers, v.made = b.Object, digest, b.format(), CoversObject, true
	return t.dropIns(b, v, signers, now)
}

// verifyBoth verifies the manifest, and the object by the digest in it.
func (t *Trust) verifyBoth(b Bundle, signers []string, now time.Time) (Verified, error) {
	v, err := t.signer(b.manifest(), signers, now)
	if err != nil {
		return Verified{}, err
	}
	contents, err := t.named(b)
	if err != nil {
		return Verified{}, by(err, v.signer)
	}
	v.object, v.digest, v.format, v.covers, v.made = contents, *b.SHA256, FormatDetached, CoversManifest, true
	return t.dropIns(b, v, signers, now)
}

// named returns the object, without a signature at its end, that a signed manifest
// names by its digest.
func (t *Trust) named(b Bundle) ([]byte, error) {
	if b.SHA256 == nil {
		return nil, noDigest(b)
	}
	if b.Unnamed != nil {
		return nil, remedy.With(refuse(b.manifest(), DigestMismatch, "", b.Unnamed.Error()), "%s", remedy.Of(b.Unnamed))
	}
	contents, signature, err := split(b.Object)
	if err != nil {
		return nil, trailer(b, err)
	}
	digest := sha256.Sum256(contents)
	if *b.SHA256 != digest {
		b.appended = signature != nil
		return nil, pinned(b, digest)
	}
	if reason := t.list.revokesObject(hex.EncodeToString(digest[:])); reason != "" {
		return nil, revokedBy(b, "", reason)
	}
	return contents, nil
}

// signer finds out whose signature over b.Object b.Signature is. What it returns
// has a signer and a time, and proves nothing yet.
func (t *Trust) signer(b Bundle, signers []string, now time.Time) (Verified, error) {
	message, err := cms.Parse(b.Signature)
	if err != nil {
		return Verified{}, malformed(b, err)
	}
	candidates, err := t.candidates(b, message, signers)
	if err != nil {
		return Verified{}, err
	}
	e, err := firstGood(b, message, candidates, t.list, now)
	if err != nil && !(verdictOf(err) == Expired && b.Accepted != nil && b.Accepted(e.signer(), sha256.Sum256(b.Object))) {
		return Verified{}, err
	}
	v := Verified{signer: e.signer(), verdict: OK, time: message.SignedAt}
	switch {
	case err != nil && now.Before(v.signer.NotBefore):
		v.verdict = OKNotYetValid
	case err != nil:
		v.verdict = OKExpired
	}
	return v, nil
}

func (b Bundle) format() string {
	if b.appended {
		return FormatAppended
	}
	return FormatDetached
}

// candidates are the entries the message may be verified with: those it names,
// or else those it brings and a CA of the store issued, and the caller allows.
func (t *Trust) candidates(b Bundle, m *cms.Message, signers []string) ([]entry, error) {
	for _, name := range signers {
		if !slices.ContainsFunc(t.entries, func(e entry) bool { return e.name == name }) {
			return nil, t.unknownName(b, name)
		}
	}
	named := slices.DeleteFunc(slices.Clone(t.entries), func(e entry) bool { return !e.named(m) })
	if len(named) == 0 {
		err := errors.New("only a key that is in the store itself may sign this")
		if !b.inStore {
			named, err = t.issued(m)
		}
		if err != nil {
			return nil, t.unknownKey(b, m, err)
		}
	}
	first := named[0]
	allowed := slices.DeleteFunc(named, func(e entry) bool { return len(signers) > 0 && !slices.Contains(signers, e.name) })
	if len(allowed) == 0 {
		return nil, by(notAllowed(b, first.name, signers), first.signer())
	}
	return allowed, nil
}

// firstGood returns the first entry that passes. Several may be named: a
// renewed certificate often keeps its key and with it the key identifier. The
// refusal is of the first entry that came furthest, which is returned with it.
func firstGood(b Bundle, m *cms.Message, candidates []entry, list *Revocations, now time.Time) (entry, error) {
	var refusal error
	var furthest entry
	for _, e := range candidates {
		err := by(e.check(b, m, list, now), e.signer())
		if err == nil {
			return e, nil
		}
		if refusal == nil || slices.Index(byProgress, verdictOf(err)) > slices.Index(byProgress, verdictOf(refusal)) {
			refusal, furthest = err, e
		}
	}
	return furthest, refusal
}

// byProgress are the refusals of entry.check. One that may not sign, or whose
// key is another, says nothing of the signature, and hides none that does.
var byProgress = []Verdict{BadSignature, UnknownKey, Expired, Revoked}

// check verifies m with one entry. The validity comes last, so that an expired
// signature is one that is good but for that.
func (e entry) check(b Bundle, m *cms.Message, list *Revocations, now time.Time) error {
	if e.problem != nil {
		return e.unusable(b)
	}
	if err := m.Verify(b.Object, e.key); err != nil {
		return e.bad(b, err)
	}
	if reason := list.revokes(e.name, e.keys); reason != "" {
		return revokedBy(b, e.name, fmt.Sprintf("%s is by %q: %s", b.signatureFile(), e.name, reason))
	}
	if e.cert != nil {
		if from, until := e.validity(); now.Before(from.NotBefore) || now.After(until.NotAfter) {
			return e.expired(b, now, from, until)
		}
	}
	return nil
}

func verdictOf(err error) Verdict {
	var e *Error
	errors.As(err, &e)
	return e.Verdict
}
