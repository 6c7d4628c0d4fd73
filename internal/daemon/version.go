package daemon

import (
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
)

// How often, and how long apart, a decision is taken again because what it was
// about was replaced meanwhile.
const (
	decisions     = 50
	decisionPause = 20 * time.Millisecond
)

// openFor opens a collection for who wants to use right of it, for verb. What
// comes back is what was decided about: a load shows what it committed a moment
// before the daemon knows of it, and then the rights are those of the version
// before.
func (d *Daemon) openFor(who Peer, right policy.Verb, verb, name string) (*pinning.Entry, error) {
	for range decisions {
		about, err := d.decideOn(who, right, name)
		if err != nil {
			return nil, d.refuse(who, verb, name, err)
		}
		entry, err := d.open(name)
		if err != nil {
			return nil, err
		}
		if sameLoad(entry.Record, about) {
			return entry, nil
		}
		entry.Close()
		time.Sleep(decisionPause)
	}
	return nil, api.Errorf(api.KindConflict, "collection %q: is being replaced", name).WithHint("try again")
}

// decideOn decides as may does, and returns the record of what runs, which is
// what the decision was about.
func (d *Daemon) decideOn(who Peer, right policy.Verb, name string) (about pinning.Record, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if c := d.running[name]; c != nil {
		about = c.record
	}
	return about, d.mayLocked(who, right, name)
}

// sameLoad says whether two records are of one load.
func sameLoad(a, b pinning.Record) bool {
	return a.ManifestDigest == b.ManifestDigest && a.ObjectDigest == b.ObjectDigest && a.LoadedAt.Equal(b.LoadedAt)
}
