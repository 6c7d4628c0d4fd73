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
	Attach    []string // sections of programs in the object, as in loader/README.md: "xdp", "cgroup/*"; and what a manifest makes of them: "lsm/" and its function
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

// Permit decides whether what signer signed may be what m makes of spec, before
// anything is created. The error is ErrDenied or ErrLimit and names the rule.
func (p Policy) Permit(signer string, m manifest.Manifest, spec *ebpf.CollectionSpec) error {
	dir := path.Dir(m.File)
	if allowed, listed := p.allowed[dir]; listed && !slices.Contains(allowed, signer) {
		return remedy.With(fmt.Errorf("collection %q: signer %q does not count in %s, says manifests.signers: %w", m.Name, signer, dir, ErrDenied),
			"add %q to that directory's signers in hornetd.toml, or have one of those sign", signer)
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
	kind, _, _ := strings.Cut(program.SectionName, "/")
	for _, k := range []struct {
		key    string
		values []string
	}{{"function", []string{a.Function}}, {"functions", a.Functions}, {"tracepoint", []string{a.Tracepoint}}} {
		for _, value := range k.values {
			if section := kind + "/" + value; value != "" && !coversSection(patterns, section) {
				return section, k.key
			}
		}
	}
	return "", ""
}

// coversSection is covers for a section that may be a pattern itself, of
// functions. It must stand there as it is, or below a beginning that ends in *:
// ? matches a *, which then stands for more.
func coversSection(patterns []string, section string) bool {
	if patterns == nil || !strings.ContainsAny(section, "*?") {
		return covers(patterns, section)
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		start, open := strings.CutSuffix(p, "*")
		rest, below := strings.CutPrefix(section, start)
		return p == section || open && below && !strings.ContainsAny(start, `*?[\`) && !strings.Contains(rest, "/")
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
