package signing

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
)

func TestParseTrust(t *testing.T) {
	team := generated(t, "team", "")
	keyPEM, _, err := Keygen("key", "")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	damaged := bytes.Replace(team.pem(), []byte("-----END CERTIFICATE-----"), []byte("-----END CERTIFICATE----"), 1)

	for _, test := range []struct {
		name  string
		files map[string][]byte
		want  string // names of the store, or part of the error
		ok    bool
	}{
		{"nothing", nil, "", true},
		{"a certificate", map[string][]byte{"team.pem": team.pem()}, "team", true},
		{"a public key", map[string][]byte{"team.pem": team.publicPEM(t)}, "team", true},
		{"two in one file", map[string][]byte{"team.pem": append(team.pem(), team.publicPEM(t)...)}, "team team", true},
		{"sorted by name", map[string][]byte{"b.pem": team.pem(), "a.pem": team.pem(), "C-1.x_y.pem": team.pem()}, "C-1.x_y a b", true},
		{"text around", map[string][]byte{"team.pem": append([]byte("subject: team\n"), append(team.pem(), "the end\n"...)...)}, "team", true},

		{"16 keys", map[string][]byte{"team.pem": bytes.Repeat(team.pem(), maxKeys)}, strings.TrimSpace(strings.Repeat("team ", maxKeys)), true},
		{"the largest file", map[string][]byte{"team.pem": append(team.pem(), make([]byte, maxPEM-len(team.pem()))...)}, "team", true},

		{"empty file", map[string][]byte{"team.pem": {}}, "team.pem: no PEM block", false},
		{"DER", map[string][]byte{"team.pem": team.cert.Raw}, "team.pem: no PEM block", false},
		{"private key", map[string][]byte{"team.pem": keyPEM}, "holds a private key", false},
		{"certificate and private key", map[string][]byte{"team.pem": append(team.pem(), keyPEM...)}, "holds a private key", false},
		{"old private key", map[string][]byte{"team.pem": block("RSA PRIVATE KEY", nil)}, "holds a private key", false},
		{"a request", map[string][]byte{"team.pem": block("CERTIFICATE REQUEST", nil)}, `PEM block "CERTIFICATE REQUEST"`, false},
		{"malformed certificate", map[string][]byte{"team.pem": block("CERTIFICATE", []byte{0x30, 0})}, "certificate: x509", false},
		{"malformed public key", map[string][]byte{"team.pem": block("PUBLIC KEY", []byte{0x30, 0})}, "public key: ", false},
		{"certificate with more behind it", map[string][]byte{"team.pem": block("CERTIFICATE", append(team.cert.Raw, 0))}, "certificate: x509: trailing data", false},
		{"a damaged block", map[string][]byte{"team.pem": damaged}, "1 of 1 PEM blocks are damaged", false},
		{"a damaged block among others", map[string][]byte{"team.pem": append(damaged, team.pem()...)}, "PEM blocks are damaged", false},
		{"a damaged block behind another", map[string][]byte{"team.pem": append(team.pem(), damaged...)}, "1 of 2 PEM blocks are damaged", false},
		{"17 keys", map[string][]byte{"team.pem": bytes.Repeat(team.pem(), maxKeys+1)}, "17 PEM blocks: at most 16", false},
		{"a large file", map[string][]byte{"team.pem": make([]byte, maxPEM+1)}, "262145 bytes: at most 262144", false},
		{"another extension", map[string][]byte{"team.crt": team.pem()}, "team.crt: name is not NAME.pem", false},
		{"no name", map[string][]byte{".pem": team.pem()}, "name is not NAME.pem", false},
		{"a hidden file", map[string][]byte{".team.pem": team.pem()}, "name is not NAME.pem", false},
		{"a name with a newline", map[string][]byte{"te\nam.pem": team.pem()}, "name is not NAME.pem", false},
		{"a long name", map[string][]byte{strings.Repeat("n", 64) + ".pem": team.pem()}, "name is not NAME.pem", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, err := ParseTrust(test.files)
			if !test.ok {
				if err == nil || !strings.Contains(err.Error(), test.want) || remedy.Of(err) == "" {
					t.Errorf("got %v (remedy %q), want %q", err, remedy.Of(err), test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, s := range store.Signers() {
				names = append(names, s.Name)
			}
			if got := strings.Join(names, " "); got != test.want {
				t.Errorf("names %q, want %q", got, test.want)
			}
		})
	}
}

// TestUnusable: a key nobody may sign with does not take the others' trust away.
func TestUnusable(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := issued(t, weakKey, func(*x509.Certificate) {})
	web := issued(t, nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	team := issued(t, nil, func(*x509.Certificate) {})
	store := trust(t, map[string][]byte{"bare.pem": weak.publicPEM(t), "team.pem": team.pem(), "weak.pem": weak.pem(), "web.pem": web.pem()})

	if _, err := store.Verify(Bundle{Object: object, Signature: team.sign(t, object)}, nil, now); err != nil {
		t.Error(err)
	}
	var problems []string
	for _, s := range store.Signers() {
		problems = append(problems, s.Name+": "+s.Problem)
	}
	want := []string{
		"bare: RSA key of 1024 bits, 2048 to 8192 are accepted",
		"team: ",
		"weak: RSA key of 1024 bits, 2048 to 8192 are accepted",
		"web: certificate's extended key usage has no codeSigning",
	}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// TestBareKeys: a public key without certificate is found by the identifiers
// OpenSSL and Go derive from it, and does not expire.
func TestBareKeys(t *testing.T) {
	for _, algorithm := range []string{"ecdsa", "rsa-2048", "ed25519"} {
		s := generated(t, "team", algorithm)
		store := trust(t, map[string][]byte{"team.pem": s.publicPEM(t)})
		e := store.entries[0]
		if len(e.keyIDs) != 2 {
			t.Fatalf("%d key identifiers", len(e.keyIDs))
		}
		for _, id := range e.keyIDs {
			s.cert.SubjectKeyId = id
			v, err := store.Verify(Bundle{Object: object, Signature: s.sign(t, object)}, []string{"team"}, now.AddDate(100, 0, 0))
			if err != nil {
				t.Errorf("%s, key identifier %x: %v", algorithm, id, err)
				continue
			}
			if got := v.Signer(); got.Subject != "" || !got.NotAfter.IsZero() || got.KeyID == "" {
				t.Errorf("%+v", got)
			}
		}
		s.cert.SubjectKeyId = []byte("another")
		_, err := store.Verify(Bundle{Object: object, Signature: s.sign(t, object)}, nil, now)
		if verdict, message, _ := refusal(t, err); verdict != UnknownKey || !strings.Contains(message, "by key identifier only") {
			t.Errorf("%v", err)
		}
	}
}

// TestKeyIDs: a certificate goes by the key identifier in it, and only where
// there is none by those derived from its key.
func TestKeyIDs(t *testing.T) {
	for _, test := range []struct {
		name    string
		keyID   []byte
		derived Verdict
	}{
		{"in the certificate", []byte("custom"), UnknownKey},
		{"none", nil, OK},
	} {
		s := issued(t, nil, func(c *x509.Certificate) { c.SubjectKeyId = test.keyID })
		store := trust(t, map[string][]byte{"team.pem": s.pem()})
		ids, err := derivedKeyIDs(s.cert.RawSubjectPublicKeyInfo)
		if err != nil {
			t.Fatal(err)
		}
		verify := func(id []byte) (Verified, Verdict) {
			s.cert.SubjectKeyId = id
			v, err := store.Verify(Bundle{Object: object, Signature: s.sign(t, object)}, nil, now)
			verdict, _, _ := refusal(t, err)
			return v, verdict
		}
		for _, id := range ids {
			if _, got := verify(id); got != test.derived {
				t.Errorf("%s, derived: %s, want %s", test.name, got, test.derived)
			}
		}
		if test.keyID == nil {
			continue
		}
		if v, got := verify(test.keyID); got != OK || v.Signer().KeyID != fmt.Sprintf("%x", test.keyID) {
			t.Errorf("%s: %s, %+v", test.name, got, v.Signer())
		}
	}
}

func TestLoadTrust(t *testing.T) {
	team := generated(t, "team", "")
	write := func(t *testing.T, name string, b []byte, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		make func(t *testing.T, dir string)
		want error // nil: accepted
	}{
		{"a certificate", func(t *testing.T, dir string) { write(t, dir+"/team.pem", team.pem(), 0o644) }, nil},
		{"other files beside it", func(t *testing.T, dir string) {
			write(t, dir+"/team.pem", team.pem(), 0o644)
			write(t, dir+"/README", []byte("text"), 0o666)
			write(t, dir+"/old.pem.bak", []byte("text"), 0o644)
		}, nil},
		{"writable by others", func(t *testing.T, dir string) { write(t, dir+"/team.pem", team.pem(), 0o646) }, safefile.ErrUnsafe},
		{"writable by the group", func(t *testing.T, dir string) { write(t, dir+"/team.pem", team.pem(), 0o664) }, safefile.ErrUnsafe},
		{"directory writable by others", func(t *testing.T, dir string) {
			write(t, dir+"/team.pem", team.pem(), 0o644)
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}, safefile.ErrUnsafe},
		{"a symbolic link", func(t *testing.T, dir string) {
			write(t, dir+"/real", team.pem(), 0o644)
			if err := os.Symlink("real", dir+"/team.pem"); err != nil {
				t.Fatal(err)
			}
		}, safefile.ErrUnsafe},
		{"a FIFO", func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(dir+"/team.pem", 0o600); err != nil {
				t.Fatal(err)
			}
		}, safefile.ErrNotRegular},
		{"a directory", func(t *testing.T, dir string) {
			if err := os.Mkdir(dir+"/team.pem", 0o700); err != nil {
				t.Fatal(err)
			}
		}, safefile.ErrNotRegular},
		{"1 TiB", func(t *testing.T, dir string) {
			write(t, dir+"/team.pem", nil, 0o644)
			if err := os.Truncate(dir+"/team.pem", 1<<40); err != nil {
				t.Fatal(err)
			}
		}, safefile.ErrTooLarge},
		{"an empty file", func(t *testing.T, dir string) { write(t, dir+"/team.pem", nil, 0o644) }, safefile.ErrEmpty},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.make(t, dir)
			store, err := LoadTrust(dir)
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if test.want != nil {
				return
			}
			if got := store.Signers(); len(got) != 1 || got[0].Name != "team" {
				t.Errorf("signers %v", got)
			}
			if _, err := store.Verify(Bundle{Object: object, Signature: team.sign(t, object)}, nil, team.cert.NotBefore); err != nil {
				t.Error(err)
			}
		})
	}
}

// One file that is no good takes nothing but its own keys away at a start, and is
// told for as long as that store is in force.
func TestLoadReadable(t *testing.T) {
	team, ops := generated(t, "team", ""), generated(t, "ops", "")
	dir := t.TempDir()
	for name, f := range map[string]struct {
		b    []byte
		mode os.FileMode
	}{"team.pem": {team.pem(), 0o644}, "bad.pem": {[]byte("bad"), 0o644}, "half.pem": {append(ops.pem(), "-----BEGIN CERTIFICATE-----\n"...), 0o644}, "ops.pem": {ops.pem(), 0o666}} {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), f.b, 0o600), os.Chmod(filepath.Join(dir, name), f.mode)); err != nil {
			t.Fatal(err)
		}
	}
	store, err := LoadReadable(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadTrust(dir); err == nil {
		t.Error("LoadTrust left it out too")
	}
	narrowed, _ := store.Narrowed(store)
	for _, store := range []*Trust{store, store.WithRevocations(nil), store.Closed(errors.New("no list")), narrowed} {
		if got := store.Signers(); len(got) != 1 || got[0].Name != "team" {
			t.Errorf("signers %v", got)
		}
		left := store.LeftOut()
		if len(left) != 3 {
			t.Fatalf("left out: %v", left)
		}
		for i, want := range []string{"/bad.pem: no PEM block", "/half.pem: 1 of 2 PEM blocks are damaged", "/ops.pem: can be written by others"} {
			if !strings.Contains(left[i].Error(), dir+want) || remedy.Of(left[i]) == "" {
				t.Errorf("%v (%s), want %s", left[i], remedy.Of(left[i]), want)
			}
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadReadable(dir); !errors.Is(err, safefile.ErrUnsafe) {
		t.Errorf("a directory of everybody's: %v", err)
	}
}

func TestMessagesNameTheStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trust.d")
	store, err := LoadTrust(dir)
	if err != nil {
		t.Fatalf("no directory: %v", err)
	}
	s := generated(t, "team", "")
	_, err = store.Verify(Bundle{Object: object, Signature: s.sign(t, object)}, nil, now)
	_, message, hint := refusal(t, err)
	if !strings.Contains(message, "trust store "+dir+" (empty)") || !strings.Contains(hint, dir+"/NAME.pem") {
		t.Errorf("%s; %s", message, hint)
	}
	_, err = store.Verify(Bundle{Object: object, Signature: s.sign(t, object)}, []string{"team"}, now)
	if _, _, hint := refusal(t, err); !strings.Contains(hint, dir+"/team.pem") {
		t.Errorf("remedy %q", hint)
	}

	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/bad.pem", []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadTrust(dir); err == nil || !strings.Contains(err.Error(), dir+"/bad.pem: no PEM block") {
		t.Errorf("%v", err)
	}

	files := make(map[string][]byte)
	for i, want := range []string{7: `"k07")`, 8: `"k07" and 1 more)`, 10: `"k07" and 3 more)`} {
		files[fmt.Sprintf("k%02d.pem", i)] = s.pem()
		if got := trust(t, files).String(); !strings.HasSuffix(got, want) {
			t.Errorf("%d keys: %s", i+1, got)
		}
	}
}

func FuzzParseTrust(f *testing.F) {
	team := generated(f, "team", "")
	f.Add("team.pem", team.pem())
	f.Add("team.pem", team.publicPEM(f))
	f.Add("team.pem", append(team.pem(), team.publicPEM(f)...))
	f.Add(".pem", []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		store, err := ParseTrust(map[string][]byte{name: b})
		if (store == nil) == (err == nil) {
			t.Fatalf("store %v, error %v", store, err)
		}
		if err != nil {
			return
		}
		signers := store.Signers()
		if len(signers) == 0 || len(signers) != bytes.Count(b, []byte("-----BEGIN")) {
			t.Fatalf("%d keys of %q", len(signers), b)
		}
		for _, s := range signers {
			if !validName.MatchString(s.Name) || s.KeyID == "" {
				t.Fatalf("%+v", s)
			}
		}
	})
}

// One key has one digest, with a certificate, with another and bare.
func TestSignerKeySHA256(t *testing.T) {
	s := generated(t, "dev", "")
	again := issued(t, s.key, func(*x509.Certificate) {})
	spki, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range trust(t, map[string][]byte{"a.pem": s.pem(), "b.pem": again.pem(), "c.pem": s.publicPEM(t)}).Signers() {
		if got.KeySHA256 != hexOf(spki) {
			t.Errorf("%s: %q, want %s", got.Name, got.KeySHA256, hexOf(spki))
		}
	}
}

// TestNarrowed: what is left of a store is what another one has too, name,
// certificate and key.
func TestNarrowed(t *testing.T) {
	a := issued(t, nil, func(*x509.Certificate) {})
	renewed := issued(t, a.key, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(2) })
	b := generated(t, "b", "ed25519")
	store := trust(t, map[string][]byte{"a.pem": append(a.pem(), renewed.pem()...), "bare.pem": a.publicPEM(t), "b.pem": b.pem()})
	for _, tt := range []struct {
		name string
		next map[string][]byte
		left string
	}{
		{"the same", map[string][]byte{"a.pem": append(a.pem(), renewed.pem()...), "bare.pem": a.publicPEM(t), "b.pem": b.pem()}, "a a b bare"},
		{"one of two certificates", map[string][]byte{"a.pem": renewed.pem(), "bare.pem": a.publicPEM(t), "b.pem": b.pem()}, "a b bare"},
		{"another name", map[string][]byte{"c.pem": b.pem()}, ""},
		{"another key", map[string][]byte{"b.pem": a.pem()}, ""},
		{"a certificate for the public key", map[string][]byte{"bare.pem": a.pem()}, ""},
		{"more", map[string][]byte{"b.pem": append(b.pem(), a.pem()...), "d.pem": renewed.pem()}, "b"},
	} {
		narrowed, gone := store.Narrowed(trust(t, tt.next))
		var left []string
		for _, s := range narrowed.Signers() {
			left = append(left, s.Name)
		}
		if strings.Join(left, " ") != tt.left || len(left)+len(gone) != 4 {
			t.Errorf("%s: %q left, %d gone", tt.name, left, len(gone))
		}
	}
	closed := store.Closed(errors.New("no list"))
	if narrowed, _ := closed.Narrowed(store); narrowed.Unlisted() == nil {
		t.Error("a closed store was opened")
	}
	l := list(t, "serial = 3\n")
	if narrowed, _ := store.WithRevocations(l).Narrowed(store); narrowed.Revocations() != l {
		t.Error("the list in force was lost")
	}
}
