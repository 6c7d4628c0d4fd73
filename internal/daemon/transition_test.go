package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
)

// TestTransit holds what is decided about links against what the kernel does
// with two programs in one place: TestUpgradeOfEveryKind and the loader's
// TestAttachTaken ask it.
func TestTransit(t *testing.T) {
	xdp := loader.Target{Link: "a-eth0", Program: "a", Kind: "xdp", AttachType: "xdp", Interface: "eth0", Ifindex: 2, NetnsInode: 7, Mode: "native"}
	nf := loader.Target{Link: "f-ipv4-input-10", Program: "f", Kind: "netfilter", AttachType: "netfilter", NetnsInode: 7, Family: "ipv4", Hook: "input", Priority: 10}
	tp := loader.Target{Link: "t-exec", Program: "t", Kind: "raw_tracepoint", AttachType: "trace_raw_tp", Tracepoint: "exec"}
	msg := loader.Target{Link: "m-socks", Program: "m", Kind: "sockmap", AttachType: "sk_msg_verdict", Map: "socks"}
	ops := loader.Target{Link: "cc", Kind: "struct_ops", AttachType: "struct_ops", Map: "cc"}
	probe := loader.Target{Link: "p", Program: "a", Kind: "perf_event", AttachType: "uprobe", Executable: "/bin/x", Inode: 3, Device: 5}
	with := func(t loader.Target, change func(*loader.Target)) loader.Target { change(&t); return t }
	two := with(nf, func(t *loader.Target) { t.Priorities = []int32{10, 11} })
	turned := with(two, func(t *loader.Target) { t.Priority = 11 })
	gap := func(t loader.Target) loader.Target { t.Gap = true; return t }
	all := func(ts ...loader.Target) []loader.Target { return ts }
	fresh, kept := carried{}, carried{maps: map[string]bool{"socks": true}}
	for _, c := range []struct {
		name     string
		old, new []loader.Target
		both     carried
		want     string // an action and, behind it, the priority, for each link; or the beginning of an error
	}{
		{"first load", nil, all(xdp, nf), fresh, "attach attach/10"},
		{"unload", all(xdp, nf), nil, fresh, "detach detach"},
		{"xdp", all(xdp), all(xdp), fresh, "update"},
		{"xdp of another program", all(xdp), all(with(xdp, func(t *loader.Target) { t.Link, t.Program = "b-eth0", "b" })), fresh, "update"},
		{"xdp in auto mode", all(xdp), all(with(xdp, func(t *loader.Target) { t.Mode = "auto" })), fresh, "update"},
		{"xdp by another name of the interface", all(xdp), all(with(xdp, func(t *loader.Target) { t.Link, t.Interface = "a-lan0", "lan0" })), fresh, "update"},
		{"xdp in another mode", all(xdp), all(with(xdp, func(t *loader.Target) { t.Mode = "generic" })), fresh, "stuck"},
		{"xdp in another mode, with a gap", all(xdp), all(gap(with(xdp, func(t *loader.Target) { t.Mode = "generic" }))), fresh, "gap"},
		{"a gap that is not needed", all(xdp), all(gap(xdp)), fresh, "update"},
		{"xdp on another interface", all(xdp), all(with(xdp, func(t *loader.Target) { t.Link, t.Interface, t.Ifindex = "a-eth1", "eth1", 3 })), fresh, "attach detach"},
		{"xdp on the interface made anew", all(xdp), all(with(xdp, func(t *loader.Target) { t.Ifindex = 9 })), fresh, "beside"},
		{"tracepoint", all(tp), all(tp), fresh, "beside"},
		{"netfilter", all(nf), all(nf), fresh, "stuck"},
		{"netfilter with a gap", all(nf), all(gap(nf)), fresh, "gap/10"},
		{"netfilter in turns", all(two), all(two), fresh, "beside/11"},
		{"netfilter in turns, back", all(turned), all(two), fresh, "beside/10"},
		{"netfilter begins to take turns", all(nf), all(two), fresh, "beside/11"},
		{"netfilter at another priority", all(nf), all(with(nf, func(t *loader.Target) { t.Link, t.Priority = "f-ipv4-input-12", 12 })), fresh, "attach/12 detach"},
		{"netfilter, both priorities taken", all(two, with(nf, func(t *loader.Target) { t.Link, t.Program, t.Priority = "g-ipv4-input-11", "g", 11 })), all(two), fresh, "stuck"},
		{"netfilter in another namespace", all(nf), all(with(nf, func(t *loader.Target) { t.NetnsInode = 8 })), fresh, "beside/10"},
		{"sockmap with a map of its own", all(msg), all(msg), fresh, "beside"},
		{"sockmap that is kept", all(msg), all(msg), kept, "update"},
		{"struct_ops", all(ops), all(ops), fresh, "update"},
		{"struct_ops with a gap", all(ops), all(gap(ops)), fresh, "gap"},
		{"the same programs", all(xdp, turned, tp), all(xdp, turned, tp), carried{programs: map[string]uint32{"a": 100, "f": 101, "t": 102}}, "keep keep/11 keep"},
		{"the same probe", all(probe), all(probe), carried{programs: map[string]uint32{"a": 100}}, "keep"},
		{"the same probe, by a record without a device", all(with(probe, func(t *loader.Target) { t.Device = 0 })), all(probe), carried{programs: map[string]uint32{"a": 100}}, "keep"},
		{"the same probe, on another device", all(with(probe, func(t *loader.Target) { t.Device = 6 })), all(probe), carried{programs: map[string]uint32{"a": 100}}, "beside"},
	} {
		var old []pinning.RecordLink
		for i, target := range c.old {
			b, err := json.Marshal(target)
			if err != nil {
				t.Fatal(err)
			}
			old = append(old, pinning.RecordLink{Name: target.Link, Kind: target.Kind, Program: target.Program, ProgramID: uint32(100 + i), Target: b})
		}
		steps, err := transit(old, c.new, c.both)
		var words []string
		for _, s := range steps {
			word := string(s.action)
			if s.target.Kind == "netfilter" {
				word += fmt.Sprintf("/%d", s.target.Priority)
			}
			words = append(words, word)
		}
		got := strings.Join(words, " ")
		var stuck *stuckError
		if errors.As(err, &stuck) {
			got = "stuck"
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestStuckNamesTheRemedy: what cannot be replaced is refused with file, line,
// reason and what to write.
func TestStuckNamesTheRemedy(t *testing.T) {
	m, err := manifest.Parse("/etc/hornet.d/nf.toml", []byte("[object]\npath = \"nf.o\"\n[[attach]]\nprogram = \"other\"\n[[attach]]\nprogram = \"f\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	nf := loader.Target{Link: "f", Program: "f", Kind: "netfilter", AttachType: "netfilter", Family: "ipv4", Hook: "input", Priority: 10}
	b, err := json.Marshal(nf)
	if err != nil {
		t.Fatal(err)
	}
	c := &collection{record: pinning.Record{Links: []pinning.RecordLink{{Name: "f", Kind: "netfilter", Program: "f", Target: b}}}}
	_, err = c.steps(m, []loader.Target{nf}, false)
	if err == nil || !strings.HasPrefix(err.Error(), "/etc/hornet.d/nf.toml:5: attach[1]: ") || !strings.Contains(remedy.Of(err), "priorities = [10, 11]") || !strings.Contains(remedy.Of(err), `upgrade = "gap"`) {
		t.Errorf("%v\n%s", err, remedy.Of(err))
	}
}
