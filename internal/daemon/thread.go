package daemon

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/policy"
)

// errStopped is what the owner's queue answers once the daemon goes down.
var errStopped = errors.New("daemon: stopping")

var errTooManyChanges = fmt.Errorf("no room for one more: %w", policy.ErrLimit)

// owner runs every change, on locked threads of which one has the turn. One coarse
// lock is all the locking the kernel's state needs; a thread of its own for a change
// makes namespaces and keyrings, which belong to threads, and traces of a load
// simple to reason about.
//
// What waits for it waits in turn: the daemon's own and root's first, then one
// of each user's, so that a user waits for one change of each other's at most. A user's
// load gives the turn away while the kernel verifies its programs (aside), and there are
// so many such at a time. One that wants it back, to end what has begun, has it before all others.
type owner struct {
	perUser int           // changes of one user that may wait or run, root's aside
	jobs    verifierJobs  // at a time
	quit    chan struct{} // closed under mu
	threads sync.WaitGroup
	closed  error // why no change is made, nil where they are; set before anybody asks for one

	mu    sync.Mutex
	news  *sync.Cond    // of what follows
	held  bool          // a thread has the turn
	turns uint64        // that there were
	back  int           // threads that were aside and wait for the turn: before all others
	idle  int           // threads that wait for a job; 1 at most, for long
	aways map[*job]bool // jobs that give the turn away, from their beginning to their end
	first []*job        // the daemon's own and root's
	users []*queue      // whose turn it is next comes first; none is empty
	count map[uint32]int

	beats atomic.Uint64 // of the turn's progress
}

// verifierJobs is how many users' loads the kernel verifies at a time.
type verifierJobs struct{ perUser, total int }

// errand says whose a change is and of what.
type errand struct {
	uid  uint32
	name string // of the collection; "" where it is of none
	away bool   // it gives the turn away: no user's other change of the name begins before its end
}

type job struct {
	errand
	run    func() error
	result chan error
}

// queue is what waits for one user.
type queue struct {
	uid  uint32
	jobs []*job
}

func newOwner(perUser int, jobs verifierJobs) *owner {
	o := &owner{perUser: perUser, jobs: jobs, quit: make(chan struct{}), aways: make(map[*job]bool), count: make(map[uint32]int)}
	o.news = sync.NewCond(&o.mu)
	o.threads.Add(1)
	go o.run()
	return o
}

// run is one thread.
func (o *owner) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	// For strace -p, top -H and the like; without it the thread works as well.
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData("owner\x00"))), 0, 0, 0)
	defer o.threads.Done()
	for j := o.begin(); j != nil; j = o.begin() {
		err := j.run()
		o.end(j)
		j.result <- err
	}
}

// begin waits for the turn and a job to do in it. It returns nil where the thread is
// not needed any more.
func (o *owner) begin() *job {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.idle > 0 {
		return nil // another one waits for what comes
	}
	o.idle++
	defer func() { o.idle-- }()
	for !o.stopping() {
		if !o.held && o.back == 0 {
			if j := o.nextLocked(); j != nil {
				o.takeLocked()
				return j
			}
		}
		o.news.Wait()
	}
	return nil
}

func (o *owner) takeLocked() {
	o.held = true
	o.turns++
	o.beat()
}

// giveLocked ends a turn, and sees to it that there is a thread for the next.
func (o *owner) giveLocked() {
	o.held = false
	o.offerLocked()
}

func (o *owner) offerLocked() {
	if waits := len(o.first)+len(o.users) > 0; waits && !o.held && o.idle == 0 && !o.stopping() {
		o.threads.Add(1)
		go o.run()
	}
	o.news.Broadcast()
}

// aside gives the turn of the job that calls it to others while do runs, on the same
// thread, and waits to have it back. It reports whether nobody else had it.
func (o *owner) aside(do func()) (alone bool) {
	o.mu.Lock()
	mine := o.turns
	o.giveLocked()
	o.mu.Unlock()
	do()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.back++
	for o.held {
		o.news.Wait()
	}
	o.back--
	alone = o.turns == mine
	o.takeLocked()
	return alone
}

func (o *owner) end(j *job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.aways, j)
	o.forgetLocked(j)
	o.held = false
	o.news.Broadcast() // the thread goes on itself, or another one waits
}

// do runs a change of the daemon's own on the owner's thread and waits for it.
func (o *owner) do(change func() error) error { return o.doFor(errand{}, func() {}, change) }

// doFor runs a user's change on the owner's thread and waits for it, or refuses
// it where the user has as many as one may. before is what comes first and need not
// be done there.
func (o *owner) doFor(e errand, before func(), change func() error) error {
	if o.closed != nil {
		return o.closed
	}
	j := &job{e, change, make(chan error, 1)}
	if err := o.admit(e.uid); err != nil {
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
	o.offerLocked()
}

// nextLocked takes the job whose turn it is, nil where none waits that may begin.
func (o *owner) nextLocked() *job {
	if len(o.first) > 0 {
		j := o.first[0]
		o.first = o.first[1:]
		return j
	}
	for i, q := range o.users {
		k := o.readyLocked(q)
		if k < 0 {
			continue
		}
		j := q.jobs[k]
		q.jobs = slices.Delete(q.jobs, k, k+1)
		o.users = slices.Delete(o.users, i, i+1)
		if len(q.jobs) > 0 {
			o.users = append(o.users, q)
		}
		if j.away {
			o.aways[j] = true
		}
		return j
	}
	return nil
}

// readyLocked returns which of a user's jobs may begin first, -1 for none. Those of
// one name stay in order.
func (o *owner) readyLocked(q *queue) int {
	return slices.IndexFunc(q.jobs, func(j *job) bool {
		earlier := q.jobs[:slices.Index(q.jobs, j)]
		return o.mayBeginLocked(j) && !slices.ContainsFunc(earlier, func(e *job) bool { return e.name == j.name })
	})
}

// mayBeginLocked reports whether a user's job has to wait for none that is away.
func (o *owner) mayBeginLocked(j *job) bool {
	own := 0
	for other := range o.aways {
		if other.name == j.name {
			return false
		}
		if other.uid == j.uid {
			own++
		}
	}
	return !j.away || own < o.jobs.perUser && len(o.aways) < o.jobs.total
}

// away returns how many jobs of each user give the turn away now.
func (o *owner) away() map[uint32]uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[uint32]uint64)
	for j := range o.aways {
		all[j.uid]++
	}
	return all
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

// lasts says that for as long as do runs, up to a limit.
func (o *owner) lasts(limit time.Duration, do func() error) error {
	done := make(chan struct{})
	defer close(done)
	go func() {
		end := time.After(limit)
		for {
			select {
			case <-done:
				return
			case <-end:
				return
			case <-time.After(time.Second):
				o.beat()
			}
		}
	}()
	return do()
}

// busy reports whether somebody has the turn.
func (o *owner) busy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held
}

// idles reports whether no job has begun that has not ended.
func (o *owner) idles() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.held && len(o.aways) == 0
}

// interrupt takes no more jobs. One that runs ends at its next change.
func (o *owner) interrupt() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.stopping() {
		close(o.quit)
		o.news.Broadcast()
	}
}

func (o *owner) stopping() bool {
	select {
	case <-o.quit:
		return true
	default:
		return false
	}
}

// stop waits for the jobs that run and takes no more.
func (o *owner) stop() {
	o.interrupt()
	o.threads.Wait()
}
