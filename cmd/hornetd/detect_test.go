package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/internal/vmtest"
)

// detecting starts a hornetd that cannot arm a guard, as the first process has not
// started it, with the capabilities that it has in its unit.
func detecting(t *testing.T) *testdaemon.Host {
	t.Helper()
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "\n[guard]\nmode = \"audit\"\n")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
	if err := h.TryStart("setpriv", "--bounding-set=-all,+sys_admin,+net_admin,+dac_read_search", "--inh-caps=-all", "--no-new-privs"); err != nil {
		t.Fatal(err)
	}
	return h
}

// detected is what the audit log has of foreign programs. Others on the host load
// programs too while tests run.
type detected struct {
	Verb, Reason, Error string
	Programs            []uint32
	Caller              struct {
		UID uint32
		PID int
		Exe string
	}
}

func detections(t *testing.T, h *testdaemon.Host) (all []detected) {
	t.Helper()
	for line := range strings.Lines(string(read(t, filepath.Join(h.State, "audit", "audit.jsonl")))) {
		if !strings.HasSuffix(line, "\n") {
			break // of a write that has just begun
		}
		var r detected
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Verb == "foreign" && !strings.Contains(r.Reason, "hornetd began to detect loads") {
			all = append(all, r)
		}
	}
	return all
}

// foreignProgram loads one of this process's.
func foreignProgram(t *testing.T, typ ebpf.ProgramType) (*ebpf.Program, uint32) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "foreign_test", Type: typ, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return p, uint32(id)
}

// TestDetect: where no guard can be armed, what bpftool loads is told at once, and
// what hornetd loads is not.
func TestDetect(t *testing.T) {
	testenv.NoLeaks(t)
	h := detecting(t)
	client := h.Client()
	s, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if g := s.Guard; g.Mode != api.GuardDetect || g.Wanted != api.GuardAudit || !strings.Contains(g.Reason, "guard:") || g.Hint == "" {
		t.Errorf("guard %+v", g)
	}
	for _, p := range s.Problems {
		t.Errorf("problem %+v", p)
	}
	for _, args := range [][]string{{"guard"}, {"status"}} {
		if out, _, exit := h.Ctl(args...); exit != 0 || !strings.Contains(out, "detects, does not prevent") {
			t.Errorf("%s: exit %d: %s", args, exit, out)
		}
	}
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "there is none"); exit == 0 || !strings.Contains(stderr, "guard:") {
		t.Errorf("disarm: exit %d: %s", exit, stderr)
	}

	var last uint64
	for e, err := range client.Events(t.Context(), api.EventsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		last = e.Seq
	}
	object := filepath.Join(t.TempDir(), "other.o")
	if err := os.WriteFile(object, example(t, "conn-count/conn_count.bpf.o"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(testenv.BPFFS(t), "all")
	if out, ok := tool(t, "prog", "loadall", object, dir); !ok {
		t.Fatal(out)
	}
	loaded := time.Now()
	t.Cleanup(func() { os.RemoveAll(dir) })
	pins, err := os.ReadDir(dir)
	if err != nil || len(pins) == 0 {
		t.Fatal(err)
	}
	// Of several of one type by one executable the first is told, and the rest counted.
	foreign := map[uint32]*ebpf.ProgramInfo{}
	for _, pin := range pins {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, pin.Name()), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		foreign[uint32(id)] = info
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	told := false
	for e, err := range client.Events(ctx, api.EventsOptions{Since: last, Follow: true}) {
		if err != nil {
			break
		}
		for id := range foreign {
			told = told || e.Kind == api.EventForeign && strings.Contains(e.Message, fmt.Sprintf("of program %d,", id)) && strings.HasSuffix(e.Message, ": went through")
		}
		if told {
			break
		}
	}
	if t.Logf("told after %s", time.Since(loaded)); !told {
		t.Error("not told") // by whom is on record only where it was heard, and not found 30 s later
	}
	found := false
	for _, r := range detections(t, h) {
		for id, info := range foreign {
			if slices.Contains(r.Programs, id) {
				found = true
				want := fmt.Sprintf("bpf prog_load of type cgroup_sock_addr %q, of program %d, tag %s", info.Name, id, info.Tag)
				if r.Reason != want || r.Caller.UID != 0 || r.Caller.PID == 0 || r.Caller.Exe != "" && !strings.HasSuffix(r.Caller.Exe, "bpftool") {
					t.Errorf("record %+v, want %s", r, want)
				}
			}
		}
	}
	if !found {
		t.Errorf("no record of %v in %+v", foreign, detections(t, h))
	}

	own := map[uint32]bool{}
	for range 3 {
		if _, err := client.Unload(t.Context(), "xdp-drop", api.UnloadRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Load(t.Context(), "xdp-drop"); err != nil {
			t.Fatal(err)
		}
		for _, p := range get(t, h, "xdp-drop").Programs {
			own[p.ID] = true
		}
	}
	// What comes behind them is told, so that they have been heard of.
	_, mark := foreignProgram(t, ebpf.CGroupSysctl)
	onRecord(t, h, func(r guardRecord) bool { return strings.Contains(r.Reason, fmt.Sprintf("of program %d,", mark)) })
	for _, r := range detections(t, h) {
		if r.Caller.PID == h.PID() {
			t.Errorf("hornetd's own: %+v", r)
		}
		for _, id := range r.Programs {
			if own[id] {
				t.Errorf("hornetd's own: %+v", r)
			}
		}
	}
}

// TestDetectFlood: ten thousand loads cost a few records, which have their number,
// and hornetd answers meanwhile.
func TestDetectFlood(t *testing.T) {
	testenv.NoLeaks(t)
	h := detecting(t)
	many := 10_000
	if vmtest.InGuest() { // whose processor is emulated
		many = 500
	}
	const more = 16 // the library's own, by which it asks what the kernel can
	slowest := time.Duration(0)
	for i := range many {
		p, _ := foreignProgram(t, ebpf.SocketFilter)
		p.Close()
		if i%(many/10) == 0 {
			asked := time.Now()
			if _, err := h.Client().Status(t.Context()); err != nil {
				t.Fatal(err)
			}
			slowest = max(slowest, time.Since(asked))
		}
	}
	if slowest > 10*time.Second {
		t.Errorf("an answer took %s meanwhile", slowest)
	}
	_, mark := foreignProgram(t, ebpf.CGroupSysctl)
	onRecord(t, h, func(r guardRecord) bool { return strings.Contains(r.Reason, fmt.Sprintf("of program %d,", mark)) })
	s, err := h.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.Stop() // which writes the counts
	records, told := 0, 0
	for _, r := range detections(t, h) {
		if r.Caller.PID != os.Getpid() {
			continue
		}
		records++
		var counted int
		if n, _ := fmt.Sscanf(r.Error, "%d more of this kind", &counted); n == 1 {
			told += counted
		} else {
			told++
		}
	}
	if told+int(s.Guard.Lost) < many || told > many+more || records > 12 {
		t.Errorf("%d of %d told in %d records, %d lost", told, many, records, s.Guard.Lost)
	}
}

// TestDetectAfterLoss: while hornetd does not read, more is loaded than the kernel
// keeps for it. What is still there is found.
func TestDetectAfterLoss(t *testing.T) {
	testenv.NoLeaks(t)
	h := detecting(t)
	h.Signal(syscall.SIGSTOP)
	// Each processor has its own room, and tells what it lost before what it tells next:
	// on another than those before, the last one would be heard.
	oneProcessor(t)
	for range 4000 {
		p, _ := foreignProgram(t, ebpf.SocketFilter)
		p.Close()
	}
	_, kept := foreignProgram(t, ebpf.FlowDissector)
	h.Signal(syscall.SIGCONT)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		i := slices.IndexFunc(detections(t, h), func(r detected) bool { return slices.Contains(r.Programs, kept) })
		if i >= 0 {
			r := detections(t, h)[i]
			if r.Caller.UID != 0 || r.Caller.PID != 0 || !strings.Contains(r.Reason, `of type flow_dissector "foreign_test"`) {
				t.Errorf("record %+v", r)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("program %d was not found", kept)
		}
		foreignProgram(t, ebpf.SocketFilter) // with the next one the kernel tells what it lost
	}
	s, err := h.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Guard.Lost == 0 {
		t.Error("nothing was lost, by the status")
	}
}

// oneProcessor keeps the test on one of the processors that it may use.
func oneProcessor(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !all.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
	})
}
