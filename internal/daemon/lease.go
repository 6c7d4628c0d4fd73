package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/cilium/ebpf/btf"
	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
)

// lease is what a collection runs for: a client's connection, or for a time the
// chance that the client comes back. There is one for each collection whose record
// has one. All of it is guarded by Daemon.mu.
type lease struct {
	of    pinning.Lease
	held  bool
	pid   int32       // of who holds it, for people
	until time.Time   // while nobody does
	grace *time.Timer // until then
	ended chan struct{}
	why   *api.Error // set before ended is closed
}

// newToken returns what the holder of a lease can resume it with, and what is kept
// of it.
func newToken() (token, hash string) {
	var b [32]byte
	rand.Read(b[:]) // it never fails: crypto/rand
	token = hex.EncodeToString(b[:])
	return token, tokenHash(token)
}

func tokenHash(token string) string { return hexDigest(sha256.Sum256([]byte(token))) }

// is reports whether token is the one of l, in a time that does not tell how
// near it is.
func (l *lease) is(token string) bool {
	return subtle.ConstantTimeCompare([]byte(tokenHash(token)), []byte(l.of.TokenSHA256)) == 1
}

// Lease loads a collection that does not run, for as long as who holds the lease;
// with a token of an earlier answer it is taken up again where nobody holds it.
// ctx ends when the client goes.
func (d *Daemon) Lease(ctx context.Context, who Peer, name, resume string) (api.LeaseGrant, error) {
	if err := d.named(name); err != nil {
		return api.LeaseGrant{}, d.refuse(who, "load", name, err)
	}
	if resume != "" {
		if err := d.resumeLease(who, name, resume, d.mayKeep(who, name)); err != nil {
			return api.LeaseGrant{}, d.refuse(who, "load", name, err)
		}
		if _, err := d.audit.Append(audit.Record{Phase: audit.Note, Verb: "resume", Collection: name, Caller: who.recorded()}); err != nil {
			d.EndLease(name, resume, "its resumption cannot be recorded")
			return api.LeaseGrant{}, unrecorded{err}
		}
		return d.grant(name, resume), nil
	}
	if err := d.mayChange(who, policy.Load, name); err != nil {
		return api.LeaseGrant{}, d.refuse(who, "load", name, err)
	}
	return d.loadLease(ctx, who, name, asLoad)
}

// loadLease is Lease of what does not run, with the right to load it.
func (d *Daemon) loadLease(ctx context.Context, who Peer, name string, as loading) (api.LeaseGrant, error) {
	return d.newLease(ctx, who, as, name, d.aheadOf(name), func(as loading) error { return d.loadByName(who, name, as) })
}

// RunLease is Run for as long as who holds the lease.
func (d *Daemon) RunLease(ctx context.Context, who Peer, name string, b api.Bundle) (api.LeaseGrant, error) {
	as, src, err := d.asBundle(who, name, b)
	if err != nil {
		return api.LeaseGrant{}, err
	}
	return d.runLease(ctx, who, src, as)
}

// runLease is RunLease of a bundle whose name is a good one.
func (d *Daemon) runLease(ctx context.Context, who Peer, src manifest.Source, as loading) (api.LeaseGrant, error) {
	return d.newLease(ctx, who, as, src.Name, func() parsed { return d.parseAhead(as.sent, true, src) }, func(as loading) error {
		return d.load(who, src, as, btf.NewCache())
	})
}

// newLease loads name by load, and gives who the lease.
func (d *Daemon) newLease(ctx context.Context, who Peer, as loading, name string, ahead func() parsed, load func(loading) error) (api.LeaseGrant, error) {
	token, hash := newToken()
	as.lease, as.client = hash, ctx
	err := d.change(who, as.verb, name, ahead, func() error {
		if ctx.Err() != nil { // while it waited: nobody would hold it
			return d.refuse(who, as.verb, name, clientGone(name))
		}
		if err := load(as); err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.leases[name].hold(who)
		return nil
	})
	if err != nil {
		return api.LeaseGrant{}, err
	}
	return d.grant(name, token), nil
}

func (d *Daemon) grant(name, token string) api.LeaseGrant {
	return api.LeaseGrant{Token: token, GraceMS: uint64(d.cfg.API.LeaseGrace.Milliseconds()), Collection: d.view(name)}
}

// leasable refuses a lease of what has another reason to run.
func leasable(m manifest.Manifest, old *collection) error {
	switch {
	case old != nil:
		return remedy.With(api.Errorf(api.KindConflict, "collection %q: it runs already, and a lease would end what others loaded", m.Name),
			"hornetctl unload %s first, or do without a lease", m.Name)
	case m.Start == manifest.StartBoot:
		return remedy.With(api.Errorf(api.KindConflict, `collection %q: start = "boot" has it run whether anybody holds a lease or not`, m.Name),
			`say start = "request" in the manifest, or load it without a lease`)
	}
	return nil
}

// leased refuses what wants c to run for another reason than the lease that it runs
// for, and ends with; nil where it has none.
func (c *collection) leased() error {
	l := c.record.Lease
	if l == nil {
		return nil
	}
	name := c.record.Name
	return remedy.With(api.Errorf(api.KindConflict, "collection %q: it runs for a lease of uid %d, and ends with that", name, l.Holder.UID),
		"hornetctl unload %s, then load it without one", name)
}

// leaseOf is what goes into the record of a load: a new lease, or the one of what
// it takes the place of, unless that is to run without.
func (d *Daemon) leaseOf(who Peer, as loading, m manifest.Manifest, old *collection) *pinning.Lease {
	switch {
	case m.Start == manifest.StartBoot:
		return nil
	case as.lease != "":
		return &pinning.Lease{TokenSHA256: as.lease, Holder: pinning.Caller{UID: who.UID, GID: who.GID}}
	case old != nil:
		return old.record.Lease
	case d.mending != nil:
		return d.mending.record.Lease
	}
	return nil
}

// mayKeep decides for all but root whether what they leased may run on for them. A
// manifest that cannot be read takes nothing from them that they have.
func (d *Daemon) mayKeep(who Peer, name string) error {
	m, err := d.onDisk(name)
	if who.UID == 0 || err != nil {
		return nil
	}
	_, err = d.policy.Authorize(who.subject(), policy.Load, m)
	return err
}

// resumeLease gives who the lease back, unless may is why they have no right to it any
// more. To whom it is not theirs, all that is wrong looks the same.
func (d *Daemon) resumeLease(who Peer, name, token string, may error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leases[name]
	if l == nil || l.of.Holder.UID != who.UID || !l.is(token) {
		return remedy.With(fmt.Errorf("collection %q: uid %d has no lease with this token: %w", name, who.UID, policy.ErrDenied),
			"it ended with its connection, or with its time to be resumed: load it anew")
	}
	if may != nil {
		return may
	}
	if l.held {
		return remedy.With(api.Errorf(api.KindConflict, "collection %q: its lease is held by another connection", name), "close that one first")
	}
	l.hold(who)
	return nil
}

func (l *lease) hold(who Peer) {
	if l.grace != nil {
		l.grace.Stop()
	}
	l.held, l.pid, l.until = true, who.PID, time.Time{}
}

// LeaseEnds waits until the lease ends otherwise than by EndLease, and returns why;
// nil where ctx ends first.
func (d *Daemon) LeaseEnds(ctx context.Context, name, token string) *api.Error {
	d.mu.RLock()
	l := d.leases[name]
	d.mu.RUnlock()
	if l == nil || !l.is(token) {
		return api.Errorf(api.KindConflict, "collection %q: the lease has ended", name)
	}
	select {
	case <-l.ended:
		return l.why
	case <-ctx.Done():
		return nil
	}
}

// EndLease unloads the collection that the lease was for, whether others require
// it or not: they have been told that it hangs on a client.
func (d *Daemon) EndLease(name, token, why string) {
	err := d.owner.do(func() error {
		d.mu.RLock()
		l := d.leases[name]
		d.mu.RUnlock()
		if l == nil || !l.is(token) {
			return nil // it has ended, and what runs is another's
		}
		return d.endLease(name, l, why)
	})
	if err != nil {
		d.log.Warn("lease", zap.String("collection", name), zap.Error(err))
	}
}

// endLease runs on the owner's thread. What cannot be unloaded now is tried again
// after a grace, in which it can be resumed.
func (d *Daemon) endLease(name string, l *lease, why string) (err error) {
	if d.collection(name) == nil {
		return nil
	}
	a := d.begin(self(), verbUnload, name, api.EventUnloaded)
	a.rec.Reason = fmt.Sprintf("the lease of uid %d ended: %s", l.of.Holder.UID, why)
	defer func() { err = a.conclude(err) }()
	if err := d.takeOut(a, d.collection(name), a.rec.Reason); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.orphanLocked(name, l)
		return err
	}
	return nil
}

// settleLeaseLocked makes d.leases say what the record of the running collection
// does, after that has changed. why is what the holder of a lease that ends is told.
func (d *Daemon) settleLeaseLocked(name, why string) {
	c, l := d.running[name], d.leases[name]
	if l != nil && (c == nil || c.record.Lease == nil || *c.record.Lease != l.of) {
		if l.grace != nil {
			l.grace.Stop()
		}
		l.why = api.Errorf(api.KindConflict, "collection %q: the lease has ended: %s", name, why)
		close(l.ended)
		delete(d.leases, name)
		l = nil
	}
	if l == nil && c != nil && c.record.Lease != nil {
		l = &lease{of: *c.record.Lease, ended: make(chan struct{})}
		d.leases[name] = l
		d.orphanLocked(name, l)
	}
}

// orphanLocked begins the time in which a lease that nobody holds can be resumed.
func (d *Daemon) orphanLocked(name string, l *lease) {
	grace := d.cfg.API.LeaseGrace
	l.held, l.pid, l.until = false, 0, time.Now().Add(grace)
	l.grace = time.AfterFunc(grace, func() {
		d.owner.do(func() error {
			d.mu.RLock()
			over := d.leases[name] == l && !l.held
			d.mu.RUnlock()
			if !over {
				return nil
			}
			return d.endLease(name, l, fmt.Sprintf("nobody resumed it within %s", grace))
		})
	})
}

// awaitLeases gives, at start, those who held a lease of what runs time to come back.
func (d *Daemon) awaitLeases() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.running {
		d.settleLeaseLocked(name, "")
	}
}

// stopLeases ends the waiting. What runs goes on running.
func (d *Daemon) stopLeases() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.leases {
		if l.grace != nil {
			l.grace.Stop()
		}
	}
}

// viewLeaseLocked shows who a collection runs for.
func (d *Daemon) viewLeaseLocked(name string) *api.Lessee {
	l := d.leases[name]
	if l == nil {
		return nil
	}
	return &api.Lessee{UID: l.of.Holder.UID, PID: l.pid, Until: l.until.Round(0)}
}
