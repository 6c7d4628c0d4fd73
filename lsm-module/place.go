package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Below a guard's directory everything is opened, renamed and removed by descriptor, and
// nothing that lies behind a symbolic link or on another mount. Root may show hornetd a
// directory in which one leads to the guard that is in force; and that lets hornetd, which
// would remove it, do so.
const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

// openPlace opens a guard's directory.
func openPlace(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = strange(err)
	}
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	return f, nil
}

// openIn opens what has a name in a directory.
func openIn(dir *os.File, name string, flags uint64) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: within})
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
			err = strange(err)
		}
		return nil, fmt.Errorf("guard: %s: %w", path, err)
	}
}

// strange is about what is nobody's guard.
func strange(err error) error {
	return remedy.With(fmt.Errorf("%w: a symbolic link, or something is mounted there", err), "see who made that, and take it away")
}

// checkPlace returns nil if a guard's directory is one that it was armed with: root may
// show hornetd the guard, or parts of it, in another one.
func (g *Guard) checkPlace() error {
	s, err := readState(g.maps[stateMap])
	if err != nil {
		return fmt.Errorf("guard: state: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(g.place.Fd()), &st); err != nil {
		return fmt.Errorf("guard: %s: %w", g.dir, err)
	}
	if !guards(s.Roots, st) {
		return remedy.With(fmt.Errorf("guard: %s: it was armed in another directory", g.dir), "see who mounted what there, and take it away")
	}
	return nil
}

func guards(all [roots]root, st unix.Stat_t) bool {
	return st.Ino != 0 && slices.Contains(all[:], root{Inode: st.Ino, Device: kernelDevice(st.Dev)}) // what is not used is 0
}

// elsewhere reports whether err says that something is not there, or leads away from there.
func elsewhere(err error) bool {
	for _, errno := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// each calls f with every pin in a directory of a set, and with a path for bpf(2), good
// for the call, that leads to that very pin.
func each(set *os.File, sub string, f func(name, path string) error) error {
	d, err := openIn(set, sub, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	all, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	for _, name := range all {
		if err := pinned(d, name, func(path string) error { return f(name, path) }); err != nil {
			return err
		}
	}
	return nil
}

// pinned calls f with such a path.
func pinned(dir *os.File, name string, f func(path string) error) error {
	pin, err := openIn(dir, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer pin.Close()
	if err := f(throughFD(pin)); err != nil {
		return fmt.Errorf("guard: %s: %w", pin.Name(), err)
	}
	return nil
}

// throughFD is a path that leads to an open file, for calls that take no descriptor.
func throughFD(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// Pinned returns the ids of the control programs that are pinned in dir: that of the
// guard which Adopt takes up, 0 where there is none, and those of what Tidy removes. What
// another guard than the caller's refuses to it is not among them.
func Pinned(dir string) (adopted uint32, others []uint32, err error) {
	root, err := openPlace(dir)
	if elsewhere(err) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	defer root.Close()
	newest, err := newest(root)
	if err != nil {
		return 0, nil, err
	}
	for _, prefix := range []string{"set-", "stage-"} {
		all, err := numbered(root, prefix)
		if err != nil {
			return 0, nil, err
		}
		for n, name := range all {
			id, err := controlOf(root, name)
			switch {
			case elsewhere(err), errors.Is(err, fs.ErrPermission):
			case err != nil:
				return 0, nil, err
			case prefix == "set-" && n == newest:
				adopted = id
			default:
				others = append(others, id)
			}
		}
	}
	return adopted, others, nil
}

// controlOf returns the id of the control program of a set.
func controlOf(root *os.File, set string) (id uint32, err error) {
	s, err := openIn(root, set, unix.O_DIRECTORY)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return id, pinned(s, filepath.Join("programs", controlProgram), func(path string) error {
		p, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return err
		}
		defer p.Close()
		info, err := p.Info()
		if err != nil {
			return err
		}
		number, _ := info.ID()
		id = uint32(number)
		return nil
	})
}

// rename gives a set in a guard's directory another name.
func rename(place *os.File, from, to string) error {
	if err := unix.Renameat(int(place.Fd()), from, int(place.Fd()), to); err != nil {
		return fmt.Errorf("guard: %s: %w", filepath.Join(place.Name(), from), err)
	}
	return nil
}

// remove removes a set from a guard's directory, what is in force first: its floor, then its
// links.
func remove(place *os.File, name string) error {
	set, err := openIn(place, name, unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer set.Close()
	err = end(set)
	for _, sub := range []string{floorDir, "links", "programs", "maps"} {
		if err != nil {
			break // as long as there are links, what changes the guard is needed
		}
		err = removeAll(set, sub)
	}
	if err == nil {
		err = unlink(place, name, unix.AT_REMOVEDIR)
	}
	return stays(err, filepath.Join(place.Name(), name))
}

// stays adds to why a set could not be removed what to do about that: what is mounted in
// there is in the way, or nothing can be written, or there is a remedy already.
func stays(err error, set string) error {
	for _, errno := range []error{unix.EBUSY, unix.ENOTEMPTY, unix.EXDEV, unix.ELOOP} {
		if errors.Is(err, errno) {
			return remedy.With(err, "unmount what is below %s (findmnt), and the next that is armed removes it", set)
		}
	}
	if remedy.Of(err) != "" {
		return err
	}
	return remedy.With(err, "see that %s can be written (findmnt -T %[1]s), and the next that is armed removes it", filepath.Dir(set))
}

// end has a set decide nothing any more, and then takes its floor away: whoever dies
// while the rest is removed leaves nothing that does not know the next hornetd.
func end(set *os.File) error {
	_ = pinned(set, filepath.Join("programs", controlProgram), func(path string) error {
		p, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return err
		}
		defer p.Close()
		return (&Guard{programs: map[string]*ebpf.Program{controlProgram: p}}).SetMode(Off, 0)
	}) // to whom that is refused the rest is, too
	return endFloor(set)
}

// removeAll removes what has a name in a directory, with all that is in it.
func removeAll(dir *os.File, name string) error {
	d, err := openIn(dir, name, unix.O_DIRECTORY)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTDIR):
		return unlink(dir, name, 0)
	case err != nil:
		return err
	}
	defer d.Close()
	all, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	var errs []error
	for _, name := range all {
		errs = append(errs, removeAll(d, name))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return unlink(dir, name, unix.AT_REMOVEDIR)
}

func unlink(dir *os.File, name string, flags int) error {
	err := unix.Unlinkat(int(dir.Fd()), name, flags)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("guard: %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return nil
}
