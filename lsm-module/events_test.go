package lsm

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

func readEvents(t *testing.T, g *Guard, wait time.Duration) []Event {
	t.Helper()
	r, err := g.Events()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []Event
	for {
		r.SetDeadline(time.Now().Add(wait))
		e, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
}

func TestEvents(t *testing.T) {
	g := arm(t, nil)
	for _, refused := range []bool{true, false} {
		if !refused {
			if err := g.SetMode(Audit, 0); err != nil {
				t.Fatal(err)
			}
		}
		cmd := child("tries", nil, "named")
		const uid, gid, capBPF = 1000, 2000, 39
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}, AmbientCaps: []uintptr{capBPF}}
		before, err := bootClock()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		var got *Event
		for _, e := range readEvents(t, g, time.Second) {
			if e.PID == uint32(cmd.Process.Pid) && e.Detail == unix.BPF_PROG_LOAD && e.Name == "attacker" {
				got = &e
			}
		}
		if got == nil {
			t.Fatal("the load of a program is not told")
		}
		exe, err := os.Stat(self(t))
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(self(t), &st); err != nil {
			t.Fatal(err)
		}
		want := Event{
			Boot: got.Boot, Deed: DeedBPF, Detail: unix.BPF_PROG_LOAD, Reason: ReasonCaller, Refused: refused, Cgroup: cgroupID(t),
			Executable: Executable{Inode: st.Ino, Device: kernelDevice(st.Dev), Generation: got.Executable.Generation},
			PID:        uint32(cmd.Process.Pid), Thread: got.Thread, UID: uid, GID: gid, Comm: "exe", Type: uint32(ebpf.SocketFilter), Name: "attacker",
		}
		if *got != want {
			t.Errorf("event\n%+v, want\n%+v (%s)", *got, want, exe.Name())
		}
		if got.Thread == 0 {
			t.Errorf("thread %d of process %d", got.Thread, got.PID)
		}
		if now, _ := bootClock(); uint64(got.Boot) < before || uint64(got.Boot) > now {
			t.Errorf("at %v, not between %d and %d", got.Boot, before, now)
		}
	}
}

// An executable may be one that the operator has listed.
func TestEventOfExecutable(t *testing.T) {
	e := Event{Deed: DeedBinary, Reason: ReasonOwned}
	if s := e.String(); strings.Contains(s, "hornetd") || !strings.Contains(s, "executable") {
		t.Errorf("%q", s)
	}
}

// What was done to a pin, and of which type a map is, stands in the audit log.
func TestEventText(t *testing.T) {
	for want, e := range map[string]Event{
		`bpf map_create of type ringbuf "x"`:                                                {Deed: DeedBPF, Detail: unix.BPF_MAP_CREATE, Type: uint32(ebpf.RingBuf), Name: "x"},
		`bpf map_freeze, of map 7, which is hornetd's`:                                      {Deed: DeedBPF, Detail: unix.BPF_MAP_FREEZE, Object: Object{Map, 7}, Reason: ReasonOwned},
		`a descriptor of a map of type percpu_hash "x", of map 7, which is hornetd's`:       {Deed: DeedMap, Type: uint32(ebpf.PerCPUHash), Name: "x", Object: Object{Map, 7}, Reason: ReasonOwned},
		`a descriptor of a map, of map 7, which is hornetd's`:                               {Deed: DeedMap, Object: Object{Map, 7}, Reason: ReasonOwned},
		`a descriptor of a program of type sched_cls "x", of program 7, which is hornetd's`: {Deed: DeedProgram, Type: uint32(ebpf.SchedCLS), Name: "x", Object: Object{Program, 7}, Reason: ReasonOwned},
		`a change of a pin (rename) "x", which is hornetd's`:                                {Deed: DeedPin, Detail: 3, Name: "x", Reason: ReasonOwned},
		`a change of a mount (umount), which is hornetd's`:                                  {Deed: DeedMount, Detail: 1, Reason: ReasonOwned},
		`a change of a pin (99), which is hornetd's`:                                        {Deed: DeedPin, Detail: 99, Reason: ReasonOwned},
	} {
		if got := e.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// cgroupID is that of the test, which is in the root cgroup.
func cgroupID(t *testing.T) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(testenv.CgroupRoot(t), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// childFlood tries to make maps, as one user after the other.
func childFlood(args []string) error {
	runtime.LockOSThread() // the call below is about this thread
	users, _ := strconv.Atoi(args[0])
	times, _ := strconv.Atoi(args[1])
	for u := range users {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(1000+u), 0, 0); errno != 0 {
			return errno
		}
		for range times {
			if fd, err := bpf(unix.BPF_MAP_CREATE, map[int]uint32{0: ^uint32(0)}); !errors.Is(err, unix.EPERM) {
				return fmt.Errorf("%d, %v", fd, err)
			}
		}
	}
	return nil
}

// Whoever makes more noise than is of use is counted, and nobody else pays for it;
// what does not fit is counted too.
func TestEventsAreBounded(t *testing.T) {
	g := arm(t, nil)
	counters := func() Status {
		s, err := g.Status()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	readEvents(t, g, 100*time.Millisecond)
	before := counters()
	if out, err := child("flood", nil, "1", "5000").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	time.Sleep(1100 * time.Millisecond)
	if out, err := child("flood", nil, "1", "1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	told := readEvents(t, g, time.Second)
	after := counters()
	refused, suppressed := after.Refused-before.Refused, after.Suppressed-before.Suppressed
	if refused != 5001 || suppressed == 0 || uint64(len(told))+suppressed != refused || after.Lost != before.Lost {
		t.Errorf("%d refused, %d told, %d suppressed, %d lost", refused, len(told), suppressed, after.Lost-before.Lost)
	}
	if calls := after.Calls - before.Calls; calls < refused || calls > refused+100 { // and some to look
		t.Errorf("%d calls of bpf(2) seen, %d refused", calls, refused)
	}
	var said uint64
	for _, e := range told {
		said += e.Suppressed
	}
	if said != suppressed {
		t.Errorf("events say that %d were suppressed, %d were", said, suppressed)
	}

	before = counters()
	const users, times = 60, 60 // below the limit each, together more than there is room for
	if out, err := child("flood", nil, strconv.Itoa(users), strconv.Itoa(times)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	told = readEvents(t, g, time.Second)
	after = counters()
	refused, lost := after.Refused-before.Refused, after.Lost-before.Lost
	if refused != users*times || lost == 0 || uint64(len(told))+lost+after.Suppressed-before.Suppressed != refused {
		t.Errorf("%d refused, %d told, %d lost, %d suppressed", refused, len(told), lost, after.Suppressed-before.Suppressed)
	}
}

// childTries does what it is told to and prints one answer for each.
func childTries(args []string) error {
	var answers []string
	for _, arg := range args {
		what, rest, _ := strings.Cut(arg, "=")
		number, _ := strconv.Atoi(rest)
		answers = append(answers, answer(try(what, rest, number)))
	}
	fmt.Println(strings.Join(answers, " "))
	return nil
}

func try(what, text string, number int) error {
	switch what {
	case "map":
		return childCreates(nil)
	case "named": // the library gives no name where it is refused to try
		return closing(bpf(unix.BPF_PROG_LOAD, map[int]uint32{0: uint32(ebpf.SocketFilter), 12: 'a' | 't'<<8 | 't'<<16 | 'a'<<24, 13: 'c' | 'k'<<8 | 'e'<<16 | 'r'<<24}))
	case "filter", "raw_tp":
		spec := &ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}}
		if what == "raw_tp" {
			spec.Type = ebpf.RawTracepoint
		}
		p, err := ebpf.NewProgram(spec)
		if err == nil {
			p.Close()
		}
		return err
	case "program":
		return closing(bpf(unix.BPF_PROG_GET_FD_BY_ID, map[int]uint32{0: uint32(number)}))
	case "link":
		return closing(bpf(unix.BPF_LINK_GET_FD_BY_ID, map[int]uint32{0: uint32(number)}))
	case "write":
		return closing(bpf(unix.BPF_MAP_GET_FD_BY_ID, map[int]uint32{0: uint32(number)}))
	case "read":
		return closing(bpf(unix.BPF_MAP_GET_FD_BY_ID, map[int]uint32{0: uint32(number), 2: unix.BPF_F_RDONLY}))
	case "uses":
		return loadWriting(number)
	case "detach":
		fd, err := bpf(unix.BPF_LINK_GET_FD_BY_ID, map[int]uint32{0: uint32(number)})
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = bpf(unix.BPF_LINK_DETACH, map[int]uint32{0: uint32(fd)})
		return err
	case "update":
		return update(number, unix.BPF_MAP_UPDATE_ELEM)
	case "freeze":
		return update(number, unix.BPF_MAP_FREEZE)
	case "remove":
		return unix.Unlink(text)
	case "over":
		return unix.Mount("tmpfs", text, "tmpfs", 0, "")
	case "private":
		return unix.Mount("", text, "", unix.MS_PRIVATE, "")
	case "umount":
		return unix.Unmount(text, unix.MNT_DETACH)
	case "umount-inside", "over-inside":
		pid, path, _ := strings.Cut(text, ":")
		what, _, _ = strings.Cut(what, "-")
		return inside(pid, func() error { return try(what, path, 0) })
	case "term":
		return unix.Kill(number, unix.SIGTERM)
	case "stop":
		return unix.Kill(number, unix.SIGSTOP)
	case "memory":
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", number), os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		return err
	case "on":
		return on(text)
	case "extends":
		of, err := ebpf.NewProgramFromFD(mustDup(number))
		if err != nil {
			return err
		}
		defer of.Close()
		p, err := extension(of)
		if err == nil {
			p.Close()
		}
		return err
	case "set-bpf": // of a file that has no ioctls: a guard answers before that
		null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(null)
		return unix.IoctlSetInt(null, unix.PERF_EVENT_IOC_SET_BPF, number)
	case "open":
		f, err := os.OpenFile(text, os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	case "attaches":
		return attaches(text)
	case "endfloor":
		return toFloor(number, unix.BPF_PROG_DETACH, 0)
	case "overfloor":
		return toFloor(number, unix.BPF_PROG_ATTACH, unix.BPF_F_ALLOW_MULTI|unix.BPF_F_REPLACE)
	case "linkfloor":
		return toFloor(number, unix.BPF_LINK_CREATE, 0)
	case "egress":
		return toEgress(text)
	case "batch":
		return batch(unix.BPF_MAP_UPDATE_BATCH)
	case "sigio":
		return signalByIO(number)
	case "async":
		return signalOf(3, number)
	default:
		return errors.New(text)
	}
}

// signalByIO has the kernel send SIGUSR2 to a process when a pipe has something.
func signalByIO(pid int) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	if err := signalOf(r.Fd(), pid); err != nil {
		return err
	}
	_, err = w.Write([]byte("x"))
	return err
}

// signalOf has a file send SIGUSR2 to a process when there is something to read.
func signalOf(fd uintptr, pid int) error {
	if _, err := unix.FcntlInt(fd, unix.F_SETOWN, pid); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(fd, unix.F_SETSIG, int(unix.SIGUSR2)); err != nil {
		return err
	}
	_, err := unix.FcntlInt(fd, unix.F_SETFL, unix.O_ASYNC|unix.O_NONBLOCK)
	return err
}

// The sender of such a signal is never told, so that its victim is asked: what the
// attacker writes, and what hornetd itself writes into the attacker's socket.
func TestSignalsOfFiles(t *testing.T) {
	g := arm(t, nil)
	came := make(chan os.Signal, 8)
	signal.Notify(came, unix.SIGUSR2)
	defer signal.Stop(came)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	for _, m := range []Mode{Enforce, Audit} {
		if err := g.SetMode(m, time.Minute); err != nil {
			t.Fatal(err)
		}
		for _, how := range []string{"sigio", "async"} {
			cmd := child("tries", nil, how+"="+strconv.Itoa(os.Getpid()))
			cmd.ExtraFiles = []*os.File{theirs}
			if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "ok" {
				t.Fatalf("%s: %v: %s", how, err, out)
			}
			if how == "async" {
				if _, err := ours.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			wait := 2 * time.Second
			if m == Audit { // it comes
				wait = time.Minute
			}
			select {
			case <-came:
				if m == Enforce {
					t.Errorf("%s: the signal came while the guard enforces", how)
				}
			case <-time.After(wait):
				if m == Audit {
					t.Errorf("%s: the signal did not come while the guard audits", how)
				}
			}
		}
	}
}

// Who is listed may do what is listed, and nothing to what hornetd owns.
func TestAllow(t *testing.T) {
	guestOnly(t)
	s := newScene(t)
	listed, other := testenv.Cgroup(t), testenv.Cgroup(t)
	if err := os.Remove(listed); err != nil { // a service that has not started yet
		t.Fatal(err)
	}
	tool := s.copy
	file, err := os.Open(tool)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ignored := make(chan os.Signal, 8)
	signal.Notify(ignored, unix.SIGTERM)
	defer signal.Stop(ignored)
	arm(t, func(c *Config) {
		c.Guarded = []string{s.Guarded}
		c.Owned = []Object{{Map, s.Map}, {Program, s.Prog}, {Link, s.Link}}
		c.Allow = []Identity{
			{Cgroup: listed, Commands: []uint32{unix.BPF_MAP_CREATE, unix.BPF_PROG_LOAD, unix.BPF_LINK_DETACH, unix.BPF_LINK_GET_FD_BY_ID},
				Programs: []uint32{uint32(ebpf.SocketFilter)}, Signals: true},
			{Executable: file, Commands: []uint32{unix.BPF_PROG_GET_FD_BY_ID}},
		}
	})
	if err := os.Mkdir(listed, 0o755); err != nil {
		t.Fatal(err)
	}
	tries := []string{"map", "filter", "raw_tp", fmt.Sprint("program=", s.Prog), fmt.Sprint("link=", s.Link), fmt.Sprint("detach=", s.Link), fmt.Sprint("write=", s.Map), fmt.Sprint("term=", os.Getpid())}
	for _, tt := range []struct {
		what, cgroup, exe, want string
	}{
		{"nobody", other, self(t), "EPERM EPERM EPERM EPERM EPERM EPERM EPERM EPERM"},
		{"the cgroup", listed, self(t), "ok ok EPERM EPERM ok EPERM EPERM ok"},
		{"the executable", other, tool, "EPERM EPERM EPERM ok EPERM EPERM EPERM EPERM"},
		{"both", listed, tool, "ok ok EPERM ok ok EPERM EPERM ok"},
	} {
		_, out := start(t, 0, tt.cgroup, tt.exe, "tries", tries...)
		got := said(t, out)
		if got != tt.want {
			t.Errorf("%s:\n%v\n%s, want\n%s", tt.what, tries, got, tt.want)
		}
		if strings.HasSuffix(got, " ok") {
			<-ignored // what comes behind Stop ends the test's process
		}
	}
}

// A map that hornetd gives away to be written is one, and nothing else is.
func TestShare(t *testing.T) {
	g := arm(t, nil)
	m := newMap(t)
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	tries := func() string {
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "map")
		defer f.Close()
		cmd := child("tries", nil, "update=3", "batch", "freeze=3", fmt.Sprint("write=", id))
		cmd.ExtraFiles = []*os.File{f}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := tries(); got != "EPERM EPERM EPERM EPERM" {
		t.Errorf("with a descriptor that got away: %s", got)
	}
	if err := g.Share(uint32(id)); err != nil {
		t.Fatal(err)
	}
	if got := tries(); got != "ok ok EPERM EPERM" {
		t.Errorf("with one that was given away: %s", got)
	}
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t), Owned: []Object{{Map, uint32(id)}}})
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	if got := tries(); got != "ok ok EPERM EPERM" {
		t.Errorf("with one that was given away before an upgrade: %s", got)
	}
	if err := g.Disown(Object{Map, uint32(id)}); err != nil {
		t.Fatal(err)
	}
	if got := tries(); got != "ok ok EINVAL ok" { // freezing has no second word
		t.Errorf("with a map that is not owned any more: %s", got)
	}
}

// The pins go with their last mount, whatever that is mounted in.
func TestTreeOfMounts(t *testing.T) {
	guestOnly(t)
	tree := t.TempDir()
	bpffs := filepath.Join(tree, "bpf")
	if err := errors.Join(unix.Mount("tmpfs", tree, "tmpfs", 0, ""), os.Mkdir(bpffs, 0o700), unix.Mount("bpf", bpffs, "bpf", 0, "mode=0700")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(tree, unix.MNT_DETACH) })
	g := armIn(t, filepath.Join(bpffs, "guard"), nil)
	out, err := child("tries", nil, "umount="+tree, "umount="+bpffs, "over="+bpffs, "over="+g.dir, "private="+bpffs).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "EPERM EPERM EPERM EPERM EPERM" {
		t.Errorf("umount of %s and the rest: %s, %v", tree, out, err)
	}
	if s, err := Look(g.dir); err != nil || !s.Enforces {
		t.Errorf("afterwards: %+v, %v", s, err)
	}
	// Another file system, and over a directory of this one that is not guarded.
	other, unguarded := t.TempDir(), filepath.Join(bpffs, "unguarded")
	t.Cleanup(func() { unix.Unmount(other, unix.MNT_DETACH) })
	if err := errors.Join(unix.Mount("tmpfs", other, "tmpfs", 0, ""), os.Mkdir(unguarded, 0o700)); err != nil {
		t.Fatal(err)
	}
	out, err = child("tries", nil, "umount="+other, "over="+unguarded, "umount="+unguarded).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "ok ok ok" {
		t.Errorf("what has no pins: %s, %v", out, err)
	}
}

// bpftool, as it comes from Debian, in the hands of root.
func TestBpftool(t *testing.T) {
	guestOnly(t)
	s := newScene(t)
	s.lay(t)
	attempts := []struct {
		args string
		deed Deed // that is told, or 0 where it goes through
	}{
		{"prog load " + object0(t) + " " + s.Foreign + "/loaded", DeedBPF},
		{fmt.Sprintf("map update id %d key 0 0 0 0 value 1 0 0 0 0 0 0 0", s.Map), DeedMap},
		{fmt.Sprintf("map freeze id %d", s.Map), DeedMap},
		{fmt.Sprintf("map create %s/m type array key 4 value 4 entries 1 name m", s.Foreign), DeedBPF},
		{fmt.Sprintf("link detach id %d", s.Link), DeedBPF},
		{fmt.Sprintf("link detach pinned %s/unit/link", s.Guarded), DeedBPF},
		{fmt.Sprintf("prog pin id %d %s/p", s.Prog, s.Foreign), DeedProgram},
		{fmt.Sprintf("cgroup attach %s egress pinned %s/cgroup", s.Cgroup, s.Foreign), DeedBPF},
		{fmt.Sprintf("map update pinned %s/map key 0 0 0 0 value 1 0 0 0 0 0 0 0", s.Foreign), 0},
		{"prog show", DeedProgram}, // it ends at the first that it may not open
	}
	g := arm(t, func(c *Config) {
		c.Guarded = []string{s.Guarded}
		c.Owned = []Object{{Map, s.Map}, {Program, s.Prog}, {Link, s.Link}}
	})
	for _, a := range attempts {
		readEvents(t, g, 10*time.Millisecond)
		_, out := startProgram(t, "/usr/sbin/bpftool", strings.Fields(a.args)...)
		text := said(t, out)
		denied := strings.Contains(text, "Error")
		if denied != (a.deed != 0) {
			t.Errorf("bpftool %s: %s", a.args, text)
		}
		told := readEvents(t, g, 200*time.Millisecond)
		if a.deed != 0 && !slices.ContainsFunc(told, func(e Event) bool { return e.Deed == a.deed && e.Refused && e.Comm == "bpftool" }) {
			t.Errorf("bpftool %s: no event %s among %+v", a.args, a.deed, told)
		}
	}
	if err := os.Remove(s.pin("map")); err != nil { // hornetd
		t.Error(err)
	}
	s.lay(t)
	_, out := startProgram(t, "/bin/sh", "-c", "rm -r "+s.Guarded+"/unit; ls "+s.Guarded+"/unit")
	if text := said(t, out); !strings.Contains(text, "Operation not permitted") || !strings.Contains(text, "link\nmap\n") {
		t.Errorf("rm: %s", text)
	}
	// Listed for looking, it looks; Debian 12's opens maps to write them, even to list them.
	tool, err := os.Open("/usr/sbin/bpftool")
	if err != nil {
		t.Fatal(err)
	}
	defer tool.Close()
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t), Guarded: []string{s.Guarded},
		Allow: []Identity{{Executable: tool, Commands: []uint32{unix.BPF_PROG_GET_FD_BY_ID, unix.BPF_LINK_GET_FD_BY_ID}}}})
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	for args, want := range map[string]string{
		"prog show": "cgroup_skb", "link show": "cgroup", "map show": "Operation not permitted",
		fmt.Sprintf("link detach id %d", s.Link):   "Operation not permitted",
		fmt.Sprintf("map freeze id %d", s.Map):     "Operation not permitted",
		"prog load " + object0(t) + " /tmp/loaded": "Error",
	} {
		_, out := startProgram(t, "/usr/sbin/bpftool", strings.Fields(args)...)
		if text := said(t, out); !strings.Contains(text, want) || want != "Error" && want != "Operation not permitted" && strings.Contains(text, "Error") {
			t.Errorf("bpftool %s, listed: %s", args, text)
		}
	}
	if info, err := s.link.Info(); err != nil || info.Program == 0 {
		t.Errorf("the link: %+v, %v", info, err)
	}
}

// object0 is an object of the examples.
func object0(t *testing.T) string {
	t.Helper()
	name, err := filepath.Abs("../examples/xdp-drop/xdp_drop.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	return name
}
