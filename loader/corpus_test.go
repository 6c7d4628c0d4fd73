package loader

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// corpus is a folder of objects that others wrote, with what the bare library
// made of each on one kernel. It is not part of the repository.
const corpus = "../../shared/corpus"

// outcome is what came of one object.
type outcome struct {
	Verdict string            // err: does not open; loadfail: does not load; loaded
	Tags    map[string]string // of the programs that were loaded
	Maps    int
	err     error
}

// Every object has the same fate here as with the bare library, in this very
// run: it opens or not, loads or not, and its programs have the same tags.
func TestCorpus(t *testing.T) {
	requireKernel(t)
	objects := readCorpus(t)
	count := make(map[string]int)
	for _, o := range objects {
		t.Run(o.file, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(corpus, o.file))
			if err != nil {
				t.Fatal(err)
			}
			got, want := loadAsHornetd(t, b), loadBare(t, b)
			count[got.Verdict]++
			if got.Verdict != want.Verdict {
				t.Errorf("%s (%v), the library: %s (%v)", got.Verdict, got.err, want.Verdict, want.err)
			}
			if diff := cmp.Diff(want.Tags, got.Tags); diff != "" {
				t.Errorf("tags, -library +hornetd:\n%s", diff)
			}
			if got.Maps != want.Maps {
				t.Errorf("%d maps, the library: %d", got.Maps, want.Maps)
			}
			if reason, ok := depends[o.file]; ok {
				t.Logf("not compared with the index: %s", reason)
			} else if runsOn("6.18.") && got.Verdict != o.verdict {
				t.Errorf("%s (%v), the corpus says %s", got.Verdict, got.err, o.verdict)
			}
			if got.err != nil && strings.Contains(got.err.Error(), "MEMLOCK") {
				t.Errorf("error %v", got.err)
			}
		})
	}
	t.Logf("%d objects: %v", len(objects), count)
}

// depends are objects whose fate depends on more than the kernel.
var depends = map[string]string{
	"ebpf-8cd4ebd2.o": "LINUX_HAS_SYSCALL_WRAPPER is found through tracefs, which may be mounted or not",
}

type corpusObject struct{ file, verdict string }

func readCorpus(t *testing.T) []corpusObject {
	t.Helper()
	f, err := os.Open(filepath.Join(corpus, "INDEX.tsv"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("needs %s: objects of other projects, which are not part of the repository", corpus)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = '\t', true, -1
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var objects []corpusObject
	for _, row := range rows[1:] {
		objects = append(objects, corpusObject{row[0], row[3]})
	}
	if len(objects) == 0 {
		t.Fatal("the corpus is empty")
	}
	return objects
}

func loadAsHornetd(t *testing.T, b []byte) outcome {
	t.Helper()
	spec, err := openSpec(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return outcome{Verdict: "err", err: err}
	}
	p, err := NewPlan(spec, parseManifest(t, allMutable))
	if err != nil {
		return outcome{Verdict: "loadfail", err: err}
	}
	coll, _, err := tryLoad(p)
	return outcomeOf(t, coll, err)
}

func loadBare(t *testing.T, b []byte) outcome {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(b))
	if err != nil {
		return outcome{Verdict: "err", err: err}
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: kernelTypes})
	return outcomeOf(t, coll, err)
}

var kernelTypes = btf.NewCache()

func outcomeOf(t *testing.T, coll *ebpf.Collection, err error) outcome {
	t.Helper()
	if err != nil {
		return outcome{Verdict: "loadfail", err: err}
	}
	defer coll.Close()
	o := outcome{Verdict: "loaded", Tags: make(map[string]string)}
	for name := range coll.Maps {
		if !strings.HasPrefix(name, kconfig) { // the library makes it, and forgets it
			o.Maps++
		}
	}
	for name, prog := range coll.Programs {
		info, err := prog.Info()
		if err != nil {
			t.Fatal(err)
		}
		o.Tags[name] = info.Tag
	}
	return o
}

// runsOn says whether the running kernel's release begins with release.
func runsOn(release string) bool {
	var uts unix.Utsname
	return unix.Uname(&uts) == nil && strings.HasPrefix(unix.ByteSliceToString(uts.Release[:]), release)
}

// An object of nine kilobytes whose .bss asks for four gigabytes.
func TestHostileCorpus(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(corpus, "hostile", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skipf("needs %s/hostile: hostile objects, which are not part of the repository", corpus)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, err = openSpec(bytes.NewReader(b), int64(len(b)))
		wantError(t, err, "object: section 12: 4211080963 bytes are more than 8388608")
	}
}

// Objects of Debian's xdp-tools, which nobody here wrote either.
func TestDebiansObjects(t *testing.T) {
	requireKernel(t)
	files, err := filepath.Glob("/usr/lib/*/bpf/*.o")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("needs Debian's libxdp1 and xdp-tools: objects below /usr/lib/*/bpf")
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, want := loadAsHornetd(t, b), loadBare(t, b)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{}), cmp.Comparer(func(a, b error) bool { return (a == nil) == (b == nil) })); diff != "" {
			t.Errorf("%s, -library +hornetd:\n%s", file, diff)
		}
	}
}
