package systemdtest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// needed says what does not load without a capability of the unit.
var needed = map[string][]string{
	"cap_sys_admin":       nil,
	"cap_net_admin":       {"packets"},
	"cap_dac_read_search": {"probe"},
}

// Every capability that the unit keeps is needed: without it something that
// can be asked for does not load.
func capabilities(t *testing.T) {
	loaded.reach(t)
	makeNetns(t)
	kept := strings.Fields(property(t, "hornetd", "CapabilityBoundingSet"))
	if diff := cmp.Diff(slices.Sorted(maps.Keys(needed)), slices.Sorted(slices.Values(kept))); diff != "" {
		t.Errorf("capabilities with a reason (-) and those of the unit (+):\n%s", diff)
	}
	for _, c := range kept {
		t.Run("without "+c, func(t *testing.T) {
			rest := slices.DeleteFunc(slices.Clone(kept), func(o string) bool { return o == c })
			broken := without(t, rest)
			t.Logf("without %s: %v", c, broken)
			if len(broken) == 0 {
				t.Errorf("nothing breaks without %s: the unit need not have it", c)
			}
			for _, name := range needed[c] {
				if _, ok := broken[name]; !ok {
					t.Errorf("%s loads without %s", name, c)
				}
			}
		})
	}
}

// instead has what CAP_SYS_ADMIN includes in its place: it is more than that.
func instead(t *testing.T) {
	loaded.reach(t)
	makeNetns(t)
	broken := without(t, []string{"cap_bpf", "cap_perfmon", "cap_net_admin", "cap_dac_read_search"})
	t.Logf("with what CAP_SYS_ADMIN includes in its place: %v", broken)
	for _, name := range []string{"elsewhere", "probe"} {
		if _, ok := broken[name]; !ok {
			t.Errorf("%s loads without CAP_SYS_ADMIN", name)
		}
	}
}

// without starts hornetd, where nothing runs, with some capabilities only, and
// returns what did not load and what hornetd said of it.
func without(t *testing.T, kept []string) map[string]string {
	t.Helper()
	dropIn(t, "CapabilityBoundingSet=\nCapabilityBoundingSet="+strings.ToUpper(strings.Join(kept, " ")))
	run(t, "systemctl", "stop", "hornetd.service")
	dirs, err := filepath.Glob(pins + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if err := os.RemoveAll(d); err != nil {
			t.Fatal(err)
		}
	}
	if left := links(t); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
	broken := map[string]string{}
	if out, err := try("systemctl", "start", "hornetd.service"); err != nil {
		said, _ := try("journalctl", "-u", "hornetd.service", "-n", "10", "-o", "cat")
		broken["hornetd"] = out + said
		return broken
	}
	have := collections(links(t))
	for name := range bootManifests(t) {
		if !have[name] {
			broken[name], _ = try("hornetctl", "load", name)
		}
	}
	if out, err := try("hornetctl", "load", "elsewhere"); err != nil {
		broken["elsewhere"] = out
	}
	return broken
}
