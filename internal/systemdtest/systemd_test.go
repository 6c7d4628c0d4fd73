// Package systemdtest tries hornetd's package files where they belong: in a
// Debian with systemd as its first process, installed with `make install` and
// the commands of the README. Oracles are systemctl, the journal, bpftool and
// traffic, never hornetd's own view.
package systemdtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/vmtest"
)

//go:generate ../../scripts/bpf-compile testdata/hooks.bpf.c testdata/functions.bpf.c

// step is a subtest.
type step struct {
	name string
	boot int // 1, or 2 for both: the same name goes on after the reboot
	run  func(*testing.T)
}

// steps are the subtests, in the order of one guest's life. Each first brings
// about what it needs, so that -run may choose any of them.
var steps = []step{
	{"enable", 1, func(t *testing.T) { enabled.reach(t) }},
	{"verify", 1, verify},
	{"security", 1, security},
	{"reload", 1, func(t *testing.T) { loaded.reach(t) }},
	{"socket", 1, socket},
	{"identity", 1, identity},
	{"restart", 1, restart},
	{"kill", 1, kill},
	{"watchdog", 1, watchdog},
	{"stop", 1, stop},
	{"closed", 1, closed},
	{"namespace", 1, namespace},
	{"late", 1, late},
	{"instead", 1, instead},
	{"reboot", 2, reboot},
}

// TestSystemd is hornetd's life on the newest kernel.
func TestSystemd(t *testing.T) { inGuest(t, "7.3", 2, steps) }

// floor says that this is the oldest kernel that hornetd knows, which lacks tcx.
var floor bool

// TestFloor is the same unit on the oldest kernel. Since Linux 6.9 CAP_SYS_ADMIN
// stands for CAP_NET_ADMIN, so that only here each capability counts.
func TestFloor(t *testing.T) {
	floor = true
	inGuest(t, "6.1", 1, []step{
		{"reload", 1, func(t *testing.T) { loaded.reach(t) }},
		{"capabilities", 1, capabilities},
	})
}

func inGuest(t *testing.T, kernel string, boots int, steps []step, modules ...string) {
	boot := vmtest.Boot()
	if boot > 0 {
		for _, s := range steps {
			if s.boot >= boot {
				t.Run(s.name, func(t *testing.T) {
					t.Cleanup(func() { tell(t) })
					s.run(t)
				})
			}
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: run make vm-systemd")
	}
	t.Parallel() // a guest has one processor
	guest := &vmtest.System{Kernel: kernel, Modules: modules, Lay: packaged(t), Boots: boots, Timeout: 25 * time.Minute}
	results := guest.Run(t)
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) { replay(t, t.Name(), results) })
	}
	replayed(t, t.Name(), results)
}

// packaged returns a directory with what `make install` puts into a system, and
// what the tests load.
func packaged(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	lay := filepath.Join(dir, "lay")
	cmd := exec.Command("make", "--no-print-directory", "-C", "../..", "build", "install", "BIN="+filepath.Join(dir, "bin"), "DESTDIR="+lay, "PREFIX=/usr")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	files := []string{"../../cmd/hornetd/testdata/kinds.bpf.o", "testdata/hooks.bpf.o", "testdata/functions.bpf.o", "../../loader/testdata/attach_ops.bpf.o"}
	for _, pattern := range []string{"*.toml", "*.bpf.o"} {
		found, err := filepath.Glob("../../examples/*/" + pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("examples: %v, %v", found, err)
		}
		files = append(files, found...)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(lay, examples, filepath.Base(f)), string(b))
	}
	return lay
}

// replay gives t the result of the test name in the guest, and its subtests
// theirs.
func replay(t *testing.T, name string, results []vmtest.Result) {
	var children []string
	for _, r := range results {
		if rest, ok := strings.CutPrefix(r.Test, name+"/"); ok {
			child, _, _ := strings.Cut(rest, "/")
			if !slices.Contains(children, child) {
				children = append(children, child)
			}
		}
	}
	ran := replayed(t, name, results)
	for _, child := range children {
		ran = true
		t.Run(child, func(t *testing.T) { replay(t, name+"/"+child, results) })
	}
	if !ran {
		t.Error("did not run: the guest ended before")
	}
}

// replayed gives t the results of the test name alone, of every boot.
func replayed(t *testing.T, name string, results []vmtest.Result) (ran bool) {
	skip, whole := "", !strings.Contains(name, "/")
	for _, r := range results {
		if r.Test != name && (r.Test != "" || !whole) {
			continue
		}
		ran = true
		switch {
		case r.Action == "skip":
			skip = r.Reason
		case r.Action == "fail":
			t.Errorf("%s: %s\n%s", r.Package, r.Reason, r.Output)
		case !whole:
			t.Logf("%s:\n%s", r.Package, r.Output)
		}
	}
	if skip != "" {
		t.Skip(skip)
	}
	return ran
}
