package daemon

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/confine"
	"github.com/hornetd/hornetd/internal/remedy"
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
	if uid, isOwn := manifest.Owner(m.Name); d.policy.Untrusted(v.Signer().Name) || isOwn && uid != 0 {
		if err := d.preview(v); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Object.Path, err)
		}
	}
	spec, err := loader.OpenSpec(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Object.Path, err)
	}
	return spec, nil
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
