package pinning

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// A successor on trial: Supersede gives it the name, and what it took the place
// of stays beside it, without its links, under the name that the successor's
// record has in Trial. Confirm lets that go; or a further stage is made of it
// and takes the name back. A record whose Trial leads nowhere is of a trial that
// is over.

// ID is the name of the stage's directory; after Supersede it is that of the
// collection it took the place of.
func (st *Stage) ID() string { return st.id }

// Supersede swaps the stage with the committed collection of the same name, as
// Replace does: the point of no return. The old one's links go, but for those
// that the stage has too; its maps, programs and record stay under ID. The errors
// are those of Replace.
func (st *Stage) Supersede() error {
	if err := st.swap(unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	if err := st.store.Unlink(st.id, st.name); err != nil {
		return fmt.Errorf("collection %q: superseded: %w", st.name, err)
	}
	return nil
}

// Unlink detaches the links in what Supersede has set aside, but for those that
// the committed collection n has, and removes their pins.
func (s *Store) Unlink(id string, n Name) error {
	d, err := s.dir.open(id)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", id, ErrLeftBehind, err)
	}
	defer d.close()
	going := detach(d, s.linksOf(n))
	links, err := d.open(linksDir)
	if err == nil {
		err = removeContents(links)
		links.close()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %w", id, ErrLeftBehind, err)
	}
	return errors.Join(err, waitGone(going))
}

// Superseded opens what Supersede has set aside under id. It returns ErrNotExist
// if there is none. Its links are missing.
func (s *Store) Superseded(id string, n Name) (*Entry, error) {
	d, err := s.openStage(id)
	if err != nil {
		return nil, err
	}
	e, err := readEntry(n, d)
	if err != nil {
		d.close()
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	return e, nil
}

// OnTrial reports whether what the committed collection with record r took the
// place of is still there. The error is that nobody could say: a call that a limit
// of descriptors or of memory refused (Unanswered).
func (s *Store) OnTrial(r Record) (bool, error) {
	if r.Trial == "" {
		return false, nil
	}
	d, err := s.openStage(r.Trial)
	if err == nil {
		defer d.close()
		var old Record
		if old, err = readRecord(d); err == nil {
			return old.Name == r.Name, nil
		}
	}
	if Unanswered(err) {
		return false, fmt.Errorf("collection %q: on trial: %w", r.Name, err)
	}
	return false, nil
}

// Confirm removes what the collection with record r took the place of, if it is
// there still. The rename that it begins with is the point of no return; the
// errors behind it wrap ErrLeftBehind.
func (s *Store) Confirm(r Record) error {
	n, err := ParseName(r.Name)
	if err != nil {
		return err
	}
	d, err := s.openStage(r.Trial)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err == nil {
		d.close()
		err = s.retire(r.Trial, s.linksOf(n))
	}
	if err != nil {
		return fmt.Errorf("collection %q: %w", n, err)
	}
	return nil
}

func (s *Store) openStage(id string) (dir, error) {
	if !strings.HasPrefix(id, stagePrefix) || strings.Contains(id, "/") {
		return dir{}, fmt.Errorf("%q: %w", id, ErrNotExist)
	}
	d, err := s.dir.open(id)
	if err != nil {
		return dir{}, fmt.Errorf("%s: %w", id, err)
	}
	return d, nil
}
