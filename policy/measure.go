package policy

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"os"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/manifest"
)

// measured is what the maps of a collection need.
type measured struct {
	maps   int
	bytes  uint64 // math.MaxUint64 stands for all that is more
	beside uint64 // what the kernel keeps beside them, at most
	loose  uint64 // of bytes, what it charges to no cgroup

	name string // of the largest map
	most uint64 // its bytes
}

func (d *measured) add(name string, ms *ebpf.MapSpec, entries, cpus uint64) {
	n := size(ms, entries, cpus)
	d.maps++
	d.bytes = add(d.bytes, n)
	d.beside = add(d.beside, beside(ms, reserved(ms, entries, cpus), n))
	d.loose = add(d.loose, loose(ms, entries, cpus))
	if n > d.most {
		d.name, d.most = name, n
	}
}

// largest says which map an operator should look at first.
func (d *measured) largest() string {
	return fmt.Sprintf(" (map %q alone %d)", d.name, d.most)
}

// measure adds up the maps of spec, with the sizes m gives them.
func measure(m manifest.Manifest, spec *ebpf.CollectionSpec, cpus uint64) *measured {
	var d measured
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		ms := spec.Maps[name]
		entries := uint64(ms.MaxEntries)
		if n := m.Maps[name].MaxEntries; n > 0 {
			entries = uint64(n)
		}
		d.add(name, ms, entries, cpus)
		if inner := inner(ms, spec, m.Maps[name].Inner); inner != nil {
			d.add(name+" (inner)", inner, uint64(inner.MaxEntries), cpus)
		}
	}
	return &d
}

// inner is the map that the kernel takes the shape of a map-in-map's values
// from, where it has to be made for that.
func inner(ms *ebpf.MapSpec, spec *ebpf.CollectionSpec, name string) *ebpf.MapSpec {
	if ms.InnerMap != nil {
		return ms.InnerMap
	}
	return spec.Maps[name]
}

// size is how many bytes the keys and values of a map take when it is full. What
// the kernel keeps beside them comes on top: see beside.
func size(ms *ebpf.MapSpec, entries, cpus uint64) uint64 {
	key, value := padded(ms.KeySize), padded(ms.ValueSize)
	entries = reserved(ms, entries, cpus)
	switch ms.Type {
	case ebpf.RingBuf, ebpf.UserRingbuf:
		return entries // a buffer of that many bytes
	case ebpf.Arena:
		return mul(entries, uint64(os.Getpagesize()))
	case ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.PerCPUArray, ebpf.PerCPUCGroupStorage:
		value = mul(value, cpus)
	case ebpf.PerfEventArray:
		entries = max(entries, cpus) // 0 stands for one per CPU
	}
	switch ms.Type {
	case ebpf.Array, ebpf.PerCPUArray, ebpf.PerfEventArray, ebpf.ProgramArray, ebpf.CGroupArray, ebpf.ArrayOfMaps:
		key = 0 // the index is not stored
	}
	// Storage maps have no number of entries; count one, as the size of all
	// depends on what runs later.
	return mul(add(key, value), max(entries, 1))
}

// reserved is how many elements a map of that many entries has from the beginning: a hash
// one more for each CPU, from which an element is taken that another one replaces, and
// an LRU map whose CPUs each have a list of their own as many for each.
//
// Source: prealloc_init and htab_map_alloc in kernel/bpf/hashtab.c.
func reserved(ms *ebpf.MapSpec, entries, cpus uint64) uint64 {
	switch ms.Type {
	case ebpf.Hash, ebpf.HashOfMaps:
		if ms.Flags&noPrealloc == 0 {
			return add(entries, cpus)
		}
	case ebpf.LRUHash, ebpf.LRUCPUHash:
		if ms.Flags&noCommonLRU != 0 && cpus > 0 {
			return mul(add(entries, cpus-1)/cpus, cpus)
		}
	}
	return entries
}

// beside is the most that the kernel takes for a map beside its keys and values, which
// are n bytes. A buffer and an arena have two pointers for each page, an array has its
// values in one piece, that of each processor apart or not, and a Bloom filter's bits are
// fewer than those of what it is told. A hash has a bucket and a header for each entry, a
// trie up to twice as many nodes, and what is allocated one by one is rounded up, by less
// than what it is.
//
// Source: the map_mem_usage functions of kernel/bpf.
func beside(ms *ebpf.MapSpec, entries, n uint64) uint64 {
	const base, pointer, node = 8 << 10, 8, 192
	page := uint64(os.Getpagesize())
	switch ms.Type {
	case ebpf.RingBuf, ebpf.UserRingbuf, ebpf.Arena:
		return add(n/page*2*pointer, base+4*page) // with the pages of both positions
	case ebpf.Array, ebpf.BloomFilter:
		if ms.Flags&mmapable != 0 {
			return base + 2*page // it begins and ends with a page
		}
		return base
	case ebpf.Queue, ebpf.Stack:
		return add(padded(ms.ValueSize), base) // one that stays free
	case ebpf.PerCPUArray, ebpf.PerfEventArray, ebpf.ProgramArray, ebpf.CGroupArray,
		ebpf.ArrayOfMaps, ebpf.DevMap, ebpf.XSKMap, ebpf.SockMap, ebpf.CPUMap, ebpf.ReusePortSockArray:
		return add(mul(entries, pointer), base)
	}
	return add(add(mul(entries, node), n), base)
}

// loose is how many bytes of a map's values the kernel charges to no cgroup: those of
// each CPU that are there from the beginning are allocated before the map has one.
//
// Source: map_create in kernel/bpf/syscall.c, where bpf_map_save_memcg is behind
// map_alloc.
func loose(ms *ebpf.MapSpec, entries, cpus uint64) uint64 {
	switch ms.Type {
	case ebpf.PerCPUHash:
		if ms.Flags&noPrealloc != 0 {
			return 0
		}
	case ebpf.PerCPUArray, ebpf.LRUCPUHash:
	default:
		return 0
	}
	return mul(mul(padded(ms.ValueSize), cpus), reserved(ms, entries, cpus))
}

// Flags of maps. Source: include/uapi/linux/bpf.h.
const (
	noPrealloc  = 1 << 0  // BPF_F_NO_PREALLOC
	noCommonLRU = 1 << 1  // BPF_F_NO_COMMON_LRU
	mmapable    = 1 << 10 // BPF_F_MMAPABLE
)

// padded is n rounded up to the 8 bytes to which the kernel aligns.
func padded(n uint32) uint64 { return (uint64(n) + 7) &^ 7 }

func add(a, b uint64) uint64 {
	if sum, carry := bits.Add64(a, b, 0); carry == 0 {
		return sum
	}
	return math.MaxUint64
}

func mul(a, b uint64) uint64 {
	if hi, lo := bits.Mul64(a, b); hi == 0 {
		return lo
	}
	return math.MaxUint64
}
