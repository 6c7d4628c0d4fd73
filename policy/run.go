package policy

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// Run is running a bundle of one's own. Rules of hornetd.toml give it, and no
// manifest does.
const Run Verb = "run"

// Rule lets callers run bundles of their own: a manifest, an object and a signature
// that they hand in. What one rule says holds together: a bundle that two rules
// allow in part is allowed by neither.
type Rule struct {
	Who
	Signers     []string // names in the trust store, or AnySigner: of each who signed a part
	Attach      []string // sections of programs, as SignerRule has them
	Targets     []string // patterns of what programs may be attached to, see targets
	Unsigned    bool     // the manifest need not be signed: it is the caller's word
	Limits      Limits   // of one bundle; where it is 0 the policy's
	Collections int      // of one user, that run at the same time
}

// WithRules returns p with rules about bundles of callers.
func (p Policy) WithRules(rules []Rule) Policy {
	p.rules = rules
	return p
}

// AnyRun tells whether there is a rule at all.
func (p Policy) AnyRun() bool { return len(p.rules) > 0 }

// Bundle is what a caller wants to run, as it was found to be.
type Bundle struct {
	Manifest manifest.Manifest
	Spec     *ebpf.CollectionSpec // what the manifest makes of the object
	Verified signing.Verified     // who signed, and whether the manifest too
	Running  int                  // collections that the caller's user runs by rules already
}

// MayRun decides whether there is a rule about s at all, for those who hand in a
// bundle: who may nothing is sent away before anything is read. The error is
// ErrDenied.
func (p Policy) MayRun(s Subject) error {
	_, err := p.run(s, nil, nil)
	return err
}

// Run returns a Grant to load b if one of the rules, or root, allows all of it. Its
// limits are the narrower of the rule's and the policy's. What bounds the signer in
// any case, Permit says. The error is ErrDenied or ErrLimit and names the rules.
//
// b.Running must not change before what is granted runs: the daemon asks where it
// makes its changes.
func (p Policy) Run(s Subject, b Bundle) (Grant, error) { return p.run(s, &b, nil) }

// ExplainRun is Run, and tells of every rule. Without a bundle it is MayRun.
func (p Policy) ExplainRun(s Subject, b *Bundle) ([]Step, error) {
	var steps []Step
	_, err := p.run(s, b, func(step Step) { steps = append(steps, step) })
	return steps, err
}

func (p Policy) run(s Subject, b *Bundle, tell func(Step)) (g Grant, err error) {
	if tell == nil {
		tell = func(Step) {}
	}
	grant := func(l Limits) {
		if g.verb == "" && b != nil {
			g = Grant{verb: Run, digest: b.Manifest.Digest, limits: l}
		}
	}
	allowed := s.UID == 0
	if allowed {
		grant(p.limits)
		tell(Step{"root", true, "root may do everything"})
	}
	var near []refusal // by rules that are about the caller
	for i, r := range p.rules {
		rule := fmt.Sprintf("rule[%d]", i)
		reason := p.differs(r.Who, s)
		if reason == "" && s.UID == overflowID && r.User == "" {
			// What they run would be of everybody whom the kernel cannot name.
			reason = fmt.Sprintf("the caller is one of those whom the kernel cannot name, and only a rule with user = \"%d\" is about them", overflowID)
		}
		if reason != "" {
			tell(step(rule, reason, ""))
			continue
		}
		limits := p.limits.narrowed(r.Limits)
		no := refusal{}
		if b != nil {
			no = r.refuses(*b, limits)
		}
		tell(step(rule, no.reason, string(Run)))
		if no.reason != "" {
			no.reason = rule + ": " + no.reason
			near = append(near, no)
			continue
		}
		allowed = true
		grant(limits)
	}
	switch {
	case allowed:
		return g, nil
	case len(near) > 0:
		var reasons []string
		for _, no := range near {
			reasons = append(reasons, no.reason)
		}
		last := near[len(near)-1]
		return Grant{}, remedy.With(fmt.Errorf("collection %q: uid %d may not run it, says hornetd.toml: %s: %w", b.Manifest.Name, s.UID, strings.Join(reasons, "; "), last.kind), "%s", last.hint)
	}
	return Grant{}, remedy.With(fmt.Errorf("run: uid %d may not run bundles of its own: %w", s.UID, ErrDenied),
		"ask an administrator to add a [[rule]] with user = \"%d\" and may = [\"run\"] to hornetd.toml", s.UID)
}

// narrowed is l, where o has none that is lower.
func (l Limits) narrowed(o Limits) Limits {
	if o.Memory > 0 {
		l.Memory = min(l.Memory, o.Memory)
	}
	if o.Maps > 0 {
		l.Maps = min(l.Maps, o.Maps)
	}
	if o.Programs > 0 {
		l.Programs = min(l.Programs, o.Programs)
	}
	return l
}

// refusal is why a rule does not allow a bundle; the zero one where it does.
type refusal struct {
	reason, hint string
	kind         error // ErrDenied or ErrLimit
}

func outsideRule(hint, format string, args ...any) refusal {
	return refusal{fmt.Sprintf(format, args...), hint, ErrDenied}
}

// refuses holds b against everything that r says but whom it is about.
func (r Rule) refuses(b Bundle, limits Limits) refusal {
	for _, check := range []func(Bundle) refusal{r.signed, r.sections, r.placed} {
		if no := check(b); no.reason != "" {
			return no
		}
	}
	if b.Running >= r.Collections {
		return refusal{fmt.Sprintf("the user runs %d already, of %d", b.Running, r.Collections), "end one first, or raise limits.collections of the rule", ErrLimit}
	}
	if err := (Grant{Run, b.Manifest.Digest, limits}).Check(b.Manifest, b.Spec); err != nil {
		kind := ErrDenied
		if errors.Is(err, ErrLimit) {
			kind = ErrLimit
		}
		return refusal{strings.TrimSuffix(err.Error(), ": "+kind.Error()), "raise the limits of the rule and [limits] in hornetd.toml, or make the object smaller", kind}
	}
	return refusal{}
}

// signed holds those who signed against the rule.
func (r Rule) signed(b Bundle) refusal {
	if b.Verified.IsZero() {
		return outsideRule("have it signed: hornetctl sign --key KEY --cert CERT FILE", "nobody signed it")
	}
	names := []string{b.Verified.Signer().Name}
	for _, d := range b.Verified.DropIns() {
		if d.Signer.Name != "" {
			names = append(names, d.Signer.Name)
		}
	}
	for _, name := range names {
		if !slices.Contains(r.Signers, name) && !slices.Contains(r.Signers, AnySigner) {
			return outsideRule(fmt.Sprintf("add %q to signers of the rule, or have one of those sign", name), "signer %q is none of its signers", name)
		}
	}
	if b.Verified.Covers() == signing.CoversManifest {
		return refusal{}
	}
	if !r.Unsigned {
		return outsideRule("have the manifest itself signed: hornetctl sign --key KEY --cert CERT FILE.toml", "the manifest is not signed, only its object")
	}
	for _, name := range slices.Sorted(maps.Keys(b.Manifest.Maps)) {
		if b.Manifest.Maps[name].Shared != "" { // another's, whom nobody asked
			return outsideRule("remove maps."+name+".shared, or have the manifest itself signed", "map %q is shared, which only a signed manifest can say", name)
		}
	}
	return refusal{}
}

// sections holds the programs, and what the manifest makes of them, against attach.
func (r Rule) sections(b Bundle) refusal {
	patterns := append([]string{}, r.Attach...) // nil bounds nothing
	no := func(program, section string) refusal {
		return outsideRule(fmt.Sprintf("add %q to attach of the rule", section), "program %q of section %q is not in its attach", program, section)
	}
	for _, program := range slices.Sorted(maps.Keys(b.Spec.Programs)) {
		if section := b.Spec.Programs[program].SectionName; !coversSection(patterns, section) {
			return no(program, section)
		}
	}
	for _, a := range b.Manifest.Attach {
		if section, _ := elsewhere(a, b.Spec, patterns); section != "" {
			return no(a.Program, section)
		}
	}
	return refusal{}
}

// placed holds what programs are attached to against targets.
func (r Rule) placed(b Bundle) refusal {
	for i, a := range b.Manifest.Attach {
		for _, target := range targets(a) {
			if !slices.ContainsFunc(r.Targets, func(p string) bool { return coversTarget(p, target) }) {
				return outsideRule(fmt.Sprintf("add %q to targets of the rule, or attach to what they allow", target), "attach[%d]: %q is not in its targets", i, target)
			}
		}
	}
	return refusal{}
}

// Words for targets. The first three stand before a colon and a name.
const (
	targetInterface = "interface" // of the host's network namespace, or of the netns that stands beside it
	targetNetns     = "netns"     // a path
	targetCgroup    = "cgroup"    // a path
	targetHost      = "host"      // all of it: a function, a tracepoint, a hook of the kernel, the network namespace of the host
	targetCaller    = "caller"    // what the caller shows a descriptor of
)

// cgroupRoot is what relative paths of cgroups are taken below.
const cgroupRoot = "/sys/fs/cgroup"

// targets returns what a attaches to, in the words of a rule. All must be allowed.
// An interface or an executable beside what a caller shows is of that.
func targets(a manifest.Attach) []string {
	if a.OfCaller() {
		return []string{targetCaller}
	}
	var all []string
	if a.Interface != "" {
		all = append(all, targetInterface+":"+a.Interface)
	}
	if a.Netns != "" {
		all = append(all, targetNetns+":"+a.Netns)
	}
	if a.Cgroup != "" {
		dir := a.Cgroup
		if !path.IsAbs(dir) {
			dir = cgroupRoot + "/" + dir
		}
		all = append(all, targetCgroup+":"+dir)
	}
	if all == nil {
		return []string{targetHost}
	}
	return all
}

// coversTarget tells whether a pattern of a rule allows a target. A path that ends
// with /** is about all that is below it, whatever its depth, and not itself.
func coversTarget(pattern, target string) bool {
	kind, name, _ := strings.Cut(target, ":")
	patternKind, pattern, _ := strings.Cut(pattern, ":")
	if kind != patternKind {
		return false
	}
	if kind == targetHost || kind == targetCaller {
		return pattern == name
	}
	if kind != targetInterface && path.Clean(name) != name {
		return false // a path out of the directories that a pattern names
	}
	if dir, ok := strings.CutSuffix(pattern, "/**"); ok {
		return strings.HasPrefix(name, dir+"/")
	}
	if kind == targetInterface && strings.ContainsAny(name, `*?[\`) {
		return coversPattern([]string{pattern}, name)
	}
	return covers([]string{pattern}, name)
}

// CheckTarget says what is wrong with a pattern for targets, or nil.
func CheckTarget(pattern string) error {
	kind, name, named := strings.Cut(pattern, ":")
	_, err := path.Match(name, "")
	dir, _ := strings.CutSuffix(name, "/**")
	switch {
	case !named && (kind == targetHost || kind == targetCaller):
		return nil
	case !named || !slices.Contains([]string{targetInterface, targetNetns, targetCgroup}, kind) || name == "" || err != nil:
		return remedy.With(fmt.Errorf("%.80q is not a target", pattern),
			`write "interface:NAME", "netns:PATH", "cgroup:PATH", with * and ? where they should stand for others, "caller" or "host"`)
	case kind != targetInterface && (!path.IsAbs(dir) || path.Clean(dir) != dir):
		return remedy.With(fmt.Errorf("%.80q has no absolute path in its shortest form", pattern), `write it as in "cgroup:/sys/fs/cgroup/user.slice/**"`)
	case dir != name && strings.ContainsAny(dir, `*?[\`), dir == name && strings.Contains(name, "**"):
		return remedy.With(fmt.Errorf("%.80q has ** where it means nothing, or other patterns before it", pattern), "write ** only at the end, behind a path as it is and a slash")
	}
	return nil
}
