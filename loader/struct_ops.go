package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// structOpsSection is where maps of type struct_ops are variables. Those of
// ".struct_ops", without a link, the library refuses.
const structOpsSection = ".struct_ops.link"

// planStructOps checks what the manifest says of a struct_ops map. It holds the
// object's programs and numbers, which the kernel takes once.
func (p *Plan) planStructOps(name string) error {
	decl := p.m.Maps[name]
	if len(decl.Entries) > 0 || decl.MaxEntries > 0 || decl.Inner != "" || decl.Keep {
		return remedy.With(p.mapErrorf(name, "", "a struct_ops map has one value, the object's, and goes with its programs"),
			"below [maps.%s] write class = \"mutable\" and nothing else", name)
	}
	ops := opsType(p.spec.Maps[name])
	for _, other := range p.structOps() {
		if other != name && opsType(p.spec.Maps[other]) == ops {
			return remedy.With(&ObjectError{fmt.Errorf("maps %q and %q are both a struct %s, and it does not show whose a program is", name, other, ops)},
				"put each into an object of its own")
		}
	}
	return nil
}

// structOps returns the names of the struct_ops maps.
func (p *Plan) structOps() []string {
	return slices.DeleteFunc(slices.Clone(p.order), func(name string) bool { return p.spec.Maps[name].Type != ebpf.StructOpsMap })
}

// opsType returns the kernel's name of the structure that a map is.
func opsType(ms *ebpf.MapSpec) string {
	if s, ok := btf.As[*btf.Struct](ms.Value); ok {
		return s.Name
	}
	return ""
}

// loadStructOps loads the programs of a struct_ops map and makes the map of
// them. Only the library's own loader of collections can write it.
func (p *Plan) loadStructOps(name string, ms *Maps, coll *ebpf.Collection, cache *btf.Cache) error {
	one := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{name: p.spec.Maps[name]}, Programs: map[string]*ebpf.ProgramSpec{}}
	for _, program := range p.programsOf(name) {
		spec, err := p.prepared(program, ms, coll)
		if err != nil {
			return fmt.Errorf("program %q: %w", program, err)
		}
		one.Programs[program] = spec
	}
	made, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogDisabled: true}, Cache: cache})
	if err != nil {
		return p.explainStructOps(name, one, cache, err)
	}
	// From here coll owns them.
	coll.Maps[name] = made.Maps[name]
	for program, prog := range made.Programs {
		coll.Programs[program] = prog
	}
	s, _, err := stateOf(made.Maps[name], name, p.maps[name].class)
	if err != nil {
		return fmt.Errorf("map %q: %w", name, err)
	}
	ms.states[name] = s
	return nil
}

// programsOf returns the names of the programs in a struct_ops map.
func (p *Plan) programsOf(name string) (programs []string) {
	prefix := opsType(p.spec.Maps[name]) + ":"
	for program, spec := range p.spec.Programs {
		if spec.Type == ebpf.StructOps && strings.HasPrefix(spec.AttachTo, prefix) {
			programs = append(programs, program)
		}
	}
	slices.Sort(programs)
	return programs
}

// checkStructOps refuses programs that no struct_ops map has: alone they cannot be
// loaded, and would be missing without a word.
func (p *Plan) checkStructOps() error {
	used := map[string]bool{}
	for _, name := range p.structOps() {
		for _, program := range p.programsOf(name) {
			used[program] = true
		}
	}
	for _, program := range slices.Sorted(maps.Keys(p.spec.Programs)) {
		if spec := p.spec.Programs[program]; spec.Type == ebpf.StructOps && !used[program] {
			return remedy.With(&ObjectError{fmt.Errorf("program %q in section %q is in no struct_ops map", program, spec.SectionName)},
				"name it in a variable in SEC(%q), or remove it from the object", structOpsSection)
		}
	}
	return nil
}

// explainStructOps finds out which of the programs the kernel refuses, and why;
// if none, it is the map.
func (p *Plan) explainStructOps(name string, one *ebpf.CollectionSpec, cache *btf.Cache, err error) error {
	for _, program := range p.programsOf(name) {
		prog, err := loadProgram(p, one.Programs[program], cache)
		if err != nil {
			return fmt.Errorf("program %q: %w", program, err)
		}
		prog.Close()
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("map %q: %w", name, explainEPERM("create a struct_ops map", mapCapabilities(ebpf.StructOpsMap), err))
	}
	return remedy.With(fmt.Errorf("map %q: %w", name, err),
		"compare struct %s in the object with the kernel's (bpftool btf dump file /sys/kernel/btf/vmlinux format c)", opsType(p.spec.Maps[name]))
}
