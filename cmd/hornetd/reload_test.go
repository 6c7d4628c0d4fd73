package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// blocking is xdpDrop at boot for a network, with more TOML behind it.
func blocking(pair testenv.Pair, network, more string) string {
	m := strings.Replace(xdpDrop(pair), `start = "request"`, `start = "boot"`, 1)
	m = strings.Replace(m, "version = 1\n", "", 1) // its contents change
	return strings.Replace(m, pair.A.Addr.String()+"/32", network, 1) + more
}

func reload(t testing.TB, h *testdaemon.Host) (api.Plan, error) {
	t.Helper()
	return h.Client().Reload(context.Background())
}

// action returns what a plan does to a collection.
func action(p api.Plan, name string) api.Action {
	for _, c := range p.Changes {
		if c.Collection == name {
			return c.Action
		}
	}
	return ""
}

func TestReloadReplacesInPlace(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
	h.Start()
	before := get(t, h, "xdp-drop")
	if got := pair.Ping(t, 1); got != 0 {
		t.Fatal("the boot manifest does not drop")
	}

	h.Manifest("xdp-drop", blocking(pair, "192.0.2.0/24", ""))
	plan, err := h.Client().Plan(context.Background())
	if err != nil || action(plan, "xdp-drop") != api.ActionReplace {
		t.Fatalf("plan = %+v, %v", plan, err)
	}
	if got := pair.Ping(t, 1); got != 0 {
		t.Error("plan changed something")
	}
	plan, err = reload(t, h)
	if err != nil || action(plan, "xdp-drop") != api.ActionReplace || !plan.Changes[0].Done {
		t.Fatalf("reload = %+v, %v", plan, err)
	}
	if got := pair.Ping(t, 1); got != 1 {
		t.Error("the new manifest still drops")
	}
	after := get(t, h, "xdp-drop")
	if after.Links[0].ID != before.Links[0].ID {
		t.Errorf("link %d became %d: packets passed unseen", before.Links[0].ID, after.Links[0].ID)
	}
	if after.Programs[0].ID == before.Programs[0].ID {
		t.Error("the program is the old one")
	}
	if got := kernelLinks(t, after); len(got) != 1 || !got[before.Links[0].ID] {
		t.Errorf("kernel: links of the new program: %v", got)
	}
	if got := kernelLinks(t, before); len(got) != 0 {
		t.Errorf("kernel: links of the old program: %v", got)
	}
	if got := onBPFFS(t, h); len(got) != 1 {
		t.Errorf("on bpffs: %v", got)
	}

	again, err := reload(t, h)
	if err != nil || action(again, "xdp-drop") != api.ActionKeep {
		t.Errorf("a second reload = %+v, %v", again, err)
	}
	if err := os.Remove(h.Manifests + "/xdp-drop.toml"); err != nil {
		t.Fatal(err)
	}
	if plan, err = reload(t, h); err != nil || action(plan, "xdp-drop") != api.ActionUnload {
		t.Errorf("reload without the manifest = %+v, %v", plan, err)
	}
	if got := kernelLinks(t, after); len(got) != 0 {
		t.Errorf("kernel: links after the manifest went: %v", got)
	}
}

// TestReloadKeepsWhatAManifestKeeps: counters go on over a replacement, and a
// definition that changed is refused instead of losing them.
func TestReloadKeepsWhatAManifestKeeps(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	keep := func(network, more string) string {
		return strings.Replace(blocking(pair, network, ""), "[maps.hits]", "[maps.hits]\nkeep = true\n"+more, 1)
	}
	h.Manifest("xdp-drop", keep("10.77.0.0/24", ""))
	h.Start()
	pair.Ping(t, 1)
	if got := hits(t, h); got != `{"packets":1,"bytes":98}` {
		t.Fatalf("hits = %s", got)
	}
	h.Manifest("xdp-drop", keep("10.77.0.0/16", ""))
	if plan, err := reload(t, h); err != nil || !plan.Changes[0].Done {
		t.Fatalf("reload = %+v, %v", plan, err)
	}
	pair.Ping(t, 1)
	if got := hits(t, h); got != `{"packets":2,"bytes":196}` {
		t.Errorf("hits = %s after the replacement and one more ping", got)
	}
	h.Manifest("xdp-drop", keep("10.77.0.0/16", "max_entries = 7\n"))
	plan, err := reload(t, h)
	if err != nil || plan.Changes[0].Error == nil || !strings.Contains(plan.Changes[0].Error.Message, "maps.hits.keep") {
		t.Errorf("reload with another size = %+v, %v", plan, err)
	}
	if got := hits(t, h); got != `{"packets":2,"bytes":196}` {
		t.Errorf("hits = %s after the refusal", got)
	}
}

// TestReloadThatFailsChangesNothing covers both halves: what is found before
// anything is changed, and what the kernel or a [[test]] says in the middle.
func TestReloadThatFailsChangesNothing(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	good := blocking(pair, "10.77.0.0/24", "")
	h.Manifest("xdp-drop", good)
	h.Start()
	before := get(t, h, "xdp-drop")

	h.Manifest("xdp-drop", blocking(pair, "192.0.2.0/24", ""))
	broken := h.Manifest("broken", "version = 1\nnonsense = true\n")
	_, err := reload(t, h)
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindManifest || !strings.Contains(e.Message, broken+":2") || e.Hint == "" {
		t.Errorf("reload with a broken manifest: %#v", err)
	}
	if got := kernelLinks(t, before); len(got) != 1 {
		t.Errorf("the other manifest was applied: links of the old program: %v", got)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}

	// One packet that must pass and does not: found by the test run, with the
	// new maps and programs in the kernel already.
	h.Manifest("xdp-drop", blocking(pair, "192.0.2.0/24", `
[[test]]
program = "xdp_drop"
data = "0200000000010200000000020800450000140000000040010000c00002070a4d0001"
returns = "XDP_PASS"
`))
	plan, err := reload(t, h)
	if err != nil || len(plan.Changes) != 1 || plan.Changes[0].Error == nil || !strings.Contains(plan.Changes[0].Error.Message, "XDP_DROP") {
		t.Errorf("reload with a failing test = %+v, %v", plan, err)
	}
	if got := kernelLinks(t, before); len(got) != 1 {
		t.Errorf("after a failed replacement: links of the old program: %v", got)
	}
	if got := onBPFFS(t, h); len(got) != 1 || !got["xdp-drop"] {
		t.Errorf("on bpffs after a failed replacement: %v", got)
	}
	if got := pair.Ping(t, 1); got != 0 {
		t.Error("the old collection no longer drops")
	}
}

func TestHangupReloads(t *testing.T) {
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Start()
	h.Manifest("conn-count", fmt.Sprintf(`
[object]
path = "conn_count.bpf.o"
[maps."*"]
class = "mutable"
[[attach]]
program = "connect4"
cgroup = %q
`, testenv.Cgroup(t)))
	h.Signal(syscall.SIGHUP)
	for range 3000 {
		list, err := h.Client().List(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 && list[0].State == api.StateRunning {
			if _, err := h.Client().Unload(context.Background(), "conn-count", api.UnloadRequest{}); err != nil {
				t.Error(err)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("SIGHUP did not load the new manifest")
}
