package config

import (
	"fmt"
	"time"

	"github.com/hornetd/hornetd/internal/bpfname"
)

const (
	maxAllowed   = 64
	leastConfirm = 10 * time.Second
	mostConfirm  = 24 * time.Hour
)

type rawGuard struct {
	Mode    string       `toml:"mode"`
	Confirm duration     `toml:"confirm"`
	Disarm  string       `toml:"disarm"`
	Allow   []rawAllowed `toml:"allow"`
}

type rawAllowed struct {
	Executable  string   `toml:"executable"`
	Cgroup      string   `toml:"cgroup"`
	Commands    []string `toml:"commands"`
	Programs    []string `toml:"programs"`
	Attachments []string `toml:"attach"`
	Signals     bool     `toml:"signals"`
}

func (c checker) guard(raw rawGuard) Guard {
	g := Guard{Mode: GuardMode(raw.Mode), Confirm: time.Duration(raw.Confirm), Disarm: Disarm(raw.Disarm)}
	c.OneOf("guard.mode", raw.Mode, string(GuardOff), string(GuardAudit), string(GuardEnforce))
	c.OneOf("guard.disarm", raw.Disarm, string(DisarmRoot), string(DisarmSigned), string(DisarmReboot))
	if g.Confirm != 0 && (g.Confirm < leastConfirm || g.Confirm > mostConfirm) {
		c.Add("guard.confirm", fmt.Sprintf("write %s to %s, or \"0s\" for never", leastConfirm, mostConfirm), "is %s", g.Confirm)
	}
	if len(raw.Allow) > maxAllowed {
		c.Add("guard.allow", "allow a cgroup instead of many executables", "has %d entries, more than %d", len(raw.Allow), maxAllowed)
		return g
	}
	for i, a := range raw.Allow {
		g.Allow = append(g.Allow, c.allowed(fmt.Sprintf("guard.allow[%d]", i), a))
	}
	return g
}

func (c checker) allowed(key string, raw rawAllowed) Allowed {
	a := Allowed{Executable: raw.Executable, Cgroup: raw.Cgroup, Signals: raw.Signals}
	switch {
	case (raw.Executable == "") == (raw.Cgroup == ""):
		c.Add(key, "write one entry for each", "must have an executable or a cgroup, and not both")
	case raw.Executable != "":
		c.path(key+".executable", raw.Executable)
	default:
		c.path(key+".cgroup", raw.Cgroup)
	}
	a.Commands = c.numbers(key+".commands", raw.Commands, bpfname.Commands)
	a.Programs = c.numbers(key+".programs", raw.Programs, bpfname.Programs)
	a.Attachments = c.numbers(key+".attach", raw.Attachments, bpfname.Attachments)
	if len(raw.Commands) == 0 && !raw.Signals {
		c.Add(key, `write commands = ["prog_load"], say`, "allows nothing")
	}
	return a
}

// numbers turns the kernel's names into its numbers.
func (c checker) numbers(key string, list []string, of bpfname.List) []uint32 {
	var all []uint32
	for i, s := range list {
		n, ok := of.Number(s)
		if !ok {
			c.Add(fmt.Sprintf("%s[%d]", key, i), "write the kernel's name in lower case without BPF_, such as prog_load, cgroup_device or tcx_ingress", "%.80q is not known", s)
			continue
		}
		all = append(all, n)
	}
	return all
}
