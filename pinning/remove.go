package pinning

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Remove takes a committed collection down: its links detach unless somebody
// else holds or pins them. The rename to a stage is the point of no return; a
// crash after it leaves a stage, which Sweep removes. Remove returns
// ErrNotExist if there is no such collection, and ErrLeftBehind if it is
// removed but something remains.
func (s *Store) Remove(n Name) error {
	if n.s == "" {
		return fmt.Errorf("collection %q: %w", n, ErrNotExist)
	}
	if err := s.retire(n.s); err != nil {
		return fmt.Errorf("collection %q: %w", n, err)
	}
	return nil
}

// RemoveQuarantined takes down what Quarantined lists as dir, as Remove does.
func (s *Store) RemoveQuarantined(dir string) error {
	if !strings.HasPrefix(dir, quarantinePrefix) || strings.Contains(dir, "/") {
		return fmt.Errorf("quarantine %q: %w", dir, ErrNotExist)
	}
	if err := s.retire(dir); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

func (s *Store) retire(dir string) error {
	d, err := s.dir.open(dir)
	if err != nil {
		return fmt.Errorf("remove: %w", err) // not there, or not a directory: not ours
	}
	d.close()
	id := stagePrefix + newID()
	if err := s.dir.rename(dir, id, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return s.takeDown(id)
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

// Sweep takes down what a crash left: every stage. It returns the names of
// those it removed. A stage that holds something this version does not know
// (a newer hornetd may have been in the middle of an upgrade) is put into
// quarantine instead. An error about one stage does not keep Sweep from the
// next.
func (s *Store) Sweep() (swept []string, err error) {
	c, err := s.scan()
	if err != nil {
		return nil, err
	}
	var errs []error
	var links []link.ID
	for _, stage := range c.stages {
		if !s.known(stage) {
			dir := quarantinePrefix + strings.TrimPrefix(stage, stagePrefix)
			errs = append(errs, s.dir.rename(stage, dir, unix.RENAME_NOREPLACE))
			continue
		}
		dropped, err := s.clear(stage)
		links = append(links, dropped...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", stage, err))
			continue
		}
		swept = append(swept, stage)
	}
	return swept, errors.Join(append(errs, s.waitGone(links))...)
}

// known reports whether a stage holds only what this version puts there.
func (s *Store) known(stage string) bool {
	d, err := s.dir.open(stage)
	if err != nil {
		return false
	}
	defer d.close()
	top, err := d.list(".")
	if err != nil {
		return false
	}
	for _, e := range top {
		switch {
		case e.isPin() && e.name == recordPin:
		case e.isDir() && slices.Contains(subdirs[:], e.name):
			ents, err := d.list(e.name)
			if err != nil || slices.ContainsFunc(ents, func(e dirent) bool { return !e.isPin() }) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// takeDown removes a stage and waits for its links to be gone.
func (s *Store) takeDown(stage string) error {
	links, err := s.clear(stage)
	if err != nil {
		err = fmt.Errorf("%s: %w: %w", stage, ErrLeftBehind, err)
		err = remedy.With(err, "it is removed when hornetd starts the next time")
	}
	return errors.Join(err, s.waitGone(links))
}

// clear removes a directory and what is in it, links first, so that no program
// is without its maps while it is attached, and the record last. It returns
// the links that had their last name there.
func (s *Store) clear(name string) (links []link.ID, err error) {
	d, err := s.dir.open(name)
	if err != nil {
		return nil, err
	}
	links = lastNames(d)
	err = removeContents(d)
	d.close()
	if err != nil {
		return links, err
	}
	return links, s.dir.rmdir(name)
}

// lastNames returns the ids of the links in d that no other directory names.
func lastNames(d dir) []link.ID {
	return linkIDs(d, func(st unix.Stat_t) bool { return st.Nlink == 1 })
}

// linkIDs returns the ids of the links pinned in d whose files satisfy want.
func linkIDs(d dir, want func(unix.Stat_t) bool) (ids []link.ID) {
	ents, _ := d.list(linksDir)
	for _, e := range ents {
		var st unix.Stat_t
		err := unix.Fstatat(d.fd, linksDir+"/"+e.name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if !e.isPin() || err != nil || !want(st) {
			continue
		}
		if id, ok := linkID(d.path(linksDir, e.name)); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func linkID(path string) (link.ID, bool) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return 0, false
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, false
	}
	return info.ID, true
}

// removeContents empties d: links, programs, maps, whatever else, the record.
func removeContents(d dir) error {
	ents, err := d.list(".")
	if err != nil {
		return err
	}
	rank := func(e dirent) int {
		if e.name == recordPin {
			return len(subdirs) + 1
		}
		if i := slices.Index(subdirs[:], e.name); i >= 0 {
			return i
		}
		return len(subdirs)
	}
	slices.SortStableFunc(ents, func(a, b dirent) int { return rank(a) - rank(b) })
	for _, e := range ents {
		if err := remove(d, e); err != nil {
			return err
		}
	}
	return nil
}

func remove(d dir, e dirent) error {
	if !e.isDir() {
		return named(e.name, d.unlink(e.name))
	}
	sub, err := d.open(e.name)
	if err != nil {
		return named(e.name, err)
	}
	err = removeContents(sub)
	sub.close()
	if err != nil {
		return named(e.name, err)
	}
	return named(e.name, d.rmdir(e.name))
}

func named(name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// goneWait is how long a link whose last pin was removed may take to go. The
// kernel lets it go at once or, from 6.5 on, after an RCU grace period.
const goneWait = 500 * time.Millisecond

// waitGone waits until the kernel has let go of links, so that "removed" means
// "detached" and the same hook can be attached to again at once.
func (s *Store) waitGone(ids []link.ID) error {
	if ids = alive(ids); len(ids) == 0 {
		return nil
	}
	elsewhere := s.pinnedLinks() // a link may have been pinned a second time
	ids = slices.DeleteFunc(ids, func(id link.ID) bool { return slices.Contains(elsewhere, id) })
	for end := time.Now().Add(goneWait); len(ids) > 0 && time.Now().Before(end); ids = alive(ids) {
		time.Sleep(time.Millisecond)
	}
	if len(ids) == 0 {
		return nil
	}
	err := fmt.Errorf("link %d: %w: its pin is gone, but another process holds it", ids, ErrLeftBehind)
	return remedy.With(err, "end the process that holds it (bpftool link show id %d)", ids[0])
}

// alive returns those of ids that the kernel still knows.
func alive(ids []link.ID) []link.ID {
	return slices.DeleteFunc(ids, func(id link.ID) bool {
		l, err := link.NewFromID(id)
		if err != nil {
			return true // gone, or not to be asked
		}
		l.Close()
		return false
	})
}

// pinnedLinks returns the ids of all links pinned below the root.
func (s *Store) pinnedLinks() (ids []link.ID) {
	top, _ := s.dir.list(".")
	for _, e := range top {
		d, err := s.dir.open(e.name)
		if err != nil {
			continue
		}
		ids = append(ids, linkIDs(d, func(unix.Stat_t) bool { return true })...)
		d.close()
	}
	return ids
}
