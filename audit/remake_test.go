package audit

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestTakenAway: a log that is deleted, alone or with the directories above it, or
// moved away, is made again before the next record, with all that it held, and is
// this process's alone. What somebody put in its place is an error, and nothing is
// written anywhere.
func TestTakenAway(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "state", "audit")
	if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	written := 0
	appends := func() error {
		_, err := l.Append(Record{Phase: Note, Verb: "load"})
		if err == nil {
			written++
		}
		return err
	}
	path := filepath.Join(dir, fileName)
	for what, take := range map[string]func() error{
		"nothing":         func() error { return nil },
		"the file":        func() error { return os.Remove(path) },
		"its directory":   func() error { return os.RemoveAll(dir) },
		"the one above":   func() error { return os.RemoveAll(filepath.Dir(dir)) },
		"moved":           func() error { return os.Rename(path, filepath.Join(top, "old")) },
		"directory moved": func() error { return os.Rename(dir, filepath.Join(top, "olddir")) },
	} {
		if err := errors.Join(appends(), take(), appends()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		v, err := View(dir)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		n := 0
		if err := v.Read(1, func(Record, []byte) error { n++; return nil }); err != nil || n != written {
			t.Errorf("%s: %d records at its path, want %d: %v", what, n, written, err)
		}
		v.Close()
		if _, err := Open(dir); !errors.Is(err, ErrLocked) {
			t.Errorf("%s: another may open it: %v", what, err)
		}
	}
	if n, err := l.Keep(); n != 5 || err != nil {
		t.Errorf("made again %d times, want 5: %v", n, err)
	}

	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("mine\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := appends(); !errors.Is(err, os.ErrExist) {
		t.Errorf("beside another file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "mine\n" {
		t.Errorf("what lay there holds %q, %v", b, err)
	}
	if err := errors.Join(os.Remove(path), appends()); err != nil {
		t.Errorf("after that: %v", err)
	}
}
