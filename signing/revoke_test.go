package signing

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/tomlfile"
)

// signedList is the file of a list by s.
func signedList(t testing.TB, s signer, list string) []byte {
	t.Helper()
	b, err := SignRevocations([]byte(list), s.key, s.cert)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// list is a list in force, signed by a root of its own.
func list(t testing.TB, text string) *Revocations {
	t.Helper()
	root := generated(t, "root", "")
	l, err := trust(t, map[string][]byte{"root.pem": root.pem()}).VerifyRevocations("revoked", signedList(t, root, text), []string{"root"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func hexOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestRevocation(t *testing.T) {
	s := generated(t, "dev", "")
	spki, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	renewed := issued(t, s.key, func(*x509.Certificate) {})
	ids, err := derivedKeyIDs(spki)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"dev.pem": s.pem()}
	both := map[string][]byte{"dev.pem": append(s.pem(), renewed.pem()...)}
	bare := map[string][]byte{"dev.pem": s.publicPEM(t)}
	b := Bundle{Object: object, ObjectFile: "x.o", Signature: s.sign(t, object)}
	at := s.cert.NotBefore.AddDate(0, 0, 1)
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		list  string
		want  Verdict
	}{
		{"empty list", files, "", OK},
		{"another key", files, "[[key]]\nid = '00112233'\n", OK},
		{"key identifier", files, "[[key]]\nid = '" + hex.EncodeToString(s.cert.SubjectKeyId) + "'\nreason = 'stolen'\n", Revoked},
		{"key identifier of OpenSSL", files, "[[key]]\nid = '" + hex.EncodeToString(ids[1]) + "'\n", Revoked},
		{"SHA-256 of the public key", files, "[[key]]\nid = '" + hexOf(spki) + "'\n", Revoked},
		{"bare key", bare, "[[key]]\nid = '" + hexOf(spki) + "'\n", Revoked},
		{"certificate", files, "[[certificate]]\nsha256 = '" + hexOf(s.cert.Raw) + "'\n", Revoked},
		{"another certificate", files, "[[certificate]]\nsha256 = '" + hexOf(renewed.cert.Raw) + "'\n", OK},
		{"certificate, its key has another", both, "[[certificate]]\nsha256 = '" + hexOf(renewed.cert.Raw) + "'\n", OK},
		{"key with two certificates", both, "[[key]]\nid = '" + hexOf(spki) + "'\n", Revoked},
		{"object", files, "[[object]]\nsha256 = '" + hexOf(object) + "'\nreason = 'leaks'\n", Revoked},
		{"another object", files, "[[object]]\nsha256 = '" + hexOf(nil) + "'\n", OK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := trust(t, tt.files).WithRevocations(list(t, "serial = 1\n"+tt.list))
			v, err := store.Verify(b, nil, at)
			got, message, _ := refusal(t, err)
			if got != tt.want || strings.Contains(tt.list, "reason") && !strings.Contains(message, "stolen") && !strings.Contains(message, "leaks") {
				t.Errorf("%s (%s), want %s", got, message, tt.want)
			}
			// What runs, by its record alone, is judged alike.
			c := Claim{Manifest: "m", Signer: "dev", ObjectDigest: hexOf(object)}
			before, err := store.WithRevocations(nil).Verify(b, nil, at)
			if err != nil {
				t.Fatal(err)
			}
			for what, recorded := range map[string]Signer{"its record": before.Signer(), "an older record": {KeyID: before.Signer().KeyID}} {
				if (store.Revoked(c, recorded) != "") != (tt.want == Revoked) {
					t.Errorf("by %s: %q", what, store.Revoked(c, recorded))
				}
			}
			if tt.want == OK && v.Verdict() != OK {
				t.Errorf("verdict %s", v.Verdict())
			}
		})
	}
}

// A revoked key is not saved by a host that accepted its signature before.
func TestRevocationGoesBeforeExpiry(t *testing.T) {
	s := generated(t, "dev", "")
	store := trust(t, map[string][]byte{"dev.pem": s.pem()})
	late := s.cert.NotAfter.AddDate(1, 0, 0)
	b := Bundle{Object: object, ObjectFile: "x.o", Signature: s.sign(t, object)}
	if got, _, _ := refusal(t, second(store.Verify(b, nil, late))); got != Expired {
		t.Errorf("expired: %s", got)
	}
	var asked string
	b.Accepted = func(s Signer, d [32]byte) bool { asked = s.Name + hex.EncodeToString(d[:]); return true }
	v, err := store.Verify(b, nil, late)
	if err != nil || v.Verdict() != OKExpired || asked != "dev"+hexOf(object) {
		t.Errorf("expired and accepted before: %s, %v; asked %q", v.Verdict(), err, asked)
	}
	early := s.cert.NotBefore.AddDate(-50, 0, 0)
	if v, err := store.Verify(b, nil, early); err != nil || v.Verdict() != OKNotYetValid {
		t.Errorf("with a dead clock: %s, %v", v.Verdict(), err)
	}
	asked = ""
	revoked := store.WithRevocations(list(t, "serial = 1\n[[key]]\nid = '"+hex.EncodeToString(s.cert.SubjectKeyId)+"'\n"))
	if got, _, _ := refusal(t, second(revoked.Verify(b, nil, late))); got != Revoked || asked != "" {
		t.Errorf("expired and revoked: %s", got)
	}
	for name, broken := range map[string]Bundle{
		"bad signature": {Object: append(bytes.Clone(object), 1), ObjectFile: "x.o", Signature: b.Signature, Accepted: b.Accepted},
		"unsigned":      {Object: object, ObjectFile: "x.o", Accepted: b.Accepted},
	} {
		if _, err := store.Verify(broken, nil, late); err == nil || asked != "" {
			t.Errorf("%s: %v, asked %q", name, err, asked)
		}
	}
}

func second[A any](_ A, err error) error { return err }

func TestClosed(t *testing.T) {
	s := generated(t, "dev", "")
	store := trust(t, map[string][]byte{"dev.pem": s.pem()}).Closed(remedy.With(errors.New("no list"), "put it back"))
	b := Bundle{Object: object, ObjectFile: "x.o", Signature: s.sign(t, object)}
	if got, message, hint := refusal(t, second(store.Verify(b, nil, s.cert.NotBefore))); got != Revoked || !strings.Contains(message, "no list") || hint != "put it back" {
		t.Errorf("%s %s %s", got, message, hint)
	}
}

func TestMinimumVersions(t *testing.T) {
	store := trust(t, nil).WithRevocations(list(t, "serial = 1\n[[manifest]]\nname = 'm'\nversion = 4\nreason = 'hole'\n"))
	for v, want := range map[uint64]Verdict{0: RolledBack, 3: RolledBack, 4: OK, 5: OK} {
		got, message, _ := refusal(t, store.CheckVersion(claim(v, "a")))
		if got != want || want != OK && !strings.Contains(message, "hole") {
			t.Errorf("version %d: %s %s", v, got, message)
		}
		if (store.Revoked(claim(v, "a"), Signer{}) != "") != (want != OK) {
			t.Errorf("version %d, running: %q", v, store.Revoked(claim(v, "a"), Signer{}))
		}
	}
	other := claim(1, "a")
	other.Manifest = "n"
	if store.CheckVersion(other) != nil || trust(t, nil).CheckVersion(other) != nil {
		t.Error("another manifest, or no list")
	}
}

func TestListSerialOnlyGrows(t *testing.T) {
	l2, l3 := list(t, "serial = 2\n"), list(t, "serial = 3\n")
	same := list(t, "serial = 3\n# other contents\n")
	var r Ratchet
	if r.CheckList(nil) != nil || r.CheckList(l2) != nil {
		t.Error("the first list, or none, is refused")
	}
	r, changed := r.AdvanceList(l3)
	if !changed || r.CheckList(l3) != nil {
		t.Error("what is in force is refused")
	}
	for name, l := range map[string]*Revocations{"older": l2, "gone": nil, "same serial, other contents": same} {
		if err := r.CheckList(l); err == nil || remedy.Of(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, changed := r.AdvanceList(l2); changed || again.CheckList(l3) != nil {
		t.Error("went back")
	}
	// It is kept with the rest.
	r, _ = r.Advance(claim(1, "a"))
	r, err := r.Rollback("m", 1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Encode(7)
	if err != nil {
		t.Fatal(err)
	}
	if r, _, err = ParseRatchet(b); err != nil || r.CheckList(l2) == nil || r.CheckList(l3) != nil {
		t.Errorf("from the file: %v", err)
	}
}

// TestListRefused is everything that must not come into force.
func TestListRefused(t *testing.T) {
	root, other := generated(t, "root", ""), generated(t, "other", "")
	store := trust(t, map[string][]byte{"root.pem": root.pem(), "other.pem": other.pem()})
	good := signedList(t, root, "serial = 1\n")
	replaced := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	for name, b := range map[string][]byte{
		"empty":                {},
		"unsigned":             []byte("serial = 1\n"),
		"only a signature":     good[bytes.Index(good, []byte("-----BEGIN")):],
		"by another key":       signedList(t, other, "serial = 1\n"),
		"changed":              replaced("serial = 1", "serial = 2"),
		"a line before":        append([]byte("\n"), good...),
		"a line behind":        append(bytes.Clone(good), '\n'),
		"TOML behind":          append(bytes.Clone(good), "serial = 2\n"...),
		"a block cut off":      replaced("-----BEGIN CMS-----\n", "-----BEGIN CMS-----\nMIGj\n-----BEGIN CMS-----\n"),
		"lines end as in DOS":  bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")),
		"two signatures":       append(bytes.Clone(good), good[bytes.Index(good, []byte("-----BEGIN")):]...),
		"another block":        replaced("CMS", "CERTIFICATE"),
		"PEM headers":          replaced("-----BEGIN CMS-----\n", "-----BEGIN CMS-----\nA: b\n\n"),
		"too large":            append(bytes.Repeat([]byte("#\n"), MaxRevocations/2), good...),
		"signed, last serial":  signedList(t, root, "serial = 4611686018427387904\n"),
		"signed, no serial":    signedList(t, root, "# nothing\n"),
		"signed, unknown key":  signedList(t, root, "serial = 1\nkeys = []\n"),
		"signed, bad key id":   signedList(t, root, "serial = 1\n[[key]]\nid = 'ABCD0123'\n"),
		"signed, short digest": signedList(t, root, "serial = 1\n[[object]]\nsha256 = '00'\n"),
		"signed, cert digest":  signedList(t, root, "serial = 1\n[[certificate]]\nsha256 = 'x'\n"),
		"signed, bad name":     signedList(t, root, "serial = 1\n[[manifest]]\nname = '../x'\nversion = 1\n"),
		"signed, no version":   signedList(t, root, "serial = 1\n[[manifest]]\nname = 'x'\n"),
		"signed, escape":       signedList(t, root, "serial = 1\n[[object]]\nsha256 = '"+hexOf(nil)+"'\nreason = \"\\u001b[31m\"\n"),
	} {
		if _, err := store.VerifyRevocations("/etc/hornet/revoked", b, []string{"root", "absent"}); err == nil || remedy.Of(err) == "" || !strings.Contains(err.Error(), "/etc/hornet/revoked") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1
		if l, err := store.VerifyRevocations("revoked", flipped, []string{"root"}); err == nil && l.digest != sha256.Sum256([]byte("serial = 1\n")) {
			t.Errorf("byte %d changed: other contents are in force", i)
		}
		if _, err := store.VerifyRevocations("revoked", good[:i], []string{"root"}); err == nil && i < len(good)-1 {
			t.Errorf("cut after %d bytes: in force", i)
		}
	}
	for name, roots := range map[string][]string{"no roots": nil, "roots that are not there": {"absent"}} {
		if _, err := store.VerifyRevocations("revoked", good, roots); err == nil || !strings.Contains(err.Error(), "[trust] roots") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A list keeps its force when its signer expires, or the clock is dead.
func TestListOutlivesItsSigner(t *testing.T) {
	root := issued(t, nil, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.AddDate(-9, 0, 0), now.AddDate(-8, 0, 0) })
	store := trust(t, map[string][]byte{"root.pem": root.pem()})
	for range 2 {
		l, err := store.VerifyRevocations("revoked", signedList(t, root, "serial = 1\n"), []string{"root"})
		if err != nil || l.Signer().Name != "root" {
			t.Fatal(err)
		}
		store = store.WithRevocations(l)
	}
}

// A revoked key decides nothing any more, by the list in force or by its own.
func TestListByARevokedRoot(t *testing.T) {
	root, next := generated(t, "root", ""), generated(t, "next", "")
	store := trust(t, map[string][]byte{"root.pem": root.pem(), "next.pem": next.pem()})
	roots := []string{"root", "next"}
	revoking := "serial = 1\n[[key]]\nid = '" + hex.EncodeToString(root.cert.SubjectKeyId) + "'\n"
	if _, err := store.VerifyRevocations("revoked", signedList(t, root, revoking), roots); err == nil || remedy.Of(err) == "" {
		t.Errorf("a list that revokes its own signer: %v", err)
	}
	l, err := store.VerifyRevocations("revoked", signedList(t, next, revoking), roots)
	if err != nil {
		t.Fatal(err)
	}
	store = store.WithRevocations(l)
	if _, err := store.VerifyRevocations("revoked", signedList(t, root, "serial = 2\n"), roots); err == nil || remedy.Of(err) == "" {
		t.Errorf("by a root that the list in force revokes: %v", err)
	}
	if _, err := store.VerifyRevocations("revoked", signedList(t, next, "serial = 2\n"), roots); err != nil {
		t.Errorf("by the other root: %v", err)
	}
}

// A CA among the roots lets those it issued certificates to sign objects, and
// not the list.
func TestListByALeaf(t *testing.T) {
	root := certified(t, nil, "root", nil, asCA)
	leaf := certified(t, &root, "leaf", nil, asIs)
	store := trust(t, map[string][]byte{"root.pem": root.pem()})
	text := []byte("serial = 1\n")
	list := func(s signer) []byte {
		return append(bytes.Clone(text), pem.EncodeToMemory(&pem.Block{Type: "CMS", Bytes: s.carry(t, text, leaf)})...)
	}
	if _, err := store.Verify(Bundle{Object: text, ObjectFile: "x.o", Signature: leaf.carry(t, text, leaf)}, nil, now); err != nil {
		t.Fatalf("the leaf signs objects: %v", err)
	}
	for name, s := range map[string]signer{"leaf": leaf, "CA that may sign nothing else": root} {
		if l, err := store.VerifyRevocations("revoked", list(s), []string{"root"}); err == nil || remedy.Of(err) == "" {
			t.Errorf("by %s: %+v in force", name, l)
		}
	}
}

func TestListIsWhatOpenSSLMakesAndTakes(t *testing.T) {
	dir := t.TempDir()
	keyPEM, certPEM, err := Keygen("root", "")
	if err != nil {
		t.Fatal(err)
	}
	root := parsed(t, keyPEM, certPEM)
	store := trust(t, map[string][]byte{"root.pem": certPEM})
	text := []byte("serial = 7\n")
	write(t, dir, "key", keyPEM)
	write(t, dir, "cert", certPEM)
	write(t, dir, "toml", text)
	openssl(t, dir, "cms", "-sign", "-binary", "-outform", "PEM", "-inkey", "key", "-signer", "cert", "-in", "toml", "-out", "sig")
	sig, err := os.ReadFile(filepath.Join(dir, "sig"))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := store.VerifyRevocations("revoked", append(bytes.Clone(text), sig...), []string{"root"}); err != nil || l.Serial != 7 {
		t.Errorf("openssl's: %v", err)
	}
	ours := signedList(t, root, string(text))
	write(t, dir, "ours", ours[len(text):])
	openssl(t, dir, "cms", "-verify", "-binary", "-inform", "PEM", "-in", "ours", "-content", "toml",
		"-certfile", "cert", "-CAfile", "cert", "-purpose", "any", "-partial_chain", "-out", os.DevNull)
}

func TestListTOML(t *testing.T) {
	l := &Revocations{Serial: 9, Keys: []RevokedKey{{"00112233", `say "no" \ é`}}, Certificates: []RevokedCertificate{{SHA256: hexOf(nil)}},
		Objects: []RevokedObject{{hexOf(object), "leaks"}}, Manifests: []MinimumVersion{{"m", 4, "hole"}}}
	got, err := ParseRevocations("revoked", l.TOML())
	if err != nil || !bytes.Equal(got.TOML(), l.TOML()) || got.Keys[0] != l.Keys[0] || got.Manifests[0] != l.Manifests[0] {
		t.Errorf("%+v, %v\n%s", got, err, l.TOML())
	}
}

func FuzzRevocations(f *testing.F) {
	f.Add([]byte("serial = 1\n-----BEGIN CMS-----\nMAA=\n-----END CMS-----\n"))
	f.Add([]byte("serial = 2\n[[key]]\nid = '00112233'\nreason = 'x'\n[[object]]\nsha256 = '" + hexOf(nil) + "'\n"))
	f.Add([]byte("serial = 2\n[[manifest]]\nname = 'a'\nversion = 1\n[[certificate]]\nsha256 = '" + hexOf(nil) + "'\n"))
	f.Add([]byte("\n-----BEGIN CMS-----\n-----END CMS-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text := b
		if list, signature, err := SplitRevocations(b); err == nil {
			if !bytes.HasPrefix(b, list) || len(list)+len(signature) > len(b) {
				t.Fatal("what is signed is not the beginning of the file")
			}
			text = list
		}
		l, err := ParseRevocations("f", text)
		var te *tomlfile.Error
		if err != nil {
			if !errors.As(err, &te) || remedy.Of(err) == "" {
				t.Fatalf("%v: no *tomlfile.Error with a remedy", err)
			}
			return
		}
		if again, err := ParseRevocations("f", l.TOML()); err != nil || !bytes.Equal(again.TOML(), l.TOML()) {
			t.Fatalf("%q becomes %q: %v", text, l.TOML(), err)
		}
	})
}
