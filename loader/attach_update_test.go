package loader

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestUpdate replaces the program of a link that was opened from its pin.
func TestUpdate(t *testing.T) {
	testenv.NoLeaks(t)
	p, cgroup, ns := testenv.Veth(t), testenv.Cgroup(t), testenv.Netns(t)
	tests := map[string]struct {
		toml, old, new string
		// effect says whether the new program is the one that runs.
		effect func(t *testing.T, r running) bool
	}{
		"xdp": {fmt.Sprintf("interface = \"veth0\"\nnetns = %q", p.B.Netns), "xdp_pass", "xdp_drop",
			func(t *testing.T, _ running) bool { return p.Send(t, 2) == 0 }},
		"tcx": {fmt.Sprintf("interface = \"veth0\"\nnetns = %q", p.B.Netns), "tcx_in", "tcx_drop",
			func(t *testing.T, _ running) bool { return p.Send(t, 2) == 0 }},
		"cgroup": {fmt.Sprintf("cgroup = %q", cgroup), "connect4", "connect4_deny",
			func(t *testing.T, _ running) bool {
				out, err := attachHelper(t, ns, cgroup)
				return err != nil && strings.Contains(out, "operation not permitted")
			}},
		"netns": {fmt.Sprintf("netns = %q", ns), "redirect", "refuse",
			func(t *testing.T, _ running) bool {
				return testenv.InNetns(t, ns, func() error {
					l, err := net.Listen("tcp4", "127.0.0.1:7008")
					if err != nil {
						t.Fatal(err)
					}
					defer l.Close()
					c, err := net.Dial("tcp4", "127.0.0.1:7008")
					if err == nil {
						c.Close()
					}
					return err
				}) != nil
			}},
		"iter": {"", "tasks", "tasks_short",
			func(t *testing.T, r running) bool {
				b, err := os.ReadFile(r.pin(r.targets[0].Link))
				if err != nil {
					t.Fatal(err)
				}
				return bytes.HasPrefix(b, []byte("t\n"))
			}},
		"sockmap": {"map = \"sockets\"", "msg_pass", "msg_count",
			func(t *testing.T, r running) bool {
				before := hits(t, r.coll, "msg_count")
				if err := testenv.InNetns(t, ns, func() error { return talkOver(r.coll.Maps["sockets"]) }); err != nil {
					t.Fatal(err)
				}
				return hits(t, r.coll, "msg_count") > before
			}},
	}
	for kind, tt := range tests {
		t.Run(kind, func(t *testing.T) {
			spec := attachSpec(t, "attach")
			toml := func(program string) string {
				return fmt.Sprintf("[[attach]]\nprogram = %q\n%s\n", program, tt.toml)
			}
			targets, err := Resolve(spec, attachManifest(t, toml(tt.old)), nil)
			if err != nil {
				t.Fatal(err)
			}
			if targets[0].Kind != kind || !Updatable(kind) {
				t.Errorf("kind %s, updatable %t", targets[0].Kind, Updatable(kind))
			}
			coll := attachLoad(t, spec, attachManifest(t, toml(tt.old)+toml(tt.new)), 0)
			old, new := coll.Programs[tt.old], coll.Programs[tt.new]
			links, err := Attach(coll.Collection, targets)
			if err != nil {
				t.Fatal(err)
			}
			r := running{coll, targets, testenv.BPFFS(t)}
			pin := r.pin(targets[0].Link)
			if err := links[targets[0].Link].Pin(pin); err != nil {
				t.Fatal(err)
			}
			links.Close()
			if tt.effect(t, r) {
				t.Error("the old program has the new one's effect")
			}

			l, err := link.LoadPinnedLink(pin, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			before, err := Describe(l)
			if err != nil {
				t.Fatal(err)
			}
			err = Update(l, new, new)
			want := fmt.Sprintf("link %d: link runs another program: %d, not %d: operation not permitted", before.ID, programID(t, old), programID(t, new))
			if !errors.Is(err, ErrOtherProgram) || err.Error() != want {
				t.Errorf("update of a program that does not run: %v, want %s", err, want)
			}
			if tt.effect(t, r) {
				t.Error("the refused program runs")
			}
			if err := Update(l, old, new); err != nil {
				t.Fatal(err)
			}
			after, err := Describe(l)
			if err != nil {
				t.Fatal(err)
			}
			if after.ProgramID != programID(t, new) {
				t.Errorf("runs program %d, want %d", after.ProgramID, programID(t, new))
			}
			if after.ProgramID = before.ProgramID; !cmp.Equal(after, before) {
				t.Errorf("before %+v, after %+v", before, after)
			}
			if !tt.effect(t, r) {
				t.Error("the new program has no effect")
			}
			if err := after.Matches(targets[0]); err != nil {
				t.Error(err)
			}
		})
	}
}

func programID(t testing.TB, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

func TestTargetUpdatable(t *testing.T) {
	tests := []struct {
		target Target
		want   bool
	}{
		{Target{Kind: "xdp"}, true},
		{Target{Kind: "iter"}, true},
		{Target{Kind: "iter", Map: "walked"}, false},
		{Target{Kind: "sockmap", Map: "m"}, false},
		{Target{Kind: "struct_ops", Map: "m"}, true},
		{Target{Kind: "netfilter"}, false},
		{Target{Kind: "tracing"}, false},
	}
	for _, tt := range tests {
		if got := tt.target.Updatable(); got != tt.want {
			t.Errorf("%+v: %t, want %t", tt.target, got, tt.want)
		}
	}
}

// TestUpdateRefused asks the kernel about each kind that is said not to be
// updatable.
func TestUpdateRefused(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	ns := testenv.Netns(t)
	tests := map[string]string{
		"raw_tracepoint": `program = "raw_exec"`,
		"perf_event":     `program = "tp_exec"`,
		"netfilter":      fmt.Sprintf("program = \"nf_accept\"\nfamily = \"ipv4\"\nhook = \"input\"\nnetns = %q", ns),
	}
	for kind, toml := range tests {
		t.Run(kind, func(t *testing.T) {
			if Updatable(kind) {
				t.Error("is said to be updatable")
			}
			spec, m := attachSpec(t, "attach"), attachManifest(t, "[[attach]]\n"+toml+"\n")
			targets, err := Resolve(spec, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			coll := attachLoad(t, spec, m, 0)
			links, err := Attach(coll.Collection, targets)
			if err != nil {
				t.Fatal(err)
			}
			defer links.Close()
			l, p := links[targets[0].Link], coll.Programs[targets[0].Program]
			raw := l.(interface {
				UpdateArgs(link.RawLinkUpdateOptions) error
			})
			if err := raw.UpdateArgs(link.RawLinkUpdateOptions{New: p}); err == nil {
				t.Error("the kernel updates it")
			}
			s, err := Describe(l)
			if err != nil {
				t.Fatal(err)
			}
			err = Update(l, p, p)
			want := fmt.Sprintf("link %d: the kernel cannot replace the program of a link of kind %s", s.ID, kind)
			if err == nil || err.Error() != want || remedy.Of(err) != "make a new link and remove the old one" {
				t.Errorf("error %v, want %s (%s)", err, want, remedy.Of(err))
			}
		})
	}
}

func TestUpdateUnfit(t *testing.T) {
	testenv.NoLeaks(t)
	spec := attachSpec(t, "attach")
	m := attachManifest(t, "[[attach]]\nprogram = \"tasks\"\n[[attach]]\nprogram = \"btf_exec\"\n")
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	coll := attachLoad(t, spec, m, 0)
	links, err := Attach(coll.Collection, targets)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	err = Update(links["tasks"], coll.Programs["tasks"], coll.Programs["btf_exec"])
	s, _ := Describe(links["tasks"])
	want := fmt.Sprintf("link %d: the new program does not fit: invalid argument", s.ID)
	if err == nil || err.Error() != want || remedy.Of(err) != "give it the type and the section of the old one" {
		t.Errorf("error %v, want %s (%s)", err, want, remedy.Of(err))
	}
}
