package testenv

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// Tracefs returns the path of a tracefs mount, /sys/kernel/tracing.
//
// Where there is one already, of the host or of another test process, it is
// bound onto itself: mounts stack, and each test takes away one layer, so that
// the one that ends first does not pull the filesystem from under the others.
func Tracefs(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	const dir = "/sys/kernel/tracing"
	for {
		err := unix.Mount("tracefs", dir, "tracefs", 0, "")
		if errors.Is(err, unix.EBUSY) {
			err = unix.Mount(dir, dir, "", unix.MS_BIND, "")
		}
		if err != nil {
			t.Fatalf("mount tracefs on %s: %v", dir, err)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		if fs.Type == unix.TRACEFS_MAGIC {
			break
		}
		// The last one went between the two mounts: sysfs was bound.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}
