package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// hints wakes whoever looks after what runs when something may have changed: an
// interface (netlink), a pin, a cgroup or the file of a network namespace
// (inotify). What the kernel says is read and thrown away: it only says that it
// is time to look, and looking tells what is so. A message that was lost because
// the kernel's buffer was full (ENOBUFS, IN_Q_OVERFLOW) is therefore a hint like
// any other.
type hints struct {
	wake    chan struct{} // of one: many hints are one
	links   *os.File      // nil where there is none
	files   *os.File
	watched map[string][]int32 // by what they are watched for
	readers sync.WaitGroup

	mu   sync.Mutex
	gone map[int]bool // numbers of interfaces that went
}

// newHints opens both sources. On error it returns what works, which may be
// nothing.
func newHints() (*hints, error) {
	h := &hints{wake: make(chan struct{}, 1), watched: map[string][]int32{}, gone: map[int]bool{}}
	links, err := listenLinks()
	if err != nil {
		err = fmt.Errorf("netlink: no word of interfaces that come and go: %w", err)
	} else {
		h.links = os.NewFile(uintptr(links), "netlink")
		h.listen(h.links, h.departs)
	}
	files, e := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if e != nil {
		return h, errors.Join(err, fmt.Errorf("inotify: no word of cgroups and pins that come and go: %w", e))
	}
	h.files = os.NewFile(uintptr(files), "inotify")
	h.listen(h.files, func([]byte) {})
	return h, err
}

// listenLinks opens a socket that gets a message when an interface of this
// network namespace comes, changes or goes.
func listenLinks() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listen wakes for whatever can be read from f, and whenever it cannot be read,
// until f is closed. hear gets what was read.
func (h *hints) listen(f *os.File, hear func([]byte)) {
	h.readers.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := f.Read(buf)
			if errors.Is(err, os.ErrClosed) || n == 0 && err == nil {
				return
			}
			if err == nil {
				hear(buf[:n])
			}
			select {
			case h.wake <- struct{}{}:
			default:
			}
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return // the pulse goes on
			}
		}
	})
}

// departs notes which interfaces went, by what the kernel sent. A port that leaves
// its bridge sends the same message, of another family.
func (h *hints) departs(b []byte) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range msgs {
		// struct ifinfomsg: family in the first byte, the number in the fifth to eighth.
		if m.Header.Type == unix.RTM_DELLINK && len(m.Data) >= unix.SizeofIfInfomsg && m.Data[0] == unix.AF_UNSPEC && len(h.gone) < mostGone {
			h.gone[int(int32(binary.NativeEndian.Uint32(m.Data[4:])))] = true
		}
	}
}

// mostGone bounds what is remembered between two looks.
const mostGone = 4096

// departed returns the numbers of the interfaces that went since it was asked last.
func (h *hints) departed() map[int]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := h.gone
	h.gone = map[int]bool{}
	return gone
}

// changes are the events of a directory in which a name comes or goes.
const changes = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_ONLYDIR

// aim makes dirs the directories that are watched for what is called name. One
// that cannot be is left to the pulse. No directory is watched for two names.
func (h *hints) aim(name string, dirs []string) {
	if h.files == nil {
		return
	}
	raw, err := h.files.SyscallConn() // not Fd, which would make it block
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		var now []int32
		for _, dir := range dirs {
			// The kernel returns the same number for a directory that is watched.
			if wd, err := unix.InotifyAddWatch(int(fd), dir, changes); err == nil {
				now = append(now, int32(wd))
			}
		}
		for _, wd := range h.watched[name] {
			if !slices.Contains(now, wd) {
				unix.InotifyRmWatch(int(fd), uint32(wd)) // or it went with its directory
			}
		}
		h.watched[name] = now
		if len(now) == 0 {
			delete(h.watched, name)
		}
	})
}

// close ends both sources and waits for their readers.
func (h *hints) close() {
	for _, f := range []*os.File{h.links, h.files} {
		if f != nil {
			f.Close()
		}
	}
	h.readers.Wait()
}
