package bpfsys

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strings"
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

// LoadLSMCgroup loads a program for an LSM hook of cgroups, with a license that is the GPL's.
// target is the id of the hook's type, among the kernel's own. What the verifier says of one
// that it refuses is its last line.
func LoadLSMCgroup(name string, insns []byte, target uint32) (fd int, err error) {
	attr := struct {
		typ, count           uint32
		insns, license       unsafe.Pointer
		logLevel, logSize    uint32
		log                  unsafe.Pointer
		version, flags       uint32
		name                 [16]byte
		ifindex, attach, btf uint32
		_                    [8]uint32
		target               uint32
	}{
		typ: progTypeLSM, count: uint32(len(insns) / 8), insns: unsafe.Pointer(unsafe.SliceData(insns)),
		license: unsafe.Pointer(unsafe.StringData("GPL\x00")), attach: attachLSMCgroup, target: target,
	}
	copy(attr.name[:len(attr.name)-1], name)
	if fd, err = call(cmdProgLoad, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err == nil {
		return fd, nil
	}
	log := make([]byte, 1<<20)
	attr.logLevel, attr.logSize, attr.log = 1, uint32(len(log)), unsafe.Pointer(unsafe.SliceData(log))
	if fd, again := call(cmdProgLoad, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); again == nil {
		return fd, nil
	}
	text := strings.TrimSpace(unix.ByteSliceToString(log))
	return -1, fmt.Errorf("load program: %w: %s", err, cmp.Or(text[strings.LastIndexByte(text, '\n')+1:], "the verifier says nothing"))
}

// Of enum bpf_prog_type and enum bpf_attach_type.
const (
	progTypeLSM     = 29
	attachLSMCgroup = 43
)

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
