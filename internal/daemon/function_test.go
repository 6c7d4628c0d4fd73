package daemon_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

func TestMain(m *testing.M) { testdaemon.Main(m) }

// object puts an object of package loader's tests beside the manifests.
func object(t testing.TB, h *testdaemon.Host, name string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../loader/testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	h.Object(name, b)
}

// linkIDs returns the links of a collection that runs, as the daemon says.
func linkIDs(t testing.TB, h *testdaemon.Host, name string) map[string]uint32 {
	t.Helper()
	c, err := h.Client().Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if c.State != api.StateRunning {
		t.Errorf("%s is %s: %s", name, c.State, c.Reason)
	}
	ids := map[string]uint32{}
	for _, l := range c.Links {
		ids[l.Program+l.Target] = l.ID
	}
	return ids
}

// exists asks the kernel for a link.
func exists(t testing.TB, id uint32) bool {
	t.Helper()
	l, err := link.NewFromID(link.ID(id))
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return true
}

// mapOf asks the kernel for the map of a struct_ops link.
func mapOf(t testing.TB, id uint32) ebpf.MapID {
	t.Helper()
	l, err := link.NewFromID(link.ID(id))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", l.(interface{ FD() int }).FD()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var m ebpf.MapID
		if n, _ := fmt.Sscanf(line, "map_id: %d", &m); n == 1 {
			return m
		}
	}
	t.Fatalf("link %d: no map in %q", id, b)
	return 0
}

// eventually waits for what the kernel does in a work queue.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("not so: %s", what)
}

// watch is a manifest of attach_daemon.bpf.c.
func watch(version int, deny bool, cgroup string, pair testenv.Pair, t testing.TB) string {
	var st unix.Stat_t
	if err := unix.Stat(cgroup, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`version = %d
object = { path = "attach_daemon.bpf.o" }
variables = { cgroup = %d, deny = %t }
[[attach]]
program = "on_exec"
[[attach]]
program = "on_probe"
[[attach]]
program = "guard_exec"
[[attach]]
program = "guarded"
interface = "veth0"
netns = %q
[[attach]]
program = "drop"
replaces = "guarded"
`, version, st.Ino, deny, pair.B.Netns)
}

// counter reads a variable of the object from its pin.
func counter(t testing.TB, h *testdaemon.Host, collection string, offset int) uint64 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(h.BPFFS, collection, "maps/_bss"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := m.LookupBytes(uint32(0))
	if err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[offset:])
}

// Programs at functions of the kernel and of another program live through the
// death of the daemon, are adopted as they are, replaced, and taken out again.
func TestFunctionsEndToEnd(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.RequirePrograms(t, ebpf.Tracing, ebpf.LSM)
	pair, cgroup := testenv.Veth(t), testenv.Cgroup(t)
	exec := func() error { return testenv.CgroupCommand(t, cgroup, "/bin/true").Run() }
	h := testdaemon.New(t, "")
	object(t, h, "attach_daemon.bpf.o")
	h.Manifest("watch", watch(1, true, cgroup, pair, t))
	h.Start()

	before := linkIDs(t, h, "watch")
	if len(before) != 5 {
		t.Fatalf("links %v", before)
	}
	works := func(when string, denied bool) {
		t.Helper()
		execs, probed := counter(t, h, "watch", 0), counter(t, h, "watch", 8)
		if err := exec(); errors.Is(err, unix.EPERM) != denied {
			t.Errorf("%s: exec: %v; denied should be %t", when, err, denied)
		}
		if counter(t, h, "watch", 0) == execs || counter(t, h, "watch", 8) == probed {
			t.Errorf("%s: the exec was not counted", when)
		}
		if got := pair.Ping(t, 1); got != 0 {
			t.Errorf("%s: a packet passed", when)
		}
	}
	works("loaded", true)

	h.Kill()
	works("daemon dead", true)
	trace := filepath.Join(t.TempDir(), "trace")
	if err := h.TryStart("strace", "-D", "-f", "-qq", "-o", trace, "-e", "trace=bpf"); err != nil {
		t.Fatalf("%v\n%s", err, h.Log())
	}
	if after := linkIDs(t, h, "watch"); !maps.Equal(before, after) {
		t.Errorf("links %v were adopted as %v", before, after)
	}
	if c, err := h.Client().Get(t.Context(), "watch"); err != nil || !c.Adopted || c.Reason != "" {
		t.Errorf("adopted %t, %q, %v", c.Adopted, c.Reason, err)
	}

	h.Manifest("watch", watch(2, false, cgroup, pair, t))
	plan, err := h.Client().Reload(t.Context())
	if err != nil || len(plan.Changes) != 1 || !plan.Changes[0].Done {
		t.Fatalf("reload %+v, %v", plan, err)
	}
	after := linkIDs(t, h, "watch")
	for place, id := range before {
		kept := place == "guardedinterface veth0 in "+pair.B.Netns // the kernel can exchange this one's program
		if kept != (after[place] == id) {
			t.Errorf("link %s was %d and is %d", place, id, after[place])
		}
		if !kept {
			eventually(t, "the old link is gone: "+place, func() bool { return !exists(t, id) })
		}
	}
	works("replaced", false)
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	made, updated := bytes.Index(calls, []byte("BPF_LINK_CREATE")), bytes.Index(calls, []byte("BPF_LINK_UPDATE"))
	if made < 0 || updated < made {
		t.Errorf("the first link was made at %d of the trace and the first updated at %d: packets met a function that nothing replaced", made, updated)
	}

	if _, err := h.Client().Unload(t.Context(), "watch", api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "packets pass", func() bool { return pair.Ping(t, 1) == 1 })
	for place, id := range after {
		eventually(t, "the link is gone: "+place, func() bool { return !exists(t, id) })
	}
}

// A congestion control made of programs lives through the death of the daemon,
// and its new version takes its place in the same link, or does not, wherever the
// daemon dies.
func TestStructOpsEndToEnd(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_STRUCT_OPS")
	h := testdaemon.New(t, "")
	object(t, h, "attach_ops.bpf.o")
	const manifest = "object = { path = \"attach_ops.bpf.o\" }\nmaps = { \"*\" = { class = \"mutable\" } }\nattach = [ { map = \"steady\" } ]\n"
	h.Manifest("steady", manifest)
	h.Start()
	before := linkIDs(t, h, "steady")
	usable := func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "hornet_steady")
	}
	h.Kill()
	if err := usable(); err != nil {
		t.Errorf("daemon dead: %v", err)
	}
	h.Start()
	if after := linkIDs(t, h, "steady"); len(before) != 1 || !maps.Equal(before, after) {
		t.Errorf("links %v were adopted as %v", before, after)
	}

	var id uint32
	for _, id = range before {
	}
	first := mapOf(t, id)
	h.Manifest("steady", "version = 2\n"+manifest)
	plan, err := h.Client().Reload(t.Context())
	if err != nil || len(plan.Changes) != 1 || !plan.Changes[0].Done {
		t.Fatalf("reload %+v, %v", plan, err)
	}
	second := mapOf(t, id)
	if after := linkIDs(t, h, "steady"); !maps.Equal(before, after) || second == first {
		t.Errorf("links %v became %v, map %d map %d", before, after, first, second)
	}
	if err := usable(); err != nil {
		t.Errorf("replaced: %v", err)
	}

	// Killed at the commit: the link has the new map already.
	h.Kill()
	if err := h.TryStart("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e", "inject=renameat2:signal=KILL"); err != nil {
		t.Fatalf("%v\n%s", err, h.Log())
	}
	h.Manifest("steady", "version = 3\n"+manifest)
	if _, err := h.Client().Reload(t.Context()); err == nil {
		t.Fatal("was not killed")
	}
	h.Wait()
	if third := mapOf(t, id); third == second {
		t.Fatalf("killed before the link had map %d", third)
	}
	// As a sweep leaves it that was killed in turn: the map is still staged.
	staged, err := filepath.Glob(filepath.Join(h.BPFFS, "stage-*", "programs", "*"))
	if err != nil || len(staged) != 5 {
		t.Fatalf("staged: %q, %v", staged, err)
	}
	for _, pin := range staged {
		if err := os.Remove(pin); err != nil {
			t.Fatal(err)
		}
	}
	h.Manifest("steady", "version = 2\n"+manifest)
	h.Start()
	if got := mapOf(t, id); got != second {
		t.Errorf("the link has map %d after the crash, not %d again", got, second)
	}
	if after := linkIDs(t, h, "steady"); !maps.Equal(before, after) {
		t.Errorf("links %v became %v", before, after)
	}
	if err := usable(); err != nil {
		t.Errorf("after the crash: %v", err)
	}
	if _, err := h.Client().Unload(t.Context(), "steady", api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the congestion control is gone", func() bool { return errors.Is(usable(), unix.ENOENT) })
}
