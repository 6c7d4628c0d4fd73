// Package daemon composes hornetd: it owns the store on bpffs, keeps what runs
// equal to what the manifests say, and answers the API. load.go is the flow to
// read first.
package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/link"
	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/confine"
	"github.com/hornetd/hornetd/internal/memcg"
	"github.com/hornetd/hornetd/internal/names"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// Daemon owns one bpffs root. Open acquires what it needs, Start brings the
// kernel to what the manifests say, Close lets go of everything but the pins.
type Daemon struct {
	cfg     config.Config
	build   Build
	log     *zap.Logger
	store   *pinning.Store
	audit   *audit.Log
	policy  policy.Policy
	owner   *owner
	parser  *confine.Parser // nil where no signer needs one
	cgroup  string          // that it was started in, from the hierarchy's root; "" where that is of version 1
	cgroups *memcg.Tree     // nil where maps have none of their own
	nobody  error           // then why
	events  *stream
	refused *coalescer
	readers readers // of samples
	writers writers // of entries
	allowed *allowance
	started time.Time
	floor   time.Time    // see clock
	booting bool         // the start loads what it finds; written on the owner's thread only
	amnesty atomic.Bool  // repairs begin anew
	mending *collection  // a load puts it back as it was; written on the owner's thread only
	ratchet ratchet      // read and written on the owner's thread only
	lost    error        // what became of the ratchet, for the start to tell
	guard   guardian     // on the owner's thread only
	falls   atomic.Int64 // when the guard falls back to audit, in nanoseconds since boot; 0 is never
	signed  atomic.Int64 // newest signing time that counts, in Unix seconds: see clock

	watcher     atomic.Pointer[watcher] // nil until Start is done
	detector    detector
	interrupted map[string][]link.Link // what repairs made that were killed, by pin; set while the start resumes them only

	remade  int              // how often the audit log was made again, as told
	sought  bool             // hidden was asked for
	hidden  []pinning.Record // what the kernel has of other roots; on the owner's thread only
	emptied sync.Map         // ids of maps that have lost their programs
	parsing chan struct{}    // who parses ahead of their turn
	ahead   parsed           // what came of it, for the turn that runs now; on the owner's thread only

	// Written on the owner's thread only, under mu; read anywhere under mu.
	mu         sync.RWMutex
	ready      time.Time
	verifying  map[string]*verification // by name: loads that have given their turn away
	trust      *signing.Trust
	copied     error                  // why the list in force is the copy of the last good one; nil where it is not
	declared   map[string]declared    // what the directories said when last read
	running    map[string]*collection // what the kernel runs
	held       map[string]held        // by quarantined directory
	failed     map[string]failure     // what should run and does not
	problems   []api.Problem          // of the last scan
	leases     map[string]*lease      // of what runs for as long as somebody only
	strays     []api.Problem          // drop-ins without a manifest, by the last scan
	state      []trouble              // with the daemon's own state
	seals      seals
	statements statements  // that a root may sign
	under      []lsm.Found // guards in force that a start has to do with
	onFloor    error       // of one only the floor is left: why nothing can be changed
	readOnly   error       // why nothing can be changed; nil where it can
	enrolled   []api.Enrolled
	unlisted   []error // entries of [[guard.allow]] that the guard has not, each with a remedy
	unarmed    error   // why the guard is not what hornetd.toml says; nil where it is
}

// declared is one manifest as it was read last. Either manifest or err is set.
type declared struct {
	source   manifest.Source
	manifest manifest.Manifest
	err      error
}

// collection is what runs under a name.
type collection struct {
	record      pinning.Record
	trial       *trial   // it may still go back to what ran before
	unconfirmed error    // why it runs though it was not confirmed, and nobody watches it; nil otherwise
	proof       proof    // what the object on disk says now
	drift       []string // what is not as recorded and stays so
	hint        string   // what can be done about it; "" is the ordinary
	revoked     string   // why it would be refused now; set where changes are decided only
	origin
}

// origin is where what runs comes from.
type origin struct {
	adopted bool   // it ran before this daemon started
	loose   uint64 // bytes of its maps that no cgroup is charged for, where they have one
	most    uint64 // bytes that its maps may have in their cgroup; 0 where they have none
	shares  string // why its maps are charged to hornetd; "" where they are not, or it was adopted
}

// proof is the result of verifying a running collection's object again, from
// disk: whether what it was loaded from is still there and still trusted.
type proof struct {
	verdict string // of signing, or "unproven" where the file is gone
	digest  string // of the object on disk; "" where it could not be verified
	reason  string
	valid   signing.Validity
}

// held is a directory that is left alone: its programs run, and nothing here
// answers for them.
type held struct {
	name   string // of the collection it was
	reason string
	record *pinning.Record // nil where it cannot be read
}

// failure is why a collection that should run does not.
type failure struct {
	err     error
	when    time.Time
	tries   int  // how often it is tried again when its targets are there
	booting bool // the start wanted it
}

// waits reports whether it is loaded as soon as its targets are there.
func (f failure) waits() bool { return f.tries > 0 }

// pending reports whether that is all that is wrong with it.
func (f failure) pending() bool { return f.waits() && absentTarget(f.err) }

// mostTries is how often a collection that waited is loaded before it is failed
// for another reason than that its target is not there.
const mostTries = 8

// Build is what this hornetd was made from.
type Build struct {
	Version string
	Date    time.Time // of the source; the clock is never taken to be before it
}

// Open reads the trust store and asks the guard that is in force, if one is, whether
// hornetd may start so; then it acquires the bpffs root (and with it the right to be the
// only daemon on it) and the audit log. Every error names the path and the remedy.
func Open(cfg config.Config, build Build, log *zap.Logger) (_ *Daemon, err error) {
	d := &Daemon{
		cfg: cfg, build: build, log: log, started: time.Now(),
		policy:   policy.New(cfg.Limits.Policy(), new(names.Host)).WithSigners(cfg.Signers).WithDirectories(cfg.Manifests.Signers).WithRules(cfg.Rules),
		declared: map[string]declared{}, running: map[string]*collection{},
		held: map[string]held{}, failed: map[string]failure{}, leases: map[string]*lease{}, verifying: map[string]*verification{},
		parsing: make(chan struct{}, mostAhead),
		allowed: newAllowance(cfg.API.RecordedBurst, cfg.API.RecordedPerMinute),
		readers: readers{perUser: cfg.Limits.UserStreams, total: cfg.Limits.TotalStreams},
	}
	if d.trust, err = signing.LoadReadable(cfg.Paths.Trust); err != nil {
		return nil, fmt.Errorf("trust store: %w", err)
	}
	for _, err := range leftOut(d.trust) {
		log.Error("trust store", zap.Error(err), zap.String("hint", remedy.Of(err)))
	}
	if err := d.mayStart(); err != nil && !errors.Is(err, lsm.ErrNotListed) { // then startGuard says so
		return nil, err
	}
	// From here on it makes, mounts, moves and removes.
	if cfg.Paths.MountBPFFS {
		if _, err := pinning.Mount(cfg.Paths.BPFFS); err != nil {
			return nil, err
		}
	}
	if d.store, err = pinning.Open(cfg.Paths.BPFFS); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.store.Close()
		}
	}()
	if err := os.Mkdir(cfg.Paths.State, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if d.audit, err = audit.Open(filepath.Join(cfg.Paths.State, auditDir)); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if saved := d.audit.Recovered().Saved; saved != "" {
		d.tellState("", remedy.With(fmt.Errorf("audit log: what lay behind its last whole record was no record, and was set aside as %s", saved),
			"look what it is; what was loaded then and does not run now is forgotten"))
	}
	_, last := d.audit.Last()
	d.floor = latest(build.Date, last)
	d.events = newStream(latest(time.Now(), last.Add(time.Millisecond)), cfg.Limits.Events) // also where the clock went back
	if d.lost, err = d.openRatchet(); err != nil {
		return nil, errors.Join(err, d.audit.Close())
	}
	d.openList()
	d.refused = newCoalescer(d)
	d.owner = newOwner(cfg.API.ChangesPerUser, verifierJobs{cfg.Limits.UserVerifierJobs, cfg.Limits.TotalVerifierJobs})
	d.takeCgroup() // before there is another process in it
	d.startParser()
	return d, nil
}

// Start adopts what runs, then loads what the manifests want at boot. It
// returns an error only where the daemon must not become ready: a manifest
// that says fail = "closed" did not load. Everything else is a problem in the
// status.
func (d *Daemon) Start() error {
	if err := d.owner.do(d.start); err != nil {
		return err
	}
	if d.readOnly != nil {
		d.owner.closed = d.readOnly
		d.note(api.EventStarted, "", d.readOnly.Error())
		return nil
	}
	if d.nobody != nil {
		d.log.Info("maps are charged to hornetd", zap.Error(d.nobody), zap.String("hint", remedy.Of(d.nobody)))
	}
	d.awaitLeases()
	go d.owner.do(d.reprove) // an error means that the daemon stops
	d.watch()
	return nil
}

func (d *Daemon) start() error {
	if err := d.stranger(); err != nil {
		return d.startReadOnly(err)
	}
	if err := d.isGuarded(); err != nil {
		return err
	}
	if err := d.adopt(); err != nil {
		return err
	}
	if err := d.startGuard(); err != nil {
		return err
	}
	d.tellFall(" before this start")
	d.sweepBundles()
	d.sweepCgroups()
	d.adoptRatchet(d.lost)
	d.tellClock()
	d.booting = true
	defer func() { d.booting = false }()
	changes, problems := d.converge()
	d.setProblems(problems)
	d.mendAdopted()
	if d.owner.stopping() {
		return errStopped
	}
	var closed []error
	strict := anyClosed(d.declared)
	for _, c := range changes {
		dc := d.declared[c.Collection]
		switch {
		case c.Error != nil && dc.manifest.Fail == manifest.FailClosed:
			closed = append(closed, fmt.Errorf("collection %q: %w", c.Collection, c.Error))
		case dc.err != nil && strict:
			closed = append(closed, dc.err)
		}
	}
	for _, p := range problems {
		if p.Collection == "" && strict { // a directory or a name: who knows what it hides
			closed = append(closed, errors.New(p.Message))
		}
	}
	if len(closed) > 0 {
		return remedy.With(fmt.Errorf(`not ready, fail = "closed": %w`, errors.Join(closed...)),
			"mend what the message names, or say fail = \"open\" in the manifest")
	}
	d.mu.Lock()
	d.ready = time.Now()
	d.mu.Unlock()
	d.note(api.EventStarted, "", fmt.Sprintf("%d collections running", len(d.running)))
	return nil
}

// anyClosed reports whether a manifest says fail = "closed". Where one does,
// what cannot be read may say so too.
func anyClosed(declared map[string]declared) bool {
	for _, dc := range declared {
		if dc.manifest.Fail == manifest.FailClosed {
			return true
		}
	}
	return false
}

// Interrupt keeps the daemon from beginning another change, so that a long
// start or reload ends soon.
func (d *Daemon) Interrupt() { d.owner.interrupt() }

// Beat is how far those were whose health the watchdog asks for: that
// which makes changes, that which looks for what is to be mended, and loads that are
// verified meanwhile.
type Beat struct {
	owner, watcher uint64
	verifying      map[*verification]uint64
}

// Heart answers what the watchdog asks: whether changes can still be made, and
// are looked for, and no program is verified for ever. A loop beats while it has nothing
// to do and with every step of what it does; since is what Heart answered last.
func (d *Daemon) Heart(since Beat) (now Beat, beats bool) {
	busy := d.owner.busy()
	now.owner = d.owner.beats.Load()
	beats = !busy || now.owner != since.owner
	if w := d.watcher.Load(); w != nil {
		busy = w.busy.Load()
		now.watcher = w.beats.Load()
		beats = beats && (!busy || now.watcher != since.watcher)
	}
	now.verifying = make(map[*verification]uint64)
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, v := range d.verifying {
		now.verifying[v] = v.beats.Load()
		was, known := since.verifying[v]
		beats = beats && (!known || !v.busy.Load() || was != now.verifying[v])
	}
	return now, beats
}

// stopWait is how long a look may take that is not over when the daemon stops.
const stopWait = 5 * time.Second

// Close stops taking changes, waits for the one in progress, and lets go. The
// programs go on running: their pins hold them.
func (d *Daemon) Close() error {
	d.note(api.EventStopping, "", "what runs goes on running")
	d.owner.stop()
	d.stopLeases()
	d.stopParser()
	looks := d.watcher.Load().wait(stopWait)
	d.guard.close()
	d.detector.stop()
	d.refused.stop()
	if d.ratchet.ahead {
		d.tellRatchet(d.setRatchet(d.ratchet.Ratchet))
	}
	if looks != nil { // at what the store holds: that is closed with the process
		return errors.Join(looks, d.audit.Close())
	}
	return errors.Join(d.audit.Close(), d.store.Close())
}

// note tells the event stream of something that no audit record stands for.
func (d *Daemon) note(kind api.EventKind, collection, message string) {
	d.events.publish(api.Event{Time: time.Now(), Kind: kind, Collection: collection, Message: message})
}

func (d *Daemon) setProblems(ps []api.Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problems = ps
}
