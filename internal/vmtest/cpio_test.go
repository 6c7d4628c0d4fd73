package vmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// busybox cpio is another implementation: what it unpacks is what was put in.
func TestCPIOAgainstBusybox(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed: run scripts/vm-setup")
	}
	var b bytes.Buffer
	c := newCPIO(&b)
	want := map[string]string{"a/b/empty": "", "a/b/one": "1", "a/b/two": "22", "a/b/three": "333", "a/b/four": strings.Repeat("4", 4<<10)}
	for name, body := range want {
		c.file("/"+name, 0o640, []byte(body))
	}
	c.file("a/b/one", 0o600, []byte("the second of a name does not count"))
	c.dir("dir", 0o700)
	c.symlink("link", "a/b/one")
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i", "-d")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := map[string]string{}
	for name := range want {
		body, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		got[name] = string(body)
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode() != 0o640 {
			t.Errorf("%s: mode %v", name, info.Mode())
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != "a/b/one" {
		t.Errorf("link to %q, %v", target, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "dir")); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestCPIOError(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	c := newCPIO(w)
	c.file("a", 0o644, []byte("a"))
	c.file("b", 0o644, []byte("b"))
	if err := c.close(); err == nil {
		t.Error("no error from a closed pipe")
	}
}
