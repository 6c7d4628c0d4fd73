package daemon

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// TestGuardConfigRefused: what cannot be armed says why, and hornetd goes on.
func TestGuardConfigRefused(t *testing.T) {
	gone := config.Config{Guard: config.Guard{Allow: []config.Allowed{{Executable: "/no/such/file"}}}}
	for want, d := range map[string]*Daemon{
		"in no cgroup":  {},
		"/no/such/file": {cgroup: "/", cfg: gone},
	} {
		if _, _, err := d.guardConfig(lsm.Audit, 0); err == nil || !strings.Contains(err.Error(), want) || remedy.Of(err) == "" {
			t.Errorf("want %q and a remedy, got %v (%s)", want, err, remedy.Of(err))
		}
	}
}

// hornetd --check says what an arming would be refused for, before it is.
func TestCheckListed(t *testing.T) {
	gone, also := config.Allowed{Executable: "/no/such/file"}, config.Allowed{Executable: "/no/such/other"}
	optional := config.Allowed{Executable: "/no/such/file", SHA256: new([32]byte)}
	there := config.Allowed{Executable: "/proc/self/exe"}
	for _, tt := range []struct {
		mode  config.GuardMode
		allow []config.Allowed
		wrong []config.Allowed
	}{
		{config.GuardEnforce, []config.Allowed{gone, there, also}, []config.Allowed{gone, also}},
		{config.GuardAudit, []config.Allowed{gone}, []config.Allowed{gone}},
		{config.GuardOff, []config.Allowed{gone}, nil},
		{config.GuardEnforce, []config.Allowed{there, optional, {Cgroup: "/no/such"}}, nil},
	} {
		d := &Daemon{cfg: config.Config{Guard: config.Guard{Mode: tt.mode, Allow: tt.allow}}}
		got := d.missing()
		if !slices.EqualFunc(got, tt.wrong, func(err error, a config.Allowed) bool {
			return strings.Contains(err.Error(), a.Executable+":") && remedy.Of(err) != ""
		}) {
			t.Errorf("%s, %+v: %v", tt.mode, tt.allow, got)
		}
	}
}

// What limits enforcing is what was asked for, or is there already, or what hornetd.toml says.
func TestLimit(t *testing.T) {
	const confirm = 10 * time.Minute
	for _, tt := range []struct {
		w    wish
		s    lsm.Status
		want time.Duration
	}{
		{wish{mode: lsm.Enforce}, lsm.Status{}, confirm},
		{wish{mode: lsm.Enforce}, lsm.Status{Mode: lsm.Audit}, confirm},
		{wish{mode: lsm.Enforce}, lsm.Status{Mode: lsm.Enforce}, confirm}, // it fell back
		{wish{mode: lsm.Enforce}, lsm.Status{Mode: lsm.Enforce, Enforces: true}, 0},
		{wish{mode: lsm.Enforce}, lsm.Status{Mode: lsm.Enforce, Enforces: true, Confirm: time.Second}, time.Second},
		{wish{mode: lsm.Enforce, within: time.Hour}, lsm.Status{Mode: lsm.Audit}, time.Hour},
		{wish{mode: lsm.Enforce, within: time.Hour}, lsm.Status{Mode: lsm.Enforce, Enforces: true, Confirm: time.Second}, time.Hour},
		{wish{mode: lsm.Audit}, lsm.Status{Mode: lsm.Enforce, Enforces: true, Confirm: time.Second}, 0},
	} {
		if got := tt.w.limit(tt.s, confirm); got != tt.want {
			t.Errorf("%+v of %+v: %s, want %s", tt.w, tt.s, got, tt.want)
		}
	}
}
