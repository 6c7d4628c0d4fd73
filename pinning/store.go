package pinning

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

var (
	// ErrExist is returned for a name that is already committed.
	ErrExist = fs.ErrExist
	// ErrNotExist is returned for a name or pin that is not there.
	ErrNotExist = fs.ErrNotExist
	// ErrNotBPFFS is returned by Open and Mount for a path on another file system.
	ErrNotBPFFS = errors.New("not a bpffs")
	// ErrUnsafeRoot is returned by Open and Mount for a directory that others
	// than root own or can reach.
	ErrUnsafeRoot = errors.New("unsafe directory")
	// ErrLocked is returned by Open while another Store has the root.
	ErrLocked = errors.New("locked by another owner")
	// ErrCorrupt is returned by Store.Load for a directory that is no
	// collection of ours as we would have written it.
	ErrCorrupt = errors.New("not as hornetd writes it")
	// ErrNewerRecord is returned by Store.Load for a record of a later format.
	// Such a collection is to be left alone: a newer hornetd made it.
	ErrNewerRecord = errors.New("record of a newer hornetd")
	// ErrLeftBehind is returned by changes that are in force although something
	// of the old remains: pins in a stage, which the next Sweep removes, or a
	// link that another process holds.
	ErrLeftBehind = errors.New("left behind")
)

// Unanswered reports whether err says only that the kernel did not tell: nothing
// follows from it about what was asked for.
func Unanswered(err error) bool {
	return slices.ContainsFunc([]error{errNoInfo, unix.ENOMEM, unix.ENOSPC, unix.EMFILE, unix.ENFILE, unix.EIO, unix.EPERM, unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.EXDEV},
		func(errno error) bool { return errors.Is(err, errno) })
}

// Store is the root directory of all collections, held and locked.
type Store struct {
	root string // for messages only
	dir  dir
}

// Open takes the store at root, an absolute path of a bpffs directory that is
// owned by root, with mode 0700. A directory that does not exist is made where
// its parent is a bpffs. Open returns ErrNotBPFFS, ErrUnsafeRoot and ErrLocked;
// Close releases the lock.
func Open(root string) (*Store, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("bpffs root %q: not an absolute path", root)
	}
	root = filepath.Clean(root)
	d, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root, d}
	if err := errors.Join(s.check(), s.lock()); err != nil {
		d.close()
		return nil, err
	}
	return s, nil
}

// openRoot opens root, made first where that is safe.
func openRoot(root string) (dir, error) {
	d, err := openPath(root)
	switch {
	case err == nil:
		return d, nil
	case noDir(err):
		err := fmt.Errorf("%s: %w: a file or a symbolic link, not a directory", root, ErrUnsafeRoot)
		return dir{}, remedy.With(err, "name the directory itself in paths.bpffs, or remove what lies there")
	case !errors.Is(err, unix.ENOENT):
		return dir{}, fmt.Errorf("%s: %w", root, err)
	}

	parent, base := filepath.Split(root)
	p, err := openPath(filepath.Clean(parent))
	if err != nil {
		err = fmt.Errorf("%s: parent directory: %w", root, err)
		return dir{}, remedy.With(err, "make %s, or name another root in paths.bpffs", filepath.Clean(parent))
	}
	defer p.close()
	if err := checkFS(p, root); err != nil {
		return dir{}, err
	}
	// Whoever made the directory in between is found out by its owner and mode.
	if err := p.mkdir(base); err != nil && !errors.Is(err, unix.EEXIST) {
		return dir{}, fmt.Errorf("%s: make directory: %w", root, err)
	}
	if d, err = p.open(base); err != nil {
		return dir{}, fmt.Errorf("%s: %w", root, err)
	}
	return d, nil
}

// check refuses a root that is not a writable bpffs, or that others reach.
func (s *Store) check() error {
	if err := checkFS(s.dir, s.root); err != nil {
		return err
	}
	var st, parent unix.Stat_t
	if err := unix.Fstat(s.dir.fd, &st); err != nil {
		return fmt.Errorf("%s: %w", s.root, err)
	}
	if st.Uid != 0 {
		err := fmt.Errorf("%s: %w: owned by uid %d, not by root", s.root, ErrUnsafeRoot, st.Uid)
		return remedy.With(err, "remove it (rmdir %s) and start hornetd again, or name another root in paths.bpffs", s.root)
	}
	// The kernel makes the root of every bpffs mount sticky (bpf_fill_super),
	// which means nothing where only root can write.
	if mode := st.Mode & 0o7777; mode&^unix.S_ISVTX != 0o700 {
		err := fmt.Errorf("%s: %w: mode %04o, want 0700", s.root, ErrUnsafeRoot, mode)
		return remedy.With(err, "look at what is in it, then chmod 0700 %s", s.root)
	}
	if err := unix.Fstatat(s.dir.fd, "..", &parent, 0); err != nil {
		return fmt.Errorf("%s: parent directory: %w", s.root, err)
	}
	// A mount point cannot be renamed away; a plain directory can, by whoever
	// may write its parent.
	if parent.Dev == st.Dev && !safeParent(parent) {
		err := fmt.Errorf("%s: %w: uid %d or others can rename it (parent directory has mode %04o)",
			s.root, ErrUnsafeRoot, parent.Uid, parent.Mode&0o7777)
		return remedy.With(err, "give %s to root with mode 0700 or 1777", filepath.Dir(s.root))
	}
	return nil
}

// safeParent reports whether only root can rename root's entries of a directory.
func safeParent(st unix.Stat_t) bool {
	return st.Uid == 0 && (st.Mode&0o022 == 0 || st.Mode&unix.S_ISVTX != 0)
}

// checkFS refuses a directory that is not on a writable bpffs.
func checkFS(d dir, path string) error {
	st, err := d.statfs()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !isBPFFS(st) {
		err := fmt.Errorf("%s: %w (magic 0x%x)", path, ErrNotBPFFS, uint32(st.Type))
		return remedy.With(err, "mount one (mount -t bpf bpf /sys/fs/bpf), or set paths.mount_bpffs = true")
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		err := fmt.Errorf("%s: %w", path, unix.EROFS)
		return remedy.With(err, "remount it (mount -o remount,rw …); in a unit, look for ProtectKernelTunables= and ReadOnlyPaths=")
	}
	return nil
}

func isBPFFS(st unix.Statfs_t) bool { return uint32(st.Type) == unix.BPF_FS_MAGIC }

// Directory is fstat(2) of the one that it holds.
func (s *Store) Directory() (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.dir.fd, &st); err != nil {
		return st, fmt.Errorf("%s: %w", s.root, err)
	}
	return st, nil
}

// Close releases the lock. What is pinned goes on running.
func (s *Store) Close() error { return s.dir.close() }

// Reachable returns an error if the root's path no longer leads to what the
// Store holds: something was mounted over it, or it was unmounted, in which
// case all pins go when the daemon does.
func (s *Store) Reachable() error {
	var held, there unix.Stat_t
	if err := unix.Fstat(s.dir.fd, &held); err != nil {
		return fmt.Errorf("%s: %w", s.root, err)
	}
	err := unix.Lstat(s.root, &there)
	if err == nil && (held.Dev != there.Dev || held.Ino != there.Ino) {
		err = errors.New("another directory lies there now")
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", s.root, err)
		return remedy.With(err, "take away what was mounted over it; if the bpffs was unmounted, restart hornetd to load everything again")
	}
	return nil
}
