package pinning

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Quarantined is a directory that was put aside as it was found.
type Quarantined struct {
	Dir  string // its name in the root
	Name string // the collection it was, "" if unknown
}

// contents is what the root holds, each part sorted by name.
type contents struct {
	committed   []Name
	stages      []string
	quarantined []Quarantined
	foreign     []string
}

// Entries returns the names of all committed collections, sorted.
func (s *Store) Entries() ([]Name, error) {
	c, err := s.scan()
	return c.committed, err
}

// Quarantined returns the directories in quarantine.
func (s *Store) Quarantined() ([]Quarantined, error) {
	c, err := s.scan()
	return c.quarantined, err
}

// Foreign returns the names in the root that are nobody's: files, symbolic
// links, directories whose name no collection can have. The store never
// touches them.
func (s *Store) Foreign() ([]string, error) {
	c, err := s.scan()
	return c.foreign, err
}

func (s *Store) scan() (contents, error) {
	var c contents
	ents, err := s.dir.list(".")
	if err != nil {
		return c, fmt.Errorf("%s: %w", s.root, err)
	}
	slices.SortFunc(ents, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	for _, e := range ents {
		name, err := ParseName(e.name)
		switch {
		case kernelDebugFile(e), e.isDir() && e.name == GuardDir:
		case e.isDir() && strings.HasPrefix(e.name, stagePrefix):
			c.stages = append(c.stages, e.name)
		case e.isDir() && strings.HasPrefix(e.name, quarantinePrefix):
			c.quarantined = append(c.quarantined, parseQuarantined(e.name))
		case e.isDir() && err == nil:
			c.committed = append(c.committed, name)
		default:
			c.foreign = append(c.foreign, e.name)
		}
	}
	return c, nil
}

// kernelDebugFile reports whether e is one of the two files that the kernel
// puts into the root of every bpffs mount (CONFIG_BPF_PRELOAD_UMD).
func kernelDebugFile(e dirent) bool {
	return e.typ == unix.DT_REG && (e.name == "maps.debug" || e.name == "progs.debug")
}

// quarantineDir returns the name under which a directory is put aside: the
// collection's name is kept where there is one, since its record may not be
// readable.
func quarantineDir(id string, n Name) string {
	if n.s == "" {
		return quarantinePrefix + id
	}
	return quarantinePrefix + id + "-" + n.s
}

// quarantinedName returns the name of the collection that was put aside as dir.
func quarantinedName(dir string) (Name, error) {
	if !strings.HasPrefix(dir, quarantinePrefix) || strings.Contains(dir, "/") {
		return Name{}, fmt.Errorf("quarantine %q: %w", dir, ErrNotExist)
	}
	return ParseName(parseQuarantined(dir).Name)
}

func parseQuarantined(dir string) Quarantined {
	_, name, _ := strings.Cut(strings.TrimPrefix(dir, quarantinePrefix), "-")
	return Quarantined{Dir: dir, Name: name}
}
