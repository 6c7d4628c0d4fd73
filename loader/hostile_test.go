package loader

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/testenv"
)

// Every truncation of the examples and 20,000 mutations (HORNET_SOAK=1: a million;
// HORNET_SEED: others), parsed and planned by a process of its own: it neither dies
// nor ever uses more than 64 MB, as the kernel counts.
func TestHostileObjects(t *testing.T) {
	if os.Getenv("HORNET_HOSTILE") == "1" {
		parseHostile(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHostileObjects$", "-test.v")
	cmd.Env = append(os.Environ(), "HORNET_HOSTILE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out[max(0, len(out)-4000):])
	}
	_, said, ok := bytes.Cut(out, []byte("hostile: "))
	if !ok {
		t.Fatalf("it says nothing:\n%s", out)
	}
	line, _, _ := strings.Cut(string(said), "\n")
	t.Log(line)
	var taken, refused, kib int
	if _, err := fmt.Sscanf(line, "%d taken, %d refused, at most %d KiB", &taken, &refused, &kib); err != nil {
		t.Fatal(err)
	}
	if taken == 0 || refused == 0 {
		t.Error("this mutates nothing")
	}
	if kib > 64_000_000/1024 {
		t.Errorf("it used %d KiB", kib)
	}
}

func parseHostile(t *testing.T) {
	mutations, seed := 20_000, uint64(1)
	if testing.Short() {
		mutations = 1000
	}
	if os.Getenv("HORNET_SOAK") == "1" {
		mutations = 1_000_000
	}
	if s, err := strconv.ParseUint(os.Getenv("HORNET_SEED"), 10, 64); err == nil {
		seed = s
	}
	files, err := filepath.Glob("../examples/*/*.bpf.o")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	debug.SetMemoryLimit(40 << 20) // as cmd/hornetd does
	taken, refused := 0, 0
	parse := func(object []byte) {
		if Preview(object) == nil {
			taken++
		} else {
			refused++
		}
	}
	var objects [][]byte
	for _, file := range files {
		object, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, object)
		for n := range object {
			parse(object[:n])
		}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for range mutations {
		parse(testenv.Mutate(r, objects[r.IntN(len(objects))]))
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	fmt.Printf("hostile: %d taken, %d refused, at most %s KiB, seed %d\n", taken, refused, kib, seed)
}

// Preview refuses what OpenSpec refuses, in the same words, and nothing else.
func TestPreview(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bpf.o")
	if err != nil || len(files) < 10 {
		t.Fatalf("%v, %v", files, err)
	}
	r := rand.New(rand.NewPCG(1, 0))
	for _, file := range files {
		object, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 20 {
			_, want := openSpec(bytes.NewReader(object), int64(len(object)))
			got := Preview(object)
			if (got == nil) != (want == nil) || want != nil && want.Error() != "object: "+got.Error() {
				t.Errorf("%s, mutation %d: %v, OpenSpec says %v", file, n, got, want)
			}
			object = testenv.Mutate(r, object)
		}
	}
}
