package pinning

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

func bpffs(t testing.TB) string {
	t.Helper()
	testenv.NoLeaks(t)
	return testenv.BPFFS(t)
}

func open(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func name(t testing.TB, s string) Name {
	t.Helper()
	n, err := ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// objects are what a collection is made of: two maps, a program that counts in
// one of them, and a link that runs it on every exec.
type objects struct {
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	links    map[string]link.Link
}

func makeObjects() (o objects, err error) {
	o = objects{map[string]*ebpf.Map{}, map[string]*ebpf.Program{}, map[string]link.Link{}}
	for _, name := range []string{".rodata", "hits"} {
		if o.maps[name], err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}); err != nil {
			return o, err
		}
	}
	if o.programs["count"], err = counter(o.maps["hits"]); err != nil {
		return o, err
	}
	o.links["exec"], err = attach(o.programs["count"])
	return o, err
}

// counter adds 1 to the first value of m whenever it runs.
func counter(m *ebpf.Map) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "count", Type: ebpf.RawTracepoint, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMapValue(asm.R1, m.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
}

func attach(p *ebpf.Program) (link.Link, error) { return attachTo(p, "sched_process_exec") }

// attachTo attaches to a raw tracepoint; on Linux 6.1 a program can be only
// once at each.
func attachTo(p *ebpf.Program, tracepoint string) (link.Link, error) {
	return link.AttachRawTracepoint(link.RawTracepointOptions{Name: tracepoint, Program: p})
}

func newObjects(t testing.TB) objects {
	t.Helper()
	o, err := makeObjects()
	t.Cleanup(o.close)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// close closes the descriptors; what is pinned stays.
func (o objects) close() {
	for _, m := range o.maps {
		m.Close()
	}
	for _, p := range o.programs {
		p.Close()
	}
	for _, l := range o.links {
		if l != nil {
			l.Close()
		}
	}
}

// record describes o as the kernel numbers it.
func (o objects) record(n Name) Record {
	r := Record{Name: n.String(), LoadedAt: time.Unix(1, 0)}
	for name, m := range o.maps {
		info, _ := m.Info()
		id, _ := info.ID()
		r.Maps = append(r.Maps, RecordMap{Name: name, Type: m.Type().String(), ID: uint32(id)})
	}
	for name, p := range o.programs {
		info, _ := p.Info()
		id, _ := info.ID()
		r.Programs = append(r.Programs, RecordProgram{Name: name, ID: uint32(id), Tag: info.Tag})
	}
	for name, l := range o.links {
		info, _ := l.Info()
		r.Links = append(r.Links, RecordLink{Name: name, ID: uint32(info.ID), Program: "count"})
	}
	return r
}

// stageAll pins o and its record in a stage.
func stageAll(st *Stage, o objects) error {
	if err := st.PinMaps(o.maps); err != nil {
		return err
	}
	if err := st.PinPrograms(o.programs); err != nil {
		return err
	}
	if err := st.PinLinks(o.links); err != nil {
		return err
	}
	return st.PinRecord(o.record(st.name))
}

func newStage(t testing.TB, s *Store, n string, o objects) *Stage {
	t.Helper()
	st, err := s.Stage(name(t, n))
	if err != nil {
		t.Fatal(err)
	}
	if err := stageAll(st, o); err != nil {
		t.Fatal(err)
	}
	return st
}

// commit makes a committed collection, closes all descriptors and returns the
// id of its link.
func commit(t testing.TB, s *Store, n string) link.ID {
	t.Helper()
	o := newObjects(t)
	defer o.close()
	if err := newStage(t, s, n, o).Commit(); err != nil {
		t.Fatal(err)
	}
	return idOf(t, o.links["exec"])
}

func load(t testing.TB, s *Store, n string) *Entry {
	t.Helper()
	e, err := s.Load(name(t, n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func idOf(t testing.TB, l link.Link) link.ID {
	t.Helper()
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.ID
}

// attached asks the kernel whether a link exists.
func attached(id link.ID) bool { return len(alive([]link.ID{id})) == 1 }

// mustGo waits until the kernel has let go of a link.
func mustGo(t testing.TB, id link.ID) {
	t.Helper()
	for range 1000 {
		if !attached(id) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("link %d is still attached", id)
}

// tree lists what lies below root, with the random ids of stages and
// quarantines as "*".
func tree(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root || strings.HasSuffix(path, ".debug") {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		for _, prefix := range []string{stagePrefix, quarantinePrefix} {
			if after, ok := strings.CutPrefix(rel, prefix); ok && len(after) >= 16 {
				rel = prefix + "*" + after[16:]
			}
		}
		if d.IsDir() {
			rel += "/"
		}
		out = append(out, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// collectionTree is what tree shows of a collection made of newObjects.
func collectionTree(dir string) []string {
	return []string{
		dir + "/", dir + "/links/", dir + "/links/exec", dir + "/maps/", dir + "/maps/_rodata", dir + "/maps/hits",
		dir + "/programs/", dir + "/programs/count", dir + "/record",
	}
}

func mustNotExist(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); err == nil {
		t.Error(fmt.Errorf("%s exists", path))
	}
}

// mountOver makes a directory busy until the test ends.
func mountOver(t testing.TB, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
}
