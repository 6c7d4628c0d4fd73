package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestGuardDigest: an executable of [[guard.allow]] with a digest is let in while its file
// has that digest when the guard comes to enforce; one with another is named with a remedy, and
// keeps neither the guard nor the rest of the entries from being in force.
func TestGuardDigest(t *testing.T) {
	testenv.NoLeaks(t)
	found, err := exec.LookPath("bpftool")
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(found)
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tool, gone := filepath.Join(dir, "tool"), filepath.Join(dir, "gone")
	install := func(b []byte) { // another file
		t.Helper()
		os.Remove(tool)
		if err := os.WriteFile(tool, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	install(good)
	sum := sha256.Sum256(good)
	h, _ := guarded(t, api.GuardEnforce, fmt.Sprintf("confirm = \"2m\"\nallow = [{ executable = %q, sha256 = \"%x\", commands = [\"map_create\", \"obj_pin\", \"btf_load\"] },"+
		"{ executable = %q, sha256 = \"%x\", signals = true }, { executable = %q, signals = true }]\n", tool, sum, gone, sum, own))
	s := signedHost{h, t, t.TempDir()}

	makes := func() bool {
		pin := filepath.Join(testenv.BPFFS(t), "map")
		out, err := exec.Command(tool, "map", "create", pin, "type", "array", "key", "4", "value", "4", "entries", "1", "name", "other").CombinedOutput()
		if err != nil && !strings.Contains(string(out), "ermi") {
			t.Errorf("%v: %s", err, out)
		}
		os.Remove(pin)
		return err == nil
	}
	check := func(what string, want bool, problems ...string) {
		t.Helper()
		if got := makes(); got != want {
			t.Errorf("%s: a map was made: %v, want %v", what, got, want)
		}
		st, err := h.Client().Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, p := range st.Problems {
			if strings.HasPrefix(p.Message, "guard: allow: ") && strings.HasSuffix(p.Hint, "; then hornetctl guard "+string(st.Guard.Mode)) {
				said = append(said, p.Message)
			}
		}
		text := strings.Join(said, "\n")
		for _, p := range problems {
			if !strings.Contains(text, p) {
				t.Errorf("%s: want problem %q", what, p)
			}
		}
		if len(said) != len(problems) {
			t.Errorf("%s: problems %s", what, text)
		}
	}
	enforce := func() {
		t.Helper()
		if _, stderr, exit := h.Ctl("guard", "enforce", "--confirm-within", "10m"); exit != 0 {
			t.Fatal(stderr)
		}
	}
	absent := gone + " is not let in: "
	check("armed", true, absent)
	onRecord(t, h, func(r guardRecord) bool {
		return r.Phase == "note" && r.Verb == "guard" && strings.Contains(r.Reason, absent)
	})

	bad := append(bytes.Clone(good), 'x') // it runs as well
	install(bad)
	enforce()
	other := fmt.Sprintf("%s is not let in: its SHA-256 is %x, and hornetd.toml says %x", tool, sha256.Sum256(bad), sum)
	check("another file", false, absent, other)
	install(good)
	check("put back, and not looked for", false, absent, other)
	enforce()
	check("put back", true, absent)

	// While it is only told of, it can be written. A start has it enforced, be hornetd.toml
	// another file than the guard was armed with, or the same.
	config, err := os.ReadFile(h.Config)
	if err != nil {
		t.Fatal(err)
	}
	starts := func(what string, end func()) {
		t.Helper()
		if _, stderr, exit := h.Ctl("guard", "audit"); exit != 0 {
			t.Fatal(stderr)
		}
		if err := os.WriteFile(tool, bad, 0o755); err != nil {
			t.Fatal(err)
		}
		end()
		log := s.fromInit()
		if g := s.mode(); g.Mode != api.GuardEnforce {
			t.Fatalf("guard %+v: %s", g, log)
		}
		check("enforced by a start, "+what, false, absent, other)
	}
	h.Write("hornetd.toml", bytes.Replace(config, []byte("[guard]\n"), []byte("[guard]\nmode = \"enforce\"\n"), 1))
	starts("another file", h.Stop)
	install(good)
	enforce()
	check("put back", true, absent)
	starts("the same file", s.endInit)
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "the test ends"); exit != 0 {
		t.Error(stderr)
	}
}
