package vmtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mirrorOf returns a store for arm64 and an apt-get that offers one package,
// tool, with /usr/bin/tool. Each download adds a byte to a file, which it names.
func mirrorOf(t *testing.T) (*store, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"tool/DEBIAN/control": "Package: tool\nVersion: 1\nArchitecture: arm64\nMaintainer: t\nDescription: t\n",
		"tool/usr/bin/tool":   "a tool",
	} {
		writeFile(t, filepath.Join(dir, name), text)
	}
	if out, err := exec.Command("dpkg-deb", "-b", filepath.Join(dir, "tool"), filepath.Join(dir, "tool.deb")).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	asked := filepath.Join(dir, "asked")
	s := archive(t, `case "$*" in
		*"APT::Architecture=arm64"*" -s "*tool*) echo "Inst tool (1 t [arm64])" ;;
		*"APT::Architecture=arm64"*" download tool") echo >>`+asked+`; cp `+dir+`/tool.deb . ;;
		*" update") : >$lists ;;
		*) echo "E: Unable to locate package"; exit 100 ;;
		esac`, "exit 1")
	s.arch = ARM64
	return s, asked
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Programs are fetched once, and again when they are not what was fetched.
func TestSysroot(t *testing.T) {
	s, asked := mirrorOf(t)
	fetched := 0
	for _, tt := range []struct {
		what     string
		do       func(dir string) error
		packages string
		fetches  bool
	}{
		{"first", nil, "tool", true},
		{"second", nil, "tool", false},
		{"a file changed", func(dir string) error { return os.WriteFile(dir+"/usr/bin/tool", []byte("A tool"), 0o755) }, "tool", true},
		{"a file gone", func(dir string) error { return os.Remove(dir + "/usr/bin/tool") }, "tool", true},
		{"others asked for", nil, "tool tool-again", true},
	} {
		if tt.do != nil {
			if err := tt.do(filepath.Join(s.dir, "programs")); err != nil {
				t.Fatal(err)
			}
		}
		dir, err := s.sysroot(strings.Fields(tt.packages))
		if err != nil {
			t.Fatalf("%s: %v", tt.what, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "bin/tool")); string(b) != "a tool" {
			t.Errorf("%s: the tool is %q, %v", tt.what, b, err)
		}
		if tt.fetches {
			fetched++
		}
		if b, _ := os.ReadFile(asked); len(b) != fetched {
			t.Errorf("%s: %d downloads, want %d", tt.what, len(b), fetched)
		}
	}
}

func TestSysrootRefused(t *testing.T) {
	s, _ := mirrorOf(t)
	want := "guest programs for arm64: apt-get install nosuch: exit status 100: E: Unable to locate package"
	if _, err := s.sysroot([]string{"nosuch"}); !errors.Is(err, ErrUnavailable) || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	s.etc = t.TempDir()
	if err := os.RemoveAll(filepath.Join(s.dir, ".apt")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.sysroot([]string{"tool"}); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "names no Debian mirror") {
		t.Errorf("error %v", err)
	}
}

// A program of another root comes with that one's libraries, and never with
// this machine's.
func TestRootOfSysroot(t *testing.T) {
	program, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	here := newRoot(&bytes.Buffer{}, "")
	needed, err := here.needs(program)
	if err != nil || len(needed) < 2 {
		t.Fatalf("%s needs %q, %v", program, needed, err)
	}
	dir := t.TempDir()
	for from, to := range map[string]string{program: "usr/bin/prog", needed[0]: needed[0], needed[1]: "opt/lib/" + filepath.Base(needed[1])} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, to), string(b))
	}
	if err := errors.Join(os.Symlink("/usr/bin", dir+"/programs"), os.Chmod(dir+"/usr/bin/prog", 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := newRoot(&bytes.Buffer{}, dir).same("/programs/prog"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a library that only this machine has: %v", err)
	}
	writeFile(t, dir+"/etc/ld.so.conf.d/x.conf", "/opt/lib\n")
	r := newRoot(&bytes.Buffer{}, dir)
	if err := r.same("/programs/prog"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"programs", "usr/bin/prog", "opt/lib/" + filepath.Base(needed[1])} {
		if !r.seen[name] {
			t.Errorf("%s is missing: %v", name, r.seen)
		}
	}
	if err := r.program("prog"); err != nil {
		t.Error(err)
	}
	if err := r.program("bash"); err == nil {
		t.Error("a program that only this machine has")
	}
}
