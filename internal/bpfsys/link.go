package bpfsys

import "unsafe"

// replace is BPF_F_REPLACE: only in place of what the caller says it is.
const replace = 4

// UpdateLinkMap makes a struct_ops link use another map, if it uses old now
// (else EPERM). The library updates links with programs only.
func UpdateLinkMap(link, old, new int) error {
	attr := struct{ link, new, flags, old uint32 }{uint32(link), uint32(new), replace, uint32(old)}
	_, err := call(cmdLinkUpdate, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}
