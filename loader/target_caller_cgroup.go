package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// pathOf returns the path, below the host's mount of cgroup2, of the cgroup that a
// caller shows f of. The one that the kernel keeps for f is that of the caller's mounts:
// whatever they bound it to, which here may be a filesystem that is a program of theirs.
// So the same directory must be found from the host's mount, by that path or else by
// its handle.
//
// Source: open_by_handle_at(2), openat2(2).
func pathOf(f *os.File) (string, error) {
	mount, err := cgroup2()
	if err != nil {
		return "", err
	}
	if name, err := nameOf(int(f.Fd())); err == nil && leadsTo(mount, name, f) {
		return name, nil
	}
	root, err := unix.Open(mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // with O_PATH it would not do
	if err != nil {
		return "", fmt.Errorf("%s: %w", mount, err)
	}
	defer unix.Close(root)
	handle, _, err := unix.NameToHandleAt(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return "", fmt.Errorf("cgroup: handle: %w", err)
	}
	fd, err := unix.OpenByHandleAt(root, handle, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) {
		return "", remedy.With(changedHands{errors.New("the cgroup is gone"), ErrEnded}, "show one that is there")
	}
	if err != nil {
		return "", remedy.With(fmt.Errorf("the cgroup is not to be found below %s by its handle: %w", mount, err),
			"open it below %s, as the host's mounts are; or have hornetd run with CAP_DAC_READ_SEARCH, as its unit does", mount)
	}
	defer unix.Close(fd)
	name, err := nameOf(fd)
	if err != nil {
		return "", err
	}
	if !leadsTo(mount, name, f) {
		return "", remedy.With(fmt.Errorf("the cgroup is not to be found below %s", mount), "show one that is there")
	}
	return name, nil
}

// nameOf returns what the kernel calls an open directory.
func nameOf(fd int) (string, error) { return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)) }

// leadsTo reports whether name is a path below mount to the directory f.
func leadsTo(mount, name string, f *os.File) bool {
	found, err := below(mount, name)
	if err != nil {
		return false
	}
	defer found.Close()
	var want, got unix.Stat_t
	err = errors.Join(unix.Fstat(int(f.Fd()), &want), unix.Fstat(int(found.Fd()), &got))
	return err == nil && want.Ino == got.Ino && want.Dev == got.Dev
}

// below opens the directory name of cgroup2, which is mounted on mount. No symbolic
// link and no other mount is passed, so that no other filesystem is asked. The error is
// absent where there is none.
func below(mount, name string) (*os.File, error) {
	rel, ok := strings.CutPrefix(name, strings.TrimSuffix(mount, "/")+"/")
	if !ok || !filepath.IsLocal(rel) {
		return nil, absent{fmt.Errorf("%s is not below %s", name, mount)}
	}
	root, err := unix.Open(mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mount, err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENODEV):
		return nil, absent{fmt.Errorf("there is no cgroup %s", name)}
	case err != nil:
		return nil, fmt.Errorf("cgroup %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		f.Close()
		return nil, notCgroup(name)
	}
	return f, nil
}

// callersCgroup opens the cgroup that was a caller's. The error is absent where it is
// gone, whatever has its path.
func (t Target) callersCgroup() (*os.File, error) {
	mount, err := cgroup2()
	if err != nil {
		return nil, err
	}
	f, err := below(mount, t.Cgroup)
	if err != nil {
		return nil, err
	}
	if id, err := inodeOf(f); err != nil || id != t.CgroupID {
		f.Close()
		return nil, changed("the cgroup")
	}
	return f, nil
}
