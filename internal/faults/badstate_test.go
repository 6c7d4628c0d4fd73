package faults

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestBadState gets what hornetd depends on wrong, one at a time, while it is
// down or while it runs. It says so or puts it right, nothing that runs is lost,
// and behind a good start everything is managed as before.
func TestBadState(t *testing.T) {
	for _, tt := range []struct {
		name string
		live bool // the damage is done while it runs, and then it is asked for a replacement
		do   func(w *world) (undo func())
		says string // in why it refuses to start or to replace, or in its status; "" for nothing
		runs bool   // it starts all the same
		held bool   // the subject is in quarantine then, and runs on
	}{
		{name: "state directory gone", do: func(w *world) func() { w.remove(w.State); return nil }, runs: true},
		{name: "ratchet and log empty", do: func(w *world) func() {
			w.check(os.Truncate(w.logPath(), 0), os.Truncate(filepath.Join(w.State, "ratchet"), 0))
			return nil
		}, runs: true, says: "set aside"},
		{name: "bpffs read-only", do: func(w *world) func() {
			w.check(unix.Mount("", w.BPFFS, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			return func() { w.check(unix.Mount("", w.BPFFS, "", unix.MS_REMOUNT, "")) }
		}, says: "read-only file system"},
		{name: "bpffs read-only, live", live: true, do: func(w *world) func() {
			w.check(unix.Mount("", w.BPFFS, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			return func() { w.check(unix.Mount("", w.BPFFS, "", unix.MS_REMOUNT, "")) }
		}, says: "read-only file system"},
		{name: "mounted over", do: func(w *world) func() {
			w.check(unix.Mount("tmpfs", w.BPFFS, "tmpfs", 0, "mode=0700"))
			return func() { w.check(unix.Unmount(w.BPFFS, unix.MNT_DETACH)) }
		}, says: "not a bpffs"},
		{name: "mounted over, live", live: true, do: func(w *world) func() {
			w.check(unix.Mount("tmpfs", w.BPFFS, "tmpfs", 0, "mode=0700"))
			return func() { w.check(unix.Unmount(w.BPFFS, unix.MNT_DETACH)) }
		}, runs: true, says: "another directory lies there now"},
		{name: "root writable for all", do: func(w *world) func() {
			w.check(os.Chmod(w.BPFFS, 0o777))
			return func() { w.check(os.Chmod(w.BPFFS, 0o700)) }
		}, says: "mode 0777"},
		{name: "record garbage", do: func(w *world) func() {
			w.repin("record", func(path string) error {
				m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
				if err != nil {
					return err
				}
				defer m.Close()
				w.check(m.Put(uint32(0), []byte(`{"name":`)), m.Freeze())
				return m.Pin(path)
			})
			return nil
		}, runs: true, held: true, says: "not as hornetd writes it"},
		{name: "another program under a name of ours", do: func(w *world) func() {
			w.repin("programs/"+w.token+"_con", func(path string) error {
				p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
					Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
				if err != nil {
					return err
				}
				defer p.Close()
				return p.Pin(path)
			})
			return nil
		}, runs: true, held: true, says: "recorded id"},
		{name: "another link under a name of ours", do: func(w *world) func() {
			links, _ := filepath.Glob(filepath.Join(w.BPFFS, subject, "links", "*con*"))
			others, _ := filepath.Glob(filepath.Join(w.BPFFS, bystander, "links", "*con*"))
			if len(links) != 1 || len(others) != 1 {
				w.t.Fatalf("links %v and %v", links, others)
			}
			w.check(os.Rename(links[0], filepath.Join(w.BPFFS, subject, "links", "was")), os.Link(others[0], links[0]))
			return nil
		}, runs: true, held: true, says: "recorded id"},
		{name: "strangers in the root", do: func(w *world) func() {
			w.check(os.Symlink("/etc", filepath.Join(w.BPFFS, "link")), os.Mkdir(filepath.Join(w.BPFFS, "Not-Ours"), 0o700))
			return func() {
				w.check(os.Remove(filepath.Join(w.BPFFS, "link")), os.Remove(filepath.Join(w.BPFFS, "Not-Ours")))
			}
		}, runs: true},
		// A build of nine years later finds the clock nine years back, and the certificates
		// still good, which are for ten.
		{name: "clock nine years back", do: func(w *world) func() {
			dir := w.t.TempDir()
			w.check(os.Chmod(dir, 0o755))
			ctl := testdaemon.Binary(w.t, "hornetctl")
			build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", fmt.Sprintf("-ldflags=-X main.sourceDate=%d", time.Now().AddDate(9, 0, 0).Unix()), "-o", dir+"/hornetd", "./cmd/hornetd")
			build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				w.t.Fatalf("%v: %s", err, out)
			}
			w.check(os.Symlink(ctl, dir+"/hornetctl"))
			w.t.Setenv("HORNET_BIN", dir)
			return nil
		}, runs: true, says: "the clock says"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			w := newWorld(t)
			w.ensure(subject, "boot")
			before, _ := w.kernel.look()
			tally := w.begin(bystander, subject)
			var said string
			if tt.live {
				undo := tt.do(w)
				after := 3 - w.is[subject]
				w.declare(subject, "boot", after)
				a, err := w.reload()
				if (a == acknowledged) != tt.runs {
					t.Errorf("a replacement meanwhile: %v", err)
				}
				said = w.problems()
				if err != nil {
					said += err.Error()
				}
				undo()
				if a, err = w.reload(); a != acknowledged {
					t.Errorf("a replacement afterwards: %v", err)
				}
				w.is[subject] = after
				w.Kill()
			} else {
				w.Kill()
				undo := tt.do(w)
				err := w.TryStart()
				if (err == nil) != tt.runs {
					t.Errorf("start: %v", err)
				}
				said = w.Log()
				if err == nil {
					said = w.problems()
					w.Kill()
				}
				if undo != nil {
					undo()
				}
			}
			if !strings.Contains(said, tt.says) || tt.says == "" && said != "" {
				t.Errorf("said %q, want %q", said, tt.says)
			}
			if wrong := tally.violations(); len(wrong) > 0 {
				t.Errorf("%v", wrong)
			}
			w.Start()
			if tt.held {
				w.stillRuns(before)
				return
			}
			after, wrong := w.kernel.wait(exactly(w.is), settled)
			wrong = append(append(wrong, tally.violations()...), sameLinks(before, after)...)
			if len(wrong) > 0 {
				t.Errorf("behind a good start: %s", strings.Join(wrong, "\n"))
			}
			w.declare(subject, "boot", 3-w.is[subject])
			a, err := w.reload()
			w.must("a replacement behind it", a, err)
		})
	}
}

// TestUnmountedLive: while hornetd runs all runs on, and it says what is to come.
// With it the pins go; on a new bpffs everything is loaded again.
func TestUnmountedLive(t *testing.T) {
	testenv.NoLeaks(t)
	w := newWorld(t)
	w.ensure(subject, "boot")
	tally := w.begin(bystander, subject)
	w.check(unix.Unmount(w.BPFFS, unix.MNT_DETACH))
	mounted := false
	t.Cleanup(func() {
		if !mounted {
			unix.Mount("bpf", w.BPFFS, "bpf", 0, "mode=0700") // whose end is registered
		}
	})
	if said := w.problems(); !strings.Contains(said, "another directory lies there now") {
		t.Errorf("status says %q", said)
	}
	w.declare(subject, "boot", 2)
	a, err := w.reload()
	w.must("a replacement", a, err)
	if wrong := tally.violations(); len(wrong) > 0 {
		t.Errorf("%v", wrong)
	}
	w.Kill()
	if err := w.TryStart(); err == nil || !strings.Contains(w.Log(), "not a bpffs") {
		t.Errorf("start without one: %v %s", err, w.Log())
	}
	if _, left := w.kernel.wait(expect{}, settled); len(left) > 0 {
		t.Errorf("without pins: %v", left)
	}
	w.check(unix.Mount("bpf", w.BPFFS, "bpf", 0, "mode=0700"))
	mounted = true
	w.Start()
	w.is[subject] = 2
	if _, wrong := w.kernel.wait(exactly(w.is), settled); len(wrong) > 0 {
		t.Errorf("%v", wrong)
	}
}

// TestUnanswered: a start that is refused every bpf(2) takes nothing for broken.
// What runs stays where it is, and the next start adopts it.
func TestUnanswered(t *testing.T) {
	testenv.NoLeaks(t)
	w := newWorld(t)
	w.ensure(subject, "boot")
	tally := w.begin(bystander, subject)
	before, _ := w.kernel.look()
	for errno, said := range map[string]string{"EMFILE": "too many open files", "ENOSPC": "no space left on device"} {
		w.Kill()
		if err := w.TryStart("strace", "-D", "-f", "-qq", "-o", os.DevNull, "-e", "trace=bpf", "-e", "inject=bpf:error="+errno+":when=1+"); err != nil {
			t.Fatalf("%v\n%s", err, w.Log())
		}
		s, err := w.Client().Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		for _, p := range s.Problems {
			if strings.HasPrefix(p.Message, "left alone: ") && strings.HasSuffix(p.Message, ": record: "+said) && strings.Contains(p.Hint, "restart") {
				told++
			}
		}
		if told != 2 {
			t.Errorf("status says %+v", s.Problems)
		}
		if a, err := w.load(subject); a != refused || !strings.Contains(err.Error(), "still runs") {
			t.Errorf("load beside it: %v", err)
		}
	}
	// Who is refused all of it, and has the capability, may be in somebody's way; also where
	// something is called a guard that is none.
	guard := filepath.Join(w.BPFFS, "_guard")
	for _, fake := range []bool{false, true} {
		if fake {
			if err := os.MkdirAll(guard+"/set-1", 0o700); err != nil {
				t.Fatal(err)
			}
		}
		w.Kill()
		if err := w.TryStart("strace", "-D", "-f", "-qq", "-o", os.DevNull, "-e", "trace=bpf", "-e", "inject=bpf:error=EPERM:when=1+"); err != nil {
			t.Fatalf("%v\n%s", err, w.Log())
		}
		if said := w.problems(); !strings.Contains(said, "read-only: guard: whether one is in force elsewhere") {
			t.Errorf("refused everything, status says %s", said)
		}
		if a, err := w.load(subject); a != refused || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("load, refused everything: %v", err)
		}
		w.Kill()
	}
	if err := os.RemoveAll(guard); err != nil {
		t.Fatal(err)
	}
	w.Start()
	after, wrong := w.kernel.wait(exactly(w.is), settled)
	if wrong = append(append(wrong, tally.violations()...), changed(before, after)...); len(wrong) > 0 {
		t.Errorf("%s", strings.Join(wrong, "\n"))
	}
}

// problems is what the status says is wrong.
func (w *world) problems() (said string) {
	w.t.Helper()
	s, err := w.Client().Status(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range s.Problems {
		said += p.Message + "\n"
	}
	return said
}

// stillRuns wants every link to run on, and the subject in quarantine.
func (w *world) stillRuns(before inventory) {
	w.t.Helper()
	after, err := w.kernel.look()
	if err != nil {
		w.t.Fatal(err)
	}
	for id, l := range before.links {
		if after.links[id] != l {
			w.t.Errorf("link %d was %v, is %v", id, l, after.links[id])
		}
	}
	quarantined := func(name string) bool {
		return strings.HasPrefix(name, "quarantine-") && strings.HasSuffix(name, "-"+subject)
	}
	var names []string
	for name := range after.dirs {
		names = append(names, name)
	}
	if after.dirs[subject] || !slices.ContainsFunc(names, quarantined) {
		w.t.Errorf("on bpffs there is %v", names)
	}
}

// repin pins something else where a pin of the subject is.
func (w *world) repin(pin string, f func(path string) error) {
	w.t.Helper()
	path := filepath.Join(w.BPFFS, subject, pin)
	w.check(os.Remove(path), f(path))
}

func (w *world) remove(path string) {
	w.t.Helper()
	w.check(os.RemoveAll(path))
}

func (w *world) check(errs ...error) {
	w.t.Helper()
	for _, err := range errs {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}
