package systemdtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// enabled is hornetd installed and turned on as the README says.
var enabled = &stage{f: func(t *testing.T) {
	for _, c := range []string{
		"systemd-sysusers", "systemd-tmpfiles --create", "systemctl daemon-reload",
		"systemctl enable --now hornetd.socket hornetd.service",
	} {
		args := strings.Fields(c)
		run(t, args[0], args[1:]...)
	}
	for _, unit := range []string{"hornetd.socket", "hornetd.service"} {
		if got := property(t, unit, "ActiveState") + " " + property(t, unit, "UnitFileState"); got != "active enabled" {
			t.Errorf("%s is %s", unit, got)
		}
	}
	for file, want := range map[string]string{
		"/run/hornet/hornetd.sock": "root:hornet 660 socket",
		"/run/hornet":              "root:root 755 directory",
		"/sys/fs/bpf/hornet":       "root:root 700 directory",
		"/var/lib/hornet":          "root:root 700 directory",
	} {
		if got := run(t, "stat", "-c", "%U:%G %a %F", file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
	// systemd has what READY said, and the daemon listens on systemd's socket.
	if got := property(t, "hornetd", "StatusText"); !strings.HasPrefix(got, "0 running") {
		t.Errorf("status text %q", got)
	}
	if got := property(t, "hornetd", "NRestarts"); got != "0" {
		t.Errorf("%s restarts", got)
	}
}}

// What is blocked and what is not.
const (
	blocked = "10.0.2.2" // behind eth0
	free    = "10.0.3.2" // behind eth1
)

// edits are what an administrator of this host changes in the examples.
var edits = map[string][]string{
	"conn-count": {`"hornet-demo"`, `"system.slice"`},
	"xdp-drop":   {`"hornet0"`, `"eth0"`, "entries = [", "entries = [\n  { key = \"" + blocked + "/32\", value = 3 },"},
	"tcx-count":  {`"hornet0"`, `"eth1"`},
	"xdp-filter": {`"hornet1"`, `"eth1"`},
}

// bootManifests are the manifests that start at boot: the examples, one program
// of each kind, and some that need a capability of their own.
func bootManifests(t *testing.T) map[string]string {
	t.Helper()
	m := map[string]string{
		"packets": hooks("packet", `cgroup = "system.slice"`),
		"probe":   hooks("entry", `executable = "`+library+`"`, `symbol = "setlocale"`),
	}
	if !floor {
		m["kinds"] = kinds()
		m["functions"] = functions()
		m["congestion"] = congestion
	}
	for _, name := range []string{"exec-count", "conn-count", "xdp-drop", "tcx-count", "xdp-filter"} {
		if !floor || name != "tcx-count" {
			m[name] = edited(t, name, edits[name]...)
		}
	}
	return m
}

// hooks is a manifest for one program of testdata/hooks.bpf.c.
func hooks(program string, keys ...string) string {
	return "[object]\npath = \"hooks.bpf.o\"\n[maps.calls]\nclass = \"mutable\"\n" + attach(program, keys...)
}

func attach(program string, keys ...string) string {
	return fmt.Sprintf("[[attach]]\nprogram = %q\n%s\n", program, strings.Join(keys, "\n"))
}

// kinds is one program of each kind that can be attached to this host.
func kinds() string {
	var b strings.Builder
	b.WriteString("[object]\npath = \"kinds.bpf.o\"\n[maps.calls]\nclass = \"mutable\"\n")
	b.WriteString(attach("on_xdp", `interface = "lo"`, `mode = "generic"`))
	for _, p := range []string{"on_tcx_ingress", "on_tcx_egress"} {
		b.WriteString(attach(p, `interface = "lo"`))
	}
	for _, p := range strings.Fields(`on_skb_ingress on_skb_egress on_sock_create on_sock_release on_post_bind4 on_post_bind6 on_bind4 on_bind6
		on_connect4 on_connect6 on_sendmsg4 on_sendmsg6 on_recvmsg4 on_recvmsg6 on_getpeername4 on_getpeername6
		on_getsockname4 on_getsockname6 on_getsockopt on_setsockopt on_sysctl on_device on_sock_ops`) {
		b.WriteString(attach(p, `cgroup = "system.slice"`))
	}
	for _, p := range []string{"on_raw_tp", "on_tp_btf", "on_tracepoint", "on_sk_lookup", "on_iter"} {
		b.WriteString(attach(p))
	}
	for _, p := range []string{"on_uprobe", "on_uretprobe"} {
		b.WriteString(attach(p, `executable = "`+library+`"`, `symbol = "setlocale"`))
	}
	b.WriteString(attach("on_netfilter", `family = "ipv4"`, `hook = "input"`, "priority = -7"))
	return b.String()
}

// functions is one program of each kind that is attached to a function.
func functions() string {
	var b strings.Builder
	b.WriteString("[object]\npath = \"functions.bpf.o\"\n[maps.calls]\nclass = \"mutable\"\n")
	for _, p := range strings.Fields("on_entry on_exit modify guard guard_sleepable probe probe_return probes") {
		b.WriteString(attach(p))
	}
	b.WriteString(attach("user_probes", `executable = "`+library+`"`, `symbols = ["setlocale"]`))
	b.WriteString(attach("replacement", `replaces = "guarded"`))
	return b.String()
}

// congestion is a struct_ops.
const congestion = `[object]
path = "attach_ops.bpf.o"
[maps.steady]
class = "mutable"
[maps.other]
class = "mutable"
[[attach]]
map = "steady"
`

// library is in a home that its owner has closed to everybody else.
const library = "/home/alice/lib/libc.so.6"

// loaded is enabled, with people, interfaces, keys, every example, and a
// program of every kind, dropped into /etc/hornet.d and loaded by a reload.
var loaded = &stage{f: func(t *testing.T) {
	enabled.reach(t)
	people(t)
	network(t)
	run(t, "hornetctl", "keygen", "--out", "/root", "dev")
	run(t, "cp", "/root/dev.pem", "/etc/hornet/trust.d/")
	manifests := bootManifests(t)
	for name, text := range manifests {
		put(t, "/etc/hornet.d/"+name+".toml", text)
	}
	put(t, "/etc/hornet.d/toctou.toml", edited(t, "toctou"))
	objects, err := filepath.Glob(examples + "/*.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		run(t, "cp", o, "/etc/hornet.d/")
		sign(t, "/etc/hornet.d/"+filepath.Base(o))
	}
	const debians = "/usr/lib/x86_64-linux-gnu/bpf/xdpfilt_alw_ip.o"
	sign(t, debians)
	run(t, "mv", debians+".p7s", "/etc/hornet.d/")

	if before := links(t); len(before) != 0 {
		t.Errorf("before the reload: %v", before)
	}
	run(t, "systemctl", "reload", "hornetd")
	after := links(t)
	have := collections(after)
	for name := range manifests {
		if !have[name] {
			t.Errorf("%s is not attached", name)
		}
	}
	if len(have) != len(manifests) {
		t.Errorf("attached: %v", have)
	}
	t.Logf("%d links", len(after))
	effects(t)
	if !floor {
		everyFunction(t)
	}

	// All or nothing, and systemctl tells.
	put(t, "/etc/hornet.d/wrong.toml", "version = \"two\"\n")
	if out, err := try("systemctl", "reload", "hornetd"); err == nil {
		t.Errorf("a reload that is refused succeeds: %s", out)
	}
	run(t, "rm", "/etc/hornet.d/wrong.toml")
	same(t, after)

	run(t, "hornetctl", "load", "toctou")
	if maps := run(t, "ls", pins+"toctou/maps"); !strings.Contains(maps, "toctou_policy") {
		t.Errorf("toctou has maps %q", maps)
	}
	run(t, "hornetctl", "unload", "toctou")
}}

func edited(t *testing.T, name string, edits ...string) string {
	t.Helper()
	text := read(t, filepath.Join(examples, name+".toml"))
	for i := 0; i < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			t.Fatalf("%s.toml has no %s", name, edits[i])
		}
		text = strings.ReplaceAll(text, edits[i], edits[i+1])
	}
	return text
}

func sign(t *testing.T, file string) {
	t.Helper()
	run(t, "hornetctl", "sign", "--key", "/root/dev.key", "--cert", "/root/dev.pem", file)
}

// people makes alice, who is in group hornet and an operator, carol, who is in
// group hornet, and bob, who is in neither.
func people(t *testing.T) {
	t.Helper()
	put(t, "/etc/sysusers.d/people.conf", "g operators 3000\nu alice 2001\nu bob 2002\nu carol 2003\n"+
		"m alice hornet\nm alice operators\nm carol hornet\n")
	run(t, "systemd-sysusers")
	if err := os.MkdirAll(filepath.Dir(library), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "cp", "/usr/lib/x86_64-linux-gnu/libc.so.6", library)
	run(t, "chown", "-R", "alice:alice", "/home/alice")
	run(t, "chmod", "0700", "/home/alice")
}

// network gives the interfaces addresses.
func network(t *testing.T) {
	t.Helper()
	for dev, addr := range map[string]string{"eth0": "10.0.2.15/24", "eth1": "10.0.3.15/24"} {
		run(t, "ip", "addr", "replace", addr, "dev", dev)
		run(t, "ip", "link", "set", dev, "up")
	}
}

// effects sees every example at work, whether or not hornetd runs.
func effects(t *testing.T) {
	t.Helper()
	counters := []counter{{"exec-count", "execs"}, {"conn-count", "connects"}, {"xdp-drop", "hits"}, {"xdp-filter", "xdp_stats_map"}, {"packets", "calls"}, {"probe", "calls"}}
	if !floor {
		counters = append(counters, counter{"tcx-count", "traffic"}, counter{"kinds", "calls"}, counter{"functions", "calls"})
	}
	before := totals(t, counters)
	filters(t)
	try("curl", "-s", "http://127.0.0.1:1234/")                                // nobody listens
	run(t, "env", "LD_LIBRARY_PATH="+filepath.Dir(library), "bash", "-c", ":") // which calls setlocale
	for i, after := range totals(t, counters) {
		if after <= before[i] {
			t.Errorf("%v was %d and is %d", counters[i], before[i], after)
		}
	}
}

// filters sees what xdp-drop does.
func filters(t *testing.T) {
	t.Helper()
	if out, err := try("ping", "-q", "-c1", "-W1", blocked); err == nil {
		t.Errorf("%s answers, and should be blocked\n%s", blocked, out)
	}
	if out, err := try("ping", "-q", "-c1", "-W10", free); err != nil {
		t.Errorf("%s does not answer: %v\n%s", free, err, out)
	}
}

// everyFunction wants each program of functions to have been called, and the
// congestion control to be one that can be had.
func everyFunction(t *testing.T) {
	t.Helper()
	const counted = 9 // functions.bpf.c
	dump := run(t, "bpftool", "-j", "map", "dump", "pinned", pins+"functions/maps/calls")
	var calls []struct{ Formatted struct{ Value int } }
	if err := json.Unmarshal([]byte(dump), &calls); err != nil || len(calls) != counted {
		t.Errorf("%v: %d counters, want %d: %s", err, len(calls), counted, dump)
	}
	for i, c := range calls {
		if c.Formatted.Value == 0 {
			t.Errorf("program %d was never called", i)
		}
	}
	if have := read(t, "/proc/sys/net/ipv4/tcp_available_congestion_control"); !strings.Contains(have, "hornet_steady") {
		t.Errorf("congestion controls: %s", have)
	}
}
