package daemon

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errStopped is what the owner's queue answers once the daemon goes down.
var errStopped = errors.New("daemon: stopping")

// owner runs every change, one at a time, on one locked thread. One coarse
// lock is all the locking the kernel's state needs; a thread of its own makes
// namespaces and keyrings, which belong to threads, and traces of a load
// simple to reason about.
type owner struct {
	jobs chan func()
	quit chan struct{}
	done chan struct{}

	busy  atomic.Bool
	beats atomic.Uint64 // of a long job's progress
	once  sync.Once
}

func newOwner() *owner {
	o := &owner{jobs: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	go o.run()
	return o
}

func (o *owner) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	// For strace -p, top -H and the like; without it the thread works as well.
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData("owner\x00"))), 0, 0, 0)
	defer close(o.done)
	for {
		select {
		case job := <-o.jobs:
			o.busy.Store(true)
			job()
			o.beat()
			o.busy.Store(false)
		case <-o.quit:
			return
		}
	}
}

// do runs job on the owner's thread and waits for it.
func (o *owner) do(job func() error) error {
	result := make(chan error, 1)
	select {
	case o.jobs <- func() { result <- job() }:
		return <-result
	case <-o.quit:
		return errStopped
	}
}

// beat says that a long job gets on.
func (o *owner) beat() { o.beats.Add(1) }

// interrupt takes no more jobs. One that runs ends at its next change.
func (o *owner) interrupt() { o.once.Do(func() { close(o.quit) }) }

func (o *owner) stopping() bool {
	select {
	case <-o.quit:
		return true
	default:
		return false
	}
}

// stop waits for the running job and takes no more.
func (o *owner) stop() {
	o.interrupt()
	<-o.done
}
