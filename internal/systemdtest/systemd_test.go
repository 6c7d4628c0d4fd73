package systemdtest

import (
	"os/exec"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/vmtest"
)

func TestSystemd(t *testing.T) {
	if vmtest.Boot() > 0 {
		for _, c := range []string{"systemctl is-system-running --wait", "systemctl --failed", "systemd-analyze", "findmnt", "ip -br link", "systemctl list-units -t target", "cat /proc/uptime", "systemd-analyze blame", "dmesg | tail -20"} {
			out, err := exec.Command("sh", "-c", c).CombinedOutput()
			t.Logf("%s: %v\n%s", c, err, out)
		}
		return
	}
	s := &vmtest.System{Kernel: "7.3", Lay: t.TempDir(), Boots: 2, Timeout: 3 * time.Minute}
	for _, r := range s.Run(t) {
		t.Logf("%+v", r)
	}
}
