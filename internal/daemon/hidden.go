package daemon

import (
	"slices"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
)

// hiddenWait is how long what was pinned until the start may take to go.
const hiddenWait = 2 * time.Second

// unhidden refuses, from a start on, to load a second time what runs already, of
// the same manifest, and is pinned where this daemon does not see it: a file system
// was mounted over the root, or the root was moved. All of that would run twice,
// and nobody would answer for the first. Asking about every map of the host is for
// a start that misses something.
func (d *Daemon) unhidden(m manifest.Manifest) error {
	if d.booting && !d.sought {
		d.sought = true
		var err error
		if d.hidden, err = d.store.Hidden(); err != nil {
			d.tell("look for collections of another root", err)
		}
	}
	i := slices.IndexFunc(d.hidden, func(r pinning.Record) bool { return r.Name == m.Name && r.ManifestFile == m.File })
	if i < 0 {
		return nil
	}
	r := d.hidden[i]
	for ; ; time.Sleep(10 * time.Millisecond) {
		id, runs := runsStill(r)
		if !runs {
			return nil
		}
		if time.Now().After(d.started.Add(hiddenWait)) {
			return remedy.With(api.Errorf(api.KindConflict, "collection %q: runs already, of %s (link %d), and is pinned somewhere else than in %s", m.Name, m.File, id, d.cfg.Paths.BPFFS),
				"take away what was mounted over %s, or name the root in paths.bpffs that hornetd had before; then restart hornetd", d.cfg.Paths.BPFFS)
		}
	}
}

// runsStill finds a link of r that the kernel has, with the program that was
// recorded.
func runsStill(r pinning.Record) (id uint32, ok bool) {
	for _, l := range r.Links {
		if s, err := loader.StateByID(l.ID); err == nil && s.Alive() && uint32(s.ProgramID) == l.ProgramID {
			return l.ID, true
		}
	}
	return 0, false
}
