package daemon

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/confine"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// ParserName is the name under which this program is started to be a confined
// parser: its first argument, which is what a list of processes shows.
const ParserName = "hornetd: parser"

// ServeParser is all that the program does under ParserName. It returns the exit
// status.
func ServeParser() int { return confine.Serve(loader.Preview) }

// startParser keeps a confined process ready where hornetd.toml speaks of signers
// whose objects go through one.
func (d *Daemon) startParser() {
	if d.policy.AnyUntrusted() {
		d.parser = confine.Start(ParserName, func(err error) { d.log.Warn("confined parser", zap.Error(err)) })
	}
}

func (d *Daemon) stopParser() {
	if d.parser != nil {
		d.parser.Close()
	}
}

// parse opens a verified object. One whose signer is not trusted with the parser
// goes through a confined process first, and what that does not take, for
// whatever reason, is not parsed here.
func (d *Daemon) parse(m manifest.Manifest, v signing.Verified) (*ebpf.CollectionSpec, error) {
	if d.policy.Untrusted(v.Signer().Name) {
		err, known := d.ahead[v.Digest()]
		if !known {
			err = d.preview(v)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Object.Path, err)
		}
	}
	spec, err := loader.OpenSpec(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Object.Path, err)
	}
	return spec, nil
}

// mostAhead is how many confined processes parse ahead at one time.
const mostAhead = 4

// parseAhead has the objects of manifests parsed by confined processes, where their
// signers are not trusted with the parser, before the turn on the owner's thread
// that is going to load them: one may take all the time that it gets, and nobody
// else is to wait for that. It returns what came of each, by digest. What cannot be
// read or verified, and what runs already, is left to the turn; what is not asked
// for and waits to be, is not loaded.
func (d *Daemon) parseAhead(asked bool, srcs ...manifest.Source) map[[32]byte]error {
	var files safefile.Reader
	defer files.Close()
	var mu sync.Mutex
	results := make(map[[32]byte]error)
	each(len(srcs), func(i int) {
		m, err := d.readManifest(&files, srcs[i])
		if err != nil {
			return
		}
		c := d.collection(m.Name)
		if c == nil && !asked && m.Start == manifest.StartRequest {
			return
		}
		v, err := d.verify(&files, d.trusted(), m, false)
		if err != nil || !d.policy.Untrusted(v.Signer().Name) || c != nil && c.runs(m, v) {
			return
		}
		d.parsing <- struct{}{}
		err = d.preview(v)
		<-d.parsing
		mu.Lock()
		defer mu.Unlock()
		results[v.Digest()] = err
	})
	return results
}

// turn runs job on the owner's thread, with what was parsed ahead for it.
func (d *Daemon) turn(ahead map[[32]byte]error, job func() error) error {
	return d.owner.do(func() error {
		d.ahead = ahead
		defer func() { d.ahead = nil }()
		return job()
	})
}

// aheadOf is parseAhead for one manifest, by its name.
func (d *Daemon) aheadOf(name string) map[[32]byte]error {
	if d.parser == nil {
		return nil
	}
	src, err := d.find(name)
	if err != nil {
		return nil
	}
	return d.parseAhead(true, src)
}

// aheadOfAll is parseAhead for all that a reload reads.
func (d *Daemon) aheadOfAll() map[[32]byte]error {
	if d.parser == nil {
		return nil
	}
	srcs, _, _ := manifest.Find(d.cfg.Paths.Manifests)
	return d.parseAhead(false, srcs...)
}

// preview has the object parsed by the confined process.
func (d *Daemon) preview(v signing.Verified) error {
	err := d.parser.Parse(v.Reader())
	var failure *confine.Failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failure) && !failure.Started: // which says nothing of the object
		return remedy.With(api.Errorf(api.KindUnavailable, "object: signer %q is marked untrusted_parser, and there is no confined process to parse it: %w", v.Signer().Name, err), "%s", remedy.Of(err))
	case errors.As(err, &failure):
		return remedy.With(&loader.ObjectError{Err: fmt.Errorf("signer %q is marked untrusted_parser, and the confined process did not parse it: %w", v.Signer().Name, err)}, "%s", remedy.Of(err))
	}
	return remedy.With(&loader.ObjectError{Err: fmt.Errorf("%w (said by the confined process: signer %q is marked untrusted_parser)", err, v.Signer().Name)}, "%s", remedy.Of(err))
}
