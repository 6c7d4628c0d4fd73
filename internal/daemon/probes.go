package daemon

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
)

// ownCode returns an error where a target is a probe in a file that is hornetd, or that
// becomes it in the guard's eyes: a uprobe changes a byte of the code, anywhere in it, and
// the guard, which keeps others from that, lets hornetd. What is judged is the file that
// was looked into, and whoever attaches refuses any other.
func (d *Daemon) ownCode(targets []loader.Target) error {
	for _, t := range targets {
		if t.Executable == "" {
			continue
		}
		is, err := d.isHornetd(t)
		if err != nil {
			return err
		}
		if is {
			return remedy.With(api.Errorf(api.KindDenied, "%s: %s is what hornetd executes, and a probe changes code", t, t.Executable), "name another program")
		}
	}
	return nil
}

func (d *Daemon) isHornetd(t loader.Target) (bool, error) {
	f, err := t.OpenExecutable()
	if err != nil {
		return false, err
	}
	defer f.Close()
	var own, st unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &st), unix.Stat("/proc/self/exe", &own)); err != nil {
		return false, remedy.With(fmt.Errorf("executable %s: is it hornetd's: %w", t.Executable, err), "see that /proc is mounted where hornetd runs, and load again")
	}
	if own.Dev == st.Dev && own.Ino == st.Ino {
		return true, nil
	}
	if d.guard.force == nil {
		return false, nil
	}
	is, err := d.guard.force.BecomesHornetd(f)
	if err != nil && remedy.Of(err) == "" {
		err = remedy.With(err, "see how the guard is (hornetctl guard), and load again")
	}
	return is, err
}
