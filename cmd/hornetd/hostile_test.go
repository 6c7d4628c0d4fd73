package main_test

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// mostMemory is what the daemon may ever have used, whatever it was asked to load.
const mostMemory = 64_000_000 / 1024 // KiB

// hostileHost is a daemon that is asked to load one bad object after the other.
type hostileHost struct {
	*testdaemon.Host
	t       testing.TB
	client  *api.Client
	loaded  int
	refused map[api.Kind]int
}

func newHostileHost(t testing.TB) *hostileHost {
	h := &hostileHost{Host: testdaemon.New(t, ""), t: t, refused: map[api.Kind]int{}}
	h.Manifest("any", "start = \"request\"\n[object]\npath = \"any.o\"\n[maps.\"*\"]\nclass = \"mutable\"\n")
	h.Start()
	h.client = h.Client()
	return h
}

// load has a good signature put on an object, and it loaded if it can be. Either
// way nothing of it is left.
func (h *hostileHost) load(what string, object []byte) {
	h.t.Helper()
	h.Object("any.o", object)
	_, err := h.client.Load(context.Background(), "any")
	var e *api.Error
	switch {
	case err == nil:
		h.loaded++
		if _, err := h.client.Unload(context.Background(), "any", api.UnloadRequest{}); err != nil {
			h.t.Fatalf("%s: unload: %v", what, err)
		}
	case errors.As(err, &e):
		h.refused[e.Kind]++
		if e.Hint == "" {
			h.t.Errorf("%s: %v: no remedy", what, err)
		}
	default:
		h.t.Fatalf("%s: %v", what, err)
	}
}

// memory returns the most that a process ever used, in KiB, as the kernel counts.
func memory(t testing.TB, pid int) int {
	t.Helper()
	for line := range strings.Lines(string(read(t, fmt.Sprintf("/proc/%d/status", pid)))) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatalf("process %d is gone", pid)
	return 0
}

func (h *hostileHost) check(pid int) {
	h.t.Helper()
	if h.PID() != pid {
		h.t.Fatalf("process %d, was %d", h.PID(), pid)
	}
	most := memory(h.t, pid)
	h.t.Logf("%d loaded, refused: %v; at most %d KiB", h.loaded, h.refused, most)
	if most > mostMemory {
		h.t.Errorf("the daemon used %d KiB, at most %d", most, mostMemory)
	}
}

// withBSS returns an object whose .bss declares size bytes.
func withBSS(t testing.TB, object []byte, size uint64) []byte {
	t.Helper()
	f, err := elf.NewFile(strings.NewReader(string(object)))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range f.Sections {
		if s.Name == ".bss" {
			b := slices.Clone(object)
			headers := binary.NativeEndian.Uint64(b[40:]) // e_shoff
			field := b[headers+64*uint64(i)+32:]          // sh_size
			binary.NativeEndian.PutUint64(field[:8:8], size)
			return b
		}
	}
	t.Fatal("no .bss")
	return nil
}

// TestHostileBSS: a few kilobytes that ask for gigabytes.
func TestHostileBSS(t *testing.T) {
	testenv.NoLeaks(t)
	h := newHostileHost(t)
	pid := h.PID()
	small := example(t, "exec-count/exec_count.bpf.o")
	for _, size := range []uint64{4 << 30, 1 << 62, 1<<64 - 1, 8<<20 + 1} {
		h.load(fmt.Sprintf(".bss of %d bytes", size), withBSS(t, small, size))
	}
	bomb, err := os.ReadFile("../../../shared/corpus/hostile/bss-4GiB-alloc-9KB.elf")
	if err == nil {
		h.load("corpus", bomb)
	} else {
		t.Logf("without the object of the corpus: %v", err)
	}
	if h.loaded > 0 {
		t.Errorf("%d loaded", h.loaded)
	}
	// The largest that may be.
	for range 3 {
		h.load(".bss of 8 MiB", withBSS(t, small, 8<<20))
	}
	if h.loaded != 3 {
		t.Errorf("%d of 3 loaded: %v", h.loaded, h.refused)
	}
	h.check(pid)
}

// TestHostileObjects: truncated and mutated objects with good signatures, a sample
// of them; with HORNET_SOAK=1 every truncation of the examples and 100,000
// mutations. HORNET_SEED chooses others.
func TestHostileObjects(t *testing.T) {
	testenv.NoLeaks(t)
	h := newHostileHost(t)
	pid := h.PID()
	step, mutations, seed := 61, 300, uint64(1)
	if testing.Short() {
		step, mutations = 601, 30
	}
	if os.Getenv("HORNET_SOAK") == "1" {
		step, mutations = 1, 100_000
	}
	if s, err := strconv.ParseUint(os.Getenv("HORNET_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d", seed)
	files, err := filepath.Glob("../../examples/*/*.bpf.o")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	var objects [][]byte
	for _, file := range files {
		objects = append(objects, read(t, file))
	}
	for i, object := range objects {
		for n := 1; n < len(object); n += step {
			h.load(fmt.Sprintf("%d bytes of %s", n, files[i]), object[:n])
		}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for n := range mutations {
		i := r.IntN(len(objects))
		h.load(fmt.Sprintf("seed %d, mutation %d, of %s", seed, n, files[i]), testenv.Mutate(r, objects[i]))
		if n%10_000 == 9_999 {
			t.Logf("%d: at most %d KiB", n+1, memory(t, pid))
		}
	}
	if h.refused[api.KindObject] == 0 {
		t.Error("no object was refused: none was mutated")
	}
	h.check(pid)
}
