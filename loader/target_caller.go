package loader

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/pidfd"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// Shown is what a caller shows descriptors of, for the [[attach]]es whose target is
// the caller's. What they are and whose, somebody else has found out. They are
// borrowed, and nil where they are not shown.
type Shown struct {
	Cgroup  *os.File // a directory of the cgroup2 hierarchy
	Netns   *os.File
	Process *os.File // a pidfd

	Owner, OwnerGID uint32 // the user whose they were found to be, and their group; user 0 is root, to whom nothing need belong

	// Known are the targets of what runs, where nothing is shown: those of the
	// caller's stay.
	Known []Target
}

// ErrNotShown is wrapped by errors about what a caller should have shown, or shows
// in vain.
var ErrNotShown = errors.New("what is shown and what the manifest asks for are not the same")

// ErrEnded is wrapped by errors about what a caller showed and is no more, ErrNotOwned
// by those about what is another's by now.
var (
	ErrEnded    = errors.New("what was shown is no more")
	ErrNotOwned = errors.New("what was shown is another's")
)

// changedHands makes err one of what, in the same words.
type changedHands struct{ err, what error }

func (c changedHands) Error() string        { return c.err.Error() }
func (c changedHands) Unwrap() error        { return c.err }
func (c changedHands) Is(target error) bool { return target == c.what }

// What an [[attach]] can ask a caller for.
const (
	showsCgroup  = "cgroup"
	showsNetns   = "network namespace"
	showsProcess = "process"
)

// shows returns what of the caller's h is about, "" where it is about nothing of
// anybody's.
func (h hook) shows() string {
	switch h.kind {
	case kindXDP, kindTCX, kindNetns, kindNetfilter:
		return showsNetns
	case kindCgroup:
		return showsCgroup
	case kindUprobeMulti:
		return showsProcess
	case kindPerfEvent:
		if h.name == "uprobe" || h.name == "uretprobe" {
			return showsProcess
		}
	}
	return ""
}

// checkShown tells of what is shown and nobody asks for.
func (s *Shown) checkShown(rs []request) error {
	if s == nil {
		return nil
	}
	for what, f := range map[string]*os.File{showsCgroup: s.Cgroup, showsNetns: s.Netns, showsProcess: s.Process} {
		wanted := slices.ContainsFunc(rs, func(r request) bool { return r.OfCaller() && r.hook.shows() == what })
		if f != nil && !wanted {
			return remedy.With(fmt.Errorf("a %s is shown, and no [[attach]] with target = \"caller\" is of one: %w", what, ErrNotShown), "do not show it")
		}
	}
	return nil
}

// ofCaller fills in t what the caller shows, or what is known of it.
func (r request) ofCaller(t Target) (Target, error) {
	what := r.hook.shows()
	t.Caller, t.Owner, t.OwnerGID = true, r.shown.Owner, r.shown.OwnerGID
	var err error
	switch f := map[string]*os.File{showsCgroup: r.shown.Cgroup, showsNetns: r.shown.Netns, showsProcess: r.shown.Process}[what]; {
	case f == nil:
		i := slices.IndexFunc(r.shown.Known, func(k Target) bool {
			return k.Caller && k.Program == t.Program && k.Kind == t.Kind && k.AttachType == t.AttachType && k.Interface == r.Interface
		})
		if i < 0 {
			return t, r.notShown(what)
		}
		k := r.shown.Known[i]
		t.Owner, t.OwnerGID, t.Cgroup, t.CgroupID, t.NetnsInode, t.Process = k.Owner, k.OwnerGID, k.Cgroup, k.CgroupID, k.NetnsInode, k.Process
		t.Interface, t.Ifindex, t.NetnsID = k.Interface, k.Ifindex, k.NetnsID
		return t, nil
	case what == showsCgroup:
		if t.CgroupID, err = inodeOf(f); err == nil {
			t.Cgroup, err = pathOf(f)
		}
	case what == showsNetns:
		t.NetnsInode, err = inodeOf(f)
	case what == showsProcess:
		if t.Process, err = pidfd.Identify(int(f.Fd())); errors.Is(err, unix.ESRCH) {
			err = remedy.With(changedHands{errors.New("the process has ended"), ErrEnded}, "load it with a process that lives")
		}
	}
	return t, r.fail("target", err)
}

func (r request) notShown(what string) error {
	option := map[string]string{showsCgroup: "--target-cgroup DIR", showsNetns: "--target-netns FILE", showsProcess: "--target-pid PID"}[what]
	again := "load " + r.m.Name
	if _, isOwn := manifest.Owner(r.m.Name); isOwn {
		again = "run DIR"
	}
	return remedy.With(r.m.Errorf(r.at("target"), "is the caller's, and no %s is shown: %w", what, ErrNotShown),
		"hornetctl unload %s, where it runs, and hornetctl %s %s", r.m.Name, again, option)
}

// callersInterfaces is the target in the network namespace that the caller shows.
func (r request) callersInterface(t Target) ([]Target, error) {
	t, err := r.ofCaller(t)
	if err != nil || t.Ifindex != 0 {
		return []Target{t}, err
	}
	ns := callersNetns(r.shown.Netns, t.NetnsInode)
	t.Interface = r.Interface
	err = ns.do(func() error {
		if t.Ifindex, err = ifindex(r.Interface); err != nil {
			return remedy.With(fmt.Errorf("there is no interface %q%s", r.Interface, ns), "make it there first (ip link), or name one that is there")
		}
		return nil
	})
	return []Target{t}, r.fail("interface", err)
}

// Keeps reports whether a link to t keeps what a caller showed there for as long as it is
// itself: then that does not end with its last process and descriptor.
//
// Source: bpf_nf_link_attach in net/netfilter/nf_bpf_link.c, get_net_track.
func (t Target) Keeps() bool { return t.Caller && t.Kind == kindNetfilter }

// callersNetns is the network namespace of a descriptor, which the caller keeps.
func callersNetns(f *os.File, inode uint64) netns {
	return netns{"the caller's network namespace", f, inode}
}

// netnsOf opens the network namespace of t.
func (s *Shown) netnsOf(t Target) (netns, error) {
	if !t.Caller {
		return openNetns(t.Netns)
	}
	if s == nil || s.Netns == nil {
		return netns{}, remedy.With(fmt.Errorf("network namespace %d is the caller's, who shows no descriptor of it now", t.NetnsInode),
			"unload the collection, and load it with the descriptor again")
	}
	fd, err := unix.FcntlInt(s.Netns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return netns{}, err
	}
	f := os.NewFile(uintptr(fd), "netns")
	inode, err := inodeOf(f)
	if err != nil {
		f.Close()
		return netns{}, err
	}
	return callersNetns(f, inode), nil
}

// cgroupOf opens the cgroup of t.
func (s *Shown) cgroupOf(t Target) (*os.File, error) {
	if !t.Caller {
		return openCgroup(t.Cgroup)
	}
	if s == nil || s.Cgroup == nil {
		return t.callersCgroup()
	}
	fd, err := unix.FcntlInt(s.Cgroup.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), t.Cgroup), nil
}

// inProcess attaches by attach what is for the process of t alone, which is that of
// its number if it lives, and is its owner's, before and after. For all other t it is
// attach.
func inProcess[L interface{ Close() error }](t Target, attach func() (L, error)) (l L, err error) {
	if t.PID == 0 {
		return attach()
	}
	fd, err := pidfd.Open(t.Process)
	if errors.Is(err, unix.ESRCH) {
		err = errors.Join(t.hasEnded(), err)
	}
	if err != nil {
		return l, fmt.Errorf("process %d: %w", t.PID, err)
	}
	defer unix.Close(fd)
	if err := cmp.Or(t.leaves(fd)); err != nil {
		return l, err
	}
	if l, err = attach(); err != nil {
		return l, err
	}
	if err := cmp.Or(t.leaves(fd)); err != nil {
		l.Close()
		var none L
		return none, err
	}
	return l, nil
}

func (t Target) hasEnded() error {
	return remedy.With(changedHands{fmt.Errorf("process %d has ended", t.PID), ErrEnded}, "load it with a process that lives")
}

// leaves returns why the process, of which fd is, is its owner's no more: it has ended,
// or they could not trace it. err is that nobody can tell.
func (t Target) leaves(fd int) (why, err error) {
	if !pidfd.Alive(fd) {
		return t.hasEnded(), nil
	}
	if t.Owner == 0 {
		return nil, nil
	}
	owns, err := pidfd.Owned(fd, t.Owner, t.OwnerGID)
	switch {
	case errors.Is(err, unix.ESRCH):
		return t.hasEnded(), nil
	case err != nil:
		return nil, fmt.Errorf("process %d: %w", t.PID, err)
	case !owns:
		return remedy.With(changedHands{fmt.Errorf("process %d is not of uid %d alone any more", t.PID, t.Owner), ErrNotOwned}, "load it with a process of your own"), nil
	}
	return nil, nil
}

// Ended returns why what a caller showed is no more, nil while it is: there is
// nothing that t could be attached to again, as what has the same name, path or number
// by then is somebody else's. s is the state of the link at t, nil where the kernel has
// none.
func (t Target) Ended(s *LinkState) error {
	alive := s != nil && s.Alive()
	switch {
	case !t.Caller:
		return nil
	case t.PID != 0:
		return t.processEnded()
	case alive:
		return t.left(*s)
	case t.Kind == kindCgroup:
		f, err := t.callersCgroup()
		if errors.Is(err, ErrAbsent) {
			return fmt.Errorf("cgroup %s (%d) is gone", t.Cgroup, t.CgroupID)
		}
		if err == nil {
			f.Close()
		}
		return nil
	}
	return t.isGone()
}

func (t Target) isGone() error {
	return fmt.Errorf("%s is gone, or was detached from: nobody shows a way there any more", t)
}

// processEnded tells whether the process has ended, or has become somebody else's: it
// may have executed a program that makes it so.
func (t Target) processEnded() error {
	fd, err := pidfd.Open(t.Process)
	if errors.Is(err, unix.ESRCH) {
		return t.hasEnded()
	}
	if err != nil {
		return nil // which says nothing of it
	}
	defer unix.Close(fd)
	why, _ := t.leaves(fd)
	return why
}
