package systemdtest

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/vmtest"
)

// What the boot before left on the disk for this one.
const (
	linksFile  = "/root/links"
	bootIDFile = "/root/boot_id"
	bootID     = "/proc/sys/kernel/random/boot_id"
)

// The reboot is one of systemd's own: everything that starts at boot is back,
// and before the network was.
func reboot(t *testing.T) {
	if vmtest.Boot() == 1 {
		beforeReboot(t)
		return
	}
	if read(t, bootID) == read(t, bootIDFile) {
		t.Fatal("this is still the same boot")
	}
	if out, err := try("systemctl", "is-system-running", "--wait"); err != nil {
		failed, _ := try("systemctl", "--failed", "--no-pager")
		t.Errorf("the system is %s\n%s", out, failed)
	}
	t.Run("attached", func(t *testing.T) {
		want := strings.Fields(read(t, linksFile))
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(links(t)))); diff != "" {
			t.Errorf("links before (-) and after (+) the reboot:\n%s", diff)
		}
		effects(t)
	})
	t.Run("order", order)
	t.Run("window", window)
}

// beforeReboot also has a collection run that nobody will ask for again, and
// lays in a firewall and a network that wait for the targets that others wait for.
func beforeReboot(t *testing.T) {
	loaded.reach(t)
	boot := slices.Sorted(maps.Keys(links(t)))
	put(t, linksFile, strings.Join(boot, "\n"))
	put(t, bootIDFile, read(t, bootID))
	put(t, "/etc/hornet.d/asked.toml", asked)
	run(t, "hornetctl", "load", "asked")
	if !collections(links(t))["asked"] {
		t.Error("asked is not attached")
	}
	put(t, "/etc/systemd/system/firewall.service", oneshot("Before=network-pre.target", "/usr/bin/true"))
	put(t, "/etc/systemd/system/network.service", oneshot("After=network-pre.target\nBefore=network.target",
		"ip addr add 10.0.2.15/24 dev eth0", "ip addr add 10.0.3.15/24 dev eth1", "ip link set eth0 up", "ip link set eth1 up"))
	run(t, "systemctl", "enable", "firewall.service", "network.service")
}

func oneshot(unit string, commands ...string) string {
	return "[Unit]\nDefaultDependencies=no\nWants=network-pre.target\n" + unit +
		"\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=" + strings.Join(commands, "\nExecStart=") +
		"\n[Install]\nWantedBy=multi-user.target\n"
}

// since is when something happened to a unit, since the kernel's start.
func since(t *testing.T, unit, property string) time.Duration {
	t.Helper()
	out := run(t, "systemctl", "show", "--value", "-p", property+"TimestampMonotonic", unit)
	us, err := strconv.ParseInt(out, 10, 64)
	if err != nil || us == 0 {
		t.Fatalf("%s of %s is %q", property, unit, out)
	}
	return time.Duration(us) * time.Microsecond
}

func order(t *testing.T) {
	ready := since(t, "hornetd.service", "ActiveEnter")
	for what, then := range map[string]time.Duration{
		"network-pre.target is reached": since(t, "network-pre.target", "ActiveEnter"),
		"network.service starts":        since(t, "network.service", "InactiveExit"),
		"sysinit.target is reached":     since(t, "sysinit.target", "ActiveEnter"),
	} {
		if ready >= then {
			t.Errorf("hornetd is ready after %v, and %s after %v", ready, what, then)
		}
	}
	since(t, "firewall.service", "ActiveEnter") // it is up
	if journal := run(t, "journalctl", "--no-pager", "-b"); strings.Contains(journal, "ordering cycle") {
		t.Errorf("there is an ordering cycle:\n%s", journal)
	}
	after := strings.Fields(property(t, "hornetd.service", "After"))
	for _, unit := range []string{"sys-kernel-tracing.mount", "systemd-tmpfiles-setup.service", "systemd-sysusers.service"} {
		if !slices.Contains(after, unit) {
			t.Errorf("hornetd does not wait for %s, only for %v", unit, after)
		}
	}
}

// window is the time in which nothing of hornetd's is in force: emulated, so
// that only its parts compared with each other mean something.
func window(t *testing.T) {
	found, err := filepath.Glob(pins + "*/programs/*")
	if err != nil || len(found) == 0 {
		t.Fatalf("no programs: %v", err)
	}
	first, last := time.Duration(1<<62), time.Duration(0)
	for _, file := range found {
		at := loadTime(t, file)
		first, last = min(first, at), max(last, at)
	}
	started, ready := since(t, "hornetd.service", "ExecMainStart"), since(t, "hornetd.service", "ActiveEnter")
	t.Logf("after the kernel's start: systemd %v, hornetd %v, first program %v, last %v, ready %v, network %v",
		userspace(t), started, first, last, ready, since(t, "network.service", "InactiveExit"))
	if first < started || last > ready {
		t.Errorf("programs are loaded from %v to %v, and hornetd starts at %v and is ready at %v", first, last, started, ready)
	}
}

func loadTime(t *testing.T, pin string) time.Duration {
	t.Helper()
	p, err := ebpf.LoadPinnedProgram(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	at, ok := info.LoadTime()
	if !ok {
		t.Fatalf("%s: the kernel does not say when it was loaded", pin)
	}
	return at
}

func userspace(t *testing.T) time.Duration {
	t.Helper()
	us, err := strconv.ParseInt(run(t, "systemctl", "show", "--value", "-p", "UserspaceTimestampMonotonic"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(us) * time.Microsecond
}
