package pinning

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Entry is one committed collection, held: it stays readable after the
// directory got another name. Close releases it.
type Entry struct {
	Name   Name
	Record Record

	// Missing lists pins that the record names and that are gone ("maps/hits").
	// What they held may still run, under the id in the record.
	Missing []string
	// Foreign lists what lies in the directory and is not in the record.
	Foreign []string
	// Gone is set where Hold found no directory.
	Gone bool

	dir  dir
	pins map[string]string // "maps/" + object -> "maps/" + pin, for pins that are there
}

// Load opens a committed collection. It returns ErrNotExist if there is none,
// ErrNewerRecord if a newer hornetd wrote it, and ErrCorrupt if it is not as
// hornetd writes it, which a missing or foreign pin alone does not make it.
func (s *Store) Load(n Name) (*Entry, error) {
	for {
		d, err := s.openCollection(n)
		if err != nil {
			return nil, fmt.Errorf("collection %q: %w", n, err)
		}
		e, err := readEntry(n, d)
		if err == nil && len(e.Missing) == 0 {
			return e, nil
		}
		if !s.leadsTo(n, d) {
			d.close() // replaced or removed while it was read
			continue
		}
		if err != nil {
			d.close()
			return nil, fmt.Errorf("collection %q: %w", n, err)
		}
		return e, nil
	}
}

// LoadQuarantined opens what Quarantined lists as dir, as Load does.
func (s *Store) LoadQuarantined(dir string) (*Entry, error) {
	n, err := quarantinedName(dir)
	if err != nil {
		return nil, err
	}
	d, err := s.dir.open(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	e, err := readEntry(n, d)
	if err != nil {
		d.close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return e, nil
}

func (s *Store) openCollection(n Name) (dir, error) {
	if n.s == "" {
		return dir{}, ErrNotExist
	}
	d, err := s.dir.open(n.s)
	if noDir(err) {
		err = fmt.Errorf("%w: a file or a symbolic link", ErrCorrupt)
	}
	return d, err
}

// leadsTo reports whether d is the directory that n names now.
func (s *Store) leadsTo(n Name, d dir) bool {
	var held, there unix.Stat_t
	err := errors.Join(unix.Fstat(d.fd, &held), unix.Fstatat(s.dir.fd, n.s, &there, unix.AT_SYMLINK_NOFOLLOW))
	return err == nil && held.Ino == there.Ino
}

// readEntry reads the collection in d, which is the caller's to close on error.
func readEntry(n Name, d dir) (*Entry, error) {
	r, err := readRecord(d)
	if err != nil {
		return nil, err
	}
	if r.Name != n.s {
		return nil, fmt.Errorf("%w: record of %q", ErrCorrupt, r.Name)
	}
	e := &Entry{Name: n, Record: r, dir: d, pins: map[string]string{}}
	return e, e.compare()
}

// compare lists the directory and finds what is missing and what is foreign. A
// pin that is none (a symbolic link leads anywhere) is both.
func (e *Entry) compare() error {
	top, err := e.dir.read() // just opened
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(top, func(ent dirent) bool { return ent.isPin() && ent.name == recordPin }) {
		e.Missing = append(e.Missing, recordPin)
	}
	for _, ent := range top {
		known := ent.isDir() && slices.Contains(subdirs[:], ent.name) || ent.isPin() && ent.name == recordPin
		if !known {
			e.Foreign = append(e.Foreign, ent.name)
		}
	}
	for _, k := range e.Record.kinds() {
		if err := e.compareKind(k); err != nil {
			return err
		}
	}
	return nil
}

func (e *Entry) compareKind(k kind) error {
	ents, err := e.dir.list(k.dir)
	if err != nil && !errors.Is(err, unix.ENOENT) && !noDir(err) {
		return fmt.Errorf("%s: %w", k.dir, err)
	}
	there := make(map[string]bool, len(ents))
	for _, ent := range ents {
		there[ent.name] = ent.isPin()
	}
	for _, o := range k.objs {
		pin := k.dir + "/" + *o.pin
		if there[*o.pin] {
			e.pins[k.dir+"/"+o.name] = pin
			delete(there, *o.pin)
		} else {
			e.Missing = append(e.Missing, pin)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		e.Foreign = append(e.Foreign, k.dir+"/"+name)
	}
	return nil
}

// Map opens the map the record calls name. The caller closes it. The error
// wraps ErrNotExist if it is not in the record or its pin is gone.
func (e *Entry) Map(name string) (*ebpf.Map, error) { return e.openMap(name, nil) }

// ReadOnlyMap is Map with a descriptor that the kernel lets read and nothing
// else, whoever holds it.
func (e *Entry) ReadOnlyMap(name string) (*ebpf.Map, error) {
	return e.openMap(name, &ebpf.LoadPinOptions{ReadOnly: true})
}

func (e *Entry) openMap(name string, opts *ebpf.LoadPinOptions) (*ebpf.Map, error) {
	path, err := e.pinPath(mapsDir, name)
	if err != nil {
		return nil, err
	}
	m, err := ebpf.LoadPinnedMap(path, opts)
	if err != nil {
		return nil, fmt.Errorf("map %q: open pin: %w", name, err)
	}
	return m, nil
}

// Program opens the program the record calls name, as Map does.
func (e *Entry) Program(name string) (*ebpf.Program, error) {
	path, err := e.pinPath(programsDir, name)
	if err != nil {
		return nil, err
	}
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return nil, fmt.Errorf("program %q: open pin: %w", name, err)
	}
	return p, nil
}

// Link opens the link the record calls name, as Map does. Closing it does not
// detach it.
func (e *Entry) Link(name string) (link.Link, error) {
	path, err := e.pinPath(linksDir, name)
	if err != nil {
		return nil, err
	}
	l, err := loadLink(path)
	if err != nil {
		return nil, fmt.Errorf("link %q: open pin: %w", name, err)
	}
	return l, nil
}

func loadLink(path string) (link.Link, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil && !errors.As(err, new(unix.Errno)) && !errors.Is(err, errors.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", errNoInfo, err)
	}
	return l, err
}

// errNoInfo stands for the errno of an info about a link, which the library
// does not pass on.
var errNoInfo = errors.New("no answer")

// Unpin removes the pin of a link. The link ends with its last descriptor, and
// the collection has a pin less than its record says.
func (e *Entry) Unpin(link string) error {
	pin, ok := e.pins[linksDir+"/"+link]
	if !ok {
		return fmt.Errorf("link %q: pin: %w", link, ErrNotExist)
	}
	links, err := e.dir.open(linksDir)
	if err == nil {
		err = links.unlink(strings.TrimPrefix(pin, linksDir+"/"))
		links.close()
	}
	if err != nil {
		return fmt.Errorf("link %q: unpin: %w", link, err)
	}
	delete(e.pins, linksDir+"/"+link)
	return nil
}

// pinPath returns the path of an object's pin. A pin that was missing when the
// entry was loaded is not looked for again: a symbolic link may lie there.
func (e *Entry) pinPath(sub, name string) (string, error) {
	pin, ok := e.pins[sub+"/"+name]
	if !ok {
		return "", fmt.Errorf("%s/%s: pin: %w", sub, name, ErrNotExist)
	}
	return e.dir.path(pin), nil
}

// Close releases the entry. What is pinned goes on running.
func (e *Entry) Close() error {
	if e.Gone {
		return nil
	}
	return e.dir.close()
}
