package loader

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// Maps are the maps of one plan in the kernel. Close them: what LoadPrograms
// has handed on is not closed.
type Maps struct {
	plan   *Plan
	byName map[string]*ebpf.Map
	states map[string]MapState // as read back last

	programs map[string]*ebpf.Program // while LoadPrograms fills program arrays
}

// MapState is what the kernel says of a map, and the class it was given.
type MapState struct {
	Name       string // as in the object; ".kconfig.PROGRAM" for what the library made
	Type       string // as the kernel's headers name it: "Hash", "LPMTrie"
	ID         uint32
	Class      manifest.Class
	Frozen     bool
	Writes     bool   // frozen, but programs may write it: the manifest's program_writes
	KeySize    uint32 // bytes
	ValueSize  uint32 // bytes
	MaxEntries uint32
	SHA256     string // hex, ContentHash of a frozen map that programs cannot write either; else ""
	HashBy     string // who computed SHA256: "kernel" or "read"; else ""
}

// CreateMaps creates the plan's maps and fills them, those that other maps
// hold first. No program exists yet, and nothing is pinned: on error, and on
// Close, they are gone.
//
// kept are maps that are there, by name: of the collection that this one
// replaces, or of one that shares them. Of those, a map whose manifest says
// keep = true or shared is taken over as it is, with its
// contents and without writing anything to it, if its definition is the same;
// else the error says what differs. CreateMaps does not close kept.
func (p *Plan) CreateMaps(kept map[string]*ebpf.Map) (*Maps, error) {
	return p.CreateMapsBy(makerHere{}, kept)
}

// CreateMapsBy is CreateMaps with maps that maker makes.
func (p *Plan) CreateMapsBy(maker MapMaker, kept map[string]*ebpf.Map) (_ *Maps, err error) {
	ms := &Maps{plan: p, byName: make(map[string]*ebpf.Map, len(p.order)), states: make(map[string]MapState)}
	defer func() {
		if err != nil {
			ms.Close()
		}
	}()
	var names []string
	for _, name := range p.order {
		if p.spec.Maps[name].Type == ebpf.StructOpsMap {
			continue // made of programs: LoadPrograms creates it
		}
		if old, ok := kept[name]; ok && (p.m.Maps[name].Keep || p.m.Maps[name].Shared != "") {
			if ms.byName[name], err = p.takeOver(name, old); err != nil {
				return nil, err
			}
			continue
		}
		names = append(names, name)
	}
	if err := ms.create(maker, names); err != nil {
		return nil, err
	}
	for _, name := range names {
		if p.spec.Maps[name].Type == ebpf.ProgramArray {
			continue // there are no programs yet: LoadPrograms fills it
		}
		if err := ms.populate(name); err != nil {
			return nil, fmt.Errorf("map %q: %w", name, err)
		}
	}
	return ms, nil
}

// Close closes the maps; without a pin or a program they are gone from the
// kernel then.
func (ms *Maps) Close() {
	for name, m := range ms.byName {
		m.Close()
		delete(ms.byName, name)
	}
}

// takeOver returns a second descriptor of a map that the replaced collection
// has under the same name, or another one shares.
func (p *Plan) takeOver(name string, old *ebpf.Map) (*ebpf.Map, error) {
	key := "maps." + name + ".keep"
	shared := p.m.Maps[name].Shared
	if shared != "" {
		key = "maps." + name + ".shared"
	}
	if t := p.spec.Maps[name].Type; isOuter(t) || t == ebpf.ProgramArray {
		return nil, remedy.With(p.m.Errorf(key, "a %s refers to what is replaced", t), "remove the key")
	}
	err := p.spec.Maps[name].Compatible(old)
	if err != nil && shared != "" {
		return nil, remedy.With(p.m.Errorf(key, "the map that others have as %q has another definition: %w", shared, err),
			"give all of them the same definition, or unload the others first")
	}
	if err != nil {
		return nil, remedy.With(p.m.Errorf(key, "the map has another definition now: %w", err),
			"remove keep = true to begin with an empty map, or go back to the old definition")
	}
	return old.Clone()
}

// kernelName names a map for bpftool. A data section is prefixed with its
// collection's name, as libbpf does: one ".rodata" is like another.
func kernelName(collection, name string) string {
	const most = unix.BPF_OBJ_NAME_LEN - 1
	if !strings.HasPrefix(name, ".") {
		return name
	}
	collection = strings.Map(func(r rune) rune {
		if r == '-' || r == ':' || r == '@' {
			return '_'
		}
		return r
	}, collection)
	room := max(most-len(name), 1)
	return collection[:min(len(collection), room)] + name
}

// populate writes what the plan says into a map. Arrays begin as zeroes.
func (ms *Maps) populate(name string) error {
	m, typ := ms.byName[name], ms.plan.spec.Maps[name].Type
	for _, e := range ms.plan.maps[name].contents {
		var value any = e.value
		switch {
		case e.ref != "":
			value = ms.byName[e.ref]
		case typ == ebpf.Array && !slices.ContainsFunc(e.value, func(b byte) bool { return b != 0 }):
			continue
		case isPerCPU(typ):
			cpus, err := ebpf.PossibleCPU()
			if err != nil {
				return err
			}
			value = slices.Repeat([][]byte{e.value}, cpus)
		}
		if err := m.Put(e.key, value); err != nil {
			return ms.explainPut(name, e, err)
		}
	}
	return nil
}

func (ms *Maps) explainPut(name string, e element, err error) error {
	if e.entry < 0 {
		return fmt.Errorf("write: %w", err)
	}
	key := fmt.Sprintf("maps.%s.entries[%d]", name, e.entry)
	return remedy.With(ms.plan.m.Errorf(key, "the kernel refuses it: %w", unwrapAll(err)), "compare it with the map's type")
}

// Freeze freezes the maps of class frozen and reads them back: the kernel must
// say that they are frozen and hold what the object and the manifest put in,
// whoever else had a descriptor meanwhile. From then on user space cannot
// write them. Maps the kernel does not let us freeze yet (freezesLate) follow
// in LoadPrograms; nothing is attached before.
//
// It returns the states of all maps, in the order of their names.
func (ms *Maps) Freeze() ([]MapState, error) {
	for _, name := range ms.plan.order {
		if ms.byName[name] == nil {
			continue // struct_ops
		}
		late := freezesLate(ms.plan.spec.Maps[name])
		if err := ms.settle(name, !late); err != nil {
			return nil, fmt.Errorf("map %q: %w", name, err)
		}
	}
	return ms.States(), nil
}

// settle freezes a map, if it is of class frozen and this is the time, and
// reads it back.
func (ms *Maps) settle(name string, now bool) error {
	if now && ms.plan.maps[name].class == manifest.ClassFrozen {
		if err := ms.freeze(name); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
	}
	return ms.readBack(name, now)
}

// States returns what was read back last of each map, in the order of names.
func (ms *Maps) States() []MapState {
	states := make([]MapState, 0, len(ms.states))
	for _, s := range ms.states {
		states = append(states, s)
	}
	slices.SortFunc(states, func(a, b MapState) int { return strings.Compare(a.Name, b.Name) })
	return states
}

// A freeze fails with EBUSY while a system call writes the map or a writable
// mapping of it exists. The first passes.
const (
	freezeTries = 8
	freezeWait  = time.Millisecond // doubles with every try
)

func (ms *Maps) freeze(name string) error {
	m := ms.byName[name]
	for try := range freezeTries {
		err := m.Freeze()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EPERM):
			// Either is also the answer where it is frozen already: EBUSY on
			// Linux 6.1, EPERM on 6.12.
			if frozen, ferr := bpfsys.Frozen(m.FD()); ferr == nil && frozen {
				return nil
			}
			if errors.Is(err, unix.EPERM) {
				return explainEPERM("freeze it", nil, err)
			}
			time.Sleep(freezeWait << try)
		case errors.Is(err, unix.Errno(524)): // ENOTSUPP, which user space has no name for
			return remedy.With(errors.New("the kernel does not freeze maps with locks, timers or kernel pointers in their values"),
				"below [maps.%s] write class = \"mutable\"", name)
		default:
			return err
		}
	}
	return remedy.With(fmt.Errorf("%w: somebody else holds a writable mapping of it", unix.EBUSY),
		"find out who: bpftool map show name %s", kernelName(ms.plan.m.Name, name))
}

// readBack asks the kernel what a map is now and, where it must be frozen by
// now, compares.
func (ms *Maps) readBack(name string, now bool) error {
	m, planned := ms.byName[name], ms.plan.maps[name]
	s, flags, err := stateOf(m, name, planned.class)
	if err != nil {
		return err
	}
	s.Writes = planned.programWrites
	ms.states[name] = s
	if planned.class != manifest.ClassFrozen || !now {
		return nil
	}
	if !s.Frozen {
		return errors.New("read back: it is not frozen")
	}
	if want := ms.plan.spec.Maps[name].Flags & unix.BPF_F_RDONLY_PROG; flags&want != want {
		return errors.New("read back: programs may write it")
	}
	sum, err := ms.expectedHash(name)
	if err != nil {
		return err
	}
	if want := hex.EncodeToString(sum[:]); s.SHA256 != want {
		return remedy.With(fmt.Errorf("read back: it does not hold what the object and the manifest put in: %.16s…, not %.16s…", s.SHA256, want),
			"somebody else who may use bpf(2) wrote it before it was frozen: find out who")
	}
	if planned.programWrites {
		s.SHA256, s.HashBy = "", "" // true now, and not for long
		ms.states[name] = s
	}
	return nil
}

// stateOf asks the kernel about a map; it returns the map's flags, too. The
// contents of one that is frozen are hashed.
func stateOf(m *ebpf.Map, name string, class manifest.Class) (s MapState, flags uint32, err error) {
	info, err := bpfsys.MapInfo(m.FD())
	if err != nil {
		return s, 0, err
	}
	s = MapState{
		Name: name, Type: m.Type().String(), ID: info.ID, Class: class,
		KeySize: info.KeySize, ValueSize: info.ValueSize, MaxEntries: info.MaxEntries,
	}
	if class != manifest.ClassFrozen {
		return s, info.Flags, nil
	}
	if s.Frozen, err = bpfsys.Frozen(m.FD()); err != nil || !s.Frozen {
		return s, info.Flags, err
	}
	sum, by, err := ContentHash(m)
	if err != nil {
		return s, info.Flags, err
	}
	s.SHA256, s.HashBy = hex.EncodeToString(sum[:]), by
	return s, info.Flags, nil
}

// expectedHash is ContentHash of what the plan puts into a map.
func (ms *Maps) expectedHash(name string) ([32]byte, error) {
	m := ms.byName[name]
	h := newContentHash(m.Type(), m.MaxEntries(), int(m.ValueSize()))
	for _, e := range ms.plan.maps[name].contents {
		value := e.value
		if e.ref != "" {
			id, err := ms.heldID(name, e.ref)
			if err != nil {
				return [32]byte{}, err
			}
			value = binary.NativeEndian.AppendUint32(nil, id)
		}
		h.add(e.key, asRead(m.Type(), value))
	}
	return h.sum(), nil
}

// heldID returns the id that stands for a map or program inside a map.
func (ms *Maps) heldID(outer, held string) (uint32, error) {
	if ms.plan.spec.Maps[outer].Type == ebpf.ProgramArray {
		info, err := bpfsys.ProgramInfo(ms.programs[held].FD())
		return info.ID, err
	}
	return ms.states[held].ID, nil // read back before: inner maps come first
}
