package daemon

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/policy"
)

// errStopped is what the owner's queue answers once the daemon goes down.
var errStopped = errors.New("daemon: stopping")

var errTooManyChanges = fmt.Errorf("no room for one more: %w", policy.ErrLimit)

// owner runs every change, one at a time, on one locked thread. One coarse
// lock is all the locking the kernel's state needs; a thread of its own makes
// namespaces and keyrings, which belong to threads, and traces of a load
// simple to reason about.
//
// What waits for it waits in turn: the daemon's own and root's first, then one
// of each user's, so that a user waits for one change of each other's at most.
type owner struct {
	perUser int           // changes of one user that may wait or run, root's aside
	wake    chan struct{} // something was queued
	quit    chan struct{}
	done    chan struct{}
	closed  error // why no change is made, nil where they are; set before anybody asks for one

	mu    sync.Mutex
	first []*job   // the daemon's own and root's
	users []*queue // whose turn it is next comes first; none is empty
	count map[uint32]int

	busy  atomic.Bool
	beats atomic.Uint64 // of a long job's progress
	once  sync.Once
}

type job struct {
	uid    uint32
	run    func() error
	result chan error
}

// queue is what waits for one user.
type queue struct {
	uid  uint32
	jobs []*job
}

func newOwner(perUser int) *owner {
	o := &owner{perUser: perUser, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		count: make(map[uint32]int)}
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
		case <-o.wake:
		case <-o.quit:
			return
		}
		for !o.stopping() {
			j := o.next()
			if j == nil {
				break
			}
			o.busy.Store(true)
			err := j.run()
			o.beat()
			o.busy.Store(false)
			o.forget(j)
			j.result <- err
		}
	}
}

// do runs a change of the daemon's own on the owner's thread and waits for it.
func (o *owner) do(change func() error) error { return o.doFor(0, func() {}, change) }

// doFor runs a user's change on the owner's thread and waits for it, or refuses
// it where the user has as many as one may. before is what comes first and need not
// be done there.
func (o *owner) doFor(uid uint32, before func(), change func() error) error {
	if o.closed != nil {
		return o.closed
	}
	j := &job{uid, change, make(chan error, 1)}
	if err := o.admit(uid); err != nil {
		return err
	}
	before()
	o.queue(j)
	select {
	case err := <-j.result:
		return err
	case <-o.quit:
		if o.withdraw(j) {
			return errStopped
		}
		return <-j.result
	}
}

// admit counts a change of a user's.
func (o *owner) admit(uid uint32) error {
	if uid == 0 {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count[uid] >= o.perUser {
		return remedy.With(fmt.Errorf("uid %d: %d changes run or wait: %w", uid, o.perUser, errTooManyChanges),
			"wait for the end of one, or have an administrator raise [api] changes_per_user in hornetd.toml")
	}
	o.count[uid]++
	return nil
}

func (o *owner) queue(j *job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if j.uid == 0 {
		o.first = append(o.first, j)
	} else {
		i := slices.IndexFunc(o.users, func(q *queue) bool { return q.uid == j.uid })
		if i < 0 {
			o.users = append(o.users, &queue{uid: j.uid})
			i = len(o.users) - 1
		}
		o.users[i].jobs = append(o.users[i].jobs, j)
	}
	select {
	case o.wake <- struct{}{}:
	default: // it is awake, or will be
	}
}

// next takes the job whose turn it is, nil where none waits.
func (o *owner) next() *job {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.first) > 0 {
		j := o.first[0]
		o.first = o.first[1:]
		return j
	}
	if len(o.users) == 0 {
		return nil
	}
	q := o.users[0]
	j := q.jobs[0]
	q.jobs = q.jobs[1:]
	o.users = o.users[1:]
	if len(q.jobs) > 0 {
		o.users = append(o.users, q)
	}
	return j
}

// withdraw takes back a job that waits, and reports whether it did.
func (o *owner) withdraw(j *job) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := slices.Index(o.first, j); i >= 0 {
		o.first = slices.Delete(o.first, i, i+1)
		return true
	}
	for i, q := range o.users {
		k := slices.Index(q.jobs, j)
		if k < 0 {
			continue
		}
		if q.jobs = slices.Delete(q.jobs, k, k+1); len(q.jobs) == 0 {
			o.users = slices.Delete(o.users, i, i+1)
		}
		o.forgetLocked(j)
		return true
	}
	return false
}

func (o *owner) forget(j *job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forgetLocked(j)
}

func (o *owner) forgetLocked(j *job) {
	if j.uid == 0 {
		return
	}
	if o.count[j.uid]--; o.count[j.uid] == 0 {
		delete(o.count, j.uid)
	}
}

// changes returns how many changes of each user run or wait.
func (o *owner) changes() map[uint32]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.count)
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
