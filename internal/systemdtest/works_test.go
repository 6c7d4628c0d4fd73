package systemdtest

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a host's other programs do, and whether it goes on: without a guard, under one
// that audits, one that enforces, and one that enforces with the entries that
// hornetd(8) has for them. The oracle is what they bring about.

//go:embed testdata/works.txt
var worksTable string

// guardEntries are those of hornetd(8).
//
//go:embed testdata/allow.toml
var guardEntries string

// The words of works.txt.
const (
	itWorks     = "works"
	isTold      = "told"    // and works
	goesWithout = "without" // goes on without what it was refused
	isRefused   = "refused"
)

// othersModules are what they need of the kernel.
var othersModules = []string{"dummy", "sch_ingress", "cls_bpf", "cls_u32", "act_gact", "nft_compat", "xt_bpf"}

// deed is something that somebody else's program does.
type deed struct {
	name string
	by   string // the program that may ask for what is not for it
	do   func(t *testing.T, by string) (verdict string)
	// It does not fail for something that it may not look at.
	lists bool
}

// guardWorks holds every deed in every mode against works.txt.
func guardWorks(t *testing.T) {
	loaded.reach(t)
	list := deeds(t)
	disarm := "disarm --reason test"
	if guard(t).Mode == "off" { // by a step before this one
		disarm = ""
	}
	got := map[string][]string{}
	for _, m := range []struct {
		settings, command string
		judge             func(*testing.T, []deed) []string
	}{
		{`mode = "off"`, disarm, outcomes},
		{`mode = "audit"`, "audit", tellings},
		{`mode = "enforce"`, "enforce", refusals},
		{"mode = \"enforce\"\n" + guardEntries, "enforce", refusals},
	} {
		settle(t, m.settings, m.command)
		for i, verdict := range m.judge(t, list) {
			got[list[i].name] = append(got[list[i].name], verdict)
		}
	}
	var table strings.Builder
	for _, d := range list {
		fmt.Fprintln(&table, line(d.name, got[d.name]))
	}
	if want := rows(worksTable); table.String() != want {
		t.Errorf("what works is\n%s\nand works.txt says\n%s", table.String(), want)
	}
}

func outcomes(t *testing.T, list []deed) (verdicts []string) {
	for _, d := range list {
		verdicts = append(verdicts, d.do(t, d.by))
	}
	return verdicts
}

// refusals are outcomes, and whether the guard had a part in them.
func refusals(t *testing.T, list []deed) (verdicts []string) {
	before := guard(t).Refused
	for _, d := range list {
		verdict := d.do(t, d.by)
		now := guard(t).Refused
		switch {
		case now > before && verdict == itWorks && d.lists:
			verdict = goesWithout
		case now == before && verdict != itWorks:
			verdict += ", and not by the guard"
		}
		before = now
		verdicts = append(verdicts, verdict)
	}
	return verdicts
}

// tellings are outcomes, and whether the guard told of them. What repeats is told
// once, so each is done by a program of its own: a copy. Of systemd there is none.
func tellings(t *testing.T, list []deed) (verdicts []string) {
	const dir = "/run/copies/"
	names := make([]string, len(list))
	for i, d := range list {
		by := d.by
		names[i] = by
		switch by {
		case "", "systemd":
		case "crun", "iptables": // which are not themselves under another name
		default:
			file, err := exec.LookPath(by)
			if err != nil {
				t.Fatal(err)
			}
			names[i] += fmt.Sprint(i)
			by = dir + names[i]
			run(t, "install", "-D", file, by)
		}
		if d.by == "bpftool" { // who causes many in a second is told of no more in it
			time.Sleep(time.Second)
		}
		verdicts = append(verdicts, d.do(t, by))
	}
	const last = "last"
	run(t, "install", "-D", "/usr/sbin/bpftool", dir+last)
	events := ""
	soon(t, "all of it told", func() bool {
		run(t, dir+last, "map", "create", "/sys/fs/bpf/other", "type", "array", "key", "4", "value", "4", "entries", "1", "name", last)
		os.Remove("/sys/fs/bpf/other")
		events = run(t, "hornetctl", "events", "--kind", "foreign")
		return strings.Contains(events, last)
	})
	for i, name := range names {
		if verdicts[i] == itWorks && name != "" && regexp.MustCompile(` by (\S*/)?`+name+`: went through`).MatchString(events) {
			verdicts[i] = isTold
		}
	}
	return verdicts
}

// TestGuardEntries holds what is documented against what guardWorks uses and finds.
func TestGuardEntries(t *testing.T) {
	if !strings.Contains(read(t, "../../docs/hornetd.8.md"), guardEntries) {
		t.Error("hornetd(8) has other entries than testdata/allow.toml")
	}
	if !strings.Contains(read(t, "../../docs/hornetd.8.md"), "```sh\n"+upgradeCommands+"```\n") {
		t.Error("hornetd(8) has other commands than testdata/upgrade.sh")
	}
	if !strings.Contains(read(t, "../../lsm-module/README.md"), rows(worksTable)) {
		t.Error("lsm-module/README.md has another table than testdata/works.txt")
	}
}

func line(name string, verdicts []string) string {
	s := fmt.Sprintf("%-44s", name)
	for _, v := range verdicts {
		s += fmt.Sprintf(" %-8s", v)
	}
	return strings.TrimRight(s, " ")
}

// rows are the lines of a table without what explains it.
func rows(table string) string {
	var b strings.Builder
	for l := range strings.Lines(table) {
		if l != "\n" && !strings.HasPrefix(l, "#") {
			b.WriteString(l)
		}
	}
	return b.String()
}

// settle gives hornetd a [guard] and has it be in force.
func settle(t *testing.T, settings, command string) {
	t.Helper()
	before, _, _ := strings.Cut(read(t, configFile), "\n[guard]")
	put(t, configFile, before+"\n[guard]\n"+settings+"\n")
	run(t, "systemctl", "restart", "hornetd")
	run(t, "hornetctl", append([]string{"guard"}, strings.Fields(command)...)...)
}

// answer is the verdict of what a command says and how it ends.
func answer(out string, err error) string {
	switch {
	case err == nil:
		return itWorks
	case strings.Contains(out, "peration not permitted") || strings.Contains(out, "ermission denied"):
		return isRefused
	}
	return fmt.Sprintf("%v: %s", err, out)
}

// does is the verdict of one command.
func does(args ...string) func(*testing.T, string) string {
	return func(_ *testing.T, by string) string { return answer(try(by, args...)) }
}

// unit is a unit with settings, under which a shell command must not succeed.
func unit(t *testing.T, command string, settings ...string) func(*testing.T, string) string {
	t.Helper()
	units++
	name := fmt.Sprintf("other%d.service", units)
	const verdict = "/run/verdict"
	put(t, "/run/systemd/system/"+name, fmt.Sprintf("[Service]\nType=oneshot\n%s\nExecStart=sh -c 'if { %s; } >/dev/null 2>&1; then echo %s; else echo %s; fi >%s'\n",
		strings.Join(settings, "\n"), command, goesWithout, itWorks, verdict))
	return func(t *testing.T, _ string) string {
		if _, err := try("systemctl", "start", name); err != nil {
			return answer(run(t, "journalctl", "--no-pager", "-o", "cat", "-n", "10", "-u", name), err)
		}
		return strings.TrimSpace(read(t, verdict))
	}
}

var units int

func deeds(t *testing.T) []deed {
	run(t, "ip", "link", "add", "other0", "type", "dummy")
	run(t, "ip", "link", "set", "other0", "up")
	run(t, "tc", "qdisc", "add", "dev", "other0", "clsact")
	bundle(t)
	const (
		xdp = examples + "/xdp_drop.bpf.o"
		tcx = examples + "/tcx_count.bpf.o"
		own = pins + "conn-count/maps/connects"
	)
	filter := func(args ...string) func(*testing.T, string) string {
		return does(append(strings.Fields("filter add dev other0 ingress"), args...)...)
	}
	list := []deed{
		{"unit: DevicePolicy=", "systemd", unit(t, "echo x >/dev/kmsg", "DevicePolicy=closed"), false},
		{"unit: IPAddressDeny=, IPAddressAllow=", "systemd", unit(t, "! ping -q -c1 -W5 127.0.0.3 || ping -q -c1 -W1 127.0.0.1", "IPAddressDeny=any", "IPAddressAllow=127.0.0.3"), false},
		{"unit: RestrictNetworkInterfaces=", "systemd", unit(t, "ping -q -c1 -W1 127.0.0.1", "RestrictNetworkInterfaces=eth1"), false},
		{"unit: SocketBindDeny=, SocketBindAllow=", "systemd", unit(t, "curl -s --local-port 5001 http://127.0.0.1:9/; test $? = 7", "SocketBindDeny=any", "SocketBindAllow=tcp:5000"), false},
		{"unit: RestrictFileSystems=", "systemd", unit(t, "cat /sys/kernel/security/lsm", "RestrictFileSystems=~securityfs"), false},
		{"unit: SystemCallFilter=, which is seccomp", "", unit(t, "uname", "SystemCallFilter=~uname", "SystemCallErrorNumber=EPERM"), false},
		{"runc, its device policy", "runc", container, false},
		{"crun, its device policy", "crun", container, false},
		{"tcpdump", "tcpdump", tcpdump, false},
		{"iptables -m bpf --bytecode", "iptables", dropping("127.0.0.77",
			[]string{"-A", "INPUT", "-d", "127.0.0.77", "-m", "bpf", "--bytecode", "4,48 0 0 9,21 0 1 1,6 0 0 1,6 0 0 0", "-j", "DROP"},
			[]string{"-D", "INPUT", "1"}), false},
		{"nft", "nft", dropping("127.0.0.78",
			[]string{"add table ip other; add chain ip other in { type filter hook input priority 0; }; add rule ip other in ip daddr 127.0.0.78 drop"},
			[]string{"delete table ip other"}), false},
		{"strace of another process", "strace", func(t *testing.T, by string) string {
			return traces(t, func(pid string) (string, error) { return strace(by, pid) })
		}, false},
		{"gdb of another process", "gdb", func(t *testing.T, by string) string {
			return traces(t, func(pid string) (string, error) { return try(by, "--batch", "-nx", "-p", pid) })
		}, false},
		{"strace of hornetd", "strace", func(t *testing.T, by string) string {
			return answer(strace(by, property(t, "hornetd", "MainPID")))
		}, false},
		{"perf stat", "perf", does("stat", "-e", "task-clock,context-switches", "true"), false},
		{"perf record -a", "perf", does("record", "-q", "-a", "-e", "cpu-clock", "-o", "/run/perf", "true"), true},
		{"tc filter u32", "tc", filter("protocol", "ip", "u32", "match", "ip", "dst", "10.9.9.9/32", "action", "drop"), false},
		{"tc filter bpf", "tc", filter("bpf", "direct-action", "object-file", tcx, "section", "tcx/ingress"), false},
		{"tc filter bpf bytecode, which is classic", "tc", filter("bpf", "bytecode", "1,6 0 0 4294967295"), false},
		{"ip link set xdpgeneric", "ip", func(t *testing.T, by string) string {
			defer try("ip", "link", "set", "dev", "other0", "xdpgeneric", "off")
			return answer(try(by, "link", "set", "dev", "other0", "xdpgeneric", "obj", xdp, "sec", "xdp"))
		}, false},
		{"bpftool prog load", "bpftool", func(t *testing.T, by string) string {
			defer os.Remove("/sys/fs/bpf/other")
			return answer(try(by, "prog", "load", xdp, "/sys/fs/bpf/other"))
		}, false},
		{"bpftool prog show", "bpftool", does("prog", "show"), true},
		{"bpftool link show", "bpftool", does("link", "show"), true},
		{"bpftool map show", "bpftool", does("map", "show"), true},
		{"bpftool map dump of hornetd's", "bpftool", does("map", "dump", "pinned", own), false},
		{"bpftool net show", "bpftool", does("net", "show"), true},
		{"bpftool cgroup tree", "bpftool", does("cgroup", "tree"), true},
	}
	run(t, "systemctl", "daemon-reload")
	return list
}

// dropping is a firewall rule with which an address does not answer.
func dropping(address string, add, remove []string) func(*testing.T, string) string {
	return func(_ *testing.T, by string) string {
		if out, err := try(by, add...); err != nil {
			return answer(out, err)
		}
		if out, err := try("ping", "-q", "-c1", "-W1", address); err == nil {
			return "it answers: " + out
		}
		return answer(try(by, remove...))
	}
}

// tcpdump sees a packet.
func tcpdump(t *testing.T, by string) string {
	cmd := exec.Command("timeout", "20", by, "-i", "lo", "-c1", "-nn", "icmp and host 127.0.0.79")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := ""
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "listening on") {
			try("ping", "-q", "-c1", "-W1", "127.0.0.79")
		}
	}
	return answer(said, cmd.Wait())
}

// strace attaches to a process, and goes on until it is interrupted.
func strace(by, pid string) (string, error) {
	out, err := try("timeout", "-s", "INT", "1", by, "-o", "/dev/null", "-p", pid)
	if strings.Contains(out, "attached") {
		err = nil
	}
	return out, err
}

// traces has a tracer look at a process.
func traces(t *testing.T, tracer func(pid string) (string, error)) string {
	t.Helper()
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { other.Process.Kill(); other.Wait() }()
	return answer(tracer(strconv.Itoa(other.Process.Pid)))
}

const bundleDir = "/root/bundle"

// bundle is a container whose process wants to write the kernel's log, which its
// device policy keeps it from: busybox, and what runc's own specification says else.
func bundle(t *testing.T) {
	t.Helper()
	root := bundleDir + "/rootfs/"
	for _, dir := range []string{"bin", "dev", "proc", "sys"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "cp", "/bin/busybox", root+"bin/")
	run(t, "sh", "-c", "cd "+bundleDir+" && rm -f config.json && runc spec")
	var spec map[string]any
	if err := json.Unmarshal([]byte(read(t, bundleDir+"/config.json")), &spec); err != nil {
		t.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"/bin/busybox", "sh", "-c",
		"busybox mknod /dev/log c 1 11 && if echo x >/dev/log; then echo " + goesWithout + "; else echo " + itWorks + "; fi 2>/dev/null"}
	caps := []string{"CAP_MKNOD"}
	process["capabilities"] = map[string]any{"bounding": caps, "effective": caps, "permitted": caps}
	spec["linux"].(map[string]any)["cgroupsPath"] = "/other"
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	put(t, bundleDir+"/config.json", string(b))
}

// container runs it.
func container(_ *testing.T, by string) string {
	out, err := try(by, "run", "--bundle", bundleDir, "other")
	try(by, "delete", "--force", "other")
	if err != nil {
		return answer(out, err)
	}
	return out[strings.LastIndex(out, "\n")+1:]
}
