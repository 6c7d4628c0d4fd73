package loader

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/manifest"
)

func TestRunTests(t *testing.T) {
	requireKernel(t)
	coll, _ := loadFixture(t, "maps", goodEntries)
	packet := func(b ...byte) []byte { return append(b, make([]byte, 14)...) }
	good := manifest.Test{Program: "lookup", Data: packet(10, 1, 0, 1, 0, 80), Returns: 2}
	if err := RunTests(coll, []manifest.Test{good, good}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		test manifest.Test
		says string
	}{
		{manifest.Test{Program: "lookup", Data: packet(10, 1, 0, 1, 0, 80), Returns: 1}, `test 1: program "lookup" returned XDP_PASS (2), not XDP_DROP (1)`},
		{manifest.Test{Program: "lookup", Data: packet(192, 0, 2, 1, 1, 187), Returns: 77}, "returned XDP_DROP (1), not 77"},
		{manifest.Test{Program: "lookup", Data: []byte{1}, Returns: 2}, "invalid argument"},
	} {
		err := RunTests(coll, []manifest.Test{good, c.test})
		wantError(t, err, c.says)
	}
	wantError(t, RunTests(coll, []manifest.Test{{Program: "lockup"}}), `no program "lockup"`)
}

func TestReturnValue(t *testing.T) {
	for _, c := range []struct {
		typ  ebpf.ProgramType
		v    uint32
		want string
	}{
		{ebpf.XDP, 1, "XDP_DROP (1)"},
		{ebpf.SchedCLS, 2, "TC_ACT_SHOT (2)"},
		{ebpf.SchedCLS, 1<<32 - 1, "TC_ACT_UNSPEC (-1)"},
		{ebpf.CGroupSKB, 1, "1"},
		{ebpf.XDP, 9, "9"},
	} {
		if got := returnValue(c.typ, c.v); got != c.want {
			t.Errorf("%s %d: %q, want %q", c.typ, c.v, got, c.want)
		}
	}
}
