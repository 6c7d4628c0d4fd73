package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

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
	Key, Value btf.Type  // of MapTypes; nil: shown as hex, an array's index as a number
	After      []byte    // the cursor a call before returned; nil: from the beginning
	Limit      int       // about how many entries; 0: all
	Until      time.Time // when it gives up; zero: never
	Sum        bool      // of the values of a per-CPU map only their sum
	Hex        bool      // keys and values as hex, whatever they are
}

// Entry is one decoded key and value of a map, as Decode gives them. The value
// of a per-CPU map is an []any with one element for each possible CPU, or their
// sum; that of a map which holds maps or programs is an id.
type Entry struct{ Key, Value any }

// ErrChanging means that a map changes faster than it can be read.
var ErrChanging = errors.New("it changes faster than it can be read")

// ErrTooLong means that reading took more time than it may.
var ErrTooLong = errors.New("reading it takes too long")

// ErrNoSum means values that cannot be added.
var ErrNoSum = errors.New("the values of the CPUs have no sum")

// ErrCursor means a cursor that no call has returned for this map.
var ErrCursor = errors.New("not a cursor of this map")

// DumpEntries calls fn with the entries of a map, those of an array in the
// order of their index. It returns a cursor for the entries behind the last,
// or nil at the end. An error of fn ends the dump and is returned as it is.
//
// Page after page, however the map changes meanwhile, an entry that is there
// from the first to the last is given exactly once: the kernel's own iteration,
// which begins again where the key it stopped at was deleted, is not used. A
// hash is read by bucket, and a page can have a few entries more than Limit, not
// 16 times as many, where the kernel keeps them in one. Where it keeps more, the rest
// of the map is read like maps that are neither hash nor array:
// by the order of their keys' bytes, at the price of a walk over all keys for each
// page.
func DumpEntries(m *ebpf.Map, o Dump, fn func(Entry) error) (next []byte, err error) {
	if n := len(o.After); o.After != nil && n != cursorSize(m) && !(isHash(m.Type()) && n == bucketCursor+int(m.KeySize())) {
		return nil, fmt.Errorf("%w: %d bytes, not %d", ErrCursor, n, cursorSize(m))
	}
	page := Dump.sorted
	switch {
	case isHash(m.Type()):
		page = Dump.buckets
	case isArray(m.Type()):
		page = Dump.indexes
	}
	if o.Limit > 0 {
		return page(o, m, fn)
	}
	for o.Limit = 1024; ; {
		if o.After, err = page(o, m, fn); err != nil || o.After == nil {
			return nil, err
		}
	}
}

// isHash says whether the cursor of a batch in t is the number of a bucket.
func isHash(t ebpf.MapType) bool {
	switch t {
	case ebpf.Hash, ebpf.LRUHash, ebpf.PerCPUHash, ebpf.LRUCPUHash:
		return true
	}
	return false
}

// bucketCursor is the size of the number of a bucket, in bytes.
const bucketCursor = 4

func cursorSize(m *ebpf.Map) int {
	if isHash(m.Type()) {
		return bucketCursor
	}
	return int(m.KeySize())
}

// indexes reads an array, which has one key for every index. Where most of them
// are empty a page can end before it has anything.
func (o Dump) indexes(m *ebpf.Map, fn func(Entry) error) ([]byte, error) {
	index := uint32(0)
	if o.After != nil {
		index = binary.NativeEndian.Uint32(o.After) + 1
		if index == 0 {
			return nil, nil
		}
	}
	var key []byte
	for n, steps := 0, 0; n < o.Limit; index, steps = index+1, steps+1 {
		if index >= m.MaxEntries() {
			return nil, nil
		}
		if steps%1024 == 1023 && o.late() {
			return key, nil
		}
		key = binary.NativeEndian.AppendUint32(nil, index)
		value, err := lookup(m, o.Value, key)
		if err != nil {
			return nil, unlistable(m, err)
		}
		if value == nil {
			continue // empty slot
		}
		if err := o.give(m, key, value, fn); err != nil {
			return nil, err
		}
		n++
	}
	return key, nil
}

// sorted reads any map by the order of its keys' bytes.
func (o Dump) sorted(m *ebpf.Map, fn func(Entry) error) ([]byte, error) {
	keys, err := o.keysAfter(m)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if err := o.lookUp(m, key, fn); err != nil {
			return nil, err
		}
	}
	if len(keys) < o.Limit {
		return nil, nil
	}
	return keys[len(keys)-1], nil
}

// lookUp gives fn the entry at key, if it is there still.
func (o Dump) lookUp(m *ebpf.Map, key []byte, fn func(Entry) error) error {
	value, err := lookup(m, o.Value, key)
	if err != nil {
		return unlistable(m, err)
	}
	if value == nil {
		return nil // gone since
	}
	return o.give(m, key, value, fn)
}

// keysAfter walks all keys and returns the first behind o.After by the order of
// their bytes, at most o.Limit. The walk begins again where the kernel's does,
// and what it sees twice counts once.
func (o Dump) keysAfter(m *ebpf.Map) ([][]byte, error) {
	first := smallest{after: o.After, limit: o.Limit}
	err := o.eachKey(m, func(key []byte) bool { first.add(key); return true })
	return first.keys, err
}

// smallest are the first keys behind after, at most limit, by the order of their bytes.
type smallest struct {
	after []byte // none where it is empty
	limit int
	keys  [][]byte
}

func (s *smallest) add(key []byte) {
	if len(s.after) > 0 && bytes.Compare(key, s.after) <= 0 ||
		len(s.keys) == s.limit && bytes.Compare(key, s.keys[len(s.keys)-1]) >= 0 {
		return
	}
	if i, seen := slices.BinarySearchFunc(s.keys, key, bytes.Compare); !seen {
		s.keys = slices.Insert(s.keys, i, key)
		s.keys = s.keys[:min(len(s.keys), s.limit)]
	}
}

// eachKey calls fn with each key, some more than once in a map that changes,
// until it returns false.
func (o Dump) eachKey(m *ebpf.Map, fn func(key []byte) bool) error {
	var key any // a []byte, and at first nil
	for steps := 0; ; steps++ {
		next, err := m.NextKeyBytes(key)
		switch {
		case err != nil:
			return unlistable(m, err)
		case next == nil || !fn(next):
			return nil
		case steps > 4*int(m.MaxEntries()):
			return ErrChanging
		case steps%1024 == 1023 && o.late():
			return ErrTooLong
		}
		key = next
	}
}

func (o Dump) late() bool { return !o.Until.IsZero() && time.Now().After(o.Until) }

// give decodes an entry for fn.
func (o Dump) give(m *ebpf.Map, key, value []byte, fn func(Entry) error) error {
	e, err := o.entry(m, key, value)
	if err != nil {
		return err
	}
	return fn(e)
}

func (o Dump) entry(m *ebpf.Map, key, value []byte) (Entry, error) {
	e := Entry{o.key(m, key), o.value(m, value)}
	list, ok := e.Value.([]any)
	if !o.Sum || !ok || !isPerCPU(m.Type()) {
		return e, nil
	}
	total, err := sum(list)
	if err != nil {
		return e, remedy.With(fmt.Errorf("%w: %w", ErrNoSum, err), "ask for a list: percpu=list")
	}
	e.Value = total
	return e, nil
}

// lookup returns the value at key as the kernel has it, nil where there is none.
func lookup(m *ebpf.Map, typ btf.Type, key []byte) ([]byte, error) {
	if lockFlag(typ) == 0 {
		return m.LookupBytes(key)
	}
	value := make([]byte, lookupSize(m))
	err := m.LookupWithFlags(key, value, ebpf.LookupLock)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	return value, err
}

// lookupSize is how many bytes a lookup gives.
func lookupSize(m *ebpf.Map) int {
	if isPerCPU(m.Type()) {
		return int(pad8(int(m.ValueSize()))) * ebpf.MustPossibleCPU()
	}
	return int(m.ValueSize())
}

// lockFlag is BPF_F_LOCK for values with a bpf_spin_lock in them: the kernel
// then copies them in one piece. It is only looked for where the kernel does.
func lockFlag(typ btf.Type) ebpf.MapLookupFlags {
	if typ == nil {
		return 0
	}
	s, ok := btf.UnderlyingType(typ).(*btf.Struct)
	if !ok {
		return 0
	}
	for _, member := range s.Members {
		if lock, ok := member.Type.(*btf.Struct); ok && lock.Name == "bpf_spin_lock" {
			return ebpf.LookupLock
		}
	}
	return 0
}

func unlistable(m *ebpf.Map, err error) error {
	return remedy.With(fmt.Errorf("the entries of a %s cannot be listed: %w", m.Type(), unwrapAll(err)),
		"hashes, arrays, tries and maps that hold maps or programs can")
}

func (o Dump) key(m *ebpf.Map, b []byte) any {
	if o.Hex {
		return hexBytes(b)
	}
	if m.Type() == ebpf.LPMTrie {
		if text, ok := prefixText(b); ok {
			return text
		}
	}
	if o.Key == nil && isArray(m.Type()) {
		return binary.NativeEndian.Uint32(b)
	}
	return Decode(o.Key, b)
}

func (o Dump) value(m *ebpf.Map, b []byte) any {
	typ := o.Value
	if o.Hex {
		typ = nil
	}
	switch t := m.Type(); {
	case isPerCPU(t):
		var list []any
		for stride := int(pad8(int(m.ValueSize()))); len(b) >= stride; b = b[stride:] {
			list = append(list, Decode(typ, b[:m.ValueSize()]))
		}
		return list
	case isOuter(t), t == ebpf.ProgramArray:
		return binary.NativeEndian.Uint32(b)
	}
	return Decode(typ, b)
}
