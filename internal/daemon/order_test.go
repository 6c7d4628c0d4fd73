package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

func TestInOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before map[string][]string
		want   string
		circle string
	}{
		{"nothing said", nil, "a b c d", ""},
		{"a chain against the alphabet", map[string][]string{"a": {"b"}, "b": {"c"}, "c": {"d"}}, "d c b a", ""},
		{"two of one", map[string][]string{"a": {"d"}, "c": {"d"}}, "d a b c", ""},
		{"one that is not there", map[string][]string{"a": {"z"}}, "a b c d", ""},
		{"itself", map[string][]string{"b": {"b"}}, "a b c d", "b"},
		{"a circle, and one behind it", map[string][]string{"a": {"b"}, "b": {"c"}, "c": {"b"}}, "c b a d", "b c"},
		{"two circles", map[string][]string{"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}, "b a d c", "a b c d"},
	} {
		sorted, circle := inOrder([]string{"a", "b", "c", "d"}, func(name string) []string { return tt.before[name] })
		if got := strings.Join(sorted, " "); got != tt.want || strings.Join(circle, " ") != tt.circle {
			t.Errorf("%s: %s, circle %s; want %s, %s", tt.name, got, circle, tt.want, tt.circle)
		}
	}
}

func TestUnmet(t *testing.T) {
	requires := func(names ...string) declared { return declared{manifest: manifest.Manifest{Requires: names}} }
	unreadable := requires("b")
	unreadable.err = errors.New("line 3")
	change := func(action api.Action, name string) api.Change { return api.Change{Action: action, Collection: name} }
	for _, tt := range []struct {
		name    string
		changes []api.Change
		found   map[string]declared
		running []string
		want    []string // collections that would be without
	}{
		{"both come", []api.Change{change(api.ActionLoad, "b"), change(api.ActionLoad, "a")}, map[string]declared{"a": requires("b"), "b": {}}, nil, nil},
		{"the other runs", []api.Change{change(api.ActionLoad, "a")}, map[string]declared{"a": requires("b")}, []string{"b"}, nil},
		{"the other waits to be asked for", []api.Change{change(api.ActionLoad, "a")}, map[string]declared{"a": requires("b"), "b": {}}, nil, []string{"a"}},
		{"the other goes", []api.Change{change(api.ActionUnload, "b")}, map[string]declared{"a": requires("b")}, []string{"a", "b"}, []string{"a"}},
		{"both go", []api.Change{change(api.ActionUnload, "b"), change(api.ActionUnload, "a")}, nil, []string{"a", "b"}, nil},
		{"the other is revoked", []api.Change{change(api.ActionUnload, "b")}, map[string]declared{"a": requires("b"), "b": {}}, []string{"a", "b"}, nil},
		{"it was without before", nil, map[string]declared{"a": requires("b")}, []string{"a"}, nil},
		{"its manifest cannot be read", []api.Change{change(api.ActionUnload, "b")}, map[string]declared{"a": unreadable}, []string{"a", "b"}, nil},
		{"one of two", []api.Change{change(api.ActionReplace, "a")}, map[string]declared{"a": requires("b", "c")}, []string{"a", "b"}, []string{"a"}},
	} {
		var got []string
		for _, p := range unmet(tt.changes, tt.found, tt.running) {
			got = append(got, p.Collection)
			if p.Kind != api.KindConflict || p.Hint == "" {
				t.Errorf("%s: %+v", tt.name, p)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// Whoever is in a map can write it: only those of one signer share, all with
// signed manifests or none, and what is in quarantine is in it still.
func TestSharer(t *testing.T) {
	record := func(name, signer, covers string) pinning.Record {
		return pinning.Record{Name: name, Signer: pinning.Signer{Name: signer}, Covers: covers, Maps: []pinning.RecordMap{{Name: "m", Shared: "flows"}, {Name: "own"}}}
	}
	const signed, object = signing.CoversManifest, "object"
	for _, tt := range []struct {
		name          string
		running, held []pinning.Record
		who           sharing
		owner         string
		refused       bool
	}{
		{"nobody", nil, nil, sharing{"a", "dev", object}, "", false},
		{"itself", []pinning.Record{record("a", "old", object)}, nil, sharing{"a", "dev", object}, "", false},
		{"the same signer", []pinning.Record{record("b", "dev", object)}, nil, sharing{"a", "dev", object}, "b", false},
		{"both signed", []pinning.Record{record("b", "dev", signed)}, nil, sharing{"a", "dev", signed}, "b", false},
		{"another signer", []pinning.Record{record("b", "ops", object)}, nil, sharing{"a", "dev", object}, "", true},
		{"not signed into signed", []pinning.Record{record("b", "dev", signed)}, nil, sharing{"a", "dev", object}, "", true},
		{"signed into not signed", []pinning.Record{record("b", "dev", object)}, nil, sharing{"a", "dev", signed}, "", true},
		{"another signer in quarantine", nil, []pinning.Record{record("b", "ops", object)}, sharing{"a", "dev", object}, "", true},
		{"the same one in quarantine", nil, []pinning.Record{record("b", "dev", object)}, sharing{"a", "dev", object}, "", false},
	} {
		d := &Daemon{running: map[string]*collection{}, held: map[string]held{"quarantine-0": {}}}
		for _, r := range tt.running {
			d.running[r.Name] = &collection{record: r}
		}
		for _, r := range tt.held {
			d.held["quarantine-1-"+r.Name] = held{name: r.Name, record: &r}
		}
		owner, as, err := d.sharer(tt.who, "flows", func(format string, args ...any) error { return api.Errorf(api.KindConflict, format, args...) })
		if owner != tt.owner || (err != nil) != tt.refused || owner != "" && as != "m" {
			t.Errorf("%s: %q, map %q, %v", tt.name, owner, as, err)
		}
	}
}

// What is rebuilt keeps its shared maps as it does its own, and its manifest
// does not say otherwise for it.
func TestSameAgainShares(t *testing.T) {
	m := manifest.Manifest{Maps: map[string]manifest.Map{"s": {Class: manifest.ClassMutable, Shared: "flows"}, "k": {Class: manifest.ClassMutable}}}
	c := collection{record: pinning.Record{ManifestDigest: hexDigest(m.Digest), Maps: []pinning.RecordMap{
		{Name: "s", Class: "mutable", Shared: "flows", Type: "Hash"}, {Name: "k", Class: "mutable", Type: "Hash"}}}}
	again, err := c.sameAgain(m)
	if err != nil || again.Maps["s"].Keep || !again.Maps["k"].Keep {
		t.Errorf("%+v, %v", again.Maps, err)
	}
}
