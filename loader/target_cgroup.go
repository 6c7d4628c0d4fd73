package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// openCgroup opens a directory of the cgroup2 hierarchy. name is absolute, or
// below the place where cgroup2 is mounted.
func openCgroup(name string) (*os.File, error) {
	path := name
	if !filepath.IsAbs(name) {
		root, err := cgroup2()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(root, name)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, remedy.With(absent{fmt.Errorf("there is no cgroup %s", path)},
			"make it first (systemd does when it starts the unit), or correct the path")
	case errors.Is(err, unix.ENOTDIR):
		return nil, notCgroup(path)
	case err != nil:
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		f.Close()
		return nil, notCgroup(path)
	}
	return f, nil
}

func notCgroup(path string) error {
	return remedy.With(fmt.Errorf("%s is not a cgroup of version 2", path),
		"name a directory below a cgroup2 mount (findmnt -t cgroup2 shows them); programs do not attach to version 1")
}

// CgroupMount returns where the whole cgroup2 hierarchy is mounted.
func CgroupMount() (string, error) { return cgroup2() }

// cgroup2 returns where the whole cgroup2 hierarchy is mounted. On hosts with
// both versions that is not /sys/fs/cgroup.
func cgroup2() (string, error) {
	mounts, err := mountPoints("cgroup2")
	if err != nil {
		return "", err
	}
	if len(mounts) == 0 {
		return "", remedy.With(errors.New("cgroup2 is not mounted"),
			"mount it: mount -t cgroup2 none /sys/fs/cgroup/unified (systemd does so by itself)")
	}
	return mounts[0], nil
}

// mountPoints returns where filesystems of a type are mounted whole, not bind
// mounts of a part, in the order in which they were mounted.
func mountPoints(fstype string) ([]string, error) {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	return findMounts(string(b), fstype), nil
}

// findMounts reads mountinfo, whose format proc(5) describes.
func findMounts(mountinfo, fstype string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		// 38 31 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if ok && len(fields) >= 5 && fields[3] == "/" && strings.HasPrefix(right, fstype+" ") {
			points = append(points, octal.Replace(fields[4]))
		}
	}
	return points
}

// octal undoes the escapes of mountinfo.
var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
