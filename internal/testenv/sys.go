package testenv

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// nextID returns the id that follows id. cmd is BPF_{PROG,MAP,LINK}_GET_NEXT_ID.
// It takes no reference to the object, which is why no library call is used:
// a walk must not keep alive what another test expects to be gone.
func nextID(cmd uintptr, id uint32) (uint32, error) {
	attr := struct{ start, next, flags uint32 }{start: id}
	_, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return 0, errno
	}
	return attr.next, nil
}
