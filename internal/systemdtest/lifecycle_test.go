package systemdtest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// same wants the links that were there before, by their ids, and their effects.
func same(t *testing.T, before map[string]string) {
	t.Helper()
	if diff := cmp.Diff(before, links(t)); diff != "" {
		t.Errorf("links before (-) and after (+):\n%s", diff)
	}
	effects(t)
}

// stateOf is what stands before anything is done to hornetd.
func stateOf(t *testing.T) (before map[string]string, pid string) {
	t.Helper()
	loaded.reach(t)
	before = links(t)
	if len(before) < len(bootManifests(t)) {
		t.Fatalf("only %v", before)
	}
	return before, active(t, "")
}

func restart(t *testing.T) {
	before, pid := stateOf(t)
	run(t, "systemctl", "restart", "hornetd")
	// READY came after what ran was adopted: systemctl returned with it, and
	// this is what it said.
	if got := property(t, "hornetd", "StatusText"); !strings.HasPrefix(got, fmt.Sprint(len(bootManifests(t)), " running")) {
		t.Errorf("status text %q", got)
	}
	active(t, pid)
	same(t, before)
}

func kill(t *testing.T) {
	before, pid := stateOf(t)
	signal(t, pid, syscall.SIGKILL)
	effects(t)
	active(t, pid)
	same(t, before)
	// However often: the usual limit is 5 starts in 10 s.
	if got := property(t, "hornetd", "StartLimitIntervalUSec"); got != "0" && got != "infinity" {
		t.Errorf("systemd gives up after some starts in %s", got)
	}
}

func signal(t *testing.T, pid string, sig syscall.Signal) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil || n < 2 {
		t.Fatalf("process %q, %v", pid, err)
	}
	if err := syscall.Kill(n, sig); err != nil {
		t.Fatal(err)
	}
}

// A daemon that hangs is ended by systemd, and the next one takes over.
func watchdog(t *testing.T) {
	before, _ := stateOf(t)
	dropIn(t, "WatchdogSec=5s")
	run(t, "systemctl", "restart", "hornetd")
	pid := active(t, "")
	time.Sleep(7 * time.Second) // it is fed
	if got := active(t, ""); got != pid {
		t.Fatalf("process %s became %s without a reason", pid, got)
	}
	signal(t, pid, syscall.SIGSTOP)
	active(t, pid)
	if journal := run(t, "journalctl", "--no-pager", "-u", "hornetd", "_PID=1"); !strings.Contains(journal, "Watchdog timeout (limit 5s)!") {
		t.Errorf("systemd says nothing of the watchdog:\n%s", journal)
	}
	if got := property(t, "hornetd", "NRestarts"); got != "1" {
		t.Errorf("%s restarts", got)
	}
	same(t, before)
}

// A stop ends the daemon and nothing else. The socket, if it stays, brings it
// back, and so does a start, which brings the socket.
func stop(t *testing.T) {
	before, _ := stateOf(t)
	stopped := func(units ...string) {
		t.Helper()
		run(t, "systemctl", append([]string{"stop"}, units...)...)
		if got := property(t, "hornetd", "ActiveState") + " " + property(t, "hornetd", "MainPID"); got != "inactive 0" {
			t.Errorf("after the stop: %s", got)
		}
		same(t, before)
	}
	stopped("hornetd.service")
	run(t, "hornetctl", "list")
	active(t, "0")
	same(t, before)

	stopped("hornetd.socket", "hornetd.service")
	if _, err := os.Stat(sock); err == nil {
		t.Errorf("%s is still there", sock)
	}
	run(t, "systemctl", "start", "hornetd.service")
	active(t, "0")
	if got := run(t, "stat", "-c", "%U:%G %a %F", sock); got != "root:hornet 660 socket" {
		t.Errorf("%s: %s", sock, got)
	}
	same(t, before)
}

// A manifest that says fail = "closed" and cannot be loaded makes the unit fail,
// and ends nothing that runs.
func closed(t *testing.T) {
	before, _ := stateOf(t)
	const file = "/etc/hornet.d/closed.toml"
	put(t, file, "fail = \"closed\"\n"+hooks("frame", `interface = "none0"`))
	if out, err := try("systemctl", "restart", "hornetd"); err == nil {
		t.Errorf("hornetd is ready: %s", out)
	}
	if got := property(t, "hornetd", "ActiveState"); got == "active" {
		t.Error("hornetd is active")
	}
	same(t, before)
	run(t, "rm", file)
	active(t, "0")
	same(t, before)
}
