package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/manifest"
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
