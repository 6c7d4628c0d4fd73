package main_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// rotation is a host whose signer "team" and root "root" get new keys, by the
// commands that an operator has.
type rotation struct {
	t       *testing.T
	h       *testdaemon.Host
	cgroup  string
	object  string
	version int
}

// ctl runs hornetctl, which must not fail.
func (r *rotation) ctl(args ...string) {
	r.t.Helper()
	if _, stderr, exit := r.h.Ctl(args...); exit != 0 {
		r.t.Fatalf("hornetctl %v: exit %d: %s", args, exit, stderr)
	}
}

func (r *rotation) trust(args ...string) {
	r.t.Helper()
	r.ctl(append([]string{"trust", "--config", r.h.Config}, args...)...)
}

// keys are the files of generation n of a signer.
func (r *rotation) key(name string, n int) string {
	return filepath.Join(r.h.Dir, fmt.Sprintf("%s%d.key", name, n))
}
func (r *rotation) cert(name string, n int) string {
	return filepath.Join(r.h.Dir, fmt.Sprintf("%s%d.pem", name, n))
}

func (r *rotation) generate(name string, n int) {
	r.t.Helper()
	algorithm := []string{"ecdsa", "ed25519", "ecdsa-p384"}[n%3]
	r.ctl("keygen", "--out", r.h.Dir, "--algorithm", algorithm, fmt.Sprintf("%s%d", name, n))
	r.trust("add", "--name", name, r.cert(name, n))
}

func (r *rotation) id(name string, n int) string {
	r.t.Helper()
	b, err := os.ReadFile(r.cert(name, n))
	if err != nil {
		r.t.Fatal(err)
	}
	return second{cert: b}.keyID(r.t)
}

func (r *rotation) sign(n int) {
	r.t.Helper()
	os.Remove(r.object + ".p7s") // which another key made
	r.ctl("sign", "--key", r.key("team", n), "--cert", r.cert("team", n), r.object)
}

func (r *rotation) revoke(root int, args ...string) {
	r.t.Helper()
	r.trust(append([]string{"revoke", "--key", r.key("root", root), "--cert", r.cert("root", root)}, args...)...)
}

// good wants that what is signed loads, runs and is all right.
func (r *rotation) good(when string) {
	r.t.Helper()
	unload(r.t, r.h, "count")
	c := load(r.t, r.h, "count")
	if c.Version != uint64(r.version) || c.Signature.Signer.Name != "team" || c.Signature.Verdict != "ok" || c.Reason != "" {
		r.t.Fatalf("%s: version %d by %q, %s, %q", when, c.Version, c.Signature.Signer.Name, c.Signature.Verdict, c.Reason)
	}
	if got := kernelLinks(r.t, c); len(got) != 1 {
		r.t.Fatalf("%s: links %v", when, got)
	}
	if got := problems(r.t, r.h); got != "" {
		r.t.Fatalf("%s: status says %q", when, got)
	}
}

// TestKeyRotation replaces the keys of a signer and of the root ten times with
// the daemon live, killed and started behind every step, before the reload
// and after it: no valid load is refused, and none by the old keys passes.
func TestKeyRotation(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "[trust]\nroots = [\"root\"]\n")
	r := &rotation{t: t, h: h, cgroup: testenv.Cgroup(t), version: 1}
	if err := os.Remove(filepath.Join(h.Trust, "dev.pem")); err != nil {
		t.Fatal(err)
	}
	r.object = h.Write("hornet.d/conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	write := func() { h.Manifest("count", counting(r.cgroup, "request", r.version, "a")) }
	r.generate("team", 0)
	r.generate("root", 0)
	r.sign(0)
	write()
	h.Start()
	load(t, h, "count")
	r.good("before")

	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	for n := 1; n <= rounds; n++ {
		for i, step := range []func(){
			func() { r.generate("team", n) },
			func() { r.generate("root", n) },
			func() { r.sign(n) },
			func() { r.version++; write() },
			func() { r.revoke(n, "key", r.id("team", n-1)) },
			func() { r.trust("remove", "team", "--key-id", r.id("team", n-1)) },
			func() { r.trust("remove", "root", "--key-id", r.id("root", n-1)) },
			func() { r.revoke(n, "manifest", fmt.Sprintf("count=%d", r.version)) },
		} {
			step()
			when := fmt.Sprintf("rotation %d, step %d", n, i)
			h.Kill()
			h.Start()
			if _, err := reload(t, h); err != nil {
				t.Fatalf("%s: reload: %v", when, err)
			}
			r.good(when + ", killed before the reload")
			h.Kill()
			h.Start()
			r.good(when + ", killed after it")
		}
		// The old key is of no use any more, nor is the old root's.
		unload(t, h, "count")
		r.sign(n - 1)
		if err := tryLoad(h); err == nil {
			t.Fatalf("rotation %d: the old key still counts", n)
		}
		r.sign(n)
		good, err := os.ReadFile(filepath.Join(h.Dir, "revoked"))
		if err != nil {
			t.Fatal(err)
		}
		if _, stderr, exit := h.Ctl("trust", "--config", h.Config, "revoke", "--force", "--key", r.key("root", n-1), "--cert", r.cert("root", n-1), "key", "00112233"); exit != 0 {
			t.Fatalf("exit %d: %s", exit, stderr)
		}
		if b, _ := os.ReadFile(filepath.Join(h.Dir, "revoked")); bytes.Equal(b, good) {
			t.Fatal("nothing was written")
		}
		if _, err := reload(t, h); err == nil {
			t.Fatalf("rotation %d: the old root still counts", n)
		}
		h.Write("revoked", good)
		load(t, h, "count")
	}
	if c := get(t, h, "count"); c.State != api.StateRunning || c.Version != uint64(rounds+1) {
		t.Errorf("%s, version %d", c.State, c.Version)
	}
}
