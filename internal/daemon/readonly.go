package daemon

import (
	"errors"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// stranger is why a guard that enforces does not take this process for hornetd, or
// nil. Nothing of what runs can be opened then.
func (d *Daemon) stranger() error {
	g, err := lsm.Adopt(d.guardDir())
	if g != nil {
		return g.Close() // startGuard tells what else is wrong with it
	}
	if !errors.Is(err, lsm.ErrNotHornetd) {
		return nil
	}
	if s, lookErr := lsm.Look(d.guardDir()); lookErr == nil && !s.Enforces {
		return nil
	}
	return err
}

// startReadOnly has a daemon that the guard does not know, for why, answer what is
// the matter, and change nothing: what runs runs on, kept by the guard. Where a manifest
// says fail = "closed" it is not ready: nobody knows whether that one runs.
func (d *Daemon) startReadOnly(why error) error {
	found, problems, _ := d.scan()
	if len(problems) > 0 || anyClosed(found) {
		return why
	}
	names, err := d.store.Entries()
	if err != nil {
		return errors.Join(why, err)
	}
	e := api.Errorf(api.KindUnavailable, "read-only: %w", why)
	err = remedy.With(e, "start a hornetd that was enrolled, or reboot; before the next update: hornetctl guard enroll")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readOnly, d.unarmed = err, err
	for _, name := range names {
		d.held[name.String()] = held{name: name.String(), reason: "ran when hornetd started, which the guard lets look no further"}
	}
	d.log.Error("start", zap.Error(err), zap.String("hint", remedy.Of(err)))
	return nil
}
