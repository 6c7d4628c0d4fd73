// Package names finds what the names in rules stand for on this host: one answer
// for hornetd, which decides, and for hornetctl, which explains.
package names

import (
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/policy"
)

// Host is this host as policy.Names.
type Host struct{}

func (Host) UserID(name string) (uint32, bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, false
	}
	return id(u.Uid)
}

func (Host) GroupID(name string) (uint32, bool) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, false
	}
	return id(g.Gid)
}

func (Host) File(path string) (policy.File, bool) { return File(path) }

// File returns what the kernel knows the file at path by, under that name. It is
// looked up in the kernel's own memory (AT_STATX_DONT_SYNC, an empty mask) and not
// asked about: it may be on a file system that a peer serves, and answers when it
// likes.
func File(path string) (policy.File, bool) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return policy.File{}, false
	}
	return policy.File{Path: path, Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino}, true
}

func id(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}
