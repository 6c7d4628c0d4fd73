package daemon

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// goneWait is how long a guard whose pins went before the start may take to go.
const goneWait = 2 * time.Second

// guardElsewhere refuses to start beside a guard that is in force and is not where
// hornetd.toml says, if it enforces or root's word does not end it. paths.bpffs stands in
// that file, and whoever writes it, or mounts over the directory, could else have hornetd,
// which that guard lets do anything, start without knowing what is sealed in it.
func (d *Daemon) guardElsewhere() error {
	for deadline := time.Now().Add(goneWait); ; time.Sleep(20 * time.Millisecond) {
		all, err := lsm.InForce()
		if errors.Is(err, lsm.ErrNotListed) {
			// That takes no memory and no descriptor: bpf(2) is refused as a whole, or there is no
			// CAP_SYS_ADMIN. What runs is to be looked after all the same (docs/threat-model.md).
			d.log.Warn("guard", zap.Error(err))
			return nil
		}
		if err != nil {
			return err
		}
		f, ok := notPassed(all)
		if !ok {
			return nil
		}
		if time.Now().After(deadline) {
			return remedy.With(fmt.Errorf("guard: one is in force (mode %s, program %d) that is not pinned in %s", f.Mode, f.Program, d.guardDir()),
				"say in paths.bpffs what it said when the guard was armed, take away what was mounted over that; or reboot")
		}
	}
}

// notPassed returns the first that a start may not pass by.
func notPassed(all []lsm.Found) (lsm.Found, bool) {
	for _, f := range all {
		if f.Enforces || f.Sealed[rebootOnly] == sealReboot {
			return f, true
		}
	}
	return lsm.Found{}, false
}
