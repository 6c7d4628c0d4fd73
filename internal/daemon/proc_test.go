package daemon

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// errNoPlace is that the kernel mounts nothing there.
var errNoPlace = errors.New("nothing is mounted there")

// In a mount namespace that somebody else has made.
func TestGenuineProc(t *testing.T) {
	testenv.RequireRoot(t)
	if err := genuineProc(); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("/proc/%d", os.Getpid())
	for what, do := range map[string]func() error{
		"a tmpfs":                      func() error { return unix.Mount("tmpfs", "/proc", "tmpfs", 0, "") },
		"a process's directory":        func() error { return unix.Mount("/proc/1", "/proc", "", unix.MS_BIND, "") },
		"a tmpfs for hornetd's own":    func() error { return unix.Mount("tmpfs", own, "tmpfs", 0, "") },
		"another process for hornetd":  func() error { return unix.Mount("/proc/1", own, "", unix.MS_BIND, "") },
		"something over descriptors":   func() error { return unix.Mount("/proc/1/fd", own+"/fd", "", unix.MS_BIND, "") },
		"something over the cgroup":    func() error { return unix.Mount("/proc/1/cgroup", own+"/cgroup", "", unix.MS_BIND, "") },
		"something over a description": func() error { return unix.Mount("/proc/1/fdinfo", own+"/fdinfo", "", unix.MS_BIND, "") },
		"another executable": func() error {
			tree, err := unix.OpenTree(unix.AT_FDCWD, "/bin/true", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err != nil {
				return err
			}
			defer unix.Close(tree)
			if err = unix.MoveMount(tree, "", unix.AT_FDCWD, own+"/exe", unix.MOVE_MOUNT_F_EMPTY_PATH); err == nil {
				return nil
			}
			return fmt.Errorf("%w: %w", errNoPlace, err)
		},
	} {
		result := make(chan error)
		go func() {
			runtime.LockOSThread() // for ever: the namespace ends with the thread
			if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), do()); errors.Is(err, errNoPlace) {
				t.Logf("%s: the kernel does not let it: %v", what, err)
				result <- nil
				return
			} else if err != nil {
				result <- fmt.Errorf("not tried: %w", err)
				return
			}
			if genuineProc() == nil {
				result <- errors.New("taken for the kernel's")
				return
			}
			result <- nil
		}()
		if err := <-result; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
