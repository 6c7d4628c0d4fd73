package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestOnePlaceIsTaken: where no pattern is, too, a place that another tool has, or
// that is not there, keeps no other link from being repaired, not over a restart
// either, and gets its program when it can.
func TestOnePlaceIsTaken(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	ns := pair.B.Netns
	for _, other := range []string{"lan1", "lan2"} {
		testenv.IP(t, ns, "link", "add", other, "type", "bridge")
	}
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	more := ""
	for _, other := range []string{"lan1", "lan2"} {
		more += "[[attach]]\nprogram = \"xdp_drop\"\ninterface = \"" + other + "\"\nmode = \"generic\"\n"
	}
	h.Manifest("xdp-drop", local(blocking(pair, "10.77.0.0/24", more), pair))
	in(t, h, ns)
	before := whole(t, h, "xdp-drop", 3)

	h.Signal(syscall.SIGSTOP)
	for _, other := range []string{"lan1", "lan2"} {
		pins, err := filepath.Glob(filepath.Join(h.BPFFS, "xdp-drop/links/*"+other+"*"))
		must(t, err)
		if len(pins) != 1 {
			t.Fatal(pins)
		}
		must(t, os.Remove(pins[0]))
		eventually(t, "detached", func() bool { return !attachedAt(t, ns, other) })
	}
	testenv.IP(t, ns, "link", "set", "dev", "lan1", "xdpgeneric", "pinned", h.BPFFS+"/xdp-drop/programs/xdp_drop")
	testenv.IP(t, ns, "link", "del", "lan2")
	remake(t, &pair)
	h.Signal(syscall.SIGCONT)

	told := func() bool {
		reason := get(t, h, "xdp-drop").Reason
		return strings.Contains(reason, "its pin was removed: not repaired: program") && strings.Contains(reason, `there is no interface "lan2"`)
	}
	eventually(t, "the other one is repaired", func() bool { return attachedAt(t, ns, "veth0") })
	eventually(t, "drift", told)
	h.Kill()
	in(t, h, ns)
	eventually(t, "drift after a restart", told)
	if !attachedAt(t, ns, "veth0") || len(eventsOf(t, h, api.EventQuarantined, "xdp-drop")) > 0 {
		t.Error("it was not adopted")
	}
	n := len(recordsOf(t, h, "repair"))
	remake(t, &pair) // once more, from a record that names what is not there
	eventually(t, "repaired again", func() bool { return attachedAt(t, ns, "veth0") })
	if now := len(recordsOf(t, h, "repair")); now > n+4 {
		t.Errorf("%d audit records of one repair", now-n)
	}

	testenv.IP(t, ns, "link", "set", "dev", "lan1", "xdpgeneric", "off")
	testenv.IP(t, ns, "link", "add", "lan2", "type", "bridge")
	eventually(t, "all attached", func() bool {
		return attachedAt(t, ns, "lan1") && attachedAt(t, ns, "lan2") && get(t, h, "xdp-drop").Reason == ""
	})
	if after := whole(t, h, "xdp-drop", 3); after.Programs[0].ID != before.Programs[0].ID {
		t.Errorf("program %d, was %d", after.Programs[0].ID, before.Programs[0].ID)
	}
}
