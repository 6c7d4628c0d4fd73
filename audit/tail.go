package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// How much of the file's end is read to find the last record: what does in
// every ordinary case, and the most before the log counts as corrupt.
var windows = [...]int64{64 << 10, 4 << 20}

// recover finds the last whole record and removes what lies behind it.
//
// A crash leaves at most one line without its newline, which nobody was told
// is durable: that is cut off. Anything else there (lines that are no records,
// blocks a file system found in a strange place) is saved to a file of its own
// first: an audit log throws nothing away.
func (l *Log) recover() error {
	fi, err := l.file.Stat()
	if err != nil {
		return err
	}
	good, last, err := l.lastRecord(fi.Size())
	if err != nil {
		return err
	}
	l.size, l.next, l.last = good, last.Seq+1, last.Time
	if good == fi.Size() {
		return nil
	}
	tail := make([]byte, fi.Size()-good)
	if _, err := l.file.ReadAt(tail, good); err != nil {
		return err
	}
	l.recovery.Bytes = int64(len(tail))
	if len(tail) > maxLine || bytes.Contains(tail, []byte("\n")) {
		if l.recovery.Saved, err = l.save(tail); err != nil {
			return fmt.Errorf("save %d bytes behind the last record: %w", len(tail), err)
		}
	}
	return errors.Join(l.file.Truncate(good), fdatasync(l.file))
}

// lastRecord returns the offset behind the last whole record and that record,
// zeros if there is none.
func (l *Log) lastRecord(size int64) (end int64, last Record, err error) {
	for _, window := range windows {
		from := max(0, size-window)
		buf := make([]byte, size-from)
		if _, err := l.file.ReadAt(buf, from); err != nil && err != io.EOF {
			return 0, Record{}, err
		}
		if n, last := lastLine(buf); last.Seq > 0 {
			return from + int64(n), last, nil
		}
		if from == 0 {
			return 0, Record{}, nil
		}
	}
	err = fmt.Errorf("no record in the last %d bytes: %w", windows[len(windows)-1], ErrCorrupt)
	return 0, Record{}, remedy.With(err, "move the file away and keep it; hornetd begins a new one")
}

// lastLine returns the end of the last line of b that is a record, and that
// record. b may begin in the middle of a line: the rest of one is no
// record, since quotes in it are escaped.
func lastLine(b []byte) (end int, last Record) {
	for end = bytes.LastIndexByte(b, '\n'); end >= 0; {
		begin := bytes.LastIndexByte(b[:end], '\n')
		if r, err := parse(b[begin+1 : end]); err == nil {
			return end + 1, r
		}
		end = begin
	}
	return 0, Record{}
}

// save writes what is cut off to a new file beside the log.
func (l *Log) save(tail []byte) (string, error) {
	path := filepath.Join(filepath.Dir(l.path), fmt.Sprintf("audit.behind-%d-*", l.next-1))
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return "", err
	}
	_, err = f.Write(tail)
	if err = errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		unix.Unlink(f.Name())
		return "", err
	}
	return f.Name(), nil
}
