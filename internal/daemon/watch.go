package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
)

const (
	// pulse is how often everything is looked at without a hint. A link that
	// somebody detached, and an interface in another network namespace, give
	// none.
	pulse = 500 * time.Millisecond
	// settle is how long hints are gathered, at least: one interface sends a dozen.
	settle = 10 * time.Millisecond
	// share bounds what a storm of hints can cost: a look that took 1 ms is not
	// taken again within share ms, unless by the pulse.
	share = 10
)

// watcher finds what is not as it should be, and has it repaired. It looks on a
// goroutine of its own and repairs on the owner's thread, so that nothing is
// repaired while something else changes, and no reader waits.
type watcher struct {
	d     *Daemon
	hints *hints
	tries map[string]patience
	done  chan struct{}

	busy  atomic.Bool   // looks, and does not wait for the owner's thread
	beats atomic.Uint64 // of its progress

	idle    map[uint32]bool // links whose targets were seen to go: nobody took those away
	known   map[string]known
	symbols loader.Symbols
	rounds  int       // since everything was looked at
	dived   time.Time // when the directories were read last
	deep    bool      // they are read in this round
}

// known is what there is to know of a running collection while it is the same.
type known struct {
	of      *collection
	targets []loader.Target
	visits  bool // it is in other network namespaces or in processes, which give no hints
	err     error
	foreign []string            // what is not of hornetd's making in its directory
	links   []*loader.LinkState // as they were when all was looked at last; nil: gone
	looked  bool                // it was
	wrong   bool                // and there was something to repair
	ended   bool                // and an end was tried, as what its caller showed is no more
}

// allEvery is after how many rounds everything is looked at though there was no
// hint.
const allEvery = 20

// watch begins to look after what runs.
func (d *Daemon) watch() {
	w := &watcher{d: d, tries: map[string]patience{}, idle: map[uint32]bool{}, known: map[string]known{}, dived: time.Now(), done: make(chan struct{})}
	var err error
	if w.hints, err = newHints(); err != nil {
		d.tellState("", remedy.With(err, "look into the log for what refused it; changes are found all the same, up to %s later", pulse))
	}
	d.watcher.Store(w)
	go w.run()
}

func (w *watcher) run() {
	defer close(w.done)
	defer w.hints.close()
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	hinted := true
	for {
		w.busy.Store(true)
		rest := min(max(settle, share*w.survey(hinted)), pulse)
		w.busy.Store(false)
		hinted = false
		select {
		case <-w.d.owner.quit:
			return
		case <-tick.C:
		case <-w.hints.wake:
			select {
			case <-w.d.owner.quit:
				return
			case <-time.After(rest):
				hinted = true
			}
		}
	}
}

// do runs job on the owner's thread, whose turn is not the watcher's to answer for.
func (w *watcher) do(job func() error) error {
	w.busy.Store(false)
	defer func() {
		w.beats.Add(1)
		w.busy.Store(true)
	}()
	return w.d.owner.do(job)
}

// wait waits until a watcher that was told to stop has, but not for ever: what it
// looks at may not answer.
func (w *watcher) wait(limit time.Duration) error {
	if w == nil {
		return nil
	}
	select {
	case <-w.done:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("watch: a look at what runs has not ended within %s: something that a collection is attached to does not answer", limit)
	}
}

// charge is what the watcher looks after at one moment.
type charge struct {
	running map[string]*collection
	waiting map[string]declared // what could not load for want of a target
}

func (w *watcher) charge() charge {
	d := w.d
	d.mu.RLock()
	defer d.mu.RUnlock()
	c := charge{maps.Clone(d.running), map[string]declared{}}
	for name, f := range d.failed {
		if dc, ok := d.declared[name]; ok && f.waits() && dc.err == nil {
			c.waiting[name] = dc
		}
	}
	return c
}

// survey looks once at everything, or without a hint only at what gives none, has repaired what is wrong, and returns how
// long the looking took.
func (w *watcher) survey(hinted bool) time.Duration {
	began := time.Now()
	c := w.charge()
	if w.d.amnesty.Swap(false) {
		clear(w.tries)
	}
	if w.d.fallDue() {
		w.do(func() error { w.d.tellFall(""); return nil })
	}
	maps.DeleteFunc(w.tries, func(name string, _ patience) bool {
		_, waits := c.waiting[name]
		return c.running[name] == nil && !waits
	})
	// The directories before what is in them, so that nothing is missed between.
	w.learn(c)
	w.departs(c)
	w.rounds++
	w.deep = time.Since(w.dived) >= allEvery*pulse
	if w.deep {
		w.dived = time.Now()
	}
	all := hinted || w.deep || w.rounds >= allEvery
	if all {
		w.aim(c)
		w.rounds = 0
		w.do(func() error { w.d.save(); w.d.guard.forget(time.Now()); return w.d.readEnrolled() })
	}
	var work []func()
	v := loader.NewViewWith(&w.symbols)
	for name, running := range c.running {
		w.beats.Add(1)
		if !all && w.calm(running) {
			continue
		}
		switch wrong, taken := w.wrong(v, running); wrong {
		case toRepair:
			work = append(work, func() { w.try(name, taken, w.d.reconcile) })
		case toEnd:
			delete(w.tries, name) // what is somebody else's by now waits for no repair
			work = append(work, func() { w.try(name, false, w.d.reconcile) })
		case toTell: // which is no attempt
			work = append(work, func() { w.tell(name) })
		}
	}
	for name, dc := range c.waiting {
		if v.Present(dc.manifest) == nil {
			work = append(work, func() { w.try(name, false, w.d.comes) })
		}
	}
	looked := time.Since(began)
	for _, f := range work {
		f()
	}
	return looked
}

// wrong is what is to be done about a collection.
type wrong int

const (
	nothing wrong = iota
	toTell        // what is wrong with it has changed, and cannot be repaired now
	toRepair
	toEnd // what its caller showed is no more
)

// wrong reports what is to be done, and whether something was taken away.
func (w *watcher) wrong(v *loader.View, c *collection) (what wrong, taken bool) {
	name := c.record.Name
	k := w.known[name]
	if k.err != nil {
		return toRepair, false // which tells
	}
	if ended(c.record, k.targets) != "" {
		first := !k.ended
		k.wrong, k.ended = true, true
		w.known[name] = k
		if first {
			return toEnd, false
		}
		return toRepair, false // it failed
	}
	s, err := w.d.glance(v, c.record, k.targets, w.d.manifestOf(c.record))
	if err != nil {
		if slices.Equal(c.drift, []string{err.Error()}) {
			return nothing, false
		}
		return toTell, false
	}
	if w.deep || len(k.foreign) > 0 {
		k.foreign = w.d.foreignIn(c.record)
	}
	if w.deep && slices.ContainsFunc(k.targets, loader.Target.IsNetfilter) {
		w.do(func() error { // or it would be in the way of an upgrade's gap
			if w.d.collection(name) == c {
				s.unhook()
			}
			return nil
		})
	}
	s.foreign = k.foreign
	w.remember(c, k, s)
	s.with(c.record, w.heed(name))
	g := diagnose(c.record, s, revokedRecord(w.d.trusted(), c.record))
	k = w.known[name]
	k.wrong = len(g.repairs) > 0
	w.known[name] = k
	if k.wrong {
		return toRepair, g.taken
	}
	if p := w.tries[name]; p.stuck != nil {
		w.tries[name] = p.forgets(time.Now())
	}
	if !slices.Equal(g.drift, c.drift) {
		return toTell, false
	}
	return nothing, false
}

// remember keeps what was seen: what calm compares, and which links have lost
// their target.
func (w *watcher) remember(c *collection, k known, s sight) {
	k.links, k.looked = make([]*loader.LinkState, len(s.links)), true
	for i, l := range s.links {
		k.links[i] = l.state
		// Alive or not: what was in a network namespace goes some time behind it, and
		// another one of its name, inode and numbers may be there by then.
		if l.state != nil && absentTarget(l.err) {
			w.idle[c.record.Links[i].ID] = true
		}
	}
	w.known[c.record.Name] = k
}

// departs notes which links are at interfaces that went, as the kernel told: one
// of the same number may be there before anybody looks.
func (w *watcher) departs(c charge) {
	gone := w.hints.departed()
	here := map[uint32]bool{}
	for name, running := range c.running {
		for i, t := range w.known[name].targets {
			id := running.record.Links[i].ID
			here[id] = true
			if t.Netns == "" && !t.Caller && t.Ifindex != 0 && gone[t.Ifindex] {
				w.idle[id] = true
			}
		}
	}
	maps.DeleteFunc(w.idle, func(id uint32, _ bool) bool { return !here[id] })
}

// heed is what is remembered for a repair.
func (w *watcher) heed(name string) heed {
	p := w.tries[name]
	return heed{idle: maps.Clone(w.idle), stuck: p.barred(time.Now()), over: p.over}
}

// try runs a repair on the owner's thread, if it is not too soon.
func (w *watcher) try(name string, taken bool, repair func(string, heed) (mended, error)) {
	p, now := w.tries[name], time.Now()
	if !p.ready(now, taken) {
		return
	}
	if taken {
		p = p.fights(now)
		w.tries[name] = p
	}
	h := w.heed(name)
	var m mended
	err := w.do(func() (err error) {
		m, err = repair(name, h)
		return err
	})
	if !errors.Is(err, errStopped) {
		w.tries[name] = p.after(time.Now(), m, err)
	}
}

// tell has noted what cannot be repaired. It can by now, maybe: then it was a
// repair like any other.
func (w *watcher) tell(name string) {
	p, now := w.tries[name], time.Now()
	h := w.heed(name)
	h.over = p.fights(now).over
	var m mended
	err := w.do(func() (err error) {
		m, err = w.d.reconcile(name, h)
		return err
	})
	if m.repaired {
		w.tries[name] = p.after(time.Now(), m, err)
	}
}

// aim watches the directories where changes show of the targets of c.
func (w *watcher) aim(c charge) {
	var targets []loader.Target
	var attaches []manifest.Attach
	for name := range c.running {
		targets = append(targets, w.known[name].targets...)
	}
	for _, dc := range c.waiting {
		attaches = append(attaches, dc.manifest.Attach...)
	}
	w.hints.aim("", append(loader.Places(targets, attaches), w.d.store.Root()))
}

// learn keeps what does not change while a collection is the same one: what its
// targets are, and which directories have its pins.
func (w *watcher) learn(c charge) {
	maps.DeleteFunc(w.known, func(name string, _ known) bool {
		if c.running[name] == nil {
			w.hints.aim(name, nil)
		}
		return c.running[name] == nil
	})
	for name, running := range c.running {
		if w.known[name].of == running {
			continue
		}
		k := known{of: running}
		if was := w.known[name]; was.of != nil && reflect.DeepEqual(was.of.record, running.record) {
			k.foreign, k.ended = was.foreign, was.ended
		}
		k.targets, k.err = targetsOf(running.record)
		k.visits = slices.ContainsFunc(k.targets, func(t loader.Target) bool { return t.Netns != "" || t.PID != 0 || t.NetnsID != nil })
		w.known[name] = k
		w.hints.aim(name, w.d.store.Pins(name))
	}
}

// calm reports whether c is as it was when it was looked at last, as far as it
// gives no hints: its links run what they ran, at what they were at. That is all
// that is asked without a hint.
func (w *watcher) calm(c *collection) bool {
	k := w.known[c.record.Name]
	if k.err != nil || k.visits || !k.looked || k.wrong || w.tries[c.record.Name].due(time.Now()) {
		return false
	}
	for i, l := range c.record.Links {
		s, err := loader.StateByID(l.ID)
		was := k.links[i]
		if was == nil && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if was == nil || err != nil || !reflect.DeepEqual(s, *was) {
			return false
		}
	}
	return true
}

// awaited reports whether m waits for its targets already, since a start: it
// must not keep a reload from what else that is for.
func (d *Daemon) awaited(m manifest.Manifest) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	dc, ok := d.declared[m.Name]
	return ok && d.failed[m.Name].waits() && dc.err == nil && dc.manifest.Digest == m.Digest
}

// comes loads a collection whose targets were not there, and now are. It runs
// on the owner's thread.
func (d *Daemon) comes(name string, _ heed) (mended, error) {
	d.mu.RLock()
	f, dc := d.failed[name], d.declared[name]
	d.mu.RUnlock()
	if !f.waits() || dc.err != nil {
		return mended{}, nil
	}
	d.booting = f.booting
	defer func() { d.booting = false }()
	defer debug.FreeOSMemory() // kernel BTF is megabytes
	as := asLoad
	if d.collection(name) != nil {
		as = asReload // what waits is its replacement
	}
	err := d.load(self(), dc.source, as, btf.NewCache())
	if err == nil {
		d.mu.Lock()
		delete(d.failed, name)
		d.mu.Unlock()
		return mended{repaired: true}, nil
	}
	d.fail(name, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	if now, ok := d.failed[name]; ok && !absentTarget(err) {
		now.tries = f.tries - 1 // something else, which may be that it went again
		d.failed[name] = now
	}
	// Its names lead somewhere, and the load still misses something: what that is
	// only the object says, so that it takes a load to find out.
	blind := absentTarget(err) && loader.NewView().Present(dc.manifest) == nil
	return mended{blind: blind}, err
}
