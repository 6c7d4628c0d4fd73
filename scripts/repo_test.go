// Package scripts tests the repository as a whole: that its sources are
// formatted and build for every architecture, that the committed objects are
// what the sources compile to, that builds can be repeated, and what `make
// install` installs.
package scripts

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// command runs a program in dir and returns what it printed.
func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// checkout copies the sources to another directory, as a clone would be.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", path)
		if err != nil {
			return err
		}
		switch {
		case rel == ".git" && !d.IsDir(): // of a worktree
			return nil
		case rel == ".git", rel == ".cache", rel == "bin":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), b, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFormatted(t *testing.T) {
	if out := command(t, "..", "gofmt", "-l", "."); out != "" {
		t.Errorf("not formatted, run gofmt -w:\n%s", out)
	}
}

func TestVet(t *testing.T) {
	command(t, "..", "go", "vet", "./...")
}

// Users have both; what this machine is not, the compiler sees here. Vet types
// the tests too, with the sizes of the architecture.
func TestArchitectures(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			for _, verb := range []string{"build", "vet"} {
				command(t, "..", "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "go", verb, "./...")
			}
		})
	}
}

// Signatures bind to the bytes of an object, so the bytes must follow from the
// source and from nothing else: not the directory, not the machine's headers.
func TestObjects(t *testing.T) {
	if _, err := exec.LookPath("clang-19"); err != nil {
		t.Skip("clang-19 is not installed: run scripts/setup")
	}
	dir := checkout(t)
	var objects []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		// What has a source beside it; test data may hold objects of others.
		if _, e := os.Stat(strings.TrimSuffix(path, ".o") + ".c"); e == nil && strings.HasSuffix(path, ".bpf.o") {
			objects = append(objects, path)
		}
		return err
	})
	if len(objects) < 5 {
		t.Fatalf("found %d objects, the examples alone have 5", len(objects))
	}
	for _, o := range objects {
		if err := os.Remove(o); err != nil {
			t.Fatal(err)
		}
	}
	command(t, dir, "go", "generate", "./...")
	for _, o := range objects {
		rel, _ := filepath.Rel(dir, o)
		got, err := os.ReadFile(o)
		if err != nil {
			t.Errorf("%s: `make generate` does not make it: %v", rel, err)
			continue
		}
		want, err := os.ReadFile(filepath.Join("..", rel))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what its source compiles to: run make generate and commit it", rel)
		}
	}
}

func TestBuildsRepeat(t *testing.T) {
	a, b := checkout(t), checkout(t)
	command(t, a, "make", "build")
	command(t, b, "make", "build")
	for _, bin := range []string{"bin/hornetd", "bin/hornetctl"} {
		one, err := os.ReadFile(filepath.Join(a, bin))
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(filepath.Join(b, bin))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("%s differs between two directories", bin)
		}
		if out := command(t, a, "go", "version", "-m", bin); !strings.Contains(out, "CGO_ENABLED=0") {
			t.Errorf("%s is not static:\n%s", bin, out)
		}
	}
}

func TestInstall(t *testing.T) {
	dest := t.TempDir()
	dir := checkout(t)
	command(t, dir, "make", "build")
	command(t, dir, "make", "install", "DESTDIR="+dest, "PREFIX=/usr/local")
	got := map[string]string{}
	filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		got[strings.TrimPrefix(path, dest)] = info.Mode().String()
		return nil
	})
	want := map[string]string{
		"/usr/local/sbin/hornetd":                                   "-rwxr-xr-x",
		"/usr/local/bin/hornetctl":                                  "-rwxr-xr-x",
		"/usr/local/share/doc/hornetd/hornetd.toml.example":         "-rw-r--r--",
		"/usr/local/lib/systemd/system/hornetd.service":             "-rw-r--r--",
		"/usr/local/lib/systemd/system/hornetd.socket":              "-rw-r--r--",
		"/usr/local/lib/systemd/system-preset/80-hornetd.preset":    "-rw-r--r--",
		"/usr/local/lib/sysusers.d/hornetd.conf":                    "-rw-r--r--",
		"/usr/local/lib/tmpfiles.d/hornetd.conf":                    "-rw-r--r--",
		"/usr/local/share/bash-completion/completions/hornetctl":    "-rw-r--r--",
		"/usr/local/share/zsh/vendor-completions/_hornetctl":        "-rw-r--r--",
		"/usr/local/share/fish/vendor_completions.d/hornetctl.fish": "-rw-r--r--",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("installed files (-want +got):\n%s", diff)
	}
	unit, err := os.ReadFile(filepath.Join(dest, "usr/local/lib/systemd/system/hornetd.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"ExecStart=/usr/local/sbin/hornetd", "ExecReload=/usr/local/bin/hornetctl reload"} {
		if !strings.Contains(string(unit), "\n"+line+"\n") {
			t.Errorf("hornetd.service has no line %s", line)
		}
	}
}

// On a machine that has everything, set-up says nothing and changes nothing.
func TestSetupQuiet(t *testing.T) {
	command(t, "..", "scripts/setup") // installs what is missing, if anything
	if out := command(t, "..", "scripts/setup"); out != "" {
		t.Errorf("scripts/setup, the second time: %q", out)
	}
}
