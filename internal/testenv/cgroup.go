package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var cgroups atomic.Uint32

// Cgroup makes an empty cgroup directly below the cgroup2 mount and returns its
// absolute path. Whatever still runs in it when the test ends is killed.
func Cgroup(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	dir := filepath.Join(CgroupRoot(t), fmt.Sprintf("hornet-test-%d-%d", os.Getpid(), cgroups.Add(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeCgroup(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// CgroupRoot returns where cgroup2 is mounted on this host.
func CgroupRoot(t testing.TB) string {
	t.Helper()
	points, err := mountPoints("cgroup2")
	if err != nil {
		t.Fatal(err)
	}
	if len(points) == 0 {
		t.Fatal("cgroup2 is not mounted")
	}
	return points[0]
}

// CgroupCommand returns a command that starts inside the cgroup at dir.
func CgroupCommand(t testing.TB, dir, name string, args ...string) *exec.Cmd {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	return cmd
}

// removeCgroup kills what runs in a cgroup and its children, and removes them.
// A killed process leaves its cgroup a little after it is gone from /proc.
func removeCgroup(dir string) error {
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	var err error
	for range 500 {
		children, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
		for _, c := range children {
			_ = removeCgroup(filepath.Dir(c))
		}
		err = os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}
