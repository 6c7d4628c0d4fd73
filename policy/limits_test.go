package policy

import (
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
)

// hash takes for each entry what its key and value take, and preallocated for one more
// on each CPU.
func hash(key, value, entries uint32) *ebpf.MapSpec {
	return &ebpf.MapSpec{Type: ebpf.Hash, KeySize: key, ValueSize: value, MaxEntries: entries, Flags: unix.BPF_F_NO_PREALLOC}
}

func preallocated(key, value, entries uint32) *ebpf.MapSpec {
	return &ebpf.MapSpec{Type: ebpf.Hash, KeySize: key, ValueSize: value, MaxEntries: entries}
}

func objectOf(maps map[string]*ebpf.MapSpec, programs ...string) *ebpf.CollectionSpec {
	spec := &ebpf.CollectionSpec{Maps: maps, Programs: map[string]*ebpf.ProgramSpec{}}
	for _, p := range programs {
		spec.Programs[p] = &ebpf.ProgramSpec{}
	}
	return spec
}

func granted(t *testing.T, l Limits, m manifest.Manifest) Grant {
	t.Helper()
	g, err := New(l, nil).Authorize(Subject{}, Load, m)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestCheck(t *testing.T) {
	wide := Limits{Memory: 1 << 20, Maps: 4, Programs: 2, CPUs: 4}
	with := func(change func(*manifest.Manifest)) manifest.Manifest {
		m := manifest.Manifest{Name: "m", File: "m.toml"}
		change(&m)
		return m
	}
	none := func(*manifest.Manifest) {}
	tests := []struct {
		name   string
		limits Limits
		m      manifest.Manifest
		spec   *ebpf.CollectionSpec
		err    string // "" where it fits
		hint   string
	}{
		{"nothing", Limits{CPUs: 1}, with(none), objectOf(nil), "", ""},
		{"all of it", wide, with(none),
			objectOf(map[string]*ebpf.MapSpec{"a": hash(8, 8, 1<<15), "b": hash(8, 8, 1<<14), "c": hash(8, 8, 1<<13), "d": hash(8, 8, 1<<13)}, "p", "q"), "", ""},
		{"a byte too much, rounded", wide, with(none), objectOf(map[string]*ebpf.MapSpec{"a": hash(8, 8, 1<<16), "b": hash(1, 0, 1)}),
			`collection "m": the object needs 1048584 bytes of maps, more than 1048576 (map "a" alone 1048576): limit exceeded`, "[limits] memory in hornetd.toml"},
		{"a map too many", wide, with(none),
			objectOf(map[string]*ebpf.MapSpec{"a": hash(1, 1, 1), "b": hash(1, 1, 1), "c": hash(1, 1, 1), "d": hash(1, 1, 1), "e": hash(1, 1, 1)}),
			`collection "m": the object needs 5 maps, more than 4: limit exceeded`, "[limits] maps in hornetd.toml"},
		{"inner maps count", wide, with(none),
			objectOf(map[string]*ebpf.MapSpec{"a": hash(1, 1, 1), "b": hash(1, 1, 1), "c": hash(1, 1, 1),
				"d": {Type: ebpf.HashOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: hash(1, 1, 1)}}),
			`collection "m": the object needs 5 maps, more than 4`, ""},
		{"a program too many", wide, with(none), objectOf(nil, "p", "q", "r"),
			`collection "m": the object needs 3 programs, more than 2: limit exceeded`, "[limits] programs"},
		{"no limits allow nothing", Limits{CPUs: 1}, with(none), objectOf(nil, "p"), `the object needs 1 programs, more than 0`, ""},
		{"negative limits allow nothing", Limits{CPUs: 1, Programs: -1}, with(none), objectOf(nil, "p"), `more than 0`, ""},

		{"the manifest narrows", wide, with(func(m *manifest.Manifest) { m.Limits.Memory = 1024 }), objectOf(map[string]*ebpf.MapSpec{"a": hash(8, 8, 65)}),
			`m.toml: limits.memory: the object needs 1040 bytes of maps, more than 1024 (map "a" alone 1040): limit exceeded`, "limits.memory in the manifest"},
		{"the manifest narrows programs", wide, with(func(m *manifest.Manifest) { m.Limits.Programs = 1 }), objectOf(nil, "p", "q"),
			`m.toml: limits.programs: the object needs 2 programs, more than 1`, "limits.programs"},
		{"the manifest narrows maps", wide, with(func(m *manifest.Manifest) { m.Limits.Maps = 1 }), objectOf(map[string]*ebpf.MapSpec{"a": hash(8, 8, 1), "b": hash(8, 8, 1)}),
			`m.toml: limits.maps: the object needs 2 maps, more than 1`, ""},
		{"exactly what the manifest allows", wide, with(func(m *manifest.Manifest) { m.Limits.Memory = 1024 }), objectOf(map[string]*ebpf.MapSpec{"a": hash(8, 8, 64)}), "", ""},
		{"the manifest says what the policy does", wide, with(func(m *manifest.Manifest) { m.Limits.Maps = 4 }),
			objectOf(map[string]*ebpf.MapSpec{"a": hash(1, 1, 1), "b": hash(1, 1, 1), "c": hash(1, 1, 1), "d": hash(1, 1, 1), "e": hash(1, 1, 1)}),
			`m.toml: limits.maps: the object needs 5 maps, more than 4`, ""},
		{"the manifest does not widen", wide, with(func(m *manifest.Manifest) { m.Limits.Memory = 1 << 40 }), objectOf(map[string]*ebpf.MapSpec{"a": hash(8, 8, 1<<17)}),
			`collection "m": the object needs 2097152 bytes of maps, more than 1048576`, "hornetd.toml"},
		{"the manifest's max_entries counts", wide, with(func(m *manifest.Manifest) { m.Maps = map[string]manifest.Map{"a": {MaxEntries: 1 << 17}} }),
			objectOf(map[string]*ebpf.MapSpec{"a": hash(8, 8, 1)}), `the object needs 2097152 bytes`, ""},
		{"the manifest's max_entries counts downwards too", wide, with(func(m *manifest.Manifest) { m.Maps = map[string]manifest.Map{"a": {MaxEntries: 1}} }),
			objectOf(map[string]*ebpf.MapSpec{"a": hash(8, 8, 1<<20)}), "", ""},

		{"per CPU", wide, with(none), objectOf(map[string]*ebpf.MapSpec{"a": {Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1<<15 + 1}}),
			`the object needs 1048608 bytes`, ""},
		{"preallocated", wide, with(none), objectOf(map[string]*ebpf.MapSpec{"a": preallocated(8, 1<<18-8, 1)}), `the object needs 1310720 bytes`, ""},
		{"a list for each CPU", wide, with(none),
			objectOf(map[string]*ebpf.MapSpec{"a": {Type: ebpf.LRUHash, KeySize: 8, ValueSize: 1<<18 - 8, MaxEntries: 1, Flags: unix.BPF_F_NO_COMMON_LRU}, "b": hash(8, 8, 1)}), `the object needs 1048592 bytes`, ""},
		{"no overflow of what is preallocated", wide, with(none), objectOf(map[string]*ebpf.MapSpec{"a": preallocated(math.MaxUint32, math.MaxUint32, math.MaxUint32)}),
			`the object needs 18446744073709551615 bytes`, ""},
		{"a ring buffer", wide, with(none), objectOf(map[string]*ebpf.MapSpec{"a": {Type: ebpf.RingBuf, MaxEntries: 2 << 20}}), `the object needs 2097152 bytes`, ""},
		{"no overflow of a product", wide, with(none), objectOf(map[string]*ebpf.MapSpec{"a": hash(math.MaxUint32, math.MaxUint32, math.MaxUint32)}),
			`the object needs 18446744073709551615 bytes`, ""},
		{"no overflow of a per-CPU product", wide, with(none),
			objectOf(map[string]*ebpf.MapSpec{"a": {Type: ebpf.PerCPUHash, KeySize: 8, ValueSize: math.MaxUint32, MaxEntries: math.MaxUint32}}), `the object needs 18446744073709551615 bytes`, ""},
		{"no overflow of a sum", wide, with(none), objectOf(map[string]*ebpf.MapSpec{"a": hash(math.MaxUint32, 1<<31, math.MaxUint32>>1), "b": hash(math.MaxUint32, 1<<31, math.MaxUint32>>1)}),
			`the object needs 18446744073709551615 bytes`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := granted(t, tt.limits, tt.m).Check(tt.m, tt.spec)
			if tt.err == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("%v\nwant %s", err, tt.err)
			}
			if remedy.Of(err) == "" || !strings.Contains(remedy.Of(err), tt.hint) {
				t.Errorf("remedy %q, want %q", remedy.Of(err), tt.hint)
			}
		})
	}
}

// A grant is for one verb and one manifest.
func TestCheckWantsTheRightGrant(t *testing.T) {
	wide := Limits{Memory: 1 << 30, Maps: 100, Programs: 100, CPUs: 1}
	m := manifest.Manifest{Name: "m", Digest: [32]byte{1}}
	other := manifest.Manifest{Name: "m", Digest: [32]byte{2}}
	status, err := New(wide, nil).Authorize(Subject{}, Status, m)
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]Grant{"zero": {}, "of another verb": status, "of another manifest": granted(t, wide, other)} {
		if err := g.Check(m, objectOf(nil)); !errors.Is(err, ErrDenied) {
			t.Errorf("grant %s: %v, want ErrDenied", name, err)
		}
	}
	if err := granted(t, wide, m).Check(m, objectOf(nil)); err != nil {
		t.Error(err)
	}
}

// What a map is thought to need is held against what the kernel accounts for it.
func TestSizeAgainstTheKernel(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.NoLeaks(t)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	const perEntry, fixed = 80, 64 << 10 // what the kernel may keep beside keys and values
	for _, ms := range []*ebpf.MapSpec{
		preallocated(4, 8, 10_000),
		preallocated(16, 256, 1000),
		preallocated(4, 4_000_000, 1),
		{Type: ebpf.HashOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 10, InnerMap: hash(4, 4, 1)},
		{Type: ebpf.LRUHash, KeySize: 4, ValueSize: 4_000_000, MaxEntries: 1},
		{Type: ebpf.LRUHash, KeySize: 4, ValueSize: 1_000_000, MaxEntries: uint32(cpus) + 1, Flags: unix.BPF_F_NO_COMMON_LRU},
		{Type: ebpf.LRUHash, KeySize: 4, ValueSize: 100, MaxEntries: 10_000},
		{Type: ebpf.PerCPUHash, KeySize: 4, ValueSize: 64, MaxEntries: 10_000},
		{Type: ebpf.LRUCPUHash, KeySize: 4, ValueSize: 64, MaxEntries: 10_000},
		{Type: ebpf.Array, KeySize: 4, ValueSize: 12, MaxEntries: 10_000},
		{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 1024, MaxEntries: 1000},
		{Type: ebpf.RingBuf, MaxEntries: 1 << 20},
		{Type: ebpf.Queue, ValueSize: 1024, MaxEntries: 1000},
		{Type: ebpf.Stack, ValueSize: 1024, MaxEntries: 1000},
		{Type: ebpf.StackTrace, KeySize: 4, ValueSize: 8 * 127, MaxEntries: 1024},
		{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 10_000},
		{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 10_000, InnerMap: hash(4, 4, 1)},
	} {
		t.Run(ms.Type.String(), func(t *testing.T) {
			m, err := ebpf.NewMap(ms)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			want := size(ms, uint64(ms.MaxEntries), uint64(cpus))
			got := memlock(t, m)
			if got < want || got > want+perEntry*uint64(ms.MaxEntries)+fixed {
				t.Errorf("thought to need %d bytes, the kernel says %d", want, got)
			}
		})
	}
}

// memlock is what the kernel says in the fdinfo of a map.
func memlock(t *testing.T, m *ebpf.Map) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(m.FD()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "memlock:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no memlock in fdinfo")
	return 0
}

func TestMemory(t *testing.T) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.Manifest{Maps: map[string]manifest.Map{"a": {MaxEntries: 3}}}
	got, err := Memory(m, objectOf(map[string]*ebpf.MapSpec{
		"a": hash(8, 8, 1), "b": hash(8, 8, 1), "c": {Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1},
		"d": preallocated(8, 8, 2),
	}))
	if want := uint64(48 + 16 + 8*cpus + 16*(2+cpus)); err != nil || got != want {
		t.Errorf("%d, %v, want %d", got, err, want)
	}
}

// The kernel takes no more for a map than what is counted and what comes beside it.
func TestBeside(t *testing.T) {
	testenv.RequireRoot(t)
	page := uint32(os.Getpagesize())
	for _, ms := range []*ebpf.MapSpec{
		preallocated(4, 4, 1), preallocated(4, 4, 1000), preallocated(4, 4, 70000), preallocated(512, 1000, 300), preallocated(4, 4_000_000, 1),
		{Type: ebpf.Array, KeySize: 4, ValueSize: 1, MaxEntries: 1}, {Type: ebpf.Array, KeySize: 4, ValueSize: 13, MaxEntries: 100000},
		{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 5000}, {Type: ebpf.PerCPUHash, KeySize: 4, ValueSize: 8, MaxEntries: 5000},
		{Type: ebpf.LRUHash, KeySize: 8, ValueSize: 8, MaxEntries: 10000}, {Type: ebpf.LRUCPUHash, KeySize: 8, ValueSize: 8, MaxEntries: 10000},
		{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE}, {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 65536},
		{Type: ebpf.Queue, ValueSize: 4, MaxEntries: 1000}, {Type: ebpf.Stack, ValueSize: 1 << 20, MaxEntries: 1},
		{Type: ebpf.StackTrace, KeySize: 4, ValueSize: 80, MaxEntries: 1000}, {Type: ebpf.DevMap, KeySize: 4, ValueSize: 4, MaxEntries: 1000},
		{Type: ebpf.DevMapHash, KeySize: 4, ValueSize: 4, MaxEntries: 1000}, {Type: ebpf.SockHash, KeySize: 4, ValueSize: 8, MaxEntries: 1000},
		{Type: ebpf.BloomFilter, ValueSize: 4, MaxEntries: 10000}, {Type: ebpf.BloomFilter, ValueSize: 1, MaxEntries: 3_000_000, MapExtra: 15},
		{Type: ebpf.RingBuf, MaxEntries: page}, {Type: ebpf.RingBuf, MaxEntries: 4096 * page}, {Type: ebpf.UserRingbuf, MaxEntries: 16 * page},
		{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 500},
	} {
		m, err := ebpf.NewMap(ms)
		if err != nil {
			t.Errorf("%s: %v", ms, err)
			continue
		}
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		takes, ok := info.Memlock() // map_mem_usage of the kernel, since 6.4; before that an estimate of its own
		m.Close()
		spec := objectOf(map[string]*ebpf.MapSpec{"a": ms})
		counted, err := Memory(manifest.Manifest{}, spec)
		beside, err2 := Beside(manifest.Manifest{}, spec)
		if err != nil || err2 != nil || !ok || takes > counted+beside {
			t.Errorf("%s takes %d, counted are %d and %d, %v, %v", ms, takes, counted, beside, err, err2)
		}
	}
}

// What is one piece of memory is not thought to need much more than it does: it would
// cost a process for nothing, and a limit would not bound it.
func TestBesideIsClose(t *testing.T) {
	testenv.RequireRoot(t)
	for _, ms := range []*ebpf.MapSpec{
		{Type: ebpf.RingBuf, MaxEntries: 256 << 10}, {Type: ebpf.RingBuf, MaxEntries: 16 << 20}, {Type: ebpf.UserRingbuf, MaxEntries: 256 << 10},
		{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 65536}, {Type: ebpf.Queue, ValueSize: 8, MaxEntries: 65536},
		{Type: ebpf.BloomFilter, ValueSize: 8, MaxEntries: 3_000_000},
	} {
		m, err := ebpf.NewMap(ms)
		if err != nil {
			t.Errorf("%s: %v", ms, err)
			continue
		}
		takes := memlock(t, m)
		m.Close()
		spec := objectOf(map[string]*ebpf.MapSpec{"a": ms})
		counted, err := Memory(manifest.Manifest{}, spec)
		beside, err2 := Beside(manifest.Manifest{}, spec)
		if err != nil || err2 != nil || beside > max(takes, counted)/8 {
			t.Errorf("%s takes %d, counted are %d and %d, %v, %v", ms, takes, counted, beside, err, err2)
		}
	}
}

func TestLoose(t *testing.T) {
	cpus := uint64(ebpf.MustPossibleCPU())
	perCPU := func(typ ebpf.MapType, flags uint32) *ebpf.MapSpec {
		return &ebpf.MapSpec{Type: typ, KeySize: 8, ValueSize: 8, MaxEntries: 10, Flags: flags}
	}
	for _, tt := range []struct {
		ms   *ebpf.MapSpec
		want uint64
	}{
		{perCPU(ebpf.PerCPUArray, 0), 80 * cpus},
		{perCPU(ebpf.PerCPUHash, 0), 80 * cpus},
		{perCPU(ebpf.LRUCPUHash, 0), 80 * cpus},
		{perCPU(ebpf.PerCPUHash, unix.BPF_F_NO_PREALLOC), 0},
		{preallocated(8, 8, 10), 0},
		{perCPU(ebpf.Array, 0), 0},
	} {
		got, err := Loose(manifest.Manifest{}, objectOf(map[string]*ebpf.MapSpec{"a": tt.ms, "b": hash(8, 8, 1)}))
		if err != nil || got != tt.want {
			t.Errorf("%s: %d, %v, want %d", tt.ms, got, err, tt.want)
		}
	}
}
