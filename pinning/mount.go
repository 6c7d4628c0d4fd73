package pinning

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Mount mounts a bpffs with mode 0700 at path, which is made if only its last
// component is missing, and reports whether it did: a path that already is on
// a bpffs is left as it is. It refuses a directory that others than root own
// or can write (ErrUnsafeRoot), one on which something else is mounted
// (ErrNotBPFFS) and one that is not empty.
//
// What is pinned there lives as long as the mount: see Unmount.
func Mount(path string) (mounted bool, err error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%s: make mount point: %w", path, err)
		return false, remedy.With(err, "make %s first", filepath.Dir(path))
	}
	d, err := openPath(path)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	defer d.close()
	if st, err := d.statfs(); err != nil || isBPFFS(st) {
		return false, err
	}
	if err := mountable(d, path); err != nil {
		return false, err
	}
	// Through the descriptor: what was checked is what is mounted on.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("bpf", d.path("."), "bpf", flags, "mode=0700"); err != nil {
		return false, fmt.Errorf("%s: mount bpffs: %w", path, err)
	}
	return true, nil
}

// mountable refuses a directory that a bpffs must not be mounted on.
func mountable(d dir, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		err := fmt.Errorf("%s: %w: owner %d, mode %04o", path, ErrUnsafeRoot, st.Uid, st.Mode&0o7777)
		return remedy.With(err, "give it to root with mode 0700, or name another path in paths.bpffs")
	}
	isMount, err := mountRoot(d)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if isMount {
		err := fmt.Errorf("%s: %w, and something else is mounted there", path, ErrNotBPFFS)
		return remedy.With(err, "unmount it, or name another path in paths.bpffs")
	}
	names, err := d.list(".")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(names) > 0 {
		err := fmt.Errorf("%s: not empty: a mount would hide %q", path, names[0].name)
		return remedy.With(err, "name an empty directory in paths.bpffs")
	}
	return nil
}

// mountRoot reports whether d is the root of a mount (statx, Linux 5.8).
func mountRoot(d dir) (bool, error) {
	var st unix.Statx_t
	err := uninterrupted(func() error {
		return unix.Statx(d.fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st)
	})
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, err
}

// Unmount unmounts the bpffs at path. Everything pinned there and held by
// nobody else stops running. Close the Store and its Entries first: a mount
// that is in use is refused, not unmounted lazily, because its links would go
// on running where nobody can see them.
func Unmount(path string) error {
	d, err := openPath(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	isMount, merr := mountRoot(d)
	ferr := checkFS(d, path)
	d.close() // before the unmount: it would count as use
	switch {
	case merr != nil:
		return fmt.Errorf("%s: %w", path, merr)
	case ferr != nil:
		return ferr
	case !isMount:
		return fmt.Errorf("%s: a directory of a bpffs, not where it is mounted", path)
	}
	err = retryBusy(func() error { return unix.Unmount(path, unix.UMOUNT_NOFOLLOW) })
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%s: unmount: %w", path, err)
		return remedy.With(err, "end what uses it (fuser -vm %s)", path)
	}
	if err != nil {
		return fmt.Errorf("%s: unmount: %w", path, err)
	}
	return nil
}

// retryBusy repeats f for up to 100 ms while the kernel is still letting go of
// descriptors that were just closed.
func retryBusy(f func() error) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := uninterrupted(f)
		if !errors.Is(err, unix.EBUSY) || wait > 64*time.Millisecond {
			return err
		}
		time.Sleep(wait)
	}
}
