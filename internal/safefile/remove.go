package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// RemoveAll removes what is at path, with all that is in it; nothing there is no error. It
// goes by descriptors, follows no symbolic link, and leaves what is on another mount, and
// the directories above that: whoever mounts something there gets nothing removed by it
// that they could not remove themselves. The error is unix.EXDEV or unix.EBUSY then.
//
// The directory that path is in, and all above it, must be as safe as Read wants them
// (ErrUnsafe).
func RemoveAll(path string) error {
	path, err := absolute(path)
	if err != nil {
		return err
	}
	dir, err := openDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer dir.close()
		err = removeAll(dir, filepath.Base(path))
	}
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EBUSY) {
		err = remedy.With(fmt.Errorf("something is mounted there: %w", err), "unmount what is below %s (findmnt)", path)
	}
	return err
}

// removeAll removes what has a name in a directory. It goes on with the rest where a part
// cannot be removed.
func removeAll(dir handle, name string) error {
	path := filepath.Join(dir.path, name)
	err := unlinkat(dir, name, path, 0)
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	sub, err := openHow(dir, name, path, unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_XDEV})
	if errors.Is(err, fs.ErrNotExist) { // somebody else has removed it
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(sub.fd), path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, removeAll(sub, name))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return unlinkat(dir, name, path, unix.AT_REMOVEDIR)
}

func unlinkat(dir handle, name, path string, flags int) error {
	for {
		err := unix.Unlinkat(dir.fd, name, flags)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil, errors.Is(err, fs.ErrNotExist):
			return nil
		default:
			return &fs.PathError{Op: "remove", Path: path, Err: err}
		}
	}
}
