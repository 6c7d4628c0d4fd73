package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// attempt resolves and attaches; between runs in the middle. The links are
// closed with the test.
func attempt(t testing.TB, toml string, between func()) error {
	t.Helper()
	spec, m := attachSpec(t, "attach"), attachManifest(t, toml)
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	coll := attachLoad(t, spec, m, 0)
	if between != nil {
		between()
	}
	links, err := Attach(coll.Collection, targets)
	t.Cleanup(func() { links.Close() })
	if err != nil && links != nil {
		t.Errorf("links %v beside an error", links)
	}
	return err
}

func refused(t testing.TB, err error, want, hint string) {
	t.Helper()
	if err == nil || err.Error() != want || remedy.Of(err) != hint {
		t.Errorf("error %v\n want %s\nremedy %q\n  want %q", err, want, remedy.Of(err), hint)
	}
}

func TestAttachTaken(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	in := func(format string, args ...any) string {
		return fmt.Sprintf("[[attach]]\n"+format+"\nnetns = %q\n", append(args, p.B.Netns)...)
	}
	first := func(t *testing.T, toml string) running {
		t.Helper()
		return pinned(t, toml, 0)
	}
	t.Run("xdp", func(t *testing.T) {
		for _, mode := range []string{"generic", "native"} {
			r := first(t, in("program = \"xdp_pass\"\ninterface = \"veth0\"\nmode = %q", mode))
			l, err := link.LoadPinnedLink(r.pin(r.targets[0].Link), nil)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Describe(l)
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			errno := map[string]string{"native": "device or resource busy", "generic": "file exists"}[mode]
			refused(t, attempt(t, in(`program = "xdp_drop"`+"\ninterface = \"veth0\""), nil),
				fmt.Sprintf("attach xdp_drop to interface veth0 in %s: program %d runs there already, and an interface has one XDP program: %s", p.B.Netns, s.ProgramID, errno),
				"find who attached it (bpftool net show, bpftool link show) and detach it, or ip link set dev veth0 xdp off")
			r.unpin(t)
			stops(t, "xdp_pass", func() bool { return xdpMode(t, p.B) != "" })
		}
	})
	t.Run("netfilter", func(t *testing.T) {
		first(t, in(`program = "nf_accept"`+"\nfamily = \"ipv4\"\nhook = \"input\"\npriority = 9"))
		refused(t, attempt(t, in(`program = "nf_drop"`+"\nfamily = \"ipv4\"\nhook = \"input\"\npriority = 9"), nil),
			fmt.Sprintf("attach nf_drop to netfilter ipv4 input priority 9 in %s: another program has this hook and priority, and there can be one: device or resource busy", p.B.Netns),
			"write another priority")
	})
	t.Run("flow dissector", func(t *testing.T) {
		first(t, in(`program = "dissect"`))
		refused(t, attempt(t, in(`program = "dissect"`), nil),
			fmt.Sprintf("attach dissect to network namespace in %s: the namespace has as many programs of this type as the kernel takes: argument list too long", p.B.Netns),
			"detach the other one (bpftool link show)")
	})
	t.Run("sockmap", func(t *testing.T) {
		refused(t, attempt(t, "[[attach]]\nprogram = \"stream_verdict\"\nmap = \"sockets\"\n[[attach]]\nprogram = \"skb_verdict\"\nmap = \"sockets\"\n", nil),
			`attach skb_verdict to map sockets: map "sockets" has a program of this type: device or resource busy`,
			"attach one program of a type to a map")
	})
	t.Run("cgroup", func(t *testing.T) {
		dir := testenv.Cgroup(t)
		for range 64 {
			l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInetIngress, Program: plain(t, ebpf.CGroupSKB, 0)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}
		refused(t, attempt(t, fmt.Sprintf("[[attach]]\nprogram = \"skb_ingress\"\ncgroup = %q\n", dir), nil),
			fmt.Sprintf("attach skb_ingress to cgroup %s: as many programs as the kernel takes are attached already: argument list too long", dir),
			"detach some (bpftool cgroup show)")
	})
	t.Run("exclusive cgroup", func(t *testing.T) {
		dir := testenv.Cgroup(t)
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		// Without a link and without BPF_F_ALLOW_MULTI, as old managers do.
		opts := link.RawAttachProgramOptions{Target: int(f.Fd()), Program: plain(t, ebpf.CGroupSKB, 0), Attach: ebpf.AttachCGroupInetIngress}
		if err := link.RawAttachProgram(opts); err != nil {
			t.Fatal(err)
		}
		refused(t, attempt(t, fmt.Sprintf("[[attach]]\nprogram = \"skb_ingress\"\ncgroup = %q\n", dir), nil),
			fmt.Sprintf("attach skb_ingress to cgroup %s: a program that allows no other beside it is attached here or above: operation not permitted", dir),
			"find it with bpftool cgroup tree and detach it; if there is none, run hornetd with CAP_NET_ADMIN")
	})
}

// plain loads a program that returns 1.
func plain(t testing.TB, typ ebpf.ProgramType, at ebpf.AttachType) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: typ, AttachType: at, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestAttachUnfit(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	ns, lib := testenv.Netns(t), libc(t)
	info, err := os.Stat(lib)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ toml, want, hint string }{
		"raw tracepoint": {`program = "raw_missing"`,
			"attach raw_missing to tracepoint no_such_tracepoint: this kernel has no tracepoint no_such_tracepoint",
			"name one of those in /sys/kernel/tracing/available_events, without its group; a module's need the module loaded"},
		"raw arguments": {`program = "raw_wide"`,
			"attach raw_wide to tracepoint sched_process_exec: the program reads more arguments than the tracepoint has: invalid argument",
			"compare it with the tracepoint's TP_PROTO"},
		"tracepoint fields": {`program = "tp_wide"`,
			"attach tp_wide to tracepoint sched/sched_process_exec: the program reads more of its context than the tracepoint has: permission denied",
			"compare it with the tracepoint's format file in tracefs"},
		"offset": {fmt.Sprintf("program = \"on_entry\"\nexecutable = %q\noffset = %d", lib, info.Size()+1),
			fmt.Sprintf("attach on_entry to %s:%#x: perf event: invalid argument", lib, info.Size()+1),
			"correct the offset: it must be that of an instruction"},
		"small map": {"program = \"elements\"\nmap = \"narrow\"",
			`attach elements to map narrow: the program reads or writes more than a key or a value of map "narrow" has: permission denied`,
			"compare the sizes in the program with the map's"},
		"map type": {"program = \"elements\"\nmap = \"sockets\"",
			`attach elements to map sockets: map "sockets" is of a type that this iterator does not walk: invalid argument`,
			"name a map of a type that it takes"},
		"native": {fmt.Sprintf("program = \"xdp_pass\"\ninterface = \"lo\"\nmode = \"native\"\nnetns = %q", ns),
			fmt.Sprintf("attach xdp_pass to interface lo in %s: native mode: operation not supported", ns),
			`write mode = "auto" or "generic": the driver has no XDP, or not for this program`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(tt.toml, "elements") {
				testenv.RequireMapIterators(t)
			}
			refused(t, attempt(t, "[[attach]]\n"+tt.toml+"\n", nil), tt.want, tt.hint)
		})
	}
}

// TestAttachChanged changes what was looked up before it is attached to.
func TestAttachChanged(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	t.Run("interface", func(t *testing.T) {
		for _, program := range []string{"xdp_pass", "tcx_in"} {
			testenv.IP(t, p.B.Netns, "link", "add", "x", "type", "veth", "peer", "name", "y")
			err := attempt(t, fmt.Sprintf("[[attach]]\nprogram = %q\ninterface = \"x\"\nnetns = %q\n", program, p.B.Netns), func() {
				testenv.IP(t, p.B.Netns, "link", "del", "x")
				testenv.IP(t, p.B.Netns, "link", "add", "x", "type", "veth", "peer", "name", "y")
			})
			if err == nil || !strings.HasSuffix(err.Error(), ": the interface was replaced after it had been looked up") || remedy.Of(err) != "load again" {
				t.Errorf("%v (%s)", err, remedy.Of(err))
			}
			testenv.IP(t, p.B.Netns, "link", "del", "x")
		}
	})
	t.Run("namespace", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "ns")
		if err := os.Symlink(p.A.Netns, link); err != nil {
			t.Fatal(err)
		}
		refused(t, attempt(t, fmt.Sprintf("[[attach]]\nprogram = \"redirect\"\nnetns = %q\n", link), func() {
			os.Remove(link)
			if err := os.Symlink(p.B.Netns, link); err != nil {
				t.Fatal(err)
			}
		}), fmt.Sprintf("attach redirect to network namespace in %s: the network namespace was replaced after it had been looked up", link), "load again")
	})
	t.Run("cgroup", func(t *testing.T) {
		dir := filepath.Join(testenv.Cgroup(t), "web")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		refused(t, attempt(t, fmt.Sprintf("[[attach]]\nprogram = \"connect4\"\ncgroup = %q\n", dir), func() {
			os.Remove(dir)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}), fmt.Sprintf("attach connect4 to cgroup %s: the cgroup was replaced after it had been looked up", dir), "load again")
	})
	t.Run("executable", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "exe")
		write := func(name string) {
			b, err := os.ReadFile("/bin/true")
			if err == nil {
				err = os.WriteFile(name, b, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		write(file)
		refused(t, attempt(t, fmt.Sprintf("[[attach]]\nprogram = \"on_entry\"\nexecutable = %q\noffset = 0x2000\n", file), func() {
			write(file + "2")
			if err := os.Rename(file+"2", file); err != nil {
				t.Fatal(err)
			}
		}), fmt.Sprintf("attach on_entry to %s:0x2000: %s was replaced after it had been looked up", file, file), "load again")
	})
}

// TestAttachEqualNumber: a file of another file system, whose inode has the same number, is
// another file.
func TestAttachEqualNumber(t *testing.T) {
	testenv.NoLeaks(t)
	link := filepath.Join(t.TempDir(), "exe")
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for range 2 {
		dir := t.TempDir()
		if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		files = append(files, filepath.Join(dir, "exe"))
		if err := os.WriteFile(files[len(files)-1], program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if inode(t, files[0]) != inode(t, files[1]) {
		t.Fatal("the files have different numbers")
	}
	if err := os.Symlink(files[0], link); err != nil {
		t.Fatal(err)
	}
	refused(t, attempt(t, fmt.Sprintf("[[attach]]\nprogram = \"on_entry\"\nexecutable = %q\noffset = 0x2000\n", link), func() {
		if err := errors.Join(os.Remove(link), os.Symlink(files[1], link)); err != nil {
			t.Fatal(err)
		}
	}), fmt.Sprintf("attach on_entry to %s:0x2000: %s was replaced after it had been looked up", link, link), "load again")
}

// TestAttachRollback has a second target that fails: the first must not run.
func TestAttachRollback(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	err := attempt(t, fmt.Sprintf("[[attach]]\nprogram = \"xdp_drop\"\ninterface = \"veth0\"\nnetns = %q\n[[attach]]\nprogram = \"raw_missing\"\n", p.B.Netns), nil)
	if err == nil {
		t.Fatal("attached")
	}
	if mode := xdpMode(t, p.B); mode != "" {
		t.Errorf("an XDP program runs in %s mode", mode)
	}
	if got := p.Send(t, 2); got != 2 {
		t.Errorf("%d of 2 datagrams arrived", got)
	}
}

func TestAttachUnknown(t *testing.T) {
	coll := &ebpf.Collection{Programs: map[string]*ebpf.Program{"p": {}}}
	_, err := Attach(coll, []Target{{Link: "q", Program: "q", Kind: "xdp", Interface: "eth0"}})
	refused(t, err, "attach q to interface eth0: the collection has no such program", "")
	_, err = Attach(coll, []Target{{Link: "p", Program: "p", Kind: "netkit"}})
	refused(t, err, `attach p to netkit: links of kind "netkit" are not known`, "")
	_, err = Attach(coll, []Target{{Link: "ops", Kind: "struct_ops", Map: "ops"}})
	refused(t, err, `attach struct_ops ops: the collection has no map "ops"`, "")
}
