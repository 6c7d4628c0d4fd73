package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

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

// TestNetfilterDetached: of a netfilter link that somebody detached the kernel
// shows what it showed before; that nothing is there any more is found out and
// mended all the same. The oracle is traffic.
func TestNetfilterDetached(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	h.Manifest("mixed", strings.Replace(mixed(pair, cgroup, 1, "priority = 5\n"), "nf_accept", "nf_drop", 1))
	passes := func() bool {
		return testenv.InNetns(t, pair.A.Netns, func() error {
			return exec.Command("ping", "-c1", "-W1", pair.B.Addr.String()).Run()
		}) == nil
	}
	eventually(t, "traffic", passes)
	h.Start()
	if passes() {
		t.Fatal("the program drops nothing")
	}
	time.Sleep(11 * time.Second) // what is attached is looked for, and found
	if n := len(recordsOf(t, h, "repair")); n > 0 {
		t.Errorf("%d repairs of what was well", n)
	}
	before := get(t, h, "mixed")
	h.Signal(syscall.SIGSTOP)
	for _, l := range before.Links {
		if l.Kind == "netfilter" {
			h.RunAs(0, "bpftool", "link", "detach", "id", fmt.Sprint(l.ID))
		}
	}
	eventually(t, "traffic, without it", passes)
	h.Signal(syscall.SIGCONT)
	t.Logf("repaired after %s", eventually(t, "repaired", func() bool { return len(eventsOf(t, h, api.EventRepaired, "mixed")) > 0 }))
	if passes() {
		t.Error("the program is not attached")
	}
	if said := eventsOf(t, h, api.EventRepaired, "mixed"); len(said) != 1 || !strings.Contains(said[0], "was detached") {
		t.Errorf("%q", said)
	}
	if after := whole(t, h, "mixed", len(before.Links)); after.Programs[0].ID != before.Programs[0].ID {
		t.Errorf("program %d, was %d", after.Programs[0].ID, before.Programs[0].ID)
	}
}

// TestJumpsMovedAway: a directory that was moved away takes the pin of a map of
// programs with it, and the map is whole: the links are pinned again and nothing is
// loaded. Where the map has lost its programs, and somebody holds the link, what is
// loaded in its place does not run beside it.
func TestJumpsMovedAway(t *testing.T) {
	testenv.NoLeaks(t)
	cgroup := testenv.Cgroup(t)
	h := testdaemon.New(t, "")
	h.Object("jumps.bpf.o", read(t, "testdata/jumps.bpf.o"))
	h.Manifest("jumps", fmt.Sprintf("[object]\npath = \"jumps.bpf.o\"\n[maps.jumps]\nclass = \"mutable\"\n[[attach]]\nprogram = \"jump\"\ncgroup = %q\n", cgroup))
	denied := func() bool {
		out, _ := exec.Command("bash", "-c", fmt.Sprintf("echo $$ > %s/cgroup.procs && exec 3<>/dev/tcp/127.0.0.1/1", cgroup)).CombinedOutput()
		if !strings.Contains(string(out), "not permitted") && !strings.Contains(string(out), "refused") {
			t.Errorf("connect: %s", out)
		}
		return strings.Contains(string(out), "not permitted")
	}
	h.Start()
	before := whole(t, h, "jumps", 1)
	if !denied() {
		t.Fatal("it denies nothing")
	}
	must(t, os.Rename(h.BPFFS+"/jumps", h.BPFFS+"/other"))
	eventually(t, "repaired", func() bool { return len(eventsOf(t, h, api.EventRepaired, "jumps")) == 1 })
	if got := attachedTo(t, cgroup); len(got) != 1 || uint32(got[0].ID) != before.Links[0].ProgramID || !denied() {
		t.Errorf("attached are %v, was program %d", got, before.Links[0].ProgramID)
	}
	must(t, os.RemoveAll(h.BPFFS+"/other"))
	if after := whole(t, h, "jumps", 1); after.Links[0].ID != before.Links[0].ID || !denied() {
		t.Errorf("link %d, was %d", after.Links[0].ID, before.Links[0].ID)
	}

	l, err := link.NewFromID(link.ID(before.Links[0].ID))
	must(t, err)
	defer l.Close()
	must(t, os.RemoveAll(h.BPFFS+"/jumps"))
	eventually(t, "loaded again", func() bool { return len(eventsOf(t, h, api.EventRepaired, "jumps")) == 2 })
	eventually(t, "alone", func() bool { return len(attachedTo(t, cgroup)) == 1 })
	if got := attachedTo(t, cgroup); uint32(got[0].ID) == before.Links[0].ProgramID || !denied() {
		t.Errorf("attached are %v, was program %d", got, before.Links[0].ProgramID)
	}
}

// TestMountedOverBeforeAStart: where an empty bpffs hides the root, nothing that
// runs is loaded a second time beside it, and that is said; when it is taken away,
// all is adopted. What was pinned and is gone is loaded as ever.
func TestMountedOverBeforeAStart(t *testing.T) {
	testenv.NoLeaks(t)
	cgroup := testenv.Cgroup(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("two", two(cgroup, ""))
	h.Start()
	before := whole(t, h, "two", 2)
	h.Stop()
	must(t, unix.Mount("bpf", h.BPFFS, "bpf", 0, "mode=0700"))
	over := true
	t.Cleanup(func() {
		if over {
			unix.Unmount(h.BPFFS, unix.MNT_DETACH)
		}
	})
	h.Start()
	if c := get(t, h, "two"); c.State != api.StateFailed || !strings.Contains(c.Reason, "pinned somewhere else than in "+h.BPFFS) || !strings.Contains(c.Hint, "mounted over") {
		t.Errorf("%s %q %q", c.State, c.Reason, c.Hint)
	}
	if _, err := h.Client().Load(context.Background(), "two"); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("load: %v", err)
	}
	if got := attachedTo(t, cgroup); len(got) != 1 {
		t.Errorf("attached: %v", got)
	}
	h.Stop()
	must(t, unix.Unmount(h.BPFFS, 0))
	over = false
	h.Start()
	if after := whole(t, h, "two", 2); !after.Adopted || after.Links[0].ID != before.Links[0].ID {
		t.Errorf("%+v", after)
	}
	h.Kill()
	must(t, os.RemoveAll(h.BPFFS+"/two"))
	h.Start()
	whole(t, h, "two", 2)
}

// TestStateDirectoryDeleted: what is loaded behind it is on record where it should
// be, with all that was; so is the ratchet; and it is said. Where the log cannot be
// made again nothing loads.
func TestStateDirectoryDeleted(t *testing.T) {
	testenv.NoLeaks(t)
	cgroup := testenv.Cgroup(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("first", counting(cgroup, "boot", 1, "a"))
	h.Manifest("second", counting(cgroup, "request", 1, "b"))
	h.Start()
	before := len(auditRecords(t, h.State))
	h.Signal(syscall.SIGSTOP) // or it may be made again meanwhile
	must(t, os.RemoveAll(h.State))
	h.Signal(syscall.SIGCONT)
	load(t, h, "second")
	if records := auditRecords(t, h.State); len(records) != before+2 || records[len(records)-1].Collection != "second" {
		t.Errorf("%d records, %d before", len(records), before)
	}
	ratchet := filepath.Join(h.State, "ratchet")
	eventually(t, "the ratchet is there again", func() bool { _, err := os.Lstat(ratchet); return err == nil })
	s, err := h.Client().Status(context.Background())
	if err != nil || !strings.Contains(fmt.Sprint(s.Problems), "taken away while hornetd ran") {
		t.Errorf("%+v, %v", s.Problems, err)
	}
	h.Kill()
	h.Start()
	s, err = h.Client().Status(context.Background())
	if err != nil || len(s.Problems) != 0 || s.Collections.Running != 2 {
		t.Errorf("after a restart: %+v, %v", s, err)
	}

	h.Signal(syscall.SIGSTOP)
	must(t, os.RemoveAll(h.State), os.WriteFile(h.State, nil, 0o600))
	h.Signal(syscall.SIGCONT)
	if _, err := h.Client().Unload(context.Background(), "second", api.UnloadRequest{}); err == nil || !strings.Contains(err.Error(), "audit log: ") {
		t.Errorf("unload without a log: %v", err)
	}
	must(t, os.Remove(h.State))
	if _, err := h.Client().Unload(context.Background(), "second", api.UnloadRequest{}); err != nil {
		t.Error(err)
	}
}
