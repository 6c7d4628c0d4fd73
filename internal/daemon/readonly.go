package daemon

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// stranger is why nothing may be changed, or nil: a guard that enforces does not take
// this process for hornetd, so that nothing of what runs can be opened, or one that is to
// enforce does not, and goes on telling only; only its floor is left; or whether there is
// one elsewhere cannot be seen.
func (d *Daemon) stranger() error {
	if d.onFloor != nil {
		return d.onFloor
	}
	g, err := lsm.Adopt(d.guardDir())
	if g != nil {
		return g.Close() // startGuard tells what else is wrong with it
	}
	if !errors.Is(err, lsm.ErrNotHornetd) {
		return blind() // whatever lies there: nobody knows yet whether it is what is in force
	}
	if s, lookErr := lsm.Look(d.guardDir()); lookErr == nil && !s.Enforces {
		if d.cfg.Guard.Mode != config.GuardEnforce || s.Mode == lsm.Enforce || !s.Asked { // it fell back; startGuard tells
			return nil
		}
		err = fmt.Errorf(`guard.mode = "enforce", and it only tells: %w`, err)
	}
	return remedy.With(err, "start a hornetd that was enrolled, as a service with CAP_SYS_ADMIN and no SystemCallFilter= but its unit's, or reboot; before the next update: hornetctl guard enroll")
}

// blind is why programs are not listed to a process that a guard would take for hornetd
// if it is one: with CAP_SYS_ADMIN only a security module or another's guard refuses
// that (kernel/bpf/syscall.c, bpf_obj_get_next_id). A process without the capability, or
// whose bpf(2) a filter of system calls answers, has no mark (guard.bpf.c): it sees to
// what runs, and a guard that is in force refuses it the rest.
func blind() error {
	_, err := ebpf.ProgramGetNextID(0)
	if !errors.Is(err, fs.ErrPermission) || !administers() {
		return nil
	}
	return remedy.With(fmt.Errorf("guard: whether one is in force elsewhere: %w: %w", lsm.ErrNotListed, err),
		"see what refuses bpf(2) to a process with CAP_SYS_ADMIN: a guard that does not know this one, SystemCallFilter= of its unit, or a security policy of this host; or take the capability from CapabilityBoundingSet=, too")
}

// administers reports whether this process has CAP_SYS_ADMIN.
func administers() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	return unix.Capget(&header, &have[0]) != nil || have[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// startReadOnly has a stranger, for why, answer what is the matter, and change nothing:
// what runs runs on, kept by the guard. Where a manifest says fail = "closed" it is not
// ready: nobody knows whether that one runs.
func (d *Daemon) startReadOnly(why error) error {
	found, problems, _ := d.scan()
	if len(problems) > 0 || anyClosed(found) {
		return why
	}
	names, err := d.store.Entries()
	if err != nil {
		return errors.Join(why, err)
	}
	err = remedy.With(api.Errorf(api.KindUnavailable, "read-only: %w", why), "%s", remedy.Of(why))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readOnly, d.unarmed = err, err
	for _, name := range names {
		d.held[name.String()] = held{name: name.String(), reason: "ran when hornetd started, which the guard lets look no further"}
	}
	d.log.Error("start", zap.Error(err), zap.String("hint", remedy.Of(err)))
	return nil
}
