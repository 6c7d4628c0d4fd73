package bpfsys

import (
	"encoding/hex"
	"fmt"
	"unsafe"
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
