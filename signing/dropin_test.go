package signing

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
)

// TestDropIns: what is in force beside a signed manifest was signed too, or asks
// for less.
func TestDropIns(t *testing.T) {
	team, ops, stranger := generated(t, "team", ""), generated(t, "ops", ""), generated(t, "stranger", "")
	old := issued(t, nil, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().AddDate(0, 0, -1), time.Now().Add(-time.Hour)
	})
	store := trust(t, map[string][]byte{"team.pem": team.pem(), "ops.pem": ops.pem(), "old.pem": old.pem()})
	digest := sha256.Sum256(object)
	text, both := []byte("attach = []\n"), []string{"team", "ops"}
	widens := remedy.With(errors.New("/m/x.toml.d/1.toml:3: attach[0]: is not in the manifest"), "have it signed")
	alters := remedy.With(errors.New("/m/x.toml.d/1.toml:1: object.path: is another one"), "remove the key")
	accepted := func(want string) func(Signer, [32]byte) bool {
		return func(s Signer, d [32]byte) bool { return s.Name == want && d == digest }
	}
	for _, test := range []struct {
		name     string
		dropIns  []DropIn
		unsigned bool // the manifest
		signers  []string
		accepted func(Signer, [32]byte) bool
		verdict  Verdict
		says     string
		by       []string
	}{
		{name: "narrows", dropIns: []DropIn{{}}, by: []string{""}},
		{name: "widens", dropIns: []DropIn{{Widens: widens}}, verdict: Unsigned, says: "/m/x.toml.d/1.toml: unsigned: /m/x.toml.d/1.toml:3: attach[0]: is not in the manifest"},
		{name: "widens an unsigned manifest", unsigned: true, dropIns: []DropIn{{Widens: widens, Alters: alters}}, by: []string{""}},
		{name: "signed", signers: both, dropIns: []DropIn{{Widens: widens, Signature: ops.sign(t, text)}}, by: []string{"ops"}},
		{name: "signed by another than the manifest, which names nobody", dropIns: []DropIn{{Signature: ops.sign(t, text)}}, verdict: UnknownKey,
			says: `/m/x.toml.d/1.toml.p7s is by "ops", and the manifest, which names no signers, by "team"`},
		{name: "signed by another, and neither is named, but the manifest is not signed", unsigned: true, dropIns: []DropIn{{Signature: ops.sign(t, text)}}, by: []string{"ops"}},
		{name: "signed, then one that narrows", dropIns: []DropIn{{Widens: widens, Signature: team.sign(t, text)}, {}}, by: []string{"team", ""}},
		{name: "signed, then one that widens", dropIns: []DropIn{{Widens: widens, Signature: team.sign(t, text)}, {Widens: widens}}, verdict: Unsigned, says: "attach[0]"},
		{name: "signed by another than the manifest wants", signers: []string{"team"}, dropIns: []DropIn{{Signature: ops.sign(t, text)}}, verdict: UnknownKey,
			says: `/m/x.toml.d/1.toml.p7s names the key of "ops", the manifest allows "team"`},
		{name: "signed, but may not", signers: both, dropIns: []DropIn{{Alters: alters, Signature: ops.sign(t, text)}}, verdict: DigestMismatch,
			says: `/m/x.toml.d/1.toml: digest-mismatch: it is signed by "ops", and yet not for this: /m/x.toml.d/1.toml:1: object.path`},
		{name: "signed by a stranger", dropIns: []DropIn{{Signature: stranger.sign(t, text)}}, verdict: UnknownKey, says: "/m/x.toml.d/1.toml: unknown-key"},
		{name: "over something else", dropIns: []DropIn{{Signature: team.sign(t, object)}}, verdict: BadSignature, says: "/m/x.toml.d/1.toml: bad-signature"},
		{name: "the manifest's signature", dropIns: []DropIn{{Signature: team.sign(t, manifestText)}}, verdict: BadSignature, says: "/m/x.toml.d/1.toml: bad-signature"},
		{name: "empty", dropIns: []DropIn{{Signature: []byte{}}}, verdict: BadSignature, says: "signature of 0 bytes"},
		{name: "bad, of an unsigned manifest", unsigned: true, dropIns: []DropIn{{Signature: team.sign(t, object)}}, verdict: BadSignature, says: "/m/x.toml.d/1.toml: bad-signature"},
		{name: "expired", dropIns: []DropIn{{Widens: widens, Signature: old.sign(t, text)}}, verdict: Expired, says: `certificate of "old"`},
		{name: "expired, and accepted before", signers: []string{"team", "old"}, dropIns: []DropIn{{Widens: widens, Signature: old.sign(t, text)}, {}}, accepted: accepted("team"), verdict: OKExpired, by: []string{"old", ""}},
		{name: "expired, and another was accepted before", dropIns: []DropIn{{Widens: widens, Signature: old.sign(t, text)}}, accepted: accepted("old"), verdict: Expired, says: `certificate of "old"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := Bundle{Object: object, ObjectFile: "/o/x.o", Manifest: manifestText, ManifestFile: "/m/x.toml", SHA256: &digest,
				ManifestSignature: team.sign(t, manifestText), DropIns: test.dropIns, Accepted: test.accepted}
			covers := CoversManifest
			if test.unsigned {
				b.ManifestSignature, b.Signature, covers = nil, team.sign(t, object), CoversObject
			}
			for i := range b.DropIns {
				b.DropIns[i].File, b.DropIns[i].Text = "/m/x.toml.d/1.toml", text
			}
			v, err := store.Verify(b, test.signers, time.Now())
			verdict, message, _ := refusal(t, err)
			if err == nil {
				verdict = v.Verdict()
			}
			if test.verdict == "" {
				test.verdict = OK
			}
			if verdict != test.verdict || !strings.Contains(message, test.says) || v.IsZero() != (err != nil) {
				t.Fatalf("%s: %s\nwant %s: %s", verdict, message, test.verdict, test.says)
			}
			if end := old.cert.NotAfter; verdict == OKExpired && (v.Validity().Until != "old" || !v.Validity().NotAfter.Equal(end)) {
				t.Errorf("valid: %+v, want until %s of old", v.Validity(), end)
			}
			var by []string
			for i, d := range v.DropIns() {
				by = append(by, d.Signer.Name)
				if d.File != b.DropIns[i].File || d.Digest != sha256.Sum256(text) {
					t.Errorf("%+v", d)
				}
			}
			if err == nil && (v.Covers() != covers || v.Signer().Name != "team") || !slices.Equal(by, test.by) {
				t.Errorf("covers %s, by %s and %q", v.Covers(), v.Signer().Name, by)
			}
		})
	}
}
