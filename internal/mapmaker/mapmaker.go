// Package mapmaker has maps made by a process of their own, because the kernel
// charges their memory to the cgroup of who makes them, for as long as they live.
//
// The process is this same program, started again: its main calls Serve when it is
// started under the name that New was given. It confines itself, reads the
// definitions of the maps, makes one after the other, passes their descriptors on
// and ends. Nothing in it has seen the object: definitions are plain data.
package mapmaker

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/confine"
)

// ErrKilled means that the process was killed (SIGKILL), which is what the kernel
// does where its cgroup, one above it or the host has no memory left.
var ErrKilled = errors.New("the process that makes maps was killed")

// ErrProcess is wrapped by errors that are not the kernel's answer about a map: the
// process could not be started, put in its place or confined, or did not do its work.
// Such an error wraps no errno, which would be taken for that answer.
var ErrProcess = errors.New("process that makes maps")

// patience is how long all maps of one collection may take: less than half of what
// the watchdog of the unit allows a change.
const patience = 14 * time.Second

// Maker makes the maps of one collection. It can be asked more than once; each time
// takes a process of its own.
type Maker struct {
	name     string
	join     func(pid int) error
	patience time.Duration
}

// New returns a Maker whose processes have the name, which main knows, and that
// join puts where their maps are to be charged before they make any.
func New(name string, join func(pid int) error) *Maker { return &Maker{name, join, patience} }

// Make makes maps, in order. With an error it returns those that were made before
// it, so that their number says which one it is about; the caller closes them in any
// case. The error wraps the kernel's errno, ErrKilled or ErrProcess.
//
// The process ends with the thread that calls Make. It is gone when Make returns.
func (m *Maker) Make(specs []*ebpf.MapSpec) (maps []*ebpf.Map, err error) {
	job, err := encode(specs)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrProcess, err)
	}
	p, err := m.start()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrProcess, err)
	}
	defer p.end()
	if err := m.join(p.Pid); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrProcess, err)
	}
	// One that died is noticed below, with the reason.
	if _, err := p.job.Write(job); err != nil && !errors.Is(err, syscall.EPIPE) {
		return nil, fmt.Errorf("%w: %v", ErrProcess, err)
	}
	p.job.Close()
	for range specs {
		made, err := p.next()
		if err != nil {
			return maps, err
		}
		maps = append(maps, made)
	}
	return maps, p.finished()
}

// process makes maps.
type process struct {
	*os.Process
	job     *os.File
	answers *os.File // a socket that keeps messages apart

	patience time.Duration
	deadline time.Time

	ended chan struct{}    // closed once it is gone
	state *os.ProcessState // then: how; nil where the kernel does not say, as where SIGCHLD is ignored
}

func (m *Maker) start() (_ *process, err error) {
	read, job, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	answers, theirs, err := socketPair()
	if err != nil {
		job.Close()
		return nil, err
	}
	defer theirs.Close()
	p := &process{job: job, answers: answers, patience: m.patience, deadline: time.Now().Add(m.patience), ended: make(chan struct{})}
	p.job.SetWriteDeadline(p.deadline)
	p.answers.SetReadDeadline(p.deadline)
	// The program that runs, also where another one lies at its path by now. What
	// the runtime says of its own end is an answer like others.
	p.Process, err = os.StartProcess("/proc/self/exe", []string{m.name}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{read, theirs, theirs, theirs},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true},
	})
	if err != nil {
		p.job.Close()
		p.answers.Close()
		return nil, err
	}
	go func() {
		p.state, _ = p.Wait()
		close(p.ended)
	}()
	return p, nil
}

// socketPair returns both ends of a socket that keeps messages apart.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "answers")
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that it has deadlines
		unix.Close(fds[0])
		theirs.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "answers"), theirs, nil
}

// receive returns one message. It is empty when the process has none and will have
// none.
func (p *process) receive() (text []byte, fds []int, whole bool, err error) {
	conn, err := p.answers.SyscallConn()
	if err != nil {
		return nil, nil, false, err
	}
	text, control := make([]byte, maxAnswer), make([]byte, unix.CmsgSpace(4*mostDescriptors))
	var n, controls, flags int
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		n, controls, flags, _, failed = unix.Recvmsg(int(fd), text, control, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(failed, unix.EAGAIN)
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, nil, false, err
	}
	fds, err = descriptors(control[:controls])
	return text[:n], fds, flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) == 0, err
}

// next returns the next map.
func (p *process) next() (*ebpf.Map, error) {
	text, fds, whole, err := p.receive()
	defer func() { // all but what becomes a map
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("%w: no answer within %s", ErrProcess, p.patience)
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrProcess, err)
	case len(text) == 0:
		return nil, p.death()
	}
	said := decodeAnswer(text)
	if said != nil || len(fds) != 1 || !whole {
		if said == nil {
			said = fmt.Errorf("%w: it passed on %d descriptors", ErrProcess, len(fds))
		}
		return nil, said
	}
	fd := fds[0]
	fds = nil
	m, err := ebpf.NewMapFromFD(fd) // which closes what is no map
	if err != nil {
		return nil, fmt.Errorf("%w: it passed on what is no map: %v", ErrProcess, err)
	}
	return m, nil
}

// mostDescriptors is how many there is room for in one answer: one more than there may
// be. What comes above that the kernel closes.
const mostDescriptors = 2

func descriptors(control []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		if rights, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, rights...)
		}
	}
	return fds, nil
}

// death says how a process ended that had more to answer.
func (p *process) death() error {
	select {
	case <-p.ended:
	case <-time.After(time.Second):
		return fmt.Errorf("%w: it answers no more, and does not end", ErrProcess)
	}
	if err := p.outcome(); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s", ErrProcess, p.state)
}

// outcome says how a process ended, nil where it says that it did all it was to do.
func (p *process) outcome() error {
	if p.state == nil {
		return fmt.Errorf("%w: how it ended is not known", ErrProcess)
	}
	status, ok := p.state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && status.Signal() == syscall.SIGKILL:
		return ErrKilled
	case !p.state.Success():
		return fmt.Errorf("%w: %s", ErrProcess, p.state)
	}
	return nil
}

// finished waits for a process that has answered everything, until which it could
// still have descriptors of the maps.
func (p *process) finished() error {
	select {
	case <-p.ended:
	case <-time.After(time.Until(p.deadline)):
		return fmt.Errorf("%w: it did not end within %s", ErrProcess, p.patience)
	}
	return p.outcome()
}

// end kills the process, waits until it is gone and lets go of it.
func (p *process) end() {
	p.Kill()
	<-p.ended
	p.job.Close()
	p.answers.Close()
}

// failed is the kernel's answer that there is no map.
type failed struct {
	errno syscall.Errno
	text  string
}

func (f *failed) Error() string { return f.text }
func (f *failed) Unwrap() error { return f.errno }

// decodeAnswer returns what an answer says, nil where it comes with a map. It may be
// from whoever has taken the process over.
func decodeAnswer(b []byte) error {
	errno, text, ok := splitAnswer(b)
	switch {
	case !ok:
		return fmt.Errorf("%w: it answered %s", ErrProcess, confine.Shown(string(b)))
	case errno == 0 && text == "":
		return nil
	case errno == 0: // not the kernel's words
		return fmt.Errorf("%w: %s", ErrProcess, confine.Shown(text))
	}
	return fmt.Errorf("creating map: %w", &failed{errno, confine.Shown(text)})
}
