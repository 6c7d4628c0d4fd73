// Package bpfsys makes the few bpf(2) calls that cilium/ebpf v0.22 does not
// export. It is made to be deleted, function by function, as the library
// learns them; it knows layouts and nothing else.
//
// Layouts are those of include/uapi/linux/bpf.h (Linux 6.18). A kernel that
// does not know a field accepts it as long as it is zero and answers E2BIG
// otherwise.
//
// Map functions take a map's descriptor. The kernel answers for a program's or
// link's descriptor too, with a structure of another shape: callers pass what
// *ebpf.Map gave them.
package bpfsys

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of bpf(2), enum bpf_cmd.
const (
	cmdMapCreate    = 0
	cmdMapUpdate    = 2
	cmdProgLoad     = 5
	cmdObjPin       = 6
	cmdProgramByID  = 13
	cmdObjGetInfoFD = 15
	cmdLookupBatch  = 24
	cmdLinkUpdate   = 29
	cmdLinkByID     = 30
)

// call issues one bpf(2) command. Memory of ours that attr refers to must be
// held in fields of type unsafe.Pointer, which keep it alive and correct if
// the stack moves; on the 64-bit platforms hornetd runs on they have the size
// of the kernel's __aligned_u64.
func call(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		runtime.KeepAlive(attr)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
			continue
		default:
			return -1, errno
		}
	}
}

// Pin makes path, which must not exist, hold the object behind fd.
//
// It exists because Pin of a Map, Program or Link that was itself opened from
// a pin renames that pin instead of making a second one, and because it costs
// one system call instead of two.
func Pin(fd int, path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	attr := struct {
		path  unsafe.Pointer
		fd    uint32
		flags uint32
	}{path: unsafe.Pointer(p), fd: uint32(fd)}
	_, err = call(cmdObjPin, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// unsupported reports whether the kernel refused because it does not know a
// field (E2BIG) or what the field asks for (EINVAL, and the kernel's own
// ENOTSUPP, 524, which should never reach user space but does).
func unsupported(err error) bool {
	return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.Errno(524))
}

// objInfo has the kernel fill in size bytes of the info structure that belongs
// to what fd is.
func objInfo(fd int, info unsafe.Pointer, size uintptr) error {
	attr := struct {
		fd, size uint32
		info     unsafe.Pointer
	}{fd: uint32(fd), size: uint32(size), info: info}
	_, err := call(cmdObjGetInfoFD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}
