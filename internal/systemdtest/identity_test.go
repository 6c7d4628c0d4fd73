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
	// in starts a unit of carol's and returns what hornetctl ended with there.
	in := func(unit, verb, slice string) string {
		t.Helper()
		template, _, _ := strings.Cut(unit, "@")
		if template != unit {
			template += "@.service"
		}
		put(t, "/run/systemd/system/"+template, "[Service]\nType=oneshot\nUser=carol\nSlice="+slice+"\nExecStart=/usr/bin/hornetctl "+verb+" byunit\n")
		run(t, "systemctl", "daemon-reload")
		out, err := try("systemctl", "start", unit)
		status := property(t, unit, "ExecMainStatus")
		if (err == nil) != (status == "0") {
			t.Errorf("%s: status %s, %v: %s", unit, status, err, out)
		}
		return status
	}
	const named = `asker@a\x2db.service`
	for _, slice := range []string{"system.slice", `askers-of\x2dall.slice`} {
		if status := in(named, "show", slice); status != "0" {
			t.Errorf("carol in the unit, in %s: exit status %s", slice, status)
		}
	}
	for _, unit := range []string{"asker@a.service", "asker.service"} {
		if status := in(unit, "show", "system.slice"); status != "3" {
			t.Errorf("carol in %s: exit status %s", unit, status)
		}
	}
	if status := in(named, "upgrade", "system.slice"); status != "3" { // a verb that nobody was refused yet: the next of a minute are counted only
		t.Errorf("carol in the unit upgrades: exit status %s", status)
	}
	if out, err := as("carol", "hornetctl", "show", "byunit"); err == nil || !strings.Contains(out, "permission denied") {
		t.Errorf("carol in no unit of her own: %v\n%s", err, out)
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
