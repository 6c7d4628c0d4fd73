package config

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/hornetd/hornetd/internal/bpfname"
)

const (
	maxAllowed   = 64
	leastConfirm = 10 * time.Second
	mostConfirm  = 24 * time.Hour
	mostCgroup   = 62 // bytes of a name: the guard cuts longer ones
)

type rawGuard struct {
	Mode    string       `toml:"mode"`
	Confirm duration     `toml:"confirm"`
	Disarm  string       `toml:"disarm"`
	Allow   []rawAllowed `toml:"allow"`
}

type rawAllowed struct {
	Executable   string   `toml:"executable"`
	SHA256       string   `toml:"sha256"`
	Cgroup       string   `toml:"cgroup"`
	KernelSigned []string `toml:"kernel_signed"`
	Commands     []string `toml:"commands"`
	Programs     []string `toml:"programs"`
	Attachments  []string `toml:"attach"`
	Signals      bool     `toml:"signals"`
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
	signed := ""
	for i, a := range raw.Allow {
		key := fmt.Sprintf("guard.allow[%d]", i)
		g.Allow = append(g.Allow, c.allowed(key, a))
		switch {
		case len(a.KernelSigned) == 0:
		case signed != "":
			c.Add(key, "write all keyrings into one entry", "is about what the kernel has verified, as %s is", signed)
		default:
			signed = key
		}
	}
	return g
}

func (c checker) allowed(key string, raw rawAllowed) Allowed {
	a := Allowed{Executable: raw.Executable, Cgroup: raw.Cgroup, Signals: raw.Signals}
	whose := 0
	for _, is := range []bool{raw.Executable != "", raw.Cgroup != "", len(raw.KernelSigned) > 0} {
		if is {
			whose++
		}
	}
	switch {
	case whose != 1:
		c.Add(key, "write one entry for each", "must have an executable, a cgroup or kernel_signed, and one of them only")
	case raw.Executable != "":
		c.path(key+".executable", raw.Executable)
	case raw.Cgroup != "":
		c.path(key+".cgroup", raw.Cgroup)
		if n := len(path.Base(raw.Cgroup)); n > mostCgroup {
			c.Add(key+".cgroup", "give it a shorter name", "has a name of %d bytes, more than the %d that the guard reads", n, mostCgroup)
		}
	default:
		a.KernelSigned = c.keyrings(key, raw)
	}
	if raw.SHA256 != "" {
		a.SHA256 = c.sha256(key+".sha256", raw)
	}
	a.Commands = c.numbers(key+".commands", raw.Commands, bpfname.Commands)
	a.Programs = c.numbers(key+".programs", raw.Programs, bpfname.Programs)
	a.Attachments = c.numbers(key+".attach", raw.Attachments, bpfname.Attachments)
	if len(raw.Commands) == 0 && !raw.Signals {
		c.Add(key, `write commands = ["prog_load"], say`, "allows nothing")
	}
	return a
}

// sha256 is of the contents that the executable of an entry is to have.
func (c checker) sha256(key string, raw rawAllowed) *[32]byte {
	if raw.Executable == "" {
		c.Add(key, "write it into an entry with an executable", "is of an executable, and the entry has none")
	}
	sum, err := hex.DecodeString(raw.SHA256)
	if err != nil || len(sum) != 32 {
		c.Add(key, "write what sha256sum prints for the executable", "%.80q is not 64 hexadecimal digits", raw.SHA256)
		return nil
	}
	return (*[32]byte)(sum)
}

// keyrings are those of an entry that is about signatures.
func (c checker) keyrings(key string, raw rawAllowed) (all []uint32) {
	names := []string{"", "builtin", "secondary", "platform"} // by enum bpf_sig_keyring
	for i, s := range raw.KernelSigned {
		c.OneOf(fmt.Sprintf("%s.kernel_signed[%d]", key, i), s, names[1:]...)
		all = append(all, uint32(max(0, slices.Index(names, s))))
	}
	if raw.Signals {
		c.Add(key+".signals", "write an entry with an executable or a cgroup", "does not go with kernel_signed")
	}
	if len(raw.Programs) == 0 {
		c.Add(key+".programs", `name the types of programs, such as "syscall"`, "is empty: nothing may be loaded")
	}
	return all
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
