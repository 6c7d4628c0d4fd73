package config

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"

	"github.com/hornetd/hornetd/policy"
)

// signerName is the name of a file in the trust store without .pem.
var signerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (c checker) signers(raw map[string]rawSigner) map[string]policy.SignerRule {
	var rules map[string]policy.SignerRule
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		key, r := "signers."+name, raw[name]
		if name != policy.AnySigner && !signerName.MatchString(name) {
			c.Add(key, `write the name of a file in the trust store, without .pem, or "*" for all that have no rule`, "%.80q is not the name of a signer", name)
		}
		rule := policy.SignerRule{
			Attach:    c.patterns(key+".attach", r.Attach),
			Programs:  c.patterns(key+".programs", r.Programs),
			Variables: c.patterns(key+".variables", r.Variables),
			Limits:    c.boundsOf(key, r.Limits),
			Untrusted: r.Untrusted,
		}
		if rules == nil {
			rules = make(map[string]policy.SignerRule)
		}
		rules[name] = rule
	}
	return rules
}

// patterns is nil where the key is absent, and only there.
func (c checker) patterns(key string, list *[]string) []string {
	if list == nil {
		return nil
	}
	for i, p := range *list {
		if _, err := path.Match(p, ""); err != nil {
			c.Add(fmt.Sprintf("%s[%d]", key, i), `write a name, or one with * and ?, such as "cgroup/*"`, "%.80q is not a pattern", p)
		}
	}
	return append([]string{}, *list...)
}

// boundsOf are the limits below key, 0 where there are none.
func (c checker) boundsOf(key string, raw rawSignerLimits) policy.Limits {
	l := policy.Limits{Maps: c.signerCount(key+".limits.maps", raw.Maps), Programs: c.signerCount(key+".limits.programs", raw.Programs)}
	if raw.Memory != nil {
		l.Memory = uint64(*raw.Memory)
	}
	return l
}

func (c checker) signerCount(key string, n *int) int {
	if n == nil {
		return 0
	}
	c.count(key, *n, 4096)
	return *n
}
