// Package policy decides who may do what: a Subject asks for a Verb on a
// Manifest, and a Grant is the answer. It is pure: no files, no sockets, no
// clock; what it needs of the host is handed in.
package policy

import (
	"errors"
	"fmt"
	"slices"

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

// Names finds what names of this host stand for.
type Names interface {
	UserID(name string) (uint32, bool)
	GroupID(name string) (uint32, bool)
	File(path string) (File, bool)
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
	rules   []Rule              // about bundles of callers
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

// Step is a rule that was looked at for a decision.
type Step struct {
	Rule   string // "allow[0]" of the manifest, "rule[0]" of hornetd.toml, "root" or "owner"
	Allows bool
	Reason string // why it does not, or what it is about
}

// Authorize returns a Grant if s may v what m declares: root may do everything,
// whoever brought it everything with that, and others what m allows them. The error
// is ErrDenied.
func (p Policy) Authorize(s Subject, v Verb, m manifest.Manifest) (Grant, error) {
	return p.decide(s, v, m, nil)
}

// Explain is Authorize, and tells of every rule, also behind one that allows.
func (p Policy) Explain(s Subject, v Verb, m manifest.Manifest) (Grant, []Step, error) {
	var steps []Step
	g, err := p.decide(s, v, m, func(step Step) { steps = append(steps, step) })
	return g, steps, err
}

// decide is the decision. Where tell is nil it ends with the first rule that
// allows.
func (p Policy) decide(s Subject, v Verb, m manifest.Manifest, tell func(Step)) (Grant, error) {
	allowed := s.UID == 0
	if allowed && tell != nil {
		tell(Step{"root", true, "root may do everything"})
	}
	if owns(s, m.Name) {
		allowed = true
		if tell != nil {
			tell(Step{"owner", true, "it is the caller's own"})
		}
	}
	for i, a := range m.Allow {
		if allowed && tell == nil {
			break
		}
		reason := p.differs(Who{User: a.User, Group: a.Group, Unit: a.Unit}, s)
		if reason == "" && !lists(a, v) {
			reason = fmt.Sprintf("may does not list %s", v)
		}
		allowed = allowed || reason == ""
		if tell != nil {
			tell(step(fmt.Sprintf("allow[%d]", i), reason, string(v)))
		}
	}
	if !allowed {
		return Grant{}, remedy.With(fmt.Errorf("collection %q: uid %d may not %s: %w", m.Name, s.UID, v, ErrDenied),
			"ask an administrator to add [[allow]] with user = \"%d\" and may = [%q] to the manifest", s.UID, v)
	}
	return Grant{verb: v, digest: m.Digest, limits: p.limits}, nil
}

// owns tells whether s brought the collection of that name, which is theirs.
func owns(s Subject, name string) bool {
	uid, isOwn := manifest.Owner(name)
	return isOwn && uid == s.UID
}

// step is what a rule came to: "" is no reason against.
func step(rule, reason, asked string) Step {
	if reason == "" {
		return Step{rule, true, "is about the caller, and allows " + asked}
	}
	return Step{rule, false, reason}
}

// lists tells whether a's rights include v.
func lists(a manifest.Allow, v Verb) bool {
	return slices.ContainsFunc(a.May, func(r manifest.Right) bool { return r.Covers(manifest.Right(v)) })
}
