package mapmaker

import (
	"errors"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/confine"
)

// The process's descriptors, beside where the answers go, which 1 and 2 are too.
const (
	jobFD    = 0
	answerFD = 3
)

// Serve is the whole life of a process that makes maps. It returns the exit status:
// 0 where it answered, whatever that was.
func Serve() int {
	if err := confine.KeepMaps(readFiles); err != nil {
		return fail(err)
	}
	job, err := read()
	if err != nil {
		return fail(err)
	}
	specs, err := decode(job)
	if err != nil {
		return fail(err)
	}
	for _, spec := range specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			if inner := errors.Unwrap(err); inner != nil {
				err = inner // without "creating map: "
			}
			return refuse(err)
		}
		if unix.Sendmsg(answerFD, answer(0, ""), unix.UnixRights(m.FD()), nil, 0) != nil {
			return 1
		}
		m.Close()
	}
	return 0
}

// readFiles has the library read what it keeps then: how many processors there may
// be, and, at its first system call, where a BPF token is.
func readFiles() error {
	if _, err := ebpf.PossibleCPU(); err != nil {
		return err
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	return m.Close()
}

// refuse answers with err, which is about a map.
func refuse(err error) int {
	var errno syscall.Errno
	errors.As(err, &errno)
	return say(errno, err)
}

// fail answers with err, which is about the process. That there is no memory where it
// is holds for its maps too.
func fail(err error) int {
	if errors.Is(err, unix.ENOMEM) {
		return say(unix.ENOMEM, err)
	}
	return say(0, err)
}

func say(errno syscall.Errno, err error) int {
	if unix.Sendmsg(answerFD, answer(errno, err.Error()), nil, nil, 0) != nil {
		return 1
	}
	return 0
}

// read returns the whole job. An os.File would want more than the process has.
func read() ([]byte, error) {
	b := make([]byte, 64<<10)
	for have := 0; ; {
		if have == len(b) {
			if have > maxJob {
				return nil, errors.New("definitions of maps: they do not end")
			}
			b = append(b, make([]byte, len(b))...)
		}
		n, err := unix.Read(jobFD, b[have:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		case n == 0:
			return b[:have], nil
		default:
			have += n
		}
	}
}
