package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
)

// unitOf returns the unit of the system's systemd that a process is in, as
// /proc/PID/cgroup tells, or "" where that is no place at which systemd puts one.
// It is the first unit behind the slices: what is below it is delegated to it, and
// whoever owns it gives names there as they like.
//
// Source: systemd.unit(5), systemd.slice(5); cg_path_get_unit in systemd.
func unitOf(cgroups string) string {
	path, found := "", false
	for line := range strings.Lines(cgroups) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::/"); ok {
			if found {
				return ""
			}
			path, found = p, true
		}
	}
	parent := ""
	for name := range strings.SplitSeq(path, "/") {
		name = strings.TrimPrefix(name, "_") // where a file of the cgroup could have the name
		slice, ok := strings.CutSuffix(name, ".slice")
		if !ok {
			if manifest.ValidUnit(name) != nil {
				return ""
			}
			return name
		}
		if !validSlice(slice) || parent != "" && !strings.HasPrefix(slice, parent+"-") || parent == "" && strings.Contains(slice, "-") {
			return ""
		}
		parent = slice
	}
	return "" // in a slice, in no unit
}

// validSlice tells whether name, without .slice, is one: words with a single -
// between them, each of which is a level.
func validSlice(name string) bool {
	return manifest.UnitCharacters(name) && !strings.Contains(name, "@") && !strings.HasPrefix(name, "-") && !strings.HasSuffix(name, "-") && !strings.Contains(name, "--")
}

// unitOfCgroup returns the unit that the cgroup with an id is in, or "", whoever of it still
// lives. It is known where the cgroup was looked for, also if it has gone, which takes
// CAP_DAC_READ_SEARCH.
//
// Source: open_by_handle_at(2); kernfs_fh_to_dentry in fs/kernfs/mount.c.
func unitOfCgroup(id uint64) (unit string, known bool) {
	const kernfs = 0xfe // the kernel's FILEID_KERNFS
	dir, err := loader.CgroupMount()
	if err != nil {
		return "", false
	}
	mount, err := os.Open(dir)
	if err != nil {
		return "", false
	}
	defer mount.Close()
	fd, err := unix.OpenByHandleAt(int(mount.Fd()), unix.NewFileHandle(kernfs, binary.NativeEndian.AppendUint64(nil, id)), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", errors.Is(err, unix.ESTALE)
	}
	defer unix.Close(fd)
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", false
	}
	below, _ := strings.CutPrefix(path, dir)
	return unitOf("0::" + below), true
}
