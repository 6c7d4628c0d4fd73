package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// killSyscalls are those with which a load changes something outside the
// process, or makes something durable.
const killSyscalls = "bpf,mkdirat,renameat,renameat2,linkat,unlinkat,write,pwrite64,fsync,fdatasync,fallocate,perf_event_open,ioctl,setns,sendto"

// tracer attaches strace to a running daemon and waits until it holds every
// thread.
func tracer(t testing.TB, pid int, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("strace", append([]string{"-f", "-p", strconv.Itoa(pid), "-e", "trace=" + killSyscalls}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "attached") {
			go func() {
				for lines.Scan() {
				}
			}()
			return cmd
		}
	}
	t.Fatalf("strace: not attached to %d", pid)
	return nil
}

// killPoint is the n-th call of one system call in one thread, which is how
// strace counts.
type killPoint struct {
	syscall string
	n       int
}

// forget removes the ratchet, so that the next load is of something new.
func forget(t testing.TB, h *testdaemon.Host) {
	t.Helper()
	if err := os.Remove(filepath.Join(h.State, "ratchet")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// killPoints traces a whole load and unload and returns every point of it.
func killPoints(t testing.TB, h *testdaemon.Host) []killPoint {
	t.Helper()
	trace := filepath.Join(h.Dir, "trace")
	forget(t, h)
	h.Start()
	cmd := tracer(t, h.PID(), "-o", trace)
	load(t, h, "xdp-drop")
	if _, err := h.Client().Unload(context.Background(), "xdp-drop", api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}
	h.Kill()
	cmd.Wait()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	perThread := make(map[string]int) // thread and system call
	most := make(map[string]int)      // system call
	for line := range strings.Lines(string(b)) {
		tid, rest, _ := strings.Cut(line, " ")
		call, _, ok := strings.Cut(strings.TrimSpace(rest), "(")
		if !ok || strings.ContainsAny(call, "<+- ") {
			continue
		}
		perThread[tid+call]++
		most[call] = max(most[call], perThread[tid+call])
	}
	var points []killPoint
	for _, call := range slices.Sorted(maps.Keys(most)) {
		for n := 1; n <= most[call]; n++ {
			points = append(points, killPoint{call, n})
		}
	}
	return points
}

// TestKilledAtEverySystemCall kills hornetd at each system call of a load and
// of the unload behind it, and then asks the kernel and bpffs what is there:
// everything or nothing, and a new daemon goes on from it.
func TestKilledAtEverySystemCall(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", xdpDrop(pair))

	points := killPoints(t, h)
	if len(points) < 40 {
		t.Fatalf("a load and an unload make only %d system calls: %v", len(points), points)
	}
	if testing.Short() { // some of each, over the whole of it
		points = slices.DeleteFunc(points, func(p killPoint) bool { return p.n > 2 && p.n%5 != 0 })
	}
	var whole, gone int
	for _, p := range points {
		if killAt(t, h, pair, p) {
			whole++
		} else {
			gone++
		}
		if t.Failed() {
			t.Fatalf("killed at call %d of %s", p.n, p.syscall)
		}
	}
	t.Logf("%d points: %d times the collection was there after the kill, %d times not", len(points), whole, gone)
	if whole == 0 || gone == 0 {
		t.Errorf("of %d kills %d left it whole and %d gone: the points do not span the load", len(points), whole, gone)
	}
}

// killAt kills at a point, checks what is left, and reports
// whether the collection survived.
func killAt(t *testing.T, h *testdaemon.Host, pair testenv.Pair, p killPoint) bool {
	t.Helper()
	forget(t, h)
	h.Start()
	cmd := tracer(t, h.PID(), "-o", os.DevNull, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", p.syscall, p.n))
	ctx := context.Background()
	if _, err := h.Client().Load(ctx, "xdp-drop"); err == nil {
		h.Client().Unload(ctx, "xdp-drop", api.UnloadRequest{})
	}
	h.Kill() // where the point came after the answer
	cmd.Wait()

	committed := onBPFFS(t, h)
	attached := strings.Contains(testenv.IP(t, pair.B.Netns, "link", "show", "dev", pair.B.Name), "xdp")
	if committed["xdp-drop"] && !attached {
		t.Errorf("committed, but no program on the interface")
	}

	h.Start()
	after := onBPFFS(t, h)
	for name := range after {
		if name != "xdp-drop" {
			t.Errorf("%s is left on bpffs after a restart", name)
		}
	}
	if after["xdp-drop"] != committed["xdp-drop"] {
		t.Errorf("committed %v before the restart, %v after it", committed, after)
	}
	attached = strings.Contains(testenv.IP(t, pair.B.Netns, "link", "show", "dev", pair.B.Name), "xdp")
	if attached != after["xdp-drop"] {
		t.Errorf("attached %t, on bpffs %t", attached, after["xdp-drop"])
	}
	c := load(t, h, "xdp-drop")
	if c.Adopted != after["xdp-drop"] {
		t.Errorf("adopted %t, on bpffs %t", c.Adopted, after["xdp-drop"])
	}
	if got := kernelLinks(t, c); len(got) != 1 {
		t.Errorf("links after a load: %v", got)
	}
	if _, err := h.Client().Unload(ctx, "xdp-drop", api.UnloadRequest{}); err != nil {
		t.Error(err)
	}
	if left := onBPFFS(t, h); len(left) != 0 {
		t.Errorf("left on bpffs after the unload: %v", left)
	}
	h.Stop() // writes the ratchet
	if b, err := os.ReadFile(filepath.Join(h.State, "ratchet")); err != nil || !strings.Contains(string(b), "\nxdp-drop dev 1 ") {
		t.Errorf("it ran and is not in the ratchet: %v %s", err, b)
	}
	return after["xdp-drop"]
}

// onBPFFS lists the bpffs root, without the two files that the kernel puts
// into every bpffs (CONFIG_BPF_PRELOAD_UMD).
func onBPFFS(t testing.TB, h *testdaemon.Host) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir(h.BPFFS)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".debug") {
			names[e.Name()] = true
		}
	}
	return names
}
