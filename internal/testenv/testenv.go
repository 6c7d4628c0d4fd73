// Package testenv makes what a kernel test needs and takes it away again: a
// bpffs, a cgroup, network namespaces with a veth pair, tracefs, and a check
// that no BPF object is left behind.
//
// Everything is private to the test: no real interface, no existing cgroup and
// no host mount is touched, and t.Cleanup undoes it also when the test fails.
package testenv

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// RequireRoot skips t unless it runs as root. Under CI=true a test that cannot
// run is a failure: a machine set up to test must test.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const reason = "needs root: loads and attaches eBPF programs"
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// mount mounts a filesystem of type fstype on dir until the test ends.
func mount(t testing.TB, fstype, dir, options string) {
	t.Helper()
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(fstype, dir, fstype, flags, options); err != nil {
		t.Fatalf("mount %s on %s: %v", fstype, dir, err)
	}
	t.Cleanup(func() {
		// Detached, not unmounted: a test that failed may still hold files.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}
