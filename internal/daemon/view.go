package daemon

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

// view shows one collection as it was recorded.
func (d *Daemon) view(name string) api.Collection {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.viewLocked(name)
}

func (d *Daemon) viewLocked(name string) api.Collection {
	dc, isDeclared := d.declared[name]
	out := api.Collection{Name: name, State: api.StateAvailable}
	if isDeclared {
		m := dc.manifest
		out.Description, out.Version, out.Start = m.Description, m.Version, string(m.Start)
		out.Manifest = api.File{File: dc.source.File}
		out.Object = api.File{File: m.Object.Path}
		if dc.err == nil {
			out.Manifest.SHA256 = hexDigest(m.Digest)
		}
		for _, dropIn := range m.DropIns {
			out.DropIns = append(out.DropIns, api.DropIn{File: dropIn.File, SHA256: hexDigest(dropIn.Digest)})
		}
	}
	if c := d.running[name]; c != nil {
		d.viewRunningLocked(&out, c)
		if !isDeclared {
			out.Reason, out.Hint = "its manifest is gone", "hornetctl reload unloads it"
		}
		return out
	}
	if err := d.reasonLocked(name); err != nil {
		out.State, out.Reason, out.Hint = api.StateFailed, err.Error(), remedy.Of(err)
		if d.failed[name].pending() {
			out.State, out.Hint = api.StatePending, "it is loaded as soon as that is there; "+out.Hint
		}
	}
	return out
}

// reasonLocked is why name should run and does not.
func (d *Daemon) reasonLocked(name string) error {
	if f, ok := d.failed[name]; ok {
		return f.err
	}
	return d.declared[name].err
}

// viewRunningLocked fills in what the record says, and what is wrong with it now.
func (d *Daemon) viewRunningLocked(out *api.Collection, c *collection) {
	r := c.record
	out.State, out.Adopted = api.StateRunning, c.adopted
	reasons, revoked := c.drift, revokedRecord(d.trust, c.record)
	if revoked != "" {
		reasons = append([]string{"runs, but " + revoked}, reasons...)
	} else if w := d.warning(c); w != "" {
		reasons = append([]string{w}, reasons...)
	}
	if c.failedBefore(d.declared[r.Name].manifest) {
		reasons = append(reasons, c.returned())
		out.Hint = c.again()
	}
	if c.unconfirmed != nil {
		reasons = append(reasons, c.unconfirmed.Error())
		out.Hint = remedy.Of(c.unconfirmed)
	}
	out.Reason = strings.Join(reasons, "; ")
	if len(c.drift) > 0 {
		out.Hint = c.remedy()
	}
	out.Description, out.Version, out.Start = r.Description, r.Version, r.Start
	out.Manifest = api.File{File: r.ManifestFile, SHA256: r.ManifestDigest}
	out.Object = api.File{File: r.ObjectFile, SHA256: r.ObjectDigest}
	out.DropIns = nil
	for _, dropIn := range r.DropIns {
		one := api.DropIn{File: dropIn.File, SHA256: dropIn.SHA256}
		if dropIn.Signer != nil {
			one.Signer = dropIn.Signer.Name
		}
		out.DropIns = append(out.DropIns, one)
	}
	out.Signature = api.Signature{Verdict: recordedVerdict(r), Format: r.SignatureFormat, Covers: r.Covers, CheckedBy: r.CheckedBy,
		Signer: api.Signer{Name: r.Signer.Name, Subject: r.Signer.Subject, KeyID: r.Signer.KeyID,
			Algorithm: r.Signer.Algorithm, NotAfter: r.Signer.NotAfter}}
	if revoked != "" {
		out.Signature.Verdict = string(signing.Revoked)
	}
	if c.trial != nil {
		out.TrialUntil = c.trial.until.Round(0)
	}
	out.LoadedAt = r.LoadedAt
	out.Lease = d.viewLeaseLocked(r.Name)
	out.LoadedBy = &api.Caller{UID: r.Caller.UID, GID: r.Caller.GID}
	for _, m := range r.Maps {
		out.Maps = append(out.Maps, viewMap(m))
	}
	for _, p := range r.Programs {
		out.Programs = append(out.Programs, api.Program{Name: p.Name, Type: p.Type, ID: p.ID, Tag: p.Tag})
	}
	for _, l := range r.Links {
		out.Links = append(out.Links, viewLink(l, l.ProgramID))
	}
}

// recordedVerdict is what r was loaded with. A record of format 1 does not say,
// but when it was loaded.
func recordedVerdict(r pinning.Record) string {
	switch {
	case r.Verdict != "":
		return r.Verdict
	case !r.Signer.NotAfter.IsZero() && r.LoadedAt.After(r.Signer.NotAfter):
		return string(signing.OKExpired)
	}
	return string(signing.OK)
}

func viewMap(m pinning.RecordMap) api.Map {
	return api.Map{Name: m.Name, Type: m.Type, ID: m.ID, Class: m.Class, Frozen: m.Frozen, ProgramWrites: m.ProgramWrites, KeySize: m.KeySize,
		ValueSize: m.ValueSize, MaxEntries: m.MaxEntries, SHA256: m.SHA256, HashBy: m.HashBy}
}

func viewLink(l pinning.RecordLink, programID uint32) api.Link {
	v := api.Link{Name: l.Name, ID: l.ID, Kind: l.Kind, AttachType: l.AttachType, Program: l.Program, ProgramID: programID}
	var t loader.Target
	if json.Unmarshal(l.Target, &t) == nil {
		v.Target = t.String()
	}
	return v
}

func viewSigner(s signing.Signer) api.Signer {
	return api.Signer{Name: s.Name, Subject: s.Subject, KeyID: s.KeyID, Algorithm: s.Algorithm, NotAfter: s.NotAfter, Problem: s.Problem, CA: s.CA}
}

func quarantineHint(dir string) string {
	if !isHeld(dir) { // left where it is: a newer record, or one that could not be read
		return "restart hornetd when what kept it from being read is mended; a newer record needs the newer hornetd"
	}
	return "look at it; hornetctl recover " + dir + " has it run in order again, hornetctl unload --force ends its programs"
}

// viewList is nil for no list.
func viewList(l *signing.Revocations) *api.Revocations {
	if l == nil {
		return nil
	}
	return &api.Revocations{Serial: l.Serial, Signer: l.Signer().Name}
}

func (d *Daemon) quarantinedLocked() []api.Collection {
	var out []api.Collection
	for _, dir := range sortedKeys(d.held) {
		out = append(out, api.Collection{Name: dir, State: api.StateQuarantined, Reason: d.held[dir].reason,
			Hint: quarantineHint(dir)})
	}
	return out
}

// observe shows one collection with its maps, programs and links as the kernel
// has them at this moment. One that is just being unloaded is looked at again, a few
// times: reading does not wait for changes.
func (d *Daemon) observe(name string) (out api.Collection, err error) {
	for try := 0; ; try++ {
		if out, err = d.observeNow(name); err == nil || try == 10 {
			return out, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (d *Daemon) observeNow(name string) (api.Collection, error) {
	out := d.view(name)
	if isHeld(name) {
		out.State, out.Reason = api.StateQuarantined, d.heldFor(name)
		out.Hint = quarantineHint(name)
		return out, nil
	}
	if out.State != api.StateRunning {
		return out, nil
	}
	entry, err := d.open(name)
	if err != nil {
		return out, err
	}
	defer entry.Close()
	s := look(entry)
	if s.unsure != nil {
		return out, s.unsure
	}
	out.Maps, out.Programs, out.Links = s.maps, s.programs, s.links
	total(entry, out.Programs)
	out.Charged = d.chargeOf(name)
	if all := append(s.differs, s.drift...); len(all) > 0 && out.Reason == "" {
		out.Reason = strings.Join(all, "; ")
		out.Hint = "it is mended in a moment, or its state says why not"
	}
	return out, nil
}

// Summary is one line for the service manager.
func (d *Daemon) Summary() string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.readOnly != nil {
		return d.readOnly.Error()
	}
	c := d.countsLocked()
	s := fmt.Sprintf("%d running, %d available", c.Running, c.Available)
	if c.Pending > 0 {
		s += fmt.Sprintf(", %d pending", c.Pending)
	}
	if c.Failed > 0 {
		s += fmt.Sprintf(", %d failed", c.Failed)
	}
	if c.Quarantined > 0 {
		s += fmt.Sprintf(", %d quarantined", c.Quarantined)
	}
	return s
}
