package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Keep sees to it that the log is where its path says. Where it was deleted or
// moved away it is made again, with all that it held; Append does that as well
// before it writes. It returns how often that was since Open.
func (l *Log) Keep() (remade int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		err = l.keep()
	}
	return l.remade, err
}

func (l *Log) keep() error {
	if l.inPlace() {
		return nil
	}
	if err := l.remake(); err != nil {
		return fmt.Errorf("%s was taken away, and could not be made again: %w", l.path, err)
	}
	l.remade++
	return nil
}

// inPlace reports whether the path leads to the file that is written. An error
// that says nothing of that does not mean that it does not.
func (l *Log) inPlace() bool {
	var held, there unix.Stat_t
	if unix.Fstat(int(l.file.Fd()), &held) != nil {
		return true
	}
	switch err := unix.Lstat(l.path, &there); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return false
	case err != nil:
		return true
	}
	return held.Dev == there.Dev && held.Ino == there.Ino
}

// remake puts a copy of the file where it was, durable before it has its name.
// Something else that lies there by now stays, and is an error.
func (l *Log) remake() error {
	dir := filepath.Dir(l.path)
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Mkdir(d, 0o700); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	d, err := openAt(nil, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := safe(d, unix.S_IFDIR); err != nil {
		return err
	}
	const temporary = fileName + ".new"
	if err := unix.Unlinkat(int(d.Fd()), temporary, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", filepath.Join(dir, temporary), err)
	}
	f, err := openAt(d, temporary, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	now := &Log{path: l.path, file: f}
	_, err = io.Copy(f, io.NewSectionReader(l.file, 0, l.size))
	if err == nil {
		err = errors.Join(f.Sync(), now.lock())
	}
	if err == nil {
		err = unix.Renameat2(int(d.Fd()), temporary, int(d.Fd()), fileName, unix.RENAME_NOREPLACE)
		if errors.Is(err, fs.ErrExist) {
			err = remedy.With(fmt.Errorf("another file lies there: %w", err), "look who put it there and move it away")
		}
	}
	if err == nil {
		err = d.Sync()
	}
	if err != nil {
		f.Close()
		return full(err)
	}
	// Not closed: somebody may be reading it. It goes when nobody has it.
	l.file, l.dirty = f, false
	l.allocate(0)
	return nil
}
