package daemon

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
)

const verbUnload = "unload"

// unload takes a collection out of the kernel. It runs on the owner's thread.
func (d *Daemon) unload(who Peer, name string, force bool) error {
	return d.unloadFor(who, name, force, "")
}

// unloadFor is unload, for a reason that nobody asked for.
func (d *Daemon) unloadFor(who Peer, name string, force bool, reason string) (err error) {
	a := d.begin(who, verbUnload, name, api.EventUnloaded)
	a.rec.Reason = reason
	defer func() { err = a.conclude(err) }()

	if err := d.may(who, policy.Unload, name); err != nil {
		return err
	}
	if isHeld(name) {
		return d.endQuarantine(a, name, force)
	}
	c := d.collection(name)
	if c == nil {
		return d.forget(a, name) // not running is what was asked for
	}
	return d.takeOut(a, c, fmt.Sprintf("unloaded by uid %d", who.UID))
}

// takeOut ends what runs, as a. why is for who holds a lease of it.
func (d *Daemon) takeOut(a *act, c *collection, why string) error {
	name := c.record.Name
	a.of(c)
	n, err := pinning.ParseName(name)
	if err != nil {
		return err
	}
	if err := a.intend(); err != nil {
		return err
	}
	// The point of no return: the first thing Remove does is to take the name
	// away; whatever it leaves undone the next start sweeps.
	pending, err := d.store.OnTrial(c.record)
	pending = pending || err != nil // Confirm finds out
	if err := d.removed(d.store.Remove(n), &c.record); err != nil {
		return err
	}
	if pending {
		d.tell("superseded", d.settled(d.store.Confirm(c.record)))
	}
	d.mu.Lock()
	d.overtakeLocked(name)
	delete(d.running, name)
	d.settleLeaseLocked(name, why)
	delete(d.failed, name) // a replacement that waits for its target
	if _, _, isInstance := manifest.SplitInstance(name); isInstance || isOwn(name) {
		delete(d.declared, name) // it was there because it ran
	}
	d.mu.Unlock()
	d.vacate(name)
	d.dropBundle(name)
	return nil
}

// removed is what is left of the error of a removal, of what r is the record of if
// that is known. A directory that somebody took away is none: not to be there is what
// was asked for. What has no pin any more can run still.
func (d *Daemon) removed(err error, r *pinning.Record) error {
	err = d.settled(err)
	if !errors.Is(err, pinning.ErrNotExist) {
		return err
	}
	if r != nil {
		d.tell("what ran without a pin", leave(*r, pinning.Record{}))
	}
	return nil
}

// forget ends what is remembered of a load that failed. One that waits for its
// target is not loaded when that comes, and one whose programs are being verified not
// when they are, which is a change and goes on record.
func (d *Daemon) forget(a *act, name string) error {
	d.mu.RLock()
	a.quiet = !d.failed[name].waits() && d.verifying[name] == nil
	d.mu.RUnlock()
	if !a.quiet {
		if err := a.intend(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	d.overtakeLocked(name)
	delete(d.failed, name)
	d.mu.Unlock()
	return nil
}

// isHeld reports whether name is that of a quarantined directory.
func isHeld(name string) bool { return strings.HasPrefix(name, "quarantine-") }

// endQuarantine ends what runs in a quarantined directory.
func (d *Daemon) endQuarantine(a *act, dir string, force bool) error {
	if !force {
		return remedy.With(api.Errorf(api.KindConflict, "%s: quarantined: %s", dir, d.heldFor(dir)),
			"hornetctl unload --force %s ends its programs", dir)
	}
	if err := a.intend(); err != nil {
		return err
	}
	if err := d.removed(d.store.RemoveQuarantined(dir), d.held[dir].record); err != nil {
		return err
	}
	d.mu.Lock()
	name := d.held[dir].name
	delete(d.held, dir)
	d.mu.Unlock()
	d.vacate(name)
	return nil
}

// unheld refuses to load beside a quarantined collection of the same name:
// what that one has attached still runs, and everything would run twice.
func (d *Daemon) unheld(name string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, dir := range sortedKeys(d.held) {
		if h := d.held[dir]; h.name == name {
			return remedy.With(api.Errorf(api.KindConflict, "collection %q: %s still runs what it was: %s", name, dir, h.reason),
				"%s", quarantineHint(dir))
		}
	}
	return nil
}

func (d *Daemon) heldFor(dir string) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.held[dir].reason
}
