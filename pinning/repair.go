package pinning

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Hold opens what there is of a committed collection whose record is known, to
// build its successor from: pins may be missing, the record's own among them,
// and the whole directory (Entry.Gone). Unlike Load it believes r, not what
// lies there.
func (s *Store) Hold(n Name, r Record) (*Entry, error) {
	e := &Entry{Name: n, Record: r, pins: map[string]string{}}
	d, err := s.openCollection(n)
	if errors.Is(err, unix.ENOENT) {
		e.Gone, e.dir = true, dir{-1}
		e.Missing = r.pins()
		return e, nil
	}
	if err != nil {
		return nil, fmt.Errorf("collection %q: %w", n, err)
	}
	e.dir = d
	if err := e.compare(); err != nil {
		d.close()
		return nil, fmt.Errorf("collection %q: %w", n, err)
	}
	return e, nil
}

// Missing returns which pins of the committed collection with record r are not
// there, its own first. It costs one system call for each pin and opens none.
func (s *Store) Missing(r Record) []string {
	var missing []string
	for _, pin := range r.pins() {
		var st unix.Stat_t
		err := uninterrupted(func() error {
			return unix.Fstatat(s.dir.fd, r.Name+"/"+pin, &st, unix.AT_SYMLINK_NOFOLLOW)
		})
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			missing = append(missing, pin)
		}
	}
	return missing
}

// pins lists every pin of a collection, below its directory.
func (r *Record) pins() []string {
	all := []string{recordPin}
	for _, k := range r.kinds() {
		for _, o := range k.objs {
			all = append(all, k.dir+"/"+*o.pin)
		}
	}
	return all
}

// KeepMap takes a map over from a committed collection: its pin becomes a
// second name of the same file. The error wraps ErrNotExist if it has none.
func (st *Stage) KeepMap(from *Entry, name string) error {
	return named("map "+name, st.keep(from, mapsDir, name, name))
}

// KeepProgram takes a program over, as KeepMap does.
func (st *Stage) KeepProgram(from *Entry, name string) error {
	return named("program "+name, st.keep(from, programsDir, name, name))
}

// keep gives the pin that from has for an object a second name in the stage.
func (st *Stage) keep(from *Entry, sub, was, as string) error {
	old, ok := from.pins[sub+"/"+was]
	if !ok {
		return fmt.Errorf("take over: pin: %w", ErrNotExist)
	}
	name, err := st.claim(sub, as)
	if err != nil {
		return err
	}
	err = uninterrupted(func() error { return unix.Linkat(from.dir.fd, old, st.dir.fd, sub+"/"+name, 0) })
	if err != nil {
		delete(st.pinned[sub], name)
		return fmt.Errorf("take over as %q: %w", name, err)
	}
	return nil
}

// Succeed gives the stage the place of from, held by Hold: it replaces what is
// committed, or takes the name again where the directory is gone. It is the
// point of no return, with the errors of Replace and Commit.
func (st *Stage) Succeed(from *Entry) error {
	if from.Gone {
		return st.Commit()
	}
	return st.Replace()
}

// StageFrom begins the successor of what from holds, for Succeed.
func (s *Store) StageFrom(from *Entry) (*Stage, error) {
	if from.Gone {
		return s.Stage(from.Name)
	}
	return s.Restage(from.Name)
}

// Root returns a path of the root that stays good while the Store is open, to be
// watched for collections that come and go.
func (s *Store) Root() string { return s.dir.path(".") }

// Pins returns such paths of the directories of a committed collection's pins.
func (s *Store) Pins(name string) []string {
	all := []string{s.dir.path(name)}
	for _, sub := range subdirs {
		all = append(all, s.dir.path(name, sub))
	}
	return all
}
