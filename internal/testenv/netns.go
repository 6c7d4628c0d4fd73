package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Netns makes an empty network namespace with loopback up and returns its path.
func Netns(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	f, err := os.CreateTemp("", fmt.Sprintf("hornet-netns-%d-*", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	path := f.Name()
	t.Cleanup(func() { os.Remove(path) })

	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatalf("network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	IP(t, path, "link", "set", "lo", "up")
	return path
}

// InNetns runs fn in the network namespace at path. Sockets and child processes
// that fn itself makes belong to that namespace; goroutines it starts do not.
func InNetns(t testing.TB, path string, fn func() error) error {
	t.Helper()
	ns, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", path, err)
		}
		return fn()
	})
}

// IP runs ip(8) in the network namespace at path and returns what it printed.
func IP(t testing.TB, path string, args ...string) string {
	t.Helper()
	var out []byte
	err := InNetns(t, path, func() (err error) {
		out, err = exec.Command("ip", args...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// onThread runs fn on a thread of its own, whose network namespace fn may
// change. The namespace is put back afterwards, because a thread that is
// thrown away may be the process's first one, which Go parks for ever and
// whose namespace /proc/self/ns/net shows. Where it cannot be put back the
// thread stays locked, so that Go ends it with the goroutine.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = fn()
		if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e == nil {
			runtime.UnlockOSThread()
		} else if err == nil {
			err = fmt.Errorf("return to the first namespace: %w", e)
		}
		done <- err
	}()
	return <-done
}
