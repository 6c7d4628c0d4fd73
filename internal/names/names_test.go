package names

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"
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
