package daemon

import (
	"fmt"
	"slices"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// goneWait is how long a guard whose pins went before the start may take to go.
const goneWait = 2 * time.Second

// mayStart decides whether hornetd may start as hornetd.toml says, under whatever guard is in
// force anywhere in the kernel: it must be pinned where that file says, and its seals must
// allow that file. Whoever writes it, or mounts over the directory, could else have
// hornetd, which the guard lets do anything, clear away the guard or start without knowing
// what is sealed in it. So it comes before all that a start makes, mounts, moves or
// removes, and changes nothing itself. ErrNotListed says that nobody knows. Under a mere floor
// it starts read-only: that knows nobody as hornetd, so that it can be had do no harm.
func (d *Daemon) mayStart() error {
	for deadline := time.Now().Add(goneWait); ; time.Sleep(20 * time.Millisecond) {
		all, err := lsm.InForce()
		if err != nil {
			return err
		}
		adopted, others, err := lsm.Pinned(d.guardDir())
		if err != nil {
			return err
		}
		here, astray := sortOut(all, adopted, others)
		switch {
		case len(astray) == 0:
			for _, f := range here {
				if err := d.allows(d.sealsIn(f.Sealed), f.Enforces); err != nil {
					return err
				}
			}
			d.under = here
			return nil
		case time.Now().After(deadline):
			i := slices.IndexFunc(astray, func(f lsm.Found) bool { return !f.Floor })
			if i >= 0 {
				return d.errAstray(astray[i])
			}
			d.under, d.onFloor = here, d.errAstray(astray[0])
			return nil
		}
	}
}

// isGuarded returns nil if the store that hornetd has opened is what the guard guards that
// mayStart has found. Nothing of another one is hornetd's to touch.
func (d *Daemon) isGuarded() error {
	st, err := d.store.Directory()
	if err != nil {
		return err
	}
	for _, f := range d.under {
		if !f.Guards(st) {
			return remedy.With(fmt.Errorf("guard: %s is not the directory whose pins it guards", d.cfg.Paths.BPFFS), "see who mounted what there, in hornetd's mount namespace, and take it away")
		}
	}
	return nil
}

// sortOut returns those guards whose seals are to be asked about a start, and those that
// are not pinned where they should be. adopted and others are what lsm.Pinned returns: what
// was being armed or replaced when a process died counts only where nothing else does.
func sortOut(all []lsm.Found, adopted uint32, others []uint32) (here, astray []lsm.Found) {
	var rest []lsm.Found
	for _, f := range all {
		switch {
		case !f.Enforces && f.Sealed[rebootOnly] != sealReboot: // root may do what it likes, and the guard tells of it
		case f.Orphan:
			astray = append(astray, f)
		case f.Program == adopted:
			here = append(here, f)
		case slices.Contains(others, f.Program):
			rest = append(rest, f)
		default:
			astray = append(astray, f)
		}
	}
	if len(here) == 0 {
		here = rest
	}
	return here, astray
}

// errHidden is of a guard that mayStart has found pinned where it belongs, and of which that
// directory showed nothing in between: by what it has sealed hornetd would not be held.
func errHidden(under []lsm.Found, dir string) error {
	if len(under) == 0 {
		return nil
	}
	return remedy.With(fmt.Errorf("guard: one is in force (mode %s, program %d), and could not be taken up in %s", under[0].Mode, under[0].Program, dir),
		"see what is mounted over that, in hornetd's mount namespace, and take it away; or reboot")
}

func (d *Daemon) errAstray(f lsm.Found) error {
	if f.Floor {
		return remedy.With(fmt.Errorf("guard: of one that was in force (mode %s) all pins have gone, and its floor is left, program %d: nobody is hornetd any more, and nothing loads, makes or attaches eBPF on this host", f.Mode, f.Program), "reboot, and see who took %s away", d.guardDir())
	}
	if f.Orphan {
		return remedy.With(fmt.Errorf("guard: one is in force (mode %s, program %d) whose control program is pinned nowhere any more: nothing changes or ends it", f.Mode, f.Program), "reboot, and see who removed that pin")
	}
	return remedy.With(fmt.Errorf("guard: one is in force (mode %s, program %d) that is not pinned in %s", f.Mode, f.Program, d.guardDir()),
		"say in paths.bpffs what it said when the guard was armed, take away what was mounted over that; or reboot")
}
