package loader

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
)

// The last line makes the object for the other byte order; that nothing of this
// machine enters it is the script's business for the others.
//go:generate sh -c "../scripts/bpf-compile testdata/*.bpf.c"
//go:generate sh -c "cd testdata && clang-19 -target bpfeb -mcpu=v3 -O2 -g -Wall -Werror -fno-ident -fdebug-compilation-dir=/hornetd -c plain.bpf.c -o plain.bpfeb.o && llvm-strip-19 -g plain.bpfeb.o"

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openFixture(t testing.TB, name string) *ebpf.CollectionSpec {
	t.Helper()
	b := fixture(t, name)
	spec, err := openSpec(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// parseManifest parses TOML that is to follow the [object] table.
func parseManifest(t testing.TB, toml string) manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse("/etc/hornet.d/demo.toml", []byte("[object]\npath = \"demo.bpf.o\"\n"+toml))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func planFixture(t testing.TB, name, toml string) *Plan {
	t.Helper()
	p, err := NewPlan(openFixture(t, name), parseManifest(t, toml))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// loadFixture loads a fixture as the daemon does and closes it with the test.
func loadFixture(t testing.TB, name, toml string) (*ebpf.Collection, *Maps) {
	t.Helper()
	return loadPlan(t, planFixture(t, name, toml))
}

func loadPlan(t testing.TB, p *Plan) (*ebpf.Collection, *Maps) {
	t.Helper()
	coll, ms, err := tryLoad(p)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	t.Cleanup(coll.Close)
	return coll, ms
}

func tryLoad(p *Plan) (*ebpf.Collection, *Maps, error) {
	ms, err := p.CreateMaps(nil)
	if err != nil {
		return nil, nil, err
	}
	defer ms.Close()
	if _, err := ms.Freeze(); err != nil {
		return nil, nil, err
	}
	coll, err := LoadPrograms(p, ms, btf.NewCache(), nil)
	return coll, ms, err
}

// state returns the state of one map.
func state(t testing.TB, ms *Maps, name string) MapState {
	t.Helper()
	for _, s := range ms.States() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no state of map %q in %+v", name, ms.States())
	return MapState{}
}

// secondFD opens a map as another process would: by its id.
func secondFD(t testing.TB, s MapState) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMapFromID(ebpf.MapID(s.ID))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// run returns what a program returns for a packet that begins with data.
func run(t testing.TB, p *ebpf.Program, data ...byte) uint32 {
	t.Helper()
	ret, err := p.Run(&ebpf.RunOptions{Data: append(data, make([]byte, 64)...)})
	if err != nil {
		t.Fatal(err)
	}
	return ret
}

// wantError checks that err says all of these, and that it has a remedy.
func wantError(t testing.TB, err error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", says)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
	if remedy.Of(err) == "" {
		t.Errorf("error %q has no remedy", err)
	}
}

// wantManifestError checks the line an error is about, too. Line 1 is the
// first of the TOML the test gave.
func wantManifestError(t testing.TB, err error, line int, says ...string) {
	t.Helper()
	wantError(t, err, says...)
	var me *manifest.Error
	if !errors.As(err, &me) {
		t.Fatalf("error %q is a %T, not a *manifest.Error", err, err)
	}
	if me.Line-2 != line {
		t.Errorf("error %q is about line %d, want %d", err, me.Line-2, line)
	}
}

func requireKernel(t testing.TB) {
	t.Helper()
	testenv.NoLeaks(t)
}
