// Package safefile reads files whose contents decide what root does:
// manifests, objects, signatures, keys and the configuration.
//
// A file is opened once, without following any symbolic link, and everything
// that is checked is checked on the descriptor that is read afterwards. It must
// be a regular file that nobody but root (or the user this process runs as) can
// change, in directories of which the same holds. What Read returns is a
// private copy: verify and parse that, and never open the path again. RemoveAll
// removes what lies in such directories.
package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Reasons why a file is refused. A file that does not exist is fs.ErrNotExist.
var (
	ErrUnsafe     = errors.New("somebody else can change the file")
	ErrNotRegular = errors.New("not a regular file")
	ErrTooLarge   = errors.New("file too large")
	ErrEmpty      = errors.New("file empty")
)

// resolve is openat2's RESOLVE_* for every open in this package. Paths are
// walked one component at a time, so one component must not be able to leave
// its directory either.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Read returns the contents of the file at path, at most max bytes, which are
// compared with the file's size before anything is read.
//
// The error is ErrUnsafe if the file, or a directory on the way to it, belongs
// to or can be written by anybody but root and this process's user, is reached
// through a symbolic link, or changed while it was read; ErrNotRegular for
// directories, FIFOs, devices and sockets, none of which are opened;
// ErrTooLarge, ErrEmpty, or the kernel's refusal as an *fs.PathError.
func Read(path string, max int64) ([]byte, error) {
	var r Reader
	defer r.Close()
	return r.Read(path, max)
}

// Reader reads many files of few directories: it walks to each directory once
// and holds it. What Read promises of directories it promises of the moment
// when the first file of each was read, so a Reader is for one batch. It may be
// used by several goroutines at once; the zero value is ready.
type Reader struct {
	mu   sync.Mutex
	dirs map[string]handle
}

// Close lets the directories go.
func (r *Reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.dirs {
		d.close()
	}
	r.dirs = nil
}

// Read is the function of that name.
func (r *Reader) Read(path string, max int64) ([]byte, error) {
	path, err := absolute(path)
	if err != nil {
		return nil, err
	}
	dir, err := r.dir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	f, err := openRegular(dir, path)
	if err != nil {
		return nil, err
	}
	defer f.close()
	size, err := checkFile(f, dir, max)
	if err != nil {
		return nil, err
	}
	return readAll(f, size)
}

func (r *Reader) dir(path string) (handle, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.dirs[path]; ok {
		return d, nil
	}
	d, err := openDir(path)
	if err != nil {
		return handle{}, err
	}
	if r.dirs == nil {
		r.dirs = make(map[string]handle)
	}
	r.dirs[path] = d
	return d, nil
}

// ReadDir returns the entries of the directory at path sorted by name, at most
// max of them. The directory and all above it must be as safe as Read wants
// them (ErrUnsafe); the entries themselves are not looked at.
func ReadDir(path string, max int) ([]fs.DirEntry, error) {
	path, err := absolute(path)
	if err != nil {
		return nil, err
	}
	dir, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer dir.close()

	f, err := openat(dir, ".", path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return list(f, max)
}

// openRegular opens the last component of path in dir for reading. It looks
// before it opens: opening a device can already do something.
//
// In a directory that only root can write there is nothing to be careful of:
// whoever could put a device there could do anything else.
func openRegular(dir handle, path string) (handle, error) {
	name := filepath.Base(path)
	if !dir.shared {
		f, err := openat(dir, name, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
		if !errors.Is(err, unix.ENXIO) { // which is what a socket says: look at it
			return f, err
		}
	}
	look, err := openat(dir, name, path, unix.O_PATH)
	if err != nil {
		return handle{}, err
	}
	defer look.close()
	var st unix.Stat_t
	if err := fstat(look, &st); err != nil {
		return handle{}, err
	}
	if err := checkKind(path, &st); err != nil {
		return handle{}, err
	}
	// O_NONBLOCK: should the name have become a FIFO since, this must not wait.
	return openat(dir, name, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
}

// checkFile checks f, which lies in dir, and returns its size in bytes.
func checkFile(f, dir handle, max int64) (int64, error) {
	var st unix.Stat_t
	if err := fstat(f, &st); err != nil {
		return 0, err
	}
	if err := checkKind(f.path, &st); err != nil {
		return 0, err
	}
	if err := checkOwner(f.path, &st); err != nil {
		return 0, err
	}
	// In /tmp anybody can give somebody else's file a second name.
	if dir.shared && st.Nlink != 1 {
		return 0, refuse(ErrUnsafe, f.path, "copy the file to a directory that only root can write",
			"has %d names in a directory that everybody can write", st.Nlink)
	}
	switch {
	case st.Size == 0:
		return 0, refuse(ErrEmpty, f.path, "write the file again, it may have been cut off", "is empty")
	case st.Size > max:
		return 0, refuse(ErrTooLarge, f.path, fmt.Sprintf("make it at most %d bytes", max),
			"has %d bytes, more than %d", st.Size, max)
	}
	return st.Size, nil
}

// readAll reads the size bytes that f had a moment ago, and fails if it has
// become shorter or longer since.
func readAll(f handle, size int64) ([]byte, error) {
	b := make([]byte, size+1)
	n := 0
	for n < len(b) {
		m, err := unix.Read(f.fd, b[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: f.path, Err: err}
		}
		if m == 0 {
			break
		}
		n += m
	}
	if int64(n) != size {
		return nil, refuse(ErrUnsafe, f.path, "replace files by renaming a complete new one over them",
			"changed while it was read (%d bytes, then %d or more)", size, n)
	}
	return b[:size:size], nil
}
