package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
)

// TestUnwritableRatchetAtBoot: what is new loads at a start all the same, is
// held against older versions, and is on disk once there is room.
func TestUnwritableRatchetAtBoot(t *testing.T) {
	h, cgroup := ratcheted(t, "boot", "")
	h.Kill()
	ratchet := filepath.Join(h.State, "ratchet")
	if err := os.Mkdir(ratchet+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	h.Manifest("count", counting(cgroup, "boot", 6, "a"))
	h.Start()
	if c := get(t, h, "count"); c.Version != 6 || c.State != api.StateRunning {
		t.Errorf("version %d, %s %q", c.Version, c.State, c.Reason)
	}
	if got := problems(t, h); !strings.Contains(got, "ratchet: ") {
		t.Errorf("status says %q", got)
	}
	unload(t, h, "count")
	h.Manifest("count", counting(cgroup, "boot", 5, "a"))
	refusedBack(t, tryLoad(h))
	h.Manifest("count", counting(cgroup, "boot", 6, "a"))
	load(t, h, "count")
	h.Kill()
	if err := os.Remove(ratchet + ".new"); err != nil {
		t.Fatal(err)
	}
	h.Start()
	if b, err := os.ReadFile(ratchet); err != nil || !strings.Contains(string(b), "\ncount dev 6 ") {
		t.Errorf("with room again: %v\n%s", err, b)
	}
}

// TestOneKeyUnderTwoNames: under another name a key goes on where it stopped.
func TestOneKeyUnderTwoNames(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "")
	unload(t, h, "count")
	if err := os.Rename(filepath.Join(h.Trust, "dev.pem"), filepath.Join(h.Trust, "again.pem")); err != nil {
		t.Fatal(err)
	}
	h.Manifest("count", counting(cgroup, "request", 4, "a"))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	refusedBack(t, tryLoad(h))
	h.Manifest("count", counting(cgroup, "request", 5, "a"))
	load(t, h, "count")
}

// TestSignedManifestSaysItsName: what was signed as one collection is no other
// one, with versions of its own, under another file name.
func TestSignedManifestSaysItsName(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "")
	key, cert := h.Key()
	m := h.Manifest("count", counting(cgroup, "request", 4, "a"))
	ctl(t, h, "sign", "--key", key, "--cert", cert, m)
	other := h.Manifest("other", string(read(t, m)))
	if err := os.WriteFile(other+".p7s", read(t, m+".p7s"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, stderr, exit := h.Ctl("load", "other")
	if exit != api.ExitFailure || !strings.Contains(stderr, `other.toml:1: name: is "count", and the file's name makes it "other"`) {
		t.Errorf("under another file name: exit %d, %s", exit, stderr)
	}

	h.Manifest("other", strings.Replace(string(read(t, m)), "name = \"count\"\n", "", 1))
	out, err := exec.Command("openssl", "cms", "-sign", "-binary", "-nocerts", "-noattr", "-outform", "DER",
		"-in", other, "-signer", cert, "-inkey", key, "-out", other+".p7s").CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	refused(t, h, "other", other+": name: is missing, and a signed manifest must have it")
}
