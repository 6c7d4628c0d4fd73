package audit

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// makeRoom refuses a record of n bytes that would leave less than the reserve
// for those that may use it.
func (l *Log) makeRoom(r Record, n int64) error {
	if r.reserved() {
		return nil // the write itself tells
	}
	if l.size+n+l.space.reserve <= l.allocated {
		return nil
	}
	err := l.allocate(n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = l.roomOnDisk(n)
	}
	if err != nil {
		err = fmt.Errorf("%w: the last %d bytes are kept for unloads and outcomes: %w", ErrFull, l.space.reserve, err)
		return remedy.With(err, "free space on the file system of paths.state")
	}
	return nil
}

// allocate gives the file its blocks for n bytes and the reserve, and for some
// more where there is room. The file's size stays.
func (l *Log) allocate(n int64) error {
	l.allocated = l.size // nothing is sure until the kernel says so
	want := n + l.space.reserve
	err := l.fallocate(want + l.space.slack)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = l.fallocate(want)
	}
	return err
}

func (l *Log) fallocate(n int64) error {
	for {
		err := unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, l.size, n)
		switch err {
		case nil:
			l.allocated = l.size + n
			return nil
		case unix.EINTR:
		default:
			return err
		}
	}
}

// roomOnDisk stands in for allocate where the file system cannot allocate
// without writing: nothing is kept, but the check is the same.
func (l *Log) roomOnDisk(n int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(l.file.Fd()), &st); err != nil {
		return err
	}
	if int64(st.Bavail)*st.Bsize < n+l.space.reserve {
		return unix.ENOSPC
	}
	return nil
}
