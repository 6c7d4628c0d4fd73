package bpfsys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MapAttr says what CreateMap makes.
type MapAttr struct {
	Type       uint32 // enum bpf_map_type; an ebpf.MapType of Linux has the same number
	KeySize    uint32 // bytes
	ValueSize  uint32 // bytes
	MaxEntries uint32
	Flags      uint32
	Name       string // letters, digits, '_' and '.'; at most 15 bytes

	// ExclProgHash, where it is not nil, makes the map exclusive: no program
	// but the one with this SHA-256 digest can use it, and no map iterator can
	// write it. Since Linux 6.18.
	ExclProgHash *[32]byte
}

// CreateMap makes a map and returns its descriptor, which is close-on-exec.
// The error wraps errors.ErrUnsupported where the map was to be exclusive and
// the kernel would have made it otherwise.
func CreateMap(a MapAttr) (int, error) {
	fd, err := createMap(a)
	if err == nil || a.ExclProgHash == nil || !unsupported(err) {
		return fd, err
	}
	plain := a
	plain.ExclProgHash = nil
	other, perr := createMap(plain)
	if perr != nil {
		return -1, err // it is not the exclusiveness
	}
	unix.Close(other)
	return -1, fmt.Errorf("exclusive map: %w (%w)", errors.ErrUnsupported, err)
}

func createMap(a MapAttr) (int, error) {
	attr := struct {
		typ, keySize, valueSize, maxEntries, flags uint32
		innerMapFD, numaNode                       uint32
		name                                       [16]byte
		ifindex, btfFD, btfKeyID, btfValueID       uint32
		btfVmlinuxValueID                          uint32
		extra                                      uint64
		valueTypeBTFObjFD, tokenFD                 int32
		exclProgHash                               unsafe.Pointer
		exclProgHashSize                           uint32
		_                                          uint32
	}{typ: a.Type, keySize: a.KeySize, valueSize: a.ValueSize, maxEntries: a.MaxEntries, flags: a.Flags}
	if len(a.Name) >= len(attr.name) {
		return -1, fmt.Errorf("map name %q: longer than %d bytes", a.Name, len(attr.name)-1)
	}
	copy(attr.name[:], a.Name)
	if a.ExclProgHash != nil {
		attr.exclProgHash = unsafe.Pointer(a.ExclProgHash)
		attr.exclProgHashSize = uint32(len(a.ExclProgHash))
	}
	return call(cmdMapCreate, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// Info is what the kernel says of a map, struct bpf_map_info without the
// fields that are about other kinds of answer.
type Info struct {
	Type        uint32
	ID          uint32
	KeySize     uint32 // bytes
	ValueSize   uint32 // bytes
	MaxEntries  uint32
	Flags       uint32
	Name        string
	Ifindex     uint32
	BTFID       uint32 // of the map's own type information; 0: it has none
	KeyTypeID   uint32 // in the BTF of BTFID; 0: none
	ValueTypeID uint32 // in the BTF of BTFID; 0: none
	Extra       uint64
}

// mapInfo is struct bpf_map_info.
type mapInfo struct {
	typ, id, keySize, valueSize, maxEntries, flags uint32
	name                                           [16]byte
	ifindex, btfVmlinuxValueID                     uint32
	netnsDev, netnsIno                             uint64
	btfID, btfKeyID, btfValueID, btfVmlinuxID      uint32
	extra                                          uint64
	hash                                           unsafe.Pointer
	hashSize                                       uint32
	_                                              uint32
}

// MapInfo asks the kernel about the map behind fd, in one system call.
func MapInfo(fd int) (Info, error) {
	var mi mapInfo
	if err := objInfo(fd, unsafe.Pointer(&mi), unsafe.Sizeof(mi)); err != nil {
		return Info{}, fmt.Errorf("map info: %w", err)
	}
	return Info{
		Type: mi.typ, ID: mi.id, KeySize: mi.keySize, ValueSize: mi.valueSize,
		MaxEntries: mi.maxEntries, Flags: mi.flags, Name: unix.ByteSliceToString(mi.name[:]), Ifindex: mi.ifindex,
		BTFID: mi.btfID, KeyTypeID: mi.btfKeyID, ValueTypeID: mi.btfValueID, Extra: mi.extra,
	}, nil
}

// MapHash returns the SHA-256 the kernel computes over a frozen array map:
// max_entries values, each padded with zeros to a multiple of 8 bytes. Since
// Linux 6.18; the error wraps errors.ErrUnsupported on older kernels and for
// maps that are not plain arrays, unix.EPERM for a map that is not frozen.
//
// Freeze first, always: kernels with CVE-2026-45927 compute the hash of a map
// that is not frozen, and keep it.
func MapHash(fd int) ([32]byte, error) {
	var sum [32]byte
	mi := mapInfo{hash: unsafe.Pointer(&sum), hashSize: uint32(len(sum))}
	err := objInfo(fd, unsafe.Pointer(&mi), unsafe.Sizeof(mi))
	switch {
	case unsupported(err):
		return sum, fmt.Errorf("map hash: %w (%w)", errors.ErrUnsupported, err)
	case err != nil:
		return sum, fmt.Errorf("map hash: %w", err)
	}
	return sum, nil
}

// Frozen reports whether the map behind fd is frozen: user space can no longer
// write it. The kernel tells only through /proc/self/fdinfo, since Linux 5.2.
func Frozen(fd int) (bool, error) {
	b, err := readProc("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return false, fmt.Errorf("map fdinfo: %w", err)
	}
	_, rest, ok := bytes.Cut(b, []byte("\nfrozen:\t"))
	if !ok {
		return false, fmt.Errorf("map fdinfo: no line %q: %w", "frozen", errors.ErrUnsupported)
	}
	return bytes.HasPrefix(rest, []byte("1\n")), nil
}

// LookupBatch reads entries into keys and values, which have room for count of
// them, and returns how many there were. after is the cursor of the call before,
// nil for the beginning; next is written. What a cursor is, and so its size, the
// type of the map decides; that of a hash is the number of a bucket, 4 bytes,
// and entries that come or go move no other over it. end says that there are no
// more. The error is unix.ENOSPC where count is less than what the kernel keeps
// in one bucket. flags are those of the entries, BPF_F_LOCK.
//
// It exists because the library's cursor cannot be kept over a request.
func LookupBatch(fd int, after, next, keys, values []byte, count int, flags uint64) (n int, end bool, err error) {
	attr := struct {
		in, out, keys, values unsafe.Pointer
		count, fd             uint32
		elemFlags, flags      uint64
	}{unsafe.Pointer(unsafe.SliceData(after)), unsafe.Pointer(unsafe.SliceData(next)), unsafe.Pointer(unsafe.SliceData(keys)),
		unsafe.Pointer(unsafe.SliceData(values)), uint32(count), uint32(fd), flags, 0}
	_, err = call(cmdLookupBatch, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	switch {
	case errors.Is(err, unix.ENOENT):
		return int(attr.count), true, nil
	case err != nil:
		return 0, false, fmt.Errorf("map lookup batch: %w", err)
	}
	return int(attr.count), false, nil
}

// Writable reports whether user space can write the map behind fd: it is not
// frozen and was not made read-only. It asks in one system call, where Frozen
// needs three: the kernel refuses an update of a frozen map (EPERM) before it
// looks for the key (EFAULT: there is none).
func Writable(fd int) (bool, error) {
	attr := struct {
		fd, _             uint32
		key, value, flags uint64
	}{fd: uint32(fd)}
	_, err := call(cmdMapUpdate, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	switch {
	case errors.Is(err, unix.EFAULT):
		return true, nil
	case errors.Is(err, unix.EPERM):
		return false, nil
	case err == nil:
		panic("bpfsys: internal error: the kernel took an update without a key")
	default:
		return false, fmt.Errorf("map update: %w", err)
	}
}

// readProc reads a small file without the poller that os.ReadFile asks first.
// One read is enough: the kernel fills the buffer in one go.
func readProc(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return buf[:n], nil
}
