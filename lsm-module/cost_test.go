package lsm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// mostPerCall is what a program of the guard may take on the way that everybody's calls
// go, in instructions: less than a microsecond of a processor that does one in each
// nanosecond.
const mostPerCall = 1000.0

// mostOf is what programs may take that are on no such way: guard_perf looks through the
// stack, guard_umount through the mounts of the first process, of which a guest has 20 or so.
var mostOf = map[string]float64{"guard_perf": 3000, "guard_umount": 20_000}

// call is a system call that the guard has a hook for, by somebody who is not hornetd
// and does nothing to it.
type call struct {
	name  string
	times int
	do    func() error
}

// calls are those of a process that has a map and a socket as descriptors, in a directory
// with a file, and on another process.
func calls(dir string, other, m, socket int) []call {
	byte1 := make([]byte, 1)
	file, made, below := filepath.Join(dir, "file"), filepath.Join(dir, "made"), filepath.Join(dir, "below")
	open := func(name string, flags int) func() error {
		return func() error {
			fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o600)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}
	}
	key, value := new(uint32), new(uint64)
	lookup := func() error {
		attr := struct {
			fd, _      uint32
			key, value uint64
			flags      uint64
		}{fd: uint32(m), key: uint64(uintptr(unsafe.Pointer(key))), value: uint64(uintptr(unsafe.Pointer(value)))}
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		runtime.KeepAlive(key)
		runtime.KeepAlive(value)
		if errno != 0 {
			return errno
		}
		return nil
	}
	return []call{
		{"open to read, close", 2000, open(file, unix.O_RDONLY)},
		{"open to write, close", 2000, open(file, unix.O_WRONLY)},
		{"create, close, unlink", 1000, func() error {
			if err := open(made, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)(); err != nil {
				return err
			}
			return unix.Unlink(made)
		}},
		{"rename", 2000, func() error {
			defer func() { file, made = made, file }()
			return unix.Rename(file, made)
		}},
		{"chmod", 2000, func() error { return unix.Chmod(dir, 0o700) }},
		{"mkdir, rmdir", 1000, func() error {
			if err := unix.Mkdir(below, 0o700); err != nil {
				return err
			}
			return unix.Rmdir(below)
		}},
		{"mount, umount", 200, func() error {
			if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return unix.Unmount(dir, unix.MNT_DETACH)
		}},
		{"ioctl", 2000, func() error {
			_, err := unix.IoctlGetInt(socket, unix.SIOCINQ)
			return err
		}},
		{"kill with SIGURG", 2000, func() error { return unix.Kill(os.Getpid(), unix.SIGURG) }},
		{"kill with SIGWINCH, another", 2000, func() error { return unix.Kill(other, unix.SIGWINCH) }},
		{"process_vm_readv", 2000, func() error {
			_, err := unix.ProcessVMReadv(other, []unix.Iovec{{Base: &byte1[0], Len: 1}}, []unix.RemoteIovec{{Base: 1, Len: 1}}, 0)
			if err == unix.EFAULT { // it was let to look
				err = nil
			}
			return err
		}},
		{"bpf map_lookup_elem", 2000, lookup},
		// Its program looks at two numbers: what it takes is what measuring does.
		{"setsockopt", 2000, func() error { return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PRIORITY, 1) }},
		{"perf_event_open, close", 200, func() error {
			fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER5, Config: unix.PERF_COUNT_SW_CPU_CLOCK}, 0, -1, -1, 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}},
		{"fork, exec", 30, func() error { return exec.Command("/bin/true").Run() }},
		{"a shell's work", 1, func() error {
			out, err := exec.Command("sh", "-ec", work, "sh", filepath.Join(dir, "work")).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}},
	}
}

// work is what builds, packages and backups are made of: files written, read, packed, unpacked,
// compared and removed, by processes that end soon.
const work = `
mkdir "$1"
cd "$1"
for i in 0 1 2 3 4 5 6 7 8 9; do
	head -c 20000 /dev/zero >"$i"
	sha256sum "$i" >"$i.sum"
done
tar -czf ../work.tar.gz .
mkdir copy
tar -xzf ../work.tar.gz -C copy
for i in 0 1 2 3 4 5 6 7 8 9; do
	cmp "$i" "copy/$i"
done
find . -type f | xargs cat | wc -c
rm -r ../work.tar.gz "$1"`

const rounds = 5

// perCall returns the nanoseconds of each call: the least of some rounds, as whatever
// comes between adds to them.
func perCall(all []call) (map[string]float64, error) {
	took := map[string]float64{}
	for _, c := range all {
		for range rounds {
			begun := time.Now()
			for range c.times {
				if err := c.do(); err != nil {
					return nil, fmt.Errorf("%s: %w", c.name, err)
				}
			}
			each := float64(time.Since(begun)) / float64(c.times)
			if least, ok := took[c.name]; !ok || each < least {
				took[c.name] = each
			}
		}
	}
	return took, nil
}

// childCosts makes the calls, or those called by the second argument, in the directory
// that the first one is, and prints what each took.
func childCosts(args []string) error {
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		return err
	}
	defer other.Wait()
	defer other.Process.Kill()
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(args[0], "file"), nil, 0o600); err != nil {
		return err
	}
	all := calls(args[0], other.Process.Pid, 3, socket)
	if len(args) > 1 {
		all = slices.DeleteFunc(all, func(c call) bool { return c.name != args[1] })
	}
	took, err := perCall(all)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

// costs has another process make calls.
func costs(t testing.TB, m *ebpf.Map, args ...string) (took map[string]float64) {
	t.Helper()
	cmd := child("costs", nil, append([]string{t.TempDir()}, args...)...)
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "map")
	defer f.Close()
	cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &took)
	}
	if err != nil {
		t.Fatalf("calls of another process: %v: %s", err, out)
	}
	return took
}

// BenchmarkCost prints what calls take without the guard and with it, and what each of
// its programs takes of that. make bench-guard has it in a guest whose clock counts
// instructions: there a nanosecond is one.
func BenchmarkCost(t *testing.B) {
	guestOnly(t)
	foreign := newMap(t)
	costs(t, foreign) // the first time is not like the others
	without := costs(t, foreign)
	g := arm(t, func(c *Config) { c.Mode, c.ConfirmWithin = Audit, 0 })
	audit := costs(t, foreign)
	if err := g.SetMode(Enforce, 0); err != nil {
		t.Fatal(err)
	}
	enforce := costs(t, foreign)

	var table strings.Builder
	fmt.Fprintf(&table, "%-30s %10s %10s %10s %8s\n", "nanoseconds of a call", "no guard", "audit", "enforce", "more")
	all := calls("", 0, 0, 0)
	for _, c := range all {
		a, b := without[c.name], enforce[c.name]
		fmt.Fprintf(&table, "%-30s %10.0f %10.0f %10.0f %7.1f%%\n", c.name, a, audit[c.name], b, 100*(b-a)/a)
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	fmt.Fprintf(&table, "\n%-30s %-16s %10s\n", "nanoseconds in a program", "guard_", "each time")
	for _, c := range all {
		before := g.runs(t)
		costs(t, foreign, c.name)
		g.printRuns(t, &table, c, before)
	}
	owned, key, value := newMap(t), uint32(0), uint64(0)
	for _, c := range []call{
		{"bpf map_lookup_elem, hornetd", 2000, func() error { return owned.Lookup(key, &value) }},
		{"bpf map_update_elem, hornetd", 2000, func() error { return owned.Put(key, value) }},
	} {
		before := g.runs(t)
		if _, err := perCall([]call{c}); err != nil {
			t.Fatal(err)
		}
		g.printRuns(t, &table, c, before)
	}
	t.Logf("\n%s", table.String())
}

// runs is how often each program ran, and for how long.
type runs struct {
	count uint64
	took  time.Duration
}

func (g *Guard) runs(t testing.TB) map[string]runs {
	t.Helper()
	all := map[string]runs{}
	for _, programs := range []map[string]*ebpf.Program{g.programs, g.floor} {
		for name, p := range programs {
			s, err := p.Stats()
			if err != nil {
				t.Fatal(err)
			}
			all[name] = runs{s.RunCount, s.Runtime}
		}
	}
	return all
}

// printRuns prints which programs ran for a call, and for how long each time.
func (g *Guard) printRuns(t testing.TB, w io.Writer, c call, before map[string]runs) {
	t.Helper()
	now := g.runs(t)
	sum := 0.0
	for _, name := range slices.Sorted(maps.Keys(now)) {
		n := now[name].count - before[name].count
		if n < uint64(rounds*c.times)*9/10 { // asking for the runs is a call, too
			continue
		}
		each := float64(now[name].took-before[name].took) / float64(n)
		fmt.Fprintf(w, "%-30s %-16s %10.0f\n", c.name, strings.TrimPrefix(name, "guard_"), each)
		sum += each
		most := cmp.Or(mostOf[name], mostPerCall)
		if each > most {
			t.Errorf("%s: %s takes %.0f instructions, more than %.0f", c.name, name, each, most)
		}
	}
	fmt.Fprintf(w, "%-30s %-16s %10.0f\n", c.name, "all of them", sum)
}
