package main_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
)

// unknown wants the verdict unknown-key.
func unknown(t testing.TB, err error) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindSignature || !strings.Contains(e.Message, ": unknown-key: ") || e.Hint == "" {
		t.Errorf("%#v, want unknown-key", err)
	}
}

// TestTrustShrinksFirst: a key that was taken out of the trust store counts no
// more, whatever else a reload fails for; one that was put in counts with the whole
// reload only.
func TestTrustShrinksFirst(t *testing.T) {
	remove := func(h *testdaemon.Host) {
		if _, stderr, exit := h.Ctl("trust", "remove", "--config", h.Config, "team"); exit != 0 {
			t.Errorf("trust remove: exit %d, %s", exit, stderr)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(h *testdaemon.Host)
		broken func(h *testdaemon.Host)
		mend   func(h *testdaemon.Host)
		want   string
	}{
		{"removed, a bad manifest", remove,
			func(h *testdaemon.Host) { h.Manifest("broken", "x = 1\n") },
			func(h *testdaemon.Host) { os.Remove(h.Manifests + "/broken.toml") }, "broken.toml"},
		{"another key under its name, an object that is gone", func(h *testdaemon.Host) { signer(t, h, "team") },
			func(h *testdaemon.Host) {
				h.Manifest("broken", strings.Replace(counting("/sys/fs/cgroup", "boot", 1, "a"), "conn_count", "gone", 1))
			},
			func(h *testdaemon.Host) { os.Remove(h.Manifests + "/broken.toml") }, "gone.bpf.o"},
		{"removed, a list that is not good", remove,
			func(h *testdaemon.Host) { h.Write("revoked", []byte("serial = 1\n")) },
			func(h *testdaemon.Host) { os.Remove(h.Dir + "/revoked") }, "is not signed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, team := teamed(t, rooted)
			before := get(t, h, "count")
			tt.change(h)
			tt.broken(h)
			next := signer(t, h, "next")
			want := "reload: only the removal of keys from the trust store (team) took effect; nothing else changed: "
			plan, err := reload(t, h)
			if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("reload: %v", err)
			}
			if s := plan.Shrunk; s == nil || s.Revocations != nil || len(s.Gone) != 1 || s.Gone[0].KeyID != team.keyID(t) || len(plan.Changes) != 0 {
				t.Errorf("its result: %+v, %+v", plan, s)
			}
			records := auditRecords(t, h.State)
			if last := records[len(records)-1]; last.Verb != "reload" || last.Phase != "outcome" || !strings.HasPrefix(last.Error, want) {
				t.Errorf("on record: %+v", last)
			}
			// What runs runs on, and is flagged.
			list, err := h.Client().List(t.Context())
			if err != nil || list[len(list)-1].State != api.StateRunning || !strings.Contains(list[len(list)-1].Reason, "unknown-key") || len(kernelLinks(t, before)) != 1 {
				t.Errorf("what runs: %+v, %v", list, err)
			}
			unload(t, h, "count")
			unknown(t, tryLoad(h))
			h.Write("hornet.d/conn_count.bpf.o.p7s", next.sign(t, example(t, "conn-count/conn_count.bpf.o")))
			unknown(t, tryLoad(h)) // not before the reload is good
			if _, err := reload(t, h); err == nil || !strings.HasPrefix(err.Error(), "reload: nothing changed: ") {
				t.Errorf("again: %v", err)
			}
			tt.mend(h)
			if _, err := reload(t, h); err != nil {
				t.Fatal(err)
			}
			if c := get(t, h, "count"); c.State != api.StateRunning || c.Signature.Signer.Name != "next" {
				t.Errorf("%s %q", c.State, c.Reason)
			}
			if got := problems(t, h); got != "" {
				t.Errorf("status says %q", got)
			}
		})
	}
}

// TestTrustThatCannotBeReadStays: nobody knows then what it does not have. But a
// new revocation list, by who was trusted before, is in force.
func TestTrustThatCannotBeReadStays(t *testing.T) {
	h, team := teamed(t, rooted)
	if err := os.Remove(h.Trust + "/team.pem"); err != nil {
		t.Fatal(err)
	}
	h.Write("trust.d/broken.pem", []byte("-----BEGIN CERTIFICATE-----\n"))
	if _, err := reload(t, h); err == nil || !strings.HasPrefix(err.Error(), "reload: nothing changed: ") || !strings.Contains(err.Error(), "broken.pem") {
		t.Errorf("reload: %v", err)
	}
	unload(t, h, "count")
	load(t, h, "count")

	h.Write("revoked", []byte("serial = 1\n"))
	if _, err := reload(t, h); err == nil || !strings.HasPrefix(err.Error(), "reload: nothing changed: ") {
		t.Errorf("a list that nobody signed: %v", err)
	}
	h.Revoke(revokedKey(1, team.keyID(t)))
	plan, err := reload(t, h)
	if err == nil || !strings.HasPrefix(err.Error(), "reload: only the revocation list (serial 1) took effect; nothing else changed: ") || !strings.Contains(err.Error(), "broken.pem") {
		t.Errorf("reload: %v", err)
	}
	if s := plan.Shrunk; s == nil || len(s.Gone) != 0 {
		t.Errorf("shrunk: %+v", s)
	}
	unload(t, h, "count")
	isRevoked(t, tryLoad(h))
}

// TestTrustThatCannotBeReadIsLeftOut: at a start there is nothing to stay with, and
// one damaged file must not keep the keys of the others from what they are for.
func TestTrustThatCannotBeReadIsLeftOut(t *testing.T) {
	h, team := teamed(t, rooted)
	unload(t, h, "count")
	h.Stop()
	h.Write("trust.d/broken.pem", []byte("-----BEGIN CERTIFICATE-----\n"))
	other := signer(t, h, "other")
	if err := os.Chmod(h.Trust+"/other.pem", 0o666); err != nil {
		t.Fatal(err)
	}
	h.Start()
	if c := get(t, h, "count"); c.State != api.StateRunning || c.Signature.Signer.Name != "team" {
		t.Errorf("%s %q", c.State, c.Reason)
	}
	for _, want := range []string{"/broken.pem: 1 of 1 PEM blocks are damaged: left out", "/other.pem: can be written by others (mode 0666): left out"} {
		if got := problems(t, h); !strings.Contains(got, want) {
			t.Errorf("status says %q, want %q", got, want)
		}
	}
	unload(t, h, "count")
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Write("hornet.d/conn_count.bpf.o.p7s", other.sign(t, object))
	unknown(t, tryLoad(h))

	h.Write("hornet.d/conn_count.bpf.o.p7s", team.sign(t, object))
	if err := errors.Join(os.Remove(h.Trust+"/broken.pem"), os.Chmod(h.Trust+"/other.pem", 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	if got := problems(t, h); got != "" {
		t.Errorf("status says %q", got)
	}
}
