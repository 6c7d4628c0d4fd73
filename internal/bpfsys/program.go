package bpfsys

import (
	"encoding/hex"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProgInfo identifies a program in the kernel.
type ProgInfo struct {
	Type uint32 // enum bpf_prog_type
	ID   uint32
	Tag  string // 16 hexadecimal digits
}

// ProgramInfo asks the kernel which program is behind fd, in one system call:
// the first fields of struct bpf_prog_info. Program.Info of the library asks
// for everything, translated instructions included, which costs a start with
// hundreds of programs more than all the rest of it.
func ProgramInfo(fd int) (ProgInfo, error) {
	var info struct {
		typ, id uint32
		tag     [8]byte
	}
	if err := objInfo(fd, unsafe.Pointer(&info), unsafe.Sizeof(info)); err != nil {
		return ProgInfo{}, fmt.Errorf("program info: %w", err)
	}
	return ProgInfo{Type: info.typ, ID: info.id, Tag: hex.EncodeToString(info.tag[:])}, nil
}

// ProgramName asks the kernel for the type and the name of a program by its id, in three
// system calls, where thousands are gone through. The error is ENOENT where there is none,
// and EPERM where it may not be opened.
func ProgramName(id uint32) (typ uint32, name string, err error) {
	attr := struct{ id, next, flags uint32 }{id: id}
	fd, err := call(cmdProgramByID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return 0, "", fmt.Errorf("program %d: %w", id, err)
	}
	defer unix.Close(fd)
	var info struct { // the beginning of struct bpf_prog_info; what is 0 is not asked for
		typ, id       uint32
		tag           [8]byte
		jited, xlated uint32
		_             [3]uint64
		user, nrMaps  uint32
		_             uint64
		name          [16]byte
	}
	if err := objInfo(fd, unsafe.Pointer(&info), unsafe.Sizeof(info)); err != nil {
		return 0, "", fmt.Errorf("program %d: info: %w", id, err)
	}
	return info.typ, unix.ByteSliceToString(info.name[:]), nil
}
