// Package names finds what the names in rules stand for on this host: one answer
// for hornetd, which decides, and for hornetctl, which explains.
package names

import (
	"errors"
	"os/user"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/policy"
)

// Host is this host as policy.Names. Names are those of /etc/passwd and /etc/group.
// It may be used by several goroutines at once; the zero value is ready.
type Host struct {
	users, groups known
}

// UserID returns the number of a user.
func (h *Host) UserID(name string) (uint32, bool) {
	return h.users.id("/etc/passwd", name, func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

// GroupID returns the number of a group.
func (h *Host) GroupID(name string) (uint32, bool) {
	return h.groups.id("/etc/group", name, func() (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

// known remembers what was found in a file for as long as that stays the same: the
// library reads all of it for each name, and a list of collections asks for
// thousands.
type known struct {
	mu    sync.Mutex
	state unix.Stat_t
	ids   map[string]found
}

type found struct {
	id uint32
	ok bool
}

func (k *known) id(file, name string, look func() (string, error)) (uint32, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var now unix.Stat_t
	err := unix.Stat(file, &now)
	now.Atim = unix.Timespec{}
	if err != nil || now != k.state || len(k.ids) >= 10_000 {
		k.ids, k.state = map[string]found{}, now
	}
	if f, ok := k.ids[name]; ok {
		return f.id, f.ok
	}
	s, err := look()
	if err != nil && !unknown(err) {
		return 0, false // the file could not be read, which says nothing of the name
	}
	n, err := strconv.ParseUint(s, 10, 32)
	f := found{uint32(n), err == nil}
	k.ids[name] = f
	return f.id, f.ok
}

// unknown reports whether err says that there is no such name.
func unknown(err error) bool {
	var noUser user.UnknownUserError
	var noGroup user.UnknownGroupError
	return errors.As(err, &noUser) || errors.As(err, &noGroup)
}

// File is the function of that name.
func (*Host) File(path string) (policy.File, bool) { return File(path) }

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
