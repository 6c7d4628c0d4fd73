package signing

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Bounds on a ratchet's file.
const (
	MaxRatchet        = 8 << 20 // bytes
	maxRatchetEntries = 10_000
	ratchetFormat     = "hornetd-ratchet 1"
	ratchetLine       = 400 // bytes that a line usually has at most
)

// Ratchet remembers the newest version of each manifest that was loaded on
// this host, for each signer by itself: a stolen key that signs version 2^60
// shuts nobody else out. Signers go by their name in the trust store, so that a
// renewed key goes on where the old one stopped, and by the key that signed last,
// so that the same key under another name does not begin anew. A Ratchet never
// changes; the zero value remembers nothing.
type Ratchet struct {
	entries map[ratchetKey]ratchetEntry
	list    ratchetList
}

// Claim is what somebody wants loaded, or what a record says was loaded. The
// digests are SHA-256 in hexadecimal.
type Claim struct {
	Manifest       string // the collection's name
	Signer         string // name in the trust store
	Key            string // Signer.KeySHA256; "" where it is not known
	KeyID, Subject string // the signer's, for messages
	Version        uint64 // 0 where the manifest names none
	ManifestDigest string // of the manifest's own text
	DropIns        string // of the manifest with its drop-ins; "" where there are none
	ObjectDigest   string
	File           string // the object's, for messages
}

// ratchetList is the newest revocation list that was in force.
type ratchetList struct {
	Serial uint64
	SHA256 string // of its signed bytes
}

type ratchetKey struct{ manifest, signer string }

// ratchetEntry is the newest that was accepted. Without digests it is the bound
// that a rollback set, and any content of that version passes.
type ratchetEntry struct {
	Version        uint64
	Key            string // that signed it; "" where it is not known
	ManifestDigest string
	DropIns        string // a drop-in is no new version: only Accepted asks for it
	ObjectDigest   string
	// What a rollback went back from. It may run on for a while, and its record
	// must not undo the rollback at the next start.
	LeftManifest string
	LeftObject   string
}

// Check refuses c where a newer version was loaded before, by the same signer or
// the same key, or the same version with other contents. Manifests without a
// version (0) may change as they like, until one has a version. The error is an
// *Error with the verdict RolledBack.
func (r Ratchet) Check(c Claim) error {
	var refusal error
	var newest uint64
	for key, e := range r.entries {
		if key.manifest != c.Manifest || key.signer != c.Signer && (c.Key == "" || e.Key != c.Key) {
			continue
		}
		if err := e.check(key.signer, c); err != nil && (refusal == nil || e.Version > newest) {
			refusal, newest = err, e.Version
		}
	}
	return refusal
}

// check holds c against one entry, that of signer.
func (e ratchetEntry) check(signer string, c Claim) error {
	switch {
	case c.Version > e.Version:
		return nil
	case c.Version < e.Version:
		return remedy.With(rolledBack(c, "version %d of %q by signer %q is older than version %d by %q, which was loaded here", c.Version, c.Manifest, c.Signer, e.Version, signer),
			"load version %d or a newer one; to go back on purpose: hornetctl rollback %s --to %d --reason TEXT", e.Version, c.Manifest, c.Version)
	case c.Version == 0 || e.ManifestDigest == "":
		return nil
	}
	for _, d := range []struct{ what, was, is string }{{"manifest", e.ManifestDigest, c.ManifestDigest}, {"object", e.ObjectDigest, c.ObjectDigest}} {
		if d.was != d.is {
			return remedy.With(rolledBack(c, "version %d of %q was loaded here with another %s (SHA-256 %.16s…, not %.16s…)", c.Version, c.Manifest, d.what, d.was, d.is),
				"raise version in the manifest with every change; to load this one on purpose: hornetctl rollback %s --to %d --reason TEXT", c.Manifest, c.Version)
		}
	}
	return nil
}

func rolledBack(c Claim, format string, args ...any) *Error {
	return &Error{Verdict: RolledBack, File: c.File, Signer: c.Signer, KeyID: c.KeyID, Subject: c.Subject, Key: c.Key, Reason: fmt.Sprintf(format, args...)}
}

// Accepted reports whether c, manifest, drop-ins and object, is the last that was
// loaded of its name and signer.
func (r Ratchet) Accepted(c Claim) bool {
	e, ok := r.entries[ratchetKey{c.Manifest, c.Signer}]
	return ok && e.Version == c.Version && e.ManifestDigest == c.ManifestDigest && e.DropIns == c.DropIns && e.ObjectDigest == c.ObjectDigest
}

// Advance returns the ratchet after c was loaded, and whether that is another
// one. It never goes back.
func (r Ratchet) Advance(c Claim) (Ratchet, bool) {
	key := ratchetKey{c.Manifest, c.Signer}
	old, ok := r.entries[key]
	e := ratchetEntry{Version: c.Version, Key: cmp.Or(c.Key, old.Key), ManifestDigest: c.ManifestDigest, DropIns: c.DropIns, ObjectDigest: c.ObjectDigest}
	if ok && (c.Version < old.Version || old == e) {
		return r, false
	}
	next := Ratchet{entries: maps.Clone(r.entries), list: r.list}
	if next.entries == nil {
		next.entries = make(map[ratchetKey]ratchetEntry)
	}
	next.entries[key] = e
	return next, true
}

// Adopt is Advance for what runs already, as its record says: it makes up for
// an Advance that a crash, or the loss of the file, took away.
func (r Ratchet) Adopt(c Claim) (Ratchet, bool) {
	e, ok := r.entries[ratchetKey{c.Manifest, c.Signer}]
	if ok && e.LeftManifest != "" && e.LeftManifest == c.ManifestDigest && e.LeftObject == c.ObjectDigest {
		return r, false
	}
	return r.Advance(c)
}

// Newest is the newest version of a manifest, whoever signed it.
func (r Ratchet) Newest(manifest string) (version uint64, known bool) {
	for key, e := range r.entries {
		if key.manifest == manifest {
			version, known = max(version, e.Version), true
		}
	}
	return version, known
}

// Rollback returns the ratchet that lets version to of a manifest load, with
// any contents, and what is newer. It goes back only.
func (r Ratchet) Rollback(manifest string, to uint64) (Ratchet, error) {
	newest, known := r.Newest(manifest)
	if !known || newest < to {
		return r, remedy.With(fmt.Errorf("rollback %s to version %d: nothing newer was loaded here", manifest, to),
			"load it: nothing is in its way")
	}
	next := Ratchet{entries: maps.Clone(r.entries), list: r.list}
	for key, e := range r.entries {
		if key.manifest != manifest || e.Version < to {
			continue
		}
		left := ratchetEntry{Version: to, Key: e.Key,
			LeftManifest: cmp.Or(e.ManifestDigest, e.LeftManifest), LeftObject: cmp.Or(e.ObjectDigest, e.LeftObject)}
		next.entries[key] = left
	}
	return next, nil
}

// CheckList refuses a revocation list that is older than one that was in force
// here, or another one of the same serial. nil is that there is none.
func (r Ratchet) CheckList(l *Revocations) error {
	var err error
	switch {
	case l == nil && r.list.Serial > 0:
		err = fmt.Errorf("revocation list: it is gone, and serial %d was in force here", r.list.Serial)
	case l != nil && l.Serial < r.list.Serial:
		err = fmt.Errorf("revocation list: serial %d is older than serial %d, which was in force here", l.Serial, r.list.Serial)
	case l != nil && l.Serial == r.list.Serial && hex.EncodeToString(l.digest[:]) != r.list.SHA256:
		err = fmt.Errorf("revocation list: serial %d was in force here with other contents", l.Serial)
	}
	return remedy.With(err, "put the newest list back, or have a root sign one with a serial above %d, which may be empty", r.list.Serial)
}

// AdvanceList returns the ratchet after l came into force, and whether that is
// another one.
func (r Ratchet) AdvanceList(l *Revocations) (Ratchet, bool) {
	if l == nil || l.Serial <= r.list.Serial {
		return r, false
	}
	return Ratchet{entries: r.entries, list: ratchetList{Serial: l.Serial, SHA256: hex.EncodeToString(l.digest[:])}}, true
}

// Room refuses a ratchet with more entries than are kept.
func (r Ratchet) Room() error {
	if n := len(r.entries); n > maxRatchetEntries {
		return remedy.With(fmt.Errorf("ratchet: %d manifests and signers, at most %d are kept", n, maxRatchetEntries),
			"stop hornetd, move the ratchet away and start it: it begins anew with what runs")
	}
	return nil
}

// Encode returns the contents of the ratchet's file: a line with the format
// and the SHA-256 of what follows; one with the revocation list's serial and
// SHA-256, and the number of the audit record up to which the file tells everything;
// then a line for each manifest and signer, in order: manifest, signer,
// version, SHA-256 of key, manifest and object, the same of what a rollback left. "-"
// stands for what there is not. Behind the manifest's, with a +, is the one with
// drop-ins.
func (r Ratchet) Encode(logged uint64) ([]byte, error) {
	if err := r.Room(); err != nil {
		return nil, err
	}
	keys := slices.SortedFunc(maps.Keys(r.entries), func(a, b ratchetKey) int {
		return cmp.Or(strings.Compare(a.manifest, b.manifest), strings.Compare(a.signer, b.signer))
	})
	body := make([]byte, 0, (len(keys)+1)*(ratchetLine))
	body = fmt.Appendf(body, "%d %s %d\n", r.list.Serial, cmp.Or(r.list.SHA256, "-"), logged)
	for _, key := range keys {
		e := r.entries[key]
		manifest := e.ManifestDigest
		if e.DropIns != "" {
			manifest += "+" + e.DropIns
		}
		for i, word := range []string{key.manifest, key.signer, "", e.Key, manifest, e.ObjectDigest, e.LeftManifest, e.LeftObject} {
			switch {
			case i == 2:
				body = strconv.AppendUint(body, e.Version, 10)
			case strings.ContainsAny(word, " \n"):
				return nil, fmt.Errorf("ratchet: %.80q of %.80q cannot be written", word, key.manifest)
			default:
				body = append(body, cmp.Or(word, "-")...)
			}
			body = append(body, " \n"[i/7])
		}
	}
	sum := sha256.Sum256(body)
	return slices.Concat([]byte(ratchetFormat+" "+hex.EncodeToString(sum[:])+"\n"), body), nil
}

// ParseRatchet reads what Encode wrote, and nothing else: of what it accepts,
// Encode makes the same bytes.
func ParseRatchet(b []byte) (r Ratchet, logged uint64, err error) {
	if len(b) > MaxRatchet {
		return Ratchet{}, 0, fmt.Errorf("ratchet: %d bytes, at most %d are read", len(b), MaxRatchet)
	}
	head, body, _ := bytes.Cut(b, []byte("\n"))
	if !bytes.HasPrefix(head, []byte(ratchetFormat+" ")) {
		return Ratchet{}, 0, fmt.Errorf("ratchet: begins with %.40q, not %q", head, ratchetFormat)
	}
	if sum := sha256.Sum256(body); string(head[len(ratchetFormat)+1:]) != hex.EncodeToString(sum[:]) {
		return Ratchet{}, 0, errors.New("ratchet: its checksum is not that of its contents")
	}
	r.entries = make(map[ratchetKey]ratchetEntry)
	for i, line := range strings.Split(strings.TrimSuffix(string(body), "\n"), "\n") {
		words := strings.Split(line, " ")
		if i == 0 {
			logged, err = r.parseList(words)
		} else {
			err = r.parseEntry(words)
		}
		if err != nil {
			return Ratchet{}, 0, fmt.Errorf("ratchet: line %d: %w", i+2, err)
		}
	}
	if again, err := r.Encode(logged); err != nil || !bytes.Equal(again, b) {
		return Ratchet{}, 0, errors.Join(errors.New("ratchet: not as hornetd writes it"), err)
	}
	return r, logged, nil
}

// parseList and parseEntry take one line. What Encode would not write is for
// ParseRatchet to find.
func (r *Ratchet) parseList(words []string) (logged uint64, err error) {
	if len(words) != 3 {
		return 0, fmt.Errorf("%d words", len(words))
	}
	if words[1] != "-" {
		r.list.SHA256 = words[1]
	}
	var notLogged error
	r.list.Serial, err = strconv.ParseUint(words[0], 10, 64)
	logged, notLogged = strconv.ParseUint(words[2], 10, 64)
	return logged, errors.Join(err, notLogged)
}

func (r *Ratchet) parseEntry(words []string) error {
	if len(words) != 8 {
		return fmt.Errorf("%d words", len(words))
	}
	for i, w := range words {
		if w == "-" {
			words[i] = ""
		}
	}
	manifest, dropIns, _ := strings.Cut(words[4], "+")
	version, err := strconv.ParseUint(words[2], 10, 64)
	r.entries[ratchetKey{words[0], words[1]}] = ratchetEntry{Version: version, Key: words[3],
		ManifestDigest: manifest, DropIns: dropIns, ObjectDigest: words[5], LeftManifest: words[6], LeftObject: words[7]}
	return err
}
