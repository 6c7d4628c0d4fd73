package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The input is made by go itself: a module of packages that pass, fail, skip,
// panic and do not compile.
var module = map[string]string{
	"go.mod": "module example.test/m\n\ngo 1.26\n",
	"good/good_test.go": `package good
import "testing"
func TestPlain(t *testing.T) {}
func TestSub(t *testing.T) { t.Run("a", func(t *testing.T) {}); t.Run("b", func(t *testing.T) { t.Skip("no frobnicator here") }) }
`,
	"none/none.go": "package none\n",
	"bad/bad_test.go": `package bad
import "testing"
func TestSub(t *testing.T) { t.Run("a", func(t *testing.T) { t.Error("wrong colour") }); t.Run("b", func(t *testing.T) {}) }
func TestOwn(t *testing.T) { t.Run("fine", func(t *testing.T) {}); t.Error("after its subtests") }
`,
	"panics/panics_test.go": `package panics
import "testing"
func TestBefore(t *testing.T) {}
func TestPanic(t *testing.T) { panic("at the disco") }
func TestNever(t *testing.T) {}
`,
	"dies/dies_test.go": `package dies
import ("os"; "testing")
func TestExit(t *testing.T) { os.Exit(3) }
`,
	"broken/broken_test.go": "package broken\nfunc x() int { return \"no\" }\n",
}

func goTest(t *testing.T, packages ...string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range module {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", append([]string{"test", "-json", "-vet=off"}, packages...)...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		t.Fatalf("go test: %v", err)
	}
	return string(out)
}

func TestRun(t *testing.T) {
	allow := filepath.Join(t.TempDir(), "allow")
	if err := os.WriteFile(allow, []byte("# why\n\n^no frob\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("^no other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		packages []string
		allow    string
		ci       bool
		last     string
		contains []string
		ok       bool
	}{
		{"good", []string{"./good", "./none"}, other, false, "2 passed, 0 failed, 1 skipped", []string{"ok    example.test/m/good", "skip  no frobnicator here: example.test/m/good.TestSub/b"}, true},
		{"skip allowed in CI", []string{"./good"}, allow, true, "2 passed, 0 failed, 1 skipped", nil, true},
		{"skip refused in CI", []string{"./good"}, other, true, "2 passed, 1 failed, 0 skipped", []string{"FAIL  example.test/m/good.TestSub/b: skipped in CI: no frobnicator here"}, false},
		{"fails", []string{"./bad", "./good"}, "", false, "4 passed, 2 failed, 1 skipped", []string{"wrong colour", "after its subtests", "--- FAIL  example.test/m/bad.TestSub/a"}, false},
		{"panics", []string{"./panics"}, "", false, "1 passed, 1 failed, 0 skipped", []string{"at the disco"}, false},
		{"exits", []string{"./dies"}, "", false, "0 passed, 1 failed, 0 skipped", []string{"example.test/m/dies.TestExit"}, false},
		{"does not compile", []string{"./broken", "./good"}, "", false, "2 passed, 1 failed, 1 skipped", []string{"broken_test.go:2"}, false},
		{"nothing run", []string{"./none"}, "", false, "0 passed, 0 failed, 0 skipped", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			err := run([]io.Reader{strings.NewReader(goTest(t, tt.packages...))}, &out, tt.allow, tt.ci)
			if (err == nil) != tt.ok {
				t.Errorf("error %v, want ok %v", err, tt.ok)
			}
			lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
			if last := lines[len(lines)-1]; last != tt.last {
				t.Errorf("last line %q, want %q", last, tt.last)
			}
			for _, want := range tt.contains {
				if !strings.Contains(out.String(), want) {
					t.Errorf("output has no %q", want)
				}
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}

// A go test that is killed half-way leaves a package without an end.
func TestCutOff(t *testing.T) {
	in := `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
not json
`
	var out bytes.Buffer
	if err := run([]io.Reader{strings.NewReader(in)}, &out, "", false); err == nil {
		t.Error("no error for a run that was cut off")
	}
	for _, want := range []string{"1 passed, 1 failed, 0 skipped\n", "--- FAIL  p.TestB", "not json"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output has no %q:\n%s", want, out.String())
		}
	}
}

// Of several at once each keeps its lines to itself, and counts.
func TestSeveral(t *testing.T) {
	var ins []io.Reader
	var writers []*os.File
	for range 2 {
		in, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		ins, writers = append(ins, in), append(writers, w)
	}
	lines := func(p, action string) string {
		return fmt.Sprintf("{\"Action\":\"output\",\"Package\":%q,\"Test\":\"TestA\",\"Output\":\"%s says\\n\"}\n{\"Action\":%q,\"Package\":%[1]q,\"Test\":\"TestA\"}\n{\"Action\":%[3]q,\"Package\":%[1]q}\n", p, p, action)
	}
	good, bad := lines("good", "pass"), lines("bad", "fail")
	go func() {
		// Each stops in the middle of a line, and the other goes on.
		io.WriteString(writers[0], good[:40])
		io.WriteString(writers[1], bad)
		writers[1].Close()
		io.WriteString(writers[0], good[40:])
		writers[0].Close()
	}()
	var out bytes.Buffer
	if err := run(ins, &out, "", false); err == nil {
		t.Error("no error, and one of two failed")
	}
	for _, want := range []string{"1 passed, 1 failed, 0 skipped\n", "bad says", "ok    good"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output has no %q:\n%s", want, out.String())
		}
	}
}
