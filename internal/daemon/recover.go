package daemon

import (
	"errors"

	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/pinning"
)

// Recover ends a quarantine without a gap: a directory that is what its record
// says by now gets its name back, else the collection is loaded from disk beside
// it, and what was set aside ends then.
func (d *Daemon) Recover(who Peer, dir string) (api.Collection, error) {
	if err := rootOnly(who, audit.VerbRecover); err != nil {
		return api.Collection{}, d.refuse(who, audit.VerbRecover, dir, err)
	}
	var name string
	err := d.owner.do(func() (err error) {
		name, err = d.endInOrder(who, dir)
		return err
	})
	if err != nil {
		return api.Collection{}, err
	}
	return d.view(name), nil
}

func (d *Daemon) endInOrder(who Peer, dir string) (name string, err error) {
	a := d.begin(who, audit.VerbRecover, dir, api.EventRepaired)
	defer func() { err = a.conclude(err) }()
	d.mu.RLock()
	h, ok := d.held[dir]
	d.mu.RUnlock()
	n, badName := pinning.ParseName(h.name)
	switch {
	case !ok || !isHeld(dir):
		return "", remedy.With(api.Errorf(api.KindNotFound, "%q is not in quarantine", dir), "hornetctl list shows what is: quarantine-ID-NAME")
	case badName != nil:
		return "", remedy.With(api.Errorf(api.KindConflict, "%s: which collection it was is not known", dir), "hornetctl unload --force %s ends its programs", dir)
	}
	if err := a.intend(); err != nil {
		return "", err
	}
	c, differs := d.whole(dir)
	if pinning.Unanswered(differs) {
		return "", differs
	}
	if differs == nil {
		if err := d.mayRestore(dir, c.record); err != nil {
			return "", err
		}
		// The point of no return.
		if err := d.store.Restore(dir); err != nil {
			return "", err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.held, dir)
		delete(d.failed, h.name)
		d.running[h.name] = c
		d.settleLeaseLocked(h.name, "")
		return h.name, nil
	}
	src, err := d.find(h.name)
	if err != nil {
		return "", remedy.With(err, "its manifest is needed to load it anew; hornetctl unload --force %s ends its programs", dir)
	}
	as := asLoad
	as.caller = d.heldCaller(dir)
	if err := d.beside(dir, func() error { return d.load(who, src, as, btf.NewCache()) }); err != nil {
		return "", remedy.With(err, "%s runs on as it is; where both cannot run at once: hornetctl unload --force %s && hornetctl load %s", dir, dir, n)
	}
	if err := d.settled(d.store.RemoveQuarantined(dir)); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.held, dir)
	return h.name, nil
}

// mayRestore refuses to give back its name to what would not be loaded now.
func (d *Daemon) mayRestore(dir string, r pinning.Record) error {
	if reason := revokedRecord(d.trusted(), r); reason != "" {
		return remedy.With(api.Errorf(api.KindConflict, "%s: %s", dir, reason), "hornetctl unload --force %s ends its programs", dir)
	}
	for _, m := range r.Maps {
		if m.Shared == "" {
			continue
		}
		_, _, err := d.sharer(sharing{r.Name, r.Signer.Name, r.Covers}, m.Shared, func(format string, args ...any) error {
			return api.Errorf(api.KindConflict, dir+": map "+m.Name+": "+format, args...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// whole returns the collection in a quarantined directory if it is what its
// record says, its frozen maps' contents too, else how it differs.
func (d *Daemon) whole(dir string) (*collection, error) {
	entry, err := d.store.LoadQuarantined(dir)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	seen := look(entry)
	if err := seen.wrong(); err != nil {
		return nil, err
	}
	if err := errors.Join(contentsDiffer(entry)); err != nil {
		return nil, err
	}
	return &collection{record: entry.Record, origin: origin{adopted: true}, drift: seen.drift}, nil
}

// heldCaller returns whose a quarantined directory is; nil where its record cannot
// be read.
func (d *Daemon) heldCaller(dir string) *pinning.Caller {
	entry, err := d.store.LoadQuarantined(dir)
	if err != nil {
		return nil
	}
	defer entry.Close()
	return &entry.Record.Caller
}

// beside calls f while dir does not keep its collection's name from being
// loaded.
func (d *Daemon) beside(dir string, f func() error) error {
	d.mu.Lock()
	h := d.held[dir]
	delete(d.held, dir)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.held[dir] = h
	}()
	return f()
}
