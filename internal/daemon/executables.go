package daemon

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// readExecutables notes who is hornetd for the guard, and notes and tells which entries of [[guard.allow]] have no effect because
// the file has another digest than they say. That keeps a guard from nothing: it refuses more.
func (d *Daemon) readExecutables() error {
	s, err := d.guard.force.Status()
	if err != nil {
		return err
	}
	var unlisted []error
	if s.Current { // an older one does not know
		for _, a := range d.cfg.Guard.Allow {
			if a.SHA256 == nil {
				continue
			}
			if err := d.listed(a, s.Mode); err != nil {
				unlisted = append(unlisted, err)
			}
		}
	}
	for _, err := range unlisted {
		if slices.ContainsFunc(d.unlisted, func(known error) bool { return known.Error() == err.Error() }) {
			continue
		}
		d.guardChanged(err.Error())
		d.log.Warn("guard", zap.Error(err), zap.String("hint", remedy.Of(err)))
	}
	d.mu.Lock()
	d.unlisted = unlisted
	d.mu.Unlock()
	return d.readEnrolled()
}

// readEnrolled notes who is hornetd for the guard, which takes what has no file any more off its
// list by itself.
func (d *Daemon) readEnrolled() error {
	if d.guard.force == nil {
		return nil
	}
	s, err := d.guard.force.Status()
	if err != nil {
		return err
	}
	all, err := d.guard.force.Enrolled()
	if err != nil {
		return err
	}
	var own lsm.Executable // none, in a guard of an older build
	if s.Current {
		if own, _, err = d.own(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enrolled = viewEnrolled(all, own)
	return nil
}

// viewEnrolled sorts them: what runs comes first, the rest by digest.
func viewEnrolled(all map[lsm.Executable][32]byte, own lsm.Executable) (out []api.Enrolled) {
	for e, sum := range all {
		x := api.Enrolled{Inode: e.Inode, Device: fmt.Sprintf("%d:%d", e.Device>>20, e.Device&(1<<20-1)), Running: e == own}
		if sum != ([32]byte{}) {
			x.SHA256 = hex.EncodeToString(sum[:])
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b api.Enrolled) int {
		if a.Running {
			return -1
		}
		if b.Running {
			return 1
		}
		return cmp.Or(strings.Compare(a.SHA256, b.SHA256), cmp.Compare(a.Inode, b.Inode))
	})
	return out
}

// own is what the guard knows this process's executable by, and whether no file has it
// any more.
func (d *Daemon) own() (e lsm.Executable, gone bool, err error) {
	if e, err = d.guard.force.Self(); err != nil {
		return e, false, err
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return e, false, fmt.Errorf("guard: own executable: %w", err)
	}
	return e, st.Nlink == 0, nil
}

// Retire makes executables not be hornetd any more: those of before an update, which whoever
// starts hornetd could start again. It only makes the guard stricter, so root's word does, however
// it was armed: whoever would keep the next hornetd from starting by it can remove its file.
func (d *Daemon) Retire(who Peer, req api.RetireRequest) (api.Guard, error) {
	err := rootOnly(who, "guard retire")
	if err == nil {
		err = checkRetire(req)
	}
	if err != nil {
		return api.Guard{}, d.refuse(who, verbGuard, "", err)
	}
	return d.changeGuard(who, "retire "+cmp.Or(req.File, req.SHA256), func() error {
		if d.guard.force == nil {
			return d.notInForce()
		}
		return errors.Join(d.retire(req), d.readExecutables())
	})
}

func checkRetire(req api.RetireRequest) error {
	switch {
	case (req.File == "") == (req.SHA256 == ""):
		return api.Errorf(api.KindBadRequest, "guard retire: want a file or a sha256, and one of the two").WithHint("hornetctl guard shows who is enrolled")
	case req.SHA256 != "":
		if sum, err := hex.DecodeString(req.SHA256); err != nil || len(sum) != 32 {
			return api.Errorf(api.KindBadRequest, "sha256 %.80q: is not 64 hexadecimal digits", req.SHA256).WithHint("hornetctl guard shows who is enrolled")
		}
	case !filepath.IsAbs(req.File):
		return api.Errorf(api.KindBadRequest, "file %.200q: want an absolute path", req.File).WithHint("say where it is from the root directory on")
	}
	return nil
}

// retire runs on the owner's thread. With an error nothing was retired, but for the guard's own.
func (d *Daemon) retire(req api.RetireRequest) error {
	s, err := d.guard.force.Status()
	if err != nil {
		return err
	}
	if !s.Current {
		return remedy.With(errors.New("guard: retire: what is in force is of another build of hornetd"), "hornetctl guard %s, then again", max(s.Mode, lsm.Audit))
	}
	enrolled, err := d.guard.force.Enrolled()
	if err != nil {
		return err
	}
	meant, err := d.meant(req, enrolled)
	if err != nil {
		return err
	}
	own, gone, err := d.own()
	if err != nil {
		return err
	}
	meant = slices.DeleteFunc(meant, func(e lsm.Executable) bool { return e == own && len(meant) > 1 })
	switch {
	case slices.Contains(meant, own):
		return remedy.With(api.Errorf(api.KindConflict, "guard: retire: that is the hornetd that answers: it could not be started again"),
			"start another one that is enrolled first")
	case gone:
		return remedy.With(api.Errorf(api.KindConflict, "guard: retire: the file of the hornetd that answers is gone, so that only the others can be started"),
			"start one of them first: systemctl restart hornetd")
	}
	for _, e := range meant {
		if err := d.guard.force.Retire(e); err != nil {
			return err
		}
	}
	return nil
}

// meant are the enrolled executables that a request is about, one at least.
func (d *Daemon) meant(req api.RetireRequest, enrolled map[lsm.Executable][32]byte) (all []lsm.Executable, err error) {
	for e, sum := range enrolled {
		known := sum != [32]byte{} // else its digest is not
		if req.SHA256 != "" && known && strings.EqualFold(hex.EncodeToString(sum[:]), req.SHA256) {
			all = append(all, e)
		}
	}
	if req.File != "" {
		f, err := openExecutable(req.File)
		if err != nil {
			return nil, remedy.With(fmt.Errorf("guard: retire: %w", err), "name its SHA-256, as hornetctl guard shows it")
		}
		defer f.Close()
		e, err := d.guard.force.Listed(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ETXTBSY) {
			return nil, err
		}
		if _, is := enrolled[e]; is {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return nil, remedy.With(api.Errorf(api.KindNotFound, "guard: retire: %s is not enrolled", cmp.Or(req.File, req.SHA256)), "hornetctl guard shows who is")
	}
	return all, nil
}

// listed has an error where the guard does not know the executable that an entry means.
func (d *Daemon) listed(a config.Allowed, mode lsm.Mode) error {
	why := func(err error, hint string) error {
		return remedy.With(fmt.Errorf("guard: allow: %s is not let in: %w", a.Executable, err), "%s; then hornetctl guard %s", hint, max(mode, lsm.Audit)) // off is no way to let in
	}
	f, err := openExecutable(a.Executable)
	if err != nil {
		return why(err, "install it, or remove the entry of [[guard.allow]] and start hornetd again")
	}
	defer f.Close()
	_, err = d.guard.force.Listed(f)
	if err == nil || errors.Is(err, unix.ETXTBSY) { // the guard tells who does that
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return why(err, "see to it that it can be read")
	}
	switch sum, err := lsm.DigestOf(f); {
	case err != nil:
		return why(err, "see to it that it can be read")
	case sum != *a.SHA256:
		return why(fmt.Errorf("its SHA-256 is %x, and hornetd.toml says %x", sum, *a.SHA256),
			"put back what it was, or say what it is now and start hornetd again")
	}
	return why(errors.New("it was another file, open for writing, or had pages in use when the guard was armed or replaced"), "end who writes or executes it (fuser -v "+a.Executable+"), or copy it to a new file and put that in its place (cp, then mv)")
}

// checkDigests has a guard that only told, and now enforces, look at executables that are
// to have a digest: they could be written in the meantime.
func (d *Daemon) checkDigests() error {
	var all []lsm.Identity
	for _, a := range d.cfg.Guard.Allow {
		if a.SHA256 == nil {
			continue
		}
		if f, err := openExecutable(a.Executable); err == nil { // else nobody executes it
			defer f.Close()
			all = append(all, lsm.Identity{Executable: f, SHA256: *a.SHA256})
		}
	}
	return d.guard.force.CheckDigests(all)
}
