package testenv

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// object is a BPF object of the running kernel.
type object struct {
	kind string // "prog", "map", "link"
	id   uint32
}

func (o object) String() string { return fmt.Sprintf("%s %d", o.kind, o.id) }

type objects map[object]bool

func (s objects) minus(others ...objects) objects {
	rest := objects{}
next:
	for o := range s {
		for _, other := range others {
			if other[o] {
				continue next
			}
		}
		rest[o] = true
	}
	return rest
}

// NoLeaks fails t if BPF programs, maps or links that appeared during the test
// are still in the kernel after its cleanups. Call it first, before anything
// that registers a cleanup, and not in parallel tests.
//
// The kernel does not tell who made an object, and tests of other packages run
// on the same kernel at the same time. So an object that is new and does not go
// away counts as ours unless somebody else accounts for it: another process
// that is not our child holds it by descriptor, or it hangs on a bpffs that we
// did not mount (in any mount namespace). What such an object uses (a link its program, a program its
// maps) is accounted for with it. Looking costs the others nothing while all
// is well: ids are walked without taking a reference, and only what is left
// after a second is looked at more closely.
//
// A descriptor of this process that is left open is a leak by itself, though
// the garbage collector would close it some day. A map that an ebpf.Variable
// has mapped into memory goes when the collector finds that nobody has the
// Variable; for a test that keeps it to the end, set spec.Variables to nil.
func NoLeaks(t testing.TB) {
	t.Helper()
	RequireRoot(t)
	before, err := kernelObjects()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now, err := kernelObjects()
		if err != nil {
			t.Error(err)
		}
		fresh := now.minus(before)
		for o := range fresh.open() {
			t.Errorf("%s: a descriptor was left open", describe(o))
			delete(fresh, o)
		}
		for o := range fresh.stay() {
			if what := describe(o); o.lost() {
				t.Logf("%s is still in the kernel, which has lost count of it", what)
			} else {
				t.Errorf("%s is still in the kernel", what)
			}
		}
	})
}

// patience is how long NoLeaks waits for objects to go: the kernel frees them
// after a grace period, and other processes come and go.
var patience = 30 * time.Second

// open returns those of s that a descriptor of this process holds.
func (s objects) open() objects {
	mine := objects{}
	fds, _ := filepath.Glob("/proc/self/fdinfo/*")
	for _, fd := range fds {
		if info, err := os.ReadFile(fd); err == nil {
			addFdinfo(mine, string(info))
		}
	}
	held := objects{}
	for o := range s {
		if mine[o] {
			held[o] = true
		}
	}
	return held
}

// stay returns those of s that do not go away and that nobody accounts for.
// What others make meanwhile is not looked at.
func (s objects) stay() objects {
	for round := range int(patience / (100 * time.Millisecond)) {
		if round%10 == 9 {
			runtime.GC()
			s = s.minus(accounted())
		}
		now, err := kernelObjects()
		if err == nil {
			s = s.minus(s.minus(now))
		}
		if len(s) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return s
}

// lost reports whether o is a map of programs that nothing can reach: no descriptor
// of any process and no program has it, and what was pinned is unmounted by now.
//
// Linux keeps one for ever now and then, where its last descriptors are closed in
// quick succession: prog_array_map_clear in kernel/bpf/arraymap.c takes a reference
// for work that is on its way already (seen on 6.18).
func (o object) lost() bool {
	if o.kind != "map" {
		return false
	}
	held := objects{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	for _, fd := range fds {
		if info, err := os.ReadFile(fd); err == nil {
			addFdinfo(held, string(info))
		}
	}
	all, err := kernelObjects()
	for other := range all {
		if other.kind == "prog" {
			addUsed(held, other)
		}
	}
	if err != nil || held[o] {
		return false
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(o.id))
	if err != nil {
		return false
	}
	defer m.Close()
	return m.Type() == ebpf.ProgramArray
}

// kernelObjects walks all ids. It needs CAP_SYS_ADMIN.
func kernelObjects() (objects, error) {
	all := objects{}
	for kind, cmd := range map[string]uintptr{
		"prog": unix.BPF_PROG_GET_NEXT_ID,
		"map":  unix.BPF_MAP_GET_NEXT_ID,
		"link": unix.BPF_LINK_GET_NEXT_ID,
	} {
		var id uint32
		for {
			next, err := nextID(cmd, id)
			if err == unix.ENOENT {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s after id %d: %w", kind, id, err)
			}
			id = next
			all[object{kind, id}] = true
		}
	}
	return all, nil
}

// accounted returns the objects others hold, with what these use.
func accounted() objects {
	held := objects{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	for _, fd := range fds {
		pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
		if info, err := os.ReadFile(fd); err == nil && strings.Contains(string(info), "_id:") && !ours(pid) {
			addFdinfo(held, string(info))
		}
	}
	for _, dir := range foreignBPFFS() {
		addPins(held, dir)
	}
	for o := range held {
		addUsed(held, o)
	}
	return held
}

// foreignBPFFS returns where there are bpffs that this process did not mount, in
// any mount namespace. The host's own is none: a forgotten pin of ours would
// hide there.
func foreignBPFFS() []string {
	var dirs []string
	mine := fmt.Sprintf("%s%d-", bpffsPrefix, os.Getpid())
	seen := map[string]bool{}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		mounts, _ := mountsIn(p+"/mountinfo", "bpf")
		for _, m := range mounts {
			if !strings.Contains(m, mine) && m != "/sys/fs/bpf" {
				dirs = append(dirs, p+"/root"+m)
			}
		}
	}
	return dirs
}

// ours says whether pid is this process or comes from it.
func ours(pid int) bool {
	for pid > 1 {
		if pid == os.Getpid() {
			return true
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		// The command, in parentheses, may hold anything.
		rest := stat[strings.LastIndexByte(string(stat), ')')+1:]
		fields := strings.Fields(string(rest))
		if len(fields) < 2 {
			return false
		}
		pid, _ = strconv.Atoi(fields[1])
	}
	return false
}

func addFdinfo(held objects, info string) {
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		kind, ok := strings.CutSuffix(key, "_id")
		if !ok || kind != "prog" && kind != "map" && kind != "link" {
			continue
		}
		if id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32); err == nil {
			held[object{kind, uint32(id)}] = true
		}
	}
}

func addPins(held objects, root string) {
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if l, err := link.LoadPinnedLink(path, nil); err == nil {
			defer l.Close()
			if info, err := l.Info(); err == nil {
				held[object{"link", uint32(info.ID)}] = true
			}
		} else if p, err := ebpf.LoadPinnedProgram(path, nil); err == nil {
			defer p.Close()
			addProgram(held, p)
		} else if m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true}); err == nil {
			defer m.Close()
			if info, err := m.Info(); err == nil {
				id, _ := info.ID()
				held[object{"map", uint32(id)}] = true
			}
		}
		return nil
	})
}

// addUsed adds what o uses: the program of a link, the maps of a program.
func addUsed(held objects, o object) {
	switch o.kind {
	case "link":
		l, err := link.NewFromID(link.ID(o.id))
		if err != nil {
			return
		}
		defer l.Close()
		if info, err := l.Info(); err == nil {
			addUsed(held, object{"prog", uint32(info.Program)})
		}
	case "prog":
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(o.id))
		if err != nil {
			return
		}
		defer p.Close()
		addProgram(held, p)
	}
}

func addProgram(held objects, p *ebpf.Program) {
	info, err := p.Info()
	if err != nil {
		return
	}
	if id, ok := info.ID(); ok {
		held[object{"prog", uint32(id)}] = true
	}
	maps, _ := info.MapIDs()
	for _, id := range maps {
		held[object{"map", uint32(id)}] = true
	}
}

// describe names o for a message.
func describe(o object) string {
	switch o.kind {
	case "prog":
		if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(o.id)); err == nil {
			defer p.Close()
			return fmt.Sprintf("%s (%s)", o, p)
		}
	case "map":
		if m, err := ebpf.NewMapFromID(ebpf.MapID(o.id)); err == nil {
			defer m.Close()
			return fmt.Sprintf("%s (%s)", o, m)
		}
	}
	return o.String()
}
