package systemdtest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// unitCgroup is where systemd puts hornetd.
const unitCgroup = "/sys/fs/cgroup/system.slice/hornetd.service/"

const mib = 1 << 20

// TestMemory is what becomes of maps that are large.
func TestMemory(t *testing.T) { inGuest(t, "7.3", 1, memorySteps) }

// TestMemoryFloor is the same on the oldest kernel.
func TestMemoryFloor(t *testing.T) { inGuest(t, "6.1", 1, memorySteps) }

var memorySteps = []step{
	{"charged", 1, charged},
	{"refused", 1, outOfMemory},
	{"replaced", 1, replaced},
	{"undelegated", 1, undelegated},
	{"restarted", 1, restarted},
	{"killed", 1, killed},
	{"leftover", 1, leftover},
}

// sized is hornetd with a collection that runs, and others whose one map is of a
// size.
var sized = &stage{f: func(t *testing.T) {
	put(t, "/etc/hornet/hornetd.toml", "[limits]\nmemory = \"1GiB\"\n")
	enabled.reach(t)
	run(t, "hornetctl", "keygen", "--out", "/root", "dev")
	run(t, "cp", "/root/dev.pem", "/etc/hornet/trust.d/")
	run(t, "cp", examples+"/hooks.bpf.o", "/etc/hornet.d/")
	sign(t, "/etc/hornet.d/hooks.bpf.o")
	put(t, "/etc/hornet.d/bystander.toml", hooks("packet", `cgroup = "system.slice"`))
	for name, size := range map[string]int{"large": 100 * mib, "larger": 300 * mib} {
		put(t, "/etc/hornet.d/"+name+".toml", fmt.Sprintf("start = \"request\"\n[object]\npath = \"hooks.bpf.o\"\n[maps.calls]\nclass = \"mutable\"\nmax_entries = %d\n%s",
			size/8, attach("lookup")))
	}
	run(t, "systemctl", "reload", "hornetd")
}}

// charge is where hornetctl says that maps are charged.
type charge struct{ To, Cgroup, Reason string }

func chargeOf(t *testing.T, args ...string) charge {
	t.Helper()
	var shown struct{ Charged charge }
	if err := json.Unmarshal([]byte(run(t, "hornetctl", append(args, "-o", "json")...)), &shown); err != nil {
		t.Fatal(err)
	}
	return shown.Charged
}

// bytesIn is a number of bytes that a cgroup of the unit's says.
func bytesIn(t *testing.T, file string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(read(t, unitCgroup+file)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// leaves are the cgroups of collections.
func leaves(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(unitCgroup + "maps/*/")
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// A large map is charged to a cgroup of its collection's own, and a small one to
// hornetd.
func charged(t *testing.T) {
	sized.reach(t)
	pid := active(t, "")
	if got := read(t, "/proc/"+pid+"/cgroup"); got != "0::/system.slice/hornetd.service/daemon\n" {
		t.Errorf("hornetd is in %q", got)
	}
	if got := chargeOf(t, "status"); got.To != "own" || got.Cgroup+"/" != unitCgroup+"maps/" {
		t.Errorf("status says %+v", got)
	}
	if got := chargeOf(t, "show", "bystander"); got.To != "hornetd" || !strings.Contains(got.Reason, "small") {
		t.Errorf("the bystander is charged to %+v", got)
	}
	if dirs := leaves(t); len(dirs) != 0 {
		t.Errorf("before the load: %v", dirs)
	}

	before := bytesIn(t, "daemon/memory.current")
	run(t, "hornetctl", "load", "large")
	own, after := bytesIn(t, "maps/large/memory.current"), bytesIn(t, "daemon/memory.current")
	t.Logf("its own cgroup %d, hornetd's %d before and %d after", own, before, after)
	if own < 100*mib || own > 104*mib {
		t.Errorf("%d bytes are charged to its cgroup, for a map of %d", own, 100*mib)
	}
	if after > before+16*mib {
		t.Errorf("hornetd's was %d and is %d", before, after)
	}
	if procs := read(t, unitCgroup+"maps/large/cgroup.procs"); procs != "" {
		t.Errorf("processes stay in its cgroup: %s", procs)
	}
	if got := chargeOf(t, "show", "large"); got.To != "own" || got.Cgroup != unitCgroup+"maps/large" {
		t.Errorf("it is charged to %+v", got)
	}
	// The guard, which audits where nothing else is said, knows whose that was.
	if out := run(t, "hornetctl", "events", "--kind", "foreign"); strings.Contains(out, "by /usr/sbin/hornetd") {
		t.Errorf("what hornetd has made is taken for somebody else's:\n%s", out)
	}
	// As the kernel has it, the map is what it would be if hornetd had made it.
	info := run(t, "bpftool", "map", "show", "pinned", pins+"large/maps/calls")
	for _, want := range []string{": array  name calls  flags 0x0\n", "key 4B  value 8B  max_entries 13107200", "btf_id "} {
		if !strings.Contains(info, want) {
			t.Errorf("no %q in\n%s", want, info)
		}
	}

	run(t, "hornetctl", "unload", "large")
	if dirs := leaves(t); len(dirs) != 0 {
		t.Errorf("after the unload: %v", dirs)
	}
	// A host is not left without its firewall because a cgroup cannot be made.
	const most = unitCgroup + "maps/cgroup.max.descendants"
	put(t, most, "0")
	run(t, "hornetctl", "load", "large")
	if got := chargeOf(t, "show", "large"); got.To != "hornetd" || !strings.Contains(got.Reason, "resource temporarily unavailable") {
		t.Errorf("without room for a cgroup it is charged to %+v", got)
	}
	run(t, "hornetctl", "unload", "large")
	put(t, most, "max")
	soon(t, "memory given back", func() bool { return bytesIn(t, "memory.current") < before+32*mib })
	if got := active(t, ""); got != pid {
		t.Errorf("hornetd was process %s and is %s", pid, got)
	}
}

// What is allowed and finds no memory is refused, each time, and ends nothing.
func outOfMemory(t *testing.T) {
	sized.reach(t)
	dropIn(t, "MemoryMax=256M")
	run(t, "systemctl", "restart", "hornetd")
	pid := active(t, "")
	before := links(t)
	calls := total(t, "bystander", "calls")
	const rounds = 100
	start := time.Now()
	for range rounds {
		out := run(t, "curl", "-s", "--unix-socket", sock, "-d", "{}", "http://hornetd/v1/collections/larger/load")
		for _, want := range []string{`"kind":"limit"`, `collection \"larger\": its maps need 314572800 bytes`, "MemoryMax= of hornetd.service"} {
			if !strings.Contains(out, want) {
				t.Fatalf("no %s in\n%s", want, out)
			}
		}
	}
	t.Logf("%d refusals in %.1f s", rounds, time.Since(start).Seconds())
	if got := active(t, ""); got != pid || property(t, "hornetd", "NRestarts") != "0" {
		t.Errorf("hornetd was process %s and is %s", pid, got)
	}
	if diff := cmp.Diff(before, links(t)); diff != "" {
		t.Errorf("links before (-) and after (+):\n%s", diff)
	}
	if dirs := leaves(t); len(dirs) != 0 {
		t.Errorf("left: %v", dirs)
	}
	try("curl", "-s", "http://127.0.0.1:1234/") // nobody listens
	if now := total(t, "bystander", "calls"); now <= calls {
		t.Errorf("the bystander counted %d and counts %d", calls, now)
	}
	run(t, "hornetctl", "load", "large") // what fits does load
	run(t, "hornetctl", "unload", "large")
}

// What takes the place of what runs has the limit of one, as soon as it runs alone, and
// while both are there what it makes beside it; what is kept is not made.
func replaced(t *testing.T) {
	sized.reach(t)
	text := read(t, "/etc/hornet.d/large.toml")
	t.Cleanup(func() {
		try("hornetctl", "unload", "large")
		put(t, "/etc/hornet.d/large.toml", text)
		run(t, "systemctl", "reload", "hornetd")
	})
	bounded := strings.Replace(text, "[object]\n", "[limits]\nmemory = \"104MiB\"\n[object]\n", 1)
	keeps := strings.Replace(bounded, "class = \"mutable\"\n", "class = \"mutable\"\nkeep = true\n", 1)
	if bounded == text || keeps == bounded {
		t.Fatal(text)
	}
	put(t, "/etc/hornet.d/large.toml", bounded)
	run(t, "systemctl", "reload", "hornetd")
	run(t, "hornetctl", "load", "large")
	limit := bytesIn(t, "maps/large/memory.max")
	for i, version := range []string{keeps, keeps, bounded, bounded} {
		id := mapID(t)
		put(t, "/etc/hornet.d/large.toml", fmt.Sprintf("description = \"another %d\"\n%s", i, version))
		run(t, "hornetctl", "upgrade", "large")
		kept := version == keeps
		if now := bytesIn(t, "maps/large/memory.max"); kept && now != limit {
			t.Errorf("version %d may have %d, and the first one %d", i, now, limit)
		}
		if now := mapID(t); (now == id) != kept {
			t.Errorf("version %d: map %s, was %s", i, now, id)
		}
		soon(t, "the limit is that of one", func() bool { return bytesIn(t, "maps/large/memory.max") == limit })
	}
	// On trial both are there, and then the one that has passed or came back.
	for _, health := range []string{"at_least = 0", "equals = 12345"} {
		put(t, "/etc/hornet.d/large.toml", bounded+"\n[health]\nseconds = 2\nmap = \"calls\"\n"+health+"\n")
		run(t, "hornetctl", "upgrade", "large")
		if now := bytesIn(t, "maps/large/memory.max"); now < 200*mib && health == "at_least = 0" {
			t.Errorf("on trial it may have %d", now)
		}
		soon(t, health+": the limit is that of one", func() bool { return bytesIn(t, "maps/large/memory.max") == limit })
	}
	// Whoever has a descriptor of the map that was holds it there, and then no more.
	m, err := ebpf.LoadPinnedMap(pins+"large/maps/calls", nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, "/etc/hornet.d/large.toml", "description = \"the last\"\n"+bounded)
	run(t, "hornetctl", "upgrade", "large")
	time.Sleep(2 * time.Second)
	if now := bytesIn(t, "maps/large/memory.max"); now < 200*mib {
		t.Errorf("two maps are charged, and may have %d", now)
	}
	m.Close()
	soon(t, "the limit is that of one", func() bool { return bytesIn(t, "maps/large/memory.max") == limit })
}

func mapID(t *testing.T) string {
	t.Helper()
	id, _, _ := strings.Cut(run(t, "bpftool", "map", "show", "pinned", pins+"large/maps/calls"), ":")
	return id
}

// Where maps are charged to hornetd itself, what its unit's limit leaves no room for is
// refused, and does not have it killed.
func undelegated(t *testing.T) {
	sized.reach(t)
	for _, limit := range []string{"MemoryMax=256M", "MemoryHigh=256M"} {
		dropIn(t, "Delegate=no\n"+limit)
		run(t, "systemctl", "restart", "hornetd")
		pid := active(t, "")
		for range 3 {
			out := run(t, "curl", "-s", "--unix-socket", sock, "-d", "{}", "http://hornetd/v1/collections/larger/load")
			for _, want := range []string{`"kind":"limit"`, `collection \"larger\": its maps may take 3145`, "not delegated to hornetd", "MemoryMax= of hornetd.service"} {
				if !strings.Contains(out, want) {
					t.Fatalf("%s: no %s in\n%s", limit, want, out)
				}
			}
		}
		run(t, "hornetctl", "load", "large") // what fits does load
		run(t, "hornetctl", "unload", "large")
		if got := active(t, ""); got != pid || property(t, "hornetd", "NRestarts") != "0" {
			t.Errorf("%s: hornetd was process %s and is %s", limit, pid, got)
		}
	}
}

// systemd takes the cgroups away with the unit; what was charged there is charged to
// the slice, and what runs runs on.
func restarted(t *testing.T) {
	sized.reach(t)
	run(t, "hornetctl", "load", "large")
	before := links(t)
	for _, how := range []string{"restart", "kill"} {
		pid := active(t, "")
		if how == "kill" {
			signal(t, pid, syscall.SIGKILL)
		} else {
			run(t, "systemctl", how, "hornetd")
		}
		active(t, pid)
		if diff := cmp.Diff(before, links(t)); diff != "" {
			t.Errorf("links before (-) and after (+) a %s:\n%s", how, diff)
		}
		if got := chargeOf(t, "show", "large"); got.To != "earlier" {
			t.Errorf("after a %s it is charged to %+v", how, got)
		}
		if dirs := leaves(t); len(dirs) != 0 {
			t.Errorf("after a %s there are %v", how, dirs)
		}
	}
	// What takes its place has a cgroup again.
	text := read(t, "/etc/hornet.d/large.toml")
	put(t, "/etc/hornet.d/large.toml", "description = \"another\"\n"+text)
	run(t, "hornetctl", "upgrade", "large")
	if got := chargeOf(t, "show", "large"); got.To != "own" {
		t.Errorf("after an upgrade it is charged to %+v", got)
	}
	if own := bytesIn(t, "maps/large/memory.current"); own < 100*mib {
		t.Errorf("%d bytes are charged to it", own)
	}
	// Where the unit is not delegated, all is as it was without cgroups.
	run(t, "hornetctl", "unload", "large")
	dropIn(t, "Delegate=no")
	run(t, "systemctl", "restart", "hornetd")
	if got := chargeOf(t, "status"); got.To != "hornetd" || !strings.Contains(got.Reason, "not delegated") {
		t.Errorf("without Delegate= status says %+v", got)
	}
	run(t, "hornetctl", "load", "large")
	if got := chargeOf(t, "show", "large"); got.To != "hornetd" || !strings.Contains(got.Reason, "not delegated") {
		t.Errorf("without Delegate= it is charged to %+v", got)
	}
	if _, err := os.Stat(unitCgroup + "maps"); err == nil {
		t.Error("there are cgroups of maps")
	}
	run(t, "hornetctl", "unload", "large")
}

// Killed at any time of a load that has a process make the maps: neither that nor a
// cgroup is left, and what is asked for again loads.
func killed(t *testing.T) {
	sized.reach(t)
	dropIn(t, "RestartSec=100ms")
	run(t, "systemctl", "restart", "hornetd")
	found := 0
	for round := range 6 {
		pid := active(t, "")
		done := make(chan struct{})
		go func() { defer close(done); try("hornetctl", "load", "large") }()
		var during []string
		if round%2 == 0 { // in the life of the process
			for deadline := time.Now().Add(10 * time.Second); len(during) == 0 && time.Now().Before(deadline); {
				during = makers()
			}
			time.Sleep(time.Duration(round) * 10 * time.Millisecond)
		} else {
			time.Sleep(time.Duration(round) * 80 * time.Millisecond)
		}
		found += len(during)
		signal(t, pid, syscall.SIGKILL)
		<-done
		now := active(t, pid)
		if left := makers(); len(left) != 0 {
			t.Errorf("round %d: processes %v are left", round, left)
		}
		running := collections(links(t)) // the next hornetd may find the request in the socket
		if dirs := leaves(t); len(dirs) != 0 && !running["large"] || !running["bystander"] {
			t.Errorf("round %d: there are cgroups %v, and %v run", round, dirs, running)
		}
		if got := active(t, ""); got != now {
			t.Errorf("round %d: hornetd was process %s and is %s", round, now, got)
		}
		run(t, "hornetctl", "load", "large")
		run(t, "hornetctl", "unload", "large")
	}
	if found < 2 {
		t.Errorf("only %d were killed while a process made maps", found)
	}
}

// A process that stays where maps were charged, as one would that cannot be killed, keeps
// hornetd from being started for as long as it is there, and no longer.
func leftover(t *testing.T) {
	sized.reach(t)
	pid := active(t, "")
	run(t, "systemctl", "stop", "hornetd")
	stays := exec.Command("sleep", "600")
	if err := stays.Start(); err != nil {
		t.Fatal(err)
	}
	defer stays.Wait()
	defer stays.Process.Kill()
	if err := os.MkdirAll(unitCgroup+"maps/left", 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, unitCgroup+"cgroup.subtree_control", "+memory")
	put(t, unitCgroup+"maps/cgroup.subtree_control", "+memory")
	put(t, unitCgroup+"maps/left/cgroup.procs", strconv.Itoa(stays.Process.Pid))
	try("systemctl", "start", "hornetd")
	t.Logf("beside it hornetd is %s, %s", property(t, "hornetd", "ActiveState"), property(t, "hornetd", "Result"))
	stays.Process.Kill()
	stays.Wait()
	if now := active(t, pid); now == pid {
		t.Errorf("hornetd is process %s", now)
	}
	if dirs := leaves(t); len(dirs) != 0 {
		t.Errorf("left: %v", dirs)
	}
	run(t, "hornetctl", "load", "large")
	if got := chargeOf(t, "show", "large"); got.To != "own" {
		t.Errorf("it is charged to %+v", got)
	}
	run(t, "hornetctl", "unload", "large")
}

// makers are the processes that make maps now.
func makers() (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if line, _ := os.ReadFile(f); strings.HasPrefix(string(line), "hornetd: maps") {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}
