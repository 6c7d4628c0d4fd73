package daemon

import (
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/names"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// reload reads everything again, and only where all of it can be read and
// verified does it change anything, but that trust becomes less (shrink).
func (d *Daemon) reload(who Peer) (_ api.Plan, err error) {
	a := d.begin(who, audit.VerbReload, "", api.EventReloaded)
	defer func() { err = a.conclude(err) }()

	store, err := d.readStore()
	if err != nil {
		return d.reloadList(a, who, err)
	}
	trust, err := d.withRevocations(store)
	if err != nil {
		return d.shrink(a, who, store, nil, []api.Problem{problem("", err)})
	}
	found, problems, certain := d.scan()
	proofs := d.proveAll(sortedKeys(d.running), found, trust)
	changes := d.compare(found, proofs, trust, certain)
	problems = append(problems, d.verifyAll(found, trust, changes)...)
	problems = append(problems, unmet(changes, found, sortedKeys(d.running))...)
	if len(problems) > 0 {
		return d.shrink(a, who, trust, found, problems)
	}
	d.planRepairs(changes)
	if err := a.intend(); err != nil {
		return api.Plan{}, err
	}
	if err := d.setTrust(trust); err != nil { // on record, and only together with everything else
		return api.Plan{}, err
	}
	d.setProofs(proofs)
	d.setDeclared(found)
	d.setProblems(nil)
	d.apply(who, found, changes)
	d.makeRepairs(changes)
	for _, c := range changes {
		if c.Action == api.ActionRefuse && c.Error != nil {
			d.fail(c.Collection, remedy.With(c.Error, "%s", c.Error.Hint))
		}
	}
	a.partial = failures(changes)
	return api.Plan{Changes: changes}, nil
}

// reloadList is what a reload still does where the trust store cannot be read, for
// why. Nobody knows what the store does not have any more; but whose signature a
// new revocation list needs is known from the last time.
func (d *Daemon) reloadList(a *act, who Peer, why error) (api.Plan, error) {
	problems := []api.Problem{problem("", why)}
	next := d.trusted()
	trust, err := d.withRevocations(next)
	if err != nil {
		problems = append(problems, problem("", err))
		trust = next.WithRevocations(nil) // none that is new
	}
	return d.shrink(a, who, trust, nil, problems)
}

// failures counts the changes that the kernel, or a [[test]], refused. What
// could be known before stopped the reload as a whole.
func failures(changes []api.Change) string {
	var names []string
	for _, c := range changes {
		if c.Error != nil {
			names = append(names, c.Collection)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d changes failed: %s", len(names), len(changes), strings.Join(names, ", "))
}

// readTrust reads the trust store and the revocation list as they are now on
// disk.
func (d *Daemon) readTrust() (*signing.Trust, error) {
	store, err := d.readStore()
	if err != nil {
		return nil, err
	}
	return d.withRevocations(store)
}

func (d *Daemon) readStore() (*signing.Trust, error) { return readStore(d.cfg.Paths.Trust) }

func readStore(dir string) (*signing.Trust, error) {
	store, err := signing.LoadTrust(dir)
	if err != nil && remedy.Of(err) == "" {
		err = remedy.With(err, "mend or remove the file the message names")
	}
	if err != nil {
		return nil, remedy.With(fmt.Errorf("trust store: %w", err), "%s", remedy.Of(err))
	}
	return store, nil
}

// leftOut are the files that the start left out of trust.
func leftOut(trust *signing.Trust) (all []error) {
	for _, err := range trust.LeftOut() {
		all = append(all, remedy.With(asSignature(fmt.Errorf("%w: left out, no key in it counts", err)), "%s; then hornetctl reload", remedy.Of(err)))
	}
	return all
}

// trusted is the trust store in force.
func (d *Daemon) trusted() *signing.Trust {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.trust
}

// stopped is the error of a reload that stopped before it began; effect is what
// it changed all the same.
func stopped(effect string, ps []api.Problem) error {
	first := ps[0]
	e := &api.Error{Kind: first.Kind, Message: "reload: " + effect + ": " + first.Message, Hint: first.Hint}
	if more := len(ps) - 1; more > 0 {
		e.Message += fmt.Sprintf(" (and %d more: hornetctl plan shows all)", more)
	}
	return e
}

// plan says what reload would do, reading and verifying as it would.
func (d *Daemon) plan() (api.Plan, error) {
	trust, err := d.readTrust()
	if err != nil {
		return api.Plan{}, err
	}
	found, problems, certain := d.scan()
	changes := d.compare(found, d.proveAll(sortedKeys(d.running), found, trust), trust, certain)
	problems = append(problems, d.verifyAll(found, trust, changes)...)
	problems = append(problems, unmet(changes, found, sortedKeys(d.running))...)
	d.planRepairs(changes)
	return api.Plan{Changes: changes, Problems: problems}, nil
}

// converge is the start's reload: there is no last good state to stay with, so
// each manifest stands for itself and one bad file does not keep the rest down.
// What runs is not unloaded for want of a manifest that may only be unreadable.
func (d *Daemon) converge() ([]api.Change, []api.Problem) {
	found, problems, certain := d.scan()
	changes := d.compare(found, d.proveAll(d.withdrawn(), found, d.trusted()), d.trusted(), certain)
	d.setDeclared(found)
	d.apply(self(), found, changes)
	return changes, problems
}

// reprove checks what frozen maps hold, verifies again, from disk, what runs, and
// replaces what has another good object now. A start does it behind READY: reading and verifying every
// object is most of what a start with hundreds of collections would do, and
// none of it changes what runs now.
func (d *Daemon) reprove() error {
	if err := d.checkContents(); err != nil {
		return err
	}
	found := maps.Clone(d.declared)
	proofs := d.proveAll(sortedKeys(d.running), found, d.trusted())
	d.setProofs(proofs)
	changes := d.compare(found, proofs, d.trusted(), false)
	d.apply(self(), found, slices.DeleteFunc(changes, func(c api.Change) bool { return c.Action != api.ActionReplace }))
	return nil
}

// compare decides what is to be done with each collection. It changes nothing
// and needs no file but those read already. Where the scan is not certain
// nothing is unloaded: the manifest may be there and unreadable.
func (d *Daemon) compare(found map[string]declared, proofs map[string]proof, trust *signing.Trust, certain bool) []api.Change {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := make(map[string]bool, len(found))
	for name := range found {
		all[name] = true
	}
	for name := range d.running {
		all[name] = true
	}
	var changes []api.Change
	names, _ := inOrder(sortedKeys(all), predecessors(found, d.running)) // scan has refused circles
	for _, name := range names {
		dc, isDeclared := found[name]
		c := d.running[name]
		if c != nil {
			now := *c
			now.proof = proofs[name]
			now.revoked = revokedRecord(trust, c.record)
			c = &now
		}
		if change, ok := decide(dc, isDeclared, c, d.cfg.Manifests.Removed, d.cfg.Trust.Revoked); ok {
			if change.Action == api.ActionUnload && c.revoked == "" && !certain {
				continue
			}
			change.Collection = name
			changes = append(changes, change)
		}
	}
	return changes
}

// decide is the rule for one collection: pure, so that its test is a table.
func decide(dc declared, isDeclared bool, c *collection, removed config.Removed, revoked config.Revoked) (api.Change, bool) {
	switch {
	case c != nil && c.revoked != "" && isDeclared && dc.err == nil && loads(c.proof.verdict):
		return api.Change{Action: api.ActionReplace, Reason: "what is on disk is good, and of what runs " + c.revoked,
			FromVersion: c.record.Version, ToVersion: dc.manifest.Version}, true
	case c != nil && c.revoked != "" && revoked == config.RevokedUnload:
		return api.Change{Action: api.ActionUnload, Reason: c.revoked, FromVersion: c.record.Version}, true
	case isDeclared && dc.err != nil:
		return api.Change{Action: api.ActionRefuse, Reason: "the manifest cannot be read"}, true // the problems say why
	case !isDeclared && removed == config.RemovedKeep:
		return api.Change{Action: api.ActionKeep, Reason: `its manifest is gone, [manifests] removed = "keep"`, FromVersion: c.record.Version}, true
	case !isDeclared:
		return api.Change{Action: api.ActionUnload, Reason: "its manifest is gone", FromVersion: c.record.Version}, true
	case c == nil && dc.manifest.Start == manifest.StartRequest:
		return api.Change{}, false // waits to be asked for
	case c == nil:
		return api.Change{Action: api.ActionLoad, Reason: "not running", ToVersion: dc.manifest.Version}, true
	case c.failedBefore(dc.manifest):
		return api.Change{Action: api.ActionKeep, Reason: c.returned() + "; hornetctl upgrade tries it again", FromVersion: c.record.Version, ToVersion: c.record.Version}, true
	case c.record.ManifestDigest != hexDigest(dc.manifest.Digest):
		return api.Change{Action: api.ActionReplace, Reason: "its manifest changed",
			FromVersion: c.record.Version, ToVersion: dc.manifest.Version}, true
	case c.changedObject():
		return api.Change{Action: api.ActionReplace, Reason: "its object changed",
			FromVersion: c.record.Version, ToVersion: dc.manifest.Version}, true
	default:
		return api.Change{Action: api.ActionKeep, Reason: c.proof.warning(), FromVersion: c.record.Version, ToVersion: dc.manifest.Version}, true
	}
}

// verifyAll reads and verifies what the changes would load, and decides all
// that can be decided before the kernel is asked. What the revocation list refuses
// becomes a refusal of that one change, and what runs stays as it is: that was
// decided by whoever signed the list, not by whoever wrote the manifest, and it
// must not keep every later reload from what else it is for. So does what runs where
// a caller shows it no more: else any user who runs something would decide.
func (d *Daemon) verifyAll(found map[string]declared, trust *signing.Trust, changes []api.Change) []api.Problem {
	problems := make([]*api.Problem, len(changes))
	var files safefile.Reader
	defer files.Close()
	resolve := resolver()
	each(len(changes), func(i int) {
		c := changes[i]
		old := d.collection(c.Collection)
		if c.Action == api.ActionUnload {
			changes[i].Links = linkChanges(old.detached())
		}
		if c.Action != api.ActionLoad && c.Action != api.ActionReplace {
			return
		}
		m := found[c.Collection].manifest
		steps, err := d.examine(&files, trust, m, old, resolve)
		changes[i].Links = linkChanges(steps)
		switch {
		case err == nil:
		case c.Action == api.ActionLoad && absentTarget(err) && d.awaited(m):
			changes[i].Action, changes[i].Reason = api.ActionRefuse, "waits: "+err.Error()
		case refusedByList(trust, m, err):
			changes[i].Action, changes[i].Reason, changes[i].Error = api.ActionRefuse, "it is revoked", asAPIError(err)
		case c.Action == api.ActionReplace && errors.Is(err, loader.ErrNotShown):
			changes[i].Action, changes[i].Reason, changes[i].Error = api.ActionRefuse, "nobody shows now what it would be attached to", asAPIError(err)
		default:
			p := problem(c.Collection, err)
			problems[i] = &p
		}
	})
	var out []api.Problem
	for _, p := range problems {
		if p != nil {
			out = append(out, *p)
		}
	}
	if err := d.seals.unsealed(trust); err != nil {
		out = append(out, problem("", err))
	}
	return out
}

// resolver returns loader.ResolveShown for many at once: kernel BTF is megabytes, and
// its cache is for one at a time.
func resolver() resolveFunc {
	var mu sync.Mutex
	cache := btf.NewCache()
	return func(spec *ebpf.CollectionSpec, m manifest.Manifest, shown *loader.Shown) ([]loader.Target, error) {
		mu.Lock()
		defer mu.Unlock()
		return loader.ResolveShown(spec, m, cache, shown)
	}
}

// apply carries the changes out, which are in order: what leaves first, so that
// what comes finds its place free. A change that fails is noted in it and stops no other.
func (d *Daemon) apply(who Peer, found map[string]declared, changes []api.Change) {
	cache := btf.NewCache()
	loaded := false
	for _, action := range []api.Action{api.ActionUnload, api.ActionReplace, api.ActionLoad} {
		for i := range changes {
			c := &changes[i]
			if action == api.ActionUnload {
				c = &changes[len(changes)-1-i] // what requires others goes before them
			}
			if c.Action != action {
				continue
			}
			if d.owner.stopping() {
				c.Error = asAPIError(errStopped)
				continue
			}
			d.owner.beat()
			var err error
			if action == api.ActionUnload {
				err = d.unload(who, c.Collection, false)
			} else {
				loaded = true
				as := asLoad
				if action == api.ActionReplace {
					as = asReload
				}
				err = d.load(who, found[c.Collection].source, as, cache)
			}
			if err != nil {
				c.Error = asAPIError(err)
				d.fail(c.Collection, err)
			}
			c.Done = err == nil
			d.afterRevocation(who, found, *c)
		}
	}
	d.endRevokedHeld(who)
	if loaded {
		debug.FreeOSMemory() // with the cache gone: kernel BTF is megabytes
	}
}

func (d *Daemon) setDeclared(found map[string]declared) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.declared
	d.declared = found
	for name, f := range d.failed {
		if f.waits() && d.declared[name].manifest.Digest == was[name].manifest.Digest {
			continue
		}
		delete(d.failed, name) // what fails again is noted again
	}
	d.amnesty.Store(true)
}

// Hangup is a reload asked for by a signal. Its errors go to the log.
func (d *Daemon) Hangup() {
	plan, err := d.Reload(self())
	var apiErr *api.Error
	if errors.As(err, &apiErr) && len(plan.Problems) == 0 {
		plan.Problems = append(plan.Problems, api.Problem{Kind: apiErr.Kind, Message: apiErr.Message, Hint: apiErr.Hint})
	}
	for _, p := range plan.Problems {
		d.log.Error("reload", zap.String("collection", p.Collection), zap.String("error", p.Message), zap.String("hint", p.Hint))
	}
}

// strayRules are rules for signers whom the trust store does not know: with a
// name that is misspelt, the signer who was meant has no bounds.
func (d *Daemon) strayRules(trust *signing.Trust) []api.Problem {
	known := map[string]bool{policy.AnySigner: true}
	for _, s := range trust.Signers() {
		known[s.Name] = true
	}
	var problems []api.Problem
	for _, name := range sortedKeys(d.cfg.Signers) {
		if !known[name] {
			problems = append(problems, problem("", remedy.With(fmt.Errorf("hornetd.toml: signers.%s: no such signer in the trust store %s", name, d.cfg.Paths.Trust),
				"correct the name, or remove the rule")))
		}
	}
	for i, rule := range d.cfg.Rules {
		for _, name := range rule.Signers {
			if !known[name] {
				problems = append(problems, problem("", remedy.With(fmt.Errorf("hornetd.toml: rule[%d].signers: no signer %q in the trust store %s", i, name, d.cfg.Paths.Trust),
					"correct the name, or remove it from the rule")))
			}
		}
	}
	return problems
}

// Check reads and verifies everything, as a start would, and loads nothing. It
// needs neither bpffs nor a running daemon.
func Check(cfg config.Config, build Build) []api.Problem {
	d := &Daemon{cfg: cfg, build: build, floor: build.Date, booting: true, running: map[string]*collection{}, policy: policy.New(cfg.Limits.Policy(), new(names.Host)).WithSigners(cfg.Signers).WithDirectories(cfg.Manifests.Signers).WithRules(cfg.Rules), log: zap.NewNop()}
	if err := d.viewRatchet(); err != nil {
		return []api.Problem{problem("", err)}
	}
	trust, err := d.readTrust()
	if err != nil {
		return []api.Problem{problem("", err)}
	}
	d.startParser()
	defer d.stopParser()
	found, problems, _ := d.scan()
	problems = append(append(problems, d.strays...), d.strayRules(trust)...)
	if _, err := groupID(cfg.API.Group); err != nil {
		problems = append(problems, problem("", err))
	}
	for _, err := range d.missing() {
		problems = append(problems, problem("", err))
	}
	var files safefile.Reader
	defer files.Close()
	resolve := resolver()
	for _, name := range sortedKeys(found) {
		dc := found[name]
		if dc.err != nil {
			continue // scan has told
		}
		if _, err := d.examine(&files, trust, dc.manifest, nil, resolve); err != nil {
			problems = append(problems, problem(name, err))
		}
	}
	return problems
}
