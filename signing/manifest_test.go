package signing

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var manifestText = []byte("[object]\npath = \"x.o\"\nsha256 = \"…\"\n")

func TestSignedManifest(t *testing.T) {
	team, stranger := generated(t, "team", ""), generated(t, "stranger", "")
	old := issued(t, nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) })
	store := trust(t, map[string][]byte{"team.pem": team.pem(), "old.pem": old.pem()})
	digest, other := sha256.Sum256(object), sha256.Sum256([]byte("another"))
	good := team.sign(t, manifestText)
	objects := team.sign(t, object)
	atEnd := Append(object, stranger.sign(t, []byte("another")))

	for _, test := range []struct {
		name    string
		bundle  Bundle
		signers []string
		verdict Verdict
		says    string
		covers  string
	}{
		{"good", Bundle{ManifestSignature: good, SHA256: &digest}, nil, OK, "", "object+manifest"},
		{"good, signer named", Bundle{ManifestSignature: good, SHA256: &digest}, []string{"team"}, OK, "", "object+manifest"},
		{"good, where it must be", Bundle{ManifestSignature: good, SHA256: &digest, SignedManifest: true}, nil, OK, "", "object+manifest"},
		{"good, and a good one of the object", Bundle{ManifestSignature: good, SHA256: &digest, Signature: objects}, nil, OK, "", "object+manifest"},
		{"good, and a bad one of the object", Bundle{ManifestSignature: good, SHA256: &digest, Signature: []byte("bad")}, nil, OK, "", "object+manifest"},
		{"good, and a bad one at the object's end", Bundle{ManifestSignature: good, SHA256: &digest, Object: atEnd}, nil, OK, "", "object+manifest"},
		{"none", Bundle{Signature: objects, SHA256: &digest}, nil, OK, "", "object"},
		{"none, but it must be", Bundle{Signature: objects, SHA256: &digest, SignedManifest: true}, nil, Unsigned,
			"/m/x.toml: unsigned: there is no signature /m/x.toml.p7s, and manifests in this directory must be signed", ""},
		{"none at all", Bundle{SHA256: &digest}, nil, Unsigned, "/o/x.o: unsigned", ""},

		{"empty", Bundle{ManifestSignature: []byte{}, SHA256: &digest, Signature: objects}, nil, BadSignature, "/m/x.toml: bad-signature: /m/x.toml.p7s: signature of 0 bytes", ""},
		{"garbage, and a good one of the object", Bundle{ManifestSignature: []byte("bad"), SHA256: &digest, Signature: objects}, nil, BadSignature, "/m/x.toml: bad-signature", ""},
		{"over the object", Bundle{ManifestSignature: objects, SHA256: &digest, Signature: objects}, nil, BadSignature, `/m/x.toml.p7s is not a signature over this file by "team"`, ""},
		{"over its digest", Bundle{ManifestSignature: team.sign(t, digest[:]), SHA256: &digest}, nil, BadSignature, "is not a signature over this file", ""},
		{"a manifest's as the object's", Bundle{Signature: good, SHA256: &digest}, nil, BadSignature, "/o/x.o.p7s is not a signature over this file", ""},
		{"changed", Bundle{Manifest: append(slices.Clone(manifestText), '\n'), ManifestSignature: good, SHA256: &digest, Signature: objects}, nil, BadSignature, "/m/x.toml.p7s is not", ""},
		{"unknown key", Bundle{ManifestSignature: stranger.sign(t, manifestText), SHA256: &digest, Signature: objects}, nil, UnknownKey, "/m/x.toml: unknown-key", ""},
		{"another signer wanted", Bundle{ManifestSignature: good, SHA256: &digest}, []string{"old"}, UnknownKey, `/m/x.toml.p7s names the key of "team", the manifest allows "old"`, ""},
		{"expired", Bundle{ManifestSignature: old.sign(t, manifestText), SHA256: &digest}, nil, Expired, `/m/x.toml: expired: certificate of "old"`, ""},

		{"no digest", Bundle{ManifestSignature: good, Signature: objects}, nil, DigestMismatch, "/m/x.toml: digest-mismatch: the manifest is signed, but does not say which object it means", ""},
		{"another object", Bundle{ManifestSignature: good, SHA256: &other, Signature: objects}, nil, DigestMismatch, "/o/x.o: digest-mismatch: its SHA-256 is ", ""},
		{"another object with a signature at its end", Bundle{ManifestSignature: good, SHA256: &other, Object: atEnd}, nil, DigestMismatch, "its SHA-256 without the signature at its end is ", ""},
		{"an object with a bad trailer", Bundle{ManifestSignature: good, SHA256: &digest, Object: append(slices.Clone(object), marker...)}, nil, BadSignature, "/o/x.o: bad-signature: its appended signature", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := test.bundle
			b.ObjectFile, b.ManifestFile = "/o/x.o", "/m/x.toml"
			if b.Object == nil {
				b.Object = object
			}
			if b.Manifest == nil {
				b.Manifest = manifestText
			}
			at := time.Now()
			if test.verdict == Expired {
				at = now
			}
			v, err := store.Verify(b, test.signers, at)
			check(t, v, err, test.verdict, []string{test.says}, "")
			if err == nil && (v.Covers() != test.covers || v.Format() != "cms-detached" || v.Digest() != digest || !bytes.Equal(readAll(t, v), object)) {
				t.Errorf("covers %s, format %s, digest %x", v.Covers(), v.Format(), v.Digest())
			}
		})
	}
}

// TestSignedManifestByOpenSSL: what openssl signs as a file is what Verify wants.
func TestSignedManifestByOpenSSL(t *testing.T) {
	dir := t.TempDir()
	digest := sha256.Sum256(object)
	for _, args := range [][]string{
		{"req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert", "-subj", "/CN=o", "-addext", "keyUsage=digitalSignature"},
		{"cms", "-sign", "-binary", "-in", "x.toml", "-signer", "cert", "-inkey", "key", "-outform", "DER", "-out", "x.toml.p7s"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "x.toml"), manifestText, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	cert, err := os.ReadFile(filepath.Join(dir, "cert"))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := os.ReadFile(filepath.Join(dir, "x.toml.p7s"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := trust(t, map[string][]byte{"o.pem": cert}).Verify(Bundle{Object: object, SHA256: &digest, Manifest: manifestText, ManifestSignature: signature}, nil, time.Now())
	if err != nil || v.Covers() != "object+manifest" {
		t.Errorf("%v, covers %q", err, v.Covers())
	}
	if ago := time.Since(v.SignedAt()); ago < 0 || ago > time.Minute { // openssl signs the time too
		t.Errorf("signed %v ago", ago)
	}
}

// TestEveryBitOfAManifest flips every bit of a signed manifest and of its object.
func TestEveryBitOfAManifest(t *testing.T) {
	s := generated(t, "team", "")
	store := trust(t, map[string][]byte{"team.pem": s.pem()})
	digest := sha256.Sum256(object)
	b := Bundle{Object: slices.Clone(object), SHA256: &digest, Manifest: slices.Clone(manifestText), ManifestSignature: s.sign(t, manifestText)}
	for _, part := range [][]byte{b.Object, b.Manifest, b.ManifestSignature} {
		for i := range part {
			for bit := range 8 {
				part[i] ^= 1 << bit
				if _, err := store.Verify(b, nil, time.Now()); err == nil {
					t.Errorf("accepted with bit %d of byte %d of %q changed", bit, i, part)
				}
				part[i] ^= 1 << bit
			}
		}
	}
	if _, err := store.Verify(b, nil, time.Now()); err != nil {
		t.Error(err)
	}
}
