package pinning

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/remedy"
)

// Stage is a collection being built: a directory of its own that nothing looks
// into until Commit or Replace gives it its name. Discard undoes everything
// before that.
type Stage struct {
	store  *Store
	name   Name
	id     string // the directory's name
	dir    dir
	pinned map[string]map[string]string // subdirectory -> pin -> object
	kept   []link.ID                    // pinned by PinExisting: not the stage's to detach
	record bool                         // the record is pinned
	done   bool
}

// Stage begins a collection that is not committed yet, else it returns
// ErrExist.
func (s *Store) Stage(n Name) (*Stage, error) {
	switch committed, err := s.committed(n); {
	case err != nil:
		return nil, err
	case committed:
		err := fmt.Errorf("collection %q: already pinned: %w", n, ErrExist)
		return nil, remedy.With(err, "unload it first (hornetctl unload %s)", n)
	}
	return s.newStage(n)
}

// Restage begins the successor of a committed collection, for Stage.Replace.
// It returns ErrNotExist where nothing is committed under that name.
func (s *Store) Restage(n Name) (*Stage, error) {
	switch committed, err := s.committed(n); {
	case err != nil:
		return nil, err
	case !committed:
		return nil, fmt.Errorf("collection %q: %w", n, ErrNotExist)
	}
	return s.newStage(n)
}

// committed reports whether something lies under the name n.
func (s *Store) committed(n Name) (bool, error) {
	if n.s == "" {
		return false, errors.New("collection name: empty")
	}
	var st unix.Stat_t
	err := uninterrupted(func() error { return unix.Fstatat(s.dir.fd, n.s, &st, unix.AT_SYMLINK_NOFOLLOW) })
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	default:
		return false, fmt.Errorf("collection %q: %w", n, err)
	}
}

func (s *Store) newStage(n Name) (_ *Stage, err error) {
	st := &Stage{store: s, name: n, id: stagePrefix + newID(), pinned: map[string]map[string]string{}}
	if err := s.dir.mkdir(st.id); err != nil {
		return nil, fmt.Errorf("collection %q: stage: %w", n, err)
	}
	if st.dir, err = s.dir.open(st.id); err != nil {
		return nil, errors.Join(fmt.Errorf("collection %q: stage: %w", n, err), s.dir.rmdir(st.id))
	}
	for _, sub := range subdirs {
		st.pinned[sub] = map[string]string{}
		if err := st.dir.mkdir(sub); err != nil {
			return nil, errors.Join(fmt.Errorf("collection %q: stage: %w", n, err), st.Discard())
		}
	}
	return st, nil
}

// PinMaps pins maps by the names their record will have.
func (st *Stage) PinMaps(ms map[string]*ebpf.Map) error {
	for _, name := range slices.Sorted(maps.Keys(ms)) {
		if err := st.pin(mapsDir, name, ms[name].FD()); err != nil {
			return fmt.Errorf("map %q: %w", name, err)
		}
	}
	return nil
}

// PinPrograms pins programs by the names their record will have.
func (st *Stage) PinPrograms(ps map[string]*ebpf.Program) error {
	for _, name := range slices.Sorted(maps.Keys(ps)) {
		if err := st.pin(programsDir, name, ps[name].FD()); err != nil {
			return fmt.Errorf("program %q: %w", name, err)
		}
	}
	return nil
}

// PinLinks pins links by the names their record will have. From then on they
// survive their descriptors: Discard, or Sweep after a crash, detaches them.
func (st *Stage) PinLinks(ls map[string]link.Link) error {
	for _, name := range slices.Sorted(maps.Keys(ls)) {
		// Every link of the library that is a link to the kernel has one.
		l, ok := ls[name].(interface{ FD() int })
		if !ok {
			return fmt.Errorf("link %q: this attachment has no link and cannot be pinned: %w", name, errors.ErrUnsupported)
		}
		if err := st.pin(linksDir, name, l.FD()); err != nil {
			return fmt.Errorf("link %q: %w", name, err)
		}
	}
	return nil
}

// PinExisting pins, under the name as, a link that runs already and lost its pin.
// Discard takes that pin away again, and the link is left as it was found.
func (st *Stage) PinExisting(l link.Link, as string) error {
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("link %q: %w", as, err)
	}
	st.kept = append(st.kept, info.ID)
	return st.PinLinks(map[string]link.Link{as: l})
}

func (st *Stage) pin(sub, object string, fd int) error {
	name, err := st.claim(sub, object)
	if err != nil {
		return err
	}
	if err := bpfsys.Pin(fd, st.dir.path(sub, name)); err != nil {
		return fmt.Errorf("pin %q: %w", name, err)
	}
	return nil
}

// claim returns the pin for an object and refuses one that another has.
func (st *Stage) claim(sub, object string) (string, error) {
	name, err := PinName(object)
	if err != nil {
		return "", err
	}
	if other, taken := st.pinned[sub][name]; taken {
		return "", fmt.Errorf("pin %q: %w, it is %q's", name, ErrExist, other)
	}
	st.pinned[sub][name] = object
	return name, nil
}

// LeaveOut lets the record name a link that is not pinned, because it cannot be
// made now: a pin that is missing from the beginning.
func (st *Stage) LeaveOut(name string) error {
	_, err := st.claim(linksDir, name)
	return named("link "+name, err)
}

// LinkExisting takes a link over from a committed collection, where it is
// called was, under the name as: its pin becomes a second name of the same
// file, so that the link stays attached when the old directory goes.
func (st *Stage) LinkExisting(from *Entry, was, as string) error {
	if err := st.keep(from, linksDir, was, as); err != nil {
		return fmt.Errorf("link %q: %w", was, err)
	}
	return nil
}

// PinRecord writes the record. It must name exactly what the stage has pinned or
// left out;
// its Pin fields are filled in. Nothing can be pinned after it.
func (st *Stage) PinRecord(r Record) error {
	if r.Name != st.name.s {
		return fmt.Errorf("record: of %q, not of %q", r.Name, st.name)
	}
	for _, k := range r.kinds() {
		if err := st.matches(k); err != nil {
			return fmt.Errorf("record: %w", err)
		}
	}
	b, err := r.encode()
	if err != nil {
		return err
	}
	m, err := newRecordMap(b, bpfsys.CreateMap)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	defer m.Close()
	if err := bpfsys.Pin(m.FD(), st.dir.path(recordPin)); err != nil {
		return fmt.Errorf("record: pin: %w", err)
	}
	st.record = true
	return nil
}

// matches compares a part of the record with what is pinned, and fills in the
// record's pins.
func (st *Stage) matches(k kind) error {
	pins := maps.Clone(st.pinned[k.dir])
	for _, o := range k.objs {
		name, err := PinName(o.name)
		if err != nil {
			return fmt.Errorf("%s: %w", k.what, err)
		}
		if pins[name] != o.name {
			return fmt.Errorf("%s %q: not pinned, or named twice", k.what, o.name)
		}
		*o.pin = name
		delete(pins, name)
	}
	for _, object := range pins {
		return fmt.Errorf("%s %q: pinned but not in the record", k.what, object)
	}
	return nil
}

// Commit gives a new collection its name: the point of no return. It returns
// ErrExist if the name was taken meanwhile; the stage is then still to be
// discarded.
func (st *Stage) Commit() error { return st.swap(unix.RENAME_NOREPLACE) }

// Replace swaps the stage with the committed collection of the same name: the
// point of no return. Then the old one is taken down. It returns ErrNotExist
// if there is none, and ErrLeftBehind if the swap is done but something of the
// old collection remains.
func (st *Stage) Replace() error {
	if err := st.swap(unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	// Under the stage's name lies the old collection now.
	if err := st.store.takeDown(st.id, st.store.linksOf(st.name)); err != nil {
		return fmt.Errorf("collection %q: replaced: %w", st.name, err)
	}
	return nil
}

func (st *Stage) swap(flags uint) error {
	if !st.record {
		return fmt.Errorf("collection %q: internal error: commit of a stage without a record", st.name)
	}
	if err := st.store.dir.rename(st.id, st.name.s, flags); err != nil {
		return fmt.Errorf("collection %q: commit: %w", st.name, err)
	}
	st.done = true
	st.dir.close()
	return nil
}

// Discard takes the stage down, links first, but for those that ran before it. It
// has no effect after Commit or Replace. Close the links' descriptors before: a link of a kind that the
// kernel cannot detach (tracing, perf events) stays attached while somebody
// holds it, and Discard says so with ErrLeftBehind.
func (st *Stage) Discard() error {
	if st.done {
		return nil
	}
	st.done = true
	st.dir.close()
	keep := st.store.linksOf(st.name)
	keep.ids = append(keep.ids, st.kept...)
	if err := st.store.takeDown(st.id, keep); err != nil {
		return fmt.Errorf("collection %q: discard: %w", st.name, err)
	}
	return nil
}
