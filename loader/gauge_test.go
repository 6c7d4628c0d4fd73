package loader

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
)

func healthManifest(t testing.TB, health string) manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse("/etc/hornet.d/demo.toml", []byte("object.path = \"/demo.bpf.o\"\n[health]\nseconds = 1\n"+health))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestGaugeReads compares with what was written: a variable in its section, and
// the slots of arrays, of each CPU too.
func TestGaugeReads(t *testing.T) {
	testenv.RequireRoot(t)
	spec := attachSpec(t, "attach")
	g, err := NewGauge(spec, healthManifest(t, "variable = \"hits_tcx_in\"\ngrows = true"))
	if err != nil {
		t.Fatal(err)
	}
	bss, err := ebpf.NewMap(emptyCopy(spec.Maps[".bss"]))
	if err != nil {
		t.Fatal(err)
	}
	defer bss.Close()
	b := make([]byte, bss.ValueSize())
	v := spec.Variables["hits_tcx_in"]
	b[v.Offset], b[v.Offset+1] = 7, 1
	if err := bss.Put(uint32(0), b); err != nil {
		t.Fatal(err)
	}
	if n, err := g.Read(bss); err != nil || n != 263 || g.Map != ".bss" {
		t.Errorf("%d, %v of %s", n, err, g.Map)
	}

	spec.Maps["cpus"] = &ebpf.MapSpec{Name: "cpus", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 4, MaxEntries: 3}
	if g, err = NewGauge(spec, healthManifest(t, "map = \"cpus\"\nkey = \"0x02000000\"\ngrows = true")); err != nil {
		t.Fatal(err)
	}
	cpus, err := ebpf.NewMap(spec.Maps["cpus"])
	if err != nil {
		t.Fatal(err)
	}
	defer cpus.Close()
	values := make([]uint32, ebpf.MustPossibleCPU())
	want := uint64(0)
	for i := range values {
		values[i] = uint32(i + 5)
		want += uint64(i + 5)
	}
	if err := cpus.Put(uint32(2), values); err != nil {
		t.Fatal(err)
	}
	if n, err := g.Read(cpus); err != nil || n != want {
		t.Errorf("%d, %v, want %d", n, err, want)
	}

	spec.Maps["hash"] = &ebpf.MapSpec{Name: "hash", Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 3}
	if g, err = NewGauge(spec, healthManifest(t, "map = \"hash\"\nkey = \"0x01000000\"\ngrows = true")); err != nil {
		t.Fatal(err)
	}
	hash, err := ebpf.NewMap(spec.Maps["hash"])
	if err != nil {
		t.Fatal(err)
	}
	defer hash.Close()
	if n, err := g.Read(hash); err != nil || n != 0 {
		t.Errorf("without an entry: %d, %v", n, err)
	}
}

func TestGaugeRefuses(t *testing.T) {
	spec := attachSpec(t, "attach")
	spec.Maps["wide"] = &ebpf.MapSpec{Name: "wide", Type: ebpf.Hash, KeySize: 4, ValueSize: 16, MaxEntries: 3}
	for health, want := range map[string]string{
		"variable = \"hits_tcx\"\ngrows = true":                             "health.variable: the object has no global variable \"hits_tcx\"",
		"map = \"walke\"\ngrows = true":                                     "health.map: the object has no map \"walke\"",
		"map = \"sockets\"\ngrows = true":                                   "health.map: \"sockets\" is a SockMap",
		"map = \"walked\"\nfield = \"x\"\ngrows = true":                     "health.field: the value of \"walked\" has no field \"x\"",
		"map = \"walked\"\nkey = \"one\"\ngrows = true":                     "health.key: ",
		"map = \"wide\"\ngrows = true":                                      "health.key: is missing",
		"map = \"wide\"\nkey = \"0x00000000\"\ngrows = true":                "health.map: what it counts with is no integer",
		"map = \"wide\"\nkey = \"0x00000000\"\nfield = \"x\"\ngrows = true": "health.field: ",
		"program = \"nobody\"\nreturns = 1":                                 "health.program: the object has no program \"nobody\"",
	} {
		g, err := NewGauge(spec, healthManifest(t, health))
		if g != nil || err == nil || !strings.Contains(err.Error(), want) || remedy.Of(err) == "" {
			t.Errorf("%s: %v (%s), want %s", health, err, remedy.Of(err), want)
		}
	}
}
