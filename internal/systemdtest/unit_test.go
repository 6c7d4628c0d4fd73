package systemdtest

import (
	"regexp"
	"strconv"
	"testing"
)

func verify(t *testing.T) {
	enabled.reach(t)
	if out := run(t, "systemd-analyze", "verify", "--man=no", "hornetd.service", "hornetd.socket"); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
}

// maxExposure only goes down; systemd 252, which units_test.go asks, counts a
// little more.
const maxExposure = 3.0

var exposure = regexp.MustCompile(`Overall exposure level for hornetd.service: ([0-9.]+)`)

func security(t *testing.T) {
	enabled.reach(t)
	out := run(t, "systemd-analyze", "security", "--no-pager", "hornetd.service")
	m := exposure.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("systemd-analyze security says:\n%s", out)
	}
	if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > maxExposure {
		t.Errorf("exposure %s, at most %.1f\n%s", m[1], maxExposure, out)
	}
	t.Logf("exposure %s of 10", m[1])
}
