package config

import (
	"fmt"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/tomlfile"
	"github.com/hornetd/hornetd/policy"
)

const (
	maxRules        = 256
	ruleCollections = 1 // of one user, where a rule says nothing else
	mostCollections = 1000
)

type rawRule struct {
	User     string        `toml:"user"`
	Group    string        `toml:"group"`
	Unit     string        `toml:"unit"`
	Exe      string        `toml:"exe"`
	May      []string      `toml:"may"`
	Signers  []string      `toml:"signers"`
	Attach   *[]string     `toml:"attach"`
	Targets  []string      `toml:"targets"`
	Unsigned bool          `toml:"unsigned_manifests"`
	Limits   rawRuleLimits `toml:"limits"`
}

type rawRuleLimits struct {
	Memory      *tomlfile.Size `toml:"memory"`
	Maps        *int           `toml:"maps"`
	Programs    *int           `toml:"programs"`
	Collections *int           `toml:"collections"`
}

func (c checker) rules(raw []rawRule) []policy.Rule {
	if len(raw) > maxRules {
		c.Add("rule", "write one for a group instead of many for its users", "has %d rules, more than %d", len(raw), maxRules)
		return nil
	}
	var all []policy.Rule
	for i, r := range raw {
		all = append(all, c.rule(fmt.Sprintf("rule[%d]", i), r))
	}
	return all
}

func (c checker) rule(key string, r rawRule) policy.Rule {
	rule := policy.Rule{
		Who:     policy.Who{User: r.User, Group: r.Group, Unit: r.Unit, Exe: r.Exe},
		Signers: r.Signers, Attach: c.patterns(key+".attach", r.Attach), Targets: r.Targets, Unsigned: r.Unsigned,
		Limits:      c.boundsOf(key, rawSignerLimits{r.Limits.Memory, r.Limits.Maps, r.Limits.Programs}),
		Collections: ruleCollections,
	}
	if n := r.Limits.Collections; n != nil {
		c.count(key+".limits.collections", *n, mostCollections)
		rule.Collections = *n
	}
	if at, err := rule.Who.Check(); err != nil {
		if at != "" {
			at = "." + at
		}
		c.Add(key+at, remedy.Of(err), "%w", err)
	}
	if r.Exe != "" {
		c.path(key+".exe", r.Exe)
	}
	if len(r.May) != 1 || r.May[0] != string(policy.Run) {
		c.Add(key+".may", `write may = ["run"]`, "is %.80q, and what a rule gives is \"run\"", r.May)
	}
	for _, list := range []struct {
		key string
		n   int
	}{{"signers", len(r.Signers)}, {"attach", len(rule.Attach)}, {"targets", len(r.Targets)}} {
		if list.n == 0 {
			c.Add(key+"."+list.key, "say which, or remove the rule", "names none, so that nothing can be run")
		}
	}
	for i, name := range r.Signers {
		if name != policy.AnySigner && !signerName.MatchString(name) {
			c.Add(fmt.Sprintf("%s.signers[%d]", key, i), `write the name of a file in the trust store, without .pem, or "*" for all`, "%.80q is not the name of a signer", name)
		}
	}
	for i, target := range r.Targets {
		if err := policy.CheckTarget(target); err != nil {
			c.Add(fmt.Sprintf("%s.targets[%d]", key, i), remedy.Of(err), "%w", err)
		}
	}
	return rule
}
