package loader

import (
	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// kind is what a map type takes.
type kind struct {
	// readOnly: the type takes BPF_F_RDONLY_PROG, without which programs may
	// write a map although it is frozen.
	readOnly bool
	// entries: a manifest can give contents.
	entries bool
	// noFreeze is why the type must be declared mutable; "" where it need not.
	noFreeze string
}

// kinds is the one table of map types. A type that is not in it takes neither
// the flag nor entries and is left to the kernel. The flags are those of the
// types' map_alloc_check functions in Linux 6.18; a test asks the kernel.
var kinds = map[ebpf.MapType]kind{
	ebpf.Hash:         {readOnly: true, entries: true},
	ebpf.Array:        {readOnly: true, entries: true},
	ebpf.PerCPUHash:   {readOnly: true, entries: true},
	ebpf.PerCPUArray:  {readOnly: true, entries: true},
	ebpf.LRUHash:      {readOnly: true, entries: true},
	ebpf.LRUCPUHash:   {readOnly: true, entries: true},
	ebpf.LPMTrie:      {readOnly: true, entries: true},
	ebpf.ProgramArray: {entries: true}, // programs cannot write these three
	ebpf.ArrayOfMaps:  {entries: true},
	ebpf.HashOfMaps:   {entries: true},
	ebpf.DevMap:       {entries: true}, // the kernel sets the flag by itself
	ebpf.DevMapHash:   {entries: true},
	ebpf.CPUMap:       {entries: true},

	ebpf.RingBuf:            {noFreeze: "nobody could read it: a reader writes its position"},
	ebpf.UserRingbuf:        {noFreeze: "nobody could write it"},
	ebpf.PerfEventArray:     {noFreeze: "nobody could read it: readers register in it"},
	ebpf.Queue:              {noFreeze: "nobody could read it: reading removes"},
	ebpf.Stack:              {noFreeze: "nobody could read it: reading removes"},
	ebpf.BloomFilter:        {noFreeze: "its contents cannot be read back"},
	ebpf.XSKMap:             {noFreeze: "sockets are put in while it runs"},
	ebpf.SockMap:            {noFreeze: "sockets are put in while it runs"},
	ebpf.SockHash:           {noFreeze: "sockets are put in while it runs"},
	ebpf.ReusePortSockArray: {noFreeze: "sockets are put in while it runs"},
	ebpf.CGroupArray:        {noFreeze: "cgroups are put in while it runs"},
	ebpf.StructOpsMap:       {noFreeze: "the kernel does not freeze it; it takes one value, when it is made"},
	ebpf.Arena:              {noFreeze: "its pages come and go while it runs"},
}

// isOuter says whether t holds maps.
func isOuter(t ebpf.MapType) bool { return t == ebpf.ArrayOfMaps || t == ebpf.HashOfMaps }

// isArray says whether the keys of t are the numbers below max_entries.
func isArray(t ebpf.MapType) bool {
	switch t {
	case ebpf.Array, ebpf.PerCPUArray, ebpf.ProgramArray, ebpf.ArrayOfMaps, ebpf.DevMap, ebpf.CPUMap:
		return true
	}
	return false
}

// freezesLate says whether a map can only be frozen once its programs are
// loaded; they are not attached yet then, and what it holds is read back after
// the freeze like that of any other. It is so for maps that hold programs, and
// for arrays of more than one entry that programs cannot write: as soon as such
// an array is frozen, the verifier wants to read values from it as constants,
// finds that it can do so only with one entry, and refuses the program
// (ENOTSUPP; bpf_map_direct_read, array_map_direct_value_addr in Linux 6.18).
// As it is not frozen while they are verified, no program depends on its values.
func freezesLate(ms *ebpf.MapSpec) bool {
	switch ms.Type {
	case ebpf.ProgramArray:
		return true
	case ebpf.Array, ebpf.PerCPUArray:
		return ms.MaxEntries > 1 && ms.Flags&unix.BPF_F_RDONLY_PROG != 0
	}
	return false
}

// isPerCPU says whether t has one value per CPU.
func isPerCPU(t ebpf.MapType) bool {
	switch t {
	case ebpf.PerCPUHash, ebpf.PerCPUArray, ebpf.LRUCPUHash, ebpf.PerCPUCGroupStorage:
		return true
	}
	return false
}

// sizedByKernel says whether max_entries may be 0 in the object: the kernel
// wants it so, or the library puts in the number of CPUs.
func sizedByKernel(t ebpf.MapType) bool {
	switch t {
	case ebpf.PerfEventArray, ebpf.CPUMap, ebpf.CGroupStorage, ebpf.PerCPUCGroupStorage,
		ebpf.CgroupStorage, ebpf.InodeStorage, ebpf.TaskStorage, ebpf.SkStorage:
		return true
	}
	return false
}
