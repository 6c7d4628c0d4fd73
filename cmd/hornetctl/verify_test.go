package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
	"github.com/hornetd/hornetd/signing"
)

// FuzzVerifyFile: whatever lies there, verify-file says that it is good only of
// the bytes that were signed, or says what is wrong and what to do.
func FuzzVerifyFile(f *testing.F) {
	// A key that every process of the fuzzer has.
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	trust, err := signing.ParseTrust(map[string][]byte{"team.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})})
	if err != nil {
		f.Fatal(err)
	}
	keyID, err := hex.DecodeString(trust.Signers()[0].KeyID)
	if err != nil {
		f.Fatal(err)
	}
	sign := func(b []byte) []byte {
		signature, err := cms.Sign(b, key, keyID)
		if err != nil {
			f.Fatal(err)
		}
		return signature
	}
	dir := f.TempDir()
	object := []byte("\x7fELF an object")
	digest := sha256.Sum256(object)
	text := fmt.Appendf(nil, "[object]\npath = \"of-manifest.o\"\nsha256 = \"%x\"\n", digest)
	signed := map[string]bool{hex.EncodeToString(digest[:]): true}
	if err := os.WriteFile(filepath.Join(dir, "of-manifest.o"), object, 0o600); err != nil {
		f.Fatal(err)
	}
	c := &ctl{env: env{now: time.Now}}

	f.Add(object, sign(object), false)
	f.Add(signing.Append(object, sign(object)), []byte(nil), false)
	f.Add(text, sign(text), true)
	f.Add(text, []byte(nil), true)
	f.Add(text, sign(object), true)
	f.Add([]byte("[object]\npath = 'x.o'\n[object]\n"), []byte("0\x80"), true)
	f.Add([]byte("~Module signature appended~\n"), []byte{}, false)
	f.Fuzz(func(t *testing.T, b, signature []byte, isManifest bool) {
		file := filepath.Join(dir, "x.o")
		if isManifest {
			file = filepath.Join(dir, "x.toml")
		}
		os.Remove(file + ".p7s")
		if signature != nil {
			if err := os.WriteFile(file+".p7s", signature, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := c.verify(file, trust, verifyOptions{store: &trustStore{dir: "/etc/hornet/trust.d"}})
		if _, jsonErr := json.Marshal(v); jsonErr != nil || v.File != file {
			t.Fatalf("%+v: %v", v, jsonErr)
		}
		if err != nil {
			var refused *signing.Error
			if v.OK || v.Object != nil || v.Problem == nil || v.Problem.Message == "" || errors.As(err, &refused) && v.Problem.Hint == "" {
				t.Fatalf("%v: %+v", err, v)
			}
			return
		}
		if !v.OK || v.Problem != nil || v.Signature == nil || v.Signature.Signer.Name != "team" || !signed[v.Object.SHA256] || isManifest && !bytes.Equal(b, text) {
			t.Fatalf("good: %+v\n%q", v, b)
		}
	})
}
