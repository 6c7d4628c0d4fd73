package main_test

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestGuardForgets: the guard has room for 65536 objects of hornetd's, and what has gone
// leaves it before many loads in a row have filled it.
func TestGuardForgets(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := guarded(t, api.GuardAudit, "")
	h.Object("many.bpf.o", read(t, "testdata/many.bpf.o"))
	h.Manifest("many", "start = \"request\"\n[object]\npath = \"many.bpf.o\"\n[maps.\"*\"]\nclass = \"mutable\"\n")
	if _, err := h.Client().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	most := 0
	for round := range 46 { // more than 4,700 in all
		load(t, h, "many")
		if _, err := h.Client().Unload(t.Context(), "many", api.UnloadRequest{}); err != nil {
			t.Fatal(err)
		}
		if round >= 38 { // 4,000
			most = max(most, owned(t))
		}
	}
	if most == 0 || most > 4500 {
		t.Errorf("the guard had %d objects on its list, want 4500 at most", most)
	}
}

// owned is how many objects are on the list of the guard that is in force.
func owned(t *testing.T) (n int) {
	t.Helper()
	for id := ebpf.MapID(0); ; {
		var err error
		if id, err = ebpf.MapGetNextID(id); err != nil {
			t.Fatalf("no map of that name: %v", err)
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		defer m.Close()
		if info, err := m.Info(); err != nil || info.Name != "owned" {
			continue
		}
		var key uint64
		var how uint32
		it := m.Iterate()
		for it.Next(&key, &how) {
			n++
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
		return n
	}
}
