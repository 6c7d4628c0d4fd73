package loader

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"reflect"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Codec turns the entries of one map into values and back.
type Codec struct {
	m          *ebpf.Map
	key, value btf.Type
	text       int  // bytes that an entry has at most as JSON
	hex        bool // entries are shown as such
}

// maxText bounds an entry as JSON: what would be longer is shown as hex. A byte
// of a map can be a field with a name of hundreds.
const maxText = 4 << 20

// NewCodec asks the kernel for the types of m, which stays the caller's.
func NewCodec(m *ebpf.Map) (Codec, error) {
	key, value, err := MapTypes(m)
	if err != nil {
		return Codec{}, err
	}
	c := Codec{m: m, key: key, value: value}
	c.text = c.entryText(key, value)
	if c.text > maxText {
		c.text, c.hex = c.entryText(nil, nil), true
	}
	return c, nil
}

// entryText is the most bytes that an entry has as JSON, with values of that type.
func (c Codec) entryText(key, value btf.Type) int {
	values := 1
	if isPerCPU(c.m.Type()) {
		values = ebpf.MustPossibleCPU()
	}
	return clamp(max(textAddress, textSize(key, int(c.m.KeySize()))) + values*(textSize(value, int(c.m.ValueSize()))+1))
}

// Size is how many bytes a key and a value have, the latter on all CPUs, and
// how many the two have at most as JSON.
func (c Codec) Size() (key, value, text int) { return int(c.m.KeySize()), lookupSize(c.m), c.text }

// Editable says whether entries of type t can be written as values. The values
// of most other types are descriptors in the kernel's eyes: a number that a
// client gives would be looked up among those of the daemon.
func Editable(t ebpf.MapType) bool { return isHash(t) || isDense(t) || t == ebpf.LPMTrie }

// HasEveryIndex says whether no entry of t can be deleted.
func HasEveryIndex(t ebpf.MapType) bool { return isDense(t) }

// Shapes says in a sentence what keys and values of the map look like.
func (c Codec) Shapes() string {
	text := shape("the key", c.key, int(c.m.KeySize())) + ", " + shape("the value", c.value, int(c.m.ValueSize()))
	if isPerCPU(c.m.Type()) {
		text += ", one for all CPUs, or a list of one for each"
	}
	return text
}

// Key returns the bytes of a key that ParseJSON gave. In a trie an address alone
// is the network that holds nothing else.
func (c Codec) Key(v any) ([]byte, error) {
	if s, ok := v.(string); ok && c.m.Type() == ebpf.LPMTrie {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			v = netip.PrefixFrom(a, a.BitLen()).String()
		}
	}
	key := make([]byte, c.m.KeySize())
	return key, encode(key, c.key, v)
}

// Value returns the bytes of a value that ParseJSON gave, as an update takes
// them. For a per-CPU map a list has the value of each CPU, anything else is the
// value of all.
func (c Codec) Value(v any) ([]byte, error) {
	if !isPerCPU(c.m.Type()) {
		value := make([]byte, c.m.ValueSize())
		return value, encode(value, c.value, v)
	}
	cpus := ebpf.MustPossibleCPU()
	list, ok := v.([]any)
	switch {
	case !ok:
		value := make([]byte, c.m.ValueSize())
		err := encode(value, c.value, v)
		return asRead(c.m.Type(), value), err
	case len(list) != cpus:
		return nil, fmt.Errorf("a list of %d: there are %d CPUs", len(list), cpus)
	}
	stride := int(pad8(int(c.m.ValueSize())))
	all := make([]byte, stride*cpus)
	for i, v := range list {
		if err := encode(all[i*stride:][:c.m.ValueSize()], c.value, v); err != nil {
			return nil, fmt.Errorf("CPU %d: %w", i, err)
		}
	}
	return all, nil
}

// Lookup returns the value at key, nil where there is none. In a trie that is
// the value of the longest prefix that holds it.
func (c Codec) Lookup(key []byte) ([]byte, error) { return lookup(c.m, c.value, key) }

// LookupExact is Lookup for a key that is there itself.
func (c Codec) LookupExact(key []byte, o Dump) ([]byte, error) {
	if c.m.Type() != ebpf.LPMTrie {
		return c.Lookup(key)
	}
	found := false
	err := o.eachKey(c.m, func(k []byte) bool {
		found = bytes.Equal(k, key)
		return !found
	})
	if err != nil || !found {
		return nil, err
	}
	return c.Lookup(key)
}

// Update writes an entry. Where its value has a bpf_spin_lock, programs that take
// it see the old value or the new one, never a part.
func (c Codec) Update(key, value []byte, flags ebpf.MapUpdateFlags) error {
	var v any = value
	if isPerCPU(c.m.Type()) {
		var cpus [][]byte // as the library wants it
		for stride := int(pad8(int(c.m.ValueSize()))); len(value) >= stride; value = value[stride:] {
			cpus = append(cpus, value[:c.m.ValueSize()])
		}
		v = cpus
	}
	return unwrapAll(c.m.Update(key, v, flags|ebpf.MapUpdateFlags(lockFlag(c.value))))
}

// Same says whether two values are shown the same.
func (c Codec) Same(a, b []byte) bool {
	d := c.Dump()
	return bytes.Equal(a, b) || reflect.DeepEqual(d.value(c.m, a), d.value(c.m, b))
}

// Show decodes an entry, of a per-CPU map with the sum of its values if sum.
func (c Codec) Show(key, value []byte, sum bool) (Entry, error) {
	d := c.Dump()
	d.Sum = sum
	return d.entry(c.m, key, value)
}

// Dump returns what DumpEntries is to do with all of the map.
func (c Codec) Dump() Dump { return Dump{Key: c.key, Value: c.value, Hex: c.hex} }

// ParseJSON returns the value that JSON text is, in the form that Key and Value
// take: integers of 64 bits as int64 or uint64.
func ParseJSON(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return fromJSON(v)
}

func fromJSON(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		n, err := parseNumber(v.String())
		switch {
		case err != nil:
			return v.Float64()
		case n.neg || n.bits <= math.MaxInt64: // as TOML has it
			return int64(n.bits), nil
		}
		return n.bits, nil
	case []any:
		for i, x := range v {
			y, err := fromJSON(x)
			if err != nil {
				return nil, err
			}
			v[i] = y
		}
	case map[string]any:
		for key, x := range v {
			y, err := fromJSON(x)
			if err != nil {
				return nil, err
			}
			v[key] = y
		}
	case nil:
		return nil, errors.New("null is no value")
	}
	return v, nil
}
