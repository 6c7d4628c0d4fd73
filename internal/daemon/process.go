package daemon

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/names"
	pidfds "github.com/hornetd/hornetd/internal/pidfd"
	"github.com/hornetd/hornetd/policy"
)

// peerProcess returns a descriptor of the process that connected, or -1 where the
// kernel has none to give. Any other error means that the peer must be refused.
//
// Source: SO_PEERPIDFD in net/core/sock.c and pidfd_prepare in kernel/fork.c.
func peerProcess(fd int) (pidfd int, err error) {
	pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return -1, withoutProcess(err)
	}
	return pidfd, nil
}

// withoutProcess returns nil for the errors with which the kernel says that there
// is no descriptor of the process, which is then nobody that a rule about units or
// executables is about; who the user is, the kernel knows without it.
func withoutProcess(err error) error {
	switch {
	case errors.Is(err, unix.ENOPROTOOPT): // before Linux 6.5
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESRCH):
		// It ended and was waited for: EINVAL up to 6.14, ESRCH in 6.15; later
		// kernels give a descriptor that says so.
		return nil
	}
	return err
}

// processFacts reads the unit and the executable of a process from /proc, where it
// has a number that another process may get. They count only if the process lived
// after they were read: until then the number was its own.
func processFacts(pidfd int) (unit string, exe policy.File) {
	pid, err := pidfds.Number(pidfd)
	if err != nil {
		return "", policy.File{}
	}
	dir := "/proc/" + strconv.Itoa(pid)
	if b, err := os.ReadFile(dir + "/cgroup"); err == nil {
		unit = unitOf(string(b))
	}
	// Another user's needs CAP_SYS_PTRACE, which hornetd has not in its unit.
	if path, err := os.Readlink(dir + "/exe"); err == nil {
		exe, _ = names.File(dir + "/exe")
		exe.Path = path
	}
	if !pidfds.Alive(pidfd) {
		return "", policy.File{}
	}
	return unit, exe
}
