package systemdtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sock = "/run/hornet/hornetd.sock"

// asked waits to be asked for, by an operator.
const asked = `start = "request"
[object]
path = "exec_count.bpf.o"
[maps.execs]
class = "mutable"
[[attach]]
program = "count_exec"
[[allow]]
group = "operators"
may = ["status", "load", "unload", "read:execs"]
`

// post asks as a user with curl and returns the status of HTTP and the answer.
func post(user, path string) (status, body string, err error) {
	out, err := as(user, "curl", "-sSv", "-w", "\n%{http_code}", "--unix-socket", sock, "-X", "POST", "http://hornet"+path)
	i := strings.LastIndexByte(out, '\n')
	return out[i+1:], out, err
}

// Who is not in group hornet the kernel turns away, who has no right hornetd
// does, and the others get what the manifest gives.
func socket(t *testing.T) {
	loaded.reach(t)
	put(t, "/etc/hornet.d/asked.toml", asked)
	run(t, "systemctl", "reload", "hornetd")
	before := links(t)
	if collections(before)["asked"] {
		t.Fatal("asked is loaded before anybody asked")
	}
	refused(t)
	if now := links(t); len(now) != len(before) {
		t.Errorf("links: %d before the refusals and %d after", len(before), len(now))
	}

	if status, body, err := post("alice", "/v1/collections/asked/load"); err != nil || status != "200" {
		t.Fatalf("alice loads with curl: %v\n%s", err, body)
	}
	if !collections(links(t))["asked"] {
		t.Error("asked is not attached")
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := as("alice", "hornetctl", args...)
		if err != nil {
			t.Errorf("alice: hornetctl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	if out := must("map", "dump", "asked", "execs"); !strings.Contains(out, "2001") {
		t.Errorf("alice has started programs, and the map says\n%s", out)
	}
	must("unload", "asked")
	if collections(links(t))["asked"] {
		t.Error("asked is still attached")
	}
	must("load", "asked")
	if !collections(links(t))["asked"] {
		t.Error("asked is not attached again")
	}
	if out, err := as("alice", "hornetctl", "unload", "xdp-drop"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("alice unloads xdp-drop: %v\n%s", err, out)
	}
	run(t, "hornetctl", "unload", "asked")
}

func refused(t *testing.T) {
	t.Helper()
	if _, body, err := post("bob", "/v1/collections/asked/load"); err == nil || !strings.Contains(body, "Permission denied") {
		t.Errorf("bob, who is not in the group: %v\n%s", err, body)
	}
	if out, err := as("bob", "hornetctl", "load", "asked"); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(out, "permission denied") {
		t.Errorf("bob, who is not in the group: %v\n%s", err, out)
	}
	if status, body, err := post("carol", "/v1/collections/asked/load"); err != nil || status != "403" {
		t.Errorf("carol, who is in the group and has no right: %s %v\n%s", status, err, body)
	}
	if out, err := as("carol", "hornetctl", "load", "asked"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("carol, who is in the group and has no right: %v\n%s", err, out)
	}
}

const netns = "/run/netns/other"

// makeNetns makes a network namespace after hornetd has started, and mounted
// outside its mount namespace, and a manifest that names it.
func makeNetns(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(netns); err != nil {
		run(t, "ip", "netns", "add", filepath.Base(netns))
		run(t, "ip", "-n", filepath.Base(netns), "link", "set", "lo", "up")
	}
	in := fmt.Sprintf("netns = %q", netns)
	put(t, "/etc/hornet.d/elsewhere.toml", "start = \"request\"\n"+hooks("frame", `interface = "lo"`, in)+attach("lookup", in))
}

func namespace(t *testing.T) {
	loaded.reach(t)
	makeNetns(t)
	run(t, "hornetctl", "load", "elsewhere")
	before := total(t, "elsewhere", "calls")
	run(t, "ip", "netns", "exec", filepath.Base(netns), "ping", "-q", "-c1", "127.0.0.1")
	if after := total(t, "elsewhere", "calls"); after < before+2 {
		t.Errorf("a ping there made %d calls", after-before)
	}
	run(t, "hornetctl", "unload", "elsewhere")
}

// What a manifest names and is not there yet is attached by the reload that
// comes when it is; the one before fails and says so, and the rest runs on.
func late(t *testing.T) {
	before, _ := stateOf(t)
	const ns, file = "/run/netns/late", "/etc/hornet.d/late.toml"
	put(t, file, hooks("frame", `interface = "lo"`, fmt.Sprintf("netns = %q", ns)))
	if out, err := try("systemctl", "reload", "hornetd"); err == nil {
		t.Errorf("a reload that cannot attach everything succeeds: %s", out)
	}
	if journal := run(t, "journalctl", "--no-pager", "-u", "hornetd"); !strings.Contains(journal, `network namespace \"`+ns+`\" does not exist`) {
		t.Errorf("the journal does not say why:\n%s", journal)
	}
	same(t, before)
	run(t, "ip", "netns", "add", filepath.Base(ns))
	run(t, "systemctl", "reload", "hornetd")
	if !collections(links(t))["late"] {
		t.Error("late is not attached")
	}
	run(t, "rm", file)
	run(t, "systemctl", "reload", "hornetd")
	same(t, before)
}
