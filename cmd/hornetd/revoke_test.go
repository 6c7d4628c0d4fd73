package main_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// second is another signer of a host, in its trust store under a name.
type second struct{ key, cert []byte }

func signer(t testing.TB, h *testdaemon.Host, name string) second {
	t.Helper()
	key, cert, err := signing.Keygen(name, "ecdsa")
	if err != nil {
		t.Fatal(err)
	}
	h.Write("trust.d/"+name+".pem", cert)
	return second{key, cert}
}

func (s second) sign(t testing.TB, object []byte) []byte {
	t.Helper()
	key, err := signing.ParseKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := signing.ParseCertificate(s.cert)
	if err != nil {
		t.Fatal(err)
	}
	b, err := signing.Sign(object, key, cert)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s second) keyID(t testing.TB) string {
	t.Helper()
	cert, err := signing.ParseCertificate(s.cert)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", cert.SubjectKeyId)
}

const rooted = "[trust]\nroots = [\"dev\"]\n"

// teamed is a host on which "count", signed by "team", runs; "dev" is the root.
func teamed(t *testing.T, config string) (*testdaemon.Host, second) {
	t.Helper()
	testenv.NoLeaks(t)
	h := testdaemon.New(t, config)
	team := signer(t, h, "team")
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("conn_count.bpf.o", object)
	h.Write("hornet.d/conn_count.bpf.o.p7s", team.sign(t, object))
	h.Manifest("count", counting(testenv.Cgroup(t), "boot", 5, "a"))
	h.Start()
	if c := get(t, h, "count"); c.State != api.StateRunning || c.Signature.Signer.Name != "team" {
		t.Fatalf("%s %q, signed by %q", c.State, c.Reason, c.Signature.Signer.Name)
	}
	return h, team
}

func revokedKey(serial int, id string) string {
	return fmt.Sprintf("serial = %d\n[[key]]\nid = %q\nreason = \"stolen laptop\"\n", serial, id)
}

// isRevoked wants the verdict revoked, and the reason of the list.
func isRevoked(t testing.TB, err error) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindSignature || !strings.Contains(e.Message, ": revoked: ") || e.Hint == "" {
		t.Errorf("%#v, want revoked", err)
	}
}

// TestRevoked: by key, certificate, object and version. What runs is flagged
// and runs on; it does not load again, at boot neither; a list that revokes
// less lets it.
func TestRevoked(t *testing.T) {
	for _, tt := range []struct {
		name string
		list func(h *testdaemon.Host, team second) string
	}{
		{"key", func(_ *testdaemon.Host, team second) string { return revokedKey(1, team.keyID(t)) }},
		{"certificate", func(_ *testdaemon.Host, team second) string {
			cert, err := signing.ParseCertificate(team.cert)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("serial = 1\n[[certificate]]\nsha256 = '%x'\n", sha256.Sum256(cert.Raw))
		}},
		{"object", func(*testdaemon.Host, second) string {
			return fmt.Sprintf("serial = 1\n[[object]]\nsha256 = '%x'\n", sha256.Sum256(example(t, "conn-count/conn_count.bpf.o")))
		}},
		{"version", func(*testdaemon.Host, second) string {
			return "serial = 1\n[[manifest]]\nname = 'count'\nversion = 6\n"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, team := teamed(t, rooted)
			before := get(t, h, "count")
			h.Revoke(tt.list(h, team))
			if _, err := reload(t, h); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if stdout, _, _ := h.Ctl("status"); !strings.Contains(stdout, "serial 1, signed by dev\n") {
					t.Errorf("status: %s", stdout)
				}
				c := get(t, h, "count")
				list, err := h.Client().List(context.Background())
				if err != nil || c.State != api.StateRunning || c.Signature.Verdict != "revoked" || !strings.Contains(list[0].Reason, "runs, but ") {
					t.Errorf("%s, verdict %s, reason %q, %v", c.State, c.Signature.Verdict, list[0].Reason, err)
				}
				if got := problems(t, h); strings.Count(got, "runs, but ") != 1 {
					t.Errorf("status says %q", got)
				}
				if got := kernelLinks(t, before); len(got) != 1 {
					t.Errorf("links: %v", got)
				}
				h.Kill()
				h.Start() // it is adopted, and flagged from the first answer
			}
			unload(t, h, "count")
			var e *api.Error
			if err := tryLoad(h); !errors.As(err, &e) || e.Kind != api.KindSignature || !strings.Contains(e.Message, map[bool]string{true: "rolled-back", false: "revoked"}[tt.name == "version"]) {
				t.Errorf("load: %v", err)
			}
			h.Kill()
			h.Start()
			if c := get(t, h, "count"); c.State != api.StateFailed {
				t.Errorf("at boot: %s %q", c.State, c.Reason)
			}
			h.Revoke("serial = 2\n")
			if _, err := reload(t, h); err != nil {
				t.Fatal(err)
			}
			if c := get(t, h, "count"); c.State != api.StateRunning || c.Reason != "" {
				t.Errorf("revoked no more: %s %q", c.State, c.Reason)
			}
		})
	}
}

// TestRevokedUnloads: where hornetd.toml says so, at reload and at boot, also
// when its manifest or another is broken.
func TestRevokedUnloads(t *testing.T) {
	for _, how := range []string{"reload", "reload that fails", "boot", "boot, its files gone"} {
		t.Run(how, func(t *testing.T) {
			h, team := teamed(t, rooted+"revoked = \"unload\"\n")
			before := get(t, h, "count")
			h.Revoke("serial = 1\n")
			if _, err := reload(t, h); err != nil {
				t.Fatal(err)
			}
			h.Revoke(revokedKey(2, team.keyID(t)))
			switch how {
			case "reload":
				plan, err := h.Client().Plan(context.Background())
				if err != nil || action(plan, "count") != api.ActionUnload || !strings.Contains(plan.Changes[0].Reason, "stolen laptop") {
					t.Errorf("plan = %+v, %v", plan, err)
				}
				if _, err := reload(t, h); err != nil {
					t.Fatal(err)
				}
			case "reload that fails":
				h.Manifest("broken", "x = 1\n")
				want := "reload: only the revocation list (serial 2) took effect; unloaded: count; nothing else changed: "
				plan, err := reload(t, h)
				if err == nil || !strings.HasPrefix(err.Error(), want) {
					t.Errorf("a broken manifest: %v", err)
				}
				if action(plan, "count") != api.ActionUnload || len(plan.Changes) != 1 || !plan.Changes[0].Done || len(plan.Problems) != 1 || plan.Problems[0].Collection != "broken" ||
					plan.Shrunk == nil || *plan.Shrunk.Revocations != (api.Revocations{Serial: 2, Signer: "dev"}) || len(plan.Shrunk.Gone) != 0 {
					t.Errorf("its result: %+v, %+v", plan, plan.Shrunk)
				}
				records := auditRecords(t, h.State)
				if last := records[len(records)-1]; last.Verb != "reload" || last.Phase != "outcome" || !strings.HasPrefix(last.Error, want) {
					t.Errorf("on record: %+v", last)
				}
				if plan, err := reload(t, h); err == nil || !strings.HasPrefix(err.Error(), "reload: nothing changed: ") || plan.Shrunk != nil || len(plan.Problems) != 1 {
					t.Errorf("and again: %+v, %v", plan, err)
				}
				h.Revoke(revokedKey(3, team.keyID(t)))
				if stdout, _, exit := h.Ctl("reload", "-o", "json"); exit != api.ExitFailure || !strings.Contains(stdout, `"shrunk"`) || !strings.Contains(stdout, `"serial": 3`) {
					t.Errorf("hornetctl: exit %d, %s", exit, stdout)
				}
			case "boot, its files gone":
				if err := errors.Join(os.Remove(h.Manifests+"/conn_count.bpf.o"), os.Remove(h.Trust+"/team.pem")); err != nil {
					t.Fatal(err)
				}
				fallthrough
			case "boot":
				h.Kill()
				h.Start()
			}
			if got := kernelLinks(t, before); len(got) != 0 {
				t.Errorf("links: %v", got)
			}
			if left := onBPFFS(t, h); len(left) != 0 {
				t.Errorf("on bpffs: %v", left)
			}
		})
	}
}

// TestSignedAgainAndRevoked: with a good signature on disk what is revoked is
// replaced, in the same step, and is good again.
func TestSignedAgainAndRevoked(t *testing.T) {
	for _, policy := range []string{"unload", "keep"} {
		for _, how := range []string{"reload", "boot"} {
			t.Run(policy+" at "+how, func(t *testing.T) {
				h, team := teamed(t, rooted+"revoked = \""+policy+"\"\n")
				next := signer(t, h, "next")
				h.Write("hornet.d/conn_count.bpf.o.p7s", next.sign(t, example(t, "conn-count/conn_count.bpf.o")))
				h.Revoke(revokedKey(1, team.keyID(t)))
				if how == "boot" {
					h.Kill()
					h.Start()
				}
				if _, err := reload(t, h); err != nil {
					t.Fatal(err)
				}
				c := get(t, h, "count")
				if c.State != api.StateRunning || c.Signature.Signer.Name != "next" || c.Signature.Verdict != "ok" || c.Reason != "" {
					t.Errorf("%s %q, %s by %q", c.State, c.Reason, c.Signature.Verdict, c.Signature.Signer.Name)
				}
				if got := problems(t, h); got != "" {
					t.Errorf("status says %q", got)
				}
				unloaded := 0
				for _, r := range auditRecords(t, h.State) {
					if r.Verb == "unload" {
						unloaded++
					}
				}
				if unloaded > 0 || len(kernelLinks(t, c)) != 1 {
					t.Errorf("%d unloads, links %v", unloaded, kernelLinks(t, c))
				}
			})
		}
	}
}

// TestRevokedAndNotReplaceable: what was signed again and does not load leaves
// nothing revoked running.
func TestRevokedAndNotReplaceable(t *testing.T) {
	h, team := teamed(t, rooted+"revoked = \"unload\"\n")
	before := get(t, h, "count")
	h.Kill()
	h.Write("hornet.d/conn_count.bpf.o.p7s", signer(t, h, "next").sign(t, example(t, "conn-count/conn_count.bpf.o")))
	h.Manifest("count", counting("/sys/fs/cgroup/no such", "boot", 6, "a"))
	h.Revoke(revokedKey(1, team.keyID(t)))
	h.Start()
	if c := get(t, h, "count"); c.State != api.StatePending || !strings.Contains(c.Reason, "no such") {
		t.Errorf("%s %q", c.State, c.Reason)
	}
	if got := kernelLinks(t, before); len(got) != 0 {
		t.Errorf("links: %v", got)
	}
}

// TestRevokedStopsNoReload: what is revoked and does not run is a failed
// collection, and the rest of the host can be reloaded.
func TestRevokedStopsNoReload(t *testing.T) {
	for name, list := range map[string]func(team second) string{
		"key":     func(team second) string { return revokedKey(1, team.keyID(t)) },
		"version": func(second) string { return "serial = 1\n[[manifest]]\nname = 'count'\nversion = 6\n" },
	} {
		t.Run(name, func(t *testing.T) {
			h, team := teamed(t, rooted+"revoked = \"unload\"\n")
			h.Revoke(list(team))
			for i := range 3 {
				if i == 1 {
					h.Manifest("count2", strings.Replace(counting(testenv.Cgroup(t), "boot", 5, "a"), "conn_count.bpf.o", "other.bpf.o", 1))
					h.Object("other.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
				}
				plan, err := reload(t, h)
				if err != nil || len(plan.Problems) > 0 {
					t.Fatalf("reload %d: %+v, %v", i, plan, err)
				}
				if c := get(t, h, "count"); c.State != api.StateFailed || c.Hint == "" {
					t.Errorf("reload %d: %s %q", i, c.State, c.Reason)
				}
				if got := problems(t, h); !strings.Contains(got, "revoked") && !strings.Contains(got, "older than version 6") {
					t.Errorf("reload %d: status says %q", i, got)
				}
			}
			if c := get(t, h, "count2"); c.State != api.StateRunning {
				t.Errorf("the other one: %s %q", c.State, c.Reason)
			}
		})
	}
}

// TestRevokedAndEdited: a manifest that was edited and is still signed by a revoked
// key changes nothing, whatever runs of it, and the rest is reloaded.
func TestRevokedAndEdited(t *testing.T) {
	for _, policy := range []string{"keep", "unload"} {
		t.Run(policy, func(t *testing.T) {
			h, team := teamed(t, rooted+"revoked = \""+policy+"\"\n")
			before := get(t, h, "count")
			h.Revoke(revokedKey(1, team.keyID(t)))
			for i := range 2 {
				text, err := os.ReadFile(h.Manifests + "/count.toml")
				if err != nil {
					t.Fatal(err)
				}
				h.Manifest("count", strings.Replace(string(text), "version = ", "version = 1", 1))
				other := fmt.Sprintf("other%d", i)
				h.Object(other+".o", example(t, "conn-count/conn_count.bpf.o"))
				h.Manifest(other, strings.Replace(counting(testenv.Cgroup(t), "boot", 1, "a"), "conn_count.bpf.o", other+".o", 1))
				plan, err := reload(t, h)
				if err != nil || get(t, h, other).State != api.StateRunning {
					t.Fatalf("reload %d: %+v, %v", i, plan, err)
				}
				if change := plan.Changes[0]; policy == "keep" || i > 0 {
					if change.Collection != "count" || change.Action != api.ActionRefuse || change.Done || change.Error == nil || !strings.Contains(change.Error.Message, "revoked: ") || !strings.Contains(change.Error.Hint, "not revoked") {
						t.Errorf("reload %d: %+v, %+v", i, change, change.Error)
					}
					if got := problems(t, h); !strings.Contains(got, ": revoked: ") {
						t.Errorf("reload %d: status says %q", i, got)
					}
				}
			}
			c := get(t, h, "count")
			if policy == "unload" {
				if c.State != api.StateFailed || len(kernelLinks(t, before)) != 0 {
					t.Errorf("%s %q", c.State, c.Reason)
				}
				return
			}
			if c.State != api.StateRunning || c.Version != 5 || c.Signature.Verdict != "revoked" || len(kernelLinks(t, before)) != 1 {
				t.Errorf("%s, version %d, %s", c.State, c.Version, c.Signature.Verdict)
			}
			if _, stderr, exit := h.Ctl("reload"); exit != api.ExitSignature {
				t.Errorf("hornetctl reload: exit %d, %s", exit, stderr)
			}
		})
	}
}

// TestRevokedRootSignsNoList: what the list in force revokes signs no newer one,
// that does not revoke it; nor over a restart.
func TestRevokedRootSignsNoList(t *testing.T) {
	h, team := teamed(t, "[trust]\nroots = [\"dev\", \"team\"]\n")
	h.Revoke(revokedKey(1, team.keyID(t)))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	key, err1 := signing.ParseKey(team.key)
	cert, err2 := signing.ParseCertificate(team.cert)
	list, err3 := signing.SignRevocations([]byte("serial = 2\n"), key, cert)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	h.Write("revoked", list)
	_, err := reload(t, h)
	isRevoked(t, err)
	for _, when := range []string{"after the reload", "after a start"} {
		s, err := h.Client().Status(t.Context())
		if err != nil || s.Revocations == nil || s.Revocations.Serial != 1 || !strings.Contains(problems(t, h), "stolen laptop") {
			t.Errorf("%s: %+v, %v, %q", when, s.Revocations, err, problems(t, h))
		}
		unload(t, h, "count")
		isRevoked(t, tryLoad(h))
		h.Kill()
		h.Start()
	}
}

// TestListIsNotGood: refused at reload, where the last good one stays; at start
// the copy of it holds. Without that nothing loads, and what runs runs on.
func TestListIsNotGood(t *testing.T) {
	write := func(h *testdaemon.Host, b []byte) {
		h.Write("revoked", b)
	}
	for _, tt := range []struct {
		name  string
		spoil func(h *testdaemon.Host, team second)
		want  string
	}{
		{"unsigned", func(h *testdaemon.Host, _ second) { write(h, []byte("serial = 9\n")) }, "is not signed"},
		{"empty", func(h *testdaemon.Host, _ second) { write(h, nil) }, "is empty"},
		{"by a key that is no root", func(h *testdaemon.Host, team second) {
			key, _ := signing.ParseKey(team.key)
			cert, _ := signing.ParseCertificate(team.cert)
			b, err := signing.SignRevocations([]byte("serial = 9\n"), key, cert)
			if err != nil {
				t.Fatal(err)
			}
			write(h, b)
		}, "unknown-key"},
		{"signed and wrong", func(h *testdaemon.Host, _ second) { h.Revoke("serial = 9\nnonsense = 1\n") }, ":2: nonsense"},
		{"older", func(h *testdaemon.Host, _ second) { h.Revoke("serial = 6\n") }, "older than serial 7"},
		{"same serial", func(h *testdaemon.Host, _ second) { h.Revoke("serial = 7\n") }, "with other contents"},
		{"gone", func(h *testdaemon.Host, _ second) {
			if err := os.Remove(filepath.Join(h.Dir, "revoked")); err != nil {
				t.Fatal(err)
			}
		}, "it is gone"},
		{"writable by others", func(h *testdaemon.Host, _ second) {
			if err := os.Chmod(h.Revoke("serial = 9\n"), 0o666); err != nil {
				t.Fatal(err)
			}
		}, "can be written by others"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, team := teamed(t, rooted)
			good := revokedKey(7, "00112233")
			h.Revoke(good)
			if _, err := reload(t, h); err != nil {
				t.Fatal(err)
			}
			tt.spoil(h, team)
			_, err := reload(t, h)
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.KindSignature || !strings.Contains(e.Message, tt.want) || e.Hint == "" {
				t.Errorf("reload: %#v", err)
			}
			unload(t, h, "count")
			load(t, h, "count") // the last good list stays
			h.Kill()
			h.Start()
			if c := get(t, h, "count"); c.State != api.StateRunning || !c.Adopted {
				t.Errorf("at start: %s, adopted %t", c.State, c.Adopted)
			}
			if got := problems(t, h); !strings.Contains(got, tt.want) {
				t.Errorf("status says %q", got)
			}
			s, err := h.Client().Status(t.Context())
			if err != nil || s.Revocations == nil || s.Revocations.Serial != 7 || !strings.Contains(h.Log(), "the last good one holds (serial 7") {
				t.Errorf("in force: %+v, %v", s.Revocations, err)
			}
			unload(t, h, "count")
			load(t, h, "count")
			if _, err := reload(t, h); err == nil || !strings.Contains(problems(t, h), "the last good one holds") {
				t.Errorf("reload: %v, status says %q", err, problems(t, h))
			}
			h.Kill()
			if err := os.Remove(filepath.Join(h.State, "revoked")); err != nil {
				t.Fatal(err)
			}
			h.Start()
			if got := problems(t, h); !strings.Contains(got, tt.want) || strings.Contains(got, "the last good one") {
				t.Errorf("without the copy the status says %q", got)
			}
			unload(t, h, "count")
			isRevoked(t, tryLoad(h))
			os.Remove(filepath.Join(h.Dir, "revoked")) // and with it its mode
			h.Revoke("serial = 10\n")
			if _, err := reload(t, h); err != nil {
				t.Fatal(err)
			}
			if got := problems(t, h); got != "" {
				t.Errorf("with a good list the status says %q", got)
			}
			if c := get(t, h, "count"); c.State != api.StateRunning {
				t.Errorf("with a good list: %s", c.State)
			}
		})
	}
}

// TestListNeedsRoots: without [trust] roots no list counts, and none is ignored.
func TestListNeedsRoots(t *testing.T) {
	h := testdaemon.New(t, "")
	h.Revoke("serial = 1\n")
	h.Start()
	if got := problems(t, h); !strings.Contains(got, "[trust] roots") {
		t.Errorf("status says %q", got)
	}
}

// TestListOfTheFirstStart counts as one that a reload brought.
func TestListOfTheFirstStart(t *testing.T) {
	h := testdaemon.New(t, rooted)
	for _, tt := range []struct {
		serial int
		want   string
	}{{3, ""}, {2, "older than serial 3"}, {3, ""}} {
		h.Revoke(fmt.Sprintf("serial = %d\n", tt.serial))
		h.Start()
		if got := problems(t, h); !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("serial %d: status says %q", tt.serial, got)
		}
		h.Kill()
	}
}

// TestCopyOfTheListIsVerified: it is no way round the list, by whoever can write
// the state directory: signed by a root, and no older than the ratchet knows.
func TestCopyOfTheListIsVerified(t *testing.T) {
	for name, spoil := range map[string]func(h *testdaemon.Host, list []byte) []byte{
		"changed": func(_ *testdaemon.Host, list []byte) []byte { list[len("serial = ")] = '8'; return list },
		"older": func(h *testdaemon.Host, _ []byte) []byte {
			b, err := os.ReadFile(h.Revoke("serial = 6\n"))
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		"no list": func(*testdaemon.Host, []byte) []byte { return []byte("serial = 7\n") },
	} {
		t.Run(name, func(t *testing.T) {
			h, team := teamed(t, rooted)
			h.Revoke(revokedKey(7, team.keyID(t)))
			if _, err := reload(t, h); err != nil {
				t.Fatal(err)
			}
			h.Kill()
			saved := filepath.Join(h.State, "revoked")
			b, err := os.ReadFile(saved)
			if info, statErr := os.Stat(saved); err != nil || statErr != nil || info.Mode() != 0o600 {
				t.Fatalf("%v, %v, %v", err, statErr, info.Mode())
			}
			if err := os.WriteFile(saved, spoil(h, b), 0o600); err != nil {
				t.Fatal(err)
			}
			h.Write("revoked", []byte("damaged"))
			h.Start()
			if got := problems(t, h); !strings.Contains(got, "is not signed") || !strings.Contains(got, "nor is the copy of the last good one") {
				t.Errorf("status says %q", got)
			}
			unload(t, h, "count")
			isRevoked(t, tryLoad(h))
		})
	}
}

// TestListInForceOverALostRatchet: with the ratchet gone, the copy still knows
// which list was the newest.
func TestListInForceOverALostRatchet(t *testing.T) {
	h, team := teamed(t, rooted)
	h.Revoke(revokedKey(7, team.keyID(t)))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	h.Kill()
	if err := os.Remove(filepath.Join(h.State, "ratchet")); err != nil {
		t.Fatal(err)
	}
	h.Revoke("serial = 6\n")
	h.Start()
	if got := problems(t, h); !strings.Contains(got, "older than serial 7") {
		t.Errorf("status says %q", got)
	}
	unload(t, h, "count")
	isRevoked(t, tryLoad(h))
	h.Kill()
	os.Remove(filepath.Join(h.Dir, "revoked"))
	h.Start()
	if got := problems(t, h); !strings.Contains(got, "it is gone, and serial 7") {
		t.Errorf("status says %q", got)
	}
	isRevoked(t, tryLoad(h))
}

// TestListWithAFullDisk: a list is in force, and does what it says, when nothing
// can be written in the state directory but what the audit log keeps for it.
func TestListWithAFullDisk(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, rooted+"revoked = \"unload\"\n")
	tmpfs(t, h.State, "size=40m")
	team := signer(t, h, "team")
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("conn_count.bpf.o", object)
	h.Write("hornet.d/conn_count.bpf.o.p7s", team.sign(t, object))
	h.Manifest("count", counting(testenv.Cgroup(t), "boot", 5, "a"))
	h.Start()
	before := get(t, h, "count")

	fill(t, filepath.Join(h.State, "full"))
	h.Revoke(revokedKey(1, team.keyID(t)))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	if got := kernelLinks(t, before); len(got) != 0 {
		t.Errorf("links: %v", got)
	}
	isRevoked(t, tryLoad(h))
	if got := problems(t, h); !strings.Contains(got, "serial 1 is in force and could not be copied") || !strings.Contains(got, "ratchet: ") {
		t.Errorf("status says %q", got)
	}
	h.Kill()
	h.Start() // still full
	isRevoked(t, tryLoad(h))

	if err := os.Remove(filepath.Join(h.State, "full")); err != nil {
		t.Fatal(err)
	}
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	h.Kill()
	h.Write("revoked", []byte("damaged"))
	h.Start()
	if got := problems(t, h); !strings.Contains(got, "the last good one holds (serial 1") {
		t.Errorf("status says %q", got)
	}
	h.Revoke("serial = 2\n")
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	if got := problems(t, h); got != "" {
		t.Errorf("with a good list the status says %q", got)
	}
}

// TestRevokedSignerIsOnRecord: whose signature was refused is in the record as it is
// in that of a load, and not in its words only.
func TestRevokedSignerIsOnRecord(t *testing.T) {
	h, team := teamed(t, rooted)
	h.Revoke(revokedKey(1, team.keyID(t)))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	unload(t, h, "count")
	isRevoked(t, tryLoad(h))
	records := auditRecords(t, h.State)
	i := slices.IndexFunc(records, func(r auditRecord) bool { return r.Verb == "load" && r.Phase == "outcome" })
	last := records[len(records)-1]
	if last.Phase != "refusal" || last.Verdict != "revoked" || i < 0 || last.Signer != "team" || last.SignerKey == "" || last.SignerKey != records[i].SignerKey {
		t.Errorf("on record: %+v", last)
	}
}
