package daemon

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// What somebody has put into the place of a socket, or of a file that is to be written, is
// neither removed nor written.
func TestReplaced(t *testing.T) {
	dir := t.TempDir()
	path, theirs := filepath.Join(dir, "path"), filepath.Join(dir, "theirs")
	kept := func(what, file string) {
		t.Helper()
		if b, err := os.ReadFile(file); err != nil || string(b) != "theirs" {
			t.Errorf("%s: %q, %v", what, b, err)
		}
	}
	put := func(do func() error) {
		t.Helper()
		os.Remove(path)
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	put(func() error { return os.WriteFile(path, []byte("theirs"), 0o600) })
	if err := removeSocket(path); err == nil {
		t.Error("a file was removed for a socket")
	}
	kept("a file for the socket", path)
	put(func() error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return l.Close()
	})
	if err := removeSocket(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is there")
	}

	if err := os.WriteFile(theirs, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(func() error { return os.Symlink(theirs, path) })
	if err := writeSynced(path, []byte("ours")); err != nil {
		t.Error(err)
	}
	kept("a link for what a crash left", theirs)
	put(func() error { return os.Symlink(theirs, path) })
	if err := writeNew(path, []byte("ours")); err == nil {
		t.Error("a link was followed")
	}
	kept("a link for a part of a bundle", theirs)
}
