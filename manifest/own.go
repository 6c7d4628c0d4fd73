package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
)

// own begins the names of collections that callers brought themselves: u and the
// number of the user. Nobody else's begin like that, so that nobody takes another's.
var own = regexp.MustCompile(`^u(0|[1-9][0-9]{0,9})-`)

// unowned refuses, for the manifests of this host, the names of callers' own.
func unowned(name string) error {
	if _, isOwn := Owner(name); isOwn {
		return remedy.With(fmt.Errorf("%q begins like the collections that callers bring themselves", name), "choose another name")
	}
	return nil
}

// OwnName returns the name of the collection that user uid runs under name.
func OwnName(uid uint32, name string) string { return fmt.Sprintf("u%d-%s", uid, name) }

// Owner returns the user whose own collection has the name, and whether it is
// anybody's.
func Owner(name string) (uid uint32, isOwn bool) {
	m := own.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1], 10, 32)
	return uint32(n), err == nil
}

// Said is what the text of the collection's manifest says for its name: of a
// caller's own, the name without the user's number, and of an instance the
// template's.
func Said(name string) string {
	name, _, _ = SplitInstance(name)
	if _, isOwn := Owner(name); isOwn {
		_, name, _ = strings.Cut(name, "-")
	}
	return name
}

// OwnFile is where the manifest of a caller's own collection lies below dir. Its
// object is beside it, and nothing else is in that directory.
func OwnFile(dir, name string) string { return filepath.Join(dir, name, name+extension) }

// FindOwn returns the manifests of callers' own collections below dir, ordered by
// name. A directory that does not exist is empty.
func FindOwn(dir string) ([]Source, error) {
	entries, err := safefile.ReadDir(dir, maxFiles)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Source
	for _, e := range entries {
		if _, isOwn := Owner(e.Name()); isOwn {
			all = append(all, Source{Name: e.Name(), File: OwnFile(dir, e.Name())})
		}
	}
	return all, nil
}

// ParseOwn is Parse for a manifest that a caller brought. file is as OwnFile
// says. It may name what came with it and nothing else of this host's: no other
// files, collections or callers, and nothing of it happens at boot.
func ParseOwn(file string, b []byte) (Manifest, error) {
	m, err := parse(file, b, "", func(name string) error {
		if _, isOwn := Owner(name); !isOwn || strings.Contains(name, "@") {
			return errors.New("is not the name of a caller's own collection")
		}
		return nil
	})
	if err != nil {
		return Manifest{}, err
	}
	m.Start = StartRequest
	return m, m.checkOwn()
}

func (m Manifest) checkOwn() error {
	const remove = "remove it: it is for manifests of the host's administrator"
	dir := filepath.Dir(m.File)
	switch {
	case m.raw.Start == string(StartBoot):
		return remedy.With(m.Errorf("start", "is %q: a caller's own collection runs when it is asked for", StartBoot), "%s", `write start = "request", or remove it`)
	case m.Fail == FailClosed:
		return remedy.With(m.Errorf("fail", "is not for a caller's own collection, which nothing waits for"), remove)
	case len(m.Requires) > 0:
		return remedy.With(m.Errorf("requires", "is not for a caller's own collection"), remove)
	case len(m.After) > 0:
		return remedy.With(m.Errorf("after", "is not for a caller's own collection"), remove)
	case len(m.Allow) > 0:
		return remedy.With(m.Errorf("allow", "is not for a caller's own collection: it is theirs, and root's"), remove)
	case filepath.Dir(m.Object.Path) != dir:
		return remedy.With(m.Errorf("object.path", "is not beside the manifest: a caller's own collection is what they send"), "write the object's name without a directory")
	case filepath.Dir(m.Object.Signature) != dir:
		return remedy.With(m.Errorf("object.signature", "is not beside the manifest: a caller's own collection is what they send"), "write the signature's name without a directory, or remove the key")
	}
	if i := slices.Index([]string{m.File, m.Signature()}, m.Object.Path); i >= 0 || m.Object.Signature == m.Object.Path || m.Object.Signature == m.File || m.Object.Signature == m.Signature() {
		return remedy.With(m.Errorf("object.path", "object, manifest and their signatures have the same name"), "give each a name of its own")
	}
	for _, name := range slices.Sorted(maps.Keys(m.Maps)) {
		if m.Maps[name].Shared != "" {
			return remedy.With(m.Errorf("maps."+name+".shared", "is not for a caller's own collection"), remove)
		}
	}
	return nil
}
