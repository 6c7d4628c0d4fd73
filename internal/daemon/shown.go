package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/pidfd"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
)

// MayShow says whether the caller may load the collection with descriptors of what
// it is attached to, before they are taken.
func (d *Daemon) MayShow(who Peer, name string) error {
	err := d.named(name)
	if err == nil {
		err = d.mayChange(who, policy.Load, name)
	}
	if err == nil {
		err = d.asksFor(who, name)
	}
	if err != nil {
		return d.refuse(who, asLoad.verb, name, err)
	}
	return nil
}

// asksFor refuses a collection that attaches to nothing of a caller's.
func (d *Daemon) asksFor(who Peer, name string) error {
	m, err := d.onDisk(name)
	if err != nil {
		return d.private(who, policy.Load, name, err)
	}
	return ofCaller(m)
}

func ofCaller(m manifest.Manifest) error {
	if m.OfCaller() {
		return nil
	}
	return api.Errorf(api.KindBadRequest, "collection %q: attaches to nothing that a caller shows", m.Name).
		WithHint("load it without descriptors, or write target = \"caller\" in an [[attach]] of the manifest")
}

// LoadShown is Load of a collection that attaches to what the caller shows
// descriptors of. They stay the caller's.
func (d *Daemon) LoadShown(who Peer, name string, fds []int) (api.Collection, error) {
	err := d.atShown(who, asLoad, name, fds, func(as loading) error {
		return d.change(who, as.verb, name, d.aheadOf(name), func() error { return d.loadByName(who, name, as) })
	})
	if err != nil {
		return api.Collection{}, err
	}
	return d.view(name), nil
}

// LeaseShown is LoadShown for as long as who holds the lease.
func (d *Daemon) LeaseShown(ctx context.Context, who Peer, name string, fds []int) (grant api.LeaseGrant, err error) {
	err = d.atShown(who, asLoad, name, fds, func(as loading) error {
		grant, err = d.loadLease(ctx, who, name, as)
		return err
	})
	return grant, err
}

// MayRunShown refuses a bundle that attaches to nothing of its caller's, before they
// show it. Who may run any is asked before that.
func (d *Daemon) MayRunShown(who Peer, name string, b api.Bundle) error {
	as, src, err := d.asBundle(who, name, b)
	if err != nil {
		return err
	}
	m, err := d.readManifest(as.sent, src)
	if err == nil {
		err = ofCaller(m)
	}
	if err != nil {
		return d.refuse(who, as.verb, src.Name, err)
	}
	return nil
}

// RunShown is Run of what does not run and attaches to what the caller shows
// descriptors of. They stay the caller's.
func (d *Daemon) RunShown(who Peer, name string, b api.Bundle, fds []int) (api.Collection, error) {
	as, src, err := d.asBundle(who, name, b)
	if err != nil {
		return api.Collection{}, err
	}
	err = d.atShown(who, as, src.Name, fds, func(as loading) error {
		return d.change(who, as.verb, src.Name, func() parsed { return d.parseAhead(as.sent, true, src) }, func() error {
			return d.load(who, src, as, btf.NewCache())
		})
	})
	if err != nil {
		return api.Collection{}, err
	}
	return d.view(src.Name), nil
}

// RunLeaseShown is RunShown for as long as who holds the lease.
func (d *Daemon) RunLeaseShown(ctx context.Context, who Peer, name string, b api.Bundle, fds []int) (grant api.LeaseGrant, err error) {
	as, src, err := d.asBundle(who, name, b)
	if err != nil {
		return api.LeaseGrant{}, err
	}
	err = d.atShown(who, as, src.Name, fds, func(as loading) error {
		grant, err = d.runLease(ctx, who, src, as)
		return err
	})
	return grant, err
}

// atShown has name loaded by load at what fds are of.
func (d *Daemon) atShown(who Peer, as loading, name string, fds []int, load func(loading) error) error {
	shown, err := identify(who, fds)
	defer closeShown(shown)
	if err != nil {
		return d.refuse(who, as.verb, name, err)
	}
	as.shown = &shown
	return load(as)
}

// identify finds out what fds are and whether they are the caller's, by what the
// kernel says of the descriptors alone. What it returns is to be closed, with an error
// too.
func identify(who Peer, fds []int) (shown loader.Shown, err error) {
	shown.Owner, shown.OwnerGID = who.UID, who.GID
	for _, fd := range fds {
		kind, err := shownKind(fd)
		if err != nil {
			return shown, err
		}
		place := map[string]**os.File{kindCgroup: &shown.Cgroup, kindNetns: &shown.Netns, kindProcess: &shown.Process}[kind]
		if *place != nil {
			return shown, api.Errorf(api.KindProtocol, "target: two descriptors are of a %s", kind).WithHint("show one of each kind")
		}
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return shown, fmt.Errorf("target: %w", err)
		}
		*place = os.NewFile(uintptr(own), kind)
		if kind == kindProcess && !pidfd.Alive(fd) {
			return shown, remedy.With(api.Errorf(api.KindConflict, "target: the process has ended"), "show one that lives")
		}
	}
	return shown, owned(who, shown)
}

// owned refuses what of s is not who's, as the kernel says now.
func owned(who Peer, s loader.Shown) error {
	if who.UID == 0 {
		return nil
	}
	for _, x := range []struct {
		kind string
		file *os.File
		owns func(who Peer, fd int) error
	}{{kindCgroup, s.Cgroup, ownsCgroup}, {kindNetns, s.Netns, ownsNetns}, {kindProcess, s.Process, ownsProcess}} {
		if x.file == nil {
			continue
		}
		if who.UID == overflowID { // so are owners that have no number here
			return notOwned(who, x.kind, "nobody knows who uid %d is", who.UID)
		}
		if err := x.owns(who, int(x.file.Fd())); err != nil {
			return err
		}
	}
	return nil
}

// stillOwned is owned of what a load is about to be attached to: it has waited and been
// verified since it was shown.
func (as loading) stillOwned(who Peer) error {
	if as.shown == nil {
		return nil
	}
	return owned(who, *as.shown)
}

func closeShown(s loader.Shown) {
	for _, f := range []*os.File{s.Cgroup, s.Netns, s.Process} {
		f.Close() // of nil it is an error
	}
}

// Kinds of descriptors that can be shown.
const (
	kindCgroup  = "cgroup"
	kindNetns   = "network namespace"
	kindProcess = "process"
)

// shownKind finds out what a descriptor is of. Only the kernel's own filesystems are
// asked: of any other, which may be a program of the caller's that does not answer, no
// more is asked than its number.
func shownKind(fd int) (string, error) {
	device, err := deviceOf(fd)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	for _, is := range []func(fd int, device uint64) (string, bool){isCgroup, isNetns, isProcess} {
		if kind, ok := is(fd, device); ok {
			return kind, nil
		}
	}
	return "", api.Errorf(api.KindProtocol, "target: a descriptor is of no cgroup, network namespace or process").
		WithHint("show a directory of cgroup2, a file such as /proc/PID/ns/net, or what pidfd_open returns")
}

// deviceOf returns the number of the filesystem that fd is in. No filesystem is
// asked for news.
func deviceOf(fd int) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st)
	return unix.Mkdev(st.Dev_major, st.Dev_minor), err
}

func isCgroup(fd int, device uint64) (string, bool) {
	mount, err := loader.CgroupMount()
	var root unix.Stat_t
	if err != nil || unix.Stat(mount, &root) != nil || root.Dev != device {
		return kindCgroup, false
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	err = errors.Join(unix.Fstatfs(fd, &fs), unix.Fstat(fd, &st))
	return kindCgroup, err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

func isNetns(fd int, device uint64) (string, bool) {
	var own unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &own) != nil || own.Dev != device {
		return kindNetns, false
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	return kindNetns, err == nil && kind == unix.CLONE_NEWNET
}

// isProcess compares with a pidfd of this process. Before Linux 6.9 others have its
// device number too, and only these tell of a Pid.
func isProcess(fd int, device uint64) (string, bool) {
	own, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return kindProcess, false
	}
	defer unix.Close(own)
	if dev, err := deviceOf(own); err != nil || dev != device {
		return kindProcess, false
	}
	_, err = pidfd.Number(fd)
	return kindProcess, err == nil || errors.Is(err, unix.ESRCH)
}

// notOwned refuses what is not the caller's.
func notOwned(who Peer, kind, format string, args ...any) error {
	return remedy.With(fmt.Errorf("target: the %s is not uid %d's: %s: %w", kind, who.UID, fmt.Sprintf(format, args...), policy.ErrDenied),
		"show one of your own; root may show any")
}

// ownsCgroup: the directory is the caller's, so that they manage what is in it.
func ownsCgroup(who Peer, fd int) error {
	const root = 1 // its inode number
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != who.UID || st.Ino == root {
		return notOwned(who, kindCgroup, "its directory is uid %d's", st.Uid)
	}
	return nil
}

// ownsNetns: the caller made the user namespace that has it, so that they have all
// rights in there. The first user namespace is root's. Source: ioctl_nsfs(2).
func ownsNetns(who Peer, fd int) error {
	space, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil { // EPERM: not this one's or one below
		return notOwned(who, kindNetns, "its user namespace is not to be had: %v", err)
	}
	defer unix.Close(space)
	owner, err := unix.IoctlGetUint32(space, unix.NS_GET_OWNER_UID)
	if err != nil {
		return err
	}
	if owner != who.UID {
		return notOwned(who, kindNetns, "its user namespace is uid %d's", owner)
	}
	return nil
}

// ownsProcess: the caller could trace it, so that a program in it learns nothing that
// they could not.
func ownsProcess(who Peer, fd int) error {
	owns, err := pidfd.Owned(fd, who.UID, who.GID)
	switch {
	case errors.Is(err, unix.ESRCH):
		return remedy.With(api.Errorf(api.KindConflict, "target: the process has ended"), "show one that lives")
	case err != nil:
		return fmt.Errorf("target: process: %w", err)
	case !owns:
		return notOwned(who, kindProcess, "it has another user's or group's number (than uid %d and gid %d) too, or a capability, or what it executes is not to be traced", who.UID, who.GID)
	}
	return nil
}

// keepsLeased refuses for all but a lease what would keep there what the caller showed: nobody
// would see it end. With a lease it ends with the client.
func (as loading) keepsLeased(m manifest.Manifest, ts []loader.Target) error {
	if as.shown == nil || as.lease != "" || !slices.ContainsFunc(ts, loader.Target.Keeps) {
		return nil
	}
	how := "load --lease " + m.Name
	if as.sent != nil {
		how = "run --lease DIR"
	}
	return remedy.With(api.Errorf(api.KindBadRequest, "collection %q: a netfilter link keeps its network namespace there, whoever leaves it, so that one in a caller's is for a lease only", m.Name),
		"hornetctl %s --target-netns FILE", how)
}

// showing returns where a load attaches what is the caller's: where they show, or
// where it is already.
func (d *Daemon) showing(as loading, old *collection) (*loader.Shown, error) {
	if as.shown != nil {
		return as.shown, nil
	}
	if old == nil {
		old = d.mending
	}
	return old.known()
}

// known are the targets of c, which those of a caller's keep.
func (c *collection) known() (*loader.Shown, error) {
	if c == nil {
		return &loader.Shown{}, nil
	}
	targets, err := targetsOf(c.record)
	return &loader.Shown{Known: targets}, err
}

// runsElsewhere refuses descriptors for what runs already.
func runsElsewhere(name string) error {
	return remedy.With(fmt.Errorf("collection %q: %w: it runs already, at what was shown then", name, pinning.ErrExist), "hornetctl unload %s first", name)
}

// ended returns why what r is of, which is at ts, is at an end: what its caller showed
// is no more. It asks for nothing else, as nothing else that is wrong may keep it.
func ended(r pinning.Record, ts []loader.Target) string {
	for i, t := range ts {
		if !t.Caller {
			continue
		}
		state, err := loader.StateByID(r.Links[i].ID)
		s := &state
		switch {
		case errors.Is(err, fs.ErrNotExist):
			s = nil
		case err != nil && t.PID == 0:
			continue // which says nothing of it
		}
		if err := t.Ended(s); err != nil {
			return err.Error()
		}
	}
	return ""
}

// recordOf is what the log says of those of ts that are a caller's.
func recordOf(ts []loader.Target) (s audit.Shown) {
	for _, t := range ts {
		if !t.Caller {
			continue
		}
		s.UID, s.GID = t.Owner, t.OwnerGID
		s.CgroupID, s.NetnsInode = max(s.CgroupID, t.CgroupID), max(s.NetnsInode, t.NetnsInode)
		if t.PID != 0 {
			s.PID, s.Started, s.PIDFDInode = t.PID, t.Started, t.Process.Inode
		}
	}
	return s
}

// of notes which collection that runs it is about.
func (a *act) of(c *collection) {
	a.rec.Manifest, a.rec.Object, a.rec.Signer = c.record.ManifestDigest, c.record.ObjectDigest, c.record.Signer.Name
	if targets, err := targetsOf(c.record); err == nil { // else what is done tells
		a.rec.Shown = recordOf(targets)
	}
}

// leaves refuses what wants c to run for longer than what its caller showed is there;
// nil where nothing was shown.
func (c *collection) leaves() error {
	targets, err := targetsOf(c.record)
	if err != nil || !slices.ContainsFunc(targets, func(t loader.Target) bool { return t.Caller }) {
		return err
	}
	return remedy.With(api.Errorf(api.KindConflict, "collection %q: it runs at what a caller showed, and ends with that", c.record.Name),
		"have an administrator write what it is attached to in the manifest, in place of target = \"caller\"")
}

// end unloads a collection whose caller's target is no more.
func (d *Daemon) end(name, reason string) error {
	return d.unloadFor(self(), name, true, reason)
}
