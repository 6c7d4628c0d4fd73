package loader

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestResolve checks what is recorded of each kind of target.
func TestResolve(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Tracefs(t)
	p, cgroup, lib := testenv.Veth(t), testenv.Cgroup(t), libc(t)
	testenv.IP(t, p.B.Netns, "link", "add", "veth1.5", "type", "veth", "peer", "name", "veth2")
	testenv.IP(t, p.B.Netns, "link", "add", "veth1.4", "type", "veth", "peer", "name", "veth3")
	m := attachManifest(t, fmt.Sprintf(`
[[attach]]
program = "xdp_drop"
interface = "veth[01]*"
netns = %[1]q
[[attach]]
program = "tcx_any"
interface = "veth2"
direction = "egress"
netns = %[1]q
[[attach]]
program = "connect4"
cgroup = %[2]q
[[attach]]
program = "skb_any"
cgroup = %[2]q
direction = "egress"
[[attach]]
program = "redirect"
[[attach]]
program = "raw_exec"
[[attach]]
program = "raw_exec"
tracepoint = "sched_switch"
[[attach]]
program = "btf_exec"
[[attach]]
program = "tp_exec"
[[attach]]
program = "on_entry"
executable = %[3]q
symbol = "exit"
[[attach]]
program = "on_return"
executable = %[3]q
symbol = "exit"
offset = 4
[[attach]]
program = "on_entry"
executable = %[3]q
offset = 0x1000
[[attach]]
program = "nf_drop"
family = "ipv6"
hook = "output"
priority = -7
[[attach]]
program = "elements"
map = "walked"
[[attach]]
program = "msg_pass"
map = "sockets"
`, p.B.Netns, cgroup, lib))
	got, err := Resolve(attachSpec(t, "attach"), m, nil)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	ns, own := inode(t, p.B.Netns), inode(t, "/proc/thread-self/ns/net")
	exit := symbolsOf(t, lib)["exit"][0] + codeOf(t, lib)
	want := []Target{
		{Program: "xdp_drop", Kind: "xdp", AttachType: "xdp", Interface: "veth0", Ifindex: p.B.Ifindex, Netns: p.B.Netns, NetnsInode: ns, Mode: "auto"},
		{Program: "xdp_drop", Kind: "xdp", AttachType: "xdp", Interface: "veth1.4", Ifindex: indexOf(t, p.B.Netns, "veth1.4"), Netns: p.B.Netns, NetnsInode: ns, Mode: "auto"},
		{Program: "xdp_drop", Kind: "xdp", AttachType: "xdp", Interface: "veth1.5", Ifindex: indexOf(t, p.B.Netns, "veth1.5"), Netns: p.B.Netns, NetnsInode: ns, Mode: "auto"},
		{Program: "tcx_any", Kind: "tcx", AttachType: "tcx_egress", Interface: "veth2", Ifindex: indexOf(t, p.B.Netns, "veth2"), Netns: p.B.Netns, NetnsInode: ns, Position: "tail"},
		{Program: "connect4", Kind: "cgroup", AttachType: "cgroup_inet4_connect", Cgroup: cgroup, CgroupID: inode(t, cgroup)},
		{Program: "skb_any", Kind: "cgroup", AttachType: "cgroup_inet_egress", Cgroup: cgroup, CgroupID: inode(t, cgroup)},
		{Program: "redirect", Kind: "netns", AttachType: "sk_lookup", NetnsInode: own},
		{Program: "raw_exec", Kind: "raw_tracepoint", AttachType: "trace_raw_tp", Tracepoint: "sched_process_exec"},
		{Program: "raw_exec", Kind: "raw_tracepoint", AttachType: "trace_raw_tp", Tracepoint: "sched_switch"},
		{Program: "btf_exec", Kind: "raw_tracepoint", AttachType: "trace_raw_tp", Tracepoint: "sched_process_exec"},
		{Program: "tp_exec", Kind: "perf_event", AttachType: "tracepoint", Tracepoint: "sched/sched_process_exec"},
		{Program: "on_entry", Kind: "perf_event", AttachType: "uprobe", Executable: lib, Inode: inode(t, lib), Device: device(t, lib), Symbol: "exit", Offset: exit},
		{Program: "on_return", Kind: "perf_event", AttachType: "uretprobe", Executable: lib, Inode: inode(t, lib), Device: device(t, lib), Symbol: "exit+0x4", Offset: exit + 4},
		{Program: "on_entry", Kind: "perf_event", AttachType: "uprobe", Executable: lib, Inode: inode(t, lib), Device: device(t, lib), Offset: 0x1000},
		{Program: "nf_drop", Kind: "netfilter", AttachType: "netfilter", NetnsInode: own, Family: "ipv6", Hook: "output", Priority: -7},
		{Program: "elements", Kind: "iter", AttachType: "trace_iter", Map: "walked"},
		{Program: "msg_pass", Kind: "sockmap", AttachType: "sk_msg_verdict", Map: "sockets"},
	}
	pin := regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	seen := map[string]bool{}
	for i := range got {
		if !pin.MatchString(got[i].Link) || seen[got[i].Link] || !strings.HasPrefix(got[i].Link, got[i].Program) {
			t.Errorf("link name %q", got[i].Link)
		}
		seen[got[i].Link] = true
		got[i].Link = ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func indexOf(t testing.TB, ns, name string) (index int) {
	t.Helper()
	err := testenv.InNetns(t, ns, func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			index = i.Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// symbolsOf asks nm(1) for the dynamic functions of a file: the address of each
// version, that of the default version (@@) last.
func symbolsOf(t testing.TB, file string) map[string][]uint64 {
	t.Helper()
	out, err := exec.Command("nm", "-D", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]uint64{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[1] != "T" {
			continue
		}
		addr, err := strconv.ParseUint(f[0], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		name, version, _ := strings.Cut(f[2], "@")
		if strings.HasPrefix(version, "@") {
			all[name] = append(all[name], addr)
		} else {
			all[name] = append([]uint64{addr}, all[name]...)
		}
	}
	return all
}

// codeOf asks readelf(1) what to add to an address in the code to get where it
// is in the file.
func codeOf(t testing.TB, file string) (add uint64) {
	t.Helper()
	out, err := exec.Command("readelf", "-lW", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line) // LOAD offset vaddr paddr filesiz memsiz R E align
		if len(f) < 7 || f[0] != "LOAD" || !strings.Contains(line, " E ") {
			continue
		}
		off, err1 := strconv.ParseUint(f[1], 0, 64)
		vaddr, err2 := strconv.ParseUint(f[2], 0, 64)
		if err1 != nil || err2 != nil {
			t.Fatal(line)
		}
		return off - vaddr
	}
	t.Fatalf("readelf shows no code in %s", file)
	return 0
}

// TestSymbolVersion looks up every function of the C library that has several
// versions. The linker takes the one that nm(1) writes with @@.
func TestSymbolVersion(t *testing.T) {
	lib := libc(t)
	x, err := openExecutable(lib)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	different, add := 0, codeOf(t, lib)
	for name, addrs := range symbolsOf(t, lib) {
		last := addrs[len(addrs)-1]
		if last == addrs[0] {
			continue
		}
		different++
		if got, err := x.offset(name, 0); err != nil || got != last+add {
			t.Errorf("%s: %#x, %v; want %#x", name, got, err, last+add)
		}
	}
	if different == 0 {
		t.Error("no function has versions at different addresses")
	}
}

// TestAttachTypeNames compares the names with the kernel's own, from its BTF.
func TestAttachTypeNames(t *testing.T) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skipf("needs the kernel's BTF: %v", err)
	}
	var enum *btf.Enum
	if err := kernel.TypeByName("bpf_attach_type", &enum); err != nil {
		t.Fatal(err)
	}
	names := map[ebpf.AttachType]string{}
	for _, v := range enum.Values {
		names[ebpf.AttachType(v.Value)] = strings.ToLower(strings.TrimPrefix(v.Name, "BPF_"))
	}
	for typ, name := range attachTypes {
		if int(typ) >= len(enum.Values)-1 {
			continue // this kernel's list ends before
		}
		if names[typ] != name {
			t.Errorf("attach type %d is %q here and %q in the kernel", typ, name, names[typ])
		}
		if attachTypeOf(name) != typ {
			t.Errorf("%q becomes %d, not %d", name, attachTypeOf(name), typ)
		}
	}
}

func TestTargetName(t *testing.T) {
	tests := []struct {
		target Target
		want   string
	}{
		{Target{Program: "p", Kind: "xdp", AttachType: "xdp", Interface: "eth0"}, "p-eth0"},
		{Target{Program: "p", Kind: "xdp", AttachType: "xdp", Interface: "eth0", Netns: "/run/netns/blue"}, "p-blue-eth0"},
		{Target{Program: "p", Kind: "xdp", AttachType: "xdp", Interface: "eth0", Netns: "/proc/1/ns/net"}, "p-net-eth0-6730e11b"},
		{Target{Program: "p", Kind: "xdp", AttachType: "xdp", Interface: "eth0", Netns: "/proc/2/ns/net"}, "p-net-eth0-3244a9c7"},
		{Target{Program: "p", Kind: "xdp", AttachType: "xdp", Interface: "eth0.1"}, "p-eth0_1-423ce555"},
		{Target{Program: "p", Kind: "xdp", AttachType: "xdp", Interface: "eth0_1"}, "p-eth0_1"},
		{Target{Program: "p", Kind: "tcx", AttachType: "tcx_egress", Interface: "eth0"}, "p-eth0-egress"},
		{Target{Program: "p", Kind: "cgroup", AttachType: "cgroup_sysctl", Cgroup: "/sys/fs/cgroup/a/web"}, "p-web-b38500ff"},
		{Target{Program: "p", Kind: "netns", AttachType: "sk_lookup"}, "p"},
		{Target{Program: "p", Kind: "netfilter", AttachType: "netfilter", Family: "ipv4", Hook: "input", Priority: -3}, "p-ipv4-input--3"},
		{Target{Program: "p", Kind: "perf_event", AttachType: "tracepoint", Tracepoint: "sched/exec"}, "p-sched_exec-9a9fc1c2"},
		{Target{Program: "p", Kind: "iter", AttachType: "trace_iter", Map: "m"}, "p-m"},
		{Target{Program: "p", Kind: "tracing", AttachType: "trace_fentry", Function: "do_exit"}, "p-do_exit"},
		{Target{Program: "p", Kind: "tracing", AttachType: "freplace", Replaces: "q", Function: "f"}, "p-f"},
		{Target{Program: "p", Kind: "perf_event", AttachType: "kprobe", Function: "do_exit", Offset: 16}, "p-do_exit-0x10"},
		{Target{Kind: "struct_ops", AttachType: "struct_ops", Map: "m"}, "m"},
	}
	for _, tt := range tests {
		if got := tt.target.named().Link; got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.target, got, tt.want)
		}
	}
	long := Target{Program: strings.Repeat("p", 200), Kind: "netns"}.named().Link
	if len(long) != longestLink {
		t.Errorf("long name has %d bytes: %q", len(long), long)
	}
	// What separates the words must not make two targets one.
	a := Target{Program: "p", Netns: "/run/netns/a", Interface: "b-c"}.named().Link
	b := Target{Program: "p", Netns: "/run/netns/a-b", Interface: "c"}.named().Link
	if a == b {
		t.Errorf("two targets have the name %q", a)
	}
}

func TestResolveErrors(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Tracefs(t)
	ns, cgroup, lib := testenv.Netns(t), testenv.Cgroup(t), libc(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	root := testenv.CgroupRoot(t)
	replace := strings.NewReplacer("NS", ns, "CGROUP", cgroup, "LIBC", lib, "FIFO", fifo, "TEXT", text, "ROOT", root)

	// The first line of each is line 4 of the manifest.
	tests := map[string]struct{ toml, want, hint string }{
		"unknown program": {`program = "xdp_drp"`,
			`4: attach[0].program: there is no program "xdp_drp" in the object: did you mean "xdp_drop"`,
			"write the name of a function of the object that has a section of its own"},
		"key of another type": {"program = \"xdp_drop\"\ninterface = \"lo\"\ncgroup = \"web\"",
			`6: attach[0].cgroup: does not fit program "xdp_drop", which is in section "xdp"`,
			"remove it: the program takes interface, mode, netns"},
		"key of none": {"program = \"btf_exec\"\ntracepoint = \"sched_switch\"",
			`5: attach[0].tracepoint: does not fit program "btf_exec", which is in section "tp_btf/sched_process_exec"`,
			"remove it: the program takes no key"},
		"direction twice": {"program = \"tcx_in\"\ninterface = \"lo\"\ndirection = \"ingress\"",
			`6: attach[0].direction: does not fit program "tcx_in", which is in section "tcx/ingress"`,
			"remove it: the program takes interface, position, netns"},
		"no direction": {"program = \"tcx_any\"\ninterface = \"lo\"",
			`3: attach[0].direction: is missing: program "tcx_any" in section "tc" needs it`,
			`write direction = "ingress" or "egress"`},
		"no direction of a cgroup": {"program = \"skb_any\"\ncgroup = \"web\"",
			`3: attach[0].direction: is missing: program "skb_any" in section "cgroup/skb" needs it`,
			`write direction = "ingress" or "egress"`},
		"no interface": {`program = "xdp_drop"`,
			`3: attach[0].interface: is missing: program "xdp_drop" in section "xdp" needs it`,
			`write interface = "eth0", or a pattern such as "eth*"`},
		"missing interface": {"program = \"xdp_drop\"\nnetns = \"NS\"\ninterface = \"eth9\"",
			`6: attach[0].interface: there is no interface "eth9" in NS`,
			"name one that exists: lo"},
		"glob without match": {"program = \"xdp_drop\"\nnetns = \"NS\"\ninterface = \"eth*\"",
			`6: attach[0].interface: no interface in NS matches "eth*"`,
			"name one that exists: lo"},
		"offload": {"program = \"xdp_drop\"\ninterface = \"lo\"\nmode = \"offload\"",
			`6: attach[0].mode: is offload, which hornetd cannot do`,
			`write mode = "native"; the network card's processor is for programs that are loaded into it`},
		"missing netns": {"program = \"redirect\"\nnetns = \"/run/netns/hornet-none\"",
			`5: attach[0].netns: network namespace "/run/netns/hornet-none" does not exist`,
			"make it first (ip netns add NAME makes /run/netns/NAME)"},
		"netns is a FIFO": {"program = \"redirect\"\nnetns = \"FIFO\"",
			`5: attach[0].netns: "FIFO" is not a network namespace`,
			"name a file such as /run/netns/NAME or /proc/PID/ns/net"},
		"another namespace": {"program = \"redirect\"\nnetns = \"/proc/self/ns/mnt\"",
			`5: attach[0].netns: "/proc/self/ns/mnt" is not a network namespace`,
			"name a file such as /run/netns/NAME or /proc/PID/ns/net"},
		"same target": {"program = \"xdp_drop\"\ninterface = \"lo\"\nnetns = \"NS\"\n[[attach]]\nprogram = \"xdp_drop\"\ninterface = \"l*\"\nnetns = \"NS\"",
			`7: attach[1]: attaches xdp_drop to interface lo in NS, as attach[0] does already`,
			"remove one of the two"},
		"no cgroup": {`program = "connect4"`,
			`3: attach[0].cgroup: is missing: program "connect4" in section "cgroup/connect4" needs it`,
			`write cgroup = "system.slice", a path below the cgroup2 mount`},
		"missing cgroup": {"program = \"connect4\"\ncgroup = \"hornet-none\"",
			`5: attach[0].cgroup: there is no cgroup ROOT/hornet-none`,
			"make it first (systemd does when it starts the unit), or correct the path"},
		"cgroup of version 1": {"program = \"connect4\"\ncgroup = \"/proc/self\"",
			`5: attach[0].cgroup: /proc/self is not a cgroup of version 2`,
			"name a directory below a cgroup2 mount (findmnt -t cgroup2 shows them); programs do not attach to version 1"},
		"cgroup is a file": {"program = \"connect4\"\ncgroup = \"CGROUP/cgroup.procs\"",
			`5: attach[0].cgroup: CGROUP/cgroup.procs is not a cgroup of version 2`,
			"name a directory below a cgroup2 mount (findmnt -t cgroup2 shows them); programs do not attach to version 1"},
		"no tracepoint": {`program = "tp_any"`,
			`3: attach[0].tracepoint: is missing: neither the section of "tp_any" nor the manifest names one`,
			`write tracepoint = "sched/sched_process_exec"`},
		"no raw tracepoint": {`program = "raw_any"`,
			`3: attach[0].tracepoint: is missing: neither the section of "raw_any" nor the manifest names one`,
			`write tracepoint = "sched_process_exec", or SEC("raw_tp/sched_process_exec")`},
		"raw tracepoint with group": {"program = \"raw_any\"\ntracepoint = \"sched/sched_switch\"",
			`5: attach[0].tracepoint: a raw tracepoint has no group ("sched")`,
			`write "sched_switch"`},
		"tracepoint without group": {"program = \"tp_any\"\ntracepoint = \"sched_switch\"",
			`5: attach[0].tracepoint: "sched_switch" is not the name of a tracepoint`,
			"write GROUP/NAME, such as sched/sched_process_exec"},
		"missing tracepoint": {"program = \"tp_any\"\ntracepoint = \"sched/hornet\"",
			`5: attach[0].tracepoint: this kernel has no tracepoint sched/hornet`,
			"name one of those below /sys/kernel/tracing/events"},
		"no executable": {`program = "on_entry"`,
			`3: attach[0].executable: is missing: neither the section of "on_entry" nor the manifest names one`,
			`write executable = "/usr/bin/NAME", an absolute path`},
		"missing executable": {"program = \"on_entry\"\nexecutable = \"/usr/bin/hornet-none\"\nsymbol = \"main\"",
			`5: attach[0].executable: /usr/bin/hornet-none does not exist`,
			"name the program or the library that holds the function"},
		"executable is a FIFO": {"program = \"on_entry\"\nexecutable = \"FIFO\"\nsymbol = \"main\"",
			`5: attach[0].executable: FIFO is not a regular file`,
			"name the program or the library that holds the function"},
		"executable is a script": {"program = \"on_entry\"\nexecutable = \"TEXT\"\nsymbol = \"main\"",
			`6: attach[0].symbol: TEXT: not an ELF file`,
			"name a function that `nm TEXT` or `nm -D TEXT` shows; or give its offset in the file and no symbol"},
		"no symbol": {"program = \"on_entry\"\nexecutable = \"LIBC\"",
			`3: attach[0].symbol: is missing: neither the section of "on_entry" nor the manifest says what to probe`,
			`write symbol = "NAME" of a function, or offset = N in the file`},
		"missing symbol": {"program = \"on_entry\"\nexecutable = \"LIBC\"\nsymbol = \"hornet\"",
			`6: attach[0].symbol: LIBC: there is no function "hornet"`,
			"name a function that `nm LIBC` or `nm -D LIBC` shows; or give its offset in the file and no symbol"},
		"data symbol": {"program = \"on_entry\"\nexecutable = \"LIBC\"\nsymbol = \"stdout\"",
			`6: attach[0].symbol: LIBC: "stdout" is no function`,
			"name a function that `nm LIBC` or `nm -D LIBC` shows; or give its offset in the file and no symbol"},
		"symbol of the section": {`program = "on_section"`,
			`3: attach[0].symbol: /bin/sh: there is no function "main"`,
			"name a function that `nm /bin/sh` or `nm -D /bin/sh` shows; or give its offset in the file and no symbol"},
		"no hook": {"program = \"nf_drop\"\nfamily = \"ipv4\"",
			`3: attach[0].hook: is missing: program "nf_drop" in section "netfilter" needs it`,
			`write hook = "prerouting", "input", "forward", "output" or "postrouting"`},
		"priority": {"program = \"nf_drop\"\nfamily = \"ipv4\"\nhook = \"input\"\npriority = 2147483647",
			`7: attach[0].priority: 2147483647 is kept by the kernel for itself`,
			"write a number in between; 0 is that of the filter tables"},
		"defrag": {"program = \"nf_drop\"\nfamily = \"ipv4\"\nhook = \"input\"\npriority = -400\ndefrag = true",
			`7: attach[0].priority: -400 comes before the kernel puts fragments together, and defrag wants them whole`,
			"write one above -400, or remove defrag"},
		"no map": {`program = "elements"`,
			`3: attach[0].map: is missing: program "elements" in section "iter/bpf_map_elem" needs it`,
			`write map = "NAME" of a map of the object`},
		"map of an iterator without": {"program = \"tasks\"\nmap = \"walked\"",
			`5: attach[0].map: does not fit program "tasks", which is in section "iter/task"`,
			"remove it: the program takes no key"},
		"missing map": {"program = \"elements\"\nmap = \"walkd\"",
			`5: attach[0].map: there is no map "walkd" in the object: did you mean "walked"`,
			`write map = "NAME" of a map of the object`},
		"a caller's kernel": {"program = \"btf_exec\"\ntarget = \"caller\"",
			`5: attach[0].target: does not fit program "btf_exec", which is in section "tp_btf/sched_process_exec"`,
			"remove it: a caller shows a cgroup, a network namespace or a process, for programs that attach to one"},
		"a caller's without interface": {"program = \"xdp_drop\"\ntarget = \"caller\"",
			`3: attach[0].interface: is missing: program "xdp_drop" in section "xdp" needs it`,
			`write interface = "eth0", or a pattern such as "eth*"`},
		"map without sockets": {"program = \"msg_pass\"\nmap = \"walked\"",
			`5: attach[0].map: "walked" is a map of type Array, which holds no sockets`,
			"name a map of type sockmap or sockhash"},
	}
	spec := attachSpec(t, "attach")
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Resolve(spec, attachManifest(t, "[[attach]]\n"+replace.Replace(tt.toml)+"\n"), nil)
			if err == nil {
				t.Fatalf("resolved to %+v", got)
			}
			want := "/etc/hornet.d/demo.toml:" + replace.Replace(tt.want)
			if err.Error() != want || remedy.Of(err) != replace.Replace(tt.hint) {
				t.Errorf("error %q\n want %q\nremedy %q\n  want %q", err, want, remedy.Of(err), replace.Replace(tt.hint))
			}
		})
	}
}

// TestHookRefused has a program for every section that cannot be attached.
func TestHookRefused(t *testing.T) {
	const notYet = "remove this [[attach]], or use one of the types that loader/README.md lists"
	tests := map[string]struct{ want, hint string }{
		"socket_filter":  {"is a socket filter: the kernel has no link for it, it lives and dies with one socket", `use a cgroup hook such as SEC("cgroup_skb/ingress")`},
		"reuseport":      {"chooses between the sockets of one port: the kernel has no link for it, it lives and dies with them", `use SEC("sk_lookup")`},
		"tc_action":      {"is a tc action: the kernel has no link for it, it belongs to a qdisc", `write SEC("tcx/ingress") or SEC("tcx/egress")`},
		"lwt":            {"is a lightweight tunnel: the kernel has no link for it, it belongs to a route", `attach it with ip route, or use SEC("tcx/egress")`},
		"lirc":           {"decodes infrared: the kernel has no link for it", "load it with ir-keytable"},
		"on_request":     {"is run on request, not attached", "remove this [[attach]]: [[test]] runs it"},
		"in_devmap":      {"is called from a devmap or cpumap, not attached", `put its descriptor in an entry of the map; to attach it, write SEC("xdp")`},
		"in_cpumap":      {"is called from a devmap or cpumap, not attached", `put its descriptor in an entry of the map; to attach it, write SEC("xdp")`},
		"skb_unclear":    {`is in section "sk_skb", which does not say what it decides`, `write SEC("sk_skb/stream_parser"), SEC("sk_skb/stream_verdict") or SEC("sk_skb/verdict")`},
		"unclear":        {`is in section "my_section", which says no program type`, `write one of the sections that loader/README.md lists, such as SEC("xdp")`},
		"netkit":         {"is for netkit, which hornetd does not attach yet", notYet},
		"struct_ops":     {"is one function of a struct_ops map, which is attached as a whole", `write map = "NAME" of the variable in SEC(".struct_ops.link"), and no program`},
		"uprobe_session": {"is for uprobe.session, which hornetd does not attach yet", notYet},
		"fsession":       {"is for fsession, which hornetd does not attach yet", notYet},
		"usdt":           {"is for usdt, which hornetd does not attach yet", notYet},
		"lsm_cgroup":     {"is for lsm_cgroup, which hornetd does not attach yet", notYet},
		"on_perf_event":  {"is for perf_event, which hornetd does not attach yet", notYet},
	}
	spec := attachSpec(t, "attach_refused")
	if len(spec.Programs) != len(tests) {
		t.Errorf("%d programs, %d tests", len(spec.Programs), len(tests))
	}
	for name, tt := range tests {
		_, err := Resolve(spec, attachManifest(t, fmt.Sprintf("[[attach]]\nprogram = %q\n", name)), nil)
		want := fmt.Sprintf("/etc/hornet.d/demo.toml:4: attach[0].program: %q %s", name, tt.want)
		if err == nil || err.Error() != want || remedy.Of(err) != tt.hint {
			t.Errorf("%s: error %v\n want %s\nremedy %q, want %q", name, err, want, remedy.Of(err), tt.hint)
		}
	}
}

// TestResolveWithout runs itself in a mount namespace without tracefs, debugfs
// and cgroup2.
func TestResolveWithout(t *testing.T) {
	testenv.RequireRoot(t)
	if os.Getenv("HORNETD_NO_MOUNTS") == "" {
		cmd := exec.CommandContext(context.Background(), "/proc/self/exe", "-test.run=^TestResolveWithout$", "-test.v")
		cmd.Env = append(os.Environ(), "HORNETD_NO_MOUNTS=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestResolveWithout")) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	for _, fstype := range []string{"tracefs", "debugfs", "cgroup2"} {
		for {
			mounts, err := mountPoints(fstype)
			if err != nil {
				t.Fatal(err)
			}
			if len(mounts) == 0 {
				break
			}
			if err := unix.Unmount(mounts[len(mounts)-1], unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]struct{ want, hint string }{
		"program = \"tp_exec\"": {"3: attach[0].tracepoint: tracefs is not mounted, and only it tells the number of a tracepoint",
			`mount it: mount -t tracefs tracefs /sys/kernel/tracing; or use SEC("raw_tp/NAME"), which does not need it`},
		"program = \"connect4\"\ncgroup = \"web\"": {"5: attach[0].cgroup: cgroup2 is not mounted",
			"mount it: mount -t cgroup2 none /sys/fs/cgroup/unified (systemd does so by itself)"},
	}
	for toml, tt := range tests {
		_, err := Resolve(attachSpec(t, "attach"), attachManifest(t, "[[attach]]\n"+toml+"\n"), nil)
		if want := "/etc/hornet.d/demo.toml:" + tt.want; err == nil || err.Error() != want || remedy.Of(err) != tt.hint {
			t.Errorf("error %v, want %s; remedy %q, want %q", err, want, remedy.Of(err), tt.hint)
		}
	}
}

// TestInterfaceAltname uses a name that only the kernel resolves.
func TestInterfaceAltname(t *testing.T) {
	testenv.RequireRoot(t)
	p := testenv.Veth(t)
	testenv.IP(t, p.B.Netns, "link", "property", "add", "dev", "veth0", "altname", "uplink")
	ns, err := openNetns(p.B.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.close()
	got, err := interfaces(ns, "uplink")
	if err != nil || len(got) != 1 || got[0].Index != p.B.Ifindex {
		t.Errorf("found %+v, %v; want number %d", got, err, p.B.Ifindex)
	}
}

// TestNetnsReturns checks that the process stays where it is.
func TestNetnsReturns(t *testing.T) {
	path := testenv.Netns(t)
	home := inode(t, "/proc/self/ns/net")
	for range 50 {
		ns, err := openNetns(path)
		if err != nil {
			t.Fatal(err)
		}
		var inside uint64
		if err := ns.do(func() error { inside = inode(t, "/proc/thread-self/ns/net"); return nil }); err != nil {
			t.Fatal(err)
		}
		if inside != ns.inode || inside == home {
			t.Fatalf("inside %d, want %d", inside, ns.inode)
		}
		ns.close()
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, task := range tasks {
		if got := inode(t, task); got != home {
			t.Errorf("%s is in %d, the process in %d", task, got, home)
		}
	}
}

func TestFindMounts(t *testing.T) {
	const mountinfo = `22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
38 31 0:31 /system.slice /srv/part rw,relatime - cgroup2 cgroup2 rw
38 31 0:31 / /sys/fs/cgroup/unified rw,relatime shared:10 master:2 - cgroup2 none rw
39 31 0:31 / /srv/my\040mount\134x rw - cgroup2 none rw
short
40 31 0:31 / /x rw cgroup2
`
	want := []string{"/sys/fs/cgroup/unified", `/srv/my mount\x`}
	if diff := cmp.Diff(want, findMounts(mountinfo, "cgroup2")); diff != "" {
		t.Error(diff)
	}
}

func FuzzFindMounts(f *testing.F) {
	f.Add("38 31 0:31 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 none rw\n")
	f.Add(" - cgroup2 ")
	f.Fuzz(func(t *testing.T, s string) { findMounts(s, "cgroup2") })
}

// smallELF is a program of one segment and one function, "f", 16 bytes long, at
// address 0x2010 and offset 0x110 in the file.
func smallELF(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
		Type:  uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: 64, Shoff: 120, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64, Shnum: 3,
	})
	put(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: 0x100, Vaddr: 0x2000, Filesz: 0x100, Memsz: 0x100})
	put(elf.Section64{})
	put(elf.Section64{Type: uint32(elf.SHT_SYMTAB), Off: 312, Size: 48, Link: 2, Entsize: 24})
	put(elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: 360, Size: 3})
	put(elf.Sym64{})
	put(elf.Sym64{Name: 1, Info: byte(elf.STT_FUNC), Shndx: 1, Value: 0x2010, Size: 16})
	b.WriteString("\x00f\x00")
	return b.Bytes()
}

// manySymbols is smallELF with count functions of one name.
func manySymbols(t testing.TB, name string, count int) []byte {
	t.Helper()
	b := smallELF(t)
	symbol := bytes.Clone(b[336:360])
	const table, names = 184, 248 // section headers, in which the size is at 32 and the offset at 24
	binary.LittleEndian.PutUint64(b[table+32:], uint64(24*count))
	binary.LittleEndian.PutUint64(b[names+24:], uint64(312+24*count))
	binary.LittleEndian.PutUint64(b[names+32:], uint64(len(name)+2))
	return slices.Concat(b[:312], bytes.Repeat(symbol, count), []byte("\x00"+name+"\x00"))
}

func TestSymbolOffset(t *testing.T) {
	b := smallELF(t)
	patch := func(at int, v byte) []byte {
		c := bytes.Clone(b)
		c[at] = v
		return c
	}
	tests := map[string]struct {
		file   []byte
		symbol string
		more   uint64
		want   uint64
		err    string
	}{
		"start":            {b, "f", 0, 0x110, ""},
		"behind it":        {b, "f", 15, 0x11f, ""},
		"too far behind":   {b, "f", 16, 0, `"f" is 16 bytes long, offset 16 is outside`},
		"no such function": {b, "g", 0, 0, `there is no function "g"`},
		"prefix":           {b, "", 0, 0, `there is no function ""`},
		"not executable":   {patch(68, byte(elf.PF_R)), "f", 0, 0, `"f" is in no executable segment`},
		"names outside":    {patch(312-64+24, 0xff), "f", 0, 0, `section "" is not within the file`},
		"no names":         {patch(184+40, 9), "f", 0, 0, "the symbols have no names"},
		"compressed":       {patch(184+9, 8), "f", 0, 0, `section "" is compressed or empty`},
		"huge":             {patch(184+32+5, 1), "f", 0, 0, `section "" is larger than 128 MiB`},
		"object file":      {patch(16, byte(elf.ET_REL)), "f", 0, 0, "not a 64-bit program or library"},
		"data":             {patch(336+4, byte(elf.STT_OBJECT)), "f", 0, 0, `"f" is no function`},
		"indirect":         {patch(336+4, byte(elf.STT_GNU_IFUNC)), "f", 0, 0, `"f" is an indirect function: what it calls is chosen when a program starts`},
		"undefined":        {patch(336+6, 0), "f", 0, 0, `there is no function "f"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := symbolOffset(bytes.NewReader(tt.file), int64(len(tt.file)), tt.symbol, tt.more)
			if got != tt.want || err == nil && tt.err != "" || err != nil && err.Error() != tt.err {
				t.Errorf("%#x, %v; want %#x, %s", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzSymbolOffset(f *testing.F) {
	f.Add(smallELF(f), "f", uint64(3))
	f.Add([]byte("\x7fELF\x02\x01\x01"), "", uint64(0))
	f.Add(smallELF(f), "?*", uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, symbol string, more uint64) {
		symbolOffset(bytes.NewReader(b), int64(len(b)), symbol, more)
		symbolOffsets(bytes.NewReader(b), int64(len(b)), []string{symbol})
	})
}

func FuzzAttr(f *testing.F) {
	f.Add([]byte{12, 0, 43, 0x80, 8, 0, 4, 0, 1, 2, 3, 4})
	f.Add([]byte{1, 0, 43, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		attrUint32(attr(b, unix.IFLA_XDP), unix.IFLA_XDP_PROG_ID)
	})
}
