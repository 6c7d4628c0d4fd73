package systemdtest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestGuard is a host whose guard enforces, and on which systemd's own programs go
// on. It has a guest to itself.
func TestGuard(t *testing.T) {
	inGuest(t, "6.12", 1, []step{
		{"audit", 1, guardAudits},
		{"enforce", 1, func(t *testing.T) { enforcing.reach(t) }},
		{"maker", 1, guardMaker},
		{"signals", 1, guardSignals},
		{"restarts", 1, guardRestarts},
		{"fallback", 1, guardFallsBack},
		{"configuration", 1, guardConfiguration},
		{"entry", 1, guardEntry},
		{"manual", 1, guardManual},
		{"upgrade", 1, guardUpgrade},
		{"downgrade", 1, guardDowngrade},
		{"retire", 1, guardRetire},
		{"purge", 1, guardPurge},
		{"disarm", 1, guardDisarm},
		{"works", 1, guardWorks},
	}, othersModules...)
}

// TestGuardSealed is a host whose guard only what a root signs ends.
func TestGuardSealed(t *testing.T) {
	inGuest(t, "6.12", 1, []step{{"signed", 1, guardSigned}})
}

const configFile = "/etc/hornet/hornetd.toml"

// enforcing is hornetd with a guard that lets systemd do what it does for units.
var enforcing = &stage{f: func(t *testing.T) {
	loaded.reach(t)
	before := ""
	if b, err := os.ReadFile(configFile); err == nil {
		before = string(b)
	}
	put(t, configFile, before+`
[guard]
mode = "enforce"
confirm = "10m"
`+guardEntries)
	// What the file says but the mode counts when root says so.
	run(t, "systemctl", "restart", "hornetd")
	run(t, "hornetctl", "guard", "enforce", "--confirm-within", "10m")
	if g := guard(t); g.Mode != "enforce" || g.Wanted != "enforce" || g.Reason != "" {
		t.Fatalf("guard %+v", g)
	}
	refusedToRoot(t)
	run(t, "hornetctl", "guard", "confirm")
	filters(t)
}}

// pinned are the links that are pinned: bpftool is not told what hornetd owns.
func pinned(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob(pins + "[a-z]*/links/*")
	if err != nil || len(all) == 0 {
		t.Fatalf("no link is pinned: %v", err)
	}
	return all
}

type guardState struct {
	Mode, Wanted, Reason, Confirm string
	Refused                       uint64
}

func guard(t *testing.T) (g guardState) {
	t.Helper()
	if err := json.Unmarshal([]byte(run(t, "hornetctl", "-o", "json", "guard")), &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// makeMap has root's bpftool make a map.
func makeMap() (string, error) {
	const pin = "/sys/fs/bpf/other"
	out, err := try("bpftool", "map", "create", pin, "type", "array", "key", "4", "value", "4", "entries", "1", "name", "other")
	os.Remove(pin)
	return out, err
}

func refusedToRoot(t *testing.T) {
	t.Helper()
	if out, err := makeMap(); err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("root makes a map: %v: %s", err, out)
	}
}

// Audit is what a hornetd without settings does; everything is as it is without.
func guardAudits(t *testing.T) {
	loaded.reach(t)
	if g := guard(t); g.Mode != "audit" || g.Reason != "" {
		t.Errorf("guard %+v", g)
	}
	if log := read(t, "/var/lib/hornet/audit/audit.jsonl"); !strings.Contains(log, `"phase":"note","verb":"guard","caller":{"uid":0,"gid":0},"reason":"armed to audit"`) {
		t.Errorf("that it was armed is not on record:\n%s", log)
	}
	if out, err := makeMap(); err != nil {
		t.Errorf("root makes no map: %s", out)
	}
	soon(t, "an event of it", func() bool {
		return strings.Contains(run(t, "hornetctl", "events", "--kind", "foreign"), "map_create")
	})
}

// The process that makes a large map for hornetd, in a cgroup that it is charged to,
// may; the map is hornetd's then.
func guardMaker(t *testing.T) {
	enforcing.reach(t)
	put(t, "/etc/hornet.d/heavy.toml", fmt.Sprintf("start = \"request\"\n[object]\npath = \"hooks.bpf.o\"\n[maps.calls]\nclass = \"mutable\"\nmax_entries = %d\n%s",
		8*mib/8, attach("lookup")))
	run(t, "hornetctl", "load", "heavy")
	if got := chargeOf(t, "show", "heavy"); got.To != "own" {
		t.Errorf("it is charged to %+v", got)
	}
	out, err := try("bpftool", "map", "update", "pinned", pins+"heavy/maps/calls", "key", "0", "0", "0", "0", "value", "1", "0", "0", "0", "0", "0", "0", "0")
	if err == nil || !strings.Contains(out, "not permitted") {
		t.Errorf("root writes the map: %v: %s", err, out)
	}
	run(t, "hornetctl", "unload", "heavy")
}

// Nobody but systemd ends or stops the daemon.
func guardSignals(t *testing.T) {
	enforcing.reach(t)
	pid := active(t, "")
	for _, sig := range []string{"KILL", "TERM", "STOP"} {
		if out, err := try("sh", "-c", "kill -"+sig+" "+pid); err == nil || !strings.Contains(out, "ermitted") {
			t.Errorf("kill -%s by root: %v: %s", sig, err, out)
		}
	}
	if got := active(t, ""); got != pid {
		t.Errorf("process %s became %s", pid, got)
	}
	if out, err := try("sh", "-c", "head -c1 /proc/"+pid+"/mem"); err == nil || !strings.Contains(out, "denied") && !strings.Contains(out, "ermitted") {
		t.Errorf("its memory: %v: %s", err, out)
	}
}

// A root that tries all the time to make a map never does, while hornetd is
// stopped, started and killed by systemd; what ran runs on, and hornetd can.
func guardRestarts(t *testing.T) {
	enforcing.reach(t)
	before := pinned(t)
	var tried, made atomic.Int64
	quit, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			tried.Add(1)
			if _, err := makeMap(); err == nil {
				made.Add(1)
			}
			time.Sleep(5 * time.Millisecond) // the guest has one processor
		}
	}()
	for range 3 {
		run(t, "systemctl", "restart", "hornetd")
		run(t, "systemctl", "stop", "hornetd.socket", "hornetd.service")
		refusedToRoot(t) // nobody is there to say so
		run(t, "systemctl", "start", "hornetd.socket", "hornetd.service")
		run(t, "systemctl", "kill", "-s", "KILL", "hornetd.service")
		active(t, "")
		run(t, "hornetctl", "unload", "packets")
		run(t, "hornetctl", "load", "packets")
	}
	close(quit)
	<-done
	if made.Load() != 0 || tried.Load() < 10 {
		t.Errorf("%d of %d maps made", made.Load(), tried.Load())
	}
	t.Logf("%d tries, %d made", tried.Load(), made.Load())
	after := pinned(t)
	for _, name := range before {
		if !slices.Contains(after, name) {
			t.Errorf("%s is gone", name)
		}
	}
	filters(t)
	if g := guard(t); g.Mode != "enforce" {
		t.Errorf("guard %+v", g)
	}
}

// What fell back because nobody confirmed stays so over a restart.
func guardFallsBack(t *testing.T) {
	enforcing.reach(t)
	run(t, "hornetctl", "guard", "enforce", "--confirm-within", "2s")
	soon(t, "a fall back", func() bool { return guard(t).Mode == "audit" })
	const log, fell = "/var/lib/hornet/audit/audit.jsonl", `"reason":"it enforced, and fell back to audit: nobody confirmed in time"`
	soon(t, "a fall back on record", func() bool { return strings.Contains(read(t, log), fell) })
	run(t, "systemctl", "restart", "hornetd")
	if g := guard(t); g.Mode != "audit" || !strings.Contains(g.Reason, "nobody confirmed") {
		t.Errorf("after a restart: %+v", g)
	}
	if out, err := makeMap(); err != nil {
		t.Errorf("root makes no map: %s", out)
	}
	run(t, "hornetctl", "guard", "enforce")
	if g := guard(t); g.Confirm == "" {
		t.Errorf("enforced anew, and nobody is to confirm: %+v", g)
	}
	run(t, "hornetctl", "guard", "confirm")
	refusedToRoot(t)
	if all := read(t, log); strings.Count(all, fell) != 1 || !strings.Contains(all, "fell back to audit before this start: ") {
		t.Errorf("that it fell back is not once on record, and with the start:\n%s", all)
	}
}

// A program of root's may what hornetd.toml says when that was read and root has said so, and
// after an update, which is another file, when root has said so again.
func guardEntry(t *testing.T) {
	enforcing.reach(t)
	const mine, pin = "/root/mine", "/sys/fs/bpf/mine"
	update := func() { run(t, "sh", "-c", "install -m 755 /usr/sbin/bpftool "+mine+".new && mv "+mine+".new "+mine) }
	makes := func(when string, want bool) {
		t.Helper()
		out, err := try(mine, "map", "create", pin, "type", "array", "key", "4", "value", "4", "entries", "1", "name", "mine")
		os.Remove(pin)
		if (err == nil) != want {
			t.Errorf("%s: %v: %s", when, err, out)
		}
	}
	update()
	makes("not listed", false)
	soon(t, "an event of it", func() bool { // the first of them, with the path if its process is still there
		return regexp.MustCompile(`bpf map_create of type \w+( "mine")? by (/root/)?mine: refused`).MatchString(run(t, "hornetctl", "events", "--kind", "foreign"))
	})
	before := read(t, configFile)
	put(t, configFile, before+"\n[[guard.allow]]\nexecutable = \""+mine+"\"\ncommands = [\"map_create\"]\n")
	run(t, "systemctl", "restart", "hornetd")
	makes("before root says so", false)
	run(t, "hornetctl", "guard", "enforce")
	makes("listed", true)
	update()
	makes("another file", false)
	run(t, "hornetctl", "guard", "enforce")
	makes("looked at again", true)
	put(t, configFile, before)
	run(t, "systemctl", "restart", "hornetd")
	run(t, "hornetctl", "guard", "enforce")
	makes("not listed any more", false)
}

// The commands of hornetd(8) with which another hornetd is put in place.
//
//go:embed testdata/upgrade.sh
var upgradeCommands string

func guardManual(t *testing.T) {
	enforcing.reach(t)
	pid := active(t, "")
	run(t, "sh", "-c", "mkdir /root/next && cp "+binary+" /root/next/hornetd && printf x >>/root/next/hornetd")
	out := run(t, "sh", "-ec", "cd /root/next\n"+upgradeCommands)
	active(t, pid)
	sum, _, _ := strings.Cut(run(t, "sha256sum", "/root/next/hornetd"), " ")
	if n := strings.Count(out, "Enrolled "); n != 2 || !strings.Contains(out, sum) || !strings.Contains(out, oldBinary+": retired") {
		t.Errorf("%d enrolled:\n%s", n, out)
	}
	if g := guard(t); g.Mode != "enforce" || g.Reason != "" {
		t.Errorf("guard %+v", g)
	}
	if out := run(t, "hornetctl", "guard"); strings.Count(out, "Enrolled ") != 1 || !strings.Contains(out, sum) {
		t.Errorf("in the end:\n%s", out)
	}
	run(t, "rm", "-r", "/root/next", oldBinary)
}

// A new binary is hornetd once the old one has enrolled it, and nothing before.
func guardUpgrade(t *testing.T) {
	enforcing.reach(t)
	const old, next = oldBinary, newBinary
	if f, err := os.OpenFile(binary, os.O_RDWR, 0); err == nil {
		f.Close()
		t.Error("root opens the running executable for writing")
	}
	run(t, "sh", "-c", "cp "+binary+" "+next+" && printf x >>"+next)
	run(t, "mv", binary, old)
	run(t, "mv", next, binary)
	readOnly(t)
	put(t, "/etc/hornet.d/closed.toml", "start = \"request\"\nfail = \"closed\"\n"+hooks("packet", `cgroup = "system.slice"`))
	notReady(t, `not enrolled, with fail = "closed"`, "does not know this process as hornetd")
	run(t, "rm", "/etc/hornet.d/closed.toml")
	run(t, "mv", binary, next)
	run(t, "mv", old, binary)
	run(t, "systemctl", "start", "hornetd.socket", "hornetd.service")
	pid := active(t, "")
	run(t, "hornetctl", "guard", "enroll", next)
	run(t, "mv", binary, old)
	run(t, "mv", next, binary)
	run(t, "systemctl", "restart", "hornetd")
	active(t, pid)
	if g := guard(t); g.Mode != "enforce" || g.Reason != "" {
		t.Errorf("guard %+v", g)
	}
	run(t, "hornetctl", "unload", "packets")
	run(t, "hornetctl", "load", "packets")
	filters(t)
}

// Disarmed, it is all as before.
func guardDisarm(t *testing.T) {
	enforcing.reach(t)
	if out, err := as("nobody", "hornetctl", "guard", "disarm", "--reason", "why not"); err == nil {
		t.Errorf("nobody disarms: %s", out)
	}
	refusedToRoot(t)
	run(t, "hornetctl", "guard", "disarm", "--reason", "the test ends")
	if out, err := makeMap(); err != nil {
		t.Errorf("disarmed, and refused: %s", out)
	}
	pid := active(t, "")
	run(t, "sh", "-c", "kill -KILL "+pid)
	active(t, pid)
	// hornetd.toml says enforce, and so does the start.
	soon(t, "a guard again", func() bool { return guard(t).Mode == "enforce" })
	run(t, "hornetctl", "guard", "disarm", "--reason", "the test ends")
}
