package signing

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
)

func secret(s string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(s), nil }
}

// encrypt has openssl encrypt a key.
func encrypt(t testing.TB, key []byte, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, key, 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"pkcs8", "-topk8", "-in", in, "-out", out, "-passout", "pass:correct horse"}, args...)
	if b, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEncryptedKeys reads what openssl encrypts.
func TestEncryptedKeys(t *testing.T) {
	for _, algorithm := range []string{"ecdsa", "ecdsa-p521", "rsa-2048", "ed25519"} {
		keyPEM, _, err := Keygen("team", algorithm)
		if err != nil {
			t.Fatal(err)
		}
		want, err := ParseKey(keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			nil, {"-v2", "aes-128-cbc"}, {"-v2", "aes-192-cbc"}, {"-v2", "aes256", "-v2prf", "hmacWithSHA512"},
			{"-v2prf", "hmacWithSHA1"}, {"-v2prf", "hmacWithSHA384"}, {"-iter", "1"}, {"-iter", "100000"},
		} {
			b := encrypt(t, keyPEM, args...)
			got, err := ParseEncryptedKey(b, secret("correct horse"))
			if err != nil {
				t.Errorf("%s %v: %v", algorithm, args, err)
				continue
			}
			if !want.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(got.Public()) {
				t.Errorf("%s %v: another key", algorithm, args)
			}
			tries := 1
			if slices.Contains(args, "1") { // quick, and some of many leave what looks padded
				tries = 2000
			}
			for i := range tries {
				_, err := ParseEncryptedKey(b, secret(fmt.Sprint("wrong horse ", i)))
				if err == nil || !strings.HasSuffix(err.Error(), ": the passphrase is wrong, or the file damaged") || remedy.Of(err) == "" {
					t.Fatalf("%s %v with another passphrase: %v", algorithm, args, err)
				}
			}
			if _, err := ParseKey(b); err == nil || !strings.Contains(err.Error(), "it is encrypted") {
				t.Errorf("%s %v without a passphrase: %v", algorithm, args, err)
			}
		}
	}
}

func TestEncryptedKeysRefused(t *testing.T) {
	keyPEM, _, err := Keygen("team", "")
	if err != nil {
		t.Fatal(err)
	}
	block := func(b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: b}) }
	good, _ := pem.Decode(encrypt(t, keyPEM))
	cut := slices.Clone(good.Bytes[:len(good.Bytes)-16])
	for name, test := range map[string]struct {
		pem  []byte
		want string
	}{
		"scrypt":     {encrypt(t, keyPEM, "-scrypt"), "not PBKDF2"},
		"triple DES": {encrypt(t, keyPEM, "-v2", "des3"), "cipher 1.2.840.113549.3.7"},
		"garbage":    {block([]byte{0x30, 0}), "not PBES2"},
		"cut":        {block(cut), "not PBES2"},
		"more":       {block(append(slices.Clone(good.Bytes), 0)), "not PBES2"},
	} {
		_, err := ParseEncryptedKey(test.pem, secret("correct horse"))
		if err == nil || !strings.Contains(err.Error(), test.want) || remedy.Of(err) == "" {
			t.Errorf("%s: %v, want %q with a remedy", name, err, test.want)
		}
	}
	failed := errors.New("no terminal")
	if _, err := ParseEncryptedKey(block(good.Bytes), func() ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
}

// FuzzDecrypt: no file makes it panic, or work for long.
func FuzzDecrypt(f *testing.F) {
	keyPEM, _, err := Keygen("team", "")
	if err != nil {
		f.Fatal(err)
	}
	for _, args := range [][]string{{"-iter", "1"}, {"-iter", "1", "-v2prf", "hmacWithSHA512"}, {"-scrypt"}} {
		block, _ := pem.Decode(encrypt(f, keyPEM, args...))
		f.Add(block.Bytes, []byte("correct horse"))
	}
	f.Fuzz(func(t *testing.T, b, passphrase []byte) {
		if plain, err := decrypt(b, passphrase); (plain == nil) == (err == nil) && len(plain) > 0 {
			t.Fatalf("%x and %v", plain, err)
		}
	})
}
