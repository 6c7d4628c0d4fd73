package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// kconfig is the data section that is in no object: the library makes it, for
// each program anew, from the running kernel's configuration, and freezes it.
const kconfig = ".kconfig"

// Plan is what a manifest makes of an object: which maps and programs there
// will be and what is in the maps. It is data; making one touches no kernel.
type Plan struct {
	m     manifest.Manifest
	spec  *ebpf.CollectionSpec // as it will be created
	maps  map[string]*plannedMap
	order []string // names of maps: what another map holds comes before it

	replaces map[string]string // program -> the one a function of which it replaces
}

// plannedMap is what the manifest adds to one map of the object.
type plannedMap struct {
	class         manifest.Class
	programWrites bool
	contents      []element
}

// NewPlan checks a manifest against its object. Every variable, map and
// program it names must exist, every value must fit, and every map must be
// declared: frozen or mutable. Data sections need not be: what programs cannot
// write (.rodata, .kconfig) is frozen, the rest (.data, .bss) mutable.
//
// The error is a *manifest.Error, or an *ObjectError where no manifest could
// make the object fit. spec is not changed.
func NewPlan(spec *ebpf.CollectionSpec, m manifest.Manifest) (*Plan, error) {
	p := &Plan{m: m, spec: shallowCopy(spec), maps: make(map[string]*plannedMap), replaces: make(map[string]string)}
	if err := p.checkNames(spec); err != nil {
		return nil, err
	}
	for i, t := range m.Tests {
		if prog := spec.Programs[t.Program]; prog == nil || prog.Type == ebpf.UnspecifiedProgram {
			return nil, remedy.With(m.Errorf(fmt.Sprintf("test[%d].program", i), "the object has no program %q%s", t.Program, suggest(t.Program, programNames(spec))),
				"write the name as it stands in the C source")
		}
	}
	if err := p.aim(); err != nil {
		return nil, err
	}
	p.order = creationOrder(p.spec.Maps)
	for _, name := range p.order {
		if err := p.planMap(name); err != nil {
			return nil, err
		}
	}
	if err := p.checkStructOps(); err != nil {
		return nil, err
	}
	for _, name := range p.order {
		if p.spec.Maps[name].Type == ebpf.StructOpsMap {
			continue // the library writes it
		}
		c, err := contents(spec, m, name)
		if err != nil {
			return nil, err
		}
		p.maps[name].contents = c
		if isOuter(p.spec.Maps[name].Type) {
			if err := p.planTemplate(name); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// Spec returns the maps and programs as they will be created: with the
// manifest's sizes. Check limits against this, not against what OpenSpec gave.
func (p *Plan) Spec() *ebpf.CollectionSpec { return p.spec }

// MapClass returns the class of a map of the object, or "" where there is none
// of that name.
func (p *Plan) MapClass(name string) manifest.Class {
	if planned, ok := p.maps[name]; ok {
		return planned.class
	}
	if name == kconfig && hasKconfig(p.spec) {
		return manifest.ClassFrozen
	}
	return ""
}

// shallowCopy copies what a plan changes: the map specifications, not the
// types, instructions and contents they point to. Variables are left out: the
// library would write their values into maps that it makes, and only into
// those. Contents are left out because contents alone decides on them, but for
// struct_ops maps, which the library writes.
func shallowCopy(spec *ebpf.CollectionSpec) *ebpf.CollectionSpec {
	c := &ebpf.CollectionSpec{
		Maps:      make(map[string]*ebpf.MapSpec, len(spec.Maps)),
		Programs:  spec.Programs,
		Types:     spec.Types,
		ByteOrder: spec.ByteOrder,
	}
	for name, ms := range spec.Maps {
		c.Maps[name] = emptyCopy(ms)
	}
	return c
}

func emptyCopy(ms *ebpf.MapSpec) *ebpf.MapSpec {
	c := *ms
	if c.Type != ebpf.StructOpsMap {
		c.Contents = nil
	}
	if c.InnerMap != nil {
		c.InnerMap = emptyCopy(c.InnerMap)
	}
	return &c
}

// checkNames refuses maps and variables the object does not have.
func (p *Plan) checkNames(spec *ebpf.CollectionSpec) error {
	for _, name := range slices.Sorted(maps.Keys(p.m.Maps)) {
		if _, ok := spec.Maps[name]; ok || name == "*" {
			continue
		}
		if name == kconfig && hasKconfig(spec) {
			if _, _, err := p.classOf(name); err != nil {
				return err
			}
			continue
		}
		return remedy.With(p.m.Errorf("maps."+name, "the object has no map %q%s", name, suggest(name, slices.Collect(maps.Keys(spec.Maps)))),
			"write the name as it stands in the C source")
	}
	for i, a := range p.m.Allow {
		for _, right := range a.May {
			name, ofMap := right.Map()
			if _, ok := spec.Maps[name]; !ofMap || ok || name == "*" || strings.HasPrefix(name, kconfig) {
				continue
			}
			return remedy.With(p.m.Errorf(fmt.Sprintf("allow[%d].may", i), "%q: the object has no map %q%s", right, name, suggest(name, slices.Collect(maps.Keys(spec.Maps)))),
				"write the name as it stands in the C source, or * for all maps")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.m.Variables)) {
		if _, ok := spec.Variables[name]; ok {
			continue
		}
		key := "variables." + name
		switch where, static := findVariable(spec, name); {
		case where == kconfig:
			return remedy.With(p.m.Errorf(key, "%q comes from the running kernel", name), "remove it")
		case static:
			return remedy.With(p.m.Errorf(key, "%q is static in %s: it has no name outside of the object", name, where),
				"declare it without static, as const volatile")
		}
		return remedy.With(p.m.Errorf(key, "the object has no global variable %q%s", name, suggest(name, slices.Collect(maps.Keys(spec.Variables)))),
			"write the name as it stands in the C source; a variable the compiler could fold away must be volatile")
	}
	return nil
}

// findVariable looks for a variable that the library does not offer: in which
// section it is, and whether because it is static.
func findVariable(spec *ebpf.CollectionSpec, name string) (section string, static bool) {
	if spec.Types == nil {
		return "", false
	}
	sections := append(slices.Sorted(maps.Keys(spec.Maps)), kconfig)
	for _, section := range sections {
		var ds *btf.Datasec
		if !isDataSection(section) && section != kconfig || spec.Types.TypeByName(section, &ds) != nil {
			continue
		}
		for _, v := range ds.Vars {
			if v, ok := v.Type.(*btf.Var); ok && v.Name == name {
				return section, v.Linkage == btf.StaticVar
			}
		}
	}
	return "", false
}

func hasKconfig(spec *ebpf.CollectionSpec) bool {
	var ds *btf.Datasec
	return spec.Types != nil && spec.Types.TypeByName(kconfig, &ds) == nil
}

// creationOrder returns the names sorted, maps that hold maps last.
func creationOrder(specs map[string]*ebpf.MapSpec) []string {
	return slices.SortedFunc(maps.Keys(specs), func(a, b string) int {
		outerA, outerB := isOuter(specs[a].Type), isOuter(specs[b].Type)
		switch {
		case outerA && !outerB:
			return 1
		case !outerA && outerB:
			return -1
		}
		return strings.Compare(a, b)
	})
}

// planMap decides on the class, flags and size of one map.
func (p *Plan) planMap(name string) error {
	ms, decl := p.spec.Maps[name], p.m.Maps[name]
	class, writes, err := p.classOf(name)
	if err != nil {
		return err
	}
	p.maps[name] = &plannedMap{class: class, programWrites: writes}
	if reason := kinds[ms.Type].noFreeze; class == manifest.ClassFrozen && reason != "" {
		return remedy.With(p.mapErrorf(name, ".class", "a %s cannot be frozen: %s", ms.Type, reason),
			"below [maps.%s] write class = \"mutable\"", name)
	}
	if err := checkExtra(ms); err != nil {
		return &ObjectError{fmt.Errorf("map %q: %w", name, err)}
	}
	if ms.Type == ebpf.StructOpsMap {
		return p.planStructOps(name)
	}
	if isDataSection(name) {
		ms.Flags |= unix.BPF_F_MMAPABLE // as the library does, so that tools can map it
		if len(decl.Entries) > 0 || decl.MaxEntries > 0 || decl.Inner != "" {
			return remedy.With(p.mapErrorf(name, "", "%s is a data section: it has neither entries nor a size to choose", name),
				"set its variables by name under [variables]")
		}
	}
	if class == manifest.ClassFrozen && !writes && kinds[ms.Type].readOnly {
		ms.Flags |= unix.BPF_F_RDONLY_PROG
	}
	if decl.MaxEntries > 0 {
		ms.MaxEntries = decl.MaxEntries
	}
	if ms.MaxEntries == 0 && !sizedByKernel(ms.Type) {
		return remedy.With(p.mapErrorf(name, ".max_entries", "the object leaves the number of entries open"),
			"below [maps.%s] write max_entries = N", name)
	}
	return nil
}

// classOf returns who may write a map.
func (p *Plan) classOf(name string) (class manifest.Class, programWrites bool, err error) {
	decl, named := p.m.Maps[name]
	switch {
	case strings.HasPrefix(name, ".rodata"), name == kconfig:
		if decl.Class == manifest.ClassMutable || decl.ProgramWrites {
			return "", false, remedy.With(p.m.Errorf("maps."+name, "%s holds constants: it is always frozen", name), "remove this")
		}
		return manifest.ClassFrozen, false, nil
	case isDataSection(name):
		if decl.Class == "" {
			return manifest.ClassMutable, false, nil
		}
		return decl.Class, decl.ProgramWrites, nil
	case !named:
		decl, named = p.m.Maps["*"]
	}
	if !named || decl.Class == "" {
		return "", false, p.undeclared()
	}
	return decl.Class, decl.ProgramWrites, nil
}

// mapErrorf returns an error about what the manifest says of a map, below key
// (".class"); where only "*" speaks of it, it is about that.
func (p *Plan) mapErrorf(name, key, format string, args ...any) error {
	if _, named := p.m.Maps[name]; named || isDataSection(name) {
		return p.m.Errorf("maps."+name+key, format, args...)
	}
	return p.m.Errorf("maps.*", "map %q: "+format, append([]any{name}, args...)...)
}

// undeclared names all maps that the manifest forgets, so that it takes one
// round to declare them.
func (p *Plan) undeclared() error {
	var missing []string
	for _, name := range p.order {
		if _, ok := p.m.Maps[name]; !ok && !isDataSection(name) {
			missing = append(missing, name)
		}
	}
	var lines []string
	for _, name := range missing {
		class := manifest.ClassFrozen
		if kinds[p.spec.Maps[name].Type].noFreeze != "" {
			class = manifest.ClassMutable
		}
		lines = append(lines, fmt.Sprintf("%s = { class = %q }", name, class))
	}
	return remedy.With(p.m.Errorf("maps", "not declared: %s", strings.Join(missing, ", ")),
		"declare each map, frozen where only the manifest fills it, mutable where programs or people write it; below [maps]: %s", strings.Join(lines, " and "))
}

// checkExtra refuses what is left of a map definition of another loader
// (iproute2) that means something there and nothing here.
func checkExtra(ms *ebpf.MapSpec) error {
	if ms.Extra == nil || ms.Extra.Size() == 0 {
		return nil
	}
	extra := make([]byte, ms.Extra.Size())
	if _, err := ms.Extra.ReadAt(extra, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if bytes.Count(extra, []byte{0}) != len(extra) {
		return errors.New("its definition has fields of another loader (iproute2)")
	}
	ms.Extra = nil
	return nil
}

// planTemplate gives a map of maps the template that the kernel compares every
// inner map with, and checks those the plan puts in.
func (p *Plan) planTemplate(name string) error {
	ms := p.spec.Maps[name]
	if inner := p.m.Maps[name].Inner; inner != "" {
		template, ok := p.spec.Maps[inner]
		switch {
		case ms.InnerMap != nil:
			return remedy.With(p.mapErrorf(name, ".inner", "the object says already what this map holds"), "remove it")
		case !ok:
			return remedy.With(p.mapErrorf(name, ".inner", "the object has no map %q%s", inner, suggest(inner, innerNames(p.spec))),
				"write the name of the map whose definition all inner maps share")
		case isOuter(template.Type):
			return remedy.With(p.mapErrorf(name, ".inner", "%q holds maps itself: the kernel nests one level", inner),
				"write the name of a map that holds values")
		}
		ms.InnerMap = emptyCopy(template)
	}
	if ms.InnerMap == nil {
		return remedy.With(p.mapErrorf(name, ".inner", "the object does not say what this map holds"),
			"below [maps.%s] write inner = \"NAME\", a map of the object whose definition all inner maps share", name)
	}
	for i, e := range p.maps[name].contents {
		inner := p.spec.Maps[e.ref]
		if i == 0 {
			ms.InnerMap.Flags |= inner.Flags & unix.BPF_F_RDONLY_PROG
		}
		if what := differs(ms.InnerMap, inner); what != "" {
			return remedy.With(p.mapErrorf(name, "", "inner map %q differs from the template in its %s", e.ref, what),
				"maps in one map have the same definition and the same class")
		}
	}
	return nil
}

// differs returns in what two inner maps are not the same to the kernel
// (bpf_map_meta_equal), or "".
func differs(a, b *ebpf.MapSpec) string {
	const anySize = 1 << 12 // BPF_F_INNER_MAP: arrays of different length
	switch {
	case a.Type != b.Type:
		return "type"
	case a.KeySize != b.KeySize:
		return "key size"
	case a.ValueSize != b.ValueSize:
		return "value size"
	case a.Flags != b.Flags:
		return "flags (which follow from the class)"
	case a.Type == ebpf.Array && a.MaxEntries != b.MaxEntries && a.Flags&anySize == 0:
		return "max_entries"
	}
	return ""
}

// isDataSection says whether a map holds global variables.
func isDataSection(name string) bool {
	return name == ".bss" || strings.HasPrefix(name, ".data") || strings.HasPrefix(name, ".rodata")
}
