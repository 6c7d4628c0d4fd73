package daemon

import (
	"strings"
	"testing"

	"github.com/hornetd/hornetd/manifest"
)

func TestUnitOf(t *testing.T) {
	long := strings.Repeat("x", 247)
	for cgroups, want := range map[string]string{
		"0::/system.slice/ssh.service\n":                                                        "ssh.service",
		"0::/system.slice/ssh.service":                                                          "ssh.service",
		"9:name=systemd:/a.slice/b.service\n0::/system.slice/ssh.service\n":                     "ssh.service",
		"0::/system.slice/system-getty.slice/getty@tty1.service\n":                              "getty@tty1.service",
		"0::/user.slice/user-1000.slice/session-3.scope\n":                                      "session-3.scope",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service\n":              "user@1000.service",
		`0::/system.slice/system-web\x2dserver.slice/web\x2dserver@a\x2fb.service/below` + "\n": `web\x2dserver@a\x2fb.service`,
		"0::/init.scope\n":                                        "init.scope",
		"0::/_cpu.service\n":                                      "cpu.service",
		"0::/system.slice/_memory.service\n":                      "memory.service",
		"0::/system.slice/run-x.mount\n":                          "run-x.mount",
		"0::/system.slice/" + long + ".service\n":                 long + ".service",
		"0::/machine.slice/docker-0123.scope/init/evil.service\n": "docker-0123.scope",

		"": "", "\n": "", "0::/\n": "", "0::": "", "0::system.slice/ssh.service\n": "",
		"1:cpu:/system.slice/ssh.service\n":                        "",
		"9:name=systemd:/system.slice/ssh.service\n0::/\n":         "",
		"0::/system.slice/a.service\n0::/system.slice/b.service\n": "",
		"0::/system.slice\n":                                       "",
		"0::/system.slice/\n":                                      "",
		"0::/system.slice//ssh.service\n":                          "",
		"0::/../system.slice/ssh.service\n":                        "",
		"0::/docker/0123/system.slice/ssh.service\n":               "",
		"0::/docker.slice.d/ssh.service\n":                         "",
		"0::/a.slice/b.slice/x.service\n":                          "", // b.slice is at the top
		"0::/a-b.slice/x.service\n":                                "", // a-b.slice is in a.slice
		"0::/a.slice/a--b.slice/x.service\n":                       "",
		"0::/-.slice/x.service\n":                                  "",
		"0::/a@b.slice/x.service\n":                                "",
		"0::/system.slice/ssh.service (deleted)\n":                 "",
		"0::/system.slice/getty@.service\n":                        "",
		"0::/system.slice/@tty1.service\n":                         "",
		"0::/system.slice/.service\n":                              "",
		"0::/system.slice/__x.service\n":                           "_x.service",
		"0::/system.slice/a b.service\n":                           "",
		"0::/system.slice/\u00e4.service\n":                        "",
		"0::/system.slice/ssh.timer\n":                             "",
		"0::/system.slice/ssh.SERVICE\n":                           "",
		"0::/system.slice/x" + long + ".service\n":                 "",
	} {
		if got := unitOf(cgroups); got != want {
			t.Errorf("%q: %q, want %q", cgroups, got, want)
		}
	}
}

// Whoever owns a cgroup below a unit's, and names it at will, changes nothing.
func FuzzUnitOf(f *testing.F) {
	for _, seed := range []string{"system.slice/ssh.service", "a.slice/a-b.slice/x@y.service", "_cpu.service", "../x.service", `a\x2db.scope`, "x.service\n0::/y.service"} {
		f.Add("0::/"+seed+"\n", "evil.service")
	}
	f.Fuzz(func(t *testing.T, cgroups, below string) {
		unit := unitOf(cgroups)
		if unit == "" {
			return
		}
		if manifest.ValidUnit(unit) != nil || len(unit) > 255 || strings.ContainsAny(unit, "/ \n\x00") || !strings.Contains(cgroups, unit) {
			t.Fatalf("%q: %q is no unit", cgroups, unit)
		}
		line := ""
		for l := range strings.Lines(cgroups) {
			if strings.HasPrefix(l, "0::/") {
				line = strings.TrimSuffix(l, "\n")
			}
		}
		if !strings.ContainsAny(below, "\n") {
			if got := unitOf(line + "/" + below + "\n"); got != unit {
				t.Fatalf("%q with %q below it: %q, was %q", line, below, got, unit)
			}
		}
	})
}
