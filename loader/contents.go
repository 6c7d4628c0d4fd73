package loader

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// element is one entry of a map as it is before any program runs. Where a map
// holds maps or programs, ref names what it holds and value is nil.
type element struct {
	key, value []byte
	ref        string
	entry      int // index in the manifest; -1: the object's own
}

// contents returns what a map holds before any program sees it: the object's
// bytes, the manifest's variables written into them, the manifest's entries.
// Nothing else decides on the bytes of a map.
func contents(spec *ebpf.CollectionSpec, m manifest.Manifest, name string) ([]element, error) {
	ms := spec.Maps[name]
	if isDataSection(name) {
		return sectionContents(spec, m, name)
	}
	var all []element
	for _, kv := range ms.Contents {
		key, ok := kv.Key.(uint32)
		ref, isRef := kv.Value.(string)
		if !ok || !isRef {
			return nil, &ObjectError{fmt.Errorf("map %q: contents of type %T", name, kv.Value)}
		}
		if err := checkRef(spec, ms, ref); err != nil {
			return nil, &ObjectError{fmt.Errorf("map %q: slot %d: %w", name, key, err)}
		}
		all = append(all, element{key: binary.NativeEndian.AppendUint32(nil, key), ref: ref, entry: -1})
	}
	entries := m.Maps[name].Entries
	if len(entries) > 0 && !kinds[ms.Type].entries {
		return nil, remedy.With(m.Errorf("maps."+name+".entries", "a %s takes no entries before it runs", ms.Type), "remove them")
	}
	for i, e := range entries {
		at := fmt.Sprintf("maps.%s.entries[%d]", name, i)
		el, err := encodeEntry(spec, ms, size(ms, m.Maps[name]), e)
		if err != nil {
			return nil, remedy.With(m.Errorf(at, "%w", err), "%s", shapes(ms))
		}
		el.entry = i
		if j := slices.IndexFunc(all, func(o element) bool { return bytes.Equal(o.key, el.key) }); j >= 0 {
			return nil, remedy.With(m.Errorf(at+".key", "%s", taken(all[j])), "give every key once")
		}
		all = append(all, el)
	}
	if n := size(ms, m.Maps[name]); n > 0 && uint64(len(all)) > uint64(n) {
		return nil, remedy.With(m.Errorf("maps."+name+".entries", "%d entries, and the map has room for %d", len(all), n),
			"below [maps.%s] write a larger max_entries", name)
	}
	slices.SortFunc(all, func(a, b element) int {
		if isArray(ms.Type) {
			return cmp.Compare(binary.NativeEndian.Uint32(a.key), binary.NativeEndian.Uint32(b.key))
		}
		return bytes.Compare(a.key, b.key)
	})
	return all, nil
}

// sectionContents returns the one value of a data section.
func sectionContents(spec *ebpf.CollectionSpec, m manifest.Manifest, name string) ([]element, error) {
	ms := spec.Maps[name]
	if len(ms.Contents) != 1 {
		return nil, &ObjectError{fmt.Errorf("section %s: %d values", name, len(ms.Contents))}
	}
	b, ok := ms.Contents[0].Value.([]byte)
	if !ok || len(b) != int(ms.ValueSize) {
		return nil, &ObjectError{fmt.Errorf("section %s: contents of type %T", name, ms.Contents[0].Value)}
	}
	b = slices.Clone(b)
	for _, variable := range slices.Sorted(maps.Keys(m.Variables)) {
		vs := spec.Variables[variable]
		if vs == nil || vs.SectionName != name {
			continue
		}
		if uint64(vs.Offset)+uint64(len(vs.Value)) > uint64(len(b)) {
			return nil, &ObjectError{fmt.Errorf("variable %q: outside of its section", variable)}
		}
		at := b[vs.Offset:][:len(vs.Value)]
		clear(at)
		var typ btf.Type
		if vs.Type != nil {
			typ = vs.Type
		}
		if err := encode(at, typ, m.Variables[variable]); err != nil {
			return nil, remedy.With(m.Errorf("variables."+variable, "%w", err), "%s", shape("the variable", typ, len(at)))
		}
	}
	return []element{{key: make([]byte, 4), value: b, entry: -1}}, nil
}

// size is how many entries a map will have room for.
func size(ms *ebpf.MapSpec, decl manifest.Map) uint32 {
	if decl.MaxEntries > 0 {
		return decl.MaxEntries
	}
	return ms.MaxEntries
}

func encodeEntry(spec *ebpf.CollectionSpec, ms *ebpf.MapSpec, max uint32, e manifest.Entry) (element, error) {
	el := element{key: make([]byte, ms.KeySize)}
	if err := encode(el.key, ms.Key, e.Key); err != nil {
		return el, fmt.Errorf("key: %w", err)
	}
	if isArray(ms.Type) {
		if len(el.key) != 4 {
			return el, fmt.Errorf("key: of %d bytes, an array has 4", len(el.key))
		}
		if index := binary.NativeEndian.Uint32(el.key); index >= max && max > 0 {
			return el, fmt.Errorf("key: %d is behind the last, %d", index, max-1)
		}
	}
	if isOuter(ms.Type) || ms.Type == ebpf.ProgramArray {
		ref, ok := e.Value.(string)
		if !ok {
			return el, fmt.Errorf("value: %s is not a name", show(e.Value))
		}
		el.ref = ref
		if err := checkRef(spec, ms, ref); err != nil {
			return el, fmt.Errorf("value: %w", err)
		}
		return el, nil
	}
	el.value = make([]byte, ms.ValueSize)
	if err := encode(el.value, ms.Value, e.Value); err != nil {
		return el, fmt.Errorf("value: %w", err)
	}
	return el, nil
}

// checkRef checks that a map or program that another map is to hold exists.
func checkRef(spec *ebpf.CollectionSpec, ms *ebpf.MapSpec, ref string) error {
	if ms.Type == ebpf.ProgramArray {
		switch p := spec.Programs[ref]; {
		case p == nil:
			return fmt.Errorf("the object has no program %q%s", ref, suggest(ref, programNames(spec)))
		case p.Type == ebpf.UnspecifiedProgram:
			return fmt.Errorf("the type of program %q is not known from its section %q", ref, p.SectionName)
		}
		return nil
	}
	inner := spec.Maps[ref]
	switch {
	case !isOuter(ms.Type):
		return errors.New("this map holds neither maps nor programs")
	case inner == nil:
		return fmt.Errorf("the object has no map %q%s", ref, suggest(ref, innerNames(spec)))
	case isOuter(inner.Type):
		return fmt.Errorf("%q holds maps itself: the kernel nests one level", ref)
	}
	return nil
}

func programNames(spec *ebpf.CollectionSpec) (names []string) {
	for name, p := range spec.Programs {
		if p.Type != ebpf.UnspecifiedProgram {
			names = append(names, name)
		}
	}
	return names
}

func innerNames(spec *ebpf.CollectionSpec) (names []string) {
	for name, ms := range spec.Maps {
		if !isOuter(ms.Type) && !isDataSection(name) {
			names = append(names, name)
		}
	}
	return names
}

func taken(e element) string {
	if e.entry < 0 {
		return fmt.Sprintf("the object puts %q there", e.ref)
	}
	return fmt.Sprintf("the same key as in entries[%d]", e.entry)
}

// shapes says what an entry of a map looks like.
func shapes(ms *ebpf.MapSpec) string {
	value := shape("the value", ms.Value, int(ms.ValueSize))
	switch {
	case ms.Type == ebpf.ProgramArray:
		value = "the value is the name of a program"
	case isOuter(ms.Type):
		value = "the value is the name of a map"
	}
	return shape("the key", ms.Key, int(ms.KeySize)) + ", " + value
}

func shape(what string, typ btf.Type, size int) string {
	if typ == nil {
		return fmt.Sprintf("%s has %d bytes of no known type: write an integer, or hex as a string", what, size)
	}
	return what + " is " + describeType(typ)
}
