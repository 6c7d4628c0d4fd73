package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// Gauge is where the counter is that the [health] of a manifest is about.
type Gauge struct {
	Map string // that it is in

	key          []byte
	offset, size int // in the value, in bytes
	perCPU       bool
}

// NewGauge finds the counter of m's [health] in the object. It is nil where m has
// none, or one that is about a program, which must be in the object. Errors have
// file, line and key, and a remedy.
func NewGauge(spec *ebpf.CollectionSpec, m manifest.Manifest) (*Gauge, error) {
	h := m.Health
	switch {
	case h == nil:
		return nil, nil
	case h.Run != nil:
		if spec.Programs[h.Run.Program] == nil {
			return nil, remedy.With(m.Errorf("health.program", "the object has no program %q%s", h.Run.Program, suggest(h.Run.Program, slices.Collect(maps.Keys(spec.Programs)))),
				"name a program of the object")
		}
		return nil, nil
	case h.Variable != "":
		return variableGauge(spec, m)
	}
	return mapGauge(spec, m)
}

func variableGauge(spec *ebpf.CollectionSpec, m manifest.Manifest) (*Gauge, error) {
	name := m.Health.Variable
	v := spec.Variables[name]
	if v == nil {
		return nil, remedy.With(m.Errorf("health.variable", "the object has no global variable %q%s", name, suggest(name, slices.Collect(maps.Keys(spec.Variables)))),
			"write the name as it stands in the C source")
	}
	var typ btf.Type
	if v.Type != nil {
		typ = v.Type
	}
	if !isCounter(typ, len(v.Value)) {
		return nil, remedy.With(m.Errorf("health.variable", "%q is no integer of at most 64 bits: %s", name, typeOrSize(typ, len(v.Value))), "name a variable that counts")
	}
	return &Gauge{Map: v.SectionName, key: make([]byte, 4), offset: int(v.Offset), size: len(v.Value)}, nil
}

func mapGauge(spec *ebpf.CollectionSpec, m manifest.Manifest) (*Gauge, error) {
	h := m.Health
	ms := spec.Maps[h.Map]
	if ms == nil {
		return nil, remedy.With(m.Errorf("health.map", "the object has no map %q%s", h.Map, suggest(h.Map, mapNames(spec))),
			"write the name as it stands in the C source")
	}
	switch ms.Type {
	case ebpf.Hash, ebpf.Array, ebpf.PerCPUHash, ebpf.PerCPUArray, ebpf.LRUHash, ebpf.LRUCPUHash, ebpf.LPMTrie:
	default:
		return nil, remedy.With(m.Errorf("health.map", "%q is a %s, which holds no counters", h.Map, ms.Type), "name an array or a hash")
	}
	g := &Gauge{Map: h.Map, key: make([]byte, ms.KeySize), size: int(ms.ValueSize), perCPU: isPerCPU(ms.Type)}
	switch {
	case h.Key != nil:
		if err := encode(g.key, ms.Key, h.Key); err != nil {
			return nil, remedy.With(m.Errorf("health.key", "%w", err), "%s", shape("the key", ms.Key, len(g.key)))
		}
	case !isArray(ms.Type):
		return nil, remedy.With(m.Errorf("health.key", "is missing: %q is a %s", h.Map, ms.Type), "write the key of the counter, as in entries")
	}
	typ := ms.Value
	if h.Field != "" {
		var fields []btf.Member
		if typ != nil {
			fields = flatten(btf.UnderlyingType(typ))
		}
		i := slices.IndexFunc(fields, func(f btf.Member) bool { return f.Name == h.Field && f.BitfieldSize == 0 })
		if i < 0 {
			return nil, remedy.With(m.Errorf("health.field", "the value of %q has no field %q%s", h.Map, h.Field, suggest(h.Field, names(fields))), "%s", shape("the value", typ, g.size))
		}
		size, err := btf.Sizeof(fields[i].Type)
		if err != nil {
			return nil, &ObjectError{fmt.Errorf("map %q: field %q: %w", h.Map, h.Field, err)}
		}
		typ, g.offset, g.size = fields[i].Type, int(fields[i].Offset.Bytes()), size
	}
	if !isCounter(typ, g.size) || g.offset+g.size > int(ms.ValueSize) {
		return nil, remedy.With(m.Errorf("health.map", "what it counts with is no integer of at most 64 bits: %s", typeOrSize(typ, g.size)),
			`name a field of the value that is one, with field = "NAME"`)
	}
	return g, nil
}

// typeOrSize is describeType also for what the object has no type of.
func typeOrSize(typ btf.Type, size int) string {
	if typ == nil {
		return fmt.Sprintf("%d bytes without a type", size)
	}
	return describeType(typ)
}

// isCounter reports whether size bytes of typ are an integer. nil, which is a map
// without type information, may be one.
func isCounter(typ btf.Type, size int) bool {
	if !slices.Contains([]int{1, 2, 4, 8}, size) {
		return false
	}
	if v, ok := typ.(*btf.Var); ok {
		typ = v.Type
	}
	if typ == nil {
		return true
	}
	i, ok := btf.UnderlyingType(typ).(*btf.Int)
	return ok && i.Encoding != btf.Bool
}

// Read returns what the counter shows, over all CPUs; 0 where the map has no
// entry for it. m is the map of the name Map.
func (g *Gauge) Read(m *ebpf.Map) (uint64, error) {
	b, err := m.LookupBytes(g.key)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("map %q: %w", g.Map, err)
	}
	stride := int(m.ValueSize())
	if g.perCPU {
		stride = int(pad8(stride))
	}
	var sum uint64
	for ; len(b) >= g.offset+g.size && len(b) >= stride; b = b[stride:] {
		n, _ := getInt(b[g.offset:][:g.size], byteOrder(false))
		sum += n
	}
	return sum, nil
}
