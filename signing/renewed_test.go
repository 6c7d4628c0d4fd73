package signing

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// caConfig has openssl issue with dates of our choice.
const caConfig = `
[ca]
default_ca = main
[main]
new_certs_dir = .
database      = index
rand_serial   = yes
default_md    = sha256
policy        = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints     = critical,CA:true
keyUsage             = critical,keyCertSign
subjectKeyIdentifier = hash
[signer]
basicConstraints     = CA:false
keyUsage             = critical,digitalSignature
extendedKeyUsage     = critical,codeSigning
subjectKeyIdentifier = hash
`

// TestRenewedCA: openssl issues a certificate, and when that has ended renews its
// CA's, which begins later. There is no moment at which both were valid. With the
// old one gone from the store what the certificate's key signed has expired: it is
// nothing that nobody knows.
func TestRenewedCA(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, contents := range map[string]string{"ca.conf": caConfig, "index": "", "object": string(object)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(contents), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args string) string { t.Helper(); return openssl(t, dir, strings.Fields(args)...) }
	run("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.csr -subj /CN=root")
	run("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -out leaf.csr -subj /CN=leaf")
	root := "ca -batch -config ca.conf -notext -selfsign -keyfile root.key -in root.csr -extensions authority "
	run(root + "-startdate 20200101000000Z -enddate 20220101000000Z -out old.pem")
	run(root + "-startdate 20250101000000Z -enddate 20350101000000Z -out new.pem")
	run(root + "-startdate 20300101000000Z -enddate 20350101000000Z -out future.pem")
	run("ca -batch -config ca.conf -notext -keyfile root.key -cert old.pem -in leaf.csr -extensions signer -startdate 20200601000000Z -enddate 20210601000000Z -out leaf.pem")
	run("cms -sign -binary -in object -signer leaf.pem -inkey leaf.key -outform DER -out object.p7s")
	run("verify -no_check_time -purpose any -CAfile new.pem leaf.pem") // it is the CA's, whenever

	for _, test := range []struct {
		root     string
		at       time.Time
		verdict  Verdict
		says     string
		accepted Verdict
	}{
		{"old.pem", now.AddDate(-6, 0, 0), OK, "", OK},
		{"old.pem", now, Expired, `certificate of "CN=leaf" was valid until 2021-06-01`, OKExpired},
		{"new.pem", now, Expired, `certificate of "CN=leaf" was valid until 2021-06-01`, OKExpired},
		{"new.pem", now.AddDate(-6, 0, 0), Expired, `certificate of "CN=root" is valid from 2025-01-01`, OKNotYetValid},
		{"future.pem", now, Expired, `certificate of "CN=root" is valid from 2030-01-01`, OKNotYetValid},
	} {
		store := trust(t, map[string][]byte{"ca.pem": read(test.root)})
		b := Bundle{Object: object, ObjectFile: "x.o", Signature: read("object.p7s")}
		v, err := store.Verify(b, nil, test.at)
		check(t, v, err, test.verdict, []string{test.says}, "")
		b.Accepted = func(Signer, [32]byte) bool { return true }
		v, err = store.Verify(b, nil, test.at)
		if err != nil || v.Verdict() != test.accepted {
			t.Errorf("%s at %s, loaded here before: %s, %v, want %s", test.root, test.at, v.Verdict(), err, test.accepted)
		}
		l := list(t, "serial = 1\n[[key]]\nid = '"+v.Signer().KeyID+"'\n")
		v, err = store.WithRevocations(l).Verify(b, nil, test.at)
		check(t, v, err, Revoked, nil, "")
		b.Object = []byte("another")
		v, err = store.Verify(b, nil, test.at)
		check(t, v, err, BadSignature, nil, "")
	}
	// Both in the store: what is valid counts, whichever it is.
	both := trust(t, map[string][]byte{"ca.pem": append(read("new.pem"), read("old.pem")...)})
	if v, err := both.Verify(Bundle{Object: object, Signature: read("object.p7s")}, nil, now.AddDate(-6, 0, 0)); err != nil || v.Verdict() != OK {
		t.Errorf("%s, %v", v.Verdict(), err)
	}
}
