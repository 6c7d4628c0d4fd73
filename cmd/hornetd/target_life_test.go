package main_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// loadAt loads a collection at what is shown.
func loadAt(t *testing.T, h *testdaemon.Host, uid int, name string, files ...*os.File) api.Collection {
	t.Helper()
	c, err := clientOf(t, h, uid).LoadTargets(t.Context(), name, files...)
	if err != nil {
		t.Fatalf("load %s: %v", name, err)
	}
	return c
}

// targetEnds waits until a collection is unloaded, and wants it told why.
func targetEnds(t *testing.T, h *testdaemon.Host, name, why string) {
	t.Helper()
	took := eventually(t, name+" is unloaded", func() bool { return get(t, h, name).State != api.StateRunning })
	noLinks(t, name)
	eventually(t, fmt.Sprintf("%s: an event says %q, and a record", name, why), func() bool {
		said := slices.ContainsFunc(eventsOf(t, h, api.EventUnloaded, name), func(s string) bool { return strings.Contains(s, why) })
		return said && slices.ContainsFunc(auditRecords(t, h.State), func(r auditRecord) bool {
			return r.Verb == "unload" && r.Phase == "outcome" && r.Collection == name && r.Error == "" && r.Caller.UID == 0
		})
	})
	t.Logf("%s ended after %s", name, took)
}

// stays gives the daemon the time to do something to a collection that it must not.
func stays(t *testing.T, h *testdaemon.Host, was api.Collection) {
	t.Helper()
	time.Sleep(700 * time.Millisecond) // more than the pulse
	if now := get(t, h, was.Name); now.State != api.StateRunning || now.Programs[0].ID != was.Programs[0].ID || len(kernelLinks(t, was)) != 1 {
		t.Fatalf("%s: %s, %s", was.Name, now.State, now.Reason)
	}
}

// TestTargetEnds: what the caller showed is gone, and what has its name, path or number
// then is not taken for it, whether hornetd was there to see it or not.
func TestTargetEnds(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	parent := testenv.Cgroup(t)
	for _, asleep := range []bool{false, true} {
		meanwhile := func(what func()) {
			if asleep {
				h.Kill()
			}
			what()
			if asleep {
				h.Start()
			}
		}
		dir := cgroupOf(t, parent, fmt.Sprintf("asleep-%t", asleep), owner)
		f := opened(t, dir)
		stays(t, h, loadAt(t, h, owner, "connect", f))
		f.Close()
		meanwhile(func() {
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			cgroupOf(t, parent, filepath.Base(dir), 0)
		})
		targetEnds(t, h, "connect", "is gone")

		for _, name := range here(t, "call", "calls") {
			cmd := sleeper(t, owner)
			stays(t, h, loadAt(t, h, owner, name, pidfdOf(t, cmd.Process.Pid)))
			meanwhile(func() {
				end(cmd)
				reused(t, cmd.Process.Pid)
			})
			targetEnds(t, h, name, "has ended")
		}

		for _, name := range here(t, "xdp", "tcx", "lookup") {
			cmd, f := spaceOf(t, owner)
			stays(t, h, loadAt(t, h, owner, name, f))
			f.Close()
			meanwhile(func() { end(cmd) })
			targetEnds(t, h, name, "the caller's network namespace") // is gone, or has no such interface any more
		}
	}
}

// TestTargetBecomesAnother: a process that executes what makes it more than its user
// is that user's no more.
func TestTargetBecomesAnother(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	for _, name := range here(t, "call", "calls") {
		cmd, become := becomes(t)
		pidfd := pidfdOf(t, cmd.Process.Pid)
		stays(t, h, loadAt(t, h, owner, name, pidfd))
		become()
		targetEnds(t, h, name, "is not of uid 4301 alone any more")
		if _, err := clientOf(t, h, owner).LoadTargets(t.Context(), name, pidfd); refusedAs(err) != api.KindDenied {
			t.Errorf("%s: load again: %v", name, err)
		}
	}
}

// TestTargetChangesHands: what was the caller's when they showed it, and is not when their
// load's turn comes or its programs are verified, is not attached to.
func TestTargetChangesHands(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	parent := testenv.Cgroup(t)
	h.Manifest("before", connCount(cgroupOf(t, parent, "before", 0)))
	for _, waits := range []bool{true, false} {
		dir := cgroupOf(t, parent, fmt.Sprintf("own-%t", waits), owner)
		// Each bpf(2) takes 50 ms more: the thread is held for a second or two.
		strace := tracer(t, h.PID(), "-o", os.DevNull, "-e", "trace=bpf", "-e", "inject=bpf:delay_enter=50000")
		first := make(chan error, 1)
		if waits {
			go func() { _, err := h.Client().Load(t.Context(), "before"); first <- err }()
			eventually(t, "the thread is held", func() bool {
				return slices.ContainsFunc(auditRecords(t, h.State), func(r auditRecord) bool { return r.Collection == "before" && r.Phase == "intent" })
			})
		} else {
			first <- nil
		}
		client, f := clientOf(t, h, owner), opened(t, dir)
		loaded := make(chan error, 1)
		go func() { _, err := client.LoadTargets(t.Context(), "connect", f); loaded <- err }()
		eventually(t, "it was shown", func() bool {
			return slices.Contains(limitsOf(t, h, 0), fmt.Sprintf("%d: api.changes_per_user 1 of 2", owner))
		})
		if !waits {
			eventually(t, "it is verified", func() bool {
				return slices.ContainsFunc(auditRecords(t, h.State), func(r auditRecord) bool { return r.Collection == "connect" && r.Phase == "intent" })
			})
		}
		must(t, os.Chown(dir, neighbour, neighbour))
		err := <-loaded
		must(t, <-first)
		detach(t, strace)
		if refusedAs(err) != api.KindDenied || !strings.Contains(err.Error(), "its directory is uid 4302's") {
			t.Errorf("waits %t: %v", waits, err)
		}
		if links := shownLinks(t); len(links) != 0 {
			t.Errorf("waits %t: %d links", waits, len(links))
		}
		if waits {
			unload(t, h, "before")
		}
	}
}

// TestTargetGoesMeanwhile: the kind says the same, whenever what was shown has ended or
// become another's: here, while its programs are verified.
func TestTargetGoesMeanwhile(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	parent := testenv.Cgroup(t)
	for _, name := range append(here(t, "connect", "call", "calls"), "another's") {
		var f *os.File
		var goes func()
		kind, collection := api.KindConflict, name
		switch name {
		case "connect":
			dir := cgroupOf(t, parent, "own", owner)
			f, goes = opened(t, dir), func() { must(t, os.Remove(dir)) }
		case "another's":
			// A process that becomes another's: the sh executes a setuid program.
			kind, collection = api.KindDenied, "call"
			cmd, become := becomes(t)
			f, goes = pidfdOf(t, cmd.Process.Pid), become
		default:
			cmd := sleeper(t, owner)
			f, goes = pidfdOf(t, cmd.Process.Pid), func() { end(cmd) }
		}
		strace := tracer(t, h.PID(), "-o", os.DevNull, "-e", "trace=bpf", "-e", "inject=bpf:delay_enter=50000")
		loaded, client := make(chan error, 1), clientOf(t, h, owner)
		seen := len(intents(t, h, collection))
		go func() { _, err := client.LoadTargets(t.Context(), collection, f); loaded <- err }()
		eventually(t, "it is verified", func() bool { return len(intents(t, h, collection)) > seen })
		goes()
		err := <-loaded
		detach(t, strace)
		if e := asError(err); e.Kind != kind || e.Hint == "" {
			t.Errorf("%s: %s, want %s: %v; %s", name, e.Kind, kind, err, e.Hint)
		}
		noLinks(t, name)
	}
}

func intents(t *testing.T, h *testdaemon.Host, collection string) (all []auditRecord) {
	t.Helper()
	for _, r := range auditRecords(t, h.State) {
		if r.Collection == collection && r.Phase == "intent" {
			all = append(all, r)
		}
	}
	return all
}

func asError(err error) api.Error {
	var e *api.Error
	if !errors.As(err, &e) {
		return api.Error{}
	}
	return *e
}

// becomes is a process of owner's that becomes more than its user when it is told to.
func becomes(t *testing.T) (*exec.Cmd, func()) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	privileged := filepath.Join(dir, "privileged")
	must(t, errors.Join(os.WriteFile(privileged, read(t, sleep), 0o755), os.Chmod(privileged, 0o755|os.ModeSetuid)))
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Flags&unix.ST_NOSUID != 0 {
		t.Skipf("%s is on a filesystem without setuid programs", dir)
	}
	cmd := exec.Command("sh", "-c", "read go; exec "+privileged+" 600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner, Gid: owner}}
	in, err := cmd.StdinPipe()
	must(t, err)
	testenv.Start(t, cmd)
	return cmd, func() { io.WriteString(in, "go\n") }
}

func refusedAs(err error) api.Kind {
	var e *api.Error
	errors.As(err, &e)
	if e == nil {
		return ""
	}
	return e.Kind
}

// TestTargetMoreThanItsUser: a process of the same user that has more rights.
func TestTargetMoreThanItsUser(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	uid := fmt.Sprint(owner)
	for what, argv := range map[string][]string{
		"a capability":         {"setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps=+net_raw", "--ambient-caps=+net_raw", "sleep", "600"},
		"root's number saved":  {"setpriv", "--ruid", uid, "--euid", uid, "--regid", uid, "--clear-groups", "sleep", "600"},
		"another real number":  {"setpriv", "--euid", uid, "--ruid", fmt.Sprint(neighbour), "--clear-groups", "sleep", "600"},
		"another group":        {"setpriv", "--reuid", uid, "--regid", fmt.Sprint(neighbour), "--clear-groups", "sleep", "600"},
		"another real group":   {"setpriv", "--reuid", uid, "--egid", uid, "--rgid", fmt.Sprint(neighbour), "--clear-groups", "sleep", "600"},
		"not to be traced":     {"setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "/proc/self/exe", "-test.run=^TestNotToBeTraced$"},
		"its own user's space": {"setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "unshare", "-Ur", "sleep", "600"},
	} {
		for i := range argv {
			if argv[i] == "/proc/self/exe" {
				argv[i] = untraced(t)
			}
		}
		cmd := sleeper(t, 0, argv...)
		eventually(t, what, func() bool {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
			status, err := os.Stat(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			return string(comm) == "sleep\n" || string(comm) == "tests\n" && err == nil && status.Sys().(*syscall.Stat_t).Uid == 0
		})
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if what == "root's number saved" && !strings.Contains(string(status), fmt.Sprintf("Uid:\t%s\t%s\t0", uid, uid)) {
			continue // an execution makes the saved one the effective one
		}
		if _, err := clientOf(t, h, owner).LoadTargets(t.Context(), "call", pidfdOf(t, cmd.Process.Pid)); refusedAs(err) != api.KindDenied {
			t.Errorf("%s: %v\n%s", what, err, status)
		}
		if links := shownLinks(t); len(links) != 0 {
			t.Errorf("%s: %d links", what, len(links))
		}
	}
}

// untraced is a copy of this executable, which every user may execute.
func untraced(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tests")
	for _, d := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, read(t, "/proc/self/exe"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(isUntraced, "1")
	return path
}

const isUntraced = "HORNET_TEST_UNTRACED"

// TestNotToBeTraced is that process, called so from when nobody may trace it.
func TestNotToBeTraced(t *testing.T) {
	if os.Getenv(isUntraced) == "" {
		return
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Minute)
}

// targeter is a shell that calls setlocale for each line it reads.
func targeter(t *testing.T, uid uint32, libc string) (pid int, speak func()) {
	t.Helper()
	cmd := exec.Command("bash", "-c", "while read l; do LC_ALL=C; LC_ALL=POSIX; echo; done")
	cmd.Dir, cmd.Env = "/", []string{"LD_LIBRARY_PATH=" + filepath.Dir(libc)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	lines := bufio.NewReader(out)
	speak = func() {
		if _, err := io.WriteString(in, "x\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	speak() // it has begun
	return cmd.Process.Pid, speak
}

// TestTargetProcessAlone: of two processes of one executable the one that was shown is
// probed.
func TestTargetProcessAlone(t *testing.T) {
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	for _, d := range []string{filepath.Dir(libc), filepath.Dir(filepath.Dir(libc))} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h := newShown(t, libc)
	shown, speak := targeter(t, owner, libc)
	_, other := targeter(t, owner, libc)
	for _, name := range here(t, "call", "calls") {
		index := map[string]int{"call": 5, "calls": 0}[name]
		c := loadAt(t, h, owner, name, pidfdOf(t, shown))
		for range 10 {
			other()
		}
		if n := callsOf(t, c)[index]; n != 0 {
			t.Errorf("%s: %d calls of the other process", name, n)
		}
		for range 10 {
			speak()
		}
		if n := callsOf(t, c)[index]; n < 10 {
			t.Errorf("%s: %d calls of the process that was shown", name, n)
		}
		// It stays that process's, whatever hornetd does.
		h.Kill()
		h.Start()
		h.Manifest(name, shownBy(get(t, h, name).Links[0].Program, "\n"+strings.ReplaceAll(shownKeys(name), "LIBRARY", libc)))
		if _, err := reload(t, h); err != nil {
			t.Fatal(err)
		}
		now := get(t, h, name)
		if now.State != api.StateRunning || now.Programs[0].ID == c.Programs[0].ID {
			t.Fatalf("%s after a reload: %+v", name, now)
		}
		for range 10 {
			other()
			speak()
		}
		if n := callsOf(t, now)[index]; n < 20 || n >= 40 {
			t.Errorf("%s: %d calls after the reload", name, n)
		}
		unload(t, h, name)
		noLinks(t, name)
	}
}

func shownKeys(name string) string {
	for _, k := range shownKinds {
		if k.name == name {
			return k.keys
		}
	}
	return ""
}

// TestTargetStays: neither restart nor reload, upgrade nor repair asks anybody again.
func TestTargetStays(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	dir := cgroupOf(t, testenv.Cgroup(t), "stays", owner)
	cmd, ns := spaceOf(t, owner)
	files := map[string]*os.File{"connect": opened(t, dir), "tcx": ns, "xdp": ns, "lookup": ns}
	for _, name := range here(t, "connect", "tcx", "xdp", "lookup") {
		f := files[name]
		first := loadAt(t, h, owner, name, f)
		h.Kill()
		h.Start()
		if _, err := clientOf(t, h, owner).Load(t.Context(), name); err != nil {
			t.Fatalf("%s: a load without descriptors: %v", name, err)
		}
		stays(t, h, first)
		for _, version := range []string{"version = 2\n", "version = 3\n"} {
			h.Manifest(name, version+shownBy(first.Links[0].Program, shownKeys(name)))
			if version == "version = 2\n" {
				if _, err := reload(t, h); err != nil {
					t.Fatal(err)
				}
			} else if _, err := clientOf(t, h, owner).Upgrade(t.Context(), name); err != nil {
				t.Fatalf("%s: upgrade: %v", name, err)
			}
			now := get(t, h, name)
			links := shownLinks(t)
			if now.Programs[0].ID == first.Programs[0].ID || len(links) != 1 || now.Links[0].Target != first.Links[0].Target {
				t.Fatalf("%s, %s: %+v", name, version, now)
			}
			checkShown(t, name, links[0], name, f)
		}
		// Descriptors for what runs move it nowhere.
		if _, err := clientOf(t, h, owner).LoadTargets(t.Context(), name, f); refusedAs(err) != api.KindConflict {
			t.Errorf("%s: shown again: %v", name, err)
		}
		// Somebody detaches it: a cgroup is found again, a namespace is not.
		now := get(t, h, name)
		l, err := link.NewFromID(link.ID(now.Links[0].ID))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Detach(), l.Close()); err != nil {
			t.Fatal(err)
		}
		if name == "connect" {
			eventually(t, "repaired", func() bool {
				c := get(t, h, name) // without a link while it is exchanged
				return len(c.Links) == 1 && c.Links[0].ID != now.Links[0].ID && len(shownLinks(t)) == 1
			})
			checkShown(t, "repaired", shownLinks(t)[0], name, f)
			unload(t, h, name)
		} else {
			targetEnds(t, h, name, "was detached from")
		}
		noLinks(t, name)
	}
	end(cmd)
}

// TestTargetByHand: hornetctl opens as the caller; one in a user namespace is who they
// are outside.
func TestTargetByHand(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	parent := testenv.Cgroup(t)
	own, other := cgroupOf(t, parent, "own", owner), cgroupOf(t, parent, "other", neighbour)
	process := sleeper(t, owner)
	otherProcess := sleeper(t, neighbour)
	space, _ := spaceOf(t, owner)
	netns := fmt.Sprintf("/proc/%d/ns/net", space.Process.Pid)
	ctl := testdaemon.Binary(t, "hornetctl")
	for _, test := range []struct {
		args string
		exit int
	}{
		{"connect --target-cgroup " + own, 0},
		{"connect --target-cgroup " + other, api.ExitDenied},
		{"connect --target-cgroup " + parent, api.ExitDenied},
		{"connect --target-cgroup " + testenv.CgroupRoot(t), api.ExitDenied},
		{"connect --target-cgroup /", api.ExitFailure},
		{"connect --target-cgroup /none", api.ExitUsage},
		{"connect", api.ExitUsage},
		{fmt.Sprintf("call --target-pid %d", process.Process.Pid), 0},
		{fmt.Sprintf("call --target-pid %d", otherProcess.Process.Pid), api.ExitDenied},
		{"call --target-pid 1", api.ExitDenied},
		{"call --target-pid 4194305", api.ExitUsage},
		{"lookup --target-netns " + netns, 0},
		{"lookup --target-netns /proc/self/ns/net", api.ExitDenied},
		{"lookup --target-netns /proc/self/ns/user", api.ExitFailure},
		{fmt.Sprintf("lookup --target-netns %s --target-cgroup %s", netns, own), api.ExitUsage},
		{fmt.Sprintf("exec --target-cgroup %s", own), api.ExitUsage},
	} {
		for _, wrap := range [][]string{nil, {"unshare", "-Ur"}} {
			if wrap != nil && strings.Contains(test.args, "netns") {
				continue // from in there nobody opens another's
			}
			argv := append(slices.Clone(wrap), append([]string{ctl, "load"}, strings.Fields(test.args)...)...)
			_, stderr, exit := h.RunAs(owner, argv...)
			if exit != test.exit || exit != 0 && !strings.Contains(stderr, "hint: ") {
				t.Errorf("%v load %s: %d, want %d: %s", wrap, test.args, exit, test.exit, stderr)
			}
			name, _, _ := strings.Cut(test.args, " ")
			want := 0
			if exit == 0 {
				want = 1
			}
			if got := len(shownLinks(t)); got != want {
				t.Errorf("%v load %s: %d links", wrap, test.args, got)
			}
			if exit == 0 {
				unload(t, h, name)
				noLinks(t, test.args)
			}
		}
	}
}

const showing = "POST /v1/collections/connect/load HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\nUpgrade: hornet-target\r\n\r\n"

// asksFor101 sends the request and reads the 101.
func asksFor101(t *testing.T, h *testdaemon.Host) *net.UnixConn {
	t.Helper()
	conn := dialAs(t, owner, h.Socket).(*net.UnixConn)
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.WriteString(conn, showing); err != nil {
		t.Fatal(err)
	}
	switched(t, conn, "hornet-target")
	return conn
}

// switched reads the 101 of a protocol, and no byte more.
func switched(t *testing.T, conn io.Reader, protocol string) {
	t.Helper()
	want := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	b := make([]byte, len(want))
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != want {
		t.Fatalf("%q, %v", b, err)
	}
}

// TestTargetsNotAsAgreed: whatever else comes behind the 101, or before it.
func TestTargetsNotAsAgreed(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	cgroup := opened(t, cgroupOf(t, testenv.Cgroup(t), "own", owner))
	own, null := int(cgroup.Fd()), int(opened(t, os.DevNull).Fd())
	process := int(pidfdOf(t, sleeper(t, owner).Process.Pid).Fd())
	memory, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memory)
	path, err := unix.Open(filepath.Dir(h.Socket), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(path)
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(poll)
	file := int(opened(t, filepath.Join(cgroup.Name(), "cgroup.procs")).Fd())
	user := int(opened(t, "/proc/self/ns/user").Fd())
	proc := int(opened(t, "/proc/self").Fd())
	conns := dialAs(t, owner, h.Socket)
	raw, err := conns.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	root := h.Client()
	runs := func() bool {
		c, err := root.Get(t.Context(), "connect")
		return err == nil && c.State == api.StateRunning
	}
	runs()
	before := openFDs(t, h.PID())

	for name, sent := range map[string]struct {
		text string
		fds  []int
	}{
		"nothing with it":  {"\n", nil},
		"no line's end":    {"x", []int{own}},
		"two bytes":        {"\n\n", []int{own}},
		"much":             {strings.Repeat("\n", 100_000), []int{own}},
		"four":             {"\n", []int{own, own, own, own}},
		"two of a kind":    {"\n", []int{own, own}},
		"two and another":  {"\n", []int{own, process, own}},
		"five":             {"\n", []int{own, own, own, own, own}},
		"as many as can":   {"\n", slices.Repeat([]int{own}, 253)},
		"a device":         {"\n", []int{null}},
		"memory":           {"\n", []int{memory}},
		"a path":           {"\n", []int{path}},
		"an epoll":         {"\n", []int{poll}},
		"a cgroup's file":  {"\n", []int{file}},
		"a user namespace": {"\n", []int{user}},
		"proc":             {"\n", []int{proc}},
		"a connection":     {"\n", []int{int(raw.Fd())}},
		"one that is good": {"\n", []int{own, null}},
	} {
		conn := asksFor101(t, h)
		if _, _, err := conn.WriteMsgUnix([]byte(sent.text), unix.UnixRights(sent.fds...), nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all, err := io.ReadAll(conn)
		if errors.Is(err, syscall.ECONNRESET) && len(sent.text) > 1 {
			err = nil // it hung up with something unread
		}
		if err != nil || !strings.Contains(string(all), `"kind":"protocol"`) || !strings.HasSuffix(string(all), "}\n") || !strings.Contains(string(all), `"hint":"`) {
			t.Errorf("%s: %q, %v", name, all, err)
		}
		conn.Close()
	}
	for name, early := range map[string]struct {
		text string
		fds  []int
	}{
		"a descriptor":    {showing, []int{own}},
		"a byte":          {showing + "\n", nil},
		"both":            {showing + "\n", []int{own}},
		"a body":          {strings.Replace(showing, "Host: h\r\n", "Host: h\r\nContent-Length: 2\r\n", 1) + "{}", nil},
		"no upgrade":      {strings.Replace(showing, "Upgrade: hornet-target\r\n", "Content-Length: 2\r\n", 1) + "{}", []int{own}},
		"another upgrade": {strings.Replace(showing, "hornet-target", "hornet-fd", 1), []int{own}},
	} {
		got := ask(t, dialAs(t, owner, h.Socket), early.text, early.fds...)
		if got.status != http.StatusBadRequest || got.kind != api.KindProtocol {
			t.Errorf("%s before the 101: %+v", name, got)
		}
	}
	if links := shownLinks(t); len(links) != 0 {
		t.Errorf("%d links", len(links))
	}

	// A peer dies at each step.
	for i := range len(showing) + 1 {
		conn := dialAs(t, owner, h.Socket)
		io.WriteString(conn, showing[:i])
		conn.Close()
	}
	settledFDs(t, h.PID(), before) // else the user has as many connections as one may
	asksFor101(t, h).Close()
	conn := asksFor101(t, h)
	conn.CloseWrite()
	if all, err := io.ReadAll(conn); err != nil || len(all) > 0 {
		t.Errorf("nobody shows anything: %q, %v", all, err)
	}
	for range 20 {
		conn := asksFor101(t, h)
		if _, _, err := conn.WriteMsgUnix([]byte("\n"), unix.UnixRights(own), nil); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		eventually(t, "loaded though nobody waits", runs)
		if _, err := root.Unload(t.Context(), "connect", api.UnloadRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if !testing.Short() {
		conn := asksFor101(t, h)
		all, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(all), "nothing came behind the 101 within 10s") {
			t.Errorf("one that waits: %q, %v", all, err)
		}
	}
	root.Close()
	if after := settledFDs(t, h.PID(), before); after > before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
	waitForSlot(t, h)
}

// TestTargetAttachedAnew: a version whose links would have to be attached anew where
// nobody shows the way is refused before anything changes, with a gap too.
func TestTargetAttachedAnew(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	_, ns := spaceOf(t, owner)
	for name, keys := range map[string]string{
		"xdp": "interface = \"lo\"\nmode = \"native\"\nupgrade = \"gap\"\n",
		"tcx": "interface = \"lo\"\nposition = \"head\"\n",
	} {
		first := loadAt(t, h, owner, name, ns)
		h.Manifest(name, "version = 2\n"+shownBy(first.Links[0].Program, ofCaller+keys))
		const want = "nobody shows that now"
		_, err := clientOf(t, h, owner).Upgrade(t.Context(), name)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(hintOf(err), "hornetctl unload "+name) {
			t.Errorf("%s: upgrade: %v, %q", name, err, hintOf(err))
		}
		stays(t, h, first)
		if plan, err := h.Client().Plan(t.Context()); !strings.Contains(fmt.Sprintf("%+v %v", plan, err), want) {
			t.Errorf("%s: plan = %+v, %v", name, plan, err)
		}
		reload(t, h)
		stays(t, h, first)
		checkShown(t, name, shownLinks(t)[0], name, ns)
		unload(t, h, name)
		noLinks(t, name)
	}
}

func hintOf(err error) string {
	var e *api.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Hint
}

// TestTargetWithoutDirectory: what has lost its directory ends like any other, and with
// it what somebody else holds of it.
func TestTargetWithoutDirectory(t *testing.T) {
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	h := newShown(t, libc)
	_, ns := spaceOf(t, owner)
	loadAt(t, h, owner, "xdp", ns)
	must(t, os.RemoveAll(filepath.Join(h.BPFFS, "xdp")))
	targetEnds(t, h, "xdp", "nobody shows a way there")
	loadAt(t, h, owner, "xdp", ns)
	unload(t, h, "xdp")

	h.Manifest("both", shownBy("shown_connect", ofCaller)+fmt.Sprintf("[[attach]]\nprogram = \"%scall\"\n%s", shownPrefix, strings.ReplaceAll(shownKeys("call"), "LIBRARY", libc)))
	_, err := reload(t, h)
	must(t, err)
	dir, cmd := cgroupOf(t, testenv.Cgroup(t), "both", owner), sleeper(t, owner)
	c := loadAt(t, h, owner, "both", opened(t, dir), pidfdOf(t, cmd.Process.Pid))
	i := slices.IndexFunc(c.Links, func(l api.Link) bool { return strings.Contains(l.Target, dir) })
	held, err := link.NewFromID(link.ID(c.Links[i].ID))
	must(t, err)
	defer held.Close()
	h.Signal(unix.SIGSTOP) // it sees both at once
	must(t, os.RemoveAll(filepath.Join(h.BPFFS, "both")))
	end(cmd)
	h.Signal(unix.SIGCONT)
	eventually(t, "unloaded", func() bool { return get(t, h, "both").State != api.StateRunning })
	info, err := held.Info()
	must(t, err)
	if id := info.Cgroup().CgroupId; id != 0 {
		t.Errorf("what somebody holds runs on at cgroup %d", id)
	}
}

// TestTargetEndsWhateverElse: what keeps a repair from being made keeps no end.
func TestTargetEndsWhateverElse(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	for name, wrong := range map[string]func(dir string){
		"a foreign name": func(dir string) {
			must(t, os.Mkdir(filepath.Join(dir, "note"), 0o700))
			must(t, os.Remove(filepath.Join(dir, "record"))) // else it is seen within seconds only
		},
		"no directory": func(dir string) {
			must(t, os.RemoveAll(dir))
			must(t, os.Symlink("/", dir))
		},
	} {
		cmd := sleeper(t, owner)
		c := loadAt(t, h, owner, "calls", pidfdOf(t, cmd.Process.Pid))
		held, err := link.NewFromID(link.ID(c.Links[0].ID)) // it does not go by itself
		must(t, err)
		dir := filepath.Join(h.BPFFS, "calls")
		h.Stopped(func() { wrong(dir) })
		eventually(t, name+": it is seen", func() bool { return strings.Contains(problems(t, h), "drift: ") })
		end(cmd)
		eventually(t, name+": it ends", func() bool {
			s, err := h.Client().Status(t.Context())
			return err == nil && s.Collections.Running == 0
		})
		must(t, held.Close())
		noLinks(t, name)
		os.Remove(dir) // the link, for which the next load would be refused
	}
}

// TestTargetKeepsNoReload: what runs where nobody shows the way now refuses its own new
// version only, whoever has it run.
func TestTargetKeepsNoReload(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	_, ns := spaceOf(t, owner)
	first := loadAt(t, h, owner, "tcx", ns)
	dir := testenv.Cgroup(t)
	for i, keys := range []string{
		"interface = \"other\"\n",
		"interface = \"lo\"\nposition = \"head\"\n",
	} {
		h.Manifest("tcx", fmt.Sprintf("version = %d\n", i+2)+shownBy("shown_tcx", ofCaller+keys))
		boot := fmt.Sprintf("boot-%d", i)
		h.Manifest(boot, strings.Replace(shownBy("shown_connect", fmt.Sprintf("cgroup = %q\n", dir)), "start = \"request\"\n", "", 1))
		plan, err := reload(t, h)
		j := slices.IndexFunc(plan.Changes, func(c api.Change) bool { return c.Collection == "tcx" })
		if err != nil || j < 0 || plan.Changes[j].Action != api.ActionRefuse || plan.Changes[j].Error == nil || !strings.Contains(plan.Changes[j].Error.Hint, "hornetctl unload tcx") {
			t.Fatalf("%s: %+v, %v", keys, plan, err)
		}
		if c := get(t, h, boot); c.State != api.StateRunning {
			t.Errorf("what else is new: %s, %s", c.State, c.Reason)
		}
		if c := get(t, h, "tcx"); c.State != api.StateRunning || c.Programs[0].ID != first.Programs[0].ID || !strings.Contains(problems(t, h), plan.Changes[j].Error.Message) {
			t.Errorf("%+v, problems %s", c, problems(t, h))
		}
		unload(t, h, boot)
	}
	unload(t, h, "tcx")
	loadAt(t, h, owner, "tcx", ns)
	unload(t, h, "tcx")
}
