package testenv

import (
	"fmt"
	"os"
	"testing"
)

// bpffsPrefix starts the name of every directory BPFFS mounts on; the pid of
// the test process follows. NoLeaks tells by it whose pins it sees.
const bpffsPrefix = "hornet-bpffs-"

// BPFFS mounts a bpffs of mode 0700 on a new directory and returns its path.
// The mount, and with it every pin, goes when the test ends.
func BPFFS(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	dir := tempDir(t, fmt.Sprintf("%s%d-*", bpffsPrefix, os.Getpid()))
	mount(t, "bpf", dir, "mode=0700")
	return dir
}

// tempDir makes a directory that is removed when the test ends. Unlike
// t.TempDir it is never removed recursively: should an unmount fail, the
// contents of the mount stay untouched.
func tempDir(t testing.TB, pattern string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
