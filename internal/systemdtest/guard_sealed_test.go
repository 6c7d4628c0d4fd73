package systemdtest

import (
	"os"
	"strings"
	"testing"
)

const binary, oldBinary, newBinary = "/usr/sbin/hornetd", "/usr/sbin/hornetd.old", "/usr/sbin/hornetd.new"

// stopped stops hornetd, and nothing starts it.
func stopped(t *testing.T) {
	t.Helper()
	run(t, "systemctl", "stop", "hornetd.socket", "hornetd.service")
	try("systemctl", "reset-failed", "hornetd.service")
}

func started(t *testing.T) string {
	t.Helper()
	run(t, "systemctl", "start", "hornetd.socket", "hornetd.service")
	return active(t, "")
}

// notReady starts a hornetd that must not become ready, and say why. It is stopped then.
func notReady(t *testing.T, what, why string) {
	t.Helper()
	stopped(t)
	since := strings.TrimSpace(run(t, "date", "+%s.%N"))
	if out, err := try("systemctl", "start", "hornetd.service"); err == nil {
		t.Errorf("%s: ready: %s", what, out)
	}
	if journal := run(t, "journalctl", "--no-pager", "-u", "hornetd", "--since", "@"+since); !strings.Contains(journal, why) {
		t.Errorf("%s: it does not say %q:\n%s", what, why, journal)
	}
	stopped(t)
}

// readOnly starts a hornetd that the guard does not know: it says so to whoever asks,
// changes nothing, and what ran runs. It is stopped then.
func readOnly(t *testing.T) {
	t.Helper()
	before := pinned(t)
	stopped(t)
	pid := started(t)
	const want = "read-only: guard: "
	if got := property(t, "hornetd", "StatusText"); !strings.HasPrefix(got, want) {
		t.Errorf("status text %q", got)
	}
	if out := run(t, "hornetctl", "status"); !strings.Contains(out, want) || !strings.Contains(out, "hornetctl guard enroll") {
		t.Errorf("it does not say why:\n%s", out)
	}
	if out := run(t, "hornetctl", "list"); !strings.Contains(out, "packets") {
		t.Errorf("it does not list what ran:\n%s", out)
	}
	if out := run(t, "hornetctl", "events"); !strings.Contains(out, want) {
		t.Errorf("it is no event:\n%s", out)
	}
	for _, args := range []string{"load packets", "unload packets", "upgrade packets", "reload", "plan", "guard audit",
		"guard disarm --reason x", "guard enroll " + binary, "guard retire " + binary, "rollback packets --to 1 --reason x", "recover quarantine-1-packets"} {
		if out, err := try("hornetctl", strings.Fields(args)...); err == nil || !strings.Contains(out, want) || !strings.Contains(out, "hint: ") {
			t.Errorf("%s: %v: %s", args, err, out)
		}
	}
	try("systemctl", "kill", "-s", "HUP", "hornetd")
	refusedToRoot(t)
	filters(t)
	if after := pinned(t); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("pinned are %v, were %v", after, before)
	}
	if now := active(t, ""); now != pid {
		t.Errorf("process %s became %s", pid, now)
	}
	stopped(t)
}

// A hornetd that somebody starts with another configuration is none.
func guardConfiguration(t *testing.T) {
	enforcing.reach(t)
	const other = "/etc/hornet/other.toml"
	run(t, "cp", configFile, other)
	const file = "/run/systemd/system/hornetd.service.d/config.conf"
	put(t, file, "[Service]\nExecStart=\nExecStart="+binary+" --config "+other+"\n")
	run(t, "systemctl", "daemon-reload")
	notReady(t, "another --config", "whose --config was not "+other)
	refusedToRoot(t)
	run(t, "rm", file, other)
	run(t, "systemctl", "daemon-reload")

	// Root's word counts where nothing else was said, and so does root's file, on record.
	before := read(t, configFile)
	put(t, configFile, before+"[manifests]\nremoved = \"keep\"\n")
	started(t)
	if log := read(t, "/var/lib/hornet/audit/audit.jsonl"); !strings.Contains(log, "starts with other settings than the guard was armed with") {
		t.Error("other settings are not on record")
	}
	put(t, configFile, before)
	run(t, "systemctl", "restart", "hornetd")
	if g := guard(t); g.Mode != "enforce" || g.Reason != "" {
		t.Errorf("guard %+v", g)
	}
}

// After guardUpgrade: the older binary is hornetd as long as it is the same file, and
// not as a copy of it, which is what a package manager writes.
func guardDowngrade(t *testing.T) {
	enforcing.reach(t)
	pid := active(t, "")
	run(t, "mv", binary, newBinary)
	run(t, "mv", oldBinary, binary)
	run(t, "systemctl", "restart", "hornetd")
	active(t, pid)
	if g := guard(t); g.Mode != "enforce" || g.Reason != "" {
		t.Errorf("guard %+v", g)
	}
	run(t, "hornetctl", "unload", "packets")
	run(t, "hornetctl", "load", "packets")

	stopped(t)
	run(t, "mv", binary, oldBinary)
	run(t, "cp", oldBinary, binary)
	readOnly(t)
	run(t, "mv", oldBinary, binary)
	started(t)
}

// After guardDowngrade: what was retired is a stranger, and the one that runs is hornetd; over a
// restart, in which the guard is what it was, and over an upgrade of the guard.
func guardRetire(t *testing.T) {
	enforcing.reach(t)
	if out, err := try("hornetctl", "guard", "retire", binary); err == nil || !strings.Contains(out, "that is the hornetd that answers") {
		t.Errorf("retire what runs: %v: %s", err, out)
	}
	sum, _, _ := strings.Cut(run(t, "sha256sum", newBinary), " ")
	if out := run(t, "hornetctl", "guard"); !strings.Contains(out, sum) {
		t.Errorf("it is not shown:\n%s", out)
	}
	run(t, "hornetctl", "guard", "retire", sum)
	run(t, "hornetctl", "guard", "enforce")
	pid := active(t, "")
	run(t, "systemctl", "restart", "hornetd")
	active(t, pid)
	if out := run(t, "hornetctl", "guard"); strings.Contains(out, sum) || !strings.Contains(out, ", runs") {
		t.Errorf("after a restart:\n%s", out)
	}
	stopped(t)
	run(t, "mv", binary, oldBinary)
	run(t, "mv", newBinary, binary)
	readOnly(t)
	run(t, "mv", binary, newBinary)
	run(t, "mv", oldBinary, binary)
	started(t)
	if g := guard(t); g.Mode != "enforce" || g.Reason != "" {
		t.Errorf("guard %+v", g)
	}
}

// A package that is removed under a guard leaves it in force: with the file away root
// is refused as before, what ran runs, and the same file takes all of it up again, with what it
// kept elsewhere gone.
func guardPurge(t *testing.T) {
	enforcing.reach(t)
	before := pinned(t)
	stopped(t)
	run(t, "mv", binary, oldBinary)
	run(t, "sh", "-c", "mkdir /root/purged && mv /var/lib/hornet /etc/systemd/system/*.wants/hornetd* /root/purged/")
	run(t, "systemctl", "daemon-reload")
	refusedToRoot(t)
	filters(t)
	if after := pinned(t); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("pinned are %v, were %v", after, before)
	}
	if out, err := try("sh", "-c", "rm -r "+pins+"packets"); err == nil || !strings.Contains(out, "not permitted") {
		t.Errorf("root removes pins: %v: %s", err, out)
	}
	run(t, "mv", oldBinary, binary)
	run(t, "systemd-tmpfiles", "--create")
	run(t, "systemctl", "daemon-reload")
	run(t, "systemctl", "enable", "hornetd.socket", "hornetd.service")
	started(t)
	if g := guard(t); g.Mode != "enforce" || g.Reason != "" {
		t.Errorf("guard %+v", g)
	}
	if after := pinned(t); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("pinned are %v, were %v", after, before)
	}
	run(t, "hornetctl", "unload", "packets")
	run(t, "hornetctl", "load", "packets")
	refusedToRoot(t)
}

// statement has hornetd write one and a key sign it.
func statement(t *testing.T, key string, args ...string) {
	t.Helper()
	out := run(t, "hornetctl", append([]string{"guard", "statement"}, append(args, "--reason", "a test")...)...)
	put(t, "/root/s.txt", out+"\n") // which run trims
	run(t, "rm", "-f", "/root/s.txt.p7s")
	run(t, "hornetctl", "sign", "--key", "/root/"+key+".key", "--cert", "/root/"+key+".pem", "/root/s.txt")
}

func give(act string) (string, error) {
	return try("hornetctl", "guard", act, "--statement", "/root/s.txt", "--signature", "/root/s.txt.p7s")
}

func given(t *testing.T, act string) {
	t.Helper()
	if out, err := give(act); err != nil {
		t.Fatalf("guard %s: %v: %s", act, err, out)
	}
}

// Where only a root's signature ends it: what it was armed with holds over restarts,
// what a root signed holds over restarts, and nothing else does.
func guardSigned(t *testing.T) {
	enforcing.reach(t)
	before := read(t, configFile)
	put(t, configFile, strings.Replace(before, "[guard]\n", "[trust]\nroots = [\"dev\"]\n[guard]\ndisarm = \"signed\"\n", 1))
	run(t, "systemctl", "restart", "hornetd")
	run(t, "hornetctl", "guard", "enforce")
	sealed := read(t, configFile)
	denied := func(what, like string, name string, args ...string) {
		t.Helper()
		if out, err := try(name, args...); err == nil || !strings.Contains(out, like) {
			t.Errorf("%s: %v, want %q: %s", what, err, like, out)
		}
	}
	for _, restart := range []bool{false, true} {
		if restart {
			run(t, "systemctl", "restart", "hornetd")
		}
		denied("disarm", "a root's signature", "hornetctl", "guard", "disarm", "--reason", "why not")
		denied("audit", "a root's signature", "hornetctl", "guard", "audit")
		denied("enroll", "a root's signature", "hornetctl", "guard", "enroll", "/bin/true")
	}

	// A key.
	run(t, "hornetctl", "keygen", "--out", "/root", "late")
	run(t, "cp", "/root/late.pem", "/etc/hornet/trust.d/")
	denied("another key", "came to the trust store", "hornetctl", "reload")
	notReady(t, "another key", "came to the trust store")
	run(t, "rm", "/etc/hornet/trust.d/late.pem")
	started(t)
	run(t, "cp", "/root/late.pem", "/etc/hornet/trust.d/")
	statement(t, "late", "trust")
	denied("signed by itself", "unknown-key", "hornetctl", "guard", "trust", "--statement", "/root/s.txt", "--signature", "/root/s.txt.p7s")
	statement(t, "dev", "trust")
	given(t, "trust")
	refusedToRoot(t)
	run(t, "hornetctl", "reload")
	run(t, "systemctl", "restart", "hornetd")
	if out := run(t, "hornetctl", "status"); !strings.Contains(out, "late") {
		t.Errorf("the new key does not count after a restart:\n%s", out)
	}

	// A statement does not outlive the process it was made by.
	statement(t, "dev", "disarm")
	run(t, "systemctl", "restart", "hornetd")
	if out, err := give("disarm"); err == nil || !strings.Contains(out, "has not given it out") {
		t.Errorf("a statement of before: %v: %s", err, out)
	}

	// Settings.
	changed := sealed + "[manifests]\nremoved = \"keep\"\n"
	put(t, configFile, changed)
	notReady(t, "other settings", "says other things now")
	put(t, configFile, sealed)
	started(t)
	put(t, configFile, changed)
	statement(t, "dev", "trust")
	given(t, "trust")
	run(t, "systemctl", "restart", "hornetd")
	if g := guard(t); g.Mode != "enforce" || g.Reason != "" {
		t.Errorf("guard %+v", g)
	}
	put(t, configFile, sealed)
	notReady(t, "the settings of before", "says other things now")
	put(t, configFile, changed+"\n[log]\nlevel = \"debug\"\n") // which decide nothing
	started(t)
	refusedToRoot(t)

	// A new binary.
	run(t, "sh", "-c", "cp "+binary+" "+newBinary+" && printf y >>"+newBinary)
	statement(t, "dev", "enroll", newBinary)
	run(t, "sh", "-c", "printf z >>"+newBinary)
	if out, err := give("enroll"); err == nil || !strings.Contains(out, "was signed") {
		t.Errorf("another file than was signed: %v: %s", err, out)
	}
	statement(t, "dev", "enroll", newBinary)
	given(t, "enroll")
	if f, err := os.OpenFile(newBinary, os.O_RDWR, 0); err == nil {
		f.Close()
		t.Error("root opens the enrolled executable for writing")
	}
	run(t, "mv", newBinary, binary)
	run(t, "systemctl", "restart", "hornetd")
	run(t, "hornetctl", "unload", "packets")
	run(t, "hornetctl", "load", "packets")

	// The end.
	statement(t, "late", "disarm")
	if out, err := give("disarm"); err == nil {
		t.Errorf("a key that is no root ends it: %s", out)
	} else if !strings.Contains(out, `only "dev" may sign this`) {
		t.Errorf("it does not say who may: %s", out)
	}
	statement(t, "dev", "audit")
	given(t, "audit")
	if out, err := makeMap(); err != nil {
		t.Errorf("audited, and refused: %s", out)
	}
	denied("disarm", "a root's signature", "hornetctl", "guard", "disarm", "--reason", "why not")
	statement(t, "dev", "disarm")
	given(t, "disarm")
	if g := guard(t); g.Mode != "off" {
		t.Errorf("guard %+v", g)
	}
}
