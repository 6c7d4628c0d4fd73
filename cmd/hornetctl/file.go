package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Limits of what is read. hornetd's own are the same or lower.
const (
	maxKey       = 64 << 10
	maxObject    = 8 << 20
	maxSignature = 64 << 10
	maxManifest  = 64 << 10
)

// readFile reads a file of at most max bytes. It may be a pipe: a key need not
// lie on a disk.
func readFile(path string, max int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	return readOpen(f, max)
}

// readOpen is readFile for a file that is open.
func readOpen(f *os.File, max int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, int64(max)+1))
	if err != nil {
		return nil, bare(err)
	}
	if len(b) > max {
		return nil, fmt.Errorf("%s: longer than %s", f.Name(), bytesText(uint64(max)))
	}
	return b, nil
}

// writeNew writes a file that must not be there yet, not even as a symbolic
// link, and is on the disk when it returns.
func writeNew(path string, b []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return remedy.With(fmt.Errorf("%s: it is there already, and is not overwritten", path), "choose another name, or move the file away")
	}
	if err != nil {
		return bare(err)
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	return fill(f, b)
}

// replace writes a file beside path and gives it path's name, so that whoever
// opens path finds the old contents or the new, never a part. It is on the disk
// when replace returns: a daemon may at once note that it has seen it.
func replace(path string, b []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return bare(err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := errors.Join(f.Chmod(mode), fill(f, b)); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return bare(err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// fill writes b to f, to the disk, and closes f.
func fill(f *os.File, b []byte) error {
	_, err := f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// bare returns a path's error without the name of the system call, which is of
// no use to a person who named the file.
func bare(err error) error {
	if e, ok := err.(*fs.PathError); ok {
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}
