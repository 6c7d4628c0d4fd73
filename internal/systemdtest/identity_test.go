package systemdtest

import (
	"strings"
	"testing"
)

// byUnit lets whoever is in one unit see it, as whatever user.
const byUnit = `start = "request"
[object]
path = "exec_count.bpf.o"
[maps.execs]
class = "mutable"
[[attach]]
program = "count_exec"
[[allow]]
unit = 'asker@a\x2db.service'
may = ["status"]
`

// identity has carol, who has no right of her own, ask in units that systemd makes.
// The audit log has the unit, and, as hornetd may not look into other users'
// processes, no executable.
func identity(t *testing.T) {
	loaded.reach(t)
	put(t, "/etc/hornet.d/byunit.toml", byUnit)
	run(t, "systemctl", "reload", "hornetd")
	in := func(unit, verb string, more ...string) (string, error) {
		return try("systemd-run", append(append([]string{"--wait", "--pipe", "--quiet", "--collect", "--unit=" + unit, "--property=User=carol"}, more...),
			"hornetctl", verb, "byunit")...)
	}
	for _, slice := range []string{"system.slice", `askers-of\x2dall.slice`} {
		if out, err := in(`asker@a\x2db.service`, "show", "--slice="+slice); err != nil {
			t.Errorf("carol in the unit, in %s: %v\n%s", slice, err, out)
		}
	}
	for _, unit := range []string{"asker@a.service", "asker.service"} {
		if out, err := in(unit, "show"); err == nil || !strings.Contains(out, "permission denied") {
			t.Errorf("carol in %s: %v\n%s", unit, err, out)
		}
	}
	if out, err := as("carol", "hornetctl", "show", "byunit"); err == nil || !strings.Contains(out, "permission denied") {
		t.Errorf("carol in no unit of her own: %v\n%s", err, out)
	}
	if out, err := in(`asker@a\x2db.service`, "load"); err == nil || !strings.Contains(out, "permission denied") {
		t.Errorf("carol in the unit loads: %v\n%s", err, out)
	}
	found := false
	for line := range strings.Lines(run(t, "sh", "-c", "cat /var/lib/hornet/audit/*")) {
		if strings.Contains(line, `"unit":"asker@a\\\\x2db.service"`) {
			found = true
			if strings.Contains(line, `"exe"`) {
				t.Errorf("hornetd has no right to see what carol runs, and did: %s", line)
			}
		}
	}
	if !found {
		t.Error("the audit log does not have the unit")
	}
	run(t, "rm", "/etc/hornet.d/byunit.toml")
	run(t, "systemctl", "reload", "hornetd")
}
