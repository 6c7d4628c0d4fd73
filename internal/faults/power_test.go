package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// disk is an ext4 of its own on a loop device, mounted on the state directory.
type disk struct {
	t           *testing.T
	device, dir string
}

func newDisk(t *testing.T, w *world) *disk {
	t.Helper()
	// In memory: what is tested is which writes are waited for, not how fast a
	// real disk is.
	memory := filepath.Join(w.Dir, "memory")
	if err := errors.Join(os.Mkdir(memory, 0o700), unix.Mount("tmpfs", memory, "tmpfs", 0, "size=80m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(memory, unix.MNT_DETACH) })
	image := filepath.Join(memory, "disk")
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(64<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", image)
	d := &disk{t, run(t, "losetup", "--find", "--show", image), w.State}
	d.holdDevice()
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(d.dir, unix.MNT_DETACH) })
	d.mount()
	return d
}

// holdDevice has the kernel take the loop device away when the test ends,
// however it does.
func (d *disk) holdDevice() {
	d.t.Helper()
	held, err := os.Open(d.device)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { held.Close() })
	info, err := unix.IoctlLoopGetStatus64(int(held.Fd()))
	if err == nil {
		info.Flags |= unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopSetStatus64(int(held.Fd()), info)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// run runs a command that must work, and returns what it said.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// mount leaves out what ext4 does for programs that forget to sync before a rename.
func (d *disk) mount() {
	d.t.Helper()
	if err := errors.Join(unix.Mount(d.device, d.dir, "ext4", 0, "noauto_da_alloc"), os.Chmod(d.dir, 0o700)); err != nil {
		d.t.Fatal(err)
	}
}

// again is the disk as it is found when the power is back.
func (d *disk) again() {
	d.t.Helper()
	if err := unix.Unmount(d.dir, 0); err != nil {
		d.t.Fatal(err)
	}
	d.mount()
}

// cut ends all writing at once: what is not on the disk stays away from it, also
// what waits in the journal.
func (d *disk) cut() error {
	const (
		shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
		noLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	)
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := uint32(noLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return errno
	}
	return nil
}

// newBPFFS puts an empty bpffs in the place of the root, as a reboot does.
func (w *world) newBPFFS() {
	w.t.Helper()
	if err := unix.Unmount(w.BPFFS, unix.MNT_DETACH); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Mount("bpf", w.BPFFS, "bpf", 0, "mode=0700"); err != nil {
		w.t.Fatal(err)
	}
}

// remembered is what must be known after a cut: at least low may not be gone
// below, and high loads. They differ by what was under way.
type remembered struct {
	low, high int
	loaded    []int // versions whose load was acknowledged
	running   bool
	newest    int
}

// TestPowerCut cuts the power in the midst of loads, replacements, unloads and
// rollbacks. What was acknowledged is remembered, and everything can be read.
func TestPowerCut(t *testing.T) {
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("mkfs.ext4 is not installed")
	}
	testenv.NoLeaks(t)
	w := newWorld(t)
	w.undeclare(bystander)
	w.Kill()
	w.newBPFFS()
	d := newDisk(t, w)
	cuts := 30
	if *all {
		cuts = 2000
	}
	random := seeded(t)
	m, did := &remembered{}, map[string]int{}
	began := time.Now()
	for n := range cuts {
		if n%10 == 0 {
			m = &remembered{newest: m.newest}
			wipe(t, w.State)
		}
		w.untilCut(d, m, random, n%10 == 0, did)
		d.again()
		w.newBPFFS()
		// A reboot leaves nothing; here the kernel takes its time.
		if _, left := w.kernel.wait(expect{}, settled); len(left) > 0 {
			t.Fatalf("of the last round there is left: %v", left)
		}
		m.running = false
		if wrong := w.afterCut(m); len(wrong) > 0 {
			t.Fatalf("cut %d, %+v:\n\t%s", n, *m, strings.Join(wrong, "\n\t"))
		}
	}
	t.Logf("%d cuts in %.0f s: acknowledged before them %v", cuts, time.Since(began).Seconds(), did)
}

// wipe empties the state directory, as on a host that never ran hornetd.
func wipe(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}

// untilCut does one thing after the other until the power goes.
func (w *world) untilCut(d *disk, m *remembered, random *rand.Rand, starting bool, did map[string]int) {
	w.t.Helper()
	after := time.Duration(random.IntN(120)) * time.Millisecond
	failed := make(chan error, 1)
	var gone atomic.Bool
	cut := func() {
		time.Sleep(after)
		gone.Store(true)
		failed <- d.cut()
	}
	if starting { // the first start on this host
		go cut()
		if w.TryStart() != nil {
			w.t.Helper()
			w.Kill()
			if err := <-failed; err != nil {
				w.t.Fatal(err)
			}
			return
		}
	} else {
		w.Start()
		go cut()
	}
	for w.something(m, random, &gone, did) {
	}
	w.Kill()
	if err := <-failed; err != nil {
		w.t.Fatal(err)
	}
}

// something does one thing and reports whether it was acknowledged while there
// was power: a sync that the shutdown overtakes may succeed and have done
// nothing, and no machine without power answers.
func (w *world) something(m *remembered, random *rand.Rand, gone *atomic.Bool, did map[string]int) bool {
	w.t.Helper()
	acknowledged := func(a answer) bool { return a == acknowledged && !gone.Load() }
	ctx, cancel := patient()
	defer cancel()
	what := []string{"load", "load", "load", "unload", "rollback", "rollback"}[random.IntN(6)]
	switch {
	case what == "unload" && m.running:
		a, _ := w.unload(subject)
		if !acknowledged(a) {
			return false
		}
		m.running = false
	case what == "rollback" && m.low == m.high && m.high > 2:
		to := m.high - 1
		_, err := w.Client().Rollback(ctx, subject, api.RollbackRequest{Version: uint64(to), Reason: "power"})
		m.low = to
		if a, _ := byError(err); !acknowledged(a) {
			return false
		}
		m.high = to
	default:
		what = "load"
		m.newest++
		w.declareAs(subject, "request", 1+m.newest%2, m.newest)
		m.high = m.newest
		var a answer
		if m.running {
			a, _ = w.reload()
		} else {
			a, _ = w.load(subject)
		}
		if !acknowledged(a) {
			return false
		}
		m.running, m.low = true, m.newest
		m.loaded = append(m.loaded, m.newest)
	}
	did[what]++
	return true
}

// afterCut starts hornetd and holds what it knows against what was acknowledged.
func (w *world) afterCut(m *remembered) (wrong []string) {
	w.t.Helper()
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if err := w.TryStart(); err != nil {
		say("I7: %v\n%s", err, w.Log())
		return wrong
	}
	defer w.Kill()
	if damaged, _ := filepath.Glob(filepath.Join(w.State, "ratchet.damaged*")); len(damaged) > 0 {
		say("I4: the ratchet could not be read: %v", damaged)
	}
	b, err := os.ReadFile(w.logPath())
	if err != nil {
		say("I4: %v", err)
	}
	on := map[int]bool{}
	seq := uint64(0)
	for line := range bytes.Lines(b) {
		var r struct {
			Seq               uint64
			Phase, Verb, Kind string
			Version           int
		}
		if err := json.Unmarshal(line, &r); err != nil || r.Seq != seq+1 {
			say("I4: audit log: record %d behind %d: %v: %q", r.Seq, seq, err, line)
		}
		seq = r.Seq
		if r.Phase == "outcome" && (r.Verb == "load" || r.Verb == "upgrade") && r.Kind == "" {
			on[r.Version] = true
		}
	}
	for _, v := range m.loaded {
		if !on[v] {
			say("I4: the load of version %d was acknowledged and is not on record", v)
		}
	}
	if m.low > 1 {
		w.declareAs(subject, "request", 1+(m.low-1)%2, m.low-1)
		if a, err := w.load(subject); a != refused || !strings.Contains(err.Error(), "older than version") {
			say("I4: version %d loads, after %d: %v", m.low-1, m.low, err)
		}
	}
	if m.high > 0 {
		w.declareAs(subject, "request", 1+m.high%2, m.high)
		if a, err := w.load(subject); a != acknowledged {
			if errors.Is(err, context.DeadlineExceeded) {
				err = errors.New(w.stacks())
			}
			say("I4: version %d does not load: %v", m.high, err)
			return wrong
		}
		m.low = m.high
		m.loaded = append(m.loaded, m.high)
		if a, err := w.unload(subject); a != acknowledged {
			say("I4: unload: %v", err)
		}
	}
	return wrong
}
