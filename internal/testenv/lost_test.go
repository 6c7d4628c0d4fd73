package testenv

import (
	"testing"

	"github.com/cilium/ebpf"
)

// What anybody holds is not lost, and nothing but a map of programs ever is.
func TestLost(t *testing.T) {
	RequireRoot(t)
	for _, typ := range []ebpf.MapType{ebpf.ProgramArray, ebpf.Hash} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: typ, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		if (object{"map", uint32(id)}).lost() {
			t.Errorf("a %s that is held", typ)
		}
		m.Close()
	}
	// Those that this kernel has lost, if any, are.
	all, err := kernelObjects()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for o := range all {
		if o.lost() {
			n++
		}
	}
	t.Logf("%d maps of programs are lost on this host", n)
}
