package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// absolute returns path as a clean absolute one.
func absolute(path string) (string, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return "", &fs.PathError{Op: "open", Path: path, Err: unix.EINVAL}
	}
	return filepath.Abs(path)
}

// handle is an open descriptor and what it is called in messages. An os.File
// would ask the poller about each of the thousands that a start opens.
type handle struct {
	fd     int
	path   string
	shared bool // a directory that others can write too, such as /tmp
}

func (h handle) close() { unix.Close(h.fd) }

// openDir walks from the root to the directory at path, which is absolute and
// clean, and checks every directory it comes through. Each is opened relative
// to the one checked before it, so none can be exchanged in between.
func openDir(path string) (handle, error) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return handle{}, &fs.PathError{Op: "open", Path: "/", Err: err}
	}
	dir := handle{fd: fd, path: "/"}
	if err := checkDir(&dir); err != nil {
		dir.close()
		return handle{}, err
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if name == "" { // the root itself
			continue
		}
		next, err := openat(dir, name, filepath.Join(dir.path, name), unix.O_PATH|unix.O_DIRECTORY)
		dir.close()
		if err != nil {
			return handle{}, err
		}
		dir = next
		if err := checkDir(&dir); err != nil {
			dir.close()
			return handle{}, err
		}
	}
	return dir, nil
}

// openat opens name in dir; path is what it is called in messages.
func openat(dir handle, name, path string, flags uint64) (handle, error) {
	return openHow(dir, name, path, unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve})
}

func openHow(dir handle, name, path string, how unix.OpenHow) (handle, error) {
	for {
		fd, err := unix.Openat2(dir.fd, name, &how)
		switch {
		case err == nil:
			return handle{fd: fd, path: path}, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ELOOP):
			return handle{}, refuse(ErrUnsafe, path, withoutLinks(path), "is a symbolic link")
		}
		return handle{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
}

// withoutLinks is the remedy for a symbolic link at path.
func withoutLinks(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return fmt.Sprintf("name the file by where it lies: %s instead of %s", to, path)
	}
	return "put the file itself there"
}

// list reads at most max entries of the directory h, which it closes, and sorts
// them by name.
func list(h handle, max int) ([]fs.DirEntry, error) {
	f := os.NewFile(uintptr(h.fd), h.path)
	defer f.Close()
	entries, err := f.ReadDir(max + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > max {
		return nil, refuse(ErrTooLarge, f.Name(), "remove what does not belong there", "has more than %d entries", max)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// checkDir refuses a directory in which others could exchange what we open. A
// sticky one is fine: there others can only touch what is theirs, and nothing
// that is theirs gets past checkOwner.
func checkDir(dir *handle) error {
	var st unix.Stat_t
	if err := fstat(*dir, &st); err != nil {
		return err
	}
	dir.shared = othersWrite(&st)
	if dir.shared && st.Mode&unix.S_ISVTX != 0 {
		st.Mode &^= unix.S_IWGRP | unix.S_IWOTH
	}
	return checkOwner(dir.path, &st)
}

// checkOwner refuses what belongs to, or can be written by, somebody else.
func checkOwner(path string, st *unix.Stat_t) error {
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return refuse(ErrUnsafe, path, "chown root:root "+path,
			"belongs to uid %d, not to root", st.Uid)
	}
	if othersWrite(st) {
		return refuse(ErrUnsafe, path, "chmod go-w "+path,
			"can be written by others (mode %04o)", st.Mode&0o7777)
	}
	return nil
}

// othersWrite tells whether the group or everybody may write. With a POSIX ACL
// the group's bits are the mask, so an ACL that grants writing shows here too.
func othersWrite(st *unix.Stat_t) bool { return st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0 }

// checkKind refuses all but regular files.
func checkKind(path string, st *unix.Stat_t) error {
	if kind, ok := kinds[st.Mode&unix.S_IFMT]; ok {
		return refuse(ErrNotRegular, path, "put a regular file there or remove it", "is %s, not a regular file", kind)
	}
	return nil
}

var kinds = map[uint32]string{
	unix.S_IFDIR:  "a directory",
	unix.S_IFIFO:  "a FIFO",
	unix.S_IFCHR:  "a character device",
	unix.S_IFBLK:  "a block device",
	unix.S_IFSOCK: "a socket",
	unix.S_IFLNK:  "a symbolic link",
}

// fstat is fstat(2) on f, also where f is an O_PATH descriptor.
func fstat(f handle, st *unix.Stat_t) error {
	if err := unix.Fstat(f.fd, st); err != nil {
		return &fs.PathError{Op: "stat", Path: f.path, Err: err}
	}
	return nil
}

// refusal is a refused path; errors.Is finds the sentinel it stands for.
type refusal struct {
	kind         error
	path, reason string
}

func (r *refusal) Error() string { return r.path + ": " + r.reason }
func (r *refusal) Unwrap() error { return r.kind }

func refuse(kind error, path, hint, reason string, args ...any) error {
	return remedy.With(&refusal{kind, path, fmt.Sprintf(reason, args...)}, "%s", hint)
}
