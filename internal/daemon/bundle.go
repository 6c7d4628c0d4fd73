package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
)

// reader reads the files of a collection, each once: from disk, or what a caller
// sent.
type reader interface {
	Read(path string, max int64) ([]byte, error)
}

// sent is a bundle that a caller sent: files that lie nowhere yet.
type sent struct {
	file  string // where its manifest will be
	files map[string][]byte
	parts api.Bundle
}

func newSent(file string, b api.Bundle) *sent {
	return &sent{file: file, parts: b, files: map[string][]byte{file: b.Manifest}}
}

// name gives the parts the names that their manifest says.
func (s *sent) name(m manifest.Manifest) {
	for file, b := range map[string][]byte{m.Signature(): s.parts.ManifestSignature, m.Object.Path: s.parts.Object, m.Object.Signature: s.parts.Signature} {
		if len(b) > 0 {
			s.files[file] = b
		}
	}
}

// Read returns a part. The error is fs.ErrNotExist where none has that name.
func (s *sent) Read(path string, max int64) ([]byte, error) {
	b, ok := s.files[path]
	switch {
	case !ok:
		return nil, &fs.PathError{Op: "read", Path: path, Err: fs.ErrNotExist}
	case int64(len(b)) > max:
		return nil, remedy.With(fmt.Errorf("%s: has %d bytes, more than %d", path, len(b), max), "make it at most %d bytes", max)
	}
	return b, nil
}

// onDisk is a bundle that lies on disk, in the place of another one maybe.
type onDisk struct{ dir, old string }

// coming begins the names of directories that are being written.
const coming = ".new-"

// place writes the parts to disk, where the next start finds what runs. Nothing is
// half there: the directory gets its name last.
func (s *sent) place() (_ *onDisk, err error) {
	if s == nil {
		return nil, nil
	}
	p := &onDisk{dir: filepath.Dir(s.file)}
	root := filepath.Dir(p.dir)
	if err := os.Mkdir(root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("directory of bundles: %w", err)
	}
	if p.old, err = os.MkdirTemp(root, coming); err != nil {
		return nil, fmt.Errorf("directory of bundles: %w", err)
	}
	for file, b := range s.files {
		if err := writeNew(filepath.Join(p.old, filepath.Base(file)), b); err != nil {
			return nil, errors.Join(err, safefile.RemoveAll(p.old))
		}
	}
	err = unix.Renameat2(unix.AT_FDCWD, p.old, unix.AT_FDCWD, p.dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		err = unix.Renameat2(unix.AT_FDCWD, p.old, unix.AT_FDCWD, p.dir, unix.RENAME_EXCHANGE)
	} else if err == nil {
		p.old = ""
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bundle %s: %w", p.dir, err), safefile.RemoveAll(p.old))
	}
	return p, nil
}

// writeNew writes a file that was not there: nobody has hornetd write one of theirs by
// what they put into its place.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// settle removes what the bundle took the place of, or, where it does not run,
// the bundle, and puts that back.
func (p *onDisk) settle(runs bool) error {
	switch {
	case p == nil:
		return nil
	case p.old == "" && runs:
		return nil
	case p.old == "":
		return safefile.RemoveAll(p.dir)
	case !runs:
		if err := unix.Renameat2(unix.AT_FDCWD, p.old, unix.AT_FDCWD, p.dir, unix.RENAME_EXCHANGE); err != nil {
			return fmt.Errorf("bundle %s: %w", p.dir, err)
		}
	}
	return safefile.RemoveAll(p.old)
}

// MayRun says whether the caller may run anything of their own at all, before
// they send it.
func (d *Daemon) MayRun(who Peer) error {
	if err := d.policy.MayRun(who.subject()); err != nil {
		return d.refuse(who, asRun.verb, "", err)
	}
	return nil
}

// Run brings a bundle of the caller's own into the kernel, in the place of what
// runs under its name. What runs from it already is no error.
func (d *Daemon) Run(who Peer, name string, b api.Bundle) (api.Collection, error) {
	as, src, err := d.asBundle(who, name, b)
	if err != nil {
		return api.Collection{}, err
	}
	err = d.change(who, as.verb, src.Name, func() parsed { return d.parseAhead(as.sent, true, src) }, func() error {
		return d.load(who, src, as, btf.NewCache())
	})
	if err != nil {
		return api.Collection{}, err
	}
	return d.view(src.Name), nil
}

// asBundle says as what a bundle is loaded, and from where.
func (d *Daemon) asBundle(who Peer, name string, b api.Bundle) (loading, manifest.Source, error) {
	own := manifest.OwnName(who.UID, name)
	if err := errors.Join(manifest.ValidName(name), manifest.ValidName(own)); err != nil {
		return loading{}, manifest.Source{}, d.refuse(who, asRun.verb, "", remedy.With(api.Errorf(api.KindBadRequest, "%w", parts(err)[0]), "%s", remedy.Of(parts(err)[0])))
	}
	as := asRun
	as.sent = newSent(manifest.OwnFile(d.cfg.Paths.Bundles, own), b)
	return as, manifest.Source{Name: own, File: as.sent.file}, nil
}

// authorize decides what can be decided before the object is read. For a bundle that
// is whether its caller may run any; the rest needs all of it.
func (d *Daemon) authorize(who Peer, as loading, m manifest.Manifest) (policy.Grant, error) {
	if as.sent != nil {
		return policy.Grant{}, d.policy.MayRun(who.subject())
	}
	return d.policy.Authorize(who.subject(), as.right, m)
}

// ownOf counts what else of the caller's own runs, or is verified to, than name.
func (d *Daemon) ownOf(who Peer, name string) (n int) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for other := range d.running {
		if uid, isOwn := manifest.Owner(other); isOwn && uid == who.UID && other != name {
			n++
		}
	}
	for other, v := range d.verifying {
		if v.needs.collections > 0 && isOwn(other) && v.who.UID == who.UID && other != name {
			n++ // else it runs, and is counted above
		}
	}
	return n
}

// files returns where the files of a load are read, and what to call when it is
// over.
func (l loading) files() (reader, func()) {
	if l.sent != nil {
		return l.sent, func() {}
	}
	files := new(safefile.Reader) // one walk to the directory of manifest, object and signature
	return files, files.Close
}

// isOwn reports whether name is that of a caller's own collection. The ratchet
// knows none of them: their callers choose the names, and would fill it.
func isOwn(name string) bool {
	_, own := manifest.Owner(name)
	return own
}

// dropBundle removes the bundle of a collection that runs no more.
func (d *Daemon) dropBundle(name string) {
	if isOwn(name) {
		d.tell("bundle", safefile.RemoveAll(filepath.Dir(manifest.OwnFile(d.cfg.Paths.Bundles, name))))
	}
}

// sweepBundles removes what a crash has left of bundles that do not run.
func (d *Daemon) sweepBundles() {
	entries, err := safefile.ReadDir(d.cfg.Paths.Bundles, maxBundles)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	d.tell("bundles", err)
	for _, e := range entries {
		name := e.Name()
		if !isOwn(name) && !strings.HasPrefix(name, coming) || d.running[name] != nil || d.unheld(name) != nil {
			continue
		}
		d.tell("bundle", safefile.RemoveAll(filepath.Join(d.cfg.Paths.Bundles, name)))
	}
}

// maxBundles bounds the directory of bundles.
const maxBundles = 20_000
