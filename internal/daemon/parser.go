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
// whose objects go through one, or of callers who bring some.
func (d *Daemon) startParser() {
	if d.policy.AnyUntrusted() || d.policy.AnyRun() {
		d.parser = confine.Start(ParserName, func(err error) { d.log.Warn("confined parser", zap.Error(err)) })
	}
}

func (d *Daemon) stopParser() {
	if d.parser != nil {
		d.parser.Close()
	}
}

// parse opens a verified object. One whose signer is not trusted with the parser
// goes through a confined process first, as does what another user than root brought,
// and what that does not take, for whatever reason, is not parsed here.
func (d *Daemon) parse(m manifest.Manifest, v signing.Verified) (*ebpf.CollectionSpec, error) {
	if why := d.apart(m, v); why != "" {
		err, known := d.ahead[v.Digest()]
		if !known {
			err = d.preview(v, why)
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

// parsed is what came of objects that were parsed ahead, by their digests.
type parsed map[[32]byte]error

// apart says why an object goes through a confined process, or "".
func (d *Daemon) apart(m manifest.Manifest, v signing.Verified) string {
	uid, isOwn := manifest.Owner(m.Name)
	switch name := v.Signer().Name; {
	case d.policy.Untrusted(name):
		return fmt.Sprintf("signer %q is marked untrusted_parser", name)
	case isOwn && uid != 0:
		return fmt.Sprintf("uid %d brought it", uid)
	}
	return ""
}

// parseAhead has the objects of manifests parsed by confined processes, where they
// are not to be parsed here at once, before the turn on the owner's thread
// that is going to load them: one may take all the time that it gets, and nobody
// else is to wait for that. It returns what came of each. What cannot be
// read or verified, and what runs already, is left to the turn; what is not asked
// for and waits to be, is not loaded.
func (d *Daemon) parseAhead(files reader, asked bool, srcs ...manifest.Source) parsed {
	var mu sync.Mutex
	results := make(parsed)
	each(len(srcs), func(i int) {
		m, err := d.readManifest(files, srcs[i])
		if err != nil {
			return
		}
		c := d.collection(m.Name)
		if c == nil && !asked && m.Start == manifest.StartRequest {
			return
		}
		v, err := d.verify(files, d.trusted(), m, false)
		if err != nil {
			return
		}
		why := d.apart(m, v)
		if why == "" || c.runs(m, v) {
			return
		}
		d.parsing <- struct{}{}
		err = d.preview(v, why)
		<-d.parsing
		mu.Lock()
		defer mu.Unlock()
		results[v.Digest()] = err
	})
	return results
}

// aheadOf is parseAhead for one manifest, by its name.
func (d *Daemon) aheadOf(name string) func() parsed {
	return func() parsed {
		if d.parser == nil {
			return nil
		}
		src, err := d.find(name)
		if err != nil {
			return nil
		}
		var files safefile.Reader
		defer files.Close()
		return d.parseAhead(&files, true, src)
	}
}

// aheadOfAll is parseAhead for all that a reload reads.
func (d *Daemon) aheadOfAll() parsed {
	if d.parser == nil {
		return nil
	}
	srcs, _, _ := manifest.Find(d.cfg.Paths.Manifests)
	var files safefile.Reader
	defer files.Close()
	return d.parseAhead(&files, false, srcs...)
}

// preview has the object parsed by a confined process, for the reason why.
func (d *Daemon) preview(v signing.Verified, why string) error {
	if d.parser == nil { // it was brought while a rule let somebody
		return api.Errorf(api.KindUnavailable, "object: %s, and there is no confined process to parse it", why).
			WithHint("have a [[rule]] in hornetd.toml let somebody run, and restart hornetd")
	}
	err := d.parser.Parse(v.Reader())
	var failure *confine.Failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failure) && !failure.Started: // which says nothing of the object
		return remedy.With(api.Errorf(api.KindUnavailable, "object: %s, and there is no confined process to parse it: %w", why, err), "%s", remedy.Of(err))
	case errors.As(err, &failure):
		return remedy.With(&loader.ObjectError{Err: fmt.Errorf("%s, and the confined process did not parse it: %w", why, err)}, "%s", remedy.Of(err))
	}
	return remedy.With(&loader.ObjectError{Err: fmt.Errorf("%w (said by the confined process: %s)", err, why)}, "%s", remedy.Of(err))
}
