package daemon

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	lsm "github.com/hornetd/hornetd/lsm-module"
	"github.com/hornetd/hornetd/pinning"
)

const (
	verbGuard   = "guard"
	verbForeign = "foreign"
	// forgetEvery is how often objects that have gone are taken off the guard's list.
	forgetEvery = time.Minute
	// forgetMade is with how many objects they are before that: a fraction of what there
	// is room for, so that one load more does not fill it.
	forgetMade = 4096
	// guardLasts is how long a change of the guard may keep the owner: the kernel verifies and
	// attaches some fifty programs, which a host that is busy or emulated takes long for.
	guardLasts = 2 * time.Minute
)

// What is sealed in a guard, by the number that Config.Sealed has.
const (
	sealSettings = 1 // of what was configured: see settingsOf
	sealReboot   = 2 // root's word does not end it
	sealKey      = 3 // of a key in the trust store
	sealSigned   = 4 // with sealReboot: what a root signed does
	sealRoot     = 5 // of a key that signs statements
	sealNext     = 6 // as sealSettings, of what a root signed for the next start
	sealFile     = 7 // of where hornetd.toml is
)

var (
	rebootOnly = sha256.Sum256([]byte("disarm = reboot"))
	signedToo  = sha256.Sum256([]byte("disarm = signed"))
)

// guardian is the daemon's side of the guard.
type guardian struct {
	force  *lsm.Guard // nil where none is in force, or it is not this process's to change
	events *lsm.Events
	heard  chan struct{} // closed when nobody reads them any more
	swept  time.Time
	made   uint64 // objects by then
	fell   bool   // back to audit, which is on record
}

// seals is what is sealed in the guard that is in force.
type seals struct {
	armed  bool // there is one, and it is this process's to change
	same   bool // it was armed with what hornetd.toml says now
	whole  bool // and every digest of that is sealed
	next   bool // a root signed what hornetd.toml says now
	strict bool // root's word neither ends it nor makes it weaker
	signed bool // but what a root signed does
	found  map[[32]byte]uint32
}

// deaf ends the reading of what the guard tells. What nobody has read stays with it.
func (g *guardian) deaf() {
	if g.events != nil {
		g.events.Close()
		<-g.heard
		g.events = nil
	}
}

// hearOut ends it behind what there is: of a guard that tells nothing any more, and whose
// events go with it.
func (g *guardian) hearOut() {
	if g.events != nil && g.events.Flush() == nil {
		<-g.heard
	}
	g.deaf()
}

func (g *guardian) close() {
	g.deaf()
	if g.force != nil {
		g.force.Close() // it stays in force
	}
	*g = guardian{}
}

func (d *Daemon) guardDir() string { return filepath.Join(d.cfg.Paths.BPFFS, pinning.GuardDir) }

// startGuard takes up the guard that is in force, or arms one as hornetd.toml says.
// A start makes nothing weaker than it is: whoever can write that file could else
// disarm the guard. The error is one with which the daemon must not become ready.
func (d *Daemon) startGuard() error {
	want := d.cfg.Guard.Mode
	g, err := lsm.Adopt(d.guardDir())
	if errors.Is(err, lsm.ErrNotArmed) {
		d.tidyGuard()
		// That takes no memory and no descriptor: without CAP_SYS_ADMIN, or where bpf(2) is
		// refused as a whole, no guard takes this process for hornetd (see blind). What runs is
		// to be looked after all the same.
		if err := d.mayStart(); errors.Is(err, lsm.ErrNotListed) {
			d.log.Warn("guard", zap.Error(err))
		} else if err = errors.Join(err, errHidden(d.under, d.guardDir())); err != nil {
			return err
		}
	}
	switch {
	case errors.Is(err, lsm.ErrNotArmed) && want == config.GuardOff:
		return nil
	case errors.Is(err, lsm.ErrNotArmed):
		if err = startedByHand(); err == nil {
			err = d.arm(modeOf(want), d.cfg.Guard.Confirm)
		}
		if err == nil {
			d.guardChanged("armed to " + string(want))
			d.inventory()
			return nil
		}
		if want == config.GuardEnforce {
			return errWeaker(err)
		}
		d.cannotGuard(err)
		d.detect()
		return nil
	case g == nil:
		return d.foreignGuard(err)
	}
	// One that was made to look like it would say what is sealed.
	if len(d.under) > 0 && !slices.ContainsFunc(d.under, g.Is) {
		return errors.Join(errHidden(d.under, d.guardDir()), g.Close())
	}
	d.guard.force = g
	if err := errors.Join(d.readSeals(), d.hear()); err != nil {
		return err
	}
	if err := d.sealedStart(); err != nil {
		return err
	}
	d.tidyGuard()
	if s, err := g.Status(); err == nil && s.Mode == lsm.Off && want == config.GuardOff {
		return d.endDisarmed()
	}
	if err := d.takeUp(want); err != nil {
		if s, lookErr := d.guard.force.Status(); want == config.GuardEnforce && (lookErr != nil || s.Mode != lsm.Enforce) {
			return errWeaker(errors.Join(err, lookErr))
		}
		d.cannotGuard(err)
	}
	return d.readExecutables()
}

// tidyGuard removes what an interrupted change of the guard left. It comes behind mayStart.
func (d *Daemon) tidyGuard() {
	tidy := func() error { return lsm.Tidy(d.guardDir()) }
	if d.guard.force != nil {
		tidy = d.guard.force.Tidy
	}
	if err := tidy(); err != nil {
		d.log.Warn("guard", zap.Error(err), zap.String("hint", remedy.Of(err)))
	}
}

// startedByHand keeps a guard from taking a session for hornetd's service: the next
// one that the service manager starts would be a stranger to it.
func startedByHand() error {
	if os.Getppid() == 1 {
		return nil
	}
	return remedy.With(errors.New("guard: hornetd was not started by the first process, and a guard knows hornetd by that"),
		"start it as a service; or, where it is started in this place each time, hornetctl guard audit or enforce")
}

// foreignGuard is a start under a guard that does not take this process for
// hornetd. One that enforces would refuse it everything, and one that audits this
// start cannot have enforce (see stranger).
func (d *Daemon) foreignGuard(err error) error {
	s, lookErr := lsm.Look(d.guardDir())
	switch {
	case lookErr != nil || s.Enforces:
		return errors.Join(err, lookErr)
	case d.cfg.Guard.Mode == config.GuardEnforce && s.Mode != lsm.Enforce: // else it fell back
		if !s.Asked { // whom systemd starts it knows by what the kernel asks it
			err = errNotAsked()
		}
		return errWeaker(remedy.With(err, `%s; or say guard.mode = "audit"`, remedy.Of(err)))
	}
	d.cannotGuard(err)
	return nil
}

// errWeaker has a start fail that is to enforce, and would not: nobody is to believe that it does.
func errWeaker(err error) error {
	return remedy.With(fmt.Errorf(`not ready, guard.mode = "enforce": %w`, err), "%s", cmp.Or(remedy.Of(err), `say guard.mode = "audit" until that is mended`))
}

func errNotAsked() error {
	return remedy.With(errors.New("guard: it is armed, and the kernel does not ask it"), "sysctl kernel.ftrace_enabled=1, and look for who turned it off")
}

// takeUp makes a guard that was adopted one of this build, and stronger where it
// is to be. What else hornetd.toml says now counts when root says so: see Guard.
func (d *Daemon) takeUp(want config.GuardMode) error {
	s, err := d.guard.force.Status()
	if err != nil {
		return err
	}
	if s.Mode == lsm.Enforce && !s.Enforces {
		return nil // it fell back, and stays so until somebody says otherwise
	}
	mode, within := s.Mode, s.Confirm
	if modeOf(want) > mode {
		mode, within = modeOf(want), d.cfg.Guard.Confirm
	}
	if mode == lsm.Enforce && mode != s.Mode && !s.Asked {
		return errNotAsked()
	}
	switch {
	case (!s.Current || s.Holed || !d.seals.whole) && d.seals.same, d.seals.strict && d.seals.next && !d.seals.same:
		err = d.upgradeGuard(mode, within, nil)
	case s.Holed && mode == lsm.Enforce: // the next start could not take that up
		return remedy.With(errors.New("guard: its floor was detached, and hornetd.toml says other things than when it was armed, so that a start makes no other"), `say guard.mode = "audit", start hornetd, hornetctl guard enforce; then say "enforce" again`)
	case mode != s.Mode:
		err = d.guard.force.SetMode(mode, within)
		if err == nil && s.Current {
			err = d.checkDigests()
		}
	default:
		return nil
	}
	if err == nil {
		d.guardChanged("in force as this hornetd has it, to " + mode.String())
	}
	return err
}

// guardChanged records a change of the guard that a start makes, which nobody asked for.
func (d *Daemon) guardChanged(what string) {
	d.note(api.EventGuard, "", what)
	if _, err := d.audit.Append(audit.Record{Phase: audit.Note, Verb: verbGuard, Reason: what}); err != nil {
		d.log.Error("audit record", zap.Error(err))
	}
}

// tellFall records once that the guard fell back to audit, which the kernel has it do, and notes
// when it will, for the watcher. It runs on the owner's thread.
func (d *Daemon) tellFall(before string) {
	if d.guard.force == nil {
		d.falls.Store(0)
		d.guard.fell = false
		return
	}
	s, err := d.guard.force.Status()
	if err != nil { // the watcher asks again
		return
	}
	d.falls.Store(0)
	fell := s.Mode == lsm.Enforce && !s.Enforces
	if fell && !d.guard.fell {
		d.guardChanged("it enforced, and fell back to audit" + before + ": nobody confirmed in time")
	}
	d.guard.fell = fell
	if now, err := sinceBoot(); err == nil && s.Confirm > 0 {
		d.falls.Store(int64(now + s.Confirm))
	}
}

// fallDue reports whether the guard may have fallen back since tellFall.
func (d *Daemon) fallDue() bool {
	at := d.falls.Load()
	if at == 0 {
		return false
	}
	now, err := sinceBoot()
	return err == nil && int64(now) >= at
}

func (d *Daemon) cannotGuard(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unarmed = err
	if err != nil {
		d.log.Warn("guard", zap.Error(err), zap.String("hint", remedy.Of(err)))
	}
}

// arm puts a guard in force for the first time.
func (d *Daemon) arm(mode lsm.Mode, within time.Duration) error {
	c, done, err := d.guardConfig(mode, within)
	if err != nil {
		return err
	}
	defer done()
	if c.Sealed, err = d.sealing(); err != nil {
		return err
	}
	if err = d.owner.lasts(guardLasts, func() (err error) {
		d.guard.force, err = lsm.Arm(d.guardDir(), c)
		return err
	}); err != nil {
		return err
	}
	d.statements.forget()
	d.cannotGuard(nil)
	d.detector.stop() // the guard tells
	return errors.Join(d.readSeals(), d.readExecutables(), d.hear())
}

// upgradeGuard puts one of this build, and as hornetd.toml was when hornetd started,
// in the place of what is in force, sealed with that or, where it is not nil, sealed.
func (d *Daemon) upgradeGuard(mode lsm.Mode, within time.Duration, sealed map[[32]byte]uint32) error {
	c, done, err := d.guardConfig(mode, within)
	if err != nil {
		return err
	}
	defer done()
	if c.Sealed = sealed; sealed == nil {
		if c.Sealed, err = d.sealing(); err != nil {
			return err
		}
	}
	var next *lsm.Guard
	err = d.owner.lasts(guardLasts, func() (err error) {
		next, err = d.guard.force.Upgrade(c)
		return err
	})
	if next == nil {
		return err // what is in force is heard as before
	}
	d.guard.force = next
	// Both have told for a moment, and what was done then may be told twice.
	d.guard.hearOut()
	if err == nil {
		d.cannotGuard(nil)
	}
	return errors.Join(err, d.readSeals(), d.readExecutables(), d.hear())
}

// guardConfig is what hornetd.toml says, opened; done closes it.
func (d *Daemon) guardConfig(mode lsm.Mode, within time.Duration) (_ lsm.Config, done func(), err error) {
	var open []*os.File
	closeAll := func() {
		for _, f := range open {
			f.Close()
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	mount, err := loader.CgroupMount()
	if err != nil {
		return lsm.Config{}, nil, fmt.Errorf("guard: %w", err)
	}
	if d.cgroup == "" {
		return lsm.Config{}, nil, remedy.With(errors.New("guard: hornetd is in no cgroup of version 2, by which a guard knows it"), "boot with systemd.unified_cgroup_hierarchy=1")
	}
	c := lsm.Config{Mode: mode, Cgroup: filepath.Join(mount, d.cgroup), Guarded: []string{d.cfg.Paths.BPFFS}, Owned: d.objects()}
	if mode == lsm.Enforce {
		c.ConfirmWithin = within
	}
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return lsm.Config{}, nil, fmt.Errorf("guard: %w", err)
	}
	open = append(open, exe)
	c.Executables, c.OwnFirst = []*os.File{exe}, true
	allow, files, err := identities(d.cfg.Guard.Allow, mount)
	open = append(open, files...)
	if err != nil {
		return lsm.Config{}, nil, err
	}
	c.Allow = allow
	return c, closeAll, nil
}

// identities are who else entries of hornetd.toml let in, with what is open of them. An entry with
// a digest and without a file keeps a guard from nothing: see readExecutables.
func identities(entries []config.Allowed, mount string) (all []lsm.Identity, open []*os.File, err error) {
	for _, a := range entries {
		id := lsm.Identity{Commands: a.Commands, Programs: a.Programs, Attachments: a.Attachments, Signals: a.Signals}
		for _, k := range a.KernelSigned {
			id.Keyrings = append(id.Keyrings, lsm.Keyring(k))
		}
		switch {
		case len(id.Keyrings) > 0:
		case a.Cgroup != "":
			id.Cgroup = filepath.Join(mount, a.Cgroup)
		default:
			f, err := openExecutable(a.Executable)
			if err != nil && a.SHA256 != nil {
				continue
			}
			if err != nil {
				return nil, open, remedy.With(fmt.Errorf("guard: allow: %w", err), "remove the entry of [[guard.allow]], or install what it names")
			}
			open = append(open, f)
			if id.Executable = f; a.SHA256 != nil {
				id.SHA256 = *a.SHA256
			}
		}
		all = append(all, id)
	}
	return all, open, nil
}

// missing has an error for each file of [[guard.allow]] that is not there, and without which no
// guard is armed, so that with mode = "enforce" hornetd would not become ready.
func (d *Daemon) missing() (errs []error) {
	if d.cfg.Guard.Mode == config.GuardOff {
		return nil
	}
	for _, a := range d.cfg.Guard.Allow {
		_, open, err := identities([]config.Allowed{a}, "")
		for _, f := range open {
			f.Close()
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// objects are those that the guard has not seen being made.
func (d *Daemon) objects() []lsm.Object {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var all []lsm.Object
	add := func(r pinning.Record) {
		for _, m := range r.Maps {
			all = append(all, lsm.Object{Kind: lsm.Map, ID: m.ID})
		}
		for _, p := range r.Programs {
			all = append(all, lsm.Object{Kind: lsm.Program, ID: p.ID})
		}
		for _, l := range r.Links {
			all = append(all, lsm.Object{Kind: lsm.Link, ID: l.ID})
		}
	}
	for _, c := range d.running {
		add(c.record)
	}
	for _, h := range d.held {
		if h.record != nil {
			add(*h.record)
		}
	}
	return all
}

// forget takes objects that have gone off the guard's list, where there is not room
// for ever.
func (g *guardian) forget(now time.Time) {
	if g.force == nil {
		return
	}
	made, err := g.force.Made() // by another guard, after an upgrade: it counts anew
	if err != nil || now.Sub(g.swept) < forgetEvery && made-g.made < forgetMade {
		return
	}
	g.swept, g.made = now, made
	owned, err := g.force.Owned()
	if err != nil {
		return
	}
	for _, o := range owned {
		if gone(o) {
			g.force.Disown(o)
		}
	}
}

// share has a guard let others write a map whose descriptor they are given.
func (d *Daemon) share(id uint32) error {
	d.mu.RLock()
	armed := d.seals.armed
	d.mu.RUnlock()
	if !armed {
		return nil
	}
	return d.owner.do(func() error {
		if d.guard.force == nil {
			return nil
		}
		return d.guard.force.Share(id)
	})
}

// gone reports whether the kernel has nothing of that id.
func gone(o lsm.Object) bool {
	var err error
	var c interface{ Close() error }
	switch o.Kind {
	case lsm.Program:
		c, err = ebpf.NewProgramFromID(ebpf.ProgramID(o.ID))
	case lsm.Map:
		c, err = ebpf.NewMapFromID(ebpf.MapID(o.ID))
	case lsm.Link:
		c, err = link.NewFromID(link.ID(o.ID))
	}
	if err == nil && c != nil {
		c.Close()
	}
	return errors.Is(err, fs.ErrNotExist)
}

// hear begins to read what the guard tells.
func (d *Daemon) hear() error {
	events, err := d.guard.force.Events()
	if err != nil {
		return err
	}
	d.guard.events, d.guard.heard = events, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		d.listen(events.Read)
	}(d.guard.heard)
	return nil
}

// listen records what read returns, until that is closed or flushed. What cannot be read any
// more is a fault of the guard; what is no event is told, and the rest goes on record.
func (d *Daemon) listen(read func() (lsm.Event, error)) {
	for {
		e, err := read()
		switch {
		case err == nil:
			d.foreign(e)
		case errors.Is(err, lsm.ErrClosed), errors.Is(err, lsm.ErrFlushed):
			return
		case errors.Is(err, lsm.ErrNoEvent):
			d.log.Error("guard", zap.Error(err))
		default:
			d.cannotGuard(remedy.With(fmt.Errorf("guard: what it sees is not told any more: %w", err), "restart hornetd"))
			return
		}
	}
}

// foreign records what somebody else did, or was kept from. What repeats is
// counted, root's too: it is not root's own disk that another root fills.
func (d *Daemon) foreign(e lsm.Event) {
	rec := audit.Record{Phase: audit.Note, Verb: verbForeign, Reason: e.String(),
		Caller: audit.Caller{UID: e.UID, GID: e.GID, PID: int32(e.PID), Comm: e.Comm}}
	rec.Caller.Unit, rec.Caller.Exe = foreignProcess(e)
	if unit, known := unitOfCgroup(e.Cgroup); known { // the process may be elsewhere by now
		rec.Caller.Unit = unit
	}
	if e.Object.Kind == lsm.Program && e.Object.ID != 0 {
		rec.Programs = []uint32{e.Object.ID}
	}
	if e.Refused {
		rec.Phase, rec.Kind = audit.Refusal, string(api.KindDenied)
		rec.Error = "refused by the guard: " + e.String()
	}
	if e.Suppressed > 0 {
		rec.Reason += fmt.Sprintf(" (%d more of this caller were not told)", e.Suppressed)
	}
	d.tellForeign(rec, sortOf(e), e.String(), e.Comm)
}

// tellForeign puts on record what of somebody else's is not counted together with
// the like of it, and tells of it. name is what they call themselves.
func (d *Daemon) tellForeign(rec audit.Record, sort, what, name string) {
	settle := d.refused.firstRead(rec, sort)
	if settle == nil {
		return
	}
	settle(true) // it is told below, whatever becomes of the record
	if _, err := d.audit.Append(rec); err != nil {
		d.log.Error("audit record", zap.Error(err))
	}
	refused := rec.Phase == audit.Refusal
	verdict := "went through"
	if refused {
		verdict = "refused"
	}
	d.events.publish(api.Event{Time: time.Now(), Kind: api.EventForeign, Message: fmt.Sprintf("%s by %s: %s", what, cmp.Or(rec.Caller.Exe, name), verdict),
		Caller: &api.Caller{UID: rec.Caller.UID, GID: rec.Caller.GID, PID: rec.Caller.PID, Unit: rec.Caller.Unit}})
	d.log.Warn(verbForeign, zap.String("what", what), zap.Bool("refused", refused), zap.Uint32("uid", rec.Caller.UID),
		zap.Int32("pid", rec.Caller.PID), zap.String("comm", rec.Caller.Comm), zap.String("exe", rec.Caller.Exe), zap.String("unit", rec.Caller.Unit))
}

// sortOf is what events count together by. Of another user's it is few kinds,
// whatever they do: they need no right to cause them.
func sortOf(e lsm.Event) string {
	if e.UID != 0 {
		return fmt.Sprint(e.Deed, e.Refused)
	}
	return fmt.Sprint(e.Deed, min(e.Detail, 1<<16), e.Refused, e.Executable)
}

// foreignProcess looks up the unit and the executable of whoever an event is of,
// where its process is still there: the executable tells whether it is that one.
func foreignProcess(e lsm.Event) (unit, exe string) {
	dir := fmt.Sprintf("/proc/%d", e.PID)
	var st unix.Stat_t
	if err := unix.Stat(dir+"/exe", &st); err != nil || st.Ino != e.Executable.Inode {
		return "", ""
	}
	exe, _ = os.Readlink(dir + "/exe")
	if b, err := os.ReadFile(dir + "/cgroup"); err == nil {
		unit = unitOf(string(b))
	}
	return unit, exe
}

// inventory records once what ran before there was a guard.
func (d *Daemon) inventory() {
	all, err := d.guard.force.Inventory()
	if err != nil {
		d.log.Warn("guard", zap.Error(err))
		return
	}
	if len(all) == 0 {
		return
	}
	ids := make([]uint32, len(all))
	for i, f := range all {
		ids[i] = f.ID
	}
	d.ranBefore(ids, "the guard was armed")
}

// ranBefore records programs of others that are there already.
func (d *Daemon) ranBefore(ids []uint32, when string) {
	rec := audit.Record{Phase: audit.Note, Verb: verbForeign, Programs: ids,
		Reason: fmt.Sprintf("%d programs that are not hornetd's ran when %s", len(ids), when)}
	if _, err := d.audit.Append(rec); err != nil {
		d.log.Error("audit record", zap.Error(err))
	}
	d.note(api.EventForeign, "", rec.Reason)
}

// Guard has the guard do something else from now on. What hornetd.toml says counts
// from then on too.
func (d *Daemon) Guard(who Peer, req api.GuardRequest) (api.Guard, error) {
	what, err := guardWish(req)
	if err == nil {
		err = rootOnly(who, verbGuard)
	}
	if err != nil {
		return api.Guard{}, d.refuse(who, verbGuard, "", err)
	}
	return d.changeGuard(who, what.reason, func() error { return d.setGuard(what) })
}

// Enroll makes an executable one that is hornetd where systemd starts it as such.
func (d *Daemon) Enroll(who Peer, file string) (api.Guard, error) {
	err := rootOnly(who, "guard enroll")
	if err == nil && !filepath.IsAbs(file) {
		err = api.Errorf(api.KindBadRequest, "file %.200q: want an absolute path", file)
	}
	if err != nil {
		return api.Guard{}, d.refuse(who, verbGuard, "", err)
	}
	return d.changeGuard(who, "enroll "+file, func() error {
		if d.guard.force == nil {
			return d.notInForce()
		}
		if d.seals.strict {
			return d.errSealed("nothing else becomes hornetd")
		}
		f, err := openExecutable(file)
		if err != nil {
			return remedy.With(fmt.Errorf("guard: enroll: %w", err), "name the new hornetd's own file, where it is to be started from")
		}
		defer f.Close()
		_, err = d.guard.force.Enroll(f)
		return errors.Join(err, d.readExecutables())
	})
}

// openExecutable opens a regular file. It waits for nobody, as a pipe would have the
// owner's thread do.
func openExecutable(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("%.200s: no regular file", path), err)
	}
	return f, nil
}

// changeGuard does something to the guard, on record.
func (d *Daemon) changeGuard(who Peer, reason string, do func() error) (api.Guard, error) {
	err := d.change(who, verbGuard, "", nil, func() (err error) {
		d.tellFall("")
		a := d.begin(who, verbGuard, "", api.EventGuard)
		a.rec.Reason = reason
		defer func() { err = a.conclude(err) }()
		if err := a.intend(); err != nil {
			return err
		}
		defer d.tellFall("")
		return do()
	})
	if err != nil {
		return api.Guard{}, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return *d.guardLocked(), nil
}

// wish is a checked api.GuardRequest.
type wish struct {
	mode    lsm.Mode
	within  time.Duration
	confirm bool
	signed  bool   // by a root
	reason  string // for the record
}

func guardWish(req api.GuardRequest) (w wish, err error) {
	bad := func(hint, format string, args ...any) (wish, error) {
		return wish{}, remedy.With(api.Errorf(api.KindBadRequest, format, args...), "%s", hint)
	}
	switch req.Mode {
	case api.GuardOff, api.GuardAudit, api.GuardEnforce:
		w.mode = modeOf(config.GuardMode(req.Mode))
	case "":
		if !req.Confirm {
			return bad("say a mode, or confirm", "nothing is asked for")
		}
	default:
		return bad("say off, audit or enforce", "mode %.80q: no such mode", req.Mode)
	}
	w.confirm = req.Confirm
	if w.confirm && req.Mode != "" {
		return bad("ask for one after the other", "mode and confirm: not both")
	}
	if req.ConfirmWithin != "" {
		w.within, err = time.ParseDuration(req.ConfirmWithin)
		if err != nil || w.within < time.Second || req.Mode != api.GuardEnforce {
			return bad(`say "10m", with mode enforce`, "confirm_within %.40q: want a time of a second or more, and mode enforce", req.ConfirmWithin)
		}
	}
	if req.Mode == api.GuardOff && req.Reason == "" {
		return bad("say why, for the audit log", "mode off: without a reason")
	}
	w.reason = string(req.Mode)
	if w.confirm {
		w.reason = "confirm"
	}
	if req.Reason != "" {
		w.reason += ": " + req.Reason
	}
	return w, nil
}

// notInForce is the answer where there is no guard that this process can change.
func (d *Daemon) notInForce() error {
	what, hint := "no guard is in force", "hornetctl guard audit arms one"
	if _, err := lsm.Look(d.guardDir()); err == nil {
		what, hint = "the guard that is in force is not this hornetd's to change", "restart hornetd"
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.unarmed != nil {
		return remedy.With(api.Errorf(api.KindConflict, "%s: %w", what, d.unarmed), "%s", remedy.Of(d.unarmed))
	}
	return remedy.With(api.Errorf(api.KindConflict, "%s", what), "%s", hint)
}

// setGuard runs on the owner's thread.
func (d *Daemon) setGuard(w wish) error {
	g := d.guard.force
	if g == nil {
		if _, err := lsm.Look(d.guardDir()); err == nil { // there is one, which does not know this process
			return d.notInForce()
		}
		if w.mode == lsm.Off && d.guardLeft() {
			return d.endLeft()
		}
		if w.confirm || w.mode == lsm.Off {
			return d.notInForce()
		}
		if err := d.arm(w.mode, w.limit(lsm.Status{}, d.cfg.Guard.Confirm)); err != nil {
			return err
		}
		d.inventory()
		return nil
	}
	if w.confirm {
		return g.Confirm()
	}
	s, err := g.Status()
	if err != nil {
		return err
	}
	within := w.limit(s, d.cfg.Guard.Confirm)
	switch {
	case d.seals.strict && !w.signed && (w.mode < s.Mode || !d.seals.same || w.within > 0 && s.Enforces):
		return d.errSealed("nothing makes it weaker")
	case w.mode == lsm.Off:
		return d.disarm()
	case w.mode == lsm.Enforce && !s.Asked:
		return errNotAsked()
	case d.seals.same && s.Current && !s.Holed && len(d.cfg.Guard.Allow) == 0: // whose files may be others by now
		return g.SetMode(w.mode, within)
	case w.mode < s.Mode:
		return d.weakenGuard(w.mode)
	}
	return d.upgradeGuard(w.mode, within, nil)
}

// limit is the time to confirm where a guard that is as s says is asked for w: that which was
// named; or else what is left of it, where it enforces, and what hornetd.toml has, where it begins to.
func (w wish) limit(s lsm.Status, confirm time.Duration) time.Duration {
	switch {
	case w.mode != lsm.Enforce || w.within > 0:
		return w.within
	case s.Enforces:
		return s.Confirm
	}
	return confirm
}

// weakenGuard has what is in force do less at once. That whoever is shut out has it audit is
// not to fail for what else hornetd.toml says, which is put in force behind that, or told.
func (d *Daemon) weakenGuard(mode lsm.Mode) error {
	was := d.guard.force
	if err := was.SetMode(mode, 0); err != nil {
		return err
	}
	err := d.upgradeGuard(mode, 0, nil)
	if err == nil {
		return nil
	}
	if d.guard.force == was {
		err = fmt.Errorf("it was not made anew with this: %w", err)
	}
	d.cannotGuard(err)
	d.guardChanged(err.Error())
	return nil
}

// endDisarmed removes a guard that was disarmed before this start, and stayed.
func (d *Daemon) endDisarmed() error {
	err := d.disarm()
	if err != nil {
		d.log.Warn("guard", zap.Error(err), zap.String("hint", remedy.Of(err)))
	}
	if d.guard.force != nil {
		return d.readExecutables()
	}
	return nil
}

// disarm ends the guard. One that stays where it was, off or not, can be disarmed again.
func (d *Daemon) disarm() error {
	err := d.owner.lasts(guardLasts, d.guard.force.Disarm)
	if err != nil && !errors.Is(err, lsm.ErrLeft) {
		return err
	}
	d.guard.hearOut()
	d.guard.force = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seals, d.enrolled, d.unlisted, d.unarmed = seals{}, nil, nil, err
	return err
}

// guardLeft reports whether something is left of a guard that was disarmed.
func (d *Daemon) guardLeft() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return errors.Is(d.unarmed, lsm.ErrLeft)
}

// endLeft removes it.
func (d *Daemon) endLeft() error {
	if err := lsm.Tidy(d.guardDir()); err != nil {
		return err
	}
	d.cannotGuard(nil)
	return nil
}

// guardLocked says how the guard is.
func (d *Daemon) guardLocked() *api.Guard {
	out := &api.Guard{Mode: api.GuardOff, Wanted: api.GuardMode(d.cfg.Guard.Mode), Disarm: string(d.cfg.Guard.Disarm)}
	s, err := lsm.Look(d.guardDir())
	switch {
	case d.onFloor != nil:
		out.Mode, out.Floor, out.Disarm, err = api.GuardEnforce, true, "", d.unarmed
	case errors.Is(err, lsm.ErrNotArmed):
		if d.detector.runs() {
			out.Mode, out.Lost = api.GuardDetect, d.detector.lost.Load()
		}
		if err = d.unarmed; err == nil && d.cfg.Guard.Mode != config.GuardOff {
			err = remedy.With(errors.New("it was disarmed"), "hornetctl guard %s", d.cfg.Guard.Mode)
		}
	case err == nil:
		err = d.unarmed
		if err == nil {
			err = madeWeaker(s.Mode, d.cfg.Guard.Mode)
		}
		if err == nil && d.seals.armed && !d.seals.same {
			err = remedy.With(errors.New("hornetd.toml says other things than it was armed with"), "hornetctl guard %s, from when on they count", s.Mode)
		}
		if out.Disarm = ""; d.seals.armed { // else nobody here knows
			out.Disarm = string(d.seals.disarm())
		}
		out.Mode = api.GuardMode(s.Mode.String())
		out.Open = s.Open
		out.Hooks, out.Floor = s.Hooks, s.Floor
		out.Refused, out.Lost, out.Suppressed = s.Refused, s.Lost, s.Suppressed
		out.Enrolled = d.enrolled
		if s.Confirm > 0 {
			out.Confirm = s.Confirm.Round(time.Second).String()
		}
		if s.Mode == lsm.Off {
			err = remedy.With(errors.New("it was disarmed, and its pins could not be removed"), "see that %s can be written, then hornetctl guard disarm --reason TEXT; or hornetctl guard audit", d.guardDir())
		}
		if s.Mode == lsm.Enforce && !s.Enforces {
			out.Mode = api.GuardAudit
			err = remedy.With(errors.New("it enforced, and fell back to audit: nobody confirmed in time"), "hornetctl guard enforce")
		}
		if !s.Asked {
			out.Mode = api.GuardOff
			err = errNotAsked()
		}
	}
	if err != nil {
		e := asAPIError(err)
		out.Reason, out.Hint = e.Message, e.Hint
	}
	return out
}

// madeWeaker is why a guard refuses nothing where hornetd.toml has it enforce, as each start
// does, and nothing went wrong.
func madeWeaker(is lsm.Mode, want config.GuardMode) error {
	if is != lsm.Audit || want != config.GuardEnforce {
		return nil
	}
	return remedy.With(errors.New("since hornetd's start somebody who may has had it audit"), "hornetctl guard enforce")
}

// guardProblem is what an operator should look at: a guard that is weaker than
// hornetd.toml says. That a kernel has none to audit with is only told.
func guardProblem(g *api.Guard) (api.Problem, bool) {
	if g.Wanted != api.GuardEnforce || g.Mode == api.GuardEnforce {
		return api.Problem{}, false
	}
	return api.Problem{Kind: api.KindUnavailable, Message: "guard: does not enforce: " + g.Reason, Hint: g.Hint}, true
}

func modeOf(m config.GuardMode) lsm.Mode {
	switch m {
	case config.GuardAudit:
		return lsm.Audit
	case config.GuardEnforce:
		return lsm.Enforce
	}
	return lsm.Off
}
