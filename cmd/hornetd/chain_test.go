package main_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// issue makes a key and its certificate by issuer; nil is the key itself.
func issue(t testing.TB, name string, ca bool, issuer *signing.Issuer) *signing.Issuer {
	t.Helper()
	keyPEM, certPEM, err := signing.Issue(name, "", ca, issuer)
	if err != nil {
		t.Fatal(err)
	}
	key, err1 := signing.ParseKey(keyPEM)
	cert, err2 := signing.ParseCertificate(certPEM)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &signing.Issuer{Cert: cert, Key: key}
}

// chained is a host on which "count" runs, signed by the key of chain[0], whose
// certificate is by chain[1] and that by chain[2], which is in the trust store.
func chained(t *testing.T, config string) (h *testdaemon.Host, chain [3]*signing.Issuer) {
	t.Helper()
	testenv.NoLeaks(t)
	h = testdaemon.New(t, config)
	chain[2] = issue(t, "root", true, nil)
	chain[1] = issue(t, "middle", true, chain[2])
	chain[0] = issue(t, "leaf", false, chain[1])
	h.Write("trust.d/ca.pem", pemOf(chain[2].Cert.Raw))
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("conn_count.bpf.o", object)
	signature, err := signing.Sign(object, chain[0].Key, chain[0].Cert, chain[1].Cert)
	if err != nil {
		t.Fatal(err)
	}
	h.Write("hornet.d/conn_count.bpf.o.p7s", signature)
	h.Manifest("count", counting(testenv.Cgroup(t), "boot", 5, "a"))
	h.Start()
	if c := get(t, h, "count"); c.State != api.StateRunning || c.Signature.Signer.Name != "ca" || c.Signature.Signer.Subject != "CN=leaf" {
		t.Fatalf("%s %q, signed by %+v", c.State, c.Reason, c.Signature.Signer)
	}
	return h, chain
}

// TestRevokedAbove: what runs is revoked with any key or certificate that it was
// accepted through, none of them in the trust store but the last, as soon as the
// list is in force: its files, which would have to be read for that, are gone.
func TestRevokedAbove(t *testing.T) {
	for i, who := range []string{"leaf", "middle", "root"} {
		for _, what := range []string{"key", "certificate"} {
			for _, how := range []string{"keep", "unload", "unload at start"} {
				t.Run(who+"'s "+what+", "+how, func(t *testing.T) {
					policy, _, atStart := strings.Cut(how, " ")
					h, chain := chained(t, rooted+"revoked = \""+policy+"\"\n")
					before := get(t, h, "count")
					if err := errors.Join(os.Remove(h.Manifests+"/conn_count.bpf.o"), os.Remove(h.Manifests+"/conn_count.bpf.o.p7s")); err != nil {
						t.Fatal(err)
					}
					list := fmt.Sprintf("serial = 1\n[[key]]\nid = '%x'\nreason = 'stolen'\n", chain[i].Cert.SubjectKeyId)
					if what == "certificate" {
						list = fmt.Sprintf("serial = 1\n[[certificate]]\nsha256 = '%x'\nreason = 'stolen'\n", sha256.Sum256(chain[i].Cert.Raw))
					}
					h.Revoke(list)
					if atStart {
						h.Kill()
						h.Start()
					} else if _, err := reload(t, h); err != nil {
						t.Fatal(err)
					}
					if policy == "unload" {
						if got := kernelLinks(t, before); len(got) != 0 || get(t, h, "count").State != api.StateFailed {
							t.Errorf("links: %v", got)
						}
						return
					}
					for range 2 {
						c := get(t, h, "count")
						list, err := h.Client().List(t.Context())
						if err != nil || c.Signature.Verdict != "revoked" || !strings.Contains(list[0].Reason, `of "ca" is revoked: stolen`) {
							t.Errorf("verdict %s, %q, %v", c.Signature.Verdict, list[0].Reason, err)
						}
						if got := problems(t, h); !strings.Contains(got, "runs, but ") {
							t.Errorf("status says %q", got)
						}
						h.Kill()
						h.Start()
					}
				})
			}
		}
	}
}

// TestRatchetLostWithTheState: with everything in the state directory gone the
// record of what runs still bounds its key, under whatever name the trust store
// has it.
func TestRatchetLostWithTheState(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "")
	h.Kill()
	if err := errors.Join(os.RemoveAll(h.State), os.Rename(filepath.Join(h.Trust, "dev.pem"), filepath.Join(h.Trust, "again.pem"))); err != nil {
		t.Fatal(err)
	}
	h.Start()
	unload(t, h, "count")
	h.Manifest("count", counting(cgroup, "request", 4, "a"))
	refusedBack(t, tryLoad(h))
	h.Manifest("count", counting(cgroup, "request", 5, "a"))
	load(t, h, "count")
}
