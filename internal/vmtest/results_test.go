package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// binary compiles a test file and returns the test binary.
func binary(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range map[string]string{"go.mod": "module m\n\ngo 1.24\n", "m_test.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-o", "m.test")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "m.test")
}

const someTests = `package m
import "testing"
func TestGood(t *testing.T) { t.Run("a", func(t *testing.T) {}); t.Run("b", func(t *testing.T) { t.Log("x"); t.Skip("this kernel has no BPF_NETFILTER") }) }
func TestBad(t *testing.T) { t.Run("c", func(t *testing.T) { t.Error("wrong") }) }
func TestWorse(t *testing.T) { t.Run("d", func(t *testing.T) {}); t.Error("by itself") }
func TestPanic(t *testing.T) { panic("at the disco") }
`

func TestResults(t *testing.T) {
	out, _ := exec.Command(binary(t, someTests), "-test.v=test2json").CombinedOutput()
	results, err := convert(t.Context(), "6.1", "p", bytes.NewReader(out), errors.New("p: exit status 2"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var parents []string
	for _, r := range results {
		if r.Parent {
			parents = append(parents, r.Test)
			continue
		}
		got[r.Test] = strings.TrimSuffix(r.Action+" "+r.Reason, " ")
	}
	want := map[string]string{
		"TestGood/a": "pass", "TestGood/b": "skip this kernel has no BPF_NETFILTER", "TestBad/c": "fail wrong",
		"TestWorse/d": "pass", "TestWorse": "fail by itself", "TestPanic": "fail panic: at the disco",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	passed, failed, skipped := count(results)
	if passed != 2 || failed != 3 || skipped != 1 || !slices.Equal(parents, []string{"TestGood"}) {
		t.Errorf("%d passed, %d failed, %d skipped; parents %q", passed, failed, skipped, parents)
	}
}

// What a guest takes with it when it dies has failed.
func TestResultsOfTheDead(t *testing.T) {
	out := "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16=== RUN   TestB\nworking"
	results, err := convert(t.Context(), "6.1", "p", strings.NewReader(out), errors.New("guest: died"))
	if err != nil {
		t.Fatal(err)
	}
	passed, failed, skipped := count(results)
	if passed != 1 || failed != 1 || skipped != 0 || results[1].Test != "TestB" || !strings.Contains(results[1].Output, "working") {
		t.Errorf("%+v", results)
	}
	results, err = convert(t.Context(), "6.1", "p", strings.NewReader(""), errors.New("guest: died"))
	if err != nil || len(results) != 1 || results[0].Action != "fail" {
		t.Errorf("%+v, %v", results, err)
	}
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		kernel, reason string
		ok             bool
	}{
		{"6.1", "this kernel has no BPF_NETFILTER", true},
		{"6.12", "this kernel has no BPF_NETFILTER", false},
		{"6.12", "this kernel has no exclusive maps: invalid argument", true},
		{"7.3", "this kernel has no exclusive maps: invalid argument", false},
		{"6.12", "corpus: which is not part of the repository", true},
		{"6.1", "no frobnicator", false},
		{"6.1", "", false},
	} {
		results := []Result{{Kernel: tt.kernel, Action: "skip", Reason: tt.reason}, {Action: "pass"}}
		judge(results)
		if (results[0].Action == "skip") != tt.ok || results[1].Action != "pass" {
			t.Errorf("%+v: %+v", tt, results)
		}
	}
}

func TestSummary(t *testing.T) {
	var b strings.Builder
	failed := Summary(&b, []Result{
		{Kernel: "6.1", Package: modulePath + "/loader", Test: "TestA", Action: "pass"},
		{Kernel: "6.1", Package: modulePath + "/loader", Test: "TestB", Action: "skip", Reason: "no x"},
		{Kernel: "6.12", Package: modulePath + "/loader", Test: "TestB", Action: "skip", Reason: "no x"},
		{Kernel: "7.3", Package: modulePath + "/loader", Test: "TestB", Action: "fail", Reason: "broken", Output: "a\nb"},
	})
	want := "FAIL 7.3 loader TestB: broken\n     a\n     b\nskip loader: no x\n     on 6.1, 6.12: TestB\n1 passed, 1 failed, 2 skipped\n"
	if diff := cmp.Diff(want, b.String()); diff != "" || failed != 1 {
		t.Errorf("%d failed; %s", failed, diff)
	}
}

func TestTable(t *testing.T) {
	var results []Result
	for k, action := range map[string]string{"6.1": "skip", "6.12": "pass", "7.3": "fail"} {
		results = append(results, Result{Kernel: k, Package: modulePath + "/loader", Test: "TestAttachNetfilter", Action: action, Reason: "no a|b"})
	}
	table := Table([]string{"6.1", "6.12", "7.3"}, results)
	for _, line := range []string{
		"| Attach type | Linux 6.1 | 6.12 | 7.3 |\n|---|---|---|---|\n",
		"| netfilter | skipped: no a/b | passed | **failed** |\n",
		"| netfilter, defrag | **no test** | **no test** | **no test** |\n",
	} {
		if !strings.Contains(table, line) {
			t.Errorf("no %q in\n%s", line, table)
		}
	}
	file := filepath.Join(t.TempDir(), "README.md")
	const tableBegin, tableEnd = "<!-- make x writes this -->\n", "<!-- end -->\n"
	for _, old := range []string{"", "old\n"} {
		if err := os.WriteFile(file, []byte("a\n"+tableEnd+tableBegin+old+tableEnd+"b\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := WriteTable(file, "make x", "new\n"); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(file); string(b) != "a\n"+tableEnd+tableBegin+"new\n"+tableEnd+"b\n" {
			t.Errorf("%q", b)
		}
	}
	if err := WriteTable(file, "make x", table); err == nil {
		t.Error("a table of a run in which tests are missing was written")
	}
	if err := WriteTable(file, "make y", "new\n"); err == nil {
		t.Error("no error without markers")
	}
}

func TestTableOfTests(t *testing.T) {
	var results []Result
	for k, action := range map[string]string{"6.12": "pass", "7.3": "fail"} {
		results = append(results, Result{Kernel: k, Package: modulePath + "/examples", Test: "TestA/b", Action: action},
			Result{Kernel: k, Package: modulePath + "/examples", Test: "TestA", Action: "pass", Parent: true})
	}
	results = append(results, Result{Kernel: "7.3", Package: modulePath + "/examples", Test: "TestC", Action: "skip", Reason: "no a|b"})
	want := "| Test | Linux 6.12 | 7.3, arm64 |\n|---|---|---|\n| TestA/b (examples) | passed | **failed** |\n| TestC (examples) |  | skipped: no a/b |\n"
	if diff := cmp.Diff(want, TableOfTests(ARM64, []string{"6.12", "7.3"}, results)); diff != "" {
		t.Error(diff)
	}
}

// A kernel that cannot run is said, counted, and in CI a failure.
func TestMissing(t *testing.T) {
	for ci, action := range map[bool]string{false: "skip", true: "fail"} {
		m := Matrix{Tests: Tests{CI: ci}}
		results, err := m.missing("6.1", fmt.Errorf("wrapped: %w", unavailable("no mirror")))
		if err != nil || len(results) != 1 || results[0].Action != action || !strings.Contains(results[0].Reason, "no mirror") {
			t.Errorf("CI %v: %+v, %v", ci, results, err)
		}
	}
	m := Matrix{}
	if _, err := m.missing("6.1", errors.New("a bug")); err == nil {
		t.Error("a bug is not something this machine lacks")
	}
}
