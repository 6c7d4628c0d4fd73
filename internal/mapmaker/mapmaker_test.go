package mapmaker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/confine"
)

// TestMain is what the command's main is: it looks at its name first.
func TestMain(m *testing.M) {
	if child, ok := children[os.Args[0]]; ok {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// children are what this program is under other names: Serve, and processes that
// answer what none should, or try what none may.
var children = map[string]func() int{
	"test-serve":     Serve,
	"test-silent":    func() int { return 0 },
	"test-panic":     func() int { panic("its \x1b[31mown") },
	"test-killed":    func() int { unix.Kill(os.Getpid(), unix.SIGKILL); return 0 },
	"test-hangs":     func() int { time.Sleep(time.Hour); return 0 },
	"test-nonsense":  func() int { return said([]byte("ok\x1b")) },
	"test-errno":     func() int { return said(answer(4096, "beyond")) },
	"test-text":      func() int { return said(answer(0, strings.Repeat("\n", maxAnswer))) },
	"test-nothing":   func() int { return said(answer(0, "")) },
	"test-file":      func() int { return said(answer(0, ""), int(file(os.DevNull).Fd())) },
	"test-two":       func() int { return said(answer(0, ""), newMap(), newMap()) },
	"test-many":      func() int { return said(answer(0, ""), newMap(), newMap(), newMap(), newMap(), newMap()) },
	"test-both":      func() int { return said(answer(unix.EINVAL, "no"), newMap()) },
	"test-empty":     func() int { return sendEmpty(newMap()) },
	"test-one":       func() int { return said(answer(0, ""), newMap()) },
	"test-status":    func() int { said(answer(0, ""), newMap()); return 3 },
	"test-no-memory": func() int { return fail(unix.ENOMEM) },
	"test-no-right":  func() int { return fail(unix.EPERM) },
	"test-lingers":   func() int { said(answer(0, ""), newMap()); time.Sleep(time.Hour); return 0 },

	"test-open":  keeps(func() { unix.Open("/", unix.O_RDONLY, 0) }),
	"test-exec":  keeps(func() { unix.Exec("/proc/self/exe", []string{"test-serve"}, nil) }),
	"test-other": keeps(func() { unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_GET_FD_BY_ID, 0, 0) }),
	"test-load":  keeps(func() { unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, 0, 0) }),
	"test-update": keeps(func() {
		unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_UPDATE_ELEM, 0, 0)
	}),
	"test-rights": keeps(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		unix.Capget(&header, &data[0]) // which is no call of its own
	}),
	"test-parent": func() int {
		go New("test-hangs", func(pid int) error { fmt.Println(pid); return nil }).Make([]*ebpf.MapSpec{array(8)})
		time.Sleep(time.Hour)
		return 0
	},
}

// asRoot skips a test that is not root's, and fails one that leaves maps open. It
// stands here because package testenv is linked with cgo, with which nothing confines
// itself.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as make test does")
	}
	t.Cleanup(func() {
		fds, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); strings.Contains(to, "bpf") {
				t.Errorf("%s is open: %s", fd, to)
			}
		}
	})
}

func said(b []byte, fds ...int) int {
	if err := unix.Sendmsg(answerFD, b, unix.UnixRights(fds...), nil, 0); err != nil {
		return 1
	}
	return 0
}

// sendEmpty sends a descriptor with no byte, which package unix does not.
func sendEmpty(fd int) int {
	rights := unix.UnixRights(fd)
	h := unix.Msghdr{Control: &rights[0]}
	h.SetControllen(len(rights))
	if _, _, errno := unix.Syscall(unix.SYS_SENDMSG, answerFD, uintptr(unsafe.Pointer(&h)), 0); errno != 0 {
		return 1
	}
	return 0
}

func keeps(do func()) func() int {
	return func() int {
		if err := confine.KeepMaps(readFiles); err != nil {
			return fail(err)
		}
		do()
		return fail(errors.New("nothing kept it from that"))
	}
}

func file(name string) *os.File {
	f, err := os.Open(name)
	if err != nil {
		panic(err)
	}
	return f
}

func array(entries uint32) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "one", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: entries}
}

func newMap() int {
	m, err := ebpf.NewMap(array(1))
	if err != nil {
		panic(err)
	}
	fd, err := unix.Dup(m.FD())
	if err != nil {
		panic(err)
	}
	return fd
}

// request has a process of that name make maps, on a thread that outlives it.
func request(t testing.TB, name string, specs ...*ebpf.MapSpec) ([]*ebpf.Map, error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid := 0
	m := New(name, func(p int) error { pid = p; return nil })
	if name == "test-hangs" || name == "test-lingers" {
		m.patience = time.Second
	}
	maps, err := m.Make(specs)
	t.Cleanup(func() {
		for _, m := range maps {
			m.Close()
		}
	})
	if pid == 0 {
		t.Fatalf("it was not put anywhere: %v", err)
	}
	if unix.Kill(pid, 0) == nil {
		t.Errorf("process %d is still there", pid)
	}
	return maps, err
}

// key and value are types such as an object has them.
func types() (key, value btf.Type) {
	u32 := &btf.Int{Name: "__u32", Size: 4}
	u64 := &btf.Int{Name: "__u64", Size: 8}
	inner := &btf.Struct{Name: "pair", Size: 8, Members: []btf.Member{{Name: "a", Type: u32}, {Name: "b", Type: u32, Offset: 32}}}
	self := &btf.Struct{Name: "node", Size: 24}
	self.Members = []btf.Member{{Name: "n", Type: u64}, {Name: "p", Type: inner, Offset: 64}, {Name: "next", Type: &btf.Pointer{Target: self}, Offset: 128}}
	return &btf.Typedef{Name: "index", Type: u32}, self
}

// kinds are maps of every type that can be made without more than numbers.
func kinds() []*ebpf.MapSpec {
	page := uint32(os.Getpagesize())
	key, value := types()
	outer := func(typ ebpf.MapType) *ebpf.MapSpec {
		return &ebpf.MapSpec{Name: "outer", Type: typ, KeySize: 4, ValueSize: 4, MaxEntries: 4, InnerMap: &ebpf.MapSpec{Name: "inner", Type: ebpf.Array,
			KeySize: 4, ValueSize: 24, MaxEntries: 2, Key: key, Value: value}}
	}
	plain := func(typ ebpf.MapType, keySize, valueSize, entries, flags uint32) *ebpf.MapSpec {
		return &ebpf.MapSpec{Name: "a_map_of_a_name_too_long", Type: typ, KeySize: keySize, ValueSize: valueSize, MaxEntries: entries, Flags: flags}
	}
	typed := plain(ebpf.Hash, 4, 24, 7, 0)
	typed.Key, typed.Value = key, value
	data := plain(ebpf.Array, 4, 4, 1, unix.BPF_F_RDONLY_PROG|unix.BPF_F_MMAPABLE)
	data.Name, data.Key = "coll.rodata", &btf.Void{}
	data.Value = &btf.Datasec{Name: ".rodata", Size: 4, Vars: []btf.VarSecinfo{{Type: &btf.Var{Name: "rate", Type: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Linkage: btf.GlobalVar}, Size: 4}}}
	node := plain(ebpf.Array, 4, 8, 3, unix.BPF_F_NUMA_NODE)
	bloom := plain(ebpf.BloomFilter, 0, 8, 100, 0)
	bloom.MapExtra = 3
	storage := func(typ ebpf.MapType) *ebpf.MapSpec {
		ms := plain(typ, 4, 24, 0, unix.BPF_F_NO_PREALLOC)
		ms.Key, ms.Value = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, value
		return ms
	}
	return []*ebpf.MapSpec{
		storage(ebpf.TaskStorage), storage(ebpf.SkStorage),
		typed, data, node, bloom, outer(ebpf.ArrayOfMaps), outer(ebpf.HashOfMaps),
		plain(ebpf.Array, 4, 12, 1000, 0), plain(ebpf.ProgramArray, 4, 4, 8, 0), plain(ebpf.PerfEventArray, 0, 0, 0, 0),
		plain(ebpf.PerCPUHash, 8, 8, 9, unix.BPF_F_NO_PREALLOC), plain(ebpf.PerCPUArray, 4, 16, 5, 0), plain(ebpf.StackTrace, 4, 80, 16, 0),
		plain(ebpf.CGroupArray, 4, 4, 2, 0), plain(ebpf.LRUHash, 4, 4, 64, 0), plain(ebpf.LRUCPUHash, 4, 4, 64, unix.BPF_F_NO_COMMON_LRU),
		plain(ebpf.LPMTrie, 8, 4, 10, unix.BPF_F_NO_PREALLOC), plain(ebpf.DevMap, 4, 4, 4, 0), plain(ebpf.DevMapHash, 4, 4, 4, 0),
		plain(ebpf.SockMap, 4, 8, 4, 0), plain(ebpf.SockHash, 4, 8, 4, 0), plain(ebpf.CPUMap, 4, 4, 0, 0), plain(ebpf.XSKMap, 4, 4, 4, 0),
		plain(ebpf.Queue, 0, 4, 4, 0), plain(ebpf.Stack, 0, 4, 4, 0), plain(ebpf.ReusePortSockArray, 4, 8, 4, 0),
		plain(ebpf.RingBuf, 0, 0, page, 0), plain(ebpf.UserRingbuf, 0, 0, page, 0),
	}
}

// What bpftool shows of a map, but what differs from one to the next.
func shown(t *testing.T, m *ebpf.Map) string {
	t.Helper()
	info, err := bpfsys.MapInfo(m.FD())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("bpftool", "-j", "map", "show", "id", strconv.Itoa(int(info.ID))).CombinedOutput()
	if err != nil {
		t.Fatalf("bpftool: %v\n%s", err, out)
	}
	var all map[string]any
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"id", "btf_id", "pids", "bytes_memlock"} {
		delete(all, k)
	}
	info.ID = 0
	text := ""
	if info.BTFID != 0 {
		b, err := exec.Command("bpftool", "btf", "dump", "id", strconv.Itoa(int(info.BTFID))).CombinedOutput()
		if err != nil {
			t.Fatalf("bpftool: %v\n%s", err, b)
		}
		text = string(b)
		info.BTFID = 1
	}
	fdinfo, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", m.FD()))
	if err != nil {
		t.Fatal(err)
	}
	_, facts, _ := strings.Cut(string(fdinfo), "map_type:")
	facts, _, _ = strings.Cut(facts, "map_id:")
	return fmt.Sprintf("%v\n%+v\n%s\n%s", all, info, facts, text)
}

// A map that the process made is what one made here would be, as the kernel and
// bpftool describe both.
func TestSameAsMadeHere(t *testing.T) {
	asRoot(t)
	bpftool(t)
	var specs []*ebpf.MapSpec
	var want []string
	for _, spec := range kinds() {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Errorf("%s cannot be made here: %v", spec.Type, err)
			continue
		}
		want = append(want, shown(t, m))
		m.Close()
		specs = append(specs, spec)
	}
	maps, err := request(t, "test-serve", specs...)
	if err != nil || len(maps) != len(specs) {
		t.Fatalf("%d of %d, %v", len(maps), len(specs), err)
	}
	for i, m := range maps {
		if diff := cmp.Diff(want[i], shown(t, m)); diff != "" {
			t.Errorf("%s (-made here, +by the process):\n%s", specs[i].Type, diff)
		}
		if err := specs[i].Compatible(m); err != nil {
			t.Errorf("%s: %v", specs[i].Type, err)
		}
	}
	// One that can be written from here.
	hash := slices.IndexFunc(specs, func(s *ebpf.MapSpec) bool { return s.Type == ebpf.Hash })
	if err := maps[hash].Put(uint32(1), make([]byte, 24)); err != nil {
		t.Error(err)
	}
}

func bpftool(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("bpftool"); err != nil {
		t.Skip("bpftool is not installed")
	}
}

// What the kernel refuses it refuses in the same words, and those before it are
// there.
func TestRefusedAsHere(t *testing.T) {
	asRoot(t)
	bad := []*ebpf.MapSpec{
		{Name: "a", Type: ebpf.Array, KeySize: 4, ValueSize: 8},
		{Name: "a", Type: ebpf.Array, KeySize: 5, ValueSize: 8, MaxEntries: 1},
		{Name: "a", Type: ebpf.Array, KeySize: 4, ValueSize: 1 << 30, MaxEntries: 1 << 31},
		{Name: "a", Type: ebpf.RingBuf, MaxEntries: 4095},
		{Name: "a", Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 1},
		{Name: "a", Type: ebpf.ArrayOfMaps, KeySize: 4, MaxEntries: 1},
		{Name: "a", Type: ebpf.ArrayOfMaps, KeySize: 4, MaxEntries: 1, InnerMap: array(0)},
		{Name: "a", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE | unix.BPF_F_INNER_MAP | unix.BPF_F_RDONLY_PROG | 1<<30},
		{Name: "a", Type: 4000, KeySize: 4, ValueSize: 8, MaxEntries: 1},
		{Name: "a", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, NumaNode: 1 << 20, Flags: unix.BPF_F_NUMA_NODE},
	}
	for _, spec := range bad {
		_, want := ebpf.NewMap(spec)
		if want == nil {
			t.Errorf("%s is made", spec)
			continue
		}
		maps, err := request(t, "test-serve", array(8), spec, array(8))
		var here, there syscall.Errno
		errors.As(want, &here)
		errors.As(err, &there)
		if here == 0 && errors.Is(err, ErrProcess) && len(maps) == 1 {
			continue // the library's words: it says them again where it is asked here
		}
		if err == nil || err.Error() != want.Error() || here != there || len(maps) != 1 {
			t.Errorf("%s: %d maps, %v (%v), want %v (%v)", spec, len(maps), err, there, want, here)
		}
	}
}

// Whatever has become of the process, what it says is held against what it may.
func TestWrongAnswers(t *testing.T) {
	asRoot(t)
	for _, tt := range []struct {
		name, says string
		maps       int
	}{
		{"test-silent", "exit status 0", 0},
		{"test-panic", `it answered panic: `, 0},
		{"test-nonsense", `it answered ok\x1b`, 0},
		{"test-errno", `it answered \x00\x10\x00\x00beyond`, 0},
		{"test-text", `process that makes maps: \n\n`, 0},
		{"test-nothing", "it passed on 0 descriptors", 0},
		{"test-file", "what is no map", 0},
		{"test-empty", "exit status 0", 0},
		{"test-two", "it passed on 2 descriptors", 0},
		{"test-many", "it passed on ", 0},
		{"test-both", "creating map: no", 0},
		{"test-one", "exit status 0", 1},
		{"test-status", "exit status 3", 1},
		{"test-hangs", "no answer within 1s", 0},
		{"test-open", "bad system call", 0},
		{"test-exec", "bad system call", 0},
		{"test-other", "bad system call", 0},
		{"test-load", "bad system call", 0},
		{"test-update", "bad system call", 0},
		{"test-rights", "bad system call", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			maps, err := request(t, tt.name, array(8), array(8))
			if err == nil || !strings.Contains(err.Error(), tt.says) || errors.Is(err, ErrKilled) || len(err.Error()) > 5*maxAnswer {
				t.Errorf("%v, want %q", err, tt.says)
			}
			var errno syscall.Errno
			if kernel := tt.name == "test-both"; errors.As(err, &errno) != kernel || errors.Is(err, ErrProcess) == kernel {
				t.Errorf("%v is about the process: %t, with errno %d", err, !kernel, errno)
			}
			if strings.ContainsAny(fmt.Sprint(err), "\n\x1b") {
				t.Errorf("%q is not for people", err)
			}
			if len(maps) != tt.maps {
				t.Errorf("%d maps, want %d", len(maps), tt.maps)
			}
		})
	}
}

// One that has answered all, and may have kept descriptors, is waited for, and ended.
func TestLingers(t *testing.T) {
	asRoot(t)
	maps, err := request(t, "test-lingers", array(1))
	if len(maps) != 1 || err == nil || err.Error() != "process that makes maps: it did not end within 1s" {
		t.Errorf("%d maps, %v", len(maps), err)
	}
}

func TestKilled(t *testing.T) {
	asRoot(t)
	maps, err := request(t, "test-killed", array(8))
	if !errors.Is(err, ErrKilled) || len(maps) != 0 {
		t.Errorf("%d maps, %v", len(maps), err)
	}
}

// Killed with each of its maps made, from none to all: what was made is handed over,
// closed, and gone.
func TestKilledAtEachStep(t *testing.T) {
	asRoot(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	job, err := encode([]*ebpf.MapSpec{array(1), array(2), array(3)})
	if err != nil {
		t.Fatal(err)
	}
	for step := range 4 {
		p, err := New("test-serve", nil).start()
		if err != nil {
			t.Fatal(err)
		}
		if step > 0 {
			p.job.Write(job)
			p.job.Close()
		}
		for range step {
			m, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			m.Close()
		}
		p.Kill()
		for err = nil; err == nil; { // what it had answered by then
			var m *ebpf.Map
			if m, err = p.next(); err == nil {
				m.Close()
			}
		}
		if step < 3 && !errors.Is(err, ErrKilled) && p.state.ExitCode() != 0 {
			t.Errorf("killed at step %d: %v", step, err)
		}
		p.end()
	}
}

// The process has no more than it needs, and is the first to be killed.
func TestConfined(t *testing.T) {
	asRoot(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := New("test-serve", nil).start()
	if err != nil {
		t.Fatal(err)
	}
	defer p.end()
	dir := fmt.Sprintf("/proc/%d/", p.Pid)
	want := []string{"\nNoNewPrivs:\t1\n", "\nSeccomp:\t2\n", "\nCapPrm:\t000000c000001000\n", "\nCapEff:\t000000c000001000\n", "\nCapInh:\t0000000000000000\n"}
	var status []byte
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if status, _ = os.ReadFile(dir + "status"); bytes.Contains(status, []byte("\nSeccomp:\t2\n")) {
			break
		}
	}
	for _, w := range want {
		if !bytes.Contains(status, []byte(w)) {
			t.Errorf("no %q in\n%s", w, status)
		}
	}
	if adj, err := os.ReadFile(dir + "oom_score_adj"); string(adj) != "1000\n" {
		t.Errorf("oom_score_adj %q, %v", adj, err)
	}
	fds, err := os.ReadDir(dir + "fd")
	if err != nil || len(fds) != 6 { // two are the runtime's, to wait
		t.Errorf("descriptors %v, %v", fds, err)
	}
}

// A process dies with the one that started it.
func TestDiesWithItsParent(t *testing.T) {
	asRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: self, Args: []string{"test-parent"}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Fscan(out, &child); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(child), "stat")); err != nil || bytes.Contains(b, []byte(") Z ")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", child)
		}
	}
}

// What does not join is not asked for any map.
func TestJoinFails(t *testing.T) {
	asRoot(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if maps, err := New("test-serve", func(int) error { return unix.EPERM }).Make([]*ebpf.MapSpec{array(8)}); !ofProcess(err) || len(maps) != 0 {
		t.Errorf("%v, %v", maps, err)
	}
}

// ofProcess reports whether an error is about the process, and can be taken for
// nothing else.
func ofProcess(err error) bool {
	var errno syscall.Errno
	return errors.Is(err, ErrProcess) && !errors.As(err, &errno)
}

// A process that cannot be started is nothing that the kernel says of a map.
func TestNotStarted(t *testing.T) {
	asRoot(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	maps, err := New("test-serve", nil).Make([]*ebpf.MapSpec{array(8)})
	if !ofProcess(err) || len(maps) != 0 || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("%v, %v", maps, err)
	}
}

// Where the kernel does not say how a process ended, that is no reason to end too.
func TestEndNotKnown(t *testing.T) {
	asRoot(t)
	signal.Ignore(unix.SIGCHLD)
	defer signal.Reset(unix.SIGCHLD)
	for name, maps := range map[string]int{"test-serve": 1, "test-silent": 0} {
		if made, err := request(t, name, array(8)); !ofProcess(err) || !strings.Contains(err.Error(), "how it ended is not known") || len(made) != maps {
			t.Errorf("%s: %d maps, %v", name, len(made), err)
		}
	}
}

// No memory for the process is none for its maps; all else that goes wrong with it is
// about it alone.
func TestFails(t *testing.T) {
	asRoot(t)
	if _, err := request(t, "test-no-memory", array(8)); !errors.Is(err, unix.ENOMEM) || errors.Is(err, ErrProcess) {
		t.Error(err)
	}
	if _, err := request(t, "test-no-right", array(8)); !ofProcess(err) {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, spec := range kinds() {
		job, err := encode([]*ebpf.MapSpec{spec})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(job)
	}
	f.Add([]byte(`[null,{"inner":{"inner":{}}},{"types":"AA==","key":4000000000}]`))
	f.Fuzz(func(t *testing.T, job []byte) {
		specs, err := decode(job)
		if err != nil {
			return
		}
		again, err := encode(specs)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := decode(again); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(answer(0, ""))
	f.Add(answer(unix.ENOMEM, "map create: cannot allocate memory"))
	f.Add([]byte("ok"))
	f.Fuzz(func(t *testing.T, b []byte) {
		errno, text, ok := splitAnswer(b)
		if ok && len(text) <= maxAnswer-4 && !bytes.Equal(answer(errno, text), b) {
			t.Errorf("%q is read as %d, %q", b, errno, text)
		}
		if err := decodeAnswer(b); (err == nil) != (ok && errno == 0 && text == "") {
			t.Errorf("%q: %v", b, err)
		}
	})
}
