package manifest

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/safefile"
)

// Source is a manifest that is to be read.
type Source struct {
	Name string // of the collection
	File string // its path
}

// maxFiles is how many entries a directory of manifests may have.
const maxFiles = 20_000

// Find returns the manifests in dirs, of which an earlier one goes before a
// later one: a file takes the place of every file of the same collection in the
// directories behind its own, and a symbolic link to /dev/null takes it without
// putting anything there. They are ordered by file name, over all directories.
// Only NAME.toml is looked at, names that begin with a dot are not, and a
// directory that does not exist is empty.
//
// A directory that cannot be trusted or read is an error and yields no manifest
// at all: it might mask some. Otherwise the error joins what is wrong with
// single files, and the sources are those about which there is no doubt.
func Find(dirs []string) ([]Source, error) {
	f := finder{decided: map[string]bool{}}
	for _, dir := range dirs {
		entries, err := safefile.ReadDir(dir, maxFiles)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		}
		f.directory(dir, entries)
	}
	slices.SortFunc(f.found, func(a, b Source) int {
		return cmp.Or(strings.Compare(filepath.Base(a.File), filepath.Base(b.File)), strings.Compare(a.File, b.File))
	})
	return f.found, errors.Join(f.errs...)
}

// finder collects manifests from the first directory to the last.
type finder struct {
	found   []Source
	decided map[string]bool // names that a directory before this one has
	errs    []error
}

// directory takes what is new in a directory. Its names are decided even where
// something is wrong with them: the file behind it must not come up instead.
func (f *finder) directory(dir string, entries []fs.DirEntry) {
	here := map[string]string{}
	doubtful := map[string]bool{}
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		base, dropins := strings.CutSuffix(e.Name(), ".d")
		if strings.HasPrefix(base, ".") || !strings.HasSuffix(base, extension) {
			continue
		}
		name, err := NameOf(filepath.Join(dir, base))
		if dropins {
			err = refuseFile(file, "write what it says into "+base+" and remove it",
				errors.New("is a directory of drop-ins, which this version of hornetd cannot apply"))
		} else if other, twice := here[name]; twice && err == nil {
			err = refuseFile(file, "remove one of them", errors.New("is the same collection as "+other))
		}
		if err != nil {
			f.errs = append(f.errs, err)
			doubtful[name] = true
			continue
		}
		here[name] = file
	}
	f.take(here, doubtful)
}

// take adds what a directory has and decides its names.
func (f *finder) take(here map[string]string, doubtful map[string]bool) {
	for name, file := range here {
		if !f.decided[name] && !doubtful[name] && !masked(file) {
			f.found = append(f.found, Source{name, file})
		}
		f.decided[name] = true
	}
	for name := range doubtful {
		f.decided[name] = true
	}
}

// masked tells whether file is a symbolic link to /dev/null.
func masked(file string) bool {
	to, err := os.Readlink(file)
	return err == nil && to == os.DevNull
}
