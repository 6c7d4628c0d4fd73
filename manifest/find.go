package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
)

// Source is a manifest that is to be read.
type Source struct {
	Name    string   // of the collection
	File    string   // its path
	DropIns []string // those of its drop-ins, in the order in which they apply
}

// Bounds of the directories.
const (
	maxFiles         = 20_000 // entries of a directory of manifests
	maxDropInEntries = 256    // entries of a directory of drop-ins
	maxDropIns       = 16     // that apply to one manifest
)

// Find returns the manifests in dirs, of which an earlier one goes before a
// later one: a file takes the place of every file of the same collection in the
// directories behind its own, and a symbolic link to /dev/null takes it without
// putting anything there. They are ordered by file name, over all directories.
// Only NAME.toml is looked at, names that begin with a dot are not, and a
// directory that does not exist is empty.
//
// The drop-ins of a collection are the *.toml in directories NAME.toml.d, in any
// of dirs; among files of one name it is the same. They apply in the order of
// their names. What is no *.toml there is not looked at. strays tells of those
// directories that belong to no manifest: they do nothing.
//
// A directory that cannot be trusted or read is an error and yields no manifest
// at all: it might mask some. Otherwise the error joins what is wrong with
// single files and directories of drop-ins, and the sources are those about
// which there is no doubt.
func Find(dirs []string) (found []Source, strays []error, err error) {
	f, err := look(dirs, "")
	if err != nil {
		return nil, nil, err
	}
	var sure []Source
	for _, s := range f.found {
		if s.DropIns = f.dropInsOf(s.Name); f.doubt[s.Name] == nil {
			sure = append(sure, s)
		}
	}
	var errs []error
	for _, e := range f.errs {
		errs = append(errs, e.err)
	}
	return sure, f.strays(), errors.Join(errs...)
}

// FindOne is Find for the manifest of one collection, or the template of one
// instance. Where there is none the error is fs.ErrNotExist.
func FindOne(dirs []string, name string) (Source, error) {
	load := name
	name, _, _ = SplitInstance(name)
	f, err := look(dirs, name)
	if err != nil {
		return Source{}, err
	}
	i := slices.IndexFunc(f.found, func(s Source) bool { return s.Name == name })
	var one Source
	if i >= 0 {
		one = Source{Name: load, File: f.found[i].File, DropIns: f.dropInsOf(name)}
	}
	for _, e := range f.errs {
		if e.name == name {
			return Source{}, e.err
		}
	}
	if i < 0 {
		return Source{}, fmt.Errorf("collection %q: %w", load, fs.ErrNotExist)
	}
	return one, nil
}

// DropInsOf returns the drop-ins of a collection alone, as Find would.
func DropInsOf(dirs []string, name string) ([]string, error) {
	f, err := look(dirs, name)
	if err != nil {
		return nil, err
	}
	files := f.dropInsOf(name)
	return files, f.doubt[name]
}

// look collects manifests from the first directory to the last. Files that do not
// have name in theirs are passed over.
func look(dirs []string, name string) (*finder, error) {
	f := &finder{name: name, decided: map[string]bool{}, dropIns: map[string][]string{}, doubt: map[string]error{}}
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
	return f, nil
}

// finder is what look has seen.
type finder struct {
	name    string // what is looked for; "" is everything
	found   []Source
	decided map[string]bool     // names that a directory before this one has
	dropIns map[string][]string // name -> directories of drop-ins, the one that wins first
	doubt   map[string]error    // names with doubtful drop-ins, and why
	errs    []about
}

// about is what is wrong with a collection; "" is one whose name is no good.
type about struct {
	name string
	err  error
}

func (f *finder) refuse(name, file, hint string, err error) error {
	err = refuseFile(file, hint, err)
	f.errs = append(f.errs, about{name, err})
	return err
}

// directory takes what is new in a directory. Its names are decided even where
// something is wrong with them: the file behind it must not come up instead.
func (f *finder) directory(dir string, entries []fs.DirEntry) {
	here := map[string]fs.DirEntry{}
	doubtful := map[string]bool{}
	dropIns := map[string]fs.DirEntry{}
	for _, e := range entries {
		if !strings.Contains(e.Name(), f.name) {
			continue
		}
		file := filepath.Join(dir, e.Name())
		base, isDropIns := strings.CutSuffix(e.Name(), dropInsSuffix)
		if strings.HasPrefix(base, ".") || !strings.HasSuffix(base, extension) {
			continue
		}
		name, err := nameOf(base)
		if err == nil {
			err = unowned(name)
		}
		seen := here
		if isDropIns {
			seen = dropIns
		}
		other, twice := seen[name]
		switch {
		case err != nil:
			f.refuse("", file, remedy.Of(err), err)
		case twice:
			err := f.refuse(name, file, "remove one of them", errors.New("is the same collection as "+filepath.Join(dir, other.Name())))
			if isDropIns {
				f.doubt[name] = err
			} else {
				doubtful[name] = true
			}
		default:
			seen[name] = e
		}
	}
	for name, e := range dropIns {
		f.dropIns[name] = append(f.dropIns[name], filepath.Join(dir, e.Name()))
	}
	f.take(dir, here, doubtful)
}

// take adds what a directory has and decides its names.
func (f *finder) take(dir string, here map[string]fs.DirEntry, doubtful map[string]bool) {
	for name, e := range here {
		if !f.decided[name] && !doubtful[name] && !masked(dir, e) {
			f.found = append(f.found, Source{Name: name, File: filepath.Join(dir, e.Name())})
		}
		f.decided[name] = true
	}
}

// dropInsOf lists the drop-ins of a collection. Where one of its directories
// cannot be read there is doubt: what is in it may forbid something.
func (f *finder) dropInsOf(name string) []string {
	var all []string
	decided := map[string]bool{}
	for _, dir := range f.dropIns[name] {
		entries, err := safefile.ReadDir(dir, maxDropInEntries)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			f.doubt[name] = f.refuse(name, dir, cmp.Or(remedy.Of(err), "mend or remove the directory"), fmt.Errorf("drop-ins: %s", strings.TrimPrefix(err.Error(), dir+": ")))
			continue
		}
		for _, e := range entries {
			if base := e.Name(); strings.HasSuffix(base, extension) && !strings.HasPrefix(base, ".") && !decided[base] {
				decided[base] = true
				if !masked(dir, e) {
					all = append(all, filepath.Join(dir, base))
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	if len(all) > maxDropIns {
		f.doubt[name] = f.refuse(name, filepath.Dir(all[maxDropIns]), "write what they say into fewer files", fmt.Errorf("%d drop-ins, at most %d apply to one manifest", len(all), maxDropIns))
	}
	return all
}

// strays tells of directories of drop-ins without a manifest. One whose manifest
// is masked is as it should be.
func (f *finder) strays() []error {
	var strays []error
	for _, name := range slices.Sorted(maps.Keys(f.dropIns)) {
		if f.decided[name] {
			continue
		}
		for _, dir := range f.dropIns[name] {
			strays = append(strays, refuseFile(dir, fmt.Sprintf("remove it, or write the manifest %s.toml", name),
				fmt.Errorf("there is no manifest of %q: these drop-ins do nothing", name)))
		}
	}
	return strays
}

// masked tells whether e of dir is a symbolic link to /dev/null.
func masked(dir string, e fs.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return false
	}
	to, err := os.Readlink(filepath.Join(dir, e.Name()))
	return err == nil && to == os.DevNull
}
