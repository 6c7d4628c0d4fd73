package daemon

import (
	"context"

	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// loading says as what a load is done.
type loading struct {
	verb     string          // in the audit log
	right    policy.Verb     // that whoever asks must have
	replaces bool            // what runs under the name may be replaced
	sent     *sent           // the files of a caller's own; nil: on disk
	lease    string          // the hash of its token; "" where it is for nobody's time
	client   context.Context // of who wants the lease: it ends when they go; nil without one

	caller *pinning.Caller // whose it was, in quarantine; nil: nobody's
	shown  *loader.Shown   // what the caller shows of where to attach; nil: nothing
}

var (
	asLoad    = loading{verb: "load", right: policy.Load}
	asReload  = loading{verb: "load", right: policy.Load, replaces: true}
	asUpgrade = loading{verb: "upgrade", right: policy.Upgrade, replaces: true} // of what runs only
	asRun     = loading{verb: "run", right: policy.Run, replaces: true}
)

// Upgrade replaces what runs under a name by what is on disk now, which is read
// and verified as for a load. What runs from it already is no error.
func (d *Daemon) Upgrade(who Peer, name string) (api.Collection, error) {
	if err := d.named(name); err != nil {
		return api.Collection{}, d.refuse(who, asUpgrade.verb, name, err)
	}
	if err := d.mayChange(who, policy.Upgrade, name); err != nil {
		return api.Collection{}, d.refuse(who, asUpgrade.verb, name, err)
	}
	err := d.change(who, asUpgrade.verb, name, d.aheadOf(name), func() error {
		src, err := d.find(name)
		if err != nil {
			return d.refuse(who, asUpgrade.verb, name, d.private(who, policy.Upgrade, name, err))
		}
		return d.load(who, src, asUpgrade, btf.NewCache())
	})
	if err != nil {
		return api.Collection{}, err
	}
	return d.view(name), nil
}

// runs reports whether c is what m and the verified object make.
func (c *collection) runs(m manifest.Manifest, v signing.Verified) bool {
	return c != nil && c.record.ManifestDigest == hexDigest(m.Digest) && c.record.ObjectDigest == hexDigest(v.Digest())
}

func notRunning(name string) error {
	return api.Errorf(api.KindConflict, "collection %q: does not run: there is nothing to upgrade", name).
		WithHint("hornetctl load %s loads it", name)
}
