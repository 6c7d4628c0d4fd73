package loader

import (
	"encoding/json"

	"github.com/cilium/ebpf/btf"
)

// textSize is the most bytes that size bytes have which are decoded as typ and
// marshalled as JSON, or maxTextSize where it is more. It looks at the type
// only, because what is too long must not be decoded first.
func textSize(typ btf.Type, size int) int { return texts{}.size(typ, size, 0) }

// maxTextSize is where counting ends, far from where it overflows.
const maxTextSize = 1 << 30

func clamp(n int) int { return min(n, maxTextSize) }

// The longest text of a number or a truth value, and of an address or a network.
const (
	textNumber  = 24
	textAddress = 52
)

// texts remembers what types of a size have, since one can stand in many places.
type texts map[textOf]int

type textOf struct {
	typ   btf.Type
	depth int
}

func (known texts) size(typ btf.Type, size, depth int) int {
	plain := clamp(2*min(size, maxTextSize) + len(`"0x"`))
	if depth > maxDepth || typ == nil {
		return plain
	}
	at := textOf{typ, depth}
	if n, ok := known[at]; ok {
		return max(n, plain)
	}
	n := max(plain, textNumber)
	switch t := typ.(type) {
	case *btf.Typedef:
		n = known.size(t.Type, size, depth+1)
	case *btf.Const:
		n = known.size(t.Type, size, depth+1)
	case *btf.Volatile:
		n = known.size(t.Type, size, depth+1)
	case *btf.Restrict:
		n = known.size(t.Type, size, depth+1)
	case *btf.TypeTag:
		n = known.size(t.Type, size, depth+1)
	case *btf.Var:
		n = known.size(t.Type, size, depth+1)
	case *btf.Enum:
		for _, v := range t.Values {
			n = max(n, nameText(v.Name))
		}
	case *btf.Array:
		n = max(n, known.array(t, size, depth))
	case *btf.Struct:
		n = max(n, textAddress, known.members(t, depth))
	case *btf.Datasec:
		fields := 2
		for _, v := range t.Vars {
			fields = clamp(fields + nameText(v.Type.TypeName()) + known.part(v.Type, depth) + 2)
		}
		n = max(n, fields)
	}
	known[at] = n
	return n
}

// array counts a list, and six bytes for each of a text, where each may be one
// that JSON escapes.
func (known texts) array(t *btf.Array, size, depth int) int {
	if size == 0 {
		return len("[]")
	}
	each := max(known.part(t.Type, depth)+1, 6)
	return clamp(2 + min(int(t.Nelems), maxTextSize)*each)
}

func (known texts) members(t *btf.Struct, depth int) int {
	fields := 2
	for _, m := range flatten(t) {
		fields = clamp(fields + nameText(m.Name) + known.part(m.Type, depth) + 2)
	}
	return fields
}

func (known texts) part(typ btf.Type, depth int) int {
	size, err := btf.Sizeof(typ)
	if err != nil {
		return len("null")
	}
	return known.size(typ, size, depth+1)
}

func nameText(name string) int {
	b, err := json.Marshal(name)
	if err != nil {
		return maxTextSize
	}
	return len(b)
}
