package mapmaker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// definition is an ebpf.MapSpec without what is filled in later.
type definition struct {
	Name       string      `json:"name"`
	Type       uint32      `json:"type"`
	KeySize    uint32      `json:"key_size"`   // bytes
	ValueSize  uint32      `json:"value_size"` // bytes
	MaxEntries uint32      `json:"max_entries"`
	Flags      uint32      `json:"flags"`
	NumaNode   uint32      `json:"numa_node"`
	Extra      uint64      `json:"extra"`
	Types      []byte      `json:"types,omitempty"` // BTF of key and value
	Key        *btf.TypeID `json:"key,omitempty"`   // in there
	Value      *btf.TypeID `json:"value,omitempty"`
	Inner      *definition `json:"inner,omitempty"`
}

// maxJob is how many bytes all definitions may have.
const maxJob = 64 << 20

func encode(specs []*ebpf.MapSpec) ([]byte, error) {
	all := make([]*definition, len(specs))
	for i, spec := range specs {
		var err error
		if all[i], err = define(spec); err != nil {
			return nil, fmt.Errorf("definition of map %q: %w", spec.Name, err)
		}
	}
	b, err := json.Marshal(all)
	if err == nil && len(b) > maxJob {
		err = fmt.Errorf("definitions of maps: more than %d bytes", maxJob)
	}
	return b, err
}

func define(spec *ebpf.MapSpec) (*definition, error) {
	d := &definition{Name: spec.Name, Type: uint32(spec.Type), KeySize: spec.KeySize, ValueSize: spec.ValueSize,
		MaxEntries: spec.MaxEntries, Flags: spec.Flags, NumaNode: spec.NumaNode, Extra: spec.MapExtra}
	var err error
	if spec.InnerMap != nil {
		if d.Inner, err = define(spec.InnerMap); err != nil {
			return nil, err
		}
	}
	var types btf.Builder
	for _, t := range []struct {
		from btf.Type
		to   **btf.TypeID
	}{{spec.Key, &d.Key}, {spec.Value, &d.Value}} {
		if t.from == nil {
			continue
		}
		id, err := types.Add(t.from)
		if err != nil {
			return nil, err
		}
		*t.to = &id
	}
	if d.Key != nil || d.Value != nil {
		d.Types, err = types.Marshal(nil, nil)
	}
	return d, err
}

// decode is the inverse of encode.
func decode(job []byte) ([]*ebpf.MapSpec, error) {
	var all []*definition
	if err := json.Unmarshal(job, &all); err != nil {
		return nil, fmt.Errorf("definitions of maps: %w", err)
	}
	specs := make([]*ebpf.MapSpec, len(all))
	for i, d := range all {
		var err error
		if specs[i], err = d.spec(); err != nil {
			return nil, fmt.Errorf("definition %d: %w", i, err)
		}
	}
	return specs, nil
}

func (d *definition) spec() (*ebpf.MapSpec, error) {
	if d == nil {
		return nil, fmt.Errorf("there is none")
	}
	spec := &ebpf.MapSpec{Name: d.Name, Type: ebpf.MapType(d.Type), KeySize: d.KeySize, ValueSize: d.ValueSize,
		MaxEntries: d.MaxEntries, Flags: d.Flags, NumaNode: d.NumaNode, MapExtra: d.Extra}
	var err error
	if d.Inner != nil {
		if spec.InnerMap, err = d.Inner.spec(); err != nil {
			return nil, err
		}
	}
	if d.Key == nil && d.Value == nil {
		return spec, nil
	}
	types, err := btf.LoadSpecFromReader(bytes.NewReader(d.Types))
	if err != nil {
		return nil, err
	}
	if d.Key != nil {
		if spec.Key, err = types.TypeByID(*d.Key); err != nil {
			return nil, err
		}
	}
	if d.Value != nil {
		spec.Value, err = types.TypeByID(*d.Value)
	}
	return spec, err
}

// An answer is an error number of the kernel, 4 bytes, and a text; both are nothing
// where the message brings a map.
const maxAnswer = 1024

func answer(errno syscall.Errno, text string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(errno))
	return append(b, text[:min(len(text), maxAnswer-len(b))]...)
}

func splitAnswer(b []byte) (errno syscall.Errno, text string, ok bool) {
	if len(b) < 4 {
		return 0, "", false
	}
	n := binary.LittleEndian.Uint32(b)
	return syscall.Errno(n), string(b[4:]), n < 4096 // MAX_ERRNO, include/linux/err.h
}
