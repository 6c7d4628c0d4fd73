package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// checkBTF bounds what .BTF costs the parser, which follows references between
// types by recursion (where the stack ends, the process ends) and copies a
// name for every type and member that has it. What is not BTF passes: the
// parser refuses it by itself.
func checkBTF(r io.ReaderAt, s section) error {
	if s.Size > maxBTF {
		return fmt.Errorf("%d bytes of type information are more than %d", s.Size, maxBTF)
	}
	raw, err := s.read(r)
	if err != nil {
		return err
	}
	types, names, ok := splitBTF(raw)
	if !ok {
		return nil
	}
	sum := newNameSum(names)
	if n := sum.longest(); n > maxString {
		return fmt.Errorf("type information: a string of %d bytes is longer than %d", n, maxString)
	}
	for count := 0; len(types) >= btfTypeSize; count++ {
		if count == maxTypes {
			return fmt.Errorf("type information: more than %d types", maxTypes)
		}
		tail, named := btfTail(binary.NativeEndian.Uint32(types[4:]))
		if tail < 0 || tail > len(types)-btfTypeSize {
			return nil
		}
		sum.add(binary.NativeEndian.Uint32(types))
		for i := 0; named > 0 && i < tail; i += named {
			sum.add(binary.NativeEndian.Uint32(types[btfTypeSize+i:]))
		}
		if sum.total > maxNames {
			return fmt.Errorf("type information: names of more than %d bytes", maxNames)
		}
		types = types[btfTypeSize+tail:]
	}
	return nil
}

// btfTypeSize is the size of struct btf_type: name_off, info, size or type.
const btfTypeSize = 12

// splitBTF returns the types and the strings of a .BTF section.
func splitBTF(raw []byte) (types, names []byte, ok bool) {
	// struct btf_header: magic 2, version 1, flags 1, then 4 each of hdr_len,
	// type_off, type_len, str_off, str_len; offsets count from behind it.
	if len(raw) < 24 {
		return nil, nil, false
	}
	u32 := func(off int) uint64 { return uint64(binary.NativeEndian.Uint32(raw[off:])) }
	part := func(off int) ([]byte, bool) {
		begin, length := u32(4)+u32(off), u32(off+4)
		if begin > uint64(len(raw)) || length > uint64(len(raw))-begin {
			return nil, false
		}
		return raw[begin : begin+length], true
	}
	types, ok = part(8)
	if !ok {
		return nil, nil, false
	}
	names, ok = part(16)
	return types, names, ok
}

// btfTail returns how many bytes follow a struct btf_type, by its info word,
// and the size of what repeats in them where each begins with a name (members,
// enumerators, parameters), 0 where it does not. The tail of a kind that is
// not known is -1. From include/uapi/linux/btf.h.
func btfTail(info uint32) (tail, named int) {
	n := int(info & 0xffff)
	switch info >> 24 & 0x1f {
	case 1, 14, 17: // INT, VAR, DECL_TAG
		return 4, 0
	case 3: // ARRAY
		return 12, 0
	case 4, 5, 19: // STRUCT, UNION, ENUM64
		return 12 * n, 12
	case 6, 13: // ENUM, FUNC_PROTO
		return 8 * n, 8
	case 15: // DATASEC
		return 12 * n, 0
	case 2, 7, 8, 9, 10, 11, 12, 16, 18: // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
		return 0, 0
	default:
		return -1, 0
	}
}

// nameSum adds up the lengths of strings in a table, each as often as it is
// used. It looks up the ends of strings, so that a million uses of one long
// string do not cost a million scans.
type nameSum struct {
	ends  []int // offsets of all zero bytes
	total int
}

func newNameSum(table []byte) *nameSum {
	ends := make([]int, 0, bytes.Count(table, []byte{0}))
	for i, c := range table {
		if c == 0 {
			ends = append(ends, i)
		}
	}
	return &nameSum{ends: ends}
}

// add adds the string at off. What has no end counts nothing: the parser does
// not take it for a string.
func (s *nameSum) add(off uint32) {
	if i, _ := slices.BinarySearch(s.ends, int(off)); i < len(s.ends) {
		s.total += s.ends[i] - int(off)
	}
}

// longest returns the length of the table's longest string.
func (s *nameSum) longest() int {
	begin, longest := 0, 0
	for _, end := range s.ends {
		longest = max(longest, end-begin)
		begin = end + 1
	}
	return longest
}
