package names

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHost(t *testing.T) {
	var h Host
	root, err := user.LookupId("0")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if id, ok := h.UserID(root.Username); !ok || id != 0 {
			t.Errorf("%s: %d, %t", root.Username, id, ok)
		}
		if id, ok := h.UserID("no such user"); ok {
			t.Errorf("no such user: %d", id)
		}
		if id, ok := h.GroupID("no such group"); ok {
			t.Errorf("no such group: %d", id)
		}
	}
	if len(h.users.ids) != 2 || len(h.groups.ids) != 1 {
		t.Errorf("%v, %v", h.users.ids, h.groups.ids)
	}
}

// A name is looked up again once its file has changed, and not before.
func TestKnown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwd")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o644), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	var k known
	asked := 0
	ask := func() (uint32, bool) {
		return k.id(file, "ada", func() (string, error) {
			asked++
			b, err := os.ReadFile(file)
			return string(b), err
		})
	}
	for n, text := range []string{"1000", "1001", "none"} {
		write(text)
		for range 3 {
			id, ok := ask()
			want, err := strconv.ParseUint(text, 10, 32)
			if ok != (err == nil) || ok && uint64(id) != want {
				t.Errorf("%s: %d, %t", text, id, ok)
			}
		}
		if asked != n+1 {
			t.Errorf("%s: looked up %d times", text, asked)
		}
	}
	// In place, too.
	if err := errors.Join(os.WriteFile(file, []byte("7777"), 0o644), os.Chtimes(file, time.Time{}, time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	if id, ok := ask(); !ok || id != 7777 {
		t.Errorf("%d, %t", id, ok)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if id, ok := ask(); ok {
		t.Errorf("without the file: %d", id)
	}
}

// That a file could not be read, as where descriptors have run out, is not
// remembered for a name that nobody has.
func TestKnownForgetsErrors(t *testing.T) {
	const most = 64
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := was
	few.Cur = most
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	file := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(file, []byte("1000"), 0o644); err != nil {
		t.Fatal(err)
	}
	var k known
	ask := func() (uint32, bool) {
		return k.id(file, "ada", func() (string, error) {
			b, err := os.ReadFile(file)
			return string(b), err
		})
	}
	var files []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	_, found := ask()
	for _, f := range files {
		f.Close()
	}
	if found {
		t.Error("found without a descriptor: this shows nothing")
	}
	if id, ok := ask(); !ok || id != 1000 {
		t.Errorf("%d, %t", id, ok)
	}
}
