package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// Core is all that the front, which talks to strangers, can ask of the half
// that holds the capabilities. Arguments and results are plain data and
// descriptors: no pointers into the core, no paths. So the front can become a
// process of its own.
type Core interface {
	List(who Peer) []api.Collection
	Get(who Peer, name string) (api.Collection, error)
	Load(who Peer, name string) (api.Collection, error)
	MayShow(who Peer, name string) error
	LoadShown(who Peer, name string, fds []int) (api.Collection, error)
	Lease(ctx context.Context, who Peer, name, resume string) (api.LeaseGrant, error)
	LeaseShown(ctx context.Context, who Peer, name string, fds []int) (api.LeaseGrant, error)
	RunLease(ctx context.Context, who Peer, name string, b api.Bundle) (api.LeaseGrant, error)
	LeaseEnds(ctx context.Context, name, token string) *api.Error
	EndLease(name, token, why string)
	Upgrade(who Peer, name string) (api.Collection, error)
	MayRun(who Peer) error
	Run(who Peer, name string, b api.Bundle) (api.Collection, error)
	MayRunShown(who Peer, name string, b api.Bundle) error
	RunShown(who Peer, name string, b api.Bundle, fds []int) (api.Collection, error)
	RunLeaseShown(ctx context.Context, who Peer, name string, b api.Bundle, fds []int) (api.LeaseGrant, error)
	Unload(who Peer, name string, force bool) (api.Collection, error)
	Rollback(who Peer, name string, to uint64, reason string) (api.Collection, error)
	Recover(who Peer, dir string) (api.Collection, error)
	Reload(who Peer) (api.Plan, error)
	Plan(who Peer) (api.Plan, error)
	Status(who Peer) (api.Status, error)
	Entries(who Peer, name, mapName string, page Page) (api.Entries, error)
	Samples(ctx context.Context, who Peer, name, mapName string, fn func([]api.Sample) error) error
	Write(who Peer, name, mapName string, entries []api.WriteEntry) (api.Changed, error)
	Delete(who Peer, name, mapName string, keys []json.RawMessage) (api.Changed, error)
	OpenMap(who Peer, name, mapName string, access api.Access) (Descriptor, error)
	Events(ctx context.Context, who Peer, want api.EventsOptions, fn func(api.Event) error) error
	Guard(who Peer, req api.GuardRequest) (api.Guard, error)
	Enroll(who Peer, file string) (api.Guard, error)
	Retire(who Peer, req api.RetireRequest) (api.Guard, error)
	Statement(who Peer, req api.StatementRequest) (api.Statement, error)
	Signed(who Peer, req api.SignedRequest) (api.Guard, error)
	Refuse(who Peer, what string, err error)
}

// Page is a part of a map: about Limit entries behind After, which is what an
// earlier page's Next said; or, where Key is not nil, the one at that key.
type Page struct {
	Limit int
	After string
	Key   json.RawMessage
	Sum   bool // of the values of a per-CPU map only their sum
}

var _ Core = (*Daemon)(nil)

// List returns what who may see, ordered by name.
func (d *Daemon) List(who Peer) []api.Collection {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]api.Collection, 0, len(d.declared)+len(d.held))
	for _, name := range d.namesLocked() {
		if d.mayLocked(who, policy.Status, name) == nil {
			out = append(out, d.viewLocked(name))
		}
	}
	if who.UID == 0 {
		out = append(out, d.quarantinedLocked()...)
	}
	return out
}

// Get returns one collection, its maps, programs and links as the kernel has
// them now.
func (d *Daemon) Get(who Peer, name string) (api.Collection, error) {
	if err := d.may(who, policy.Status, name); err != nil {
		return api.Collection{}, d.refuse(who, "status", name, err)
	}
	if !d.known(name) {
		return api.Collection{}, d.refuse(who, "status", name, d.notFound(name))
	}
	return d.observe(name)
}

// known reports whether there is anything of that name.
func (d *Daemon) known(name string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, isDeclared := d.declared[name]
	_, isHeld := d.held[name]
	return isDeclared || isHeld || d.running[name] != nil
}

// Load brings the collection into the kernel. What runs already, unchanged,
// is no error.
func (d *Daemon) Load(who Peer, name string) (api.Collection, error) {
	if err := d.named(name); err != nil {
		return api.Collection{}, d.refuse(who, "load", name, err)
	}
	// Whoever may not is sent away here, not in the queue of those who may.
	if err := d.mayChange(who, policy.Load, name); err != nil {
		return api.Collection{}, d.refuse(who, "load", name, err)
	}
	err := d.change(who, "load", name, d.aheadOf(name), func() error { return d.loadByName(who, name, asLoad) })
	if err != nil {
		return api.Collection{}, err
	}
	return d.view(name), nil
}

// Unload takes the collection out of the kernel. force also ends one that is
// quarantined.
func (d *Daemon) Unload(who Peer, name string, force bool) (api.Collection, error) {
	if err := d.named(name); err != nil {
		return api.Collection{}, d.refuse(who, verbUnload, name, err)
	}
	last := d.view(name)
	err := d.change(who, verbUnload, name, nil, func() error {
		if err := d.unrequired(name); err != nil && !force && d.may(who, policy.Unload, name) == nil {
			return d.refuse(who, verbUnload, name, err)
		}
		return d.unload(who, name, force)
	})
	if err != nil {
		return api.Collection{}, err
	}
	last.State, last.Reason, last.Hint = api.StateAvailable, "", ""
	return last, nil
}

// Reload reads the trust store and the manifests again and brings the kernel
// to what they say: all or nothing where reading or verifying fails, else each
// change by itself.
func (d *Daemon) Reload(who Peer) (api.Plan, error) {
	if err := rootOnly(who, "reload"); err != nil {
		return api.Plan{}, d.refuse(who, "reload", "", err)
	}
	var plan api.Plan
	err := d.change(who, "reload", "", d.aheadOfAll, func() (err error) {
		plan, err = d.reload(who)
		return err
	})
	return plan, err
}

// Plan says what Reload would do.
func (d *Daemon) Plan(who Peer) (api.Plan, error) {
	if err := rootOnly(who, "plan"); err != nil {
		return api.Plan{}, d.refuse(who, "plan", "", err)
	}
	var plan api.Plan
	err := d.change(who, "plan", "", d.aheadOfAll, func() (err error) {
		plan, err = d.plan()
		return err
	})
	return plan, err
}

// Status tells of the daemon itself. Everybody who may connect may know that
// it is there and how many collections it runs; the rest is for root.
func (d *Daemon) Status(who Peer) (api.Status, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return api.Status{}, fmt.Errorf("uname: %w", err)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	s := api.Status{
		Limits: d.usageLocked(who), Version: d.build.Version, PID: os.Getpid(), StartedAt: d.started, ReadyAt: d.ready,
		Collections: d.countsLocked(),
		Kernel:      api.Kernel{Release: unix.ByteSliceToString(uts.Release[:]), Machine: unix.ByteSliceToString(uts.Machine[:])},
	}
	if who.UID != 0 {
		return s, nil
	}
	s.Paths = api.Paths{Manifests: d.cfg.Paths.Manifests, Trust: d.cfg.Paths.Trust, BPFFS: d.cfg.Paths.BPFFS,
		State: d.cfg.Paths.State, Socket: d.cfg.API.Socket}
	s.Guard = d.guardLocked()
	for _, signer := range d.trust.Signers() {
		s.Signers = append(s.Signers, viewSigner(signer))
	}
	s.Revocations = viewList(d.trust.Revocations())
	s.Charged = d.viewCharge()
	s.Problems = append(s.Problems, d.troublesLocked()...)
	for _, err := range []error{d.store.Reachable(), d.trust.Unlisted(), d.copied} {
		if err != nil {
			s.Problems = append(s.Problems, problem("", err))
		}
	}
	for _, err := range leftOut(d.trust) {
		s.Problems = append(s.Problems, problem("", err))
	}
	if d.readOnly != nil {
		s.Problems = append(s.Problems, problem("", d.readOnly))
		return s, nil // all else that is wrong follows from that, or is not known
	}
	s.Problems = append(s.Problems, d.problemsLocked(s.Guard)...)
	return s, nil
}

// problemsLocked are what an operator should look at, of the guard g, of what the directories
// say and of what runs.
func (d *Daemon) problemsLocked(g *api.Guard) (all []api.Problem) {
	if p, wrong := guardProblem(g); wrong {
		all = append(all, p)
	}
	for _, err := range d.unlisted {
		all = append(all, problem("", err))
	}
	all = append(all, d.problems...)
	all = append(all, d.strays...)
	all = append(all, d.strayRules(d.trust)...)
	for _, name := range sortedKeys(d.failed) {
		all = append(all, problem(name, d.failed[name].err))
	}
	for _, name := range sortedKeys(d.running) {
		all = append(all, d.problemsOfLocked(name, d.running[name])...)
	}
	for _, name := range sortedKeys(d.running) {
		for _, required := range d.running[name].record.Requires {
			if d.running[required] == nil {
				all = append(all, api.Problem{Kind: api.KindConflict, Collection: name,
					Message: fmt.Sprintf("runs, but requires %q, which does not", required), Hint: "hornetctl load " + required})
			}
		}
	}
	for _, dir := range sortedKeys(d.held) {
		what := "quarantined: "
		if !isHeld(dir) {
			what = "left alone: "
		}
		if r := d.held[dir].record; r != nil {
			if revoked := revokedRecord(d.trust, *r); revoked != "" {
				what += revoked + "; "
			}
		}
		all = append(all, api.Problem{Kind: api.KindConflict, Collection: dir,
			Message: what + d.held[dir].reason, Hint: quarantineHint(dir)})
	}
	return all
}

// problemsOfLocked are those of what runs under a name, by itself.
func (d *Daemon) problemsOfLocked(name string, c *collection) (all []api.Problem) {
	if c.failedBefore(d.declared[name].manifest) {
		all = append(all, api.Problem{Kind: api.KindConflict, Collection: name, Message: c.returned(), Hint: c.again()})
	}
	if c.unconfirmed != nil {
		all = append(all, problem(name, c.unconfirmed))
	}
	if reason := revokedRecord(d.trust, c.record); reason != "" {
		all = append(all, revokedProblem(name, c.record, reason))
	} else if p, ok := d.proofProblem(name, c); ok {
		all = append(all, p)
	}
	if len(c.drift) > 0 {
		all = append(all, api.Problem{Kind: api.KindConflict, Collection: name,
			Message: "drift: " + strings.Join(c.drift, "; "), Hint: c.remedy()})
	}
	return all
}

// Events calls fn for what is wanted of what happened and who may see.
func (d *Daemon) Events(ctx context.Context, who Peer, want api.EventsOptions, fn func(api.Event) error) error {
	visible := func(e api.Event) error {
		switch {
		case e.Kind == api.EventLost: // something is, whatever it was
		case len(want.Kinds) > 0 && !slices.Contains(want.Kinds, e.Kind),
			want.Collection != "" && want.Collection != e.Collection,
			who.UID != 0 && (e.Collection == "" || d.may(who, policy.Events, e.Collection) != nil):
			return nil
		}
		return fn(e)
	}
	if want.Follow {
		return d.events.follow(ctx, want.Since, visible)
	}
	events, _ := d.events.after(want.Since)
	for _, e := range events {
		if err := visible(e); err != nil {
			return err
		}
	}
	return nil
}

// Refuse records that somebody was refused before anything was asked.
func (d *Daemon) Refuse(who Peer, what string, err error) { d.refuse(who, what, "", err) }

// refuse records a refusal and returns err.
func (d *Daemon) refuse(who Peer, verb, name string, err error) error {
	return d.begin(who, verb, name, api.EventRefused).conclude(err)
}

func rootOnly(who Peer, verb string) error {
	if who.UID == 0 {
		return nil
	}
	return remedy.With(fmt.Errorf("%s: uid %d: %w", verb, who.UID, policy.ErrDenied), "only root may %s", verb)
}

// mayChange decides for all but root on the manifest as it is on disk, which may
// be newer than the last reload.
func (d *Daemon) mayChange(who Peer, verb policy.Verb, name string) error {
	if who.UID == 0 {
		return nil
	}
	m, err := d.onDisk(name)
	if err != nil {
		return d.private(who, verb, name, err)
	}
	_, err = d.policy.Authorize(who.subject(), verb, m)
	return err
}

// loadByName is load of what lies on disk under a name.
func (d *Daemon) loadByName(who Peer, name string, as loading) error {
	src, err := d.find(name)
	if err != nil {
		return d.refuse(who, as.verb, name, d.private(who, policy.Load, name, err))
	}
	return d.load(who, src, as, btf.NewCache())
}

// onDisk reads the manifest of name, as it is now.
func (d *Daemon) onDisk(name string) (manifest.Manifest, error) {
	src, err := d.find(name)
	if err != nil {
		return manifest.Manifest{}, err
	}
	var files safefile.Reader
	defer files.Close()
	return d.readManifest(&files, src)
}

// named refuses what cannot be the name of a collection or a quarantined
// directory.
func (d *Daemon) named(name string) error {
	if err := manifest.ValidLoad(name); err != nil && !isHeld(name) {
		return remedy.With(api.Errorf(api.KindBadRequest, "%w", err), "%s", remedy.Of(err))
	}
	return nil
}

// private keeps from all but root what they may not know: whether there is a
// manifest of that name, and what is wrong with it. To them, what is not there
// and what is not allowed look the same, but among what is their own.
func (d *Daemon) private(who Peer, verb policy.Verb, name string, err error) error {
	if uid, isOwn := manifest.Owner(name); who.UID == 0 || isOwn && uid == who.UID {
		return err
	}
	_, denied := d.policy.Authorize(who.subject(), verb, manifest.Manifest{Name: name})
	return denied
}

// may decides on the manifest as it was last read.
func (d *Daemon) may(who Peer, verb policy.Verb, name string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.mayLocked(who, verb, name)
}

func (d *Daemon) mayLocked(who Peer, verb policy.Verb, name string) error {
	dc, ok := d.declared[name]
	m := dc.manifest
	if !ok {
		m, ok = d.ceasedLocked(name)
	}
	if who.UID == 0 {
		if _, runs := d.running[name]; !ok && !runs && d.verifying[name] == nil && d.held[name].reason == "" {
			return d.notFound(name)
		}
		return nil
	}
	if !ok || dc.err != nil {
		return d.private(who, verb, name, d.notFound(name))
	}
	if c := d.running[name]; c != nil && c.record.Covers == signing.CoversManifest && c.record.ManifestDigest != hexDigest(m.Digest) {
		return d.private(who, verb, name, nil) // the rights in it are not those that were signed
	}
	_, err := d.policy.Authorize(who.subject(), verb, m)
	return err
}

// ceasedLocked returns what decides about a collection that is declared only while
// it runs, and does not: a caller's own, or an instance of a template. It may be
// unloaded again, and those who may follow it hear of its end.
func (d *Daemon) ceasedLocked(name string) (manifest.Manifest, bool) {
	if isOwn(name) {
		return manifest.Manifest{Name: name}, true
	}
	template, instance, _ := manifest.SplitInstance(name)
	dc, ok := d.declared[template]
	return manifest.Manifest{Name: name, Allow: dc.manifest.Allow}, ok && instance != "" && dc.err == nil
}

// namesLocked lists what is declared or runs, in order.
func (d *Daemon) namesLocked() []string {
	all := make([]string, 0, len(d.declared))
	for name := range d.declared {
		all = append(all, name)
	}
	for name := range d.running {
		if _, ok := d.declared[name]; !ok {
			all = append(all, name)
		}
	}
	sort.Strings(all)
	return all
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func (d *Daemon) countsLocked() api.Counts {
	c := api.Counts{Running: len(d.running), Quarantined: len(d.held)}
	for _, f := range d.failed {
		if f.pending() {
			c.Pending++
		} else {
			c.Failed++
		}
	}
	for _, running := range d.running {
		if running.record.Covers == signing.CoversManifest {
			c.Verified++
		}
	}
	for name := range d.declared {
		if _, runs := d.running[name]; !runs {
			if _, failed := d.failed[name]; !failed {
				c.Available++
			}
		}
	}
	return c
}

// collection returns what runs under name, or nil.
func (d *Daemon) collection(name string) *collection {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.running[name]
}

// put makes c what runs under the manifest's name.
func (d *Daemon) put(m manifest.Manifest, c *collection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[m.Name] = c
	d.settleLeaseLocked(m.Name, "another load took its place")
	delete(d.failed, m.Name)
	src := manifest.Source{Name: m.Name, File: m.File}
	for _, dropIn := range m.DropIns {
		src.DropIns = append(src.DropIns, dropIn.File)
	}
	d.declared[m.Name] = declared{source: src, manifest: m}
}

// fail notes why a collection that should run does not.
func (d *Daemon) fail(name string, err error) {
	if errors.Is(err, errStopped) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := failure{err: err, when: time.Now(), booting: d.booting}
	if absentTarget(err) {
		f.tries = mostTries
	}
	d.failed[name] = f
}
