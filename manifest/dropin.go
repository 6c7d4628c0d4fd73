package manifest

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/tomlfile"
)

// DropIn is a file that changes a manifest, NAME.toml.d/*.toml: it has the keys
// of one, none of them required.
type DropIn struct {
	File   string   // the path ParseDropIn was given, for messages
	Digest [32]byte // SHA-256 of the bytes ParseDropIn was given

	// Set by Apply, for a manifest that is signed. They are errors with file, line,
	// key and remedy.
	Widens error // why it must be signed too; nil: it only narrows what was there before it
	Alters error // why it may not be applied though it is signed

	raw  rawManifest
	text *tomlfile.Text
}

// ParseDropIn reads the drop-in that file holds. What it says is checked when it
// is applied; the error is an *Error.
func ParseDropIn(file string, b []byte) (DropIn, error) {
	d := DropIn{File: file, Digest: sha256.Sum256(b)}
	var err error
	d.text, err = tomlfile.Decode(file, b, &d.raw)
	return d, err
}

// Source returns the text that ParseDropIn was given.
func (d DropIn) Source() string { return d.text.String() }

// Has reports whether the drop-in says something at key.
func (d DropIn) Has(key string) bool { return d.text.Has(key) }

// Signature returns the file that a signature of the drop-in is in.
func (d DropIn) Signature() string { return d.File + ".p7s" }

// Apply returns m with what d says in the place of what m says: tables key by
// key, down to those of single maps and variables, and every other value, lists
// too, as a whole. The name and the version are the manifest's, whether it is
// signed or not. What comes of it is checked as Parse does; nothing is opened.
//
// Apply decides nothing of signatures: it says in DropIn.Widens and DropIn.Alters
// what they must be for.
func Apply(m Manifest, d DropIn) (Manifest, error) {
	if err := d.belongs(m); err != nil {
		return Manifest{}, err
	}
	next := m
	next.raw = merge(m.raw, d.raw)
	next.texts = append(slices.Clip(m.texts), d.text)
	next.Digest = sha256.Sum256(fmt.Appendf(nil, "drop-in\n%x\n%q\n%x\n", m.Digest, d.File, d.Digest))
	next, err := check(next)
	if err != nil {
		return Manifest{}, err
	}
	key, reason := widens(m, next)
	switch {
	case strings.HasPrefix(key, "object."): // signed it may not say that either
		d.Widens = remedy.With(d.text.Errorf(key, "%s, which is signed for its object", reason),
			"remove the key, or have the manifest itself changed and signed: hornetctl sign --key KEY --cert CERT %s", m.File)
	case key != "":
		d.Widens = remedy.With(d.text.Errorf(key, "%s; the manifest is signed, and a drop-in that is not may only narrow it: fewer [[attach]] and [[allow]], lower [limits], start = \"request\"", reason),
			"have it signed: hornetctl sign --key KEY --cert CERT %s; or remove the key", d.File)
	}
	d.Alters = d.alters(m)
	next.DropIns = append(slices.Clip(m.DropIns), d)
	return next, nil
}

// belongs refuses a name or a version that is not m's.
func (d DropIn) belongs(m Manifest) error {
	if d.raw.Name != nil && *d.raw.Name != Said(m.Name) {
		return remedy.With(d.text.Errorf("name", "is %.80q, and this is a drop-in of %q", *d.raw.Name, Said(m.Name)), "put it into %.70s.toml.d, or correct the name", *d.raw.Name)
	}
	if d.Has("instances") {
		return remedy.With(d.text.Errorf("instances", "is the template's: a drop-in does not change it"), "remove the key")
	}
	if d.Has("version") && d.raw.Version != m.Version {
		return remedy.With(d.text.Errorf("version", "is %d, and the manifest's is %d: a drop-in changes no version", d.raw.Version, m.Version),
			"write version = %d if it is meant for that one, or remove the key", m.Version)
	}
	return nil
}

// CheckSigned says why d must not count as signed though its signature is good,
// or nil. A signature does not say what the text was signed as: by [object], which
// every manifest has and no signed drop-in, none is ever taken for the other.
func (d DropIn) CheckSigned() error {
	if !d.Has("object") {
		return nil
	}
	return remedy.With(d.text.Errorf("object", "is in a manifest, and a signed drop-in must not have it: one that was signed as a manifest, an older one maybe, would be good as a drop-in"),
		"remove [object] and have the drop-in signed, or have the manifest itself changed and signed")
}

// alters says what keeps a drop-in from a signed manifest though it is signed
// itself. Its signature covers neither its place nor the manifest, so it must say
// which one it is for.
func (d DropIn) alters(before Manifest) error {
	sign := fmt.Sprintf("have it filled in and signed: hornetctl sign --key KEY --cert CERT %s", d.File)
	if err := d.CheckSigned(); err != nil {
		return err
	}
	if d.raw.Name == nil {
		return remedy.With(d.text.Errorf("name", "is missing, and a signed drop-in must have it: it would be good for every collection"), "%s", sign)
	}
	if before.Version > 0 && !d.Has("version") {
		return remedy.With(d.text.Errorf("version", "is missing, and a signed drop-in must have it: it would be good for every version of the manifest"), "%s", sign)
	}
	return nil
}

// merge is a with what b says in its place.
func merge(a, b rawManifest) rawManifest {
	a.Description = cmp.Or(b.Description, a.Description)
	a.Start = cmp.Or(b.Start, a.Start)
	a.Fail = cmp.Or(b.Fail, a.Fail)
	a.Requires = other(a.Requires, b.Requires)
	a.After = other(a.After, b.After)
	a.Object = rawObject{
		Path:      cmp.Or(b.Object.Path, a.Object.Path),
		Signature: cmp.Or(b.Object.Signature, a.Object.Signature),
		Signers:   cmp.Or(b.Object.Signers, a.Object.Signers),
		SHA256:    cmp.Or(b.Object.SHA256, a.Object.SHA256),
	}
	a.Variables = merged(a.Variables, b.Variables, func(_, value any) any { return value })
	a.Maps = merged(a.Maps, b.Maps, mergeMap)
	a.Attach = other(a.Attach, b.Attach)
	a.Allow = other(a.Allow, b.Allow)
	a.Limits = rawLimits{
		Memory:   cmp.Or(b.Limits.Memory, a.Limits.Memory),
		Maps:     cmp.Or(b.Limits.Maps, a.Limits.Maps),
		Programs: cmp.Or(b.Limits.Programs, a.Limits.Programs),
	}
	a.Test = other(a.Test, b.Test)
	a.Health = cmp.Or(b.Health, a.Health)
	return a
}

func mergeMap(a, b rawMap) rawMap {
	return rawMap{
		Class:         cmp.Or(b.Class, a.Class),
		Entries:       other(a.Entries, b.Entries),
		ProgramWrites: cmp.Or(b.ProgramWrites, a.ProgramWrites),
		Keep:          cmp.Or(b.Keep, a.Keep),
		Shared:        cmp.Or(b.Shared, a.Shared),
		MaxEntries:    cmp.Or(b.MaxEntries, a.MaxEntries),
		Inner:         cmp.Or(b.Inner, a.Inner),
	}
}

// merged is a with the keys of b; both says what a key is that both have.
func merged[V any](a, b map[string]V, both func(a, b V) V) map[string]V {
	if len(b) == 0 {
		return a
	}
	out := make(map[string]V, len(a)+len(b))
	maps.Copy(out, a)
	for key, v := range b {
		if old, ok := a[key]; ok {
			v = both(old, v)
		}
		out[key] = v
	}
	return out
}

// other is b where it is there, empty or not.
func other[V any](a, b []V) []V {
	if b == nil {
		return a
	}
	return b
}

// at returns the text that what m says at key comes from: the last that has the
// key, or a list it is in, or else the nearest table around it.
func (m Manifest) at(key string) *tomlfile.Text {
	unit, _, _ := strings.Cut(key, "[")
	if parts := strings.SplitN(unit, ".", 3); parts[0] == "variables" && len(parts) == 3 {
		unit = parts[0] + "." + parts[1]
	}
	for len(m.texts) > 1 && unit != "" {
		for _, t := range slices.Backward(m.texts) {
			if t.Has(unit) {
				return t
			}
		}
		unit = unit[:max(strings.LastIndexByte(unit, '.'), 0)]
	}
	return m.texts[0]
}
