// Package policy decides who may do what: a Subject asks for a Verb on a
// Manifest, and a Grant is the answer. It is pure: no files, no sockets, no
// clock; what it needs of the host is handed in.
package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

var (
	ErrDenied = errors.New("permission denied")
	ErrLimit  = errors.New("limit exceeded")
)

// overflowID is what the kernel shows for a user or a group that has no number
// here, from another user namespace for example. It is everybody's and nobody's:
// no name matches it, only a rule that says the number.
const overflowID = 65534

// Subject is who asks, as the kernel says.
type Subject struct {
	UID, GID uint32
	Groups   []uint32
	Unit     string // of the system's systemd; "" where it is not known
	Exe      File   // what it runs; the zero one where it is not known
}

// File is a file by its name and by what the kernel knows it by: a name alone is
// another file's in another mount namespace.
type File struct {
	Path          string
	Device, Inode uint64
}

// Names finds the numbers of users and groups.
type Names interface {
	UserID(name string) (uint32, bool)
	GroupID(name string) (uint32, bool)
}

// Verb is one thing a subject can ask for. Where it is not root, a manifest
// must list the right of the same name.
type Verb string

const (
	Status  = Verb(manifest.RightStatus)
	Load    = Verb(manifest.RightLoad)
	Upgrade = Verb(manifest.RightUpgrade)
	Unload  = Verb(manifest.RightUnload)
	Events  = Verb(manifest.RightEvents)
)

// Read is reading the entries of a map, Write changing and deleting them.
func Read(mapName string) Verb  { return Verb(manifest.RightRead(mapName)) }
func Write(mapName string) Verb { return Verb(manifest.RightWrite(mapName)) }

// FD is having a descriptor of a map that only reads, RWFD one that writes as well.
func FD(mapName string) Verb   { return Verb(manifest.RightFD(mapName)) }
func RWFD(mapName string) Verb { return Verb(manifest.RightRWFD(mapName)) }

// Policy is the operator's word. Only New makes one; the zero Policy denies
// everything to all but root, and no load fits into its limits.
type Policy struct {
	limits  Limits
	names   Names
	signers map[string]SignerRule
	allowed map[string][]string // directory of manifests -> signers
}

// New returns the policy with the given limits. names may be nil: then only
// rules that say a number match.
func New(l Limits, names Names) Policy { return Policy{limits: l, names: names} }

// Grant is the proof that a subject may do one thing with one manifest. Only
// Authorize makes one; the zero Grant allows nothing.
type Grant struct {
	verb   Verb
	digest [32]byte // of the manifest
	limits Limits
}

// Authorize returns a Grant if s may v what m declares: root may do everything,
// others what m allows them. The error is ErrDenied.
func (p Policy) Authorize(s Subject, v Verb, m manifest.Manifest) (Grant, error) {
	if s.UID != 0 && !slices.ContainsFunc(m.Allow, func(a manifest.Allow) bool { return p.matches(s, a) && lists(a, v) }) {
		return Grant{}, remedy.With(fmt.Errorf("collection %q: uid %d may not %s: %w", m.Name, s.UID, v, ErrDenied),
			"ask an administrator to add [[allow]] with user = \"%d\" and may = [%q] to the manifest", s.UID, v)
	}
	return Grant{verb: v, digest: m.Digest, limits: p.limits}, nil
}

// lists tells whether a's rights include v.
func lists(a manifest.Allow, v Verb) bool {
	return slices.ContainsFunc(a.May, func(r manifest.Right) bool { return r.Covers(manifest.Right(v)) })
}

// matches tells whether a is about s. Exactly one of a.User and a.Group is set;
// a rule with both or neither is about nobody.
func (p Policy) matches(s Subject, a manifest.Allow) bool {
	switch {
	case a.User != "" && a.Group == "":
		id, numeric, ok := p.id(a.User, Names.UserID)
		return ok && id == s.UID && (numeric || id != overflowID)
	case a.Group != "" && a.User == "":
		id, numeric, ok := p.id(a.Group, Names.GroupID)
		return ok && (id == s.GID || slices.Contains(s.Groups, id)) && (numeric || id != overflowID)
	}
	return false
}

// id is the number that name says or, through find, stands for.
func (p Policy) id(name string, find func(Names, string) (uint32, bool)) (id uint32, numeric, ok bool) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), true, true
	}
	if p.names == nil {
		return 0, false, false
	}
	id, ok = find(p.names, name)
	return id, false, ok
}
