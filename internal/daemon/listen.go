package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Listen makes the API socket at path with the given mode and group. The
// socket never has wider access than asked for, not even for a moment: it is
// bound with mode 0 and opened up last. A socket file that nobody serves is
// replaced; one that answers is left alone and refused.
func Listen(path string, mode os.FileMode, group string) (*net.UnixListener, error) {
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	if err := makeSocketDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}

	old := unix.Umask(0o777)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Lchown(path, 0, gid); err != nil {
		l.Close()
		return nil, fmt.Errorf("socket %s: owner: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("socket %s: mode: %w", path, err)
	}
	return l, nil
}

// makeSocketDir makes the last directory of the socket's path where it is
// missing. Everybody may pass through it: the socket's own mode decides.
func makeSocketDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) // the umask took the bits away
	}
	if err != nil {
		return fmt.Errorf("socket directory: %w", err)
	}
	return nil
}

func groupID(name string) (int, error) {
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, remedy.With(fmt.Errorf("socket group %q: no such group", name),
			"make it with groupadd --system %s, or name another one in [api] group of hornetd.toml", name)
	}
	return strconv.Atoi(g.Gid)
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return remedy.With(fmt.Errorf("socket %s: a %s is in the way", path, kindOf(info.Mode())),
			"remove it, or name another path in [api] socket of hornetd.toml")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return remedy.With(fmt.Errorf("socket %s: in use by another process", path),
			"stop that process, or name another path in [api] socket of hornetd.toml")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	if err := removeSocket(path); err != nil {
		return fmt.Errorf("stale socket: %w", err)
	}
	return nil
}

// removeSocket removes a socket and nothing else. What is a directory of pins meanwhile has
// none in it.
func removeSocket(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), filepath.Base(path), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return remedy.With(fmt.Errorf("%s: it is a socket no more", path), "see who put it there, and take it away")
	}
	if err := unix.Unlinkat(int(dir.Fd()), filepath.Base(path), 0); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m.IsRegular():
		return "regular file"
	default:
		return "file of another kind"
	}
}
