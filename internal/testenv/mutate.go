package testenv

import (
	"debug/elf"
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// Mutate returns an object with one to four things changed: bits, bytes and
// numbers anywhere, fields of the ELF header and of section headers, bytes
// removed or doubled; sections become zeroes of any size. What it changes is r's choice alone.
func Mutate(r *rand.Rand, object []byte) []byte {
	b := slices.Clone(object)
	for range 1 + r.IntN(4) {
		if len(b) < 128 {
			return b
		}
		at := r.IntN(len(b) - 64)
		switch r.IntN(9) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.IntN(256))
		case 2:
			binary.NativeEndian.PutUint32(b[at&^3:], uint32(number(r)))
		case 3:
			binary.NativeEndian.PutUint64(b[at&^7:], number(r))
		case 4: // a field of the ELF header
			binary.NativeEndian.PutUint16(b[16+2*r.IntN(24):], uint16(number(r)))
		case 5, 6: // a field of a section header, which are at the end
			headers := int(binary.NativeEndian.Uint64(b[40:]))
			if headers < 0 || headers > len(b)-64 {
				continue
			}
			field := headers + 64*r.IntN((len(b)-headers)/64) + 4*r.IntN(16)
			binary.NativeEndian.PutUint32(b[field:], uint32(number(r)))
		case 7: // a section that is all zeroes, which are not in the file
			headers := int(binary.NativeEndian.Uint64(b[40:]))
			if headers < 0 || headers > len(b)-64 {
				continue
			}
			section := b[headers+64*r.IntN((len(b)-headers)/64):]
			binary.NativeEndian.PutUint32(section[4:], uint32(elf.SHT_NOBITS))
			binary.NativeEndian.PutUint64(section[32:], number(r))
		case 8: // bytes go, or are there twice
			n := 1 + r.IntN(64)
			if r.IntN(2) == 0 {
				b = slices.Delete(b, at, at+n)
			} else {
				b = slices.Insert(b, at, b[at:at+n]...)
			}
		}
	}
	return b
}

// number is small, huge, at an edge of something, or any.
func number(r *rand.Rand) uint64 {
	switch r.IntN(4) {
	case 0:
		return uint64(r.IntN(64))
	case 1:
		return 1<<r.IntN(64) - uint64(r.IntN(2))
	case 2: // within the sizes that the pre-scan lets through
		return uint64(r.IntN(17 << 20))
	}
	return r.Uint64()
}
