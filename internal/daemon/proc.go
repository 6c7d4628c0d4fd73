package daemon

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// genuineProc returns nil if /proc, and what hornetd looks up of itself in there, is the
// kernel's. By it hornetd names its descriptors to bpf(2) and the program that it executes,
// and root may have made the mount namespace that hornetd is in. What is mounted there
// later the guard refuses.
func genuineProc() error {
	strange := func(err error) error {
		return remedy.With(fmt.Errorf("guard: /proc is not the kernel's: %w", err), "see who mounted what there, in hornetd's mount namespace, and take it away")
	}
	// Not os.Open: the confined parser, which asks too, has no descriptor of a poller yet.
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return strange(err)
	}
	defer unix.Close(proc)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(proc, &fs); err != nil {
		return strange(err)
	}
	if err := unix.Fstat(proc, &st); err != nil {
		return strange(err)
	}
	const root = 1 // PROC_ROOT_INO
	if fs.Type != unix.PROC_SUPER_MAGIC || st.Ino != root {
		return strange(fmt.Errorf("file system 0x%x, inode %d", fs.Type, st.Ino))
	}
	for _, name := range []string{"self/fd", "self/fdinfo", "thread-self/fd", "self/cgroup", "self/exe"} { // links, too, can be mounted on
		fd, err := unix.Openat2(proc, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
		if err != nil {
			return strange(fmt.Errorf("/proc/%s: %w", name, err))
		}
		unix.Close(fd)
	}
	return nil
}

// StartedThis reports whether hornetd is the parent of this process, which has one of the
// names of its children. If it has ended, the first process is; and so it is of what another
// has started under such a name, which a guard takes for hornetd itself. In a container
// hornetd may be the first process.
func StartedThis() bool {
	if os.Getppid() != 1 {
		return true
	}
	if genuineProc() != nil {
		return false
	}
	first, err := os.Stat("/proc/1/exe")
	if err != nil {
		return false
	}
	own, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(first, own)
}
