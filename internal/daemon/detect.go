package daemon

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/bpfname"
	"github.com/hornetd/hornetd/internal/pidfd"
	"github.com/hornetd/hornetd/internal/progwatch"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

const (
	// walkEvery is how often all programs of the host are listed, for those of which
	// nothing was heard: a processor that came since tells nothing.
	walkEvery = 30 * time.Second
	// walkSoon is how soon where something was lost.
	walkSoon = time.Second
	// mostSeen is how many programs are remembered before they are listed anew.
	mostSeen = 1 << 16
	// mostSorts is how many sorts of loads are told apart in a minute.
	mostSorts = 64
)

// detector tells of programs that others load, where the kernel has no guard for
// them. It prevents nothing. Its goroutine waits for nobody but the disk.
type detector struct {
	watch atomic.Pointer[progwatch.Watch] // nil where it does not run
	done  chan struct{}
	lost  atomic.Uint64 // loads and ends of programs that were not heard of
}

func (t *detector) runs() bool { return t.watch.Load() != nil }

func (t *detector) stop() {
	if w := t.watch.Swap(nil); w != nil {
		w.Interrupt()
		<-t.done
		w.Close()
	}
}

// detect begins to tell of what others load from now on.
func (d *Daemon) detect() {
	if d.cfg.Guard.Mode != config.GuardAudit {
		return
	}
	w, err := progwatch.Open()
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.unarmed = remedy.With(fmt.Errorf("%w; nor are loads detected: %w", d.unarmed, err), "%s", remedy.Of(d.unarmed))
		d.log.Warn("guard", zap.Error(err))
		return
	}
	t := &d.detector
	t.done = make(chan struct{})
	t.watch.Store(w)
	l := &listener{d: d, watch: w, told: told{sorts: map[string]bool{}}}
	l.first() // behind Open: what is loaded meanwhile is heard
	go func() {
		defer close(t.done)
		err := l.run()
		if t.watch.CompareAndSwap(w, nil) { // nobody has stopped it
			w.Close()
			d.cannotGuard(remedy.With(fmt.Errorf("guard: loads are not detected any more: %w", err), "restart hornetd"))
		}
	}()
}

// listener is what the detector's goroutine has.
type listener struct {
	d     *Daemon
	watch *progwatch.Watch
	seen  map[uint32]bool // programs that were told of, or need not be
	next  time.Time       // when they are listed
	told  told
}

// first takes what is there for known.
func (l *listener) first() {
	own, others := l.ours(), []uint32(nil)
	l.seen = map[uint32]bool{}
	for _, id := range l.programs() {
		l.seen[id] = true
		if !own[id] {
			others = append(others, id)
		}
	}
	l.next = time.Now().Add(walkEvery)
	if len(others) > 0 {
		l.d.ranBefore(others, "hornetd began to detect loads")
	}
}

// run hears until it is interrupted.
func (l *listener) run() error {
	for {
		lost, err := l.hear(time.Until(l.next))
		if err != nil {
			return err
		}
		if soon := time.Now().Add(walkSoon); lost && soon.Before(l.next) {
			l.next = soon
		}
		if len(l.seen) > mostSeen {
			l.next = time.Now()
		}
		if !time.Now().Before(l.next) {
			if err := l.walk(); err != nil {
				return err
			}
		}
	}
}

// hear waits for loads, and tells of them.
func (l *listener) hear(wait time.Duration) (lost bool, err error) {
	all, n, err := l.watch.Next(max(0, wait))
	l.d.detector.lost.Add(n)
	self := os.Getpid()
	for _, load := range all {
		switch {
		case l.seen[load.ID]:
		case load.PID != self: // none of its children has the right
			l.tell(load)
			fallthrough
		default:
			l.seen[load.ID] = true
		}
	}
	return n > 0, err
}

// walk tells of programs that are there and were not heard of, and forgets those
// that are not there any more.
func (l *listener) walk() error {
	there := l.programs()
	if _, err := l.hear(0); err != nil { // of those among them that are still to be read
		return err
	}
	l.next = time.Now().Add(walkEvery)
	var own map[uint32]bool
	seen := make(map[uint32]bool, len(there))
	for _, id := range there {
		if !l.seen[id] {
			if own == nil {
				beats, idle := l.d.owner.beats.Load(), l.d.owner.idles()
				own = l.ours()
				if !idle || !l.d.owner.idles() || l.d.owner.beats.Load() != beats { // it may load it
					l.next = time.Now().Add(walkSoon)
					return nil
				}
			}
			if !own[id] {
				l.tell(progwatch.Load{ID: id})
			}
		}
		seen[id] = true
	}
	l.seen = seen
	return nil
}

// programs lists the ids of all programs of the host.
func (l *listener) programs() (all []uint32) {
	for id, err := ebpf.ProgramGetNextID(0); ; id, err = ebpf.ProgramGetNextID(id) {
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				l.d.log.Error("guard: programs", zap.Error(err))
			}
			return all
		}
		all = append(all, uint32(id))
	}
}

// ours are the programs that hornetd has on record.
func (l *listener) ours() map[uint32]bool {
	own := map[uint32]bool{}
	for _, o := range l.d.objects() {
		if o.Kind == lsm.Program {
			own[o.ID] = true
		}
	}
	return own
}

// tell records a load, and tells of it. One without a process was not heard of.
func (l *listener) tell(load progwatch.Load) {
	p := programOf(load)
	if p.gone && load.Boot == 0 {
		return
	}
	rec := audit.Record{Phase: audit.Note, Verb: verbForeign, Reason: p.String(), Programs: []uint32{load.ID},
		Caller: audit.Caller{UID: p.uid, GID: overflowID, PID: int32(load.PID)}}
	if load.PID > 0 {
		rec.Caller.Unit, rec.Caller.Exe, rec.Caller.Comm = loaderOf(load)
	}
	name := rec.Caller.Comm
	sort := l.told.sortOf(fmt.Sprint(p.typ, cmp.Or(rec.Caller.Exe, name)), time.Now())
	switch {
	case name != "":
	case load.PID > 0:
		name = fmt.Sprintf("process %d, which has ended", load.PID)
	default:
		name = "somebody"
	}
	l.d.tellForeign(rec, sort, rec.Reason, name)
}

// loaded is what there is to know of a program that somebody else loaded.
type loaded struct {
	id   uint32
	tag  string
	gone bool // when it was looked at; then there is nothing else
	typ  uint32
	name string
	uid  uint32 // who loaded it
}

func (p loaded) String() string {
	if p.gone {
		return fmt.Sprintf("bpf prog_load, of program %d, tag %s, which is gone", p.id, p.tag)
	}
	return fmt.Sprintf("bpf prog_load of type %s %q, of program %d, tag %s", bpfname.Programs.Name(p.typ), p.name, p.id, p.tag)
}

func programOf(load progwatch.Load) loaded {
	l := loaded{id: load.ID, tag: hex.EncodeToString(load.Tag[:]), gone: true, uid: overflowID}
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(load.ID))
	if err != nil {
		return l
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return l
	}
	l.gone, l.typ, l.name, l.tag = false, uint32(info.Type), info.Name, info.Tag
	if uid, ok := info.CreatedByUID(); ok {
		l.uid = uid
	}
	return l
}

// clockTick is that of /proc, proc_pid_stat(5): 100 a second wherever hornetd runs.
const clockTick = 10 * time.Millisecond

// loaderOf looks up who loaded a program. A process that began behind the load has
// got its number since, and is somebody else. What it runs it may have executed since.
// All is empty where it has ended.
func loaderOf(load progwatch.Load) (unit, exe, name string) {
	fd, err := unix.PidfdOpen(load.PID, 0)
	if err != nil {
		return "", "", ""
	}
	defer unix.Close(fd)
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", load.PID))
	p, err := pidfd.Identify(fd)
	if err != nil || time.Duration(p.Started)*clockTick > load.Boot {
		return "", "", ""
	}
	unit, file := processFacts(fd)
	return unit, file.Path, strings.TrimSpace(string(comm))
}

// told bounds how many sorts of loads are told apart.
type told struct {
	sorts map[string]bool
	since time.Time
}

// sortOf is what a load counts together with others by: their names are theirs to
// choose, and nobody fills the log with new ones.
func (t *told) sortOf(sort string, now time.Time) string {
	if now.Sub(t.since) > coalesceFor {
		clear(t.sorts)
		t.since = now
	}
	if !t.sorts[sort] && len(t.sorts) >= mostSorts {
		return "of many"
	}
	t.sorts[sort] = true
	return sort
}
