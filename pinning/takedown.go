package pinning

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/hornetd/hornetd/internal/remedy"
)

// takeDown removes a stage. When it returns, its links are detached, but for
// those that have a name elsewhere or are in keep.
func (s *Store) takeDown(stage string, keep spared) error {
	links, err := s.clearTwice(stage, keep)
	if err != nil {
		err = fmt.Errorf("%s: %w: %w", stage, ErrLeftBehind, err)
		err = remedy.With(err, "it is removed when hornetd starts the next time")
	}
	return errors.Join(err, waitGone(links))
}

// clearTwice is clear, tried again: what runs on in a stage is nobody's, and not
// for one error.
func (s *Store) clearTwice(name string, keep spared) ([]link.ID, error) {
	going, err := s.clear(name, keep)
	if err != nil {
		var more []link.ID
		more, err = s.clear(name, keep)
		going = append(going, more...)
	}
	return going, err
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

func (k spared) and(other spared) spared {
	return spared{slices.Concat(k.ids, other.ids), k.unsure || other.unsure}
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
func (s *Store) linksOf(names ...Name) spared {
	dirs := make([]string, len(names))
	for i, n := range names {
		dirs[i] = n.s
	}
	return s.linksIn(dirs...)
}

// linksIn returns all links pinned in directories of the root. What is certainly no
// link, or nowhere, leaves nothing unsure.
func (s *Store) linksIn(dirs ...string) (out spared) {
	for _, name := range dirs {
		d, err := s.dir.open(name)
		if err == nil {
			err = eachLink(d, func(id link.ID, _ link.Link) { out.ids = append(out.ids, id) })
			d.close()
		}
		out.unsure = out.unsure || Unanswered(err)
	}
	return out
}

// eachLink opens every link pinned in d. An error about one does not keep it from the
// next.
func eachLink(d dir, f func(link.ID, link.Link)) error {
	ents, err := d.list(linksDir)
	errs := []error{err}
	for _, e := range ents {
		if e.isPin() {
			errs = append(errs, withLink(d, e.name, f))
		}
	}
	return errors.Join(errs...)
}

func withLink(d dir, pin string, f func(link.ID, link.Link)) error {
	return d.at(linksDir+"/"+pin, func(path string) error {
		l, err := loadLink(path)
		if errors.Is(err, errNoInfo) && isOther(path) {
			return nil
		}
		if err != nil {
			return err
		}
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			return fmt.Errorf("%w: %w", errNoInfo, err)
		}
		f(info.ID, l)
		return nil
	})
}

// isOther reports whether what is pinned is certainly no link.
func isOther(path string) bool {
	if m, err := ebpf.LoadPinnedMap(path, nil); err == nil {
		m.Close()
		return true
	}
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err == nil {
		p.Close()
	}
	return err == nil
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
