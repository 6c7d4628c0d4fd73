package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// Who says whom a rule is about: a subject of whom all is true that is set.
//
// Unit may stand alone: only systemd puts a process into one. Exe may not: whoever
// can execute a file can have it do what they want, so it only narrows.
type Who struct {
	User, Group string // a name or a decimal id; at most one of the two
	Unit        string // of the system's systemd
	Exe         string // absolute path
}

// Check returns the first key of which what it says makes no sense, and why; nil
// where all does.
func (w Who) Check() (key string, err error) {
	if w.User != "" && w.Group != "" {
		return "group", remedy.With(errors.New("a rule names a user or a group, not both"), "write two rules")
	}
	if w.User == "" && w.Group == "" && w.Unit == "" {
		return "", remedy.With(errors.New("names no user, no group and no unit"), `write user = "NAME", group = "NAME" or unit = "NAME.service"`)
	}
	for _, c := range []struct {
		key, value string
		check      func(string) error
	}{{"user", w.User, manifest.ValidAccount}, {"group", w.Group, manifest.ValidAccount}, {"unit", w.Unit, manifest.ValidUnit}} {
		if c.value != "" {
			if err := c.check(c.value); err != nil {
				return c.key, err
			}
		}
	}
	return "", nil
}

// differs says why w is not about s, or "" where it is.
func (p Policy) differs(w Who, s Subject) string {
	if _, err := w.Check(); err != nil {
		return err.Error()
	}
	if w.User != "" {
		if why := p.otherID("user", w.User, Names.UserID, s.UID); why != "" {
			return why
		}
	}
	if w.Group != "" {
		if why := p.otherID("group", w.Group, Names.GroupID, append([]uint32{s.GID}, s.Groups...)...); why != "" {
			return why
		}
	}
	if w.Unit != "" && w.Unit != s.Unit {
		if s.Unit == "" {
			return fmt.Sprintf("unit %q: in which unit the caller is, is not known", w.Unit)
		}
		return fmt.Sprintf("unit %q: the caller is in %q", w.Unit, s.Unit)
	}
	if w.Exe != "" {
		return p.otherFile(w.Exe, s.Exe)
	}
	return ""
}

// otherID says why none of ids is what name says or stands for, or "".
func (p Policy) otherID(what, name string, find func(Names, string) (uint32, bool), ids ...uint32) string {
	id, numeric, ok := p.id(name, find)
	switch {
	case !ok:
		return fmt.Sprintf("%s %q: there is none of that name", what, name)
	case !slices.Contains(ids, id):
		return fmt.Sprintf("%s %q: the caller's is %s", what, name, numbers(ids))
	case !numeric && id == overflowID:
		return fmt.Sprintf("%s %q: %d is everybody whom the kernel cannot name, and only that number itself means them", what, name, id)
	}
	return ""
}

// numbers lists ids, each once.
func numbers(ids []uint32) string {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	var all []string
	for _, id := range ids[:min(len(ids), 32)] {
		all = append(all, strconv.FormatUint(uint64(id), 10))
	}
	if len(ids) > 32 {
		all = append(all, "…")
	}
	return strings.Join(all, ", ")
}

// otherFile says why the caller's executable is not the file at path, or "". The
// name alone is not enough: in another mount namespace it is another file's.
func (p Policy) otherFile(path string, exe File) string {
	switch {
	case exe == File{}:
		return fmt.Sprintf("exe %q: what the caller runs is not known", path)
	case exe.Path != path:
		return fmt.Sprintf("exe %q: the caller runs %q", path, exe.Path)
	}
	if p.names != nil {
		if here, ok := p.names.File(path); ok && here == exe {
			return ""
		}
	}
	return fmt.Sprintf("exe %q: the caller runs another file of that name", path)
}

// id is the number that name says or, through find, stands for.
func (p Policy) id(name string, find func(Names, string) (uint32, bool)) (id uint32, numeric, ok bool) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), true, true
	}
	if p.names == nil {
		return 0, false, false
	}
	id, ok = find(p.names, name)
	return id, false, ok
}
