package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// netns is an open network namespace.
type netns struct {
	path  string // "" is the calling thread's
	file  *os.File
	inode uint64
}

// openNetns opens the network namespace at path, "" for the own one.
func openNetns(path string) (netns, error) {
	name := path
	if name == "" {
		// Not /proc/self: that is the first thread's, which may be elsewhere.
		name = "/proc/thread-self/ns/net"
	}
	// Without O_NONBLOCK a FIFO would hold the daemon for ever.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return netns{}, remedy.With(absent{fmt.Errorf("network namespace %q does not exist", name)},
			"make it first (ip netns add NAME makes /run/netns/NAME)")
	}
	if err != nil {
		return netns{}, fmt.Errorf("network namespace: %w", err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		return netns{}, remedy.With(fmt.Errorf("%q is not a network namespace", name),
			"name a file such as /run/netns/NAME or /proc/PID/ns/net")
	}
	inode, err := inodeOf(f)
	if err != nil {
		f.Close()
		return netns{}, fmt.Errorf("network namespace %q: %w", name, err)
	}
	return netns{path, f, inode}, nil
}

// inodeOf returns the inode number of an open file.
func inodeOf(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

func (ns netns) close() { ns.file.Close() }

// String follows the name of something in ns, in messages.
func (ns netns) String() string {
	if ns.path == "" {
		return ""
	}
	return " in " + ns.path
}

// do runs fn on a thread in ns. What fn starts in other goroutines is not in ns.
func (ns netns) do(fn func() error) error {
	if ns.path == "" {
		return fn()
	}
	done := make(chan error, 1)
	go func() { done <- ns.visit(fn) }()
	return <-done
}

// visit moves the calling goroutine's thread into ns, runs fn and moves it
// back. It must have a goroutine of its own: a thread that could not be moved
// back stays locked to it, and Go ends the thread when the goroutine returns.
// Ending it always would be wrong: the process's first thread cannot be ended,
// and its namespace is the one that others see as the process's.
func (ns netns) visit(fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return remedy.With(fmt.Errorf("enter network namespace %s: %w", ns.path, err),
			"run hornetd with CAP_SYS_ADMIN")
	}
	err = fn()
	if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e == nil {
		runtime.UnlockOSThread()
	}
	return err
}
