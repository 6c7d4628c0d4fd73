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
	if err != nil {
		return fmt.Errorf("remove: %w", err) // not there, or not a directory: not ours
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
	var keep spared
	if len(c.stages) > 0 {
		keep = s.linksOf(c.committed...)
	}
	for _, stage := range c.stages {
		if !s.known(stage) {
			dir := quarantinePrefix + strings.TrimPrefix(stage, stagePrefix)
			errs = append(errs, s.dir.rename(stage, dir, unix.RENAME_NOREPLACE))
			continue
		}
		dropped, err := s.clear(stage, keep)
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
		case slices.Contains(subdirs[:], e.name):
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

// takeDown removes a stage. When it returns, its links are detached, but for
// those that have a name elsewhere or are in keep.
func (s *Store) takeDown(stage string, keep spared) error {
	links, err := s.clear(stage, keep)
	if err != nil {
		err = fmt.Errorf("%s: %w: %w", stage, ErrLeftBehind, err)
		err = remedy.With(err, "it is removed when hornetd starts the next time")
	}
	return errors.Join(err, waitGone(links))
}

// clear removes a directory and what is in it: links first, so that no program
// is without its maps while it is attached, and the record last. It returns
// the links that go only when the kernel lets go of them.
func (s *Store) clear(name string, keep spared) (going []link.ID, err error) {
	d, err := s.dir.open(name)
	if err != nil {
		return nil, err
	}
	going = detach(d, keep)
	err = removeContents(d)
	d.close()
	if err != nil {
		return going, err
	}
	return going, s.dir.rmdir(name)
}

// spared are links that must not be detached: they are pinned elsewhere too.
type spared struct {
	ids    []link.ID
	unsure bool // they could not all be found out
}

// detach detaches the links in d at once where the kernel can, and returns the
// ids of the others. Removing the last pin would do it too, but later (from a
// work queue, after an RCU grace period before 6.18), and a hook that takes one
// link, such as XDP, would be busy for the next load.
//
// A link is left alone if it is in keep, or if it is not sure what is: the
// kernel counts names and descriptors, we only look.
func detach(d dir, keep spared) (going []link.ID) {
	if keep.unsure {
		return nil
	}
	eachLink(d, func(id link.ID, l link.Link) {
		if slices.Contains(keep.ids, id) {
			return
		}
		if l.Detach() != nil { // tracing, perf events: not while it has a descriptor
			going = append(going, id)
		}
	})
	return going
}

// linksOf returns all links pinned in committed collections.
func (s *Store) linksOf(names ...Name) (out spared) {
	for _, n := range names {
		d, err := s.dir.open(n.s)
		if err != nil {
			out.unsure = out.unsure || !errors.Is(err, unix.ENOENT)
			continue
		}
		err = eachLink(d, func(id link.ID, _ link.Link) { out.ids = append(out.ids, id) })
		out.unsure = out.unsure || err != nil
		d.close()
	}
	return out
}

// eachLink opens every link pinned in d and returns the first error, without
// stopping there.
func eachLink(d dir, f func(link.ID, link.Link)) error {
	ents, err := d.list(linksDir)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	for _, e := range ents {
		if !e.isPin() {
			continue
		}
		if lerr := withLink(d, e.name, f); err == nil {
			err = lerr
		}
	}
	return err
}

func withLink(d dir, pin string, f func(link.ID, link.Link)) error {
	l, err := link.LoadPinnedLink(d.path(linksDir, pin), nil)
	if err != nil {
		return err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return err
	}
	f(info.ID, l)
	return nil
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

// goneWait is how long a link whose last pin was removed may take to go.
const goneWait = 500 * time.Millisecond

// waitGone waits until the kernel has let go of links, so that "removed" means
// "detached" for these as well.
func waitGone(ids []link.ID) error {
	ids = alive(ids)
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
