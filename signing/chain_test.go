package signing

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
)

// certified is a signer with a certificate by ca, which change makes of a good
// one. A nil ca is the key itself.
func certified(t testing.TB, ca *signer, name string, key crypto.Signer, change func(*x509.Certificate)) signer {
	t.Helper()
	if key == nil {
		key = generated(t, "issued", "").key
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := derivedKeyIDs(spki)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, SubjectKeyId: ids[0], BasicConstraintsValid: true,
		NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 0, 1),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	change(template)
	parent, signingKey := template, key
	if ca != nil {
		parent, signingKey = ca.cert, ca.key
	}
	b, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signingKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(b)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, cert}
}

func asIs(*x509.Certificate) {}

// asCA makes a certificate a CA's that is valid for ten days around now.
func asCA(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	c.NotBefore, c.NotAfter = now.AddDate(0, 0, -5), now.AddDate(0, 0, 5)
}

// carry signs with s, and carries these certificates.
func (s signer) carry(t testing.TB, object []byte, certs ...signer) []byte {
	t.Helper()
	var carried [][]byte
	for _, c := range certs {
		carried = append(carried, c.cert.Raw)
	}
	b, err := cms.Sign(object, s.key, s.cert.SubjectKeyId, carried...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChains(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	and := func(changes ...func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			for _, change := range changes {
				change(c)
			}
		}
	}
	critical := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	}
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	valid := func(from, until time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(from), now.Add(until) }
	}
	const day = 24 * time.Hour

	root := certified(t, nil, "root", nil, asCA)
	middle := certified(t, &root, "middle", nil, asCA)
	alice := certified(t, &root, "alice", nil, asIs)
	bob := certified(t, &middle, "bob", nil, asIs)
	imposter := certified(t, nil, "root", nil, and(asCA, func(c *x509.Certificate) { c.SubjectKeyId = root.cert.SubjectKeyId }))
	byImposter := certified(t, &imposter, "alice", nil, asIs)
	flat := certified(t, nil, "flat", nil, and(asCA, func(c *x509.Certificate) { c.MaxPathLenZero = true }))
	belowFlat := certified(t, &flat, "middle", nil, asCA)
	short := certified(t, nil, "short", nil, and(asCA, valid(-5*day, -time.Hour)))
	renewed := certified(t, nil, "root", root.key, and(asCA, valid(-time.Hour, 5*day)))
	noCA := certified(t, &root, "middle", nil, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
	noUsage := certified(t, &root, "middle", nil, and(asCA, func(c *x509.Certificate) { c.KeyUsage = 0 }))
	criticalCA := certified(t, &root, "middle", nil, and(asCA, critical))
	webCA := certified(t, &root, "middle", nil, and(asCA, usage(x509.ExtKeyUsageServerAuth)))
	leaf := func(ca signer, changes ...func(*x509.Certificate)) signer {
		return certified(t, &ca, "carol", nil, and(changes...))
	}
	var eight []signer
	for range 7 {
		eight = append(eight, middle)
	}

	for _, test := range []struct {
		name    string
		store   signer // the certificate of "ca"
		by      signer
		carries []signer // and the certificate of by
		without bool     // that one
		verdict Verdict
		says    string
	}{
		{"by a CA of the store", root, alice, []signer{alice}, false, OK, ""},
		{"by a CA below one of the store", root, bob, []signer{bob, middle}, false, OK, ""},
		{"the root comes along", root, bob, []signer{root, bob, middle}, false, OK, ""},
		{"others come along", root, alice, []signer{byImposter, alice, imposter}, false, OK, ""},
		{"eight certificates", root, bob, append(eight, bob), false, OK, ""},
		{"the CA was renewed", renewed, alice, []signer{alice}, false, OK, ""},

		{"no certificate", root, alice, nil, true, UnknownKey, "which is not in the trust store"},
		{"another's certificate", root, alice, []signer{bob}, true, UnknownKey, "it carries no certificate of its signer"},
		{"the CA between is missing", root, bob, []signer{bob}, false, UnknownKey, `the certificate of "CN=bob" in it does not lead to a CA of the store: certificate signed by unknown authority`},
		{"only the root comes along", middle, alice, []signer{alice, root}, false, UnknownKey, "does not lead to a CA of the store"},
		{"a CA of the same name", root, byImposter, []signer{byImposter}, false, UnknownKey, "does not lead to a CA of the store"},
		{"a CA of the same name, and it comes along", root, byImposter, []signer{byImposter, imposter}, false, UnknownKey, "does not lead to a CA of the store"},
		{"with another's certificate and his key", root, signer{imposter.key, alice.cert}, []signer{alice}, false, BadSignature, "signature does not match"},
		{"nine certificates", root, bob, append(eight, bob, root), false, UnknownKey, "it has 9 certificates in it, at most 8 are accepted"},
		{"a signer of the store is no CA", alice, leaf(alice), nil, true, UnknownKey, "not in the trust store"},
		{"a signer of the store issues", alice, leaf(alice), nil, false, UnknownKey, "there is no CA that could have issued the certificate in it"},

		{"CA without keyCertSign in the store", certified(t, nil, "root", root.key, and(asCA, func(c *x509.Certificate) { c.KeyUsage = 0 })), alice, []signer{alice}, false, UnknownKey, "there is no CA that"},
		{"keyCertSign and no CA in the store", certified(t, nil, "root", root.key, and(asCA, func(c *x509.Certificate) { c.IsCA = false })), alice, []signer{alice}, false, UnknownKey, "there is no CA that"},
		{"CA with a weak key", certified(t, nil, "weak", weakKey, asCA), leaf(certified(t, nil, "weak", weakKey, asCA)), nil, false, UnknownKey, ""},
		{"CA between is none", root, leaf(noCA), []signer{noCA}, false, UnknownKey, ""},
		{"CA between has no keyCertSign", root, leaf(noUsage), []signer{noUsage}, false, UnknownKey, ""},
		{"CA between has an unknown critical extension", root, leaf(criticalCA), []signer{criticalCA}, false, UnknownKey, ""},
		{"CA between is for the web", root, leaf(webCA), []signer{webCA}, false, UnknownKey, ""},
		{"path too long", flat, leaf(belowFlat), []signer{belowFlat}, false, UnknownKey, ""},

		{"no codeSigning", root, leaf(root, usage()), nil, false, UnknownKey, "no codeSigning among its extended key usages"},
		{"any usage", root, leaf(root, usage(x509.ExtKeyUsageAny)), nil, false, UnknownKey, "no codeSigning among"},
		{"for the web", root, leaf(root, usage(x509.ExtKeyUsageServerAuth)), nil, false, UnknownKey, "no codeSigning"},
		{"no digitalSignature", root, leaf(root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), nil, false, UnknownKey, `the certificate of "CN=carol" in it: certificate's key usage has no digitalSignature`},
		{"signer is a CA", root, leaf(root, func(c *x509.Certificate) { c.IsCA = true }), nil, false, UnknownKey, "is a CA's, which signs objects only where it is in the store itself"},
		{"unknown critical extension", root, leaf(root, critical), nil, false, UnknownKey, "critical extension"},

		{"expired", root, leaf(root, valid(-2*day, -time.Second)), nil, false, Expired, `certificate of "CN=carol" was valid until 2026-11-23T11:59:59Z`},
		{"not yet valid", root, leaf(root, valid(time.Second, day)), nil, false, Expired, `certificate of "CN=carol" is valid from 2026-11-23T12:00:01Z`},
		{"CA expired", short, leaf(short), nil, false, Expired, `certificate of "CN=short" was valid until 2026-11-23T11:00:00Z`},
	} {
		t.Run(test.name, func(t *testing.T) {
			carries := test.carries
			if !test.without && !slices.Contains(carries, test.by) {
				carries = append(slices.Clone(carries), test.by)
			}
			store := trust(t, map[string][]byte{"ca.pem": test.store.pem()})
			b := Bundle{Object: object, ObjectFile: "x.o", Signature: test.by.carry(t, object, carries...)}
			v, err := store.Verify(b, nil, now)
			check(t, v, err, test.verdict, []string{test.says}, "")
			if err == nil {
				if got := v.Signer(); got.Name != "ca" || got.Subject != test.by.cert.Subject.String() || got.KeyID != fmt.Sprintf("%x", test.by.cert.SubjectKeyId) || got.CA {
					t.Errorf("signer %+v", got)
				}
				if _, err := store.Verify(b, []string{"ca"}, now); err != nil {
					t.Error(err)
				}
			}
			if test.verdict == Expired { // is said of good signatures only
				b.Object = []byte("another")
				v, err := store.Verify(b, nil, now)
				check(t, v, err, BadSignature, nil, "")
			}
		})
	}

	// Whom the manifest wants, and whose name it is.
	store := trust(t, map[string][]byte{"alice.pem": alice.pem(), "ca.pem": root.pem(), "other.pem": flat.pem()})
	for _, test := range []struct {
		by      signer
		signers []string
		verdict Verdict
		name    string
	}{
		{alice, nil, OK, "alice"}, // the store itself goes first
		{alice, []string{"ca"}, UnknownKey, ""},
		{bob, []string{"ca"}, OK, "ca"},
		{bob, []string{"other", "ca"}, OK, "ca"},
		{bob, []string{"other"}, UnknownKey, ""},
	} {
		b := Bundle{Object: object, ObjectFile: "x.o", Signature: test.by.carry(t, object, test.by, middle)}
		v, err := store.Verify(b, test.signers, now)
		check(t, v, err, test.verdict, nil, "")
		if v.Signer().Name != test.name {
			t.Errorf("%v: signer %q, want %q", test.signers, v.Signer().Name, test.name)
		}
	}
	for _, s := range store.Signers() {
		if s.Problem != "" || s.CA != (s.Name != "alice") {
			t.Errorf("%+v", s)
		}
	}
	if v, err := store.Verify(Bundle{Object: object, Signature: root.sign(t, object)}, nil, now); err == nil {
		t.Errorf("%s signed as %q with a key for certificates", object, v.Signer().Name)
	}
}

// TestEveryBitOfAChain flips every bit of a message that carries certificates.
func TestEveryBitOfAChain(t *testing.T) {
	root := certified(t, nil, "root", nil, asCA)
	middle := certified(t, &root, "middle", nil, asCA)
	bob := certified(t, &middle, "bob", nil, asIs)
	store := trust(t, map[string][]byte{"ca.pem": root.pem()})
	b := Bundle{Object: object, ObjectFile: "x.o", Signature: bob.carry(t, object, bob, middle)}
	if _, err := store.Verify(b, nil, now); err != nil {
		t.Fatal(err)
	}
	for i := range b.Signature {
		for bit := range 8 {
			b.Signature[i] ^= 1 << bit
			if _, err := store.Verify(b, nil, now); err == nil {
				t.Errorf("accepted with bit %d of byte %d changed", bit, i)
			}
			b.Signature[i] ^= 1 << bit
		}
	}
}

// FuzzChain: whatever is in a message, it is over the one object that was ever
// signed, or it is refused with a remedy.
func FuzzChain(f *testing.F) {
	root := certified(f, nil, "root", nil, asCA)
	middle := certified(f, &root, "middle", nil, asCA)
	bob := certified(f, &middle, "bob", nil, asIs)
	store := trust(f, map[string][]byte{"ca.pem": root.pem()})
	for _, carried := range [][]signer{nil, {bob}, {bob, middle}, {middle, root}} {
		f.Add(bob.carry(f, object, carried...), object)
		f.Add(bob.carry(f, object, carried...), []byte("another"))
	}
	f.Fuzz(func(t *testing.T, message, b []byte) {
		v, err := store.Verify(Bundle{Object: b, ObjectFile: "x.o", Signature: message}, nil, now)
		if verdict, text, _ := refusal(t, err); verdict == OK && (string(b) != string(object) || v.Signer().Name != "ca") || strings.ContainsAny(text, "\n\x1b") {
			t.Fatalf("%s: %q over %q", verdict, text, b)
		}
	})
}

// TestChainsByOpenSSL: openssl issues and signs, Verify accepts; Issue and Sign do,
// openssl accepts.
func TestChainsByOpenSSL(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	openssl := func(args string) {
		t.Helper()
		cmd := exec.Command("openssl", strings.Fields(args)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", args, err, out)
		}
	}
	write("object", object)
	write("ca.ext", []byte("basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"))
	write("leaf.ext", []byte("basicConstraints=CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=critical,codeSigning\n"))
	openssl("req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -subj /CN=root -days 30 -addext keyUsage=critical,keyCertSign")
	openssl("req -new -newkey rsa:3072 -nodes -keyout middle.key -out middle.csr -subj /CN=middle")
	openssl("x509 -req -in middle.csr -CA root.pem -CAkey root.key -CAcreateserial -out middle.pem -days 20 -extfile ca.ext")
	openssl("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -out leaf.csr -subj /CN=leaf")
	openssl("x509 -req -in leaf.csr -CA middle.pem -CAkey middle.key -CAcreateserial -out leaf.pem -days 10 -extfile leaf.ext")
	openssl("cms -sign -binary -in object -signer leaf.pem -inkey leaf.key -certfile middle.pem -outform DER -out object.p7s")
	v, err := trust(t, map[string][]byte{"root.pem": read("root.pem")}).Verify(Bundle{Object: object, Signature: read("object.p7s")}, nil, time.Now())
	if err != nil || v.Signer().Name != "root" || v.Signer().Subject != "CN=leaf" {
		t.Errorf("%v, signer %+v", err, v.Signer())
	}
	// The chain it was accepted through, by openssl's digests.
	var chain []Key
	for _, name := range []string{"leaf", "middle", "root"} {
		openssl("x509 -in " + name + ".pem -outform DER -out " + name + ".der")
		openssl("x509 -in " + name + ".pem -pubkey -noout -out " + name + ".pub")
		openssl("pkey -pubin -in " + name + ".pub -outform DER -out " + name + ".spki")
		chain = append(chain, Key{Certificate: hexOf(read(name + ".der")), SHA256: hexOf(read(name + ".spki"))})
	}
	if got := v.Signer().Chain; len(got) != 3 || got[0].IDs[0] != v.Signer().KeyID || v.Signer().KeySHA256 != chain[0].SHA256 {
		t.Errorf("chain %+v, signer %+v", got, v.Signer())
	}
	for i, k := range v.Signer().Chain {
		if k.Certificate != chain[i].Certificate || k.SHA256 != chain[i].SHA256 {
			t.Errorf("link %d: %+v, openssl says %+v", i, k, chain[i])
		}
	}

	issue := func(name string, ca bool, issuer *Issuer) (*Issuer, []byte) {
		t.Helper()
		keyPEM, certPEM, err := Issue(name, "", ca, issuer)
		if err != nil {
			t.Fatal(err)
		}
		s := parsed(t, keyPEM, certPEM)
		return &Issuer{s.cert, s.key}, certPEM
	}
	root, rootPEM := issue("root", true, nil)
	middle, _ := issue("middle", true, root)
	leaf, _ := issue("leaf", false, middle)
	signature, err := Sign(object, leaf.Key, leaf.Cert, middle.Cert)
	if err != nil {
		t.Fatal(err)
	}
	write("our-root.pem", rootPEM)
	write("our.p7s", signature)
	openssl("cms -verify -binary -inform DER -in our.p7s -content object -CAfile our-root.pem -purpose any -out out")
	if v, err := trust(t, map[string][]byte{"root.pem": rootPEM}).Verify(Bundle{Object: object, Signature: signature}, nil, time.Now()); err != nil || v.Signer().Subject != "CN=leaf" {
		t.Errorf("%v, signer %+v", err, v.Signer())
	}
	brief := certified(t, nil, "brief", nil, func(c *x509.Certificate) { // by the real clock, as Issue has it
		asCA(c)
		c.NotBefore, c.NotAfter = time.Now().AddDate(0, 0, -1), time.Now().AddDate(0, 0, 5)
	})
	if got, _ := issue("leaf", false, &Issuer{brief.cert, brief.key}); !got.Cert.NotAfter.Equal(brief.cert.NotAfter) {
		t.Errorf("valid until %v, its issuer until %v", got.Cert.NotAfter, brief.cert.NotAfter)
	}
	for _, test := range []struct {
		ca     bool
		issuer *Issuer
		want   string
	}{
		{true, middle, "allows no CA below it"},
		{false, leaf, "is not a CA's that may sign certificates"},
		{false, &Issuer{root.Cert, leaf.Key}, "is not for the issuer's key"},
	} {
		if _, _, err := Issue("x", "", test.ca, test.issuer); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}
