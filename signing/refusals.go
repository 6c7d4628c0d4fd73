package signing

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
	"github.com/hornetd/hornetd/internal/remedy"
)

// Every refusal names the file, the key, the reason and the remedy.

const signCommand = "hornetctl sign --key KEY --cert CERT %s"

func refuse(b Bundle, v Verdict, signer, reason string) *Error {
	return &Error{Verdict: v, File: b.ObjectFile, Signer: signer, Reason: reason}
}

func unsigned(b Bundle) error {
	return remedy.With(refuse(b, Unsigned, "", "there is no signature "+b.signatureFile()),
		"sign it with a key of the trust store: "+signCommand, b.ObjectFile)
}

func pinned(b Bundle, got [32]byte) error {
	without := ""
	if b.appended {
		without = " without the signature at its end"
	}
	return remedy.With(refuse(b, DigestMismatch, "", fmt.Sprintf("its SHA-256%s is %x, the manifest pins %x", without, got, *b.SHA256)),
		"restore the object the manifest was written for, or correct object.sha256 in the manifest")
}

func malformed(b Bundle, err error) error {
	return remedy.With(refuse(b, BadSignature, "", fmt.Sprintf("%s: %v", b.signatureFile(), err)),
		"make a detached DER signature: "+signCommand+" (or openssl cms -sign -binary -outform DER)", b.ObjectFile)
}

func trailer(b Bundle, err error) error {
	return remedy.With(refuse(b, BadSignature, "", err.Error()),
		"restore the file, or sign the object as the compiler made it: "+signCommand, b.ObjectFile)
}

func twice(b Bundle) error {
	return remedy.With(refuse(b, BadSignature, "", fmt.Sprintf("it has a signature at its end and another one, %s", b.signatureFile())),
		"remove %s, or the file with the signature at its end and keep the object as the compiler made it", b.signatureFile())
}

func manifestUnsigned(b Bundle) error {
	m := b.manifest()
	return remedy.With(refuse(m, Unsigned, "", "there is no signature "+m.signatureFile()+", and manifests in this directory must be signed"),
		"sign it with a key of the trust store: "+signCommand, m.ObjectFile)
}

func noDigest(b Bundle) error {
	m := b.manifest()
	return remedy.With(refuse(m, DigestMismatch, "", "the manifest is signed, but does not say which object it means: it has no object.sha256"),
		"have it filled in and signed: "+signCommand, m.ObjectFile)
}

func (t *Trust) unknownName(b Bundle, name string) error {
	return remedy.With(refuse(b, UnknownKey, name, fmt.Sprintf("signer %.80q is not in %s", name, t)),
		"correct the manifest's signers, or put the certificate into %s", t.file(name))
}

func (t *Trust) unknownKey(b Bundle, m *cms.Message, why error) error {
	reason := fmt.Sprintf("%s names %s, which is not in %s", b.signatureFile(), m.Signer(), t)
	if slices.ContainsFunc(t.entries, func(e entry) bool { return e.cert == nil }) {
		reason += "; a public key without certificate is found by key identifier only (openssl cms -keyid)"
	}
	if len(m.Certificates) > 0 {
		reason += "; " + why.Error()
	}
	return remedy.With(refuse(b, UnknownKey, "", reason),
		"put the signer's certificate into %s if you trust it, or sign with a key of the store: "+signCommand, t.file("NAME"), b.ObjectFile)
}

func notAllowed(b Bundle, name string, signers []string) error {
	if b.inStore {
		return remedy.With(refuse(b, UnknownKey, name, fmt.Sprintf("%s names the key of %q, and only %s may sign this", b.signatureFile(), name, quote(signers))),
			"have one of those sign it")
	}
	return remedy.With(refuse(b, UnknownKey, name, fmt.Sprintf("%s names the key of %q, the manifest allows %s", b.signatureFile(), name, quote(signers))),
		"add %q to the manifest's signers, or have one of those sign it", name)
}

// notTheirs refuses a drop-in of a manifest that another signed and that names no
// signers.
func notTheirs(b Bundle, name, owner string) error {
	return remedy.With(refuse(b, UnknownKey, name, fmt.Sprintf("%s is by %q, and the manifest, which names no signers, by %q", b.signatureFile(), name, owner)),
		"name both in the manifest's object.signers and have it signed again, or have %q sign the drop-in", owner)
}

func (e entry) bad(b Bundle, err error) error {
	return remedy.With(refuse(b, BadSignature, e.name, fmt.Sprintf("%s is not a signature over this file by %q: %v", b.signatureFile(), e.name, err)),
		"the file or its signature was changed, or they do not belong together: restore both, or sign again: "+signCommand, b.ObjectFile)
}

func (e entry) unusable(b Bundle) error {
	return remedy.With(refuse(b, UnknownKey, e.name, fmt.Sprintf("%s names the key of %q, which may not sign objects: %v", b.signatureFile(), e.name, e.problem)),
		"put a code-signing certificate into %s and sign with that: "+signCommand, e.file, b.ObjectFile)
}

func (e entry) expired(b Bundle, now time.Time, from, until *x509.Certificate) error {
	name := func(cert *x509.Certificate) string {
		if e.chain != nil {
			return cert.Subject.String()
		}
		return e.name
	}
	clock := now.UTC().Format(time.RFC3339)
	if now.Before(from.NotBefore) {
		return remedy.With(refuse(b, Expired, e.name, fmt.Sprintf("certificate of %.200q is valid from %s, the clock says %s",
			name(from), from.NotBefore.UTC().Format(time.RFC3339), clock)), "set the clock, or wait")
	}
	reason := fmt.Sprintf("certificate of %.200q was valid until %s, the clock says %s", name(until), until.NotAfter.UTC().Format(time.RFC3339), clock)
	if e.chain != nil {
		return remedy.With(refuse(b, Expired, e.name, reason), "have a new one issued (hornetctl keygen --issuer) and sign again: "+signCommand, b.ObjectFile)
	}
	return remedy.With(refuse(b, Expired, e.name, reason),
		"put a renewed certificate into %s and sign again: "+signCommand, e.file, b.ObjectFile)
}

func quote(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(quoted, ", ")
}
