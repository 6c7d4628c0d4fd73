package daemon

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/mapmaker"
	"github.com/hornetd/hornetd/internal/memcg"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
)

// planOf is a plan of maps, without programs.
func planOf(t *testing.T, maps map[string]*ebpf.MapSpec) *loader.Plan {
	t.Helper()
	m := manifest.Manifest{Name: "c", Maps: map[string]manifest.Map{}}
	for name, ms := range maps {
		ms.Name = name
		m.Maps[name] = manifest.Map{Class: manifest.ClassMutable}
	}
	plan, err := loader.NewPlan(&ebpf.CollectionSpec{Maps: maps}, m)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// Where a process cannot make maps hornetd does, and says so; what the kernel says of a
// map is a refusal.
func TestProcessThatCannotMakeMaps(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.NoLeaks(t)
	plan := planOf(t, map[string]*ebpf.MapSpec{"a": {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 3}})

	h := &home{name: "c", log: zap.NewNop()}
	maps, err := h.createBy(mapmaker.New("hornetd: no such", func(int) error { return unix.EPERM }), plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	if _, err := maps.Freeze(); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(maps.States()[0].ID))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.Type() != ebpf.Array || m.MaxEntries() != 3 {
		t.Errorf("the kernel has %s", m)
	}
	if !strings.Contains(h.why, "process that makes maps: operation not permitted") {
		t.Errorf("charged to hornetd because %q", h.why)
	}

	for _, said := range []error{mapmaker.ErrKilled, unix.ENOMEM} {
		h := &home{name: "c", log: zap.NewNop(), room: new(memcg.Room)}
		if _, err := h.createBy(saysMaker{said}, plan, nil); !errors.Is(err, policy.ErrLimit) || h.why != "" {
			t.Errorf("%v: %v, charged to hornetd because %q", said, err, h.why)
		}
	}
}

// saysMaker makes nothing.
type saysMaker struct{ err error }

func (m saysMaker) Make([]*ebpf.MapSpec) ([]*ebpf.Map, error) { return nil, m.err }

// What is kept is there already, and is not counted as what is made.
func TestKeptIsNotMade(t *testing.T) {
	const size = 8 << 20
	d := &Daemon{log: zap.NewNop(), nobody: errors.New("nothing is delegated")}
	m := manifest.Manifest{Name: "c"}
	spec := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{
		"large":  {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: size / 8},
		"larger": {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: size / 4},
		"small":  {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1},
		"loose":  {Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8 << 10, MaxEntries: size},
	}}
	for _, tt := range []struct {
		kept []string
		most uint64 // 0: it is little
	}{
		{[]string{"loose"}, 3 * size},
		{[]string{"loose", "large"}, 2 * size},
		{[]string{"loose", "larger"}, size},
		{[]string{"loose", "large", "larger"}, 0},
		{[]string{"large", "larger"}, 8 * size}, // pointers to what no cgroup is charged for
	} {
		kept := map[string]*ebpf.Map{}
		for _, name := range tt.kept {
			kept[name] = nil
		}
		h, err := d.home(m, spec, kept)
		if err != nil {
			t.Fatal(err)
		}
		if h.takes < tt.most || h.takes > tt.most+tt.most/8 || h.room != nil || h.why != "nothing is delegated" {
			t.Errorf("with %v kept it takes %d, want %d: %q", tt.kept, h.takes, tt.most, h.why)
		}
		if len(spec.Maps) != 4 {
			t.Fatalf("%d maps are left", len(spec.Maps))
		}
	}
}

// What grows with what runs on the host is never light, however little it declares.
func TestLight(t *testing.T) {
	const kib = 1 << 10
	of := func(typ ebpf.MapType) *ebpf.CollectionSpec {
		return &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{"a": {Type: ebpf.Array}, "b": {Type: typ}}}
	}
	for _, tt := range []struct {
		typ          ebpf.MapType
		need, beside uint64
		light        bool
	}{
		{ebpf.Hash, 8, kib, true},
		{ebpf.Hash, 512 * kib, 512*kib - 1, true},
		{ebpf.Hash, 512 * kib, 512 * kib, false},
		{ebpf.Hash, 1024 * kib, 0, false},
		{ebpf.Hash, math.MaxUint64, math.MaxUint64, false},
		{ebpf.CGroupStorage, 8, kib, true}, // one for each link
		{ebpf.TaskStorage, 8, kib, false},
		{ebpf.SkStorage, 8, kib, false},
		{ebpf.InodeStorage, 8, kib, false},
		{ebpf.CgroupStorage, 8, kib, false},
	} {
		if got := light(of(tt.typ), tt.need, tt.beside); got != tt.light {
			t.Errorf("%s that needs %d and %d is light: %t", tt.typ, tt.need, tt.beside, got)
		}
	}
}

// What no cgroup is charged for is told of what has one.
func TestNotCharged(t *testing.T) {
	if said := notCharged(0); said != "" {
		t.Error(said)
	}
	if said := notCharged(4096); !strings.HasPrefix(said, "4096 bytes of values ") || !strings.Contains(said, "to no cgroup") {
		t.Error(said)
	}
}
