package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

// The ratchet's file, and the audit log's directory, in the state directory.
const (
	ratchetFile = "ratchet"
	auditDir    = "audit"
)

// saveEvery is after how many audit records the ratchet is written anew, which
// bounds what a start has to read of the log.
const saveEvery = 1024

// ratchet is what holds: the file's contents, and what the audit log says of the
// loads since. A load makes its version durable with the record of its outcome,
// and the file is written every now and then.
type ratchet struct {
	signing.Ratchet
	logged uint64 // the audit record up to which the file tells everything
	ahead  bool   // the file does not tell everything

	again time.Time // when the file, which could not be written, is written once more; zero: it could
}

// maxReason bounds the reason of a rollback, in bytes.
const maxReason = 200

// admit verifies what m names, and holds its version against what was loaded
// here before. boot is that it is to load, or would, at a start.
func (d *Daemon) admit(files reader, trust *signing.Trust, m manifest.Manifest, boot bool) (signing.Verified, error) {
	v, err := d.verify(files, trust, m, boot)
	if err != nil {
		return signing.Verified{}, err
	}
	if err := trust.CheckVersion(listed(claimOf(m, v))); err != nil {
		return signing.Verified{}, err
	}
	if isOwn(m.Name) {
		return v, nil
	}
	err = d.ratchet.Check(claimOf(m, v))
	if err != nil && d.cfg.Trust.Development {
		d.log.Warn("development: loads in spite of it", zap.String("collection", m.Name), zap.Error(err))
		return v.RolledBack(), nil
	}
	if err != nil {
		return signing.Verified{}, err
	}
	return v, nil
}

func claimOf(m manifest.Manifest, v signing.Verified) signing.Claim {
	return signing.Claim{Manifest: claimed(m.Name), Signer: v.Signer().Name, Key: v.Signer().KeySHA256, KeyID: v.Signer().KeyID, Subject: v.Signer().Subject, Version: m.Version,
		ManifestDigest: hexDigest(m.TextDigest), DropIns: withDropIns(m), ObjectDigest: hexDigest(v.Digest()), File: m.Object.Path}
}

// claimed is the name under which the ratchet knows a collection: all instances of
// a template by the template's, since whoever loads them chooses theirs.
func claimed(name string) string {
	template, _, _ := manifest.SplitInstance(name)
	return template
}

// listed is c as a revocation list names it: callers' own by the name that their
// manifest says.
func listed(c signing.Claim) signing.Claim {
	c.Manifest = manifest.Said(c.Manifest)
	return c
}

// withDropIns is the digest of m with its drop-ins, "" where there are none.
func withDropIns(m manifest.Manifest) string {
	if len(m.DropIns) == 0 {
		return ""
	}
	return hexDigest(m.Digest)
}

func recordedClaim(r pinning.Record) signing.Claim {
	c := signing.Claim{Manifest: claimed(r.Name), Signer: r.Signer.Name, Key: r.Signer.KeySHA256, Version: r.Version,
		ManifestDigest: r.ManifestDigest, ObjectDigest: r.ObjectDigest, File: r.ObjectFile}
	if len(r.DropIns) > 0 {
		c.ManifestDigest, c.DropIns = r.TextDigest, r.ManifestDigest
	}
	return c
}

// openRatchet reads the ratchet. One that is damaged is set aside, and one that
// is gone begins anew: an attacker who can damage it can delete it, and a host
// whose disk lost a block must not come up without its firewall. What runs is
// still known from its records (adoptRatchet). One that could not be read is left
// where it is, for a start that can, and nothing is written in its place until
// then. lost says what happened.
func (d *Daemon) openRatchet() (lost error, err error) {
	path := filepath.Join(d.cfg.Paths.State, ratchetFile)
	d.ratchet, err = readRatchet(path)
	switch {
	case err == nil:
		return d.ratchet.replay(d.audit), nil
	case errors.Is(err, fs.ErrNotExist):
		if records, _ := d.audit.Last(); records == 0 {
			return nil, nil // the first start on this host
		}
		return remedy.With(fmt.Errorf("%s is gone: versions that were loaded before, and do not run now, are forgotten", path),
			"restore it from a backup while hornetd is stopped, or see with hornetctl list that what runs is of the right version"), nil
	case errors.As(err, new(syscall.Errno)): // says nothing of what is in it
		return remedy.With(fmt.Errorf("%w: %w; what it says of versions does not hold, and nothing new loads but at a start", errUnread, err),
			"mend what keeps it from being read, or move %s away if it is lost, and restart hornetd", path), nil
	}
	aside := fmt.Sprintf("%s.damaged-%d", path, time.Now().UnixNano())
	if moved := errors.Join(os.Rename(path, aside), syncDir(d.cfg.Paths.State)); moved != nil {
		return nil, remedy.With(errors.Join(err, moved), "move %s away, or restore it from a backup", path)
	}
	return remedy.With(fmt.Errorf("%w: it was set aside as %s; versions that were loaded before, and do not run now, are forgotten", err, aside),
		"restore it from a backup while hornetd is stopped, or see with hornetctl list that what runs is of the right version"), nil
}

// errUnread is that the ratchet's file is there and could not be read.
var errUnread = errors.New("ratchet: not read")

// readRatchet reads the file; one that is not there is fs.ErrNotExist.
func readRatchet(path string) (r ratchet, err error) {
	b, err := safefile.Read(path, signing.MaxRatchet)
	if err != nil {
		return r, err
	}
	if r.Ratchet, r.logged, err = signing.ParseRatchet(b); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// viewRatchet reads the ratchet beside a daemon that may be running.
func (d *Daemon) viewRatchet() (err error) {
	d.ratchet, err = readRatchet(filepath.Join(d.cfg.Paths.State, ratchetFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	log, err := audit.View(filepath.Join(d.cfg.Paths.State, auditDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	defer log.Close()
	return d.ratchet.replay(log)
}

// replay takes in the loads that the log tells of and the file does not.
func (r *ratchet) replay(log *audit.Log) error {
	last, _ := log.Last()
	var moved error
	if r.logged > last {
		moved = fmt.Errorf("audit log: it begins anew, and the ratchet told everything up to record %d of the last one", r.logged)
		r.logged, r.ahead = 0, true
	}
	err := log.Read(r.logged+1, func(rec audit.Record, _ []byte) error {
		if c, ok := loggedClaim(rec); ok {
			var changed bool
			r.Ratchet, changed = r.Advance(c)
			r.ahead = r.ahead || changed
		}
		return nil
	})
	r.ahead = r.ahead || last-r.logged >= saveEvery
	return remedy.With(errors.Join(moved, err), "what was loaded behind that record and does not run now is forgotten: see with hornetctl list that what runs is of the right version")
}

// loggedClaim is what a record says was loaded.
func loggedClaim(r audit.Record) (signing.Claim, bool) {
	return signing.Claim{Manifest: claimed(r.Collection), Signer: r.Signer, Key: r.SignerKey, Version: r.Version, ManifestDigest: r.Manifest, DropIns: r.DropIns, ObjectDigest: r.Object},
		!isOwn(r.Collection) && r.Phase == audit.Outcome && (r.Verb == asLoad.verb || r.Verb == asUpgrade.verb || r.Verb == audit.VerbConfirm) && r.Kind == "" && !r.Trial
}

// adoptRatchet makes up, from the records of what runs, for what the ratchet
// has lost: a crash between a commit and its record, or the file.
func (d *Daemon) adoptRatchet(lost error) {
	next, changed := d.ratchet.Ratchet, d.ratchet.ahead
	for _, name := range sortedKeys(d.running) {
		if isOwn(name) || d.running[name].unconfirmed != nil {
			continue
		}
		n, c := next.Adopt(recordedClaim(d.running[name].record))
		next, changed = n, changed || c
	}
	next, listed := next.AdvanceList(d.trust.Revocations())
	changed = changed || listed
	if _, err := os.Lstat(filepath.Join(d.cfg.Paths.State, ratchetFile)); err != nil {
		changed = true
	}
	if last, _ := d.audit.Last(); last == 0 {
		// So that a log that begins anew is seen: its last record is before this one.
		_, err := d.audit.Append(audit.Record{Phase: audit.Note, Verb: "ratchet", Reason: "begins"})
		d.tellState(ofLog, err)
	}
	if changed {
		err := d.setRatchet(next)
		d.ratchet.Ratchet = next // whatever the disk says: it is what runs
		if !errors.Is(err, errUnread) {
			d.tellRatchet(err)
		}
	}
	if lost != nil {
		d.tellState("", lost)
		_, err := d.audit.Append(audit.Record{Phase: audit.Note, Verb: "ratchet", Error: lost.Error()})
		d.tellState(ofLog, err)
	}
	if d.cfg.Trust.Development {
		d.tellState("", remedy.With(errors.New("[trust] development: older versions load with a warning"),
			"remove the key from hornetd.toml where this host is not for writing programs"))
	}
}

// trouble is something that is wrong with the daemon's own state.
type trouble struct {
	topic   string // "" for what only a restart ends
	problem api.Problem
	lasts   func() bool // nil: until its topic is settled
}

// The topics: what was tried again and works settles what was said of it.
const (
	ofRatchet = "ratchet"
	ofCopy    = "copy of the revocation list"
	ofList    = "revocation list"
	ofLog     = "audit log"
	ofClock   = "clock"
	ofUnload  = "unload "       // and what
	ofSigning = "signing time " // and of what
)

// tellState notes an error about the daemon's own state: what runs is right,
// and an operator should know. It stays in the status until its topic is told of
// again; nil settles that.
func (d *Daemon) tellState(topic string, err error) { d.tellWhile(topic, err, nil) }

// tellWhile is tellState of what ends by itself.
func (d *Daemon) tellWhile(topic string, err error, lasts func() bool) {
	now := trouble{topic: topic, lasts: lasts}
	if err != nil {
		now.problem = problem("", err)
		now.problem.Kind = api.KindUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && !slices.ContainsFunc(d.state, func(t trouble) bool { return t.problem == now.problem }) {
		d.log.Error("state", zap.Error(err), zap.String("hint", remedy.Of(err)))
	}
	d.state = slices.DeleteFunc(d.state, func(t trouble) bool {
		return topic != "" && t.topic == topic || t.problem == now.problem
	})
	if err != nil {
		d.state = append(d.state, now)
	}
}

// troublesLocked is what the status shows of them.
func (d *Daemon) troublesLocked() (all []api.Problem) {
	for _, t := range d.state {
		if t.lasts == nil || t.lasts() {
			all = append(all, t.problem)
		}
	}
	return all
}

// setRatchet makes next durable and what holds.
func (d *Daemon) setRatchet(next signing.Ratchet) error {
	if err := d.unread(); err != nil {
		return err
	}
	last, _ := d.audit.Last()
	b, err := next.Encode(last)
	if err != nil {
		return err
	}
	path := filepath.Join(d.cfg.Paths.State, ratchetFile)
	if err = writeSynced(path+".new", b); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(d.cfg.Paths.State)
	}
	if err != nil {
		return remedy.With(api.Errorf(api.KindUnavailable, "ratchet: %w", err), "free space on the file system of %s, or look after its disk", d.cfg.Paths.State)
	}
	d.ratchet = ratchet{Ratchet: next, logged: last}
	d.tellState(ofRatchet, nil)
	return nil
}

// unread refuses a change of a ratchet that could not be read.
func (d *Daemon) unread() error {
	if errors.Is(d.lost, errUnread) {
		return remedy.With(api.Errorf(api.KindUnavailable, "%w", d.lost), "%s", remedy.Of(d.lost))
	}
	return nil
}

// mayAdvance refuses a load that could not be remembered. At a start there is
// none: a full disk must not cost a host its firewall, and the record of what runs
// makes up for it at the next one.
func (d *Daemon) mayAdvance(c signing.Claim) error {
	next, changed := d.ratchet.Advance(c)
	if !changed || d.booting || isOwn(c.Manifest) {
		return nil
	}
	return errors.Join(d.unread(), next.Room())
}

// advance is behind the commit of a load. The record of the outcome makes it
// durable, before the load is answered.
func (d *Daemon) advance(c signing.Claim) {
	next, changed := d.ratchet.Advance(c)
	if !changed || isOwn(c.Manifest) {
		return
	}
	d.ratchet.Ratchet, d.ratchet.ahead = next, true
	d.save()
}

// save writes the ratchet's file where a start would have much of the log to
// read, or where it could not be written a while ago.
func (d *Daemon) save() {
	d.keepState()
	last, _ := d.audit.Last()
	again := !d.ratchet.again.IsZero() && time.Now().After(d.ratchet.again)
	if (last-d.ratchet.logged >= saveEvery || again) && d.unread() == nil {
		d.tellRatchet(d.setRatchet(d.ratchet.Ratchet))
	}
}

// keepState makes again what somebody took out of the state directory, or with it:
// what the next start would otherwise not know.
func (d *Daemon) keepState() {
	remade, err := d.audit.Keep()
	if err != nil {
		d.tellState(ofLog, unrecorded{err})
		return
	}
	d.tellState(ofLog, nil)
	if remade > d.remade {
		d.remade = remade
		d.ratchet.again = time.Time{} // what failed for want of the directory need not wait
		d.tellState("", remedy.With(fmt.Errorf("audit log: %s was taken away while hornetd ran, and is made again with all that it held", d.cfg.Paths.State),
			"find out who did it; the programs that run were not touched"))
	}
	if _, err := os.Lstat(filepath.Join(d.cfg.Paths.State, ratchetFile)); errors.Is(err, fs.ErrNotExist) && d.ratchet.again.IsZero() && d.unread() == nil {
		d.tellRatchet(d.setRatchet(d.ratchet.Ratchet))
		d.tellState(ofCopy, d.copyList(d.inForce()))
	}
}

// againAfter is when what could not be written is written once more.
const againAfter = 10 * time.Second

// tellRatchet notes that the ratchet could not be written, if it could not.
func (d *Daemon) tellRatchet(err error) {
	if err != nil {
		d.ratchet.again = time.Now().Add(againAfter)
		d.tellState(ofRatchet, err)
	}
}

// writeSynced writes a new file in the place of what a crash left there.
func writeSynced(path string, b []byte) error {
	if err := unix.Unlink(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // not through a link of root's: the guard lets hornetd write its own executables
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Rollback lets an older version of a collection load. It loads nothing.
func (d *Daemon) Rollback(who Peer, name string, to uint64, reason string) (api.Collection, error) {
	if err := d.mayRollback(who, name, reason); err != nil {
		return api.Collection{}, d.refuse(who, "rollback", name, err)
	}
	err := d.owner.do(func() (err error) {
		a := d.begin(who, "rollback", name, api.EventRolledBack)
		defer func() { err = a.conclude(err) }()
		next, err := d.ratchet.Rollback(name, to)
		if err != nil {
			return remedy.With(api.Errorf(api.KindConflict, "%w", err), "%s", remedy.Of(err))
		}
		newest, _ := d.ratchet.Newest(name)
		a.rec.Reason = fmt.Sprintf("from version %d to %d: %s", newest, to, reason)
		if err := a.intend(); err != nil {
			return err
		}
		return d.setRatchet(next)
	})
	if err != nil {
		return api.Collection{}, err
	}
	return d.view(name), nil
}

func (d *Daemon) mayRollback(who Peer, name, reason string) error {
	if err := rootOnly(who, "rollback"); err != nil {
		return err
	}
	if _, instance, isTemplate := manifest.SplitInstance(name); isTemplate && instance != "" {
		return api.Errorf(api.KindBadRequest, "rollback: %q is an instance: its version is the template's", name).WithHint("name the template, %s", claimed(name))
	}
	if err := manifest.ValidName(strings.TrimSuffix(name, "@")); err != nil {
		return remedy.With(api.Errorf(api.KindBadRequest, "%w", err), "%s", remedy.Of(err))
	}
	if reason == "" || len(reason) > maxReason {
		return api.Errorf(api.KindBadRequest, "rollback: the reason has %d bytes, must have 1 to %d", len(reason), maxReason).
			WithHint("say in a sentence why: it stands in the audit log")
	}
	return nil
}
