package names

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHost(t *testing.T) {
	var h Host
	for range 2 {
		if id, ok := h.UserID("root"); !ok || id != 0 {
			t.Errorf("root: %d, %t", id, ok)
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
	ask := func() (uint32, bool) { return k.id(file, groupFields, "ada") }
	for _, text := range []string{"1000", "1001", "none"} {
		write("ada:x:" + text + ":\n")
		for range 3 {
			id, ok := ask()
			want, err := strconv.ParseUint(text, 10, 32)
			if ok != (err == nil) || ok && uint64(id) != want {
				t.Errorf("%s: %d, %t", text, id, ok)
			}
		}
		// What is remembered is not read again.
		k.ids["ada"] = found{99, true}
		if id, ok := ask(); !ok || id != 99 {
			t.Errorf("%s: read again: %d, %t", text, id, ok)
		}
	}
	// In place, too.
	if err := errors.Join(os.WriteFile(file, []byte("ada:x:7777:\n"), 0o644), os.Chtimes(file, time.Time{}, time.Now().Add(time.Hour))); err != nil {
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
	if err := os.WriteFile(file, []byte("ada:x:1000:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var k known
	ask := func() (uint32, bool) { return k.id(file, groupFields, "ada") }
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

// TestAsGetent: what the C library finds in the same files is found.
func TestAsGetent(t *testing.T) {
	var h Host
	for file, id := range map[string]func(string) (uint32, bool){"passwd": h.UserID, "group": h.GroupID} {
		out, err := exec.Command("getent", "-s", "files", file).Output()
		if err != nil || len(out) == 0 {
			t.Skipf("getent: %v", err)
		}
		seen := map[string]bool{}
		for line := range strings.Lines(string(out)) {
			parts := strings.Split(line, ":")
			if got, ok := id(parts[0]); !seen[parts[0]] && (!ok || strconv.Itoa(int(got)) != parts[2]) {
				t.Errorf("%s: %s is %d, %t, want %s", file, parts[0], got, ok, parts[2])
			}
			seen[parts[0]] = true // of two lines the first counts
		}
	}
}

func TestFind(t *testing.T) {
	const file = "#ada:x:1:1:::\n\nada\nada:x:2\nada:x:-3:4:::\nada:x:4294967296:4:::\n  ada:x:5:5::/:/bin/sh\nada:x:6:6:::\nadas:x:7:7:::\n+ada:x:8:8:::\n-b:x:9:9:::\n"
	for name, want := range map[string]found{
		"ada": {5, true}, "adas": {7, true}, "ad": {}, "#ada": {}, "+ada": {}, "-b": {}, "": {}, "ada:x": {}, "ada\nadas": {}, "5": {},
	} {
		if got, err := find(strings.NewReader(file), passwdFields, name); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", name, got, err, want)
		}
	}
	if got, err := find(strings.NewReader(strings.Repeat("x", 2<<20)+"\nada:x:5:"), groupFields, "ada"); err == nil {
		t.Errorf("behind a line without end: %+v", got)
	}
}

func FuzzFind(f *testing.F) {
	for _, file := range []string{"root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:::\n", "wheel:x:10:ada,bob\n", "a:b:c", ":::::::", "\x00"} {
		f.Add(file, "ada")
	}
	f.Fuzz(func(t *testing.T, file, name string) {
		got, err := find(strings.NewReader(file), groupFields, name)
		if got.ok && (err != nil || !strings.Contains(file, name+":")) {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	})
}
