package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// sharing is a manifest of conn-count that has one of the two programs, and its
// map in common with others. head is what stands before the tables.
func sharing(cgroup, program, head, table string) string {
	return fmt.Sprintf(`%s
[object]
path = "conn_count.bpf.o"
[maps.connects]
class = "mutable"
%s
[[attach]]
program = %q
cgroup = %q
`, head, table, program, cgroup)
}

// mapID is the kernel's id of a collection's pinned map.
func mapID(t *testing.T, h *testdaemon.Host, collection string) ebpf.MapID {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(h.BPFFS, collection, "maps/connects"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

// TestSharedMap: one map for all that name it, while one of them runs, for
// collections of one signer.
func TestSharedMap(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	cgroup := testenv.Cgroup(t)
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("conn_count.bpf.o", object)
	request := `start = "request"`
	shared := `shared = "flows"`
	h.Manifest("four", sharing(cgroup, "connect4", request, shared))
	h.Manifest("six", sharing(cgroup, "connect6", request, shared))
	h.Manifest("alone", sharing(cgroup, "connect6", request, ""))
	h.Start()
	load(t, h, "four")
	load(t, h, "six")
	load(t, h, "alone")
	id := mapID(t, h, "four")
	if got := mapID(t, h, "six"); got != id {
		t.Errorf("maps %d and %d: want one", id, got)
	}
	if got := mapID(t, h, "alone"); got == id {
		t.Error("a map that is not shared is")
	}

	// It outlives the one that made it, replacements, and the daemon.
	unload(t, h, "four")
	h.Manifest("six", sharing(cgroup, "connect6", request+"\ndescription = 'new'", shared))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	h.Kill()
	h.Start()
	load(t, h, "four")
	if four, six := mapID(t, h, "four"), mapID(t, h, "six"); four != id || six != id {
		t.Errorf("maps %d and %d, were %d", four, six, id)
	}

	// Another definition, and another signer.
	h.Manifest("other", sharing(cgroup, "connect4", request, shared+"\nmax_entries = 17"))
	if err := loadOf(h, "other"); kindOf(err) != api.KindManifest || !strings.Contains(err.Error(), `maps.connects.shared: the map that others have as "flows" has another definition`) {
		t.Errorf("another definition: %v", err)
	}
	stranger := signer(t, h, "stranger")
	h.Write("hornet.d/strange.bpf.o", object)
	h.Write("hornet.d/strange.bpf.o.p7s", stranger.sign(t, object))
	h.Manifest("strange", strings.Replace(sharing(cgroup, "connect4", request, shared), "conn_count.bpf.o", "strange.bpf.o", 1))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	if err := loadOf(h, "strange"); err == nil || !strings.Contains(err.Error(), `"flows" is shared by "four" (signer "dev", signed: object), "six" (signer "dev", signed: object); this is signer "stranger"`) {
		t.Errorf("another signer: %v", err)
	}

	// The last one takes it along.
	unload(t, h, "four")
	unload(t, h, "six")
	eventually(t, fmt.Sprintf("map %d is not there", id), func() bool { // the kernel frees it later
		m, err := ebpf.NewMapFromID(id)
		m.Close()
		return errors.Is(err, os.ErrNotExist)
	})
	load(t, h, "six")
	if got := mapID(t, h, "six"); got == id {
		t.Error("the same map again")
	}

	// What was shared is not kept as one's own, unseen.
	h.Manifest("six", sharing(cgroup, "connect6", request, "keep = true"))
	plan, err := reload(t, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range plan.Changes {
		if c.Collection == "six" && (c.Error == nil || !strings.Contains(c.Error.Message, `the map was shared as "flows"`)) {
			t.Errorf("reload: %+v", c)
		}
	}
}

func loadOf(h *testdaemon.Host, name string) error {
	_, err := h.Client().Load(context.Background(), name)
	return err
}

func kindOf(err error) api.Kind {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// TestRequires: what others require comes first, and does not go before them.
func TestRequires(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	cgroup := testenv.Cgroup(t)
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	base := h.Manifest("zero", sharing(cgroup, "connect4", "", ""))
	user := h.Manifest("alpha", sharing(cgroup, "connect6", `requires = ["zero"]`, ""))
	h.Start()
	zero, alpha := get(t, h, "zero"), get(t, h, "alpha")
	if zero.State != api.StateRunning || alpha.State != api.StateRunning || zero.Programs[0].ID > alpha.Programs[0].ID {
		t.Fatalf("zero: %s, alpha: %s; want both, zero first", zero.State, alpha.State)
	}
	if _, stderr, exit := h.Ctl("unload", "zero"); exit != api.ExitFailure || !strings.Contains(stderr, `collection "zero": "alpha" runs and requires it`) {
		t.Errorf("unload: exit %d, %s", exit, stderr)
	}
	if err := os.Remove(base); err != nil {
		t.Fatal(err)
	}
	if _, err := reload(t, h); kindOf(err) != api.KindConflict || !strings.Contains(err.Error(), `alpha.toml:1: requires: "zero" does not run`) {
		t.Errorf("a reload without the manifest: %v", err)
	}
	if len(kernelLinks(t, zero)) == 0 {
		t.Error("the refused reload has unloaded it")
	}
	ctl(t, h, "unload", "--force", "zero")
	if got := problems(t, h); !strings.Contains(got, `runs, but requires "zero"`) {
		t.Errorf("status says %q", got)
	}
	unload(t, h, "alpha")
	if err := loadOf(h, "alpha"); kindOf(err) != api.KindConflict || len(kernelLinks(t, alpha)) != 0 {
		t.Errorf("load without what it requires: %v", err)
	}

	// Both go with their manifests, and a circle is none.
	h.Manifest("zero", sharing(cgroup, "connect4", "", ""))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	h.Manifest("zero", sharing(cgroup, "connect4", `after = ["alpha"]`, ""))
	if _, err := reload(t, h); err == nil || !strings.Contains(err.Error(), "comes before itself: alpha, zero wait for each other") {
		t.Errorf("a circle: %v", err)
	}
	if err := errors.Join(os.Remove(base), os.Remove(user)); err != nil {
		t.Fatal(err)
	}
	if plan, err := reload(t, h); err != nil || len(plan.Changes) != 2 || plan.Changes[0].Error != nil || plan.Changes[1].Error != nil {
		t.Errorf("reload without both: %+v, %v", plan, err)
	}
	var gone []string
	for _, r := range auditRecords(t, h.State) {
		if r.Verb == "unload" && r.Phase == "outcome" && r.Error == "" {
			gone = append(gone, r.Collection)
		}
	}
	if n := len(gone); n < 2 || gone[n-2] != "alpha" || gone[n-1] != "zero" {
		t.Errorf("unloaded %v: want alpha before zero, which it requires", gone)
	}
	if left := onBPFFS(t, h); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
