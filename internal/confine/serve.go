package confine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The process's descriptors, beside /dev/null at 0. There are no others.
const (
	answerFD = 1 // and 2: what the runtime says when it gives up
	objectFD = 3
)

// Serve is the whole life of a confined process: it gives up what it could do,
// reads one object, answers what parse says of it, and returns the exit status.
// No byte is read before it is confined.
func Serve(parse func(object []byte) error) int {
	if err := restrict(); err != nil {
		write([]byte(shown(err.Error(), maxReason)))
		return 1
	}
	if err := write([]byte(greeting)); err != nil {
		return 1
	}
	object, err := read()
	if err == nil {
		err = parse(object)
	}
	if err := write(encode(err)); err != nil {
		return 1
	}
	return 0
}

// read and write use the descriptors as they are: an os.File would want more.
func read() ([]byte, error) {
	b := make([]byte, 64<<10)
	for have := 0; ; {
		if have == len(b) {
			if have > MaxObject {
				return nil, fmt.Errorf("more than %d bytes", MaxObject)
			}
			b = append(b, make([]byte, len(b))...)
		}
		n, err := unix.Read(objectFD, b[have:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, fmt.Errorf("object: %w", err)
		case n == 0:
			return b[:have:have], nil
		default:
			have += n
		}
	}
}

func write(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(answerFD, b)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}
