package bpfsys

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// replace is BPF_F_REPLACE: only in place of what the caller says it is.
const replace = 4

// UpdateLinkMap makes a struct_ops link use another map, if it uses old now
// (else EPERM). The library updates links with programs only.
func UpdateLinkMap(link, old, new int) error {
	attr := struct{ link, new, flags, old uint32 }{uint32(link), uint32(new), replace, uint32(old)}
	_, err := call(cmdLinkUpdate, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// LinkInfo identifies a link in the kernel and says where it is.
type LinkInfo struct {
	Type    uint32 // enum bpf_link_type
	ID      uint32
	Program uint32
	place   [8]byte // the first bytes of what depends on the type
}

// Place32 is the first number of what depends on the link's type, where it has
// 32 bits: the interface of XDP and TCX, the namespace's inode, the map of
// struct_ops.
func (i LinkInfo) Place32() uint32 { return binary.NativeEndian.Uint32(i.place[:]) }

// Place64 is that where it has 64: the cgroup.
func (i LinkInfo) Place64() uint64 { return binary.NativeEndian.Uint64(i.place[:]) }

// LinkByID asks the kernel about a link by its id, in three system calls. The
// library takes twice as many, which counts where hundreds of links are asked
// about twice a second. The error is ENOENT where there is none.
func LinkByID(id uint32) (LinkInfo, error) {
	attr := struct{ id, next, flags uint32 }{id: id}
	fd, err := call(cmdLinkByID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return LinkInfo{}, fmt.Errorf("link %d: %w", id, err)
	}
	defer unix.Close(fd)
	var info struct { // struct bpf_link_info, whose union begins at a multiple of 8
		typ, id, program, _ uint32
		place               [8]byte
		_                   [40]byte
	}
	if err := objInfo(fd, unsafe.Pointer(&info), unsafe.Sizeof(info)); err != nil {
		return LinkInfo{}, fmt.Errorf("link %d: info: %w", id, err)
	}
	return LinkInfo{info.typ, info.id, info.program, info.place}, nil
}
