package loader

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/remedy"
)

// MapTypes returns the types of a map's keys and values as the kernel has them;
// nil where it has none. It works for any map, also one that was opened from a
// pin. It needs CAP_SYS_ADMIN.
func MapTypes(m *ebpf.Map) (key, value btf.Type, err error) {
	info, err := bpfsys.MapInfo(m.FD())
	if err != nil || info.BTFID == 0 {
		return nil, nil, err
	}
	h, err := btf.NewHandleFromID(btf.ID(info.BTFID))
	if err != nil {
		return nil, nil, fmt.Errorf("map's type information: %w", err)
	}
	defer h.Close()
	spec, err := h.Spec(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("map's type information: %w", err)
	}
	if key, err = typeByID(spec, info.KeyTypeID); err != nil {
		return nil, nil, fmt.Errorf("key's type: %w", err)
	}
	if value, err = typeByID(spec, info.ValueTypeID); err != nil {
		return nil, nil, fmt.Errorf("value's type: %w", err)
	}
	return key, value, nil
}

// typeByID returns nil for void, which a data section has as its key.
func typeByID(spec *btf.Spec, id uint32) (btf.Type, error) {
	if id == 0 {
		return nil, nil
	}
	return spec.TypeByID(btf.TypeID(id))
}

// Dump says which entries DumpEntries gives, and how it shows them.
type Dump struct {
	Key, Value btf.Type // of MapTypes; nil: shown as hex, an array's index as a number
	After      []byte   // the cursor a call before returned; nil: from the beginning
	Limit      int      // how many entries; 0: all
}

// Entry is one decoded key and value of a map, as Decode gives them. The value
// of a per-CPU map is an []any with one element for each possible CPU, that of
// a map which holds maps or programs is an id.
type Entry struct{ Key, Value any }

// DumpEntries calls fn with the entries of a map, those of an array in the
// order of their index. It returns a cursor for the entries behind the last,
// or nil at the end. An error of fn ends the dump and is returned as it is.
//
// A map that changes meanwhile may show an entry twice or not at all; the
// kernel starts over where the entry at the cursor is gone.
func DumpEntries(m *ebpf.Map, o Dump, fn func(Entry) error) (next []byte, err error) {
	if o.After != nil && len(o.After) != int(m.KeySize()) {
		return nil, fmt.Errorf("cursor: %d bytes, the map's keys have %d", len(o.After), m.KeySize())
	}
	key := o.After
	for n := 0; o.Limit == 0 || n < o.Limit; {
		following, err := nextKey(m, key)
		if err != nil {
			return nil, err
		}
		if following == nil {
			return nil, nil
		}
		key = following
		value, err := m.LookupBytes(key)
		if err != nil {
			return nil, unlistable(m, err)
		}
		if value == nil {
			continue // empty slot, or gone since
		}
		if err := fn(Entry{o.key(m, key), o.value(m, value)}); err != nil {
			return nil, err
		}
		n++
	}
	return key, nil
}

// nextKey returns the key after key, nil at the end. The keys of an array are
// counted here: it has one for every index.
func nextKey(m *ebpf.Map, key []byte) ([]byte, error) {
	if isArray(m.Type()) {
		index := uint32(0)
		if key != nil {
			index = binary.NativeEndian.Uint32(key) + 1
		}
		if index >= m.MaxEntries() {
			return nil, nil
		}
		return binary.NativeEndian.AppendUint32(nil, index), nil
	}
	var after any
	if key != nil {
		after = key
	}
	next, err := m.NextKeyBytes(after)
	if err != nil {
		return nil, unlistable(m, err)
	}
	return next, nil
}

func unlistable(m *ebpf.Map, err error) error {
	return remedy.With(fmt.Errorf("the entries of a %s cannot be listed: %w", m.Type(), unwrapAll(err)),
		"hashes, arrays, tries and maps that hold maps or programs can")
}

func (o Dump) key(m *ebpf.Map, b []byte) any {
	if o.Key == nil && isArray(m.Type()) {
		return binary.NativeEndian.Uint32(b)
	}
	return Decode(o.Key, b)
}

func (o Dump) value(m *ebpf.Map, b []byte) any {
	switch t := m.Type(); {
	case isPerCPU(t):
		var list []any
		for stride := int(pad8(int(m.ValueSize()))); len(b) >= stride; b = b[stride:] {
			list = append(list, Decode(o.Value, b[:m.ValueSize()]))
		}
		return list
	case isOuter(t), t == ebpf.ProgramArray:
		return binary.NativeEndian.Uint32(b)
	}
	return Decode(o.Value, b)
}
