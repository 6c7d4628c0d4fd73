package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// woken waits for a hint, and then until there are no more.
func (h *hints) woken(t *testing.T, what string) {
	t.Helper()
	select {
	case <-h.wake:
	case <-time.After(time.Minute):
		t.Fatalf("%s: no hint", what)
	}
	for {
		select {
		case <-h.wake:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

// TestLostMessagesAreHints: where the kernel's buffer is full, that itself wakes,
// and what comes later does too.
func TestLostMessagesAreHints(t *testing.T) {
	testenv.RequireRoot(t)
	netns := testenv.Netns(t)
	t.Run("netlink", func(t *testing.T) {
		var fds [2]int // the first one shows what the second one would say
		for i := range fds {
			err := testenv.InNetns(t, netns, func() (err error) {
				fds[i], err = listenLinks()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.SetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			testenv.IP(t, netns, "link", "set", "lo", "alias", fmt.Sprint("a", i))
		}
		n, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_ERROR)
		if unix.Close(fds[0]); err != nil || unix.Errno(n) != unix.ENOBUFS {
			t.Fatalf("the buffer is not full: %d, %v", n, err)
		}
		fd := fds[1]
		h := &hints{wake: make(chan struct{}, 1), links: os.NewFile(uintptr(fd), "netlink")}
		h.listen(h.links, func([]byte) {})
		defer h.close()
		h.woken(t, "lost messages")
		testenv.IP(t, netns, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
		h.woken(t, "an interface that came later")
	})
	t.Run("inotify", func(t *testing.T) {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		h := &hints{wake: make(chan struct{}, 1), watched: map[string][]int32{}, files: os.NewFile(uintptr(fd), "inotify")}
		dir := t.TempDir()
		h.aim("a", []string{dir, filepath.Join(dir, "no such")})
		b, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		fmt.Sscan(string(b), &most)
		touch := func(i int) {
			name := filepath.Join(dir, fmt.Sprint(i))
			if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Remove(name)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range most/2 + 10 {
			touch(i)
		}
		h.listen(h.files, func([]byte) {})
		defer h.close()
		h.woken(t, "an overflow")
		touch(0)
		h.woken(t, "a file that came later")

		// What is aimed at no more is not watched, by the kernel's word: a hint of what
		// was before may be on its way still.
		other := t.TempDir()
		h.aim("a", []string{other})
		if got, want := watched(t, fd), []uint64{inode(t, other)}; !slices.Equal(got, want) {
			t.Errorf("watched are the inodes %v, want %v", got, want)
		}
	})
}

// watched are the inodes that an inotify descriptor watches, proc_pid_fdinfo(5).
func watched(t *testing.T, fd int) (all []uint64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var wd, ino uint64
		if n, _ := fmt.Sscanf(line, "inotify wd:%x ino:%x", &wd, &ino); n == 2 {
			all = append(all, ino)
		}
	}
	return all
}

func inode(t *testing.T, name string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// TestDeparted: the number of an interface that went is known, and a port that
// leaves its bridge has not gone.
func TestDeparted(t *testing.T) {
	netns := testenv.Netns(t)
	var h *hints
	if err := testenv.InNetns(t, netns, func() (err error) {
		h, err = newHints()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer h.close()
	testenv.IP(t, netns, "link", "add", "br0", "index", "70", "type", "bridge")
	testenv.IP(t, netns, "link", "add", "veth0", "index", "71", "type", "veth", "peer", "name", "veth1", "index", "72")
	testenv.IP(t, netns, "link", "set", "veth0", "master", "br0")
	testenv.IP(t, netns, "link", "set", "veth0", "nomaster")
	testenv.IP(t, netns, "link", "del", "br0")
	gone := map[int]bool{}
	for end := time.Now().Add(time.Minute); !gone[70] && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for i := range h.departed() {
			gone[i] = true
		}
	}
	if len(gone) != 1 || !gone[70] {
		t.Errorf("%v went, want 70", gone)
	}
}

// TestPinsSendHints: the kernel tells of pins that come and go, as of files.
func TestPinsSendHints(t *testing.T) {
	dir := testenv.BPFFS(t)
	h, err := newHints()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	h.aim("a", []string{dir})
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.woken(t, "a directory")
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	h.woken(t, "a directory that went")
}
