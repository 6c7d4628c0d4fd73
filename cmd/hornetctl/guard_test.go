package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/api"
)

// What a guard cannot see, and who is hornetd for it, stands in the table too.
func TestGuardTable(t *testing.T) {
	for _, tt := range []struct {
		guard api.Guard
		want  string
	}{
		{api.Guard{Mode: api.GuardEnforce, Wanted: api.GuardEnforce, Confirm: "9m30s", Disarm: "root", Refused: 3, Lost: 1, Suppressed: 5,
			Open: []string{"32-bit programs"}, Hooks: []string{"guard_bpf", "guard_exec"}, Floor: true, Enrolled: []api.Enrolled{{SHA256: "ab", Inode: 7, Device: "8:1", Running: true}}},
			`Guard       enforce
To confirm  within 9m30s
Ends by     root
Refused     3
Untold      1
Suppressed  5
Not seen    32-bit programs
Hooks       guard_bpf, guard_exec
Floor       in force
Enrolled    ab, inode 7 on 8:1, runs
`},
		{api.Guard{Mode: api.GuardDetect, Wanted: api.GuardAudit, Reason: "no bpf among the LSMs", Hint: "boot with lsm=bpf", Lost: 2},
			`Guard    detects, does not prevent, and hornetd.toml says audit
Because  no bpf among the LSMs
Remedy   boot with lsm=bpf
Untold   2
`},
	} {
		var out bytes.Buffer
		c := &ctl{env: env{stdout: &out, getenv: func(string) string { return "" }}}
		c.guardTable(tt.guard)
		if diff := cmp.Diff(tt.want, out.String()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.guard.Mode, diff)
		}
	}
}

// status says what is to be said of the guard, and no more.
func TestGuardInStatus(t *testing.T) {
	for _, tt := range []struct {
		guard api.Guard
		want  string
	}{
		{api.Guard{Mode: api.GuardEnforce, Wanted: api.GuardAudit}, "Guard        enforce\n"},
		{api.Guard{Mode: api.GuardAudit, Wanted: api.GuardAudit, Reason: "hornetd.toml says other things"}, "Guard        audit: hornetd.toml says other things\n"},
	} {
		var out bytes.Buffer
		c := &ctl{env: env{stdout: &out, getenv: func(string) string { return "" }, now: time.Now}}
		c.statusTables(api.Status{Guard: &tt.guard})
		if !strings.Contains(out.String(), tt.want) {
			t.Errorf("want %q in\n%s", tt.want, &out)
		}
	}
}
