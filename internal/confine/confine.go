// Package confine has bytes that nobody vouches for parsed by a process that can
// do nothing else, before they are parsed where it matters.
//
// The process is this same program, started again: its main calls Serve when it
// is started under the name that Start was given. It confines itself before it
// reads a byte, parses one object, answers in a few hundred bytes and ends. One
// is always kept ready, so that a load does not wait for a start.
//
// What may happen in there is that the parser finds its master. What comes out is
// then wrong, but it is a yes or a no: who gets a yes parses the same bytes
// himself, as if nobody had asked.
package confine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
)

const (
	// MaxObject is how many bytes an object may have.
	MaxObject = 8 << 20

	maxMemory = 1 << 30 // bytes the process may use, above what the runtime reserves
	maxCPU    = 5       // seconds of processor time it may use

	patience = 10 * time.Second       // for a process to become ready, and again for its answer
	pause    = 250 * time.Millisecond // before another start where one failed; doubles
	longest  = time.Minute            // unless somebody asks
)

var (
	errClosed = errors.New("it is closed")
	errDied   = errors.New("it died before it got its object")
	errKilled = errors.New("signal: killed") // for want of memory, or of time on a busy host
)

// Failure means that there was no answer: the process could not be started or
// confined, died, took too long, or answered nonsense. The object is not known
// to be good, so it must not be parsed.
type Failure struct {
	Started bool // the object was handed over, and may be the reason
	err     error
}

func (f *Failure) Error() string { return "parser: " + f.err.Error() }
func (f *Failure) Unwrap() error { return f.err }

// Parser keeps one confined process ready. Its methods can be called from any
// goroutine.
type Parser struct {
	name   string
	tell   func(error)
	spares chan *process // one that waits for its object
	failed chan error    // why there is none
	quit   chan struct{}
	done   chan struct{}
}

// Start begins to keep processes of this program ready, under a name that its
// main knows. tell is called, in no goroutine of the caller's, with what is wrong
// with a process that nobody waits for. Close ends it.
func Start(name string, tell func(error)) *Parser {
	p := &Parser{name: name, tell: tell, spares: make(chan *process), failed: make(chan error), quit: make(chan struct{}), done: make(chan struct{})}
	go p.keep()
	return p
}

// Close ends the spare process, and whatever still parses.
func (p *Parser) Close() {
	close(p.quit)
	<-p.done
}

// mostKilled is how often one that is killed before it is ready is started at once.
const mostKilled = 3

// keep makes a process, waits until it is taken or dies, and makes the next.
func (p *Parser) keep() {
	// The kernel kills the processes when the thread that started them ends. Any
	// other may end before the daemon does.
	runtime.LockOSThread()
	defer close(p.done)
	wait, said := pause, ""
	for {
		c, err := p.start()
		for tries := 1; errors.Is(err, errKilled) && tries < mostKilled; tries++ {
			c, err = p.start()
		}
		if err != nil {
			if err.Error() != said {
				p.tell(&Failure{err: err})
			}
			said = err.Error()
			if p.closed(err, wait) {
				return
			}
			wait = min(2*wait, longest)
			continue
		}
		wait, said = pause, ""
		select {
		case p.spares <- c:
		case <-c.ended:
			p.tell(&Failure{err: fmt.Errorf("one that waited for an object died: %s", c.state)})
			c.end()
		case <-p.quit:
			c.end()
			return
		}
	}
}

// closed waits before another start, telling who asks for a process why there is
// none: then the next one is due, as what was wrong may have been mended. It is true
// when there will be no other.
func (p *Parser) closed(err error, wait time.Duration) bool {
	soon := time.Now().Add(pause)
	for again := time.After(wait); ; {
		select {
		case p.failed <- err:
			again = time.After(time.Until(soon))
		case <-again:
			return false
		case <-p.quit:
			return true
		}
	}
}

// Parse has object parsed. It returns nil if the parser took it, an error with
// the parser's own words and remedy if it did not, and a *Failure if nobody can
// say.
func (p *Parser) Parse(object *bytes.Reader) error {
	if object.Len() > MaxObject {
		return fmt.Errorf("%d bytes are more than the %d that are parsed", object.Len(), MaxObject)
	}
	answer, err := p.ask(object)
	if err == nil {
		if said, ok := decode(answer); ok {
			return said
		}
		err = &Failure{Started: true, err: fmt.Errorf("it answered %s", shown(string(answer), maxReason))}
	}
	var failure *Failure
	if errors.As(err, &failure) && failure.Started {
		return remedy.With(err, "do not load this object: parsing it is more than its parser can do, or it is made to attack it; compile it anew from its source and sign it again")
	}
	return remedy.With(err, "see in hornetd's log what keeps the confined process from starting, then load again")
}

// ask has a process that is ready parse the object, and returns its answer or a
// *Failure. One that was killed before it got a byte of it, which can be nobody's
// doing who wrote the object, is replaced.
func (p *Parser) ask(object *bytes.Reader) ([]byte, error) {
	for tries := 1; ; tries++ {
		c, err := p.spare()
		if err != nil {
			return nil, &Failure{err: err}
		}
		answer, err := c.ask(object)
		c.end()
		switch {
		case err == nil:
			return answer, nil
		case !errors.Is(err, errDied):
			return nil, &Failure{Started: true, err: err}
		case tries == 3:
			return nil, &Failure{err: err}
		}
	}
}

// spare waits for a process that is ready.
func (p *Parser) spare() (*process, error) {
	select {
	case c := <-p.spares:
		return c, nil
	case err := <-p.failed:
		return nil, err
	case <-time.After(patience):
		return nil, fmt.Errorf("none was ready within %s", patience)
	case <-p.done:
		return nil, errClosed
	}
}

// process is one confined process.
type process struct {
	*os.Process
	in, out *os.File // its object; its answer

	ended chan struct{}    // closed once it is gone
	state *os.ProcessState // then: how
}

// start makes a process and waits until it says that it is confined.
func (p *Parser) start() (_ *process, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	object, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer object.Close()
	out, answer, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer answer.Close()
	c := &process{in: in, out: out, ended: make(chan struct{})}
	// The program that runs, also where another one lies at its path by now. What
	// the runtime says of its own end goes where the answer goes.
	c.Process, err = os.StartProcess("/proc/self/exe", []string{p.name}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{null, answer, answer, object},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true},
	})
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	go func() {
		c.state, _ = c.Wait() // it is our child, and nobody else waits for it
		close(c.ended)
	}()
	answer.Close()
	if err := c.ready(); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// ready waits for the process to say that it is confined.
func (c *process) ready() error {
	c.out.SetReadDeadline(time.Now().Add(patience))
	said := make([]byte, len(greeting))
	n, err := io.ReadFull(c.out, said)
	switch {
	case string(said) == greeting:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("not ready within %s", patience)
	}
	rest, _ := io.ReadAll(io.LimitReader(c.out, maxAnswer))
	c.Kill()
	<-c.ended
	why := shown(string(said[:n])+string(rest), maxReason)
	if status, ok := c.state.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return fmt.Errorf("not confined: %w: %s", errKilled, why)
	}
	return fmt.Errorf("not confined: %s: %s", c.state, why)
}

// ask hands the object over and returns the answer of a process that ended well.
func (c *process) ask(object *bytes.Reader) ([]byte, error) {
	deadline := time.Now().Add(patience)
	c.in.SetWriteDeadline(deadline)
	c.out.SetReadDeadline(deadline)
	written, writeErr := object.WriteTo(c.in)
	if written == 0 && errors.Is(writeErr, syscall.EPIPE) {
		return nil, errDied
	}
	c.in.Close()
	answer, err := io.ReadAll(io.LimitReader(c.out, maxAnswer+1))
	switch {
	case errors.Is(writeErr, os.ErrDeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("no answer within %s", patience)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("an answer of more than %d bytes: %s", maxAnswer, shown(firstLine(answer), maxReason))
	case err != nil:
		return nil, err
	}
	select {
	case <-c.ended:
	case <-time.After(time.Until(deadline)):
		return nil, fmt.Errorf("it answered and did not end within %s", patience)
	}
	switch used := c.state.UserTime() + c.state.SystemTime(); {
	case c.state.Success():
		return answer, writeErr
	case used >= maxCPU*time.Second/2: // the limit counts ticks, which fall as they may on a busy host, and what is told nanoseconds
		return nil, fmt.Errorf("it took %d seconds of processor time, which is all that it gets", maxCPU)
	case len(answer) > 0:
		return nil, fmt.Errorf("%s: %s", c.state, shown(firstLine(answer), maxReason))
	}
	return nil, errors.New(c.state.String())
}

// end kills the process, waits until it is gone and lets go of it.
func (c *process) end() {
	c.Kill()
	<-c.ended
	c.in.Close()
	c.out.Close()
}
