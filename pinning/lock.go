package pinning

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// lock takes the root for this Store alone. The lock is on the directory
// itself: bpffs has no regular files, and locks of open file descriptions
// (fcntl) refuse directories. Mode 0700 is part of it: whoever can open the
// directory can lock it.
func (s *Store) lock() error {
	err := uninterrupted(func() error { return unix.Flock(s.dir.fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		err := fmt.Errorf("%s: %w%s", s.root, ErrLocked, s.lockHolder())
		return remedy.With(err, "stop the other hornetd, or give this one a root of its own in paths.bpffs")
	}
	if err != nil {
		return fmt.Errorf("%s: lock: %w", s.root, err)
	}
	return nil
}

// lockHolder returns " (pid N)" where /proc/locks tells who has the lock.
//
//	1: FLOCK  ADVISORY  WRITE 22177 00:27:1 0 EOF
func (s *Store) lockHolder() string {
	var st unix.Stat_t
	if unix.Fstat(s.dir.fd, &st) != nil {
		return ""
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			return " (pid " + f[4] + ")"
		}
	}
	return ""
}
