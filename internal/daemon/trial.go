package daemon

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

// trialPulse is how often a version on trial is looked at.
const trialPulse = 200 * time.Millisecond

// unansweredMost is for how long behind its end a trial waits to be told anything
// of the version.
const unansweredMost = 10 * time.Second

// trial is what a new version has to pass. Until it has, maps, programs and the
// record of the version before stay pinned, and the ratchet does not know of the
// new one: what comes back must be loadable again.
//
// The record of the new version names where the old one is; so a start finds a
// trial that nobody watched to its end, and goes back: the new version was not
// confirmed, and the manifests then bring it on trial again.
type trial struct {
	health manifest.Health
	gauge  *loader.Gauge // nil: health is about a program
	claim  signing.Claim
	until  time.Time
	began  uint64 // what the counter showed first
	before origin // of what it would go back to

	failed string // why it did not pass

	// Of ending it, where that fails; for the owner's thread.
	next  time.Time
	pause time.Duration
}

// begins returns the trial of m with the new collection's maps, nil where there
// is none: m has no [health], or there is nothing to go back to.
func (d *Daemon) begins(old *collection, m manifest.Manifest, gauge *loader.Gauge, coll *ebpf.Collection, claim signing.Claim) (*trial, error) {
	switch {
	case d.mending != nil:
		return d.mending.trial, nil // goes on with the same version
	case old == nil || m.Health == nil:
		return nil, nil
	}
	t := &trial{health: *m.Health, gauge: gauge, claim: claim, until: time.Now().Add(m.Health.For), before: old.origin}
	if old.trial != nil {
		pending, err := d.store.OnTrial(old.record)
		if err != nil {
			return nil, err
		}
		if pending { // what that one would have gone back to
			t.before = old.trial.before
		}
	}
	if gauge == nil {
		return t, nil
	}
	var err error
	t.began, err = gauge.Read(coll.Maps[gauge.Map])
	return t, err
}

// commit gives what was built in the stage its name. One on trial leaves what it
// takes the place of beside it; one that comes while another is on trial leaves
// what that one would have gone back to.
func (d *Daemon) commit(stage *pinning.Stage, old *collection, t *trial, record *pinning.Record) (func() error, error) {
	before := old
	if before == nil {
		before = d.mending // whose directory is gone
	}
	pending := false
	if before != nil {
		var err error
		if pending, err = d.store.OnTrial(before.record); err != nil {
			return nil, err
		}
	}
	replace, over := stage.Replace, false
	switch {
	case old == nil:
		replace = stage.Commit
		if pending {
			record.Trial = before.record.Trial
		}
	case pending && (t != nil || d.mending != nil):
		record.Trial = old.record.Trial
	case t != nil:
		record.Trial = stage.ID()
		replace = stage.Supersede
	default:
		over = pending
	}
	err := stage.PinRecord(*record)
	return func() error {
		if err := d.settled(replace()); err != nil {
			return err
		}
		if over {
			d.tell("superseded", d.settled(d.store.Confirm(old.record)))
		}
		return nil
	}, err
}

// try watches c, which is on trial, without holding up anybody: it looks on the
// owner's thread, between changes, for some microseconds each time.
func (d *Daemon) try(name string, t *trial) {
	tick := time.NewTicker(trialPulse)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-d.owner.quit:
			return
		case <-tick.C:
		}
		err := d.owner.do(func() error {
			over = d.judge(name, t)
			return nil
		})
		if err != nil {
			return
		}
	}
}

// judge looks once at what is on trial, and reports whether that is over.
func (d *Daemon) judge(name string, t *trial) bool {
	c := d.collection(name)
	if c == nil || c.trial != t {
		return true // unloaded, or another version has come
	}
	now := time.Now()
	if now.Before(t.next) {
		return false
	}
	ends := !now.Before(t.until)
	if t.failed == "" {
		err := d.healthy(c, ends)
		if t.unanswered(err, now) {
			return false
		}
		if err != nil {
			t.failed = err.Error()
		}
	}
	var err error
	again := true
	switch {
	case t.failed != "":
		if err = d.giveBack(c, t.failed); err != nil {
			again = pinning.Unanswered(err)
			d.cannotReturn(name, again, err)
		}
	case !ends:
		return false
	default:
		err = d.confirm(c)
	}
	if err == nil || !again {
		return true
	}
	t.pause = min(max(2*t.pause, trialPulse), longestWait)
	t.next = now.Add(t.pause)
	return false
}

// unanswered reports whether err says nothing of the version, and it is to be
// looked at again: the kernel did not answer, or somebody took away the pin, which
// is mended. Not for ever: what cannot be said to hold has not passed.
func (t *trial) unanswered(err error, now time.Time) bool {
	return (pinning.Unanswered(err) || errors.Is(err, pinning.ErrNotExist)) && now.Before(t.until.Add(unansweredMost))
}

// healthy looks whether what must hold does. At the end of a trial, which ends
// says, the counter must have come where it should.
func (d *Daemon) healthy(c *collection, ends bool) error {
	n, err := pinning.ParseName(c.record.Name)
	if err != nil {
		return err
	}
	entry, err := d.store.Hold(n, c.record)
	if err != nil {
		return err
	}
	defer entry.Close()
	if run := c.trial.health.Run; run != nil {
		return runs(entry, *run)
	}
	m, err := pinnedMap(entry, c.trial.gauge.Map)
	if err != nil {
		return err
	}
	defer m.Close()
	now, err := c.trial.gauge.Read(m)
	if err != nil {
		return err
	}
	return c.trial.reads(now, ends)
}

// reads holds what the counter shows against what it should.
func (t *trial) reads(now uint64, ends bool) error {
	switch h := t.health; {
	case h.Equals != nil && now != *h.Equals:
		return fmt.Errorf("%s is %d, not %d", h.Counter(), now, *h.Equals)
	case h.AtLeast != nil && ends && now < *h.AtLeast:
		return fmt.Errorf("%s is %d after %s, not at least %d", h.Counter(), now, h.For, *h.AtLeast)
	case h.Grows && ends && now <= t.began:
		return fmt.Errorf("%s was %d and is %d after %s, and should have grown", h.Counter(), t.began, now, h.For)
	}
	return nil
}

func runs(entry *pinning.Entry, test manifest.Test) error {
	for _, r := range entry.Record.Programs {
		if r.Name != test.Program {
			continue
		}
		p, err := openProgram(entry, r)
		if err != nil {
			return err
		}
		defer p.Close()
		return loader.RunTests(&ebpf.Collection{Programs: map[string]*ebpf.Program{test.Program: p}}, []manifest.Test{test})
	}
	return fmt.Errorf("program %q: %w", test.Program, pinning.ErrNotExist)
}

func pinnedMap(entry *pinning.Entry, name string) (*ebpf.Map, error) {
	for _, r := range entry.Record.Maps {
		if r.Name == name {
			return openMap(entry, r)
		}
	}
	return nil, fmt.Errorf("map %q: %w", name, pinning.ErrNotExist)
}

// about is what an act on c has on record.
func (c *collection) about(a *act) {
	of := recordedClaim(c.record)
	a.rec.Manifest, a.rec.DropIns, a.rec.Version, a.rec.Object, a.rec.Signer = of.ManifestDigest, of.DropIns, of.Version, of.ObjectDigest, of.Signer
}

// confirm ends a trial that was passed: what it would have gone back to goes, and
// the version counts.
func (d *Daemon) confirm(c *collection) (err error) {
	a := d.begin(self(), audit.VerbConfirm, c.record.Name, api.EventUpgraded)
	defer func() { err = a.conclude(err) }()
	c.about(a)
	a.rec.SignerKey = c.trial.claim.Key
	if err := a.intend(); err != nil {
		return err
	}
	// The point of no return.
	if err := d.settled(d.store.Confirm(c.record)); err != nil {
		return err
	}
	d.advance(c.trial.claim)
	now := *c
	now.trial = nil
	d.replaceRunning(&now)
	d.fit(&now)
	return nil
}

// giveBack makes what c took the place of the committed collection again.
func (d *Daemon) giveBack(c *collection, why string) (err error) {
	name := c.record.Name
	a := d.begin(self(), audit.VerbReturn, name, api.EventReturned)
	defer func() { err = a.conclude(err) }()
	c.about(a)
	a.rec.Reason = why
	n, err := pinning.ParseName(name)
	if err != nil {
		return err
	}
	from, err := d.store.Superseded(c.record.Trial, n)
	if err != nil {
		return err
	}
	defer from.Close()
	if reason := revokedRecord(d.trusted(), from.Record); reason != "" {
		return remedy.With(api.Errorf(api.KindConflict, "collection %q: the version before: %s", name, reason),
			"hornetctl upgrade %s with a better one, or hornetctl unload %s", name, name)
	}
	if err := a.intend(); err != nil {
		return err
	}
	// What was left of its links when it was superseded.
	if err := d.settled(d.store.Unlink(c.record.Trial, n)); err != nil {
		return err
	}
	record, err := d.bringBack(from, c, func(r *pinning.Record) {
		r.Trial = ""
		r.Lease = c.record.Lease // as it is by now: it may have ended meanwhile
		if now, err := d.committed(name); err == nil {
			for program, run := range ran(now) { // besides their own, which go on
				add(r, program, run)
			}
			now.Close()
		}
		if c.trial != nil { // it was watched
			r.Returned = &pinning.Returned{ManifestDigest: c.record.ManifestDigest, ObjectDigest: c.record.ObjectDigest,
				Version: c.record.Version, Reason: why, At: d.clock().UTC()}
		}
	})
	if err != nil {
		return err
	}
	d.tell("superseded", d.settled(d.store.Confirm(c.record)))
	a.loaded(record, false)
	back := &collection{record: record, proof: c.proof}
	if c.trial != nil {
		back.origin = c.trial.before
	}
	d.replaceRunning(back)
	d.fit(back)
	return nil
}

// cannotReturn leaves on what did not pass its trial and cannot be taken back. It
// stays unconfirmed until that is tried again: soon, or by the next start.
func (d *Daemon) cannotReturn(name string, again bool, err error) {
	now := *d.collection(name) // what was tried may have changed it
	now.unconfirmed = unconfirmed(now.record, now.trial.failed, err)
	if !again {
		now.trial = nil
	}
	d.replaceRunning(&now)
}

// unconfirmed says that a version runs on because the one before it cannot come
// back.
func unconfirmed(r pinning.Record, why string, err error) error {
	return remedy.With(fmt.Errorf("version %d did not pass its trial (%s), and runs on unconfirmed: the version before it does not come back: %w", r.Version, why, err),
		"%s", remedyOr(err, "hornetctl upgrade "+r.Name+" with a better version, or hornetctl unload "+r.Name))
}

func remedyOr(err error, hint string) string {
	if r := remedy.Of(err); r != "" {
		return r
	}
	return hint
}

func (d *Daemon) replaceRunning(c *collection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[c.record.Name] = c
}

// endTrials goes back, at start, from every version whose trial nobody has
// watched to its end. It returns, for the next start, what those would have gone
// back to that cannot, without links, and why.
func (d *Daemon) endTrials() (stay map[string]error, err error) {
	stay = map[string]error{}
	names, err := d.store.Entries()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		entry, err := d.store.Load(name)
		if pinning.Unanswered(err) {
			entry, err = d.store.Load(name)
		}
		if pinning.Unanswered(err) {
			return nil, err // a sweep would take away what it may be to go back to
		}
		if err != nil {
			continue // adopt tells what is wrong with it
		}
		seen := look(entry)
		entry.Close()
		if len(seen.differs) > 0 {
			continue
		}
		pending, err := d.store.OnTrial(entry.Record)
		if err != nil {
			pending, err = d.store.OnTrial(entry.Record)
		}
		if err != nil {
			return nil, err // as above
		}
		if !pending {
			continue
		}
		// A crash may have left its links. They go, whether it comes back or not: it
		// must not run beside the other.
		left := d.store.Unlink(entry.Record.Trial, name)
		const why = "hornetd ended before its trial did"
		if err := d.giveBack(&collection{record: entry.Record}, why); err != nil {
			d.log.Error("return", zap.String("collection", name.String()), zap.Error(err))
			stay[entry.Record.Trial] = unconfirmed(entry.Record, why, errors.Join(err, left))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.running) // adopt fills it
	return stay, nil
}

// unreturned notes of what runs why what it would have gone back to stays where it is.
func (d *Daemon) unreturned(trials map[string]error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.running {
		c.unconfirmed = trials[c.record.Trial]
	}
}

// returned says what c, which came back, came back from.
func (c *collection) returned() string {
	r := c.record.Returned
	return fmt.Sprintf("version %d did not pass its trial: %s", r.Version, r.Reason)
}

// again says how what did not pass is tried once more.
func (c *collection) again() string {
	return "mend it, or try it again as it is: hornetctl upgrade " + c.record.Name
}

// failedBefore reports whether what is on disk is the version that c came back
// from. Whether the object is, is only known where it was read.
func (c *collection) failedBefore(m manifest.Manifest) bool {
	r := c.record.Returned
	return r != nil && r.ManifestDigest == hexDigest(m.Digest) && (c.proof.digest == "" || c.proof.digest == r.ObjectDigest)
}
