package pinning

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// dir is a held directory. Names given to its methods are relative to it; the
// last component is never followed if it is a symbolic link.
type dir struct{ fd int }

const openDirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// path returns a path of elem for calls that take no directory descriptor,
// such as bpf(2). It stays right if the directory is renamed.
func (d dir) path(elem ...string) string {
	return "/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + strings.Join(elem, "/")
}

// openPath opens a directory by its path.
func openPath(path string) (dir, error) {
	fd := -1
	err := uninterrupted(func() (err error) {
		fd, err = unix.Open(path, openDirFlags, 0)
		return err
	})
	return dir{fd}, err
}

func (d dir) open(name string) (dir, error) {
	fd, err := d.openat(name, openDirFlags)
	return dir{fd}, err
}

// within keeps what is opened below a directory below it, and on its mount: root may have
// put a way to another store, or to a guard, there, and hornetd removes what it finds.
const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

func (d dir) openat(name string, flags uint64) (fd int, err error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: within}
	err = uninterrupted(func() error {
		fd, err = unix.Openat2(d.fd, name, &how)
		return err
	})
	return fd, mounted(err)
}

// mounted is err, which may say that a name is a mount point.
func mounted(err error) error {
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EBUSY) {
		return remedy.With(fmt.Errorf("something is mounted there: %w", err), "unmount it")
	}
	return err
}

// at calls f with a path for bpf(2) that leads to the very pin name, for as long as f runs.
func (d dir) at(name string, f func(path string) error) error {
	fd, err := d.openat(name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f("/proc/self/fd/" + strconv.Itoa(fd))
}

// noDir reports whether err says that what was opened is a file or a symbolic link.
func noDir(err error) bool { return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) }

func (d dir) close() error { return unix.Close(d.fd) }

func (d dir) mkdir(name string) error {
	return uninterrupted(func() error { return unix.Mkdirat(d.fd, name, 0o700) })
}

func (d dir) unlink(name string) error {
	return mounted(uninterrupted(func() error { return unix.Unlinkat(d.fd, name, 0) }))
}

func (d dir) rmdir(name string) error {
	return mounted(uninterrupted(func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) }))
}

// rename is renameat2(2) within the directory.
func (d dir) rename(from, to string, flags uint) error {
	return mounted(uninterrupted(func() error { return unix.Renameat2(d.fd, from, d.fd, to, flags) }))
}

func (d dir) statfs() (st unix.Statfs_t, err error) {
	err = uninterrupted(func() error { return unix.Fstatfs(d.fd, &st) })
	return st, err
}

// dirent is one name in a directory and its type (unix.DT_…).
type dirent struct {
	name string
	typ  byte
}

func (e dirent) isDir() bool { return e.typ == unix.DT_DIR }

// isPin reports whether e can be a pinned object. bpffs has no regular files:
// what looks like one is a pin (or one of the two debug files the kernel may
// put into the root of a mount, whose names have a dot).
func (e dirent) isPin() bool { return e.typ == unix.DT_REG }

// list returns what the directory name holds, "." for d itself, unsorted.
func (d dir) list(name string) ([]dirent, error) {
	sub, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer sub.close()
	return sub.read()
}

// read returns what d holds, once: it reads on from where the descriptor is.
func (d dir) read() (out []dirent, err error) {
	buf := make([]byte, 4096)
	for {
		n := 0
		err := uninterrupted(func() (err error) {
			n, err = unix.Getdents(d.fd, buf)
			return err
		})
		if err != nil || n == 0 {
			return out, err
		}
		out = appendDirents(out, buf[:n])
	}
}

// appendDirents decodes struct linux_dirent64: inode u64, offset u64, length
// u16, type u8, name with a NUL.
func appendDirents(out []dirent, b []byte) []dirent {
	const header = 19
	for len(b) > header {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		name, _, _ := bytes.Cut(b[header:size], []byte{0})
		if s := string(name); s != "." && s != ".." {
			out = append(out, dirent{s, b[18]})
		}
		b = b[size:]
	}
	return out
}

// uninterrupted repeats f while a signal interrupts it.
func uninterrupted(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// newID returns 16 hexadecimal digits nobody can foretell.
func newID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
