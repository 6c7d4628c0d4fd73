package pinning

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Remove takes a committed collection down. Its links are detached when it
// returns. The rename to a stage is the point of no return; a crash after it
// leaves a stage, which Sweep removes. Remove returns ErrNotExist if there is no
// such collection, and ErrLeftBehind if it is removed but something remains: a
// pin, or a link of a kind that the kernel cannot detach (tracing, perf events)
// while somebody else holds it.
func (s *Store) Remove(n Name) error {
	if n.s == "" {
		return fmt.Errorf("collection %q: %w", n, ErrNotExist)
	}
	if err := s.retire(n.s, spared{}); err != nil {
		return fmt.Errorf("collection %q: %w", n, err)
	}
	return nil
}

// RemoveQuarantined takes down what Quarantined lists as dir, as Remove does.
func (s *Store) RemoveQuarantined(dir string) error {
	if !strings.HasPrefix(dir, quarantinePrefix) || strings.Contains(dir, "/") {
		return fmt.Errorf("quarantine %q: %w", dir, ErrNotExist)
	}
	c, err := s.scan()
	if err != nil {
		return err
	}
	if err := s.retire(dir, s.linksOf(c.committed...)); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// retire makes a directory a stage and takes it down.
func (s *Store) retire(dir string, keep spared) error {
	d, err := s.dir.open(dir)
	if noDir(err) {
		err = fmt.Errorf("%w: what has its name is no directory, and not ours", ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	d.close()
	id := stagePrefix + newID()
	if err := s.dir.rename(dir, id, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return s.takeDown(id, keep)
}

// Quarantine puts a committed collection aside as it is and returns the name
// of its directory. Its links go on running.
func (s *Store) Quarantine(n Name) (string, error) {
	if n.s == "" {
		return "", fmt.Errorf("collection %q: %w", n, ErrNotExist)
	}
	dir := quarantineDir(newID(), n)
	if err := s.dir.rename(n.s, dir, unix.RENAME_NOREPLACE); err != nil {
		return "", fmt.Errorf("collection %q: quarantine: %w", n, err)
	}
	return dir, nil
}

// Restore gives what Quarantined lists as dir its collection's name back: it is
// committed again. It returns ErrExist where the name is taken.
func (s *Store) Restore(dir string) error {
	n, err := quarantinedName(dir)
	if err != nil {
		return err
	}
	if err := s.dir.rename(dir, n.s, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("%s: restore: %w", dir, err)
	}
	return nil
}

// Sweep takes down what a crash left: every stage. It returns the names of
// those it removed. A stage that holds something this version does not know
// (a newer hornetd may have been in the middle of an upgrade) is put into
// quarantine instead. An error about one stage does not keep Sweep from the
// next. Those that are named stay, and so does every link that is in what stays too:
// a committed or quarantined collection, or such a stage.
func (s *Store) Sweep(stay ...string) (swept []string, err error) {
	c, err := s.scan()
	if err != nil {
		return nil, err
	}
	var errs []error
	var going []string
	aside := slices.Clone(stay)
	for _, q := range c.quarantined {
		aside = append(aside, q.Dir)
	}
	for _, stage := range c.stages {
		if slices.Contains(stay, stage) {
			continue
		}
		known, err := s.known(stage)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", stage, err))
			aside = append(aside, stage)
			continue
		}
		if !known {
			dir := quarantinePrefix + strings.TrimPrefix(stage, stagePrefix)
			errs = append(errs, s.dir.rename(stage, dir, unix.RENAME_NOREPLACE))
			aside = append(aside, stage, dir) // it is under one of the two
			continue
		}
		going = append(going, stage)
	}
	var links []link.ID
	var keep spared
	if len(going) > 0 {
		// What is in quarantine, or stays, runs on too, and a stage may have been begun of it.
		keep = s.linksOf(c.committed...).and(s.linksIn(aside...))
	}
	for _, stage := range going {
		dropped, err := s.clearTwice(stage, keep)
		links = append(links, dropped...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", stage, err))
			continue
		}
		swept = append(swept, stage)
	}
	return swept, errors.Join(append(errs, waitGone(links))...)
}

// known reports whether a stage holds only what this version puts there.
func (s *Store) known(stage string) (bool, error) {
	d, err := s.dir.open(stage)
	if noDir(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.close()
	top, err := d.list(".")
	if err != nil {
		return false, err
	}
	for _, e := range top {
		switch {
		case e.isPin() && e.name == recordPin:
		case slices.Contains(subdirs[:], e.name):
			ents, err := d.list(e.name)
			if err != nil && !noDir(err) {
				return false, err
			}
			if err != nil || slices.ContainsFunc(ents, func(e dirent) bool { return !e.isPin() }) {
				return false, nil
			}
		default:
			return false, nil
		}
	}
	return true, nil
}
