package daemon

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
)

const (
	// pulse is how often everything is looked at without a hint. A link that
	// somebody detached, and an interface in another network namespace, give
	// none.
	pulse = 400 * time.Millisecond
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
}

// watch begins to look after what runs.
func (d *Daemon) watch() {
	w := &watcher{d: d, tries: map[string]patience{}, done: make(chan struct{})}
	var err error
	if w.hints, err = newHints(); err != nil {
		d.tellState(remedy.With(err, "look into the log for what refused it; changes are found all the same, up to %s later", pulse))
	}
	d.watcher = w
	go w.run()
}

func (w *watcher) run() {
	defer close(w.done)
	defer w.hints.close()
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for {
		rest := min(max(settle, share*w.survey()), pulse)
		select {
		case <-w.d.owner.quit:
			return
		case <-tick.C:
		case <-w.hints.wake:
			select {
			case <-w.d.owner.quit:
				return
			case <-time.After(rest):
			}
		}
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

// survey looks at everything once, has repaired what is wrong, and returns how
// long the looking took.
func (w *watcher) survey() time.Duration {
	began := time.Now()
	c := w.charge()
	if w.d.amnesty.Swap(false) {
		clear(w.tries)
	}
	maps.DeleteFunc(w.tries, func(name string, _ patience) bool {
		_, waits := c.waiting[name]
		return c.running[name] == nil && !waits
	})
	// What is watched before it is looked at is not missed between the two.
	w.hints.aim(w.places(c))
	var work []func()
	v := loader.NewView()
	for name, running := range c.running {
		switch wrong, taken := w.wrong(v, running); wrong {
		case toRepair:
			work = append(work, func() { w.try(name, taken, w.d.reconcile) })
		case toTell: // which is no attempt
			work = append(work, func() {
				w.d.owner.do(func() error { _, err := w.d.reconcile(name); return err })
			})
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
)

// wrong reports what is to be done, and whether something was taken away.
func (w *watcher) wrong(v *loader.View, c *collection) (what wrong, taken bool) {
	s, err := w.d.glance(v, c.record, w.d.manifestOf(c.record))
	if err != nil {
		return toRepair, false
	}
	g := diagnose(c.record, s, revokedRecord(w.d.trusted(), c.record))
	switch {
	case len(g.repairs) > 0:
		return toRepair, g.taken
	case !slices.Equal(g.drift, c.drift) && !w.tries[c.record.Name].over:
		return toTell, false
	}
	return nothing, false
}

// try runs a repair on the owner's thread, if it is not too soon.
func (w *watcher) try(name string, taken bool, repair func(string) (mended, error)) {
	p, now := w.tries[name], time.Now()
	if !p.ready(now, taken) {
		return
	}
	if taken {
		if p = p.fights(now); p.over {
			w.tries[name] = p
			w.d.owner.do(func() error { w.d.giveUp(name); return nil })
			return
		}
	}
	var m mended
	err := w.d.owner.do(func() (err error) {
		m, err = repair(name)
		return err
	})
	if !errors.Is(err, errStopped) {
		w.tries[name] = p.after(time.Now(), m, err)
	}
}

// places are the directories where changes show.
func (w *watcher) places(c charge) []string {
	names := make([]string, 0, len(c.running))
	var targets []loader.Target
	var attaches []manifest.Attach
	for name, running := range c.running {
		names = append(names, name)
		targets = append(targets, targetsOf(running.record)...)
	}
	for _, dc := range c.waiting {
		attaches = append(attaches, dc.manifest.Attach...)
	}
	return append(w.d.store.Watched(names), loader.Places(targets, attaches)...)
}

func targetsOf(r pinning.Record) []loader.Target {
	all := make([]loader.Target, 0, len(r.Links))
	for _, l := range r.Links {
		var t loader.Target
		if json.Unmarshal(l.Target, &t) == nil {
			all = append(all, t)
		}
	}
	return all
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
func (d *Daemon) comes(name string) (mended, error) {
	d.mu.RLock()
	f, dc := d.failed[name], d.declared[name]
	d.mu.RUnlock()
	if !f.waits() || dc.err != nil {
		return mended{}, nil
	}
	d.booting = f.booting
	defer func() { d.booting = false }()
	err := d.load(self(), dc.source, asLoad, btf.NewCache())
	if err == nil {
		return mended{repaired: true}, nil
	}
	d.fail(name, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	if now, ok := d.failed[name]; ok && !absentTarget(err) {
		now.tries = f.tries - 1 // something else, which may be that it went again
		d.failed[name] = now
	}
	return mended{}, err
}
