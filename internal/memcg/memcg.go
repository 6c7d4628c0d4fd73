// Package memcg keeps the cgroups that maps are charged to: one for each collection
// whose maps are large, below the cgroup of hornetd's own unit, where the service
// manager has delegated that with the memory controller.
//
//	hornetd.service/            the unit's: limits an administrator sets hold for all
//	hornetd.service/daemon/     hornetd, and the parsers it starts
//	hornetd.service/maps/NAME/  what the maps of one collection take; no process stays
//
// Names of collections are no escape from there: they have no dot and no slash, and
// every file of a cgroup has a dot in its name.
//
// Source: Documentation/admin-guide/cgroup-v2.rst; CGROUP_DELEGATION.md of systemd.
package memcg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// reserve is what maps leave of the unit's limit to hornetd itself, in bytes, or
// half where the limit is less than twice that: else what no process can give back
// would take what hornetd needs next, and hornetd would be killed for it.
const reserve = 64 << 20

// slack is for the process that makes the maps, in bytes.
const slack = 16 << 20

const (
	daemonLeaf = "daemon"
	mapsBranch = "maps"
)

// Tree is the part of the hierarchy that is hornetd's. Those who make or
// change the cgroup of one name see to it that nobody else does.
type Tree struct {
	unit string // absolute path of the unit's cgroup
}

// Take moves this process into a leaf of its cgroup and makes room beside it. mount is
// where cgroup2 is, and own what Own returns. The error says why maps have no cgroup of
// their own here.
func Take(mount, own string) (*Tree, error) {
	t := &Tree{filepath.Join(mount, own)}
	if err := t.delegated(); err != nil {
		return nil, err
	}
	if err := t.alone(); err != nil {
		return nil, err
	}
	for _, dir := range []string{daemonLeaf, mapsBranch} {
		if err := os.Mkdir(filepath.Join(t.unit, dir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, readOnly(t.unit, err)
		}
	}
	// Processes are in leaves only where a controller is handed on.
	for _, w := range []struct{ file, text string }{
		{daemonLeaf + "/cgroup.procs", "0"},
		{"cgroup.subtree_control", "+memory"},
		{mapsBranch + "/cgroup.subtree_control", "+memory"},
	} {
		if err := write(filepath.Join(t.unit, w.file), w.text); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Own returns the cgroup of this process, from the root of the hierarchy.
func Own() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if ok && path.IsAbs(p) && path.Clean(p) == p { // "/../x" is outside of this namespace
			return p, nil
		}
	}
	return "", errors.New("hornetd is in no cgroup of the unified hierarchy")
}

// delegated reports what keeps hornetd from its cgroup. The mark is what systemd sets
// on a cgroup that it leaves to the unit; one without is somebody else's to divide.
func (t *Tree) delegated() error {
	marked := false
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		mark := make([]byte, 8)
		n, err := unix.Getxattr(t.unit, name, mark)
		marked = marked || err == nil && string(mark[:n]) == "1"
	}
	controllers, err := os.ReadFile(filepath.Join(t.unit, "cgroup.controllers"))
	switch {
	case err != nil:
		return err
	case !marked:
		return remedy.With(fmt.Errorf("cgroup %s is not delegated to hornetd", t.unit), "run hornetd as hornetd.service, with Delegate=memory and without DelegateSubgroup=")
	case !hasWord(string(controllers), "memory"):
		return remedy.With(fmt.Errorf("cgroup %s has no memory controller", t.unit),
			"say Delegate=memory in hornetd.service, and have the kernel count memory in cgroup2 (cgroup_no_v1=all)")
	}
	return nil
}

// alone reports who else is in the cgroup: it is not hornetd's to divide then.
func (t *Tree) alone() error {
	b, err := os.ReadFile(filepath.Join(t.unit, "cgroup.procs"))
	if err != nil {
		return err
	}
	if others := strings.Fields(string(b)); len(others) != 1 || others[0] != strconv.Itoa(os.Getpid()) {
		return remedy.With(fmt.Errorf("cgroup %s has other processes than hornetd", t.unit), "run hornetd as hornetd.service, with Delegate=memory")
	}
	return nil
}

func readOnly(unit string, err error) error {
	if errors.Is(err, unix.EROFS) {
		return remedy.With(err, "add ReadWritePaths=%s to hornetd.service: ProtectControlGroups= makes the others read-only", unit)
	}
	return err
}

func hasWord(text, word string) bool {
	for _, w := range strings.Fields(text) {
		if w == word {
			return true
		}
	}
	return false
}

// write is one write to a file that is there.
func write(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// read returns the number in a file; ok is false where it says "max".
func read(file string) (n uint64, ok bool, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false, err
	}
	text := strings.TrimSuffix(string(b), "\n")
	if text == "max" {
		return 0, false, nil
	}
	if n, err = strconv.ParseUint(text, 10, 64); err != nil {
		return 0, false, fmt.Errorf("%s: %w", file, err)
	}
	return n, true, nil
}

func (t *Tree) of(name string) string { return filepath.Join(t.unit, mapsBranch, name) }

// Names returns what there are cgroups of.
func (t *Tree) Names() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(t.unit, mapsBranch))
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Has reports whether there is a cgroup of that name.
func (t *Tree) Has(name string) bool {
	info, err := os.Lstat(t.of(name))
	return err == nil && info.IsDir()
}

// Remove takes a cgroup away; none is no error. What is still charged to it, which
// the kernel gives back some time after the last descriptor is closed, is charged to
// the one above from then on.
func (t *Tree) Remove(name string) error {
	const tries, pause = 50, 2 * time.Millisecond // a process is in it a little longer than it can be waited for
	var err error
	for range tries {
		// rmdir(2) alone: where somebody has mounted pins there no file goes by it.
		if err = unix.Rmdir(t.of(name)); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(pause)
	}
	return fmt.Errorf("%s: %w", t.of(name), err)
}

// Usage is what is charged to a cgroup of a collection.
type Usage struct {
	Cgroup string // its path
	Bytes  uint64
	Most   uint64 // 0: no limit of its own
}

// All returns what is charged to all of them together.
func (t *Tree) All() Usage {
	u, _ := t.Usage("")
	return u
}

// Usage returns what is charged to the cgroup of that name; ok is false where there is
// none.
func (t *Tree) Usage(name string) (u Usage, ok bool) {
	u.Cgroup = t.of(name)
	var err error
	if u.Bytes, _, err = read(filepath.Join(u.Cgroup, "memory.current")); err != nil {
		return Usage{}, false
	}
	u.Most, _, _ = read(filepath.Join(u.Cgroup, "memory.max"))
	return u, true
}

// Room is the cgroup of a collection that is being loaded.
type Room struct {
	tree   *Tree
	name   string
	before string // its limit before this load; "" where there was no cgroup

	Most uint64 // bytes that may be charged to it
	Unit uint64 // bytes that may be charged to all of them, by the limit of the unit or of what it is in; 0: there is none
}

// Room makes the cgroup of a collection, or enlarges the one that it has: for what the
// collection may have there when it runs, in bytes, and for more than what is charged
// now, or than it might have been until now, while it is made beside what it takes the
// place of. Undo takes that back.
func (t *Tree) Room(name string, runs, more uint64) (_ *Room, err error) {
	r := &Room{tree: t, name: name}
	if r.Unit, err = t.bound(); err != nil {
		return nil, err
	}
	dir := t.of(name)
	switch err := os.Mkdir(dir, 0o755); {
	case errors.Is(err, fs.ErrExist):
		b, err := os.ReadFile(filepath.Join(dir, "memory.max"))
		if err != nil {
			return nil, err
		}
		r.before = strings.TrimSuffix(string(b), "\n")
	case err != nil:
		return nil, err
	}
	if err := r.enlarge(min(runs, 1<<60), min(more, 1<<60)); err != nil {
		return nil, errors.Join(err, r.Undo())
	}
	return r, nil
}

func (r *Room) enlarge(runs, more uint64) error {
	dir := r.tree.of(r.name)
	now, _, err := read(filepath.Join(dir, "memory.current"))
	if err != nil {
		return err
	}
	r.Most = max(runs, now+more) + slack
	if before, err := strconv.ParseUint(r.before, 10, 64); err == nil { // what runs may grow to that
		r.Most = max(r.Most, before+more)
	}
	if err := write(filepath.Join(dir, "memory.max"), strconv.FormatUint(r.Most, 10)); err != nil {
		return err
	}
	return write(filepath.Join(dir, "memory.oom.group"), "1")
}

// Tighten makes the limit of a cgroup, where there is one, no more than Room makes it for
// what runs there, in bytes, or for what is charged to it still: over reports whether that
// is more.
func (t *Tree) Tighten(name string, runs uint64) (over bool, err error) {
	u, ok := t.Usage(name)
	if !ok {
		return false, nil
	}
	if most := max(min(runs, 1<<60), u.Bytes) + slack; most < u.Most {
		err = write(filepath.Join(t.of(name), "memory.max"), strconv.FormatUint(most, 10))
	}
	return u.Bytes > runs, err
}

// bounds calls f with each limit of a cgroup and of those that it is in: what may be
// charged to it, or above which the kernel holds its processes back.
func bounds(dir string, f func(dir string, limit uint64) error) error {
	for ; ; dir = filepath.Dir(dir) {
		for _, file := range []string{"memory.max", "memory.high"} {
			n, has, err := read(filepath.Join(dir, file))
			if errors.Is(err, fs.ErrNotExist) {
				break // the controller is not handed on to it, but may be above; the root has none either
			}
			if err == nil && has {
				err = f(dir, n)
			}
			if err != nil {
				return err
			}
		}
		if _, err := os.Lstat(filepath.Join(dir, "..", "cgroup.procs")); err != nil {
			return nil // it was the root of the hierarchy
		}
	}
}

// limit is the least of the unit's bounds; ok is false where there is none.
func (t *Tree) limit() (least uint64, ok bool, err error) {
	err = bounds(t.unit, func(_ string, n uint64) error {
		if !ok || n < least {
			least, ok = n, true
		}
		return nil
	})
	return least, ok, err
}

// Left returns how many bytes maps may still take of what may be charged to a cgroup, and
// to those that it is in, below mount; ok is false where nothing bounds them. What the
// kernel takes back when it needs memory is left.
func Left(mount, own string) (left uint64, ok bool, err error) {
	err = bounds(filepath.Join(mount, own), func(dir string, limit uint64) error {
		used, err := kept(dir)
		if err != nil {
			return err
		}
		limit -= min(reserve, limit/2)
		n := limit - min(limit, used)
		if !ok || n < left {
			left, ok = n, true
		}
		return nil
	})
	return left, ok, err
}

// kept is how many bytes that are charged to a cgroup the kernel cannot take back.
func kept(dir string) (uint64, error) {
	used, _, err := read(filepath.Join(dir, "memory.current"))
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, number, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch name {
		case "active_file", "inactive_file", "slab_reclaimable":
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s/memory.stat: %w", dir, err)
			}
			used -= min(used, n)
		}
	}
	return used, nil
}

// bound holds all maps below the unit's limit, and returns how far.
func (t *Tree) bound() (uint64, error) {
	limit, ok, err := t.limit()
	if err != nil {
		return 0, err
	}
	text := "max"
	if ok {
		limit -= min(reserve, limit/2)
		text = strconv.FormatUint(limit, 10)
	}
	return limit, write(filepath.Join(t.unit, mapsBranch, "memory.max"), text)
}

// Join moves a process there. What it is charged for by then stays where it is.
func (r *Room) Join(pid int) error {
	return write(filepath.Join(r.tree.of(r.name), "cgroup.procs"), strconv.Itoa(pid))
}

// Undo makes it as it was before; if it was removed meanwhile, it stays so. The limit is
// not less than what is charged still, for which Tighten is: there is no process to kill.
func (r *Room) Undo() error {
	if r.before == "" {
		return r.tree.Remove(r.name)
	}
	limit := r.before
	if before, err := strconv.ParseUint(r.before, 10, 64); err == nil {
		u, _ := r.tree.Usage(r.name)
		limit = strconv.FormatUint(max(before, u.Bytes), 10)
	}
	err := write(filepath.Join(r.tree.of(r.name), "memory.max"), limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
