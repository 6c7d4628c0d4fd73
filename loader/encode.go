package loader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// maxDepth bounds how deep types nest in encode and decode.
const maxDepth = 32

// encode writes v, a value as TOML gives it (int64, float64, bool, string,
// []any or map[string]any) or ParseJSON (also uint64), into buf as a value of type typ. buf has the size
// of typ and is zero; a typ of nil is so many bytes of which nothing else is
// known.
//
// Integers must fit. Strings are numbers where an integer is wanted (TOML ends
// at 2^63), names for an enum, text with its closing zero for an array of
// char, and otherwise an address of the size (IPv4, IPv6, MAC, or a prefix
// where a 32-bit length comes first), or all bytes in hex behind "0x". Integers
// of type __be16, __be32 and __be64 are written in network order; addresses
// always are. Fields and elements that are not given stay zero.
func encode(buf []byte, typ btf.Type, v any) error {
	return encoder{}.encode(buf, typ, v)
}

// encoder carries how deep it is in the type, and by which typedefs it came.
type encoder struct {
	depth     int
	name      string // the first typedef, for messages
	bigEndian bool   // one of them is of network order
}

// in returns the encoder for an element or field.
func (e encoder) in() encoder { return encoder{depth: e.depth + 1} }

// as returns the encoder for the same value without a typedef or qualifier.
func (e encoder) as(typedef string) encoder {
	e.depth++
	if e.name == "" {
		e.name = typedef
	}
	e.bigEndian = e.bigEndian || isBigEndian(typedef)
	return e
}

func (e encoder) order() binary.ByteOrder { return byteOrder(e.bigEndian) }

func (e encoder) encode(buf []byte, typ btf.Type, v any) error {
	if e.depth > maxDepth {
		return fmt.Errorf("type nests more than %d deep", maxDepth)
	}
	switch t := typ.(type) {
	case nil:
		return encodeBytes(buf, v)
	case *btf.Typedef:
		return e.as(t.Name).encode(buf, t.Type, v)
	case *btf.Const:
		return e.as("").encode(buf, t.Type, v)
	case *btf.Volatile:
		return e.as("").encode(buf, t.Type, v)
	case *btf.Restrict:
		return e.as("").encode(buf, t.Type, v)
	case *btf.TypeTag:
		return e.as("").encode(buf, t.Type, v)
	case *btf.Var:
		return e.in().encode(buf, t.Type, v)
	}
	if size, err := btf.Sizeof(typ); err != nil || size != len(buf) {
		return fmt.Errorf("type %s does not have the %d bytes there are", typeName(typ, e.name), len(buf))
	}
	switch t := typ.(type) {
	case *btf.Int:
		return e.encodeInt(buf, t, v)
	case *btf.Enum:
		return e.encodeEnum(buf, t, v)
	case *btf.Float:
		return encodeFloat(buf, v)
	case *btf.Array:
		return e.encodeArray(buf, t, v)
	case *btf.Struct:
		return e.encodeStruct(buf, t, v)
	case *btf.Union:
		return e.encodeUnion(buf, t, v)
	default:
		return fmt.Errorf("a %s cannot be written", typeName(typ, e.name))
	}
}

func (e encoder) encodeInt(buf []byte, t *btf.Int, v any) error {
	name := typeName(t, e.name)
	if t.Encoding == btf.Bool {
		switch v {
		case true, int64(1):
			buf[0] = 1
			return nil
		case false, int64(0):
			return nil
		}
		return fmt.Errorf("%s is not true or false", show(v))
	}
	if s, ok := v.(string); ok {
		if isChar(t) && len(s) == 1 {
			buf[0] = s[0]
			return nil
		}
		if b, err := address(s, len(buf)); err == nil {
			copy(buf, b)
			return nil
		}
	}
	if s, ok := v.(string); ok && len(buf) > 8 && strings.HasPrefix(s, "0x") {
		return encodeBytes(buf, v)
	}
	n, err := parseNumber(v)
	if err != nil {
		return fmt.Errorf("%w: a %s wants one", err, name)
	}
	if len(buf) > 8 {
		return fmt.Errorf("a number of %d bytes: write it in hex as a string", len(buf))
	}
	signed := t.Encoding == btf.Signed || t.Encoding == btf.Char
	if !n.fits(len(buf)*8, signed) {
		return fmt.Errorf("%s does not fit a %s (%s)", show(v), name, numberRange(len(buf)*8, signed))
	}
	putInt(buf, e.order(), n.bits)
	return nil
}

func (e encoder) encodeEnum(buf []byte, t *btf.Enum, v any) error {
	name := typeName(t, e.name)
	if s, ok := v.(string); ok {
		names := make([]string, len(t.Values))
		for i, value := range t.Values {
			if names[i] = value.Name; value.Name == s {
				putInt(buf, binary.NativeEndian, value.Value)
				return nil
			}
		}
		if len(t.Values) > 0 && !strings.ContainsAny(s[:min(1, len(s))], "-0123456789") {
			return fmt.Errorf("%s is not a value of %s%s", show(s), name, suggest(s, names))
		}
	}
	n, err := parseNumber(v)
	if err != nil {
		return fmt.Errorf("%w: a %s wants a name or a number", err, name)
	}
	if !n.fits(len(buf)*8, t.Signed) {
		return fmt.Errorf("%s does not fit a %s (%s)", show(v), name, numberRange(len(buf)*8, t.Signed))
	}
	putInt(buf, binary.NativeEndian, n.bits)
	return nil
}

func encodeFloat(buf []byte, v any) error {
	f, ok := v.(float64)
	switch i := v.(type) {
	case int64:
		f, ok = float64(i), int64(float64(i)) == i
	case uint64:
		f, ok = float64(i), uint64(float64(i)) == i
	}
	switch {
	case !ok:
		return fmt.Errorf("%s is not a number that fits", show(v))
	case len(buf) == 4 && !math.IsInf(f, 0) && math.IsInf(float64(float32(f)), 0):
		return fmt.Errorf("%s does not fit 32 bits", show(v))
	case len(buf) == 4:
		putInt(buf, binary.NativeEndian, uint64(math.Float32bits(float32(f))))
	case len(buf) == 8:
		putInt(buf, binary.NativeEndian, math.Float64bits(f))
	default:
		return fmt.Errorf("a floating-point number of %d bytes cannot be written", len(buf))
	}
	return nil
}

func (e encoder) encodeArray(buf []byte, t *btf.Array, v any) error {
	elem := btf.UnderlyingType(t.Type)
	switch v := v.(type) {
	case string:
		if i, ok := elem.(*btf.Int); ok && isChar(i) {
			return encodeText(buf, v)
		}
		return encodeBytes(buf, v)
	case []any:
		if len(v) > int(t.Nelems) {
			return fmt.Errorf("%d elements are more than the array's %d", len(v), t.Nelems)
		}
		size := len(buf) / max(int(t.Nelems), 1)
		for i, x := range v {
			if err := e.in().encode(buf[i*size:(i+1)*size], t.Type, x); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
		return nil
	}
	return fmt.Errorf("%s is not a list: the value is an array of %d", show(v), t.Nelems)
}

func encodeText(buf []byte, s string) error {
	switch {
	case strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%s has a zero byte in it", show(s))
	case len(s) >= len(buf):
		return fmt.Errorf("%s has %d bytes: at most %d and a closing zero fit", show(s), len(s), len(buf)-1)
	}
	copy(buf, s)
	return nil
}

func (e encoder) encodeStruct(buf []byte, t *btf.Struct, v any) error {
	switch v := v.(type) {
	case string:
		return encodeBytes(buf, v)
	case map[string]any:
		return e.encodeMembers(buf, t, v)
	}
	return fmt.Errorf("%s is not a table: the value is a %s", show(v), typeName(t, e.name))
}

func (e encoder) encodeUnion(buf []byte, t *btf.Union, v any) error {
	switch v := v.(type) {
	case string:
		return encodeBytes(buf, v)
	case map[string]any:
		if len(v) > 1 {
			return fmt.Errorf("a %s takes one of its fields, not %d", typeName(t, e.name), len(v))
		}
		return e.encodeMembers(buf, t, v)
	}
	return fmt.Errorf("%s is not a table: the value is a %s", show(v), typeName(t, e.name))
}

// encodeMembers writes the fields of table, in the order of their names so
// that of several errors always the same one is reported.
func (e encoder) encodeMembers(buf []byte, parent btf.Type, table map[string]any) error {
	members := flatten(parent)
	var written []bitRange
	for _, name := range slices.Sorted(maps.Keys(table)) {
		i := slices.IndexFunc(members, func(m btf.Member) bool { return m.Name == name })
		if i < 0 {
			return fmt.Errorf("%s has no field %s%s", typeName(parent, e.name), show(name), suggest(name, names(members)))
		}
		if err := e.encodeField(buf, members[i], table[name], written); err != nil {
			return fmt.Errorf("field %q: %w", name, err)
		}
		written = append(written, bitsOf(members[i]))
	}
	return nil
}

// bitRange is the place of a field: from the first bit up to before the last.
type bitRange struct{ from, to int }

func bitsOf(m btf.Member) bitRange {
	size := int(m.BitfieldSize)
	if size == 0 {
		bytes, _ := btf.Sizeof(m.Type)
		size = bytes * 8
	}
	return bitRange{int(m.Offset), int(m.Offset) + size}
}

func (r bitRange) meets(o bitRange) bool { return r.from < o.to && o.from < r.to }

// encodeField writes a field whose place other fields may have written already:
// those of an anonymous union share it. Then it must say the same.
func (e encoder) encodeField(buf []byte, m btf.Member, v any, written []bitRange) error {
	place := bitsOf(m)
	written = slices.DeleteFunc(slices.Clone(written), func(r bitRange) bool { return !r.meets(place) })
	if len(written) == 0 || place.to > len(buf)*8 {
		return e.encodeMember(buf, m, v)
	}
	first := place.from / 8
	own := make([]byte, (place.to+7)/8-first)
	m.Offset -= btf.Bits(first * 8)
	if err := e.encodeMember(own, m, v); err != nil {
		return err
	}
	for i := place.from; i < place.to; i++ {
		bit := byte(1) << (i % 8)
		shared := slices.ContainsFunc(written, func(r bitRange) bool { return r.from <= i && i < r.to })
		if shared && (buf[i/8]^own[i/8-first])&bit != 0 {
			return fmt.Errorf("it shares its bytes with another field, which says something else")
		}
		buf[i/8] |= own[i/8-first] & bit
	}
	return nil
}

func (e encoder) encodeMember(buf []byte, m btf.Member, v any) error {
	if m.BitfieldSize > 0 {
		return encodeBits(buf, m, v)
	}
	size, err := btf.Sizeof(m.Type)
	if err != nil {
		return err
	}
	off := int(m.Offset.Bytes())
	if off > len(buf) || size > len(buf)-off {
		return fmt.Errorf("it lies outside of its type")
	}
	return e.in().encode(buf[off:off+size], m.Type, v)
}

// encodeBits writes a bitfield. Bits count from the lowest of the first byte,
// as on every little-endian machine.
func encodeBits(buf []byte, m btf.Member, v any) error {
	signed := false
	if i, ok := btf.UnderlyingType(m.Type).(*btf.Int); ok {
		signed = i.Encoding == btf.Signed
	}
	if v == true || v == false {
		v = map[any]int64{true: 1, false: 0}[v]
	}
	n, err := parseNumber(v)
	if err != nil {
		return fmt.Errorf("%w: a bit field wants one", err)
	}
	bits := int(m.BitfieldSize)
	if !n.fits(bits, signed) {
		return fmt.Errorf("%s does not fit %d bits (%s)", show(v), bits, numberRange(bits, signed))
	}
	for i := range bits {
		at := int(m.Offset) + i
		if at/8 >= len(buf) {
			return fmt.Errorf("it lies outside of its type")
		}
		buf[at/8] |= byte(n.bits>>i&1) << (at % 8)
	}
	return nil
}

// encodeBytes writes v where nothing but the size is known.
func encodeBytes(buf []byte, v any) error {
	s, ok := v.(string)
	if !ok {
		n, err := parseNumber(v)
		if err != nil || len(buf) > 8 || bytes.IndexByte([]byte{1, 2, 4, 8}, byte(len(buf))) < 0 {
			return fmt.Errorf("%s cannot be written as %d bytes: write them in hex, \"0x…\"", show(v), len(buf))
		}
		if !n.fits(len(buf)*8, n.neg) {
			return fmt.Errorf("%s does not fit %d bytes", show(v), len(buf))
		}
		putInt(buf, binary.NativeEndian, n.bits)
		return nil
	}
	if digits, ok := strings.CutPrefix(s, "0x"); ok {
		b, err := hex.DecodeString(digits)
		if err != nil {
			return fmt.Errorf("%s is not hex: %w", show(s), err)
		}
		if len(b) != len(buf) {
			return fmt.Errorf("%s has %d bytes, not %d", show(s), len(b), len(buf))
		}
		copy(buf, b)
		return nil
	}
	if strings.Contains(s, "/") {
		return encodePrefix(buf, s)
	}
	b, err := address(s, len(buf))
	if err != nil {
		return err
	}
	copy(buf, b)
	return nil
}

// encodePrefix writes an address with its length in bits in front of it, the
// key of a trie (struct bpf_lpm_trie_key): 32 bits in the host's byte order,
// then the address in network order.
func encodePrefix(buf []byte, s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("%s is not a network such as 10.0.0.0/8", show(s))
	}
	if p != p.Masked() {
		return fmt.Errorf("%s has bits behind its length: did you mean %q", show(s), p.Masked())
	}
	addr := p.Addr().AsSlice()
	if len(buf) != 4+len(addr) {
		return fmt.Errorf("%s takes 4 bytes and an address of %d, there are %d", show(s), len(addr), len(buf))
	}
	binary.NativeEndian.PutUint32(buf, uint32(p.Bits()))
	copy(buf[4:], addr)
	return nil
}

// address returns the size bytes of an address in network order: IPv4 has 4,
// a MAC address 6, IPv6 16.
func address(s string, size int) ([]byte, error) {
	var b []byte
	switch size {
	case 4, 16:
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("%s is not an address, and hex begins with 0x", show(s))
		}
		b = a.AsSlice()
	case 6:
		mac, err := net.ParseMAC(s)
		if err != nil {
			return nil, fmt.Errorf("%s is not a MAC address, and hex begins with 0x", show(s))
		}
		b = mac
	default:
		return nil, fmt.Errorf("%s cannot be written as %d bytes: write them in hex, \"0x…\"", show(s), size)
	}
	if len(b) != size {
		return nil, fmt.Errorf("%s is an address of %d bytes, not %d", show(s), len(b), size)
	}
	return b, nil
}

// number is an integer of up to 64 bits and a sign.
type number struct {
	bits uint64 // two's complement
	neg  bool
}

// parseNumber returns the integer that v is, or that it writes out as a string.
func parseNumber(v any) (number, error) {
	switch v := v.(type) {
	case int64:
		return number{uint64(v), v < 0}, nil
	case uint64:
		return number{v, false}, nil
	case string:
		if n, err := strconv.ParseUint(v, 0, 64); err == nil {
			return number{n, false}, nil
		}
		if n, err := strconv.ParseInt(v, 0, 64); err == nil {
			return number{uint64(n), n < 0}, nil
		}
	}
	return number{}, fmt.Errorf("%s is not an integer", show(v))
}

func (n number) fits(bits int, signed bool) bool {
	switch {
	case n.neg:
		return signed && int64(n.bits) >= -1<<(bits-1)
	case signed:
		return n.bits>>(bits-1) == 0
	default:
		return bits >= 64 || n.bits>>bits == 0
	}
}

func numberRange(bits int, signed bool) string {
	if signed {
		return fmt.Sprintf("%d to %d", int64(-1)<<(bits-1), uint64(1)<<(bits-1)-1)
	}
	return fmt.Sprintf("0 to %d", uint64(math.MaxUint64)>>(64-bits))
}

// isBigEndian says whether integers of the named type are in network order.
func isBigEndian(typedef string) bool {
	return typedef == "__be16" || typedef == "__be32" || typedef == "__be64"
}

func byteOrder(bigEndian bool) binary.ByteOrder {
	if bigEndian {
		return binary.BigEndian
	}
	return binary.NativeEndian
}

// putInt writes the lowest bytes of v.
func putInt(buf []byte, order binary.ByteOrder, v uint64) {
	switch len(buf) {
	case 1:
		buf[0] = byte(v)
	case 2:
		order.PutUint16(buf, uint16(v))
	case 4:
		order.PutUint32(buf, uint32(v))
	case 8:
		order.PutUint64(buf, v)
	}
}

// isChar says whether t holds text. Clang emits no BTF encoding for that, only
// the name.
func isChar(t *btf.Int) bool {
	return t.Size == 1 && (t.Encoding == btf.Char || t.Name == "char")
}

// show returns v for a message: quoted, on one line, and not too long.
func show(v any) string {
	s, ok := v.(string)
	if !ok {
		switch v.(type) {
		case []any:
			return "a list"
		case map[string]any:
			return "a table"
		}
		return fmt.Sprint(v)
	}
	if len(s) > 64 {
		return strconv.Quote(s[:64]) + "…"
	}
	return strconv.Quote(s)
}
