package faults

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// object is a program, map or link of the kernel.
type object struct {
	kind string // "programs", "maps", "links": as the directories are called
	id   uint32
}

func (o object) String() string { return fmt.Sprintf("%s %d", strings.TrimSuffix(o.kind, "s"), o.id) }

// inventory is what there is, as the kernel and bpffs tell.
type inventory struct {
	pins map[string]object // path below the root -> what is pinned there
	dirs map[string]bool   // names in the root
	// Of this test's objects: those the kernel has, and what each link runs.
	have  map[object]bool
	links map[uint32]linkState
}

type linkState struct {
	program uint32
	where   string // what it is attached to, "" for nothing
}

// kernel walks all ids. It remembers what an id is: ids do not come back.
type kernel struct {
	w     *world
	known map[object]bool    // ours or not
	twins map[uint32]bool    // programs that are equal to their twin
	twin  map[string]program // by name and which
}

func newKernel(w *world) *kernel {
	return &kernel{w: w, known: map[object]bool{}, twins: map[uint32]bool{}, twin: map[string]program{}}
}

var nextID = map[string]uintptr{"programs": unix.BPF_PROG_GET_NEXT_ID, "maps": unix.BPF_MAP_GET_NEXT_ID, "links": unix.BPF_LINK_GET_NEXT_ID}

// ids returns every id of a kind, without taking a reference to anything.
func ids(kind string) []uint32 {
	var out []uint32
	attr := struct{ start, next, flags uint32 }{}
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, nextID[kind], uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		if errno != 0 {
			return out
		}
		out = append(out, attr.next)
		attr.start = attr.next
	}
}

// look takes the inventory. A link can be gone between two looks at it, and an
// object of somebody else is no business of ours.
func (k *kernel) look() (inventory, error) {
	inv := inventory{pins: map[string]object{}, dirs: map[string]bool{}, have: map[object]bool{}, links: map[uint32]linkState{}}
	if err := inv.readPins(k.w.BPFFS); err != nil {
		return inv, err
	}
	for _, o := range inv.pins {
		k.known[o] = true // whatever it is called: the library gives no names where its probe for them failed
	}
	for _, kind := range []string{"programs", "maps"} {
		for _, id := range ids(kind) {
			o := object{kind, id}
			ours, known := k.known[o]
			if !known {
				ours = k.ours(o)
				k.known[o] = ours
			}
			if ours {
				inv.have[o] = true
			}
		}
	}
	for _, id := range ids("links") {
		if ours, known := k.known[object{"links", id}]; known && !ours {
			continue
		}
		state, err := stateOf(id)
		if err != nil {
			continue
		}
		// What a link runs may change, but not from a stranger's to ours.
		ours, known := k.known[object{"programs", state.program}]
		if !known {
			continue // newer than the walk
		}
		k.known[object{"links", id}] = ours
		if ours {
			inv.have[object{"links", id}] = true
			inv.links[id] = state
		}
	}
	return inv, nil
}

// readPins opens every pin: what is pinned there is what the kernel says.
func (inv *inventory) readPins(root string) error {
	top, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range top {
		if strings.HasSuffix(e.Name(), ".debug") { // the kernel's own, in every bpffs
			continue
		}
		inv.dirs[e.Name()] = true
		for _, kind := range []string{"programs", "maps", "links", "."} {
			files, err := os.ReadDir(filepath.Join(root, e.Name(), kind))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			for _, f := range files {
				if f.IsDir() {
					continue
				}
				path := filepath.Join(e.Name(), kind, f.Name())
				o, err := pinned(filepath.Join(root, path), kind)
				if err != nil {
					return fmt.Errorf("pin %s: %w", path, err)
				}
				inv.pins[path] = o
			}
		}
	}
	return nil
}

func pinned(path, kind string) (object, error) {
	switch kind {
	case "links":
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return object{}, err
		}
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			return object{}, err
		}
		return object{kind, uint32(info.ID)}, nil
	case "programs":
		p, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return object{}, err
		}
		defer p.Close()
		info, err := p.Info()
		if err != nil {
			return object{}, err
		}
		id, _ := info.ID()
		return object{kind, uint32(id)}, nil
	default:
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return object{}, err
		}
		defer m.Close()
		info, err := m.Info()
		if err != nil {
			return object{}, err
		}
		id, _ := info.ID()
		return object{"maps", uint32(id)}, nil
	}
}

// ours tells by the name, of a record by what is in it.
func (k *kernel) ours(o object) bool {
	if o.kind == "programs" {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(o.id))
		if err != nil {
			return false
		}
		defer p.Close()
		info, err := p.Info()
		return err == nil && strings.HasPrefix(info.Name, k.w.token)
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(o.id))
	if err != nil {
		return false
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return false
	}
	if info.Name != "hornet_record" {
		return strings.Contains(info.Name, k.w.token)
	}
	b, err := m.LookupBytes(uint32(0))
	return err == nil && bytes.Contains(b, []byte(k.w.Manifests))
}

func stateOf(id uint32) (linkState, error) {
	l, err := link.NewFromID(link.ID(id))
	if err != nil {
		return linkState{}, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return linkState{}, err
	}
	s := linkState{program: uint32(info.Program)}
	switch info.Type {
	case link.XDPType:
		if n := info.XDP().Ifindex; n != 0 {
			s.where = fmt.Sprintf("xdp %d", n)
		}
	case link.TCXType:
		if n := info.TCX().Ifindex; n != 0 {
			s.where = fmt.Sprintf("tcx %d", n)
		}
	case link.CgroupType:
		if n := info.Cgroup().CgroupId; n != 0 {
			s.where = fmt.Sprintf("cgroup %d", n)
		}
	case link.RawTracepointType:
		s.where = "raw_tp"
	}
	return s, nil
}

// program is what makes two programs the same: tag and instructions as the
// verifier left them, with the maps' ids taken out.
type program struct {
	tag  string
	code string
}

func programOf(p *ebpf.Program) (program, []ebpf.MapID, error) {
	info, err := p.Info()
	if err != nil {
		return program{}, nil, err
	}
	insns, err := info.Instructions()
	if err != nil {
		return program{}, nil, err
	}
	var code strings.Builder
	for _, ins := range insns {
		if ins.OpCode.IsDWordLoad() && (ins.Src == asm.PseudoMapFD || ins.Src == asm.PseudoMapValue) {
			ins.Constant &^= 0xffffffff // the map's id
		}
		fmt.Fprintf(&code, "%x %d %d %d %d\n", uint64(ins.OpCode), ins.Dst, ins.Src, ins.Offset, ins.Constant)
	}
	maps, _ := info.MapIDs()
	return program{info.Tag, code.String()}, maps, nil
}

// load makes the twins: the object as the test itself loads it, with the
// variable set and the maps frozen, and nothing of hornetd's.
func (k *kernel) load(is int) error {
	if _, ok := k.twin[fmt.Sprint(k.w.token, "_con", is)]; ok {
		return nil
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(k.w.object))
	if err != nil {
		return err
	}
	if err := spec.Variables[k.w.token+"_is"].Set(uint32(is)); err != nil {
		return err
	}
	// The names would make them ours.
	for _, p := range spec.Programs {
		p.Name = "twin"
	}
	for _, m := range spec.Maps {
		m.Name = strings.ReplaceAll(m.Name, k.w.token, "twin")
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return err
	}
	defer coll.Close()
	for name, p := range coll.Programs {
		if k.twin[fmt.Sprint(name, is)], _, err = programOf(p); err != nil {
			return fmt.Errorf("twin of %s: %w", name, err)
		}
	}
	return nil
}

// isTwin reports whether a program is what the object says, and uses none but
// these maps.
func (k *kernel) isTwin(id uint32, name string, is int, maps map[uint32]bool) error {
	if k.twins[id] {
		return nil
	}
	if err := k.load(is); err != nil {
		return err
	}
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return fmt.Errorf("program %d: %w", id, err)
	}
	defer p.Close()
	got, uses, err := programOf(p)
	if err != nil {
		return fmt.Errorf("program %d: %w", id, err)
	}
	if want := k.twin[fmt.Sprint(name, is)]; got != want {
		return fmt.Errorf("program %d (tag %s) is not the %s that the object and the manifest make (tag %s, %d instructions, want %d)", id, got.tag, name, want.tag,
			strings.Count(got.code, "\n"), strings.Count(want.code, "\n"))
	}
	for _, m := range uses {
		if !maps[uint32(m)] {
			return fmt.Errorf("program %d uses map %d, which is not of the collection", id, m)
		}
	}
	k.twins[id] = true
	return nil
}

// contents reads an array's first value or, of a hash, its only key.
func contents(id uint32) (values []uint64, frozen bool, err error) {
	m, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return nil, false, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return nil, false, err
	}
	number := func(b []byte) uint64 { return binary.LittleEndian.Uint64(append(bytes.Clone(b), 0, 0, 0, 0)[:8]) }
	if m.Type() == ebpf.Hash {
		var key, value []byte
		for it := m.Iterate(); it.Next(&key, &value); {
			values = append(values, number(key))
		}
		return values, info.Frozen(), nil
	}
	for i := range m.MaxEntries() {
		b, err := m.LookupBytes(i)
		if err != nil {
			return nil, false, err
		}
		values = append(values, number(b))
	}
	return values, info.Frozen(), nil
}
