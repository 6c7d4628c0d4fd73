package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

// copyFile is the name of the last good revocation list in the state directory.
const copyFile = "revoked"

// openList puts a revocation list in force at a start: the one of the file or,
// where that is not good, the copy of the last good one. Where neither is there is
// no good one to stay with: nothing loads until there is. What runs runs on.
func (d *Daemon) openList() {
	store := d.trust
	copyErr := d.useCopy()
	listed, err := d.withRevocations(store)
	switch list := d.inForce(); {
	case err == nil:
		d.trust = listed
		d.tellState(ofList, d.settleList(listed.Revocations()))
		d.tellState(ofCopy, d.copyList(listed.Revocations()))
	case list != nil:
		d.copied = remedy.With(fmt.Errorf("%w: the last good one holds (serial %d, copied to %s)", err, list.Serial, d.copyPath()), "%s", remedy.Of(err))
		d.log.Error("revocation list", zap.Error(d.copied), zap.String("hint", remedy.Of(err)))
	default:
		if !errors.Is(copyErr, fs.ErrNotExist) {
			err = remedy.With(fmt.Errorf("%w; nor is the copy of the last good one: %w", err, copyErr), "%s", remedy.Of(err))
		}
		d.trust = store.Closed(err)
		d.log.Error("revocation list", zap.Error(err), zap.String("hint", remedy.Of(err)))
	}
}

func (d *Daemon) copyPath() string { return filepath.Join(d.cfg.Paths.State, copyFile) }

// useCopy puts the copy in force, verified as the file is. What is read behind
// it is held against it as against a list that was in force while this daemon ran:
// by its serial, and by whom it revokes.
func (d *Daemon) useCopy() error {
	b, err := safefile.Read(d.copyPath(), signing.MaxRevocations)
	if err != nil {
		return err
	}
	list, err := d.trust.VerifyRevocations(d.copyPath(), b, d.cfg.Trust.Roots)
	if err == nil {
		err = d.ratchet.CheckList(list)
	}
	if err == nil {
		d.trust = d.trust.WithRevocations(list)
	}
	return err
}

// copyList keeps a copy of a list that is to be in force.
func (d *Daemon) copyList(list *signing.Revocations) error {
	if list == nil {
		return nil
	}
	path := d.copyPath()
	if b, err := safefile.Read(path, signing.MaxRevocations); err == nil && bytes.Equal(b, list.File()) {
		return nil
	}
	err := writeSynced(path+".new", list.File())
	if err == nil {
		err = errors.Join(os.Rename(path+".new", path), syncDir(d.cfg.Paths.State))
	}
	if err != nil {
		return remedy.With(fmt.Errorf("revocation list: serial %d is in force and could not be copied: a start that finds %s damaged would load nothing: %w", list.Serial, d.cfg.Paths.Revoked, err),
			"free space on the file system of %s, then hornetctl reload", d.cfg.Paths.State)
	}
	return nil
}

// withRevocations reads the revocation list, verifies it with the roots in
// trust, and returns trust with the list in force. No list is fine until there
// was one.
func (d *Daemon) withRevocations(trust *signing.Trust) (*signing.Trust, error) {
	file := d.cfg.Paths.Revoked
	b, err := safefile.Read(file, signing.MaxRevocations)
	var list *signing.Revocations
	switch {
	case err == nil:
		// What the list in force revokes signs no newer one.
		if list, err = trust.WithRevocations(d.inForce()).VerifyRevocations(file, b, d.cfg.Trust.Roots); err != nil {
			return nil, asSignature(err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, asSignature(remedy.With(fmt.Errorf("revocation list: %w", err), "%s", remedy.Of(err)))
	}
	known, _ := d.ratchet.AdvanceList(d.inForce())
	if err := known.CheckList(list); err != nil {
		return nil, asSignature(remedy.With(fmt.Errorf("%s: %w", file, err), "%s", remedy.Of(err)))
	}
	return trust.WithRevocations(list), nil
}

// inForce is the list that holds now, nil where there is none.
func (d *Daemon) inForce() *signing.Revocations {
	if trust := d.trusted(); trust != nil {
		return trust.Revocations()
	}
	return nil
}

func asSignature(err error) error {
	return remedy.With(api.Errorf(api.KindSignature, "%w", err), "%s", remedy.Of(err))
}

// setTrust makes trust what holds, its list durably. A full disk of the state
// directory does not keep a list from being in force: it is in a file of its own,
// which the next start reads.
func (d *Daemon) setTrust(trust *signing.Trust) error {
	list := trust.Revocations()
	if err := d.settleList(list); err != nil {
		return err
	}
	d.tellState(ofList, nil)
	d.tellState(ofCopy, d.copyList(list))
	if next, changed := d.ratchet.AdvanceList(list); changed {
		if err := d.setRatchet(next); err != nil {
			d.ratchet.Ratchet, d.ratchet.ahead = next, true
			d.tellRatchet(err)
		}
	}
	if changed := trustChange(d.trust, trust); changed != "" {
		d.note(api.EventTrust, "", changed)
	}
	isNew := d.inForce() != list
	d.mu.Lock()
	defer d.mu.Unlock()
	if isNew {
		d.copied = nil
	}
	d.trust = trust
	return nil
}

// settleList writes a new list's file to the disk, before its serial gets there:
// after a crash with the older file the host would refuse that for its serial,
// and load nothing.
func (d *Daemon) settleList(list *signing.Revocations) error {
	if _, changed := d.ratchet.AdvanceList(list); !changed {
		return nil
	}
	for _, path := range []string{d.cfg.Paths.Revoked, filepath.Dir(d.cfg.Paths.Revoked)} {
		if err := syncDir(path); err != nil {
			return remedy.With(api.Errorf(api.KindUnavailable, "revocation list: to the disk: %w", err), "look after the disk of %s", d.cfg.Paths.Revoked)
		}
	}
	return nil
}

// shrink is what a reload that fails for problems still does: trust becomes less.
// Keys that are not in next count no more, and a new revocation list comes into
// force; keys that are new in next count with the whole reload only. found are the
// manifests as they were read now, where they were.
func (d *Daemon) shrink(a *act, who Peer, next *signing.Trust, found map[string]declared, problems []api.Problem) (api.Plan, error) {
	d.setProblems(problems)
	last := d.trusted()
	shrunk, gone := last.Narrowed(next)
	list := next.Revocations()
	if list != nil && last.Unlisted() == nil && last.Revocations() != nil && last.Revocations().Serial == list.Serial {
		list = nil
	}
	if list != nil {
		shrunk = shrunk.WithRevocations(list)
	}
	if list == nil && len(gone) == 0 {
		return api.Plan{Problems: problems}, stopped("nothing changed", problems)
	}
	if err := a.intend(); err != nil {
		return api.Plan{Problems: problems}, err
	}
	if err := d.setTrust(shrunk); err != nil {
		return api.Plan{Problems: problems}, err
	}
	d.setProofs(d.proveAll(sortedKeys(d.running), d.readLast(found), shrunk))
	changes := slices.DeleteFunc(d.compare(d.declared, nil, shrunk, false), func(c api.Change) bool { return c.Action != api.ActionUnload })
	d.apply(who, d.declared, changes)
	effect := &api.Shrunk{Revocations: viewList(list)}
	for _, s := range gone {
		effect.Gone = append(effect.Gone, viewSigner(s))
	}
	return api.Plan{Changes: changes, Problems: problems, Shrunk: effect}, stopped(onlyShrunk(*effect, changes), problems)
}

// readLast are the manifests as they could be read last: now, or by an earlier
// reload.
func (d *Daemon) readLast(found map[string]declared) map[string]declared {
	all := maps.Clone(d.declared)
	for name, dc := range found {
		if dc.err == nil {
			all[name] = dc
		}
	}
	return all
}

// onlyShrunk says what shrink did, for the caller and the audit log.
func onlyShrunk(by api.Shrunk, changes []api.Change) string {
	var shrunk []string
	if by.Revocations != nil {
		shrunk = append(shrunk, fmt.Sprintf("the revocation list (serial %d)", by.Revocations.Serial))
	}
	if len(by.Gone) > 0 {
		var names []string
		for _, s := range by.Gone {
			names = append(names, s.Name)
		}
		shrunk = append(shrunk, fmt.Sprintf("the removal of keys from the trust store (%s)", strings.Join(slices.Compact(names), ", ")))
	}
	effect := fmt.Sprintf("only %s took effect; ", strings.Join(shrunk, " and "))
	var unloaded []string
	for _, c := range changes {
		if c.Done {
			unloaded = append(unloaded, c.Collection)
		}
	}
	if len(unloaded) > 0 {
		effect += "unloaded: " + strings.Join(unloaded, ", ") + "; "
	}
	if failed := failures(changes); failed != "" {
		effect += failed + "; "
	}
	return effect + "nothing else changed"
}

// revokedRecord says why what runs as r would be refused now, or "".
func revokedRecord(trust *signing.Trust, r pinning.Record) string {
	reason := trust.Revoked(listed(recordedClaim(r)), recordedSigner(r.Signer))
	for _, dropIn := range r.DropIns {
		if dropIn.Signer != nil && reason == "" {
			c := listed(recordedClaim(r))
			c.Signer, c.Key = dropIn.Signer.Name, dropIn.Signer.KeySHA256
			reason = trust.Revoked(c, recordedSigner(*dropIn.Signer))
		}
	}
	return reason
}

// recordedSigner is a signer on record, as far as a list can revoke it.
func recordedSigner(r pinning.Signer) signing.Signer {
	s := signing.Signer{KeyID: r.KeyID}
	for _, k := range r.Chain {
		s.Chain = append(s.Chain, signing.Key(k))
	}
	return s
}

// endRevokedHeld ends what is in quarantine and revoked, where the configuration
// wants that.
func (d *Daemon) endRevokedHeld(who Peer) {
	if d.cfg.Trust.Revoked != config.RevokedUnload {
		return
	}
	for _, dir := range sortedKeys(d.held) {
		if r := d.held[dir].record; isHeld(dir) && r != nil && revokedRecord(d.trusted(), *r) != "" {
			d.tellState(ofUnload+dir, d.unload(who, dir, true))
		}
	}
}

// withdrawn are the collections that run and are revoked.
func (d *Daemon) withdrawn() []string {
	return slices.DeleteFunc(sortedKeys(d.running), func(name string) bool {
		return revokedRecord(d.trusted(), d.running[name].record) == ""
	})
}

// refusedByList reports whether err, of m's verification, is that the list in
// force revokes it.
func refusedByList(trust *signing.Trust, m manifest.Manifest, err error) bool {
	var se *signing.Error
	return errors.As(err, &se) && (se.Verdict == signing.Revoked ||
		trust.CheckVersion(listed(signing.Claim{Manifest: m.Name, Version: m.Version})) != nil)
}

// afterRevocation ends what is revoked and could not be replaced, where the
// configuration wants that, and notes of what its manifest still wants why it
// does not run.
func (d *Daemon) afterRevocation(who Peer, found map[string]declared, c api.Change) {
	if old := d.collection(c.Collection); old != nil && c.Action == api.ActionReplace && c.Error != nil && d.cfg.Trust.Revoked == config.RevokedUnload {
		if revokedRecord(d.trusted(), old.record) != "" {
			why := d.failed[c.Collection] // it was not replaced
			d.tellState(ofUnload+c.Collection, d.unload(who, c.Collection, false))
			d.mu.Lock()
			d.failed[c.Collection] = why
			d.mu.Unlock()
		}
		return
	}
	// A manifest that is there and can be read is not unloaded for anything else.
	if dc, ok := found[c.Collection]; ok && dc.err == nil && c.Action == api.ActionUnload && c.Done {
		d.fail(c.Collection, remedy.With(api.Errorf(api.KindSignature, "unloaded: %s", c.Reason), "put one in its place that is not revoked, then hornetctl reload"))
	}
}

// revokedProblem is what the status shows of it.
func revokedProblem(name string, r pinning.Record, reason string) api.Problem {
	return api.Problem{Kind: api.KindSignature, Collection: name, File: r.ObjectFile, Message: "runs, but " + reason,
		Hint: fmt.Sprintf(`load one that is not revoked, or hornetctl unload %s; [trust] revoked = "unload" in hornetd.toml does it by itself`, name)}
}
