package signing

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
)

// A certificate that is in no store is revoked like those that are, and with
// those above it everything that they issued.
func TestRevocationOfChains(t *testing.T) {
	root := certified(t, nil, "root", nil, asCA)
	middle := certified(t, &root, "middle", nil, asCA)
	leaf := certified(t, &middle, "leaf", nil, asIs)
	other := certified(t, &middle, "other", nil, asIs)
	store := trust(t, map[string][]byte{"team.pem": root.pem()})
	b := Bundle{Object: object, ObjectFile: "x.o", Signature: leaf.carry(t, object, leaf, middle)}
	key := func(s signer) string { return "[[key]]\nid = '" + hex.EncodeToString(s.cert.SubjectKeyId) + "'\n" }
	certificate := func(s signer) string { return "[[certificate]]\nsha256 = '" + hexOf(s.cert.Raw) + "'\n" }
	before, err := store.Verify(b, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, list string
		want       Verdict
	}{
		{"nothing", "", OK},
		{"another leaf", key(other) + certificate(other), OK},
		{"leaf's key", key(leaf), Revoked},
		{"leaf's certificate", certificate(leaf), Revoked},
		{"middle's key", key(middle), Revoked},
		{"middle's certificate", certificate(middle), Revoked},
		{"root's key", key(root), Revoked},
		{"root's certificate", certificate(root), Revoked},
	} {
		l := list(t, "serial = 1\n"+tt.list)
		if got, message, _ := refusal(t, second(store.WithRevocations(l).Verify(b, nil, now))); got != tt.want {
			t.Errorf("%s: %s (%s), want %s", tt.name, got, message, tt.want)
		}
		// What runs, by its record alone, is judged alike.
		if reason := store.WithRevocations(l).Revoked(Claim{}, before.Signer()); (reason != "") != (tt.want == Revoked) {
			t.Errorf("%s, by its record: %q", tt.name, reason)
		}
	}
	// With the signer's own key in the store it does not matter who else vouched for it.
	store = trust(t, map[string][]byte{"team.pem": root.pem(), "leaf.pem": leaf.pem()}).WithRevocations(list(t, "serial = 1\n"+certificate(middle)))
	if reason := store.Revoked(Claim{}, before.Signer()); reason != "" {
		t.Errorf("in the store itself: %q", reason)
	}
}

// Where the manifest is what is signed, its object can be revoked, and what was
// accepted before is the manifest's object.
func TestRevocationOfASignedManifest(t *testing.T) {
	team := generated(t, "team", "")
	store := trust(t, map[string][]byte{"team.pem": team.pem()})
	digest := sha256.Sum256(object)
	b := Bundle{Object: object, ObjectFile: "/o/x.o", Manifest: manifestText, ManifestFile: "/m/x.toml",
		ManifestSignature: team.sign(t, manifestText), SHA256: &digest}
	at := team.cert.NotBefore
	revoked := store.WithRevocations(list(t, "serial = 1\n[[object]]\nsha256 = '"+hexOf(object)+"'\n"))
	if got, _, _ := refusal(t, second(revoked.Verify(b, nil, at))); got != Revoked {
		t.Errorf("revoked object: %s", got)
	}
	late := team.cert.NotAfter.AddDate(1, 0, 0)
	var asked [32]byte
	b.Accepted = func(_ Signer, d [32]byte) bool { asked = d; return true }
	if v, err := store.Verify(b, nil, late); err != nil || v.Verdict() != OKExpired || v.Covers() != CoversManifest || asked != digest {
		t.Errorf("expired and accepted before: %s, %v, asked for %x", v.Verdict(), err, asked)
	}
	b.SHA256 = nil
	if got, _, _ := refusal(t, second(store.Verify(b, nil, late))); got != Expired {
		t.Errorf("without a digest there is nothing to have been accepted: %s", got)
	}
	closed := store.Closed(remedy.With(errors.New("no list"), "put it back"))
	if got, _, _ := refusal(t, second(closed.Verify(b, nil, at))); got != Revoked {
		t.Errorf("closed: %s", got)
	}
}
