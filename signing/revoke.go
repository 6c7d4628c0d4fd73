package signing

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/tomlfile"
)

// MaxRevocations bounds a signed revocation list, in bytes.
const MaxRevocations = tomlfile.MaxSize + 16<<10

// maxSerial leaves a host that saw a list with the largest serial room for
// newer ones: TOML's integers end at 1<<63 - 1, and hornetctl adds one.
const maxSerial = 1<<62 - 1

// Revocations is a revocation list: keys, certificates and objects that do not
// count any more, and the oldest version of manifests that may load. Serial
// only grows.
type Revocations struct {
	Serial       uint64               `toml:"serial"`
	Keys         []RevokedKey         `toml:"key"`
	Certificates []RevokedCertificate `toml:"certificate"`
	Objects      []RevokedObject      `toml:"object"`
	Manifests    []MinimumVersion     `toml:"manifest"`

	digest [32]byte // of the signed bytes
	signer Signer
	file   []byte
}

// RevokedKey is a key that is withdrawn, in whatever certificate it stands.
type RevokedKey struct {
	ID     string `toml:"id"` // subject key identifier, or SHA-256 of the SubjectPublicKeyInfo; hexadecimal
	Reason string `toml:"reason"`
}

// RevokedCertificate is one certificate; another one for its key still counts.
type RevokedCertificate struct {
	SHA256 string `toml:"sha256"` // of its DER, hexadecimal
	Reason string `toml:"reason"`
}

// RevokedObject is an object that must not load, whoever signed it.
type RevokedObject struct {
	SHA256 string `toml:"sha256"`
	Reason string `toml:"reason"`
}

// MinimumVersion is the oldest version of a manifest that may load.
type MinimumVersion struct {
	Name    string `toml:"name"`
	Version uint64 `toml:"version"`
	Reason  string `toml:"reason"`
}

// Signer returns who signed the list.
func (l *Revocations) Signer() Signer { return l.signer }

// File returns the contents of the list's file as they were verified.
func (l *Revocations) File() []byte { return l.file }

// signatureBegin is where the signature of a list begins: what `openssl cms
// -sign -outform PEM` writes, behind the signed bytes.
const signatureBegin = "-----BEGIN CMS-----\n"

// SplitRevocations divides the contents of a list's file into the TOML that is
// signed and the signature in DER. One file, so that it is replaced by one
// rename: there is no moment at which list and signature do not fit.
func SplitRevocations(b []byte) (list, signature []byte, err error) {
	at := bytes.Index(b, []byte("\n"+signatureBegin)) + 1
	if at == 0 {
		return nil, nil, errors.New("it is not signed: no line -----BEGIN CMS-----")
	}
	// One spelling, OpenSSL's: the library steps over what is no block.
	block, _ := pem.Decode(b[at:])
	if block == nil || !bytes.Equal(b[at:], pem.EncodeToMemory(&pem.Block{Type: "CMS", Bytes: block.Bytes})) {
		return nil, nil, errors.New("its signature is not one PEM block of type CMS as openssl writes it, or something follows it")
	}
	return b[:at], block.Bytes, nil
}

// VerifyRevocations verifies a list's file with the entries of the store that
// roots names, and only then parses it. Those a CA among them issued certificates
// to do not count, nor those that t's list or the new one revokes. The validity of certificates does not
// count here: a list must not lose its force by age, nor by a dead clock, and
// an older one is refused by its serial (Ratchet.CheckList).
func (t *Trust) VerifyRevocations(file string, b []byte, roots []string) (*Revocations, error) {
	l, err := t.verifyRevocations(file, b, roots)
	if err != nil {
		return nil, remedy.With(fmt.Errorf("revocation list: %w", err),
			"put the last good %s back, or make one: hornetctl trust revoke --help; its signer must be in the trust store and in [trust] roots of hornetd.toml", file)
	}
	return l, nil
}

func (t *Trust) verifyRevocations(file string, b []byte, roots []string) (*Revocations, error) {
	if len(b) > MaxRevocations {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", file, len(b), MaxRevocations)
	}
	list, signature, err := SplitRevocations(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	here := slices.DeleteFunc(slices.Clone(roots), func(name string) bool {
		return !slices.ContainsFunc(t.entries, func(e entry) bool { return e.name == name })
	})
	if len(here) == 0 {
		return nil, fmt.Errorf("%s: [trust] roots (%s) names no key of %s: nobody can sign it", file, quote(roots), t)
	}
	signed := Bundle{Object: list, ObjectFile: file, Signature: signature, SignatureFile: file, inStore: true,
		Accepted: func(Signer, [32]byte) bool { return true }}
	v, err := t.WithRevocations(t.list).Verify(signed, here, time.Time{})
	if err != nil {
		return nil, err
	}
	l, err := ParseRevocations(file, list)
	if err != nil {
		return nil, err
	}
	if _, err := t.WithRevocations(l).Verify(signed, here, time.Time{}); err != nil {
		return nil, err // it revokes its own signer
	}
	l.digest, l.signer, l.file = v.Digest(), v.Signer(), b
	return l, nil
}

var (
	hexKeyID  = regexp.MustCompile(`^([0-9a-f]{2}){4,64}$`)
	hexSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ParseRevocations reads the TOML of a list, which must be verified before. The
// error is a *tomlfile.Error for the first thing in the file that is wrong.
func ParseRevocations(file string, b []byte) (*Revocations, error) {
	l := new(Revocations)
	text, err := tomlfile.Decode(file, b, l)
	if err != nil {
		return nil, err
	}
	p := text.Problems()
	if l.Serial == 0 {
		p.Add("serial", "write serial = 1, and a larger one with every change", "is 0 or missing")
	}
	if l.Serial > maxSerial {
		p.Add("serial", fmt.Sprintf("write one up to %d", uint64(maxSerial)), "is %d: no newer list could follow", l.Serial)
	}
	for i, k := range l.Keys {
		digits(p, fmt.Sprintf("key[%d].id", i), k.ID, hexKeyID, "the key identifier that hornetctl trust list shows, in small hexadecimal digits")
	}
	for i, c := range l.Certificates {
		digits(p, fmt.Sprintf("certificate[%d].sha256", i), c.SHA256, hexSHA256, "the SHA-256 of the certificate's DER, 64 small hexadecimal digits")
	}
	for i, o := range l.Objects {
		digits(p, fmt.Sprintf("object[%d].sha256", i), o.SHA256, hexSHA256, "the SHA-256 of the object, 64 small hexadecimal digits")
	}
	for i, m := range l.Manifests {
		if !validName.MatchString(strings.TrimSuffix(m.Name, "@")) { // a template's ends with it
			p.Add(fmt.Sprintf("manifest[%d].name", i), "write the name of a collection", "%.80q is not a name", m.Name)
		}
		if m.Version == 0 {
			p.Add(fmt.Sprintf("manifest[%d].version", i), "write the oldest version that may load", "is 0 or missing")
		}
	}
	for _, r := range l.reasons() {
		p.Printable(r.key, r.text)
	}
	return l, p.First()
}

func digits(p *tomlfile.Problems, key, s string, want *regexp.Regexp, hint string) {
	if !want.MatchString(s) {
		p.Add(key, "write "+hint, "is %.80q", s)
	}
}

type reason struct{ key, text string }

func (l *Revocations) reasons() (all []reason) {
	for i, x := range l.Keys {
		all = append(all, reason{fmt.Sprintf("key[%d].reason", i), x.Reason})
	}
	for i, x := range l.Certificates {
		all = append(all, reason{fmt.Sprintf("certificate[%d].reason", i), x.Reason})
	}
	for i, x := range l.Objects {
		all = append(all, reason{fmt.Sprintf("object[%d].reason", i), x.Reason})
	}
	for i, x := range l.Manifests {
		all = append(all, reason{fmt.Sprintf("manifest[%d].reason", i), x.Reason})
	}
	return all
}

// TOML returns the list as ParseRevocations reads it.
func (l *Revocations) TOML() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "serial = %d\n", l.Serial)
	table := func(name, key, value, why string) {
		fmt.Fprintf(&b, "\n[[%s]]\n%s = %q\n", name, key, value)
		if why != "" {
			fmt.Fprintf(&b, "reason = %q\n", why)
		}
	}
	for _, x := range l.Keys {
		table("key", "id", x.ID, x.Reason)
	}
	for _, x := range l.Certificates {
		table("certificate", "sha256", x.SHA256, x.Reason)
	}
	for _, x := range l.Objects {
		table("object", "sha256", x.SHA256, x.Reason)
	}
	for _, x := range l.Manifests {
		table("manifest", "name", x.Name, x.Reason)
		fmt.Fprintf(&b, "version = %d\n", x.Version)
	}
	return []byte(b.String())
}

// SignRevocations returns the contents of a list's file: the TOML and its
// signature.
func SignRevocations(list []byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	signature, err := Sign(list, key, cert)
	if err != nil {
		return nil, err
	}
	return slices.Concat(list, pem.EncodeToMemory(&pem.Block{Type: "CMS", Bytes: signature})), nil
}

// WithRevocations returns t with a list in force, in the place of any other;
// nil is no list.
func (t *Trust) WithRevocations(l *Revocations) *Trust {
	return &Trust{dir: t.dir, entries: t.entries, list: l, left: t.left}
}

// Closed returns t as it accepts nothing, because why keeps the revocation
// list from being known.
func (t *Trust) Closed(why error) *Trust {
	return &Trust{dir: t.dir, entries: t.entries, list: t.list, closed: why, left: t.left}
}

// Unlisted is why no list is in force that should be, or nil.
func (t *Trust) Unlisted() error { return t.closed }

// Revocations returns the list in force, nil where there is none.
func (t *Trust) Revocations() *Revocations { return t.list }

// revokes says why nothing that is accepted through keys under name counts, or
// "": one of them is revoked, or its certificate.
func (l *Revocations) revokes(name string, keys []Key) string {
	return cmp.Or(l.revokesKeys(name, keys), l.revokesCertificates(name, keys))
}

func (l *Revocations) revokesKeys(name string, keys []Key) string {
	if l == nil {
		return ""
	}
	for _, key := range keys {
		for _, k := range l.Keys {
			if k.ID == key.SHA256 || slices.Contains(key.IDs, k.ID) {
				return because(fmt.Sprintf("key %s of %q is revoked", k.ID, name), k.Reason)
			}
		}
	}
	return ""
}

func (l *Revocations) revokesCertificates(name string, keys []Key) string {
	if l == nil {
		return ""
	}
	for _, key := range keys {
		for _, c := range l.Certificates {
			if c.SHA256 == key.Certificate {
				return because(fmt.Sprintf("certificate %.16s… of %q is revoked", c.SHA256, name), c.Reason)
			}
		}
	}
	return ""
}

func (l *Revocations) revokesObject(digest string) string {
	if l == nil {
		return ""
	}
	for _, o := range l.Objects {
		if o.SHA256 == digest {
			return because(fmt.Sprintf("object %.16s… is revoked", digest), o.Reason)
		}
	}
	return ""
}

func (l *Revocations) tooOld(manifest string, version uint64) string {
	if l == nil {
		return ""
	}
	for _, m := range l.Manifests {
		if m.Name == manifest && version < m.Version {
			return because(fmt.Sprintf("version %d of %q is older than version %d, the oldest that the revocation list lets load", version, manifest, m.Version), m.Reason)
		}
	}
	return ""
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// CheckVersion refuses a manifest that is older than the list in force wants.
// The error is an *Error with the verdict RolledBack.
func (t *Trust) CheckVersion(c Claim) error {
	reason := t.list.tooOld(c.Manifest, c.Version)
	if reason == "" {
		return nil
	}
	return remedy.With(rolledBack(c, "%s", reason), "load a newer version of %s", c.Manifest)
}

// Revoked says why what runs would be refused by the list in force, or "". c and
// s are what its record says; no file is needed. A record of an older hornetd has
// no chain, and goes by its key identifier.
func (t *Trust) Revoked(c Claim, s Signer) string {
	if t.list == nil {
		return ""
	}
	chain := s.Chain
	if len(chain) == 0 {
		chain = []Key{{IDs: []string{s.KeyID}}}
	}
	if reason := cmp.Or(t.list.revokesKeys(c.Signer, chain), t.list.revokesObject(c.ObjectDigest), t.list.tooOld(c.Manifest, c.Version)); reason != "" {
		return reason
	}
	// By certificate, or by another identifier of its key. Several certificates of
	// the store may have the key: while one of them counts, so does what it signed.
	reason := t.list.revokesCertificates(c.Signer, chain)
	for _, e := range t.entries {
		if e.problem != nil || !e.keys[0].same(chain[0]) {
			continue
		}
		revoked := t.list.revokes(e.name, e.keys)
		if revoked == "" {
			return ""
		}
		reason = cmp.Or(reason, revoked)
	}
	return reason
}

// same reports whether recorded, which may have nothing but an identifier, is k.
func (k Key) same(recorded Key) bool {
	if recorded.SHA256 != "" {
		return k.SHA256 == recorded.SHA256
	}
	return len(recorded.IDs) > 0 && k.IDs[0] == recorded.IDs[0]
}

func revokedBy(b Bundle, signer, reason string) error {
	return remedy.With(refuse(b, Revoked, signer, reason),
		"have it signed with a key that is not revoked, or load another object: "+signCommand, b.ObjectFile)
}

func (t *Trust) refuseAll(b Bundle) error {
	return remedy.With(refuse(b, Revoked, "", fmt.Sprintf("nothing loads while it is not known what is revoked: %v", t.closed)),
		"%s", remedy.Of(t.closed))
}
