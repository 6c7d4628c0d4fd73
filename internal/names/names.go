// Package names finds what the names in rules stand for on this host: one answer
// for hornetd, which decides, and for hornetctl, which explains.
package names

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
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
	return h.users.id("/etc/passwd", passwdFields, name)
}

// GroupID returns the number of a group.
func (h *Host) GroupID(name string) (uint32, bool) {
	return h.groups.id("/etc/group", groupFields, name)
}

// How many fields a line has, passwd(5) and group(5).
const (
	passwdFields = 7
	groupFields  = 4
)

// known remembers what was found in a file for as long as that stays the same: all of
// it is read for each name, and a list of collections asks for thousands. It is the
// file that is read, and not the C library that is asked, which a build with cgo would:
// that has other sources, whose answers may be slow and change without the file.
type known struct {
	mu    sync.Mutex
	state unix.Stat_t
	ids   map[string]found
}

type found struct {
	id uint32
	ok bool
}

func (k *known) id(file string, fields int, name string) (uint32, bool) {
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
	f, err := read(file, fields, name)
	if err != nil {
		return 0, false // the file could not be read, which says nothing of the name
	}
	k.ids[name] = f
	return f.id, f.ok
}

func read(file string, fields int, name string) (found, error) {
	f, err := os.Open(file)
	if err != nil {
		return found{}, err
	}
	defer f.Close()
	return find(f, fields, name)
}

// find looks for the first line of r that has this many fields, name first and a number
// third.
func find(r io.Reader, fields int, name string) (found, error) {
	if name == "" || strings.ContainsAny(name[:1], "#+-") { // a comment, or where NIS comes in
		return found{}, nil
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // a group may have many members
	for lines.Scan() {
		parts := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(parts) < fields || parts[0] != name {
			continue
		}
		if id, err := strconv.ParseUint(parts[2], 10, 32); err == nil {
			return found{uint32(id), true}, nil
		}
	}
	return found{}, lines.Err()
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
