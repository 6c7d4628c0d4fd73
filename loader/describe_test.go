package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// matches opens the only pin and compares it with a target.
func (r running) matches(t testing.TB, tt Target) error {
	t.Helper()
	l, err := link.LoadPinnedLink(r.pin(r.targets[0].Link), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Describe(l)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Matches(tt)
	if err != nil {
		err = errors.New(strings.Replace(err.Error(), fmt.Sprintf("link %d", s.ID), "link N", 1))
	}
	return err
}

func expect(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// TestMatchesTarget changes one thing at a time in what was recorded.
func TestMatchesTarget(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	p, cgroup, lib := testenv.Veth(t), testenv.Cgroup(t), libc(t)
	tests := map[string]struct {
		toml   string
		change func(*Target)
		want   string
	}{
		"kind":        {`program = "raw_exec"`, func(t *Target) { t.Kind = "xdp" }, "link N is of kind raw_tracepoint, not xdp"},
		"attach type": {fmt.Sprintf("program = \"connect4\"\ncgroup = %q", cgroup), func(t *Target) { t.AttachType = "cgroup_inet6_connect" }, "link N has attach type cgroup_inet4_connect, not cgroup_inet6_connect"},
		"cgroup":      {fmt.Sprintf("program = \"connect4\"\ncgroup = %q", cgroup), func(t *Target) { t.CgroupID++ }, fmt.Sprintf("link N is at cgroup %d, but %s is %d now", inode(t, cgroup), cgroup, inode(t, cgroup))},
		"ifindex":     {fmt.Sprintf("program = \"xdp_pass\"\ninterface = \"veth0\"\nnetns = %q", p.B.Netns), func(t *Target) { t.Ifindex++ }, fmt.Sprintf("link N is at interface number %d, not %d (veth0)", p.B.Ifindex, p.B.Ifindex+1)},
		"direction":   {fmt.Sprintf("program = \"tcx_in\"\ninterface = \"veth0\"\nnetns = %q", p.B.Netns), func(t *Target) { t.AttachType = "tcx_egress" }, "link N has attach type tcx_ingress, not tcx_egress"},
		"namespace":   {fmt.Sprintf("program = \"xdp_pass\"\ninterface = \"veth0\"\nnetns = %q", p.B.Netns), func(t *Target) { t.NetnsInode++ }, fmt.Sprintf("link N is in network namespace %d, but %s is %d now", inode(t, p.B.Netns)+1, p.B.Netns, inode(t, p.B.Netns))},
		"sk_lookup":   {fmt.Sprintf("program = \"redirect\"\nnetns = %q", p.B.Netns), func(t *Target) { t.NetnsInode++ }, fmt.Sprintf("link N is in network namespace %d, but %s is %d now", inode(t, p.B.Netns), p.B.Netns, inode(t, p.B.Netns))},
		"priority":    {fmt.Sprintf("program = \"nf_accept\"\nfamily = \"ipv6\"\nhook = \"output\"\npriority = 5\nnetns = %q", p.B.Netns), func(t *Target) { t.Priority = 6 }, "link N is at ipv6 output priority 5 (defrag false), not at ipv6 output priority 6 (defrag false)"},
		"hook":        {fmt.Sprintf("program = \"nf_accept\"\nfamily = \"ipv4\"\nhook = \"forward\"\ndefrag = true\nnetns = %q", p.B.Netns), func(t *Target) { t.Hook = "input" }, "link N is at ipv4 forward priority 0 (defrag true), not at ipv4 input priority 0 (defrag true)"},
		"defrag":      {fmt.Sprintf("program = \"nf_accept\"\nfamily = \"ipv4\"\nhook = \"forward\"\ndefrag = true\nnetns = %q", p.B.Netns), func(t *Target) { t.Defrag = false }, "link N is at ipv4 forward priority 0 (defrag true), not at ipv4 forward priority 0 (defrag false)"},
		"raw":         {`program = "raw_exec"`, func(t *Target) { t.Tracepoint = "sched_switch" }, "link N is at tracepoint sched_process_exec, not sched_switch"},
		"tracepoint":  {`program = "tp_exec"`, func(t *Target) { t.Tracepoint = "sched/sched_switch" }, "link N is at tracepoint sched_process_exec, not sched/sched_switch"},
		"executable":  {fmt.Sprintf("program = \"on_entry\"\nexecutable = %q\noffset = 0x30000", lib), func(t *Target) { t.Executable = "/bin/sh" }, fmt.Sprintf("link N is at %s:0x30000, not at /bin/sh:0x30000", lib)},
		"offset":      {fmt.Sprintf("program = \"on_return\"\nexecutable = %q\noffset = 0x30000", lib), func(t *Target) { t.Offset++ }, fmt.Sprintf("link N is at %s:0x30000, not at %s:0x30001", lib, lib)},
		"probe":       {fmt.Sprintf("program = \"on_return\"\nexecutable = %q\noffset = 0x30000", lib), func(t *Target) { t.AttachType = "uprobe" }, "link N has attach type uretprobe, not uprobe"},
		"iterator":    {`program = "tasks"`, func(t *Target) { t.AttachType = "trace_raw_tp" }, "link N has attach type trace_iter, not trace_raw_tp"},
		"sockmap":     {"program = \"msg_pass\"\nmap = \"sockets\"", func(t *Target) { t.AttachType = "sk_skb_verdict" }, "link N has attach type sk_msg_verdict, not sk_skb_verdict"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := pinned(t, "[[attach]]\n"+tt.toml+"\n", 0)
			changed := r.targets[0]
			if changed.Kind == "perf_event" { // else it does not say what it is attached to
				testenv.RequireEnum(t, "bpf_perf_event_type", "BPF_PERF_EVENT_UPROBE")
			}
			if err := r.matches(t, changed); err != nil {
				t.Errorf("unchanged: %v", err)
			}
			tt.change(&changed)
			expect(t, r.matches(t, changed), tt.want)
		})
	}
}

// TestMatchesOwn has a daemon that was started in another network namespace.
func TestMatchesOwn(t *testing.T) {
	own := inode(t, "/proc/thread-self/ns/net")
	s := LinkState{ID: 3, Kind: "netns", AttachType: "sk_lookup", NetnsInode: 7}
	expect(t, s.Matches(Target{Kind: "netns", AttachType: "sk_lookup", NetnsInode: 7}),
		fmt.Sprintf("link 3 is in network namespace 7, but hornetd's own is %d now", own))
}

// TestMatchesHost changes the host instead.
func TestMatchesHost(t *testing.T) {
	testenv.NoLeaks(t)
	for _, program := range []string{"xdp_pass", "tcx_in"} {
		t.Run("renamed interface, "+program, func(t *testing.T) {
			p := testenv.Veth(t)
			r := pinned(t, fmt.Sprintf("[[attach]]\nprogram = %q\ninterface = \"veth0\"\nnetns = %q\n", program, p.B.Netns), 0)
			testenv.IP(t, p.B.Netns, "link", "set", "veth0", "down")
			testenv.IP(t, p.B.Netns, "link", "set", "veth0", "name", "old")
			expect(t, r.matches(t, r.targets[0]), "link N: no interface is called veth0 now")
			testenv.IP(t, p.B.Netns, "link", "add", "veth0", "type", "veth", "peer", "name", "other")
			now := indexOf(t, p.B.Netns, "veth0")
			expect(t, r.matches(t, r.targets[0]), fmt.Sprintf("link N is at interface number %d, but veth0 is number %d now", p.B.Ifindex, now))
			testenv.IP(t, p.B.Netns, "link", "del", "old")
			expect(t, r.matches(t, r.targets[0]), "link N: interface veth0 is gone")
		})
	}
	t.Run("namespace", func(t *testing.T) {
		ns := testenv.Netns(t)
		r := pinned(t, fmt.Sprintf("[[attach]]\nprogram = \"redirect\"\nnetns = %q\n", ns), 0)
		if err := unix.Unmount(ns, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		// Something for the end of the test to unmount.
		if err := unix.Mount("/proc/self/ns/net", ns, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		stops(t, "the namespace", func() bool {
			err := r.matches(t, r.targets[0])
			return err == nil || err.Error() != "link N: its network namespace is gone"
		})
	})
	t.Run("cgroup", func(t *testing.T) {
		dir := filepath.Join(testenv.Cgroup(t), "web")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		r := pinned(t, fmt.Sprintf("[[attach]]\nprogram = \"connect4\"\ncgroup = %q\n", dir), 0)
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		stops(t, "the cgroup", func() bool {
			err := r.matches(t, r.targets[0])
			return err == nil || err.Error() != "link N: cgroup "+dir+" is gone"
		})
	})
	t.Run("executable", func(t *testing.T) {
		dir := t.TempDir()
		b, err := os.ReadFile("/bin/true")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"now", "next"} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(dir, "now")
		r := pinned(t, fmt.Sprintf("[[attach]]\nprogram = \"on_entry\"\nexecutable = %q\noffset = 0x2000\n", file), 0)
		if err := r.matches(t, r.targets[0]); err != nil {
			t.Error(err)
		}
		if err := os.Rename(filepath.Join(dir, "next"), file); err != nil {
			t.Fatal(err)
		}
		expect(t, r.matches(t, r.targets[0]), "link N: "+file+" was replaced after it had been looked up")
	})
}

// TestDescribeUnknown describes links that hornetd does not make.
func TestDescribeUnknown(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_TRACE_UPROBE_MULTI")
	spec := attachSpec(t, "attach")
	m := attachManifest(t, "[[attach]]\nprogram = \"on_entry\"\n")
	spec.Programs["on_entry"].AttachType = 48 // BPF_TRACE_UPROBE_MULTI
	coll := attachLoad(t, spec, m, 0)
	x, err := link.OpenExecutable(libc(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := x.UprobeMulti([]string{"exit"}, coll.Programs["on_entry"], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Describe(l)
	if err != nil || s.Kind != "uprobe_multi" || s.ID == 0 || s.ProgramID == 0 || s.AttachType != "" {
		t.Errorf("%+v, %v", s, err)
	}
	// As a kernel of tomorrow answers.
	delete(linkKinds, link.UprobeMultiType)
	defer func() { linkKinds[link.UprobeMultiType] = "uprobe_multi" }()
	if s, err := Describe(l); err != nil || s.Kind != "type-12" {
		t.Errorf("%+v, %v", s, err)
	}
}

// BenchmarkMatches is what adopting a link costs beside opening its pin.
func BenchmarkMatches(b *testing.B) {
	p, cgroup := testenv.Veth(b), testenv.Cgroup(b)
	for name, toml := range map[string]string{
		"cgroup":           fmt.Sprintf("program = \"connect4\"\ncgroup = %q", cgroup),
		"xdp in namespace": fmt.Sprintf("program = \"xdp_pass\"\ninterface = \"veth0\"\nnetns = %q", p.B.Netns),
		"raw_tp":           `program = "raw_exec"`,
		"iter":             `program = "tasks"`,
	} {
		b.Run(name, func(b *testing.B) {
			r := pinned(b, "[[attach]]\n"+toml+"\n", 0)
			l, err := link.LoadPinnedLink(r.pin(r.targets[0].Link), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			for b.Loop() {
				s, err := Describe(l)
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Matches(r.targets[0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
