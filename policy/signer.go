package policy

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// AnySigner names the rule for signers that have none of their own.
const AnySigner = "*"

// SignerRule bounds what a signer of the trust store may ask for. Lists are
// patterns as path.Match has them; nil bounds nothing, an empty one allows
// nothing. Limits that are 0 are those of the policy.
type SignerRule struct {
	Attach    []string // sections of programs in the object, as in loader/README.md: "xdp", "cgroup/*"; and what a manifest makes of them: "lsm/" and its function, "uprobe/" and PATH:SYMBOL+OFFSET
	Programs  []string // names of programs in the object
	Variables []string // names of variables that the manifest sets
	Limits    Limits
	Untrusted bool // what it signed is parsed by a confined process before the daemon parses it
}

// WithSigners returns p with rules for signers, by their name in the trust store.
func (p Policy) WithSigners(rules map[string]SignerRule) Policy {
	p.signers = rules
	return p
}

// WithDirectories returns p with the signers that count in a directory of
// manifests; in one that is not listed all do.
func (p Policy) WithDirectories(allowed map[string][]string) Policy {
	p.allowed = allowed
	return p
}

// Counts decides whether signer counts in the directory of m. The error is
// ErrDenied and names the rule.
func (p Policy) Counts(signer string, m manifest.Manifest) error {
	dir := path.Dir(m.File)
	if allowed, listed := p.allowed[dir]; listed && !slices.Contains(allowed, signer) {
		return remedy.With(fmt.Errorf("collection %q: signer %q does not count in %s, says manifests.signers: %w", m.Name, signer, dir, ErrDenied),
			"add %q to that directory's signers in hornetd.toml, or have one of those sign", signer)
	}
	return nil
}

// Permit decides whether what signer signed may be what m makes of spec, before
// anything is created. The error is ErrDenied or ErrLimit and names the rule.
func (p Policy) Permit(signer string, m manifest.Manifest, spec *ebpf.CollectionSpec) error {
	if err := p.Counts(signer, m); err != nil {
		return err
	}
	name, rule, ok := p.rule(signer)
	if !ok {
		return nil
	}
	for _, program := range slices.Sorted(maps.Keys(spec.Programs)) {
		section := spec.Programs[program].SectionName
		if !coversSection(rule.Attach, section) {
			return outside(m, signer, name, "attach", fmt.Sprintf("program %q of section %q", program, section), section)
		}
		if !covers(rule.Programs, program) {
			return outside(m, signer, name, "programs", fmt.Sprintf("program %q", program), program)
		}
	}
	for _, a := range m.Attach {
		section, key := elsewhere(a, spec, rule.Attach)
		if section != "" {
			return outside(m, signer, name, "attach", fmt.Sprintf("program %q at %q, as its key %s says", a.Program, section, key), section)
		}
	}
	for _, variable := range slices.Sorted(maps.Keys(m.Variables)) {
		if !covers(rule.Variables, variable) {
			return outside(m, signer, name, "variables", fmt.Sprintf("variable %q set", variable), variable)
		}
	}
	return rule.fits(signer, name, m, spec)
}

// rule returns the rule for a signer and the name under which it stands.
func (p Policy) rule(signer string) (name string, rule SignerRule, ok bool) {
	if rule, ok = p.signers[signer]; ok {
		return signer, rule, true
	}
	rule, ok = p.signers[AnySigner]
	return AnySigner, rule, ok
}

// Untrusted decides whether the objects of a signer go through a confined process
// before the daemon parses them.
func (p Policy) Untrusted(signer string) bool {
	_, rule, _ := p.rule(signer)
	return rule.Untrusted
}

// AnyUntrusted tells whether there can be such a signer.
func (p Policy) AnyUntrusted() bool {
	for _, rule := range p.signers {
		if rule.Untrusted {
			return true
		}
	}
	return false
}

// elsewhere returns the section that a key of a makes of its program's, which
// the key overrides, and the key, where the patterns do not allow it; else "".
func elsewhere(a manifest.Attach, spec *ebpf.CollectionSpec, patterns []string) (section, key string) {
	program := spec.Programs[a.Program]
	if program == nil {
		return "", "" // a map, or wrong, of which the loader tells
	}
	kind, rest, _ := strings.Cut(program.SectionName, "/")
	for _, at := range aims(a, strings.TrimPrefix(kind, "?"), rest) {
		if section := kind + "/" + at.place; !coversSection(patterns, section) {
			return section, at.key
		}
	}
	return "", ""
}

// aim is a place as a section has it behind its kind, and the key that says so.
type aim struct{ key, place string }

// aims returns where a sends a program of this kind instead of rest, which its
// section says.
func aims(a manifest.Attach, kind, rest string) []aim {
	if strings.HasPrefix(kind, "uprobe") || strings.HasPrefix(kind, "uretprobe") {
		return aimsInFile(a, rest)
	}
	var all []aim
	switch {
	case a.Function != "":
		all = append(all, aim{"function", a.Function + behind(a.Offset)})
	case a.Offset > 0:
		all = append(all, aim{"offset", rest + behind(a.Offset)})
	}
	for _, pattern := range a.Functions {
		all = append(all, aim{"functions", pattern})
	}
	if a.Tracepoint != "" {
		all = append(all, aim{"tracepoint", a.Tracepoint})
	}
	return all
}

// aimsInFile is aims for PATH:SYMBOL+OFFSET.
func aimsInFile(a manifest.Attach, rest string) []aim {
	file, place := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		file, place = rest[:i], rest[i+1:]
	}
	var all []aim
	switch {
	case a.Symbol != "":
		all = append(all, aim{"symbol", a.Symbol + behind(a.Offset)})
	case a.Offset > 0:
		all = append(all, aim{"offset", behind(a.Offset)})
	}
	for _, pattern := range a.Symbols {
		all = append(all, aim{"symbols", pattern})
	}
	if a.Executable != "" {
		file = a.Executable
		if len(all) == 0 {
			all = append(all, aim{"executable", place})
		}
	}
	for i := range all {
		all[i].place = file + ":" + all[i].place
	}
	return all
}

// behind is an offset as sections have it.
func behind(offset uint64) string {
	if offset == 0 {
		return ""
	}
	return fmt.Sprintf("+%#x", offset)
}

// coversSection is covers for a section that may be a pattern itself, of
// functions.
func coversSection(patterns []string, section string) bool {
	if patterns != nil && strings.Contains(section, "/../") {
		return false // a path out of the directories that a pattern names
	}
	if patterns == nil || !strings.ContainsAny(section, "*?") {
		return covers(patterns, section)
	}
	return coversPattern(patterns, section)
}

// coversPattern tells whether what s matches, a pattern itself, one of the patterns
// does: it must stand there as it is, or below a beginning that ends in *, since ?
// matches a *, which then stands for more.
func coversPattern(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		start, open := strings.CutSuffix(p, "*")
		rest, below := strings.CutPrefix(s, start)
		return p == s || open && below && !strings.ContainsAny(start, `*?[\`) && !strings.Contains(rest, "/")
	})
}

// covers tells whether one of the patterns matches all of s. A pattern that is
// malformed matches nothing.
func covers(patterns []string, s string) bool {
	return patterns == nil || slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, s)
		return ok && err == nil
	})
}

func outside(m manifest.Manifest, signer, rule, key, what, add string) error {
	return remedy.With(fmt.Errorf("collection %q: signer %q may not have %s, says %s in %s: %w", m.Name, signer, what, key, header(rule), ErrDenied),
		"add %q to it in hornetd.toml, or have somebody else sign", add)
}

// header is how the rule begins in hornetd.toml.
func header(rule string) string {
	if rule == AnySigner || strings.Contains(rule, ".") {
		return fmt.Sprintf("[signers.%q]", rule)
	}
	return "[signers." + rule + "]"
}

// fits holds the object against the rule's limits.
func (r SignerRule) fits(signer, name string, m manifest.Manifest, spec *ebpf.CollectionSpec) error {
	cpus, err := r.Limits.cpus()
	if err != nil {
		return fmt.Errorf("collection %q: %w", m.Name, err)
	}
	need := measure(m, spec, cpus)
	for _, l := range []limit{
		{key: "programs", what: "programs", need: uint64(len(spec.Programs)), policy: uint64(r.Limits.Programs)},
		{key: "maps", what: "maps", need: uint64(need.maps), policy: uint64(r.Limits.Maps)},
		{key: "memory", what: "bytes of maps", need: need.bytes, policy: r.Limits.Memory, detail: need.largest()},
	} {
		if l.policy > 0 && l.need > l.policy {
			return remedy.With(fmt.Errorf("collection %q: signer %q may have %d %s, says limits.%s in %s, the object needs %d%s: %w",
				m.Name, signer, l.policy, l.what, l.key, header(name), l.need, l.detail, ErrLimit),
				"raise limits.%s there in hornetd.toml, or make the object smaller", l.key)
		}
	}
	return nil
}
