package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
)

// inOrder sorts names so that each comes behind what before names for it, as far
// as that is among names; else they stay as they are. The names in a circle, each
// of which would have to come before itself, are returned too.
func inOrder(names []string, before func(name string) []string) (sorted, circle []string) {
	const (
		begun = 1 + iota
		done
	)
	state := make(map[string]int, len(names))
	var path []string
	var visit func(name string)
	visit = func(name string) {
		switch state[name] {
		case done:
			return
		case begun:
			circle = append(circle, path[slices.Index(path, name):]...)
			return
		}
		state[name] = begun
		path = append(path, name)
		for _, b := range before(name) {
			if slices.Contains(names, b) {
				visit(b)
			}
		}
		path = path[:len(path)-1]
		state[name] = done
		sorted = append(sorted, name)
	}
	for _, name := range names {
		visit(name)
	}
	slices.Sort(circle)
	return sorted, slices.Compact(circle)
}

// predecessors returns what a manifest wants to come first; without one it is
// what the collection that runs does.
func predecessors(found map[string]declared, running map[string]*collection) func(name string) []string {
	return func(name string) []string {
		if _, ok := found[name]; !ok && running[name] != nil {
			return running[name].record.Requires
		}
		m := found[name].manifest
		return slices.Concat(m.Requires, m.After)
	}
}

// refuseCircles makes manifests that wait for each other ones that cannot be
// used, and returns the problems.
func refuseCircles(found map[string]declared) (problems []api.Problem) {
	_, circle := inOrder(sortedKeys(found), predecessors(found, nil))
	for _, name := range circle {
		dc := found[name]
		key := "requires"
		if len(dc.manifest.Requires) == 0 {
			key = "after"
		}
		dc.err = remedy.With(dc.manifest.Errorf(key, "comes before itself: %s wait for each other", strings.Join(circle, ", ")), "remove one of them from requires or after")
		found[name] = dc
		problems = append(problems, problem(name, dc.err))
	}
	return problems
}

// unmet says which collections would run after changes without one that they
// require. What the revocation list unloads is no reason to stop: it always wins.
func unmet(changes []api.Change, found map[string]declared, running []string) (problems []api.Problem) {
	after := make(map[string]bool)
	for _, name := range running {
		after[name] = true
	}
	changed := make(map[string]bool)
	for _, c := range changes {
		switch c.Action {
		case api.ActionLoad, api.ActionReplace:
			after[c.Collection], changed[c.Collection] = true, true
		case api.ActionUnload:
			_, isDeclared := found[c.Collection]
			after[c.Collection], changed[c.Collection] = false, !isDeclared
		}
	}
	for _, name := range sortedKeys(found) {
		dc := found[name]
		if dc.err != nil || !after[name] {
			continue
		}
		for _, required := range dc.manifest.Requires {
			if !after[required] && (changed[name] || changed[required]) {
				problems = append(problems, problem(name, missing(dc.manifest, required)))
			}
		}
	}
	return problems
}

// missing is that m cannot run for want of another collection.
func missing(m manifest.Manifest, required string) error {
	err := m.Errorf("requires", "%q does not run", required)
	return remedy.With(api.Errorf(api.KindConflict, "%w", err), "load it first: hornetctl load %s", required)
}

// requirements refuses to load m where what it requires does not run.
func (d *Daemon) requirements(m manifest.Manifest) error {
	for _, required := range m.Requires {
		c := d.collection(required)
		if c == nil {
			return missing(m, required)
		}
		if err := cmp.Or(c.leased(), c.leaves()); err != nil {
			return remedy.With(m.Errorf("requires", "%w", err), "%s", remedy.Of(err))
		}
	}
	return nil
}

// unrequired refuses to unload what a collection that runs requires.
func (d *Daemon) unrequired(name string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, other := range sortedKeys(d.running) {
		if slices.Contains(d.running[other].record.Requires, name) {
			return remedy.With(api.Errorf(api.KindConflict, "collection %q: %q runs and requires it", name, other),
				"hornetctl unload %s first, or unload --force %s and leave the other without it", other, name)
		}
	}
	return nil
}

// sharing is who wants to share a map: a collection, who signed it, and what that
// covers.
type sharing struct{ name, signer, covers string }

// shared opens the map that a running collection other than who's has under the
// shared name, nil where there is none.
func (d *Daemon) shared(who sharing, shared string, at func(format string, args ...any) error) (*ebpf.Map, error) {
	owner, as, err := d.sharer(who, shared, at)
	if owner == "" || err != nil {
		return nil, err
	}
	entry, err := d.open(owner)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	m, err := entry.Map(as)
	if errors.Is(err, pinning.ErrNotExist) {
		err = remedy.With(fmt.Errorf("shared map %q: of collection %q: %w", shared, owner, err), "hornetctl unload %s, and load it again", owner)
	}
	return m, err
}

// sharer finds a running collection other than who's that has a map under the
// shared name, and the map's own name there. Only those of the same signer share,
// because whoever is in a map can write it; for the same reason no collection
// whose manifest is not signed is in the map of one whose is. What is in
// quarantine runs on, and counts too.
func (d *Daemon) sharer(who sharing, shared string, at func(format string, args ...any) error) (owner, as string, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var strangers []string
	see := func(dir string, r pinning.Record, runs bool) {
		for _, m := range r.Maps {
			switch {
			case m.Shared != shared || r.Name == who.name && runs:
			case r.Signer.Name != who.signer || r.Covers != who.covers:
				strangers = append(strangers, fmt.Sprintf("%q (signer %q, signed: %s)", dir, r.Signer.Name, r.Covers))
			case runs:
				owner, as = r.Name, m.Name
			}
		}
	}
	for _, name := range sortedKeys(d.running) {
		see(name, d.running[name].record, true)
	}
	for _, dir := range sortedKeys(d.held) {
		if r := d.held[dir].record; r != nil && r.Name != who.name {
			see(dir, *r, false)
		}
	}
	if len(strangers) > 0 {
		return "", "", remedy.With(at("%q is shared by %s; this is signer %q, signed: %s", shared, strings.Join(strangers, ", "), who.signer, who.covers),
			"choose another name: only collections of the same signer share a map, all with signed manifests or none")
	}
	return owner, as, nil
}
