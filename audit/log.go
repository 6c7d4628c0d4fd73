package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

var (
	// ErrFull is returned by Append when the disk has no room, or only the
	// room that is kept for other records.
	ErrFull = errors.New("no space left for records")
	// ErrLocked is returned by Open while another process has the log.
	ErrLocked = errors.New("locked by another process")
	// ErrUnsafe is returned by Open for a directory or file that others can
	// read or write.
	ErrUnsafe = errors.New("unsafe owner or mode")
	// ErrCorrupt is returned by Open and Read for a log with something else
	// than records in it.
	ErrCorrupt = errors.New("not a record")
)

// fileName is the log's name in its directory.
const fileName = "audit.jsonl"

// space is how many bytes are kept for records that must not fail, and how many
// more are allocated at once so that not every record has to ask.
type space struct{ reserve, slack int64 }

var defaultSpace = space{reserve: 16 << 20, slack: 1 << 20}

// Log is an open log. Its methods may be called by several goroutines.
type Log struct {
	path     string // for messages
	file     *os.File
	space    space
	recovery Recovery

	mu        sync.Mutex
	next      uint64    // the next record's Seq
	last      time.Time // of the last record
	size      int64     // bytes of whole lines; what lies behind is not there
	allocated int64     // the file has its blocks up to here
	dirty     bool      // a failed write may have left something behind size
	closed    bool      // nothing is written any more
	remade    int       // how often it was made again
}

// Recovery says what Open had to put right: bytes behind the last whole record,
// as a crash in the middle of a write leaves them.
type Recovery struct {
	Bytes int64  // removed from the end
	Saved string // file they were saved to, where they were more than one torn line
}

// Open opens the log in dir for this process alone. The directory is made, with
// mode 0700, if only its last component is missing. Open reads the end of the
// file only. It returns ErrLocked, ErrUnsafe and ErrCorrupt.
func Open(dir string) (*Log, error) { return open(dir, defaultSpace) }

func open(dir string, space space) (_ *Log, err error) {
	l := &Log{path: filepath.Join(dir, fileName), space: space}
	if l.file, err = openFile(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.file.Close()
		}
	}()
	if err := l.lock(); err != nil {
		return nil, err
	}
	if err := l.recover(); err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	l.allocate(0) // a disk that is full already is Append's to report
	return l, nil
}

// View opens the log in dir for reading only, also while another process has
// it. It changes nothing, and sees the records that are whole now. It returns
// ErrUnsafe and ErrCorrupt, and fs.ErrNotExist where there is none.
func View(dir string) (_ *Log, err error) {
	l := &Log{path: filepath.Join(dir, fileName), closed: true}
	if l.file, err = openAt(nil, l.path, unix.O_RDONLY); err != nil {
		return nil, err
	}
	fi, err := l.file.Stat()
	if err == nil {
		err = safe(l.file, unix.S_IFREG)
	}
	var last Record
	if err == nil {
		l.size, last, err = l.lastRecord(fi.Size())
	}
	if err != nil {
		l.file.Close()
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	l.next, l.last = last.Seq+1, last.Time
	return l, nil
}

// openFile opens or makes the file and everything about it that must be
// durable before the first record is.
func openFile(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, remedy.With(err, "make %s first", filepath.Dir(dir))
	}
	d, err := openAt(nil, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := safe(d, unix.S_IFDIR); err != nil {
		return nil, err
	}
	f, err := openAt(d, fileName, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(safe(f, unix.S_IFREG), f.Sync(), d.Sync()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openAt opens name in the directory d, or as a path if d is nil, and follows
// no symbolic link there.
func openAt(d *os.File, name string, flags int) (*os.File, error) {
	dirfd, path := unix.AT_FDCWD, name
	if d != nil {
		dirfd, path = int(d.Fd()), filepath.Join(d.Name(), name)
	}
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), path), nil
		case unix.EINTR:
		default:
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// safe refuses what is of another type, belongs to somebody else or can be
// read or written by others.
func safe(f *os.File, typ uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != typ || st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 || typ == unix.S_IFREG && st.Nlink != 1 {
		err := fmt.Errorf("%s: %w: mode %06o, owner %d, %d names", f.Name(), ErrUnsafe, st.Mode, st.Uid, st.Nlink)
		return remedy.With(err, "look at who changed it, then give it back: chown root, chmod go= on the directory and its files")
	}
	return nil
}

func (l *Log) lock() error {
	err := unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err := fmt.Errorf("%s: %w", l.path, ErrLocked)
		return remedy.With(err, "stop the other hornetd, or give this one a state directory of its own in paths.state")
	}
	if err != nil {
		return fmt.Errorf("%s: lock: %w", l.path, err)
	}
	return nil
}

// Recovered returns what Open had to put right.
func (l *Log) Recovered() Recovery { return l.recovery }

// Last returns the last record's Seq and Time, zero where there is none.
func (l *Log) Last() (seq uint64, when time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next - 1, l.last
}

// Append writes r as the next record and returns it as it was written, when it
// is on disk: one write, one fdatasync. On error nothing was recorded as far as
// the log is concerned: what may have reached the disk is removed before the
// next record is written, or that fails as well. A log that was taken away from
// its path is made again first, or that is an error too. It returns ErrFull.
func (l *Log) Append(r Record) (Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return Record{}, fmt.Errorf("%s: %w", l.path, os.ErrClosed)
	}
	if err := l.keep(); err != nil {
		return Record{}, err
	}
	r.Seq = l.next
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r, line, err := r.encode()
	if err != nil {
		return Record{}, err
	}
	if err := l.makeRoom(r, int64(len(line))); err != nil {
		return Record{}, fmt.Errorf("%s: %w", l.path, err)
	}
	if r.Synced, err = l.write(line); err != nil {
		return Record{}, fmt.Errorf("%s: %w", l.path, err)
	}
	l.size += int64(len(line))
	l.next++
	l.last = r.Time
	return r, nil
}

// write puts a line behind the last one and waits for the disk.
func (l *Log) write(line []byte) (time.Duration, error) {
	if l.dirty {
		if err := l.undo(); err != nil {
			return 0, fmt.Errorf("undo an earlier write: %w", err)
		}
	}
	if err := pwrite(l.file, line, l.size); err != nil {
		l.fail()
		return 0, full(err)
	}
	began := time.Now()
	if err := fdatasync(l.file); err != nil {
		// The kernel tells of a failed write once and takes the pages for
		// written. The next record writes the page again that it shares with the
		// last good one; whole pages of the failed one go with the undo.
		l.fail()
		return 0, full(&os.PathError{Op: "sync", Path: l.file.Name(), Err: err})
	}
	return time.Since(began), nil
}

// fail notes that part of a record may be there, whatever the error said, and
// removes it. Where that fails too, it is tried again before the next record.
func (l *Log) fail() {
	l.dirty = true
	l.undo()
}

// undo removes what a failed write left, and takes the reserved space again,
// which goes with it.
func (l *Log) undo() error {
	if err := l.file.Truncate(l.size); err != nil {
		return err
	}
	l.dirty = false
	l.allocate(0)
	return nil
}

// pwrite writes b in one system call. The file's own WriteAt would go on after
// a short write, and does not tell how far it came.
func pwrite(f *os.File, b []byte, off int64) error {
	for {
		n, err := unix.Pwrite(int(f.Fd()), b, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return &os.PathError{Op: "write", Path: f.Name(), Err: err}
		case n < len(b):
			return &os.PathError{Op: "write", Path: f.Name(), Err: unix.ENOSPC}
		default:
			return nil
		}
	}
}

func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// full adds ErrFull to the errors of a full disk.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return remedy.With(fmt.Errorf("%w: %w", ErrFull, err), "free space on the file system of paths.state")
	}
	return err
}

// Close releases the log. Append returns os.ErrClosed from then on.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.file.Close()
}
