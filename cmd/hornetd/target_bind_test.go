package main_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestTargetBound: a caller may have bound a cgroup to any path of mounts of their own,
// and the kernel calls their descriptor so. For hornetd it is where the host has it.
func TestTargetBound(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	parent := testenv.Cgroup(t)
	place := t.TempDir()
	elsewhere := filepath.Join(place, "elsewhere")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{place, filepath.Dir(place)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, over := range []string{elsewhere, cgroupOf(t, parent, "other", 0)} {
		dir := cgroupOf(t, parent, fmt.Sprintf("own-%d", i), owner)
		cmd := sleeper(t, owner, "unshare", "-Urm", "sh", "-c", `mount --bind "$0" "$1" && exec sleep 600`, dir, over)
		eventually(t, "bound", func() bool {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
			return string(comm) == "sleep\n"
		})
		f := opened(t, fmt.Sprintf("/proc/%d/root%s", cmd.Process.Pid, over))
		if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil || name != over {
			t.Fatalf("the kernel calls it %s, not %s: %v", name, over, err)
		}
		c := loadAt(t, h, owner, "connect", f)
		if got := c.Links[0].Target; got != "cgroup "+dir {
			t.Errorf("bound to %s: %s, want %s", over, got, dir)
		}
		checkShown(t, over, shownLinks(t)[0], "connect", f)
		h.Kill()
		h.Start()
		stays(t, h, c)
		var st unix.Stat_t
		if err := unix.Stat(place, &st); err != nil {
			t.Fatal(err)
		}
		if seen := watchedBy(t, h.PID()); len(seen) == 0 || slices.Contains(seen, fmt.Sprintf("%x", st.Ino)) {
			t.Errorf("hornetd watches %s, %s among them being %x", seen, place, st.Ino)
		}
		f.Close()
		end(cmd)
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		targetEnds(t, h, "connect", dir)
	}

	// Without the capability for handles it is refused, and by the host's path not.
	h.Stop()
	if err := h.TryStart("setpriv", "--bounding-set=-dac_read_search"); err != nil {
		t.Fatal(err)
	}
	dir := cgroupOf(t, parent, "own", owner)
	cmd := sleeper(t, owner, "unshare", "-Urm", "sh", "-c", `mount --bind "$0" "$1" && exec sleep 600`, dir, elsewhere)
	eventually(t, "bound", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		return string(comm) == "sleep\n"
	})
	var e *api.Error
	_, err := clientOf(t, h, owner).LoadTargets(t.Context(), "connect", opened(t, fmt.Sprintf("/proc/%d/root%s", cmd.Process.Pid, elsewhere)))
	if !errors.As(err, &e) || !strings.Contains(e.Message, "by its handle") || !strings.Contains(e.Hint, "CAP_DAC_READ_SEARCH") {
		t.Errorf("without the capability: %#v", err)
	}
	loadAt(t, h, owner, "connect", opened(t, dir))
	unload(t, h, "connect")
}

// watchedBy are the inodes that a process watches by inotify, proc_pid_fdinfo(5).
func watchedBy(t *testing.T, pid int) (all []string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for line := range strings.Lines(string(b)) {
			if _, rest, ok := strings.Cut(line, " ino:"); ok && strings.HasPrefix(line, "inotify ") {
				all = append(all, strings.Fields(rest)[0])
			}
		}
	}
	return all
}

// TestTargetRequired: what ends when its caller's target does is nothing to rely on.
func TestTargetRequired(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	parent := testenv.Cgroup(t)
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("wants", "requires = [\"connect\"]\n"+connCount(cgroupOf(t, parent, "wants", 0)))
	h.Manifest("base", connCount(cgroupOf(t, parent, "base", 0)))
	h.Manifest("above", "requires = [\"base\"]\n"+connCount(cgroupOf(t, parent, "above", 0)))
	loadAt(t, h, owner, "connect", opened(t, cgroupOf(t, parent, "own", owner)))
	root := h.Client()
	var e *api.Error
	if _, err := root.Load(t.Context(), "wants"); !errors.As(err, &e) || e.Kind != api.KindConflict || e.Hint == "" || !strings.Contains(e.Message, "ends with that") {
		t.Errorf("a load of what requires it: %v", err)
	}
	if links := shownLinks(t); len(links) != 1 {
		t.Errorf("%d links", len(links))
	}
	for _, name := range []string{"base", "above"} {
		if _, err := root.Load(t.Context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTargetEndsAtOnce: that repairs fail, and so wait, keeps no probe in a process that
// is somebody else's by now.
func TestTargetEndsAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for what fails")
	}
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	h := newShown(t, libc)
	cmd := sleeper(t, owner)
	loadAt(t, h, owner, "call", pidfdOf(t, cmd.Process.Pid))
	// It cannot be mended: neither its pins are there nor what it came from.
	for _, path := range []string{h.BPFFS + "/call/programs", h.BPFFS + "/call/links", h.Manifests + "/caller.bpf.o", libc} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "repairs wait", func() bool { return strings.Count(h.Log(), `"msg":"repair failed"`) >= 8 })
	// The next one is 6.4 s away.
	end(cmd)
	took := eventually(t, "unloaded", func() bool {
		c, err := h.Client().Get(t.Context(), "call")
		return err != nil || c.State != api.StateRunning
	})
	if took > 4*time.Second {
		t.Errorf("unloaded after %s", took)
	}
	noLinks(t, "ended")
}

// TestTargetRecorded: the log says what was shown, and whose it was, before anything is
// attached there and when it ends.
func TestTargetRecorded(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	process := sleeper(t, owner)
	_, ns := spaceOf(t, owner)
	inode := func(f *os.File) uint64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	pidfd := pidfdOf(t, process.Process.Pid)
	cgroup := opened(t, cgroupOf(t, testenv.Cgroup(t), "own", owner))
	stat := strings.Fields(string(read(t, fmt.Sprintf("/proc/%d/stat", process.Process.Pid))))
	started, err := strconv.ParseUint(stat[21], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]uint64{"uid": owner, "gid": owner, "pid": uint64(process.Process.Pid), "started": started}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(pidfd.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == 0x50494446 { // PID_FS_MAGIC, since 6.9
		of["pidfd_inode"] = inode(pidfd)
	}
	for _, test := range []struct {
		name string
		f    *os.File
		want map[string]uint64
	}{
		{"connect", cgroup, map[string]uint64{"uid": owner, "gid": owner, "cgroup_id": inode(cgroup)}},
		{"lookup", ns, map[string]uint64{"uid": owner, "gid": owner, "netns_inode": inode(ns)}},
		{"call", pidfd, of},
	} {
		loadAt(t, h, owner, test.name, test.f)
		unload(t, h, test.name)
		n := 0
		for _, r := range auditRecords(t, h.State) {
			if r.Collection != test.name {
				continue
			}
			if n++; !maps.Equal(r.Shown, test.want) {
				t.Errorf("%s: %s of %s: %v, want %v", test.name, r.Phase, r.Verb, r.Shown, test.want)
			}
		}
		if n != 4 {
			t.Errorf("%s: %d records, not an intent and an outcome of load and unload", test.name, n)
		}
	}
}

// TestTargetTrial: a version on trial ends no link that could not come back.
func TestTargetTrial(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_TCX_INGRESS")
	tcx := shownBy("shown_tcx", shownKeys("tcx"))
	lookup := fmt.Sprintf("[[attach]]\nprogram = \"%slookup\"\n%s", shownPrefix, ofCaller)
	const health = "[health]\nseconds = 1\nmap = \"calls\"\nkey = 0\nat_least = 0\n"
	h.Manifest("tcx", tcx+lookup)
	_, ns := spaceOf(t, owner)
	first := loadAt(t, h, owner, "tcx", ns)
	upgrade := func(text string) error {
		h.Manifest("tcx", text)
		_, err := clientOf(t, h, owner).Upgrade(t.Context(), "tcx")
		return err
	}
	var e *api.Error
	if err := upgrade("version = 2\n" + tcx + health); !errors.As(err, &e) || !strings.Contains(e.Message, "could not come back") || !strings.Contains(e.Hint, "unload tcx") {
		t.Errorf("an upgrade that drops a link: %v", err)
	}
	if now := get(t, h, "tcx"); now.Programs[0].ID != first.Programs[0].ID || len(shownLinks(t)) != 2 {
		t.Errorf("refused, and %d links of %+v", len(shownLinks(t)), now.Programs)
	}
	if err := upgrade("version = 3\n" + tcx + lookup + health); err != nil || len(shownLinks(t)) != 2 {
		t.Errorf("an upgrade that keeps both: %v", err)
	}
	if err := upgrade("version = 4\n" + tcx); err != nil {
		t.Errorf("an upgrade without a trial: %v", err)
	}
	eventually(t, "one link", func() bool { return len(shownLinks(t)) == 1 })
}
