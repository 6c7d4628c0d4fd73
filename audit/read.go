package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Read calls f for every record from sequence number from on, in order, with
// the line it was read from without its newline: the leaf. The leaf is valid
// until f returns. Read stops at f's first error and returns it. Records that
// are appended meanwhile are not read. It returns ErrCorrupt.
func (l *Log) Read(from uint64, f func(r Record, leaf []byte) error) error {
	l.mu.Lock()
	size := l.size
	now := &Log{path: l.path, file: l.file} // it may be made again meanwhile
	l.mu.Unlock()
	l = now

	from = max(from, 1)
	off, err := l.seek(from, size)
	if err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	want := uint64(0) // not known for the first line
	if off == 0 {
		want = 1
	}
	lines := bufio.NewReaderSize(io.NewSectionReader(l.file, off, size-off), maxLine+1)
	for off < size {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("%s: byte %d: %w: %w", l.path, off, ErrCorrupt, err)
		}
		leaf := bytes.TrimSuffix(line, []byte("\n"))
		r, err := parse(leaf)
		if err == nil && want != 0 && r.Seq != want {
			err = fmt.Errorf("sequence number %d, want %d", r.Seq, want)
		}
		if err != nil {
			return fmt.Errorf("%s: byte %d: %w: %w", l.path, off, ErrCorrupt, err)
		}
		if r.Seq >= from {
			if err := f(r, leaf); err != nil {
				return err
			}
		}
		want = r.Seq + 1
		off += int64(len(line))
	}
	return nil
}

// seekEnough is how near to a record seek has to come, in bytes.
const seekEnough = 64 << 10

// seek returns the offset of a line that is at or before record from, found by
// bisection: sequence numbers only grow.
func (l *Log) seek(from uint64, size int64) (int64, error) {
	low, high := int64(0), size
	for high-low > seekEnough {
		mid := low + (high-low)/2
		off, r, err := l.lineBehind(mid, high)
		switch {
		case err == io.EOF:
			high = mid
		case err != nil:
			return 0, err
		case r.Seq <= from:
			low = off
		default:
			high = mid
		}
	}
	return low, nil
}

// lineBehind returns the first record that begins behind off and ends before
// end, io.EOF if there is none.
func (l *Log) lineBehind(off, end int64) (int64, Record, error) {
	lines := bufio.NewReader(io.NewSectionReader(l.file, off, end-off))
	part, err := lines.ReadBytes('\n')
	if err != nil {
		return 0, Record{}, err
	}
	begin := off + int64(len(part))
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return 0, Record{}, err
	}
	r, err := parse(bytes.TrimSuffix(line, []byte("\n")))
	if err != nil {
		return 0, Record{}, fmt.Errorf("byte %d: %w", begin, errors.Join(ErrCorrupt, err))
	}
	return begin, r, nil
}
