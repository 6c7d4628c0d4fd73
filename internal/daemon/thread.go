package daemon

import (
	"errors"
	"runtime"
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
}

func newOwner() *owner {
	o := &owner{jobs: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	go o.run()
	return o
}

func (o *owner) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	defer close(o.done)
	for {
		select {
		case job := <-o.jobs:
			job()
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

// stop waits for the running job and takes no more.
func (o *owner) stop() {
	close(o.quit)
	<-o.done
}
