package units

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

func TestMain(m *testing.M) { testdaemon.Main(m) }

// boundingSet is the unit's, in the words of setpriv.
func boundingSet(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("hornetd.service")
	if err != nil {
		t.Fatal(err)
	}
	_, line, ok := strings.Cut(string(b), "\nCapabilityBoundingSet=")
	if !ok {
		t.Fatal("hornetd.service has no CapabilityBoundingSet=")
	}
	line, _, _ = strings.Cut(line, "\n")
	set := "-all"
	for _, c := range strings.Fields(line) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	return set
}

// With the unit's capabilities and no others hornetd loads, attaches, keeps and
// adopts programs of every kind the examples have, also in another network
// namespace.
func TestCapabilities(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "[signers.dev]\nuntrusted_parser = true\n") // its process confines itself with them
	edit := strings.NewReplacer(
		`"hornet0"`, "\"veth0\"\nnetns = \""+pair.B.Netns+"\"",
		`"hornet-demo"`, `"`+testenv.Cgroup(t)+`"`)
	examples := []string{"exec-count", "conn-count", "xdp-drop"}
	if testenv.HasEnum(t, "bpf_attach_type", "BPF_TCX_INGRESS") {
		examples = append(examples, "tcx-count")
	}
	for _, name := range examples {
		dir := filepath.Join("../../examples", name)
		text, err := os.ReadFile(filepath.Join(dir, name+".toml"))
		if err != nil {
			t.Fatal(err)
		}
		file := strings.ReplaceAll(name, "-", "_") + ".bpf.o"
		object, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		h.Object(file, object)
		h.Manifest(name, edit.Replace(string(text)))
	}
	start := func() {
		if err := h.TryStart("setpriv", "--bounding-set="+boundingSet(t), "--inh-caps=-all", "--no-new-privs"); err != nil {
			t.Fatalf("%v\n%s", err, h.Log())
		}
		for _, name := range examples {
			c, err := h.Client().Get(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if c.State != api.StateRunning || len(c.Links) == 0 {
				t.Errorf("%s is %s with %d links: %s", name, c.State, len(c.Links), c.Reason)
			}
		}
	}
	start()
	h.Kill()
	start()
	for _, name := range examples {
		if _, err := h.Client().Unload(t.Context(), name, api.UnloadRequest{}); err != nil {
			t.Errorf("unload %s: %v", name, err)
		}
	}
}
