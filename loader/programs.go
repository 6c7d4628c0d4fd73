package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/manifest"
)

// ProgramState is what the kernel says of a program, and the attach type the
// object gave it.
type ProgramState struct {
	Name       string // as in the object; the kernel keeps 15 bytes of it
	Type       string // as the kernel's headers name it: "XDP", "CGroupSockAddr"
	AttachType string // likewise; "" where the type has none
	ID         uint32
	Tag        string // 16 hexadecimal digits
}

// LoadPrograms loads the plan's programs, in the order of their names, with
// these maps in the place of those they name; those that replace a function of
// another one after it; struct_ops maps with their programs last. Then it fills the maps that hold
// programs, freezes what Freeze had to leave, and reads that back as well as
// what the library made. Functions whose section names no program type are not programs.
//
// The collection owns the maps from then on; maps.Close has no effect any
// more, maps.States is up to date. On error nothing is loaded and maps stays
// as it was.
//
// cache amortises kernel BTF over a batch of loads and may be nil; it is not
// touched for programs that need none. step, if it is not nil, is called behind each
// program, or each struct_ops map with its programs: the verifier can take seconds for
// one, and an object has many. An error of step ends it, and is returned as it is. Else
// it is a *VerifierError where the verifier gave a reason.
func LoadPrograms(p *Plan, ms *Maps, cache *btf.Cache, step func() error) (_ *ebpf.Collection, err error) {
	coll := &ebpf.Collection{
		Programs: make(map[string]*ebpf.Program),
		Maps:     make(map[string]*ebpf.Map),
	}
	defer func() {
		if err != nil {
			coll.Close()
		}
	}()
	if cache == nil {
		cache = btf.NewCache()
	}
	if step == nil {
		step = func() error { return nil }
	}
	for _, name := range p.loadOrder() {
		spec, err := p.prepared(name, ms, coll)
		if err != nil {
			return nil, fmt.Errorf("program %q: %w", name, err)
		}
		prog, err := loadProgram(p, spec, cache)
		if err != nil {
			return nil, fmt.Errorf("program %q: %w", name, err)
		}
		coll.Programs[name] = prog
		if err := step(); err != nil {
			return nil, err
		}
	}
	for _, name := range p.structOps() {
		if err := p.loadStructOps(name, ms, coll, cache); err != nil {
			return nil, err
		}
		if err := step(); err != nil {
			return nil, err
		}
	}
	if err := ms.settleLate(coll.Programs); err != nil {
		return nil, err
	}
	if hasKconfig(p.spec) {
		if err := ms.findKconfig(coll); err != nil {
			return nil, err
		}
	}
	// Nothing fails from here: the collection owns the maps.
	maps.Copy(coll.Maps, ms.byName)
	clear(ms.byName)
	return coll, nil
}

// loadOrder returns the names of the programs that are loaded one by one: sorted,
// those that replace a function of another one last.
func (p *Plan) loadOrder() []string {
	var first, last []string
	for _, name := range slices.Sorted(maps.Keys(p.spec.Programs)) {
		switch p.spec.Programs[name].Type {
		case ebpf.UnspecifiedProgram, ebpf.StructOps:
		case ebpf.Extension:
			last = append(last, name)
		default:
			first = append(first, name)
		}
	}
	return append(first, last...)
}

// prepared returns a program with what it needs from the kernel.
func (p *Plan) prepared(name string, ms *Maps, coll *ebpf.Collection) (*ebpf.ProgramSpec, error) {
	spec, err := withMaps(p.spec.Programs[name], ms.byName)
	if err != nil {
		return nil, err
	}
	if target := p.replaces[name]; target != "" {
		spec.AttachTarget = coll.Programs[target]
	}
	return spec, nil
}

// withMaps returns a copy of spec in which every use of a map is one of byName.
// The library does the same for maps it is given as replacements, but copies
// descriptors and compares definitions for each program.
func withMaps(spec *ebpf.ProgramSpec, byName map[string]*ebpf.Map) (*ebpf.ProgramSpec, error) {
	spec = spec.Copy()
	for i := range spec.Instructions {
		ins := &spec.Instructions[i]
		if !ins.IsLoadFromMap() || ins.Reference() == "" {
			continue
		}
		m, ok := byName[ins.Reference()]
		if !ok {
			return nil, &ObjectError{fmt.Errorf("it uses a map %q that the object does not define", ins.Reference())}
		}
		if err := ins.AssociateMap(m); err != nil {
			return nil, fmt.Errorf("map %q: %w", ins.Reference(), err)
		}
	}
	return spec, nil
}

// usedMaps returns the names of the maps that spec refers to.
func usedMaps(spec *ebpf.ProgramSpec) []string {
	used := make(map[string]bool)
	for i := range spec.Instructions {
		if ins := &spec.Instructions[i]; ins.IsLoadFromMap() && ins.Reference() != "" {
			used[ins.Reference()] = true
		}
	}
	return slices.Sorted(maps.Keys(used))
}

// loadOne loads a program whose maps are in place. Going through a collection
// of one is the only way to have the library use a shared cache.
func loadOne(spec *ebpf.ProgramSpec, cache *btf.Cache, opts ebpf.ProgramOptions) (*ebpf.Program, error) {
	one := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{spec.Name: spec}}
	coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{Programs: opts, Cache: cache})
	if err != nil {
		return nil, err
	}
	return coll.Programs[spec.Name], nil
}

// settleLate fills the maps that hold programs, and freezes and reads back
// what Freeze had to leave. Nothing is attached yet, so no tail call is missed
// and no program has run with values that are not those of the plan.
func (ms *Maps) settleLate(programs map[string]*ebpf.Program) error {
	ms.programs = programs
	defer func() { ms.programs = nil }()
	for _, name := range ms.plan.order {
		if !freezesLate(ms.plan.spec.Maps[name]) {
			continue
		}
		if err := ms.fillPrograms(name); err != nil {
			return fmt.Errorf("map %q: %w", name, err)
		}
		if err := ms.settle(name, true); err != nil {
			return fmt.Errorf("map %q: %w", name, err)
		}
	}
	return nil
}

// fillPrograms puts programs into a map that holds them, and does nothing for
// others.
func (ms *Maps) fillPrograms(name string) error {
	if ms.plan.spec.Maps[name].Type != ebpf.ProgramArray {
		return nil
	}
	for _, e := range ms.plan.maps[name].contents {
		if err := ms.byName[name].Put(e.key, ms.programs[e.ref]); err != nil {
			return fmt.Errorf("slot %d: program %q: %w", binary.NativeEndian.Uint32(e.key), e.ref, explainTailCall(err))
		}
	}
	return nil
}

func explainTailCall(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: programs that call each other must be of one type and attach type", unix.EINVAL)
	}
	return unwrapAll(err)
}

// findKconfig finds the .kconfig maps that the library made while it loaded
// programs, checks that they are frozen and adds them to coll.
func (ms *Maps) findKconfig(coll *ebpf.Collection) error {
	for _, name := range slices.Sorted(maps.Keys(coll.Programs)) {
		info, err := coll.Programs[name].Info()
		if err != nil {
			return fmt.Errorf("program %q: %w", name, err)
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			if ms.isOurs(uint32(id)) {
				continue
			}
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return fmt.Errorf("program %q: %s: %w", name, kconfig, err)
			}
			as := kconfig + "." + name
			coll.Maps[as] = m // closed with coll
			s, flags, err := stateOf(m, as, manifest.ClassFrozen)
			if err != nil {
				return fmt.Errorf("map %q: %w", as, err)
			}
			if !s.Frozen || flags&unix.BPF_F_RDONLY_PROG == 0 {
				return fmt.Errorf("map %q: read back: it is not frozen", as)
			}
			ms.states[as] = s
		}
	}
	return nil
}

func (ms *Maps) isOurs(id uint32) bool {
	for _, s := range ms.states {
		if s.ID == id {
			return true
		}
	}
	return false
}

// ProgramStates asks the kernel about every program of coll, in the order of
// their names.
func (p *Plan) ProgramStates(coll *ebpf.Collection) ([]ProgramState, error) {
	var states []ProgramState
	for _, name := range slices.Sorted(maps.Keys(coll.Programs)) {
		prog := coll.Programs[name]
		info, err := bpfsys.ProgramInfo(prog.FD())
		if err != nil {
			return nil, fmt.Errorf("program %q: %w", name, err)
		}
		s := ProgramState{Name: name, Type: prog.Type().String(), ID: info.ID, Tag: info.Tag}
		if spec := p.spec.Programs[name]; spec != nil && spec.AttachType != ebpf.AttachNone {
			s.AttachType = spec.AttachType.String()
		}
		states = append(states, s)
	}
	return states, nil
}
