package loader

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/bpfsys"
)

// ContentHash returns the SHA-256 of a map's contents, and who computed it:
// "kernel" where the kernel does (frozen arrays, since Linux 6.18), else
// "read". It fails for maps whose entries cannot be listed.
//
// Of an array these are all its values in order, each padded with zeroes to a
// multiple of 8 bytes, whoever computes it. Of other maps they are key and
// value of each entry, in the order of the keys' bytes. A value of a per-CPU
// map is those of all possible CPUs, each padded likewise; a map or program
// that a map holds is its id.
func ContentHash(m *ebpf.Map) (sum [32]byte, by string, err error) {
	if m.Type() == ebpf.Array {
		sum, err := bpfsys.MapHash(m.FD())
		if err == nil {
			return sum, "kernel", nil
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return sum, "", err
		}
	}
	h := newContentHash(m.Type(), m.MaxEntries(), int(m.ValueSize()))
	if err := eachEntry(m, h.add); err != nil {
		return sum, "", fmt.Errorf("read contents: %w", err)
	}
	return h.sum(), "read", nil
}

// contentHash adds up the entries of a map: those of an array in the order of
// their index, others in any order.
type contentHash struct {
	hash    hash.Hash
	array   bool
	entries uint64
	stride  uint64   // array: bytes of a padded value
	written uint64   // array: bytes so far
	sparse  [][]byte // other maps: key and value of each entry
}

func newContentHash(typ ebpf.MapType, entries uint32, valueSize int) *contentHash {
	c := &contentHash{hash: sha256.New(), array: isDense(typ), entries: uint64(entries), stride: pad8(valueSize)}
	if typ == ebpf.PerCPUArray {
		c.stride *= uint64(ebpf.MustPossibleCPU())
	}
	return c
}

// isDense says whether every index of the array t has a value.
func isDense(t ebpf.MapType) bool { return t == ebpf.Array || t == ebpf.PerCPUArray }

func (c *contentHash) add(key, value []byte) {
	if !c.array {
		c.sparse = append(c.sparse, append(slices.Clone(key), value...))
		return
	}
	c.zeroes(uint64(binary.NativeEndian.Uint32(key)) * c.stride)
	c.hash.Write(value)
	c.written += uint64(len(value))
}

// zeroes writes what has not been given, up to an offset.
func (c *contentHash) zeroes(until uint64) {
	var block [4096]byte
	for c.written < until {
		n := min(until-c.written, uint64(len(block)))
		c.hash.Write(block[:n])
		c.written += n
	}
}

func (c *contentHash) sum() [32]byte {
	if c.array {
		c.zeroes(c.entries * c.stride)
	}
	slices.SortFunc(c.sparse, bytes.Compare)
	for _, entry := range c.sparse {
		c.hash.Write(entry)
	}
	return [32]byte(c.hash.Sum(nil))
}

// asRead returns value as a lookup in a map of type t shows it.
func asRead(t ebpf.MapType, value []byte) []byte {
	if !isPerCPU(t) {
		return value
	}
	value = append(slices.Clone(value), make([]byte, pad8(len(value))-uint64(len(value)))...)
	return bytes.Repeat(value, ebpf.MustPossibleCPU())
}

func pad8(n int) uint64 { return (uint64(n) + 7) &^ 7 }

// eachEntry calls fn with the bytes of each entry as the kernel has them, those
// of an array in the order of their index.
func eachEntry(m *ebpf.Map, fn func(key, value []byte)) error {
	if isArray(m.Type()) {
		key := make([]byte, 4)
		for i := range m.MaxEntries() {
			binary.NativeEndian.PutUint32(key, i)
			value, err := m.LookupBytes(key)
			if err != nil {
				return err
			}
			if value != nil {
				fn(key, value)
			}
		}
		return nil
	}
	var key any
	for {
		next, err := m.NextKeyBytes(key)
		if err != nil || next == nil {
			return err
		}
		value, err := m.LookupBytes(next)
		if err != nil {
			return err
		}
		if value != nil {
			fn(next, value)
		}
		key = next
	}
}
