package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/hornetd/hornetd/internal/testenv"
)

// newTestWorld makes a world on a thread that ends with the test.
func newTestWorld(t *testing.T) *world {
	t.Helper()
	testenv.RequireRoot(t)
	t.Chdir("../..") // the examples
	runtime.LockOSThread()
	w, err := newWorld(t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
		for _, dir := range []string{w.dir, w.cgroups} {
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
	return w
}

// attachedTo asks the kernel how many programs are on target i.
func attachedTo(t *testing.T, l workload, i int) int {
	t.Helper()
	n := 0
	if l.onCgroup {
		for _, a := range l.attaches {
			n += onCgroup(t, l.world.cgroup(i), a.typ)
		}
		return n
	}
	out, err := exec.Command("ip", "link", "show", "dev", interfaceName(i)).CombinedOutput()
	if err != nil {
		t.Fatalf("ip link: %v: %s", err, out)
	}
	return strings.Count(string(out), "prog/xdp id")
}

func onCgroup(t *testing.T, path string, typ ebpf.AttachType) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: typ})
	if err != nil {
		t.Fatal(err)
	}
	return len(q.Programs)
}

// A bench that measures a load which did not happen is worse than none.
func TestContendersAttachAndUndo(t *testing.T) {
	testenv.NoLeaks(t)
	w := newTestWorld(t)
	for _, l := range workloads(w) {
		for _, c := range []contender{bare(l, 0), bpftool(l, 1)} {
			target := map[string]int{"floor": 0, "bpftool": 1}[c.name]
			for range 2 { // the second load finds nothing of the first
				if err := c.load(); err != nil {
					t.Fatalf("%s: %s: %v", l.name, c.name, err)
				}
				if got := attachedTo(t, l, target); got != len(l.attaches) {
					t.Errorf("%s: %s attached %d programs, want %d", l.name, c.name, got, len(l.attaches))
				}
				if err := c.undo(); err != nil {
					t.Fatalf("%s: %s: %v", l.name, c.name, err)
				}
				if got := attachedTo(t, l, target); got != 0 {
					t.Errorf("%s: %s left %d programs attached", l.name, c.name, got)
				}
			}
		}
	}
}
