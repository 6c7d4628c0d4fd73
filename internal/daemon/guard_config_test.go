package daemon

import (
	"strings"
	"testing"

	"github.com/hornetd/hornetd/config"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// TestGuardConfigRefused: what cannot be armed says why, and hornetd goes on.
func TestGuardConfigRefused(t *testing.T) {
	gone := config.Config{Guard: config.Guard{Allow: []config.Allowed{{Executable: "/no/such/file"}}}}
	for want, d := range map[string]*Daemon{
		"in no cgroup":  {},
		"/no/such/file": {cgroup: "/", cfg: gone},
	} {
		if _, _, err := d.guardConfig(lsm.Audit, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
