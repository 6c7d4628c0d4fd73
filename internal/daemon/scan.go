package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// Caps on what is read into memory, in bytes.
const (
	maxManifest  = 64 << 10
	maxObject    = 8 << 20
	maxSignature = 64 << 10
)

// scan reads the manifest directories. Where certain is false something is
// wrong with a directory or a file's name: a manifest that is not in the
// result may still be there.
func (d *Daemon) scan() (found map[string]declared, problems []api.Problem, certain bool) {
	sources, strays, err := manifest.Find(d.cfg.Paths.Manifests)
	for _, e := range parts(err) {
		problems = append(problems, problem("", e))
	}
	d.setStrays(strays)
	var ownErr error
	if d.store != nil { // what callers brought is there while it runs
		var own []manifest.Source
		if own, ownErr = manifest.FindOwn(d.cfg.Paths.Bundles); ownErr != nil {
			problems = append(problems, problem("", ownErr))
		}
		sources = append(sources, own...)
	}
	sources = append(sources, d.instances(sources)...)
	read := make([]declared, len(sources))
	var files safefile.Reader
	defer files.Close()
	each(len(sources), func(i int) {
		m, err := d.readManifest(&files, sources[i])
		read[i] = declared{source: sources[i], manifest: m, err: err}
	})
	found = make(map[string]declared, len(read))
	for _, dc := range read {
		found[dc.source.Name] = dc
		if dc.err != nil {
			problems = append(problems, problem(dc.source.Name, dc.err))
		}
	}
	return found, append(problems, refuseCircles(found)...), err == nil && ownErr == nil
}

// instances returns the sources of the instances that run, of the templates among
// found.
func (d *Daemon) instances(found []manifest.Source) (all []manifest.Source) {
	templates := map[string]manifest.Source{}
	for _, s := range found {
		templates[s.Name] = s
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, name := range sortedKeys(d.running) {
		template, instance, _ := manifest.SplitInstance(name)
		if s, ok := templates[template]; ok && instance != "" {
			s.Name = name
			all = append(all, s)
		}
	}
	return all
}

// parts returns the errors that errors.Join made one of.
func parts(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// each runs fn for 0 <= i < n, on as many threads as there are processors.
func each(n int, fn func(i int)) {
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), n)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				fn(i)
			}
		})
	}
	wg.Wait()
}

// find returns where the manifest of name and its drop-ins lie now, so that a
// file dropped in a moment ago can be asked for, and a drop-in counts.
func (d *Daemon) find(name string) (manifest.Source, error) {
	if isOwn(name) {
		file := manifest.OwnFile(d.cfg.Paths.Bundles, name)
		if _, err := os.Lstat(file); err != nil {
			return manifest.Source{}, d.notFound(name)
		}
		return manifest.Source{Name: name, File: file}, nil
	}
	src, err := manifest.FindOne(d.cfg.Paths.Manifests, name)
	if errors.Is(err, fs.ErrNotExist) {
		return src, d.notFound(name)
	}
	return src, err
}

// setStrays makes strays, directories of drop-ins without a manifest, what the
// status shows. They keep nothing from loading: a package that is removed leaves
// them behind.
func (d *Daemon) setStrays(strays []error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.strays
	d.strays = nil
	for _, err := range strays {
		p := problem("", err)
		d.strays = append(d.strays, p)
		if !slices.Contains(known, p) {
			d.log.Warn("drop-ins", zap.Error(err), zap.String("hint", p.Hint))
		}
	}
}

func (d *Daemon) notFound(name string) error {
	if isOwn(name) {
		return api.Errorf(api.KindNotFound, "collection %q: does not run", name).WithHint("hornetctl run brings a collection of your own")
	}
	if template, instance, _ := manifest.SplitInstance(name); instance != "" {
		return api.Errorf(api.KindNotFound, "collection %q: does not run, or there is no template %s.toml", name, template).
			WithHint("hornetctl load %s loads it from %s.toml in %s", name, template, d.cfg.Paths.Manifests[0])
	}
	return api.Errorf(api.KindNotFound, "collection %q: no such manifest", name).
		WithHint("hornetctl list shows what there is; a manifest is a file %s.toml in %s", name, d.cfg.Paths.Manifests[0])
}

// readManifest reads one manifest and its drop-ins.
func (d *Daemon) readManifest(files reader, src manifest.Source) (manifest.Manifest, error) {
	d.mu.RLock()
	last := d.declared[src.Name].manifest
	d.mu.RUnlock()
	m, err := manifest.Read(src, last, func(file string) ([]byte, error) { return files.Read(file, maxManifest) })
	if s, ok := files.(*sent); ok && err == nil {
		s.name(m)
	}
	return m, err
}

// verify reads the object and a signature, once each, and proves that somebody
// the manifest and the trust store name signed exactly these bytes: the object's,
// or, where the manifest has a signature, the text it was parsed from.
func (d *Daemon) verify(files reader, trust *signing.Trust, m manifest.Manifest, boot bool) (signing.Verified, error) {
	object, err := files.Read(m.Object.Path, maxObject)
	if errors.Is(err, fs.ErrNotExist) {
		return signing.Verified{}, remedy.With(m.Errorf("object.path", "%s: no such file", m.Object.Path),
			"put the object there, or correct the path; a relative one is taken beside the manifest")
	}
	if err != nil {
		return signing.Verified{}, m.Errorf("object.path", "object: %w", err)
	}
	b := signing.Bundle{
		Object: object, SHA256: m.Object.SHA256, ObjectFile: m.Object.Path, SignatureFile: m.Object.Signature,
		Manifest: []byte(m.Source()), ManifestFile: m.File, Unnamed: m.CheckSigned(),
		Accepted:       d.acceptedBefore(m, boot),
		SignedManifest: slices.Contains(d.cfg.Manifests.Signed, filepath.Dir(m.File)),
	}
	if b.ManifestSignature, err = readSignature(files, m.File, m.Signature()); err != nil {
		return signing.Verified{}, err
	}
	if b.ManifestSignature == nil {
		if b.Signature, err = readSignature(files, m.Object.Path, m.Object.Signature); err != nil {
			return signing.Verified{}, err
		}
	}
	for _, dropIn := range m.DropIns {
		signature, err := readSignature(files, dropIn.File, dropIn.Signature())
		if err != nil {
			return signing.Verified{}, err
		}
		b.DropIns = append(b.DropIns, signing.DropIn{File: dropIn.File, Text: []byte(dropIn.Source()), Signature: signature, Widens: dropIn.Widens, Alters: dropIn.Alters})
	}
	return trust.Verify(b, m.Object.Signers, d.clock())
}

// readSignature reads the signature of file: nil where there is none.
func readSignature(files reader, file, signature string) ([]byte, error) {
	b, err := files.Read(signature, maxSignature)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, remedy.With(&signing.Error{Verdict: signing.BadSignature, File: file, Reason: err.Error()}, "%s", remedy.Of(err))
	}
	return b, nil
}
