package loader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"unicode/utf8"

	"github.com/cilium/ebpf/btf"
)

// Object is a decoded struct, union or data section: its fields in the order
// of their declaration. It marshals as a JSON object.
type Object []Field

// Field is one field of an Object.
type Field struct {
	Name  string
	Value any
}

// MarshalJSON keeps the order of the fields.
func (o Object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, f := range o {
		if i > 0 {
			b = append(b, ',')
		}
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(f.Value)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", f.Name, err)
		}
		b = append(append(append(b, name...), ':'), value...)
	}
	return append(b, '}'), nil
}

// Decode returns the value that b, bytes as the kernel has them, is by its
// type, in a form that encoding/json can marshal:
//
//   - integers as int64 or uint64 (__be16 and __be64 read in network order),
//     bools, floating-point numbers as float64
//   - __be32, struct in_addr and struct in6_addr as an address, six bytes as a
//     MAC address
//   - an enum as the name of its value, or a number where no name has it
//   - an array of char as the text up to its closing zero, or as a list of
//     numbers where it is no text
//   - an array of other bytes, a union, a pointer, and whatever has no type or
//     cannot be decoded, as hex behind "0x"
//   - other arrays as []any, structs and data sections as Object
//
// A manifest, or a client that writes entries, may say the same: but for what
// follows the closing zero of a text, padding, pointers and numbers that are
// none, it is encoded to the same bytes again.
func Decode(typ btf.Type, b []byte) any { return decode(typ, b, "", 0) }

// decode decodes b as typ, which it reached by the typedef name, depth types
// deep.
func decode(typ btf.Type, b []byte, name string, depth int) any {
	if depth > maxDepth {
		return hexBytes(b)
	}
	switch t := typ.(type) {
	case *btf.Typedef:
		if !isBigEndian(name) {
			name = t.Name
		}
		return decode(t.Type, b, name, depth+1)
	case *btf.Const:
		return decode(t.Type, b, name, depth+1)
	case *btf.Volatile:
		return decode(t.Type, b, name, depth+1)
	case *btf.Restrict:
		return decode(t.Type, b, name, depth+1)
	case *btf.TypeTag:
		return decode(t.Type, b, name, depth+1)
	case *btf.Var:
		return decode(t.Type, b, name, depth+1)
	case nil:
		return hexBytes(b)
	}
	if size, err := btf.Sizeof(typ); err != nil || size != len(b) {
		return hexBytes(b)
	}
	switch t := typ.(type) {
	case *btf.Int:
		if name == "__be32" && len(b) == 4 {
			return addressText(b)
		}
		return decodeInt(t, b, byteOrder(isBigEndian(name)))
	case *btf.Enum:
		return decodeEnum(t, b)
	case *btf.Float:
		return decodeFloat(b)
	case *btf.Array:
		return decodeArray(t, b, depth)
	case *btf.Struct:
		if t.Name == "in_addr" && len(b) == 4 || t.Name == "in6_addr" && len(b) == 16 {
			return addressText(b)
		}
		return decodeMembers(t, b, depth)
	case *btf.Union:
		return hexBytes(b)
	case *btf.Datasec:
		return decodeSection(t, b, depth)
	default:
		return hexBytes(b)
	}
}

func decodeInt(t *btf.Int, b []byte, order binary.ByteOrder) any {
	v, ok := getInt(b, order)
	switch {
	case !ok:
		return hexBytes(b)
	case t.Encoding == btf.Bool:
		return v != 0
	case t.Encoding == btf.Signed || t.Encoding == btf.Char:
		return signExtend(v, len(b)*8)
	default:
		return v
	}
}

func decodeEnum(t *btf.Enum, b []byte) any {
	v, ok := getInt(b, binary.NativeEndian)
	if !ok {
		return hexBytes(b)
	}
	if t.Signed {
		v = uint64(signExtend(v, len(b)*8))
	}
	for _, value := range t.Values {
		if value.Value == v {
			return value.Name
		}
	}
	if t.Signed {
		return int64(v)
	}
	return v
}

func decodeFloat(b []byte) any {
	v, _ := getInt(b, binary.NativeEndian)
	var f float64
	switch len(b) {
	case 4:
		f = float64(math.Float32frombits(uint32(v)))
	case 8:
		f = math.Float64frombits(v)
	default:
		return hexBytes(b)
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return strconv.FormatFloat(f, 'g', -1, 64) // JSON has no number for it
	}
	return f
}

func decodeArray(t *btf.Array, b []byte, depth int) any {
	if i, ok := btf.UnderlyingType(t.Type).(*btf.Int); ok && i.Size == 1 && i.Encoding != btf.Bool {
		switch {
		case isChar(i) && isText(b):
			text, _, _ := bytes.Cut(b, []byte{0})
			return string(text)
		case !isChar(i) && len(b) == 6:
			return net.HardwareAddr(b).String()
		case !isChar(i):
			return hexBytes(b)
		}
	}
	if len(b) == 0 { // no elements, or any number of elements without size
		return []any{}
	}
	list := make([]any, t.Nelems)
	size := len(b) / int(t.Nelems)
	for i := range list {
		list[i] = decode(t.Type, b[i*size:(i+1)*size], "", depth+1)
	}
	return list
}

// isText says whether b is one, up to the first zero.
func isText(b []byte) bool {
	text, _, _ := bytes.Cut(b, []byte{0})
	return utf8.Valid(text)
}

// addressText returns the address that the 4 or 16 bytes are, in network order.
func addressText(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

// prefixText returns the network that b is as the key of a trie, or false where
// it is none: of another size, longer than its address, or with bits behind its
// length, which the kernel keeps.
func prefixText(b []byte) (string, bool) {
	if len(b) != 8 && len(b) != 20 {
		return "", false
	}
	length := binary.NativeEndian.Uint32(b)
	a, _ := netip.AddrFromSlice(b[4:])
	if length > uint32(a.BitLen()) {
		return "", false
	}
	p := netip.PrefixFrom(a, int(length))
	return p.String(), p == p.Masked()
}

func decodeMembers(t btf.Type, b []byte, depth int) any {
	members := flatten(t)
	o := make(Object, 0, len(members))
	for _, m := range members {
		if m.BitfieldSize > 0 {
			o = append(o, Field{m.Name, decodeBits(m, b)})
			continue
		}
		o = append(o, Field{m.Name, decodePart(m.Type, b, int(m.Offset.Bytes()), depth)})
	}
	return o
}

func decodeSection(t *btf.Datasec, b []byte, depth int) any {
	o := make(Object, 0, len(t.Vars))
	for _, v := range t.Vars {
		o = append(o, Field{v.Type.TypeName(), decodePart(v.Type, b, int(v.Offset), depth)})
	}
	return o
}

// decodePart decodes what lies at off of b; nil where it does not lie in b.
func decodePart(typ btf.Type, b []byte, off, depth int) any {
	t := typ
	if v, ok := typ.(*btf.Var); ok {
		t = v.Type
	}
	size, err := btf.Sizeof(t)
	if err != nil || off > len(b) || size > len(b)-off {
		return nil
	}
	return decode(t, b[off:off+size], "", depth+1)
}

func decodeBits(m btf.Member, b []byte) any {
	var v uint64
	for i := range int(m.BitfieldSize) {
		at := int(m.Offset) + i
		if at/8 >= len(b) {
			return nil
		}
		v |= uint64(b[at/8]>>(at%8)&1) << i
	}
	if i, ok := btf.UnderlyingType(m.Type).(*btf.Int); ok && i.Encoding == btf.Signed {
		return signExtend(v, int(m.BitfieldSize))
	}
	return v
}

func getInt(b []byte, order binary.ByteOrder) (uint64, bool) {
	switch len(b) {
	case 1:
		return uint64(b[0]), true
	case 2:
		return uint64(order.Uint16(b)), true
	case 4:
		return uint64(order.Uint32(b)), true
	case 8:
		return order.Uint64(b), true
	default:
		return 0, false
	}
}

func signExtend(v uint64, bits int) int64 {
	return int64(v<<(64-bits)) >> (64 - bits)
}

func hexBytes(b []byte) string { return "0x" + hex.EncodeToString(b) }
