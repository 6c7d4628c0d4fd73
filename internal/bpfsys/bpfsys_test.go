package bpfsys

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root: bpf(2)")
		}
		t.Skip("needs root: bpf(2)")
	}
}

func create(t *testing.T, a MapAttr) *ebpf.Map {
	t.Helper()
	fd, err := CreateMap(a)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("this kernel has no exclusive maps: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func array(valueSize uint32) MapAttr {
	return MapAttr{Type: uint32(ebpf.Array), KeySize: 4, ValueSize: valueSize, MaxEntries: 2, Name: "bpfsys_test"}
}

// The library reads the same map through its own decoder.
func TestMapInfoAgreesWithTheLibrary(t *testing.T) {
	requireRoot(t)
	key := &btf.Int{Name: "u32", Size: 4}
	value := &btf.Struct{Name: "pair", Size: 8, Members: []btf.Member{
		{Name: "a", Type: key}, {Name: "b", Type: key, Offset: 32},
	}}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "with_btf", Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 7,
		Flags: unix.BPF_F_NO_PREALLOC, Key: key, Value: value,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	got, err := MapInfo(m.FD())
	if err != nil {
		t.Fatal(err)
	}
	id, _ := want.ID()
	btfID, _ := want.BTFID()
	if got.Type != uint32(want.Type) || got.ID != uint32(id) || got.KeySize != want.KeySize || got.ValueSize != want.ValueSize ||
		got.MaxEntries != want.MaxEntries || got.Flags != want.Flags || got.Name != want.Name || got.BTFID != uint32(btfID) {
		t.Errorf("MapInfo = %+v, the library says %+v", got, want)
	}

	h, err := m.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	spec, err := h.Spec(nil)
	if err != nil {
		t.Fatal(err)
	}
	for id, name := range map[uint32]string{got.KeyTypeID: "u32", got.ValueTypeID: "pair"} {
		typ, err := spec.TypeByID(btf.TypeID(id))
		if err != nil {
			t.Fatalf("type %d: %v", id, err)
		}
		if typ.TypeName() != name {
			t.Errorf("type %d is %q, want %q", id, typ.TypeName(), name)
		}
	}
}

func TestMapInfoOfAClosedDescriptor(t *testing.T) {
	if _, err := MapInfo(1 << 20); !errors.Is(err, unix.EBADFD) {
		t.Errorf("MapInfo = %v, want EBADFD", err)
	}
}

func TestFrozenFollowsTheKernel(t *testing.T) {
	requireRoot(t)
	m := create(t, array(8))
	if frozen, err := Frozen(m.FD()); err != nil || frozen {
		t.Fatalf("before: %v, %v", frozen, err)
	}
	if err := m.Freeze(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := Frozen(m.FD()); err != nil || !frozen {
		t.Fatalf("after: %v, %v", frozen, err)
	}
	if err := m.Put(uint32(0), uint64(1)); !errors.Is(err, unix.EPERM) {
		t.Errorf("write to the frozen map: %v, want EPERM", err)
	}
}

// Asking changes nothing, whatever the map is.
func TestWritable(t *testing.T) {
	requireRoot(t)
	for _, typ := range []ebpf.MapType{ebpf.Array, ebpf.Hash, ebpf.PerCPUArray, ebpf.LRUHash} {
		a := array(8)
		a.Type = uint32(typ)
		m := create(t, a)
		if w, err := Writable(m.FD()); err != nil || !w {
			t.Errorf("%s: %v, %v", typ, w, err)
		}
		if typ == ebpf.Hash {
			if n, err := countKeys(m); err != nil || n != 0 {
				t.Errorf("%s: %d entries, %v", typ, n, err)
			}
		}
		if err := m.Freeze(); err != nil {
			t.Fatal(err)
		}
		if w, err := Writable(m.FD()); err != nil || w {
			t.Errorf("%s, frozen: %v, %v", typ, w, err)
		}
	}
	if _, err := Writable(1 << 20); !errors.Is(err, unix.EBADF) {
		t.Errorf("Writable of nothing = %v, want EBADF", err)
	}
}

func countKeys(m *ebpf.Map) (n int, err error) {
	var key uint32
	var value []byte
	it := m.Iterate()
	for it.Next(&key, &value) {
		n++
	}
	return n, it.Err()
}

func TestFrozenOfSomethingElse(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Frozen(int(f.Fd())); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Frozen = %v, want ErrUnsupported", err)
	}
}

func TestMapHashIsSHA256OverPaddedValues(t *testing.T) {
	requireRoot(t)
	m := create(t, array(5))
	values := [][]byte{[]byte("alpha"), []byte("omega")}
	var all bytes.Buffer
	for i, v := range values {
		if err := m.Put(uint32(i), v); err != nil {
			t.Fatal(err)
		}
		all.Write(v)
		all.Write(make([]byte, 3))
	}
	if _, err := MapHash(m.FD()); err == nil {
		t.Error("a map that is not frozen has a hash: this kernel has CVE-2026-45927")
	}
	if err := m.Freeze(); err != nil {
		t.Fatal(err)
	}
	got, err := MapHash(m.FD())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("this kernel computes no map hash: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(all.Bytes()); got != want {
		t.Errorf("hash = %x, want %x", got, want)
	}
}

func TestMapHashOfAHashMapIsUnsupported(t *testing.T) {
	requireRoot(t)
	a := array(8)
	a.Type = uint32(ebpf.Hash)
	m := create(t, a)
	if err := m.Freeze(); err != nil {
		t.Fatal(err)
	}
	if _, err := MapHash(m.FD()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("MapHash = %v, want ErrUnsupported", err)
	}
}

// An exclusive map stays readable and writable for its creator and is refused
// to a program that does not have the digest.
func TestExclusiveMapRefusesAProgram(t *testing.T) {
	requireRoot(t)
	digest := sha256.Sum256([]byte("no program has this digest"))
	a := array(8)
	a.ExclProgHash = &digest
	m := create(t, a)
	if err := m.Put(uint32(1), uint64(42)); err != nil {
		t.Fatal(err)
	}
	var v uint64
	if err := m.Lookup(uint32(1), &v); err != nil || v != 42 {
		t.Fatalf("read back %d, %v", v, err)
	}
	if err := loadUsing(m); !errors.Is(err, unix.EACCES) {
		t.Errorf("program using the exclusive map: %v, want EACCES", err)
	}
	if err := loadUsing(create(t, array(8))); err != nil {
		t.Errorf("the same program with a plain map: %v", err)
	}
}

func TestCreateMapSaysWhatIsWrong(t *testing.T) {
	requireRoot(t)
	a := array(0) // an array of nothing: EINVAL whether exclusive or not
	a.ExclProgHash = &[32]byte{1}
	if fd, err := CreateMap(a); !errors.Is(err, unix.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CreateMap = %d, %v, want EINVAL and not ErrUnsupported", fd, err)
	}
	a = array(8)
	a.Name = "sixteen_letters_"
	if fd, err := CreateMap(a); err == nil || !strings.Contains(err.Error(), "longer than 15 bytes") {
		t.Errorf("CreateMap with a name of 16 bytes = %d, %v", fd, err)
	}
}

// Pinning what was opened from a pin makes a second pin; the first stays.
func TestPinKeepsTheFirstPin(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	m := create(t, array(8))
	if err := Pin(m.FD(), first); err != nil {
		t.Fatal(err)
	}
	opened, err := ebpf.LoadPinnedMap(first, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if err := Pin(opened.FD(), second); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{first, second} {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
	if err := Pin(m.FD(), first); !errors.Is(err, unix.EEXIST) {
		t.Errorf("pin over a pin: %v, want EEXIST", err)
	}
	if err := Pin(m.FD(), "a\x00b"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("pin at a path with NUL: %v, want EINVAL", err)
	}
}

func TestLayout(t *testing.T) {
	if n := unsafe.Sizeof(mapInfo{}); n != 104 {
		t.Errorf("struct bpf_map_info is %d bytes, want 104", n)
	}
}

// LinkByID says the same as the library.
func TestLinkByID(t *testing.T) {
	requireRoot(t)
	cgroup, err := os.MkdirTemp(cgroupRoot(t), "hornet-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(cgroup) })
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSKB, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInetEgress, Program: p})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	got, err := LinkByID(uint32(want.ID))
	if err != nil || got.ID != uint32(want.ID) || got.Type != uint32(want.Type) || got.Program != uint32(want.Program) || got.Place64() != want.Cgroup().CgroupId {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if _, err := LinkByID(1<<31 - 1); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no such link: %v", err)
	}
}

func cgroupRoot(t *testing.T) string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatal("cgroup2 is not mounted")
	return ""
}
