package cms

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// signingOptions are the options of `openssl cms` that can change what -sign
// makes, and the dimension or the row below that tries them. One that OpenSSL
// has and this does not name fails TestOpenSSLOptions.
var signingOptions = map[string]string{
	"binary": "dimension input", "asciicrlf": "refused", "crlfeol": "not signing: how S/MIME's lines end",
	"inform": "not signing: of what is verified", "outform": "refused", "rctform": "not signing: of receipts",
	"stream": "refused", "indef": "refused", "noindef": "other shapes",
	"md": "dimension digest, TestOpenSSLDigests", "signer": "dimension key, refused", "certfile": "dimension certificates",
	"cades": "dimension attributes", "nodetach": "refused", "nocerts": "dimension certificates",
	"noattr": "dimension attributes", "nosmimecap": "dimension attributes", "no_signing_time": "dimension attributes",
	"receipt_request_all": "dimension attributes", "receipt_request_first": "other shapes",
	"receipt_request_from": "other shapes", "receipt_request_to": "dimension attributes",
	"keyid": "dimension identifier", "econtent_type": "refused", "text": "TestOpenSSLNotBinary",
	"certsout": "not signing: of -verify", "to": "not signing: S/MIME's header", "from": "not signing: S/MIME's header", "subject": "not signing: S/MIME's header",
	"inkey": "dimension key", "keyopt": "dimension padding",
}

// TestOpenSSLOptions: no option of this OpenSSL is one that nobody thought of.
func TestOpenSSLOptions(t *testing.T) {
	o := newOpenSSL(t)
	help, _ := o.run("cms", "-help") // the exit status differs by version
	section, found := "", 0
	for line := range strings.Lines(string(help)) {
		if heading, ok := strings.CutSuffix(strings.TrimSpace(line), "options:"); ok {
			section = heading
			continue
		}
		name := regexp.MustCompile(`^ -(\w+)`).FindStringSubmatch(line)
		if name == nil || !slices.Contains([]string{"File format ", "Signing ", "Output "}, section) {
			continue
		}
		found++
		if signingOptions[name[1]] == "" {
			t.Errorf("%s: openssl cms -%s is not tried", o.version, name[1])
		}
	}
	if found < 20 {
		t.Errorf("%d options found in\n%s", found, help)
	}
}

// Dimensions of what `openssl cms -sign` makes, by the options for it.
var (
	digestShapes      = [][]string{{"-md", "sha256"}, {"-md", "sha384"}, {"-md", "sha512"}}
	attributeShapes   = [][]string{{}, {"-noattr"}, {"-nosmimecap"}, {"-cades"}, {"-receipt_request_to", "a@b", "-receipt_request_all"}}
	certificateShapes = [][]string{{}, {"-nocerts"}, {"-certfile", "chain.pem"}, {"-nocerts", "-certfile", "chain.pem"}}
	identifierShapes  = [][]string{{}, {"-keyid"}}
	paddingShapes     = [][]string{{}, pssShape("digest"), pssShape("max"), pssShape("auto"), pssShape("100"), append(pssShape("digest"), "-keyopt", "rsa_mgf1_md:same")}

	// What changes nothing else, alone.
	otherShapes = [][]string{{}, {"-noindef"}, {"-receipt_request_to", "a@b", "-receipt_request_first"}, {"-receipt_request_to", "a@b", "-receipt_request_from", "c@d"}}
)

func pssShape(salt string) []string {
	return []string{"-keyopt", "rsa_padding_mode:pss", "-keyopt", "rsa_pss_saltlen:" + salt}
}

// shapes are all combinations for a key.
func shapes(key string) [][]string {
	dimensions := [][][]string{digestShapes, attributeShapes, certificateShapes, identifierShapes}
	switch {
	case key == "ed25519":
		dimensions[0] = digestShapes[2:] // RFC 8419
	case strings.HasPrefix(key, "rsa"):
		dimensions = append(dimensions, paddingShapes)
	}
	product := [][]string{{}}
	for _, dimension := range dimensions {
		var next [][]string
		for _, p := range product {
			for _, d := range dimension {
				next = append(next, slices.Concat(p, d))
			}
		}
		product = next
	}
	for i, shape := range product {
		product[i] = slices.Clone(shape)
		if at := slices.Index(shape, "rsa_mgf1_md:same"); at >= 0 { // -md is what comes first
			product[i][at] = "rsa_mgf1_md:" + shape[1]
		}
	}
	return append(product, otherShapes...)
}

// TestOpenSSLSigns: what `openssl cms -sign` makes is accepted, for what it
// was made for and nothing else, as `openssl cms -verify` says too. In the
// short form every 37th shape of a key is tried.
func TestOpenSSLSigns(t *testing.T) {
	o := newOpenSSL(t)
	for _, k := range opensslKeys {
		key := k[0]
		t.Run(key, func(t *testing.T) {
			if err := o.sign(key); err != nil && key == "ed25519" {
				t.Skipf("%s cannot sign CMS with Ed25519, here only Sign can: %v", o.version, err)
			}
			cert, other := o.cert(t, key), o.read(t, "other")
			all := shapes(key)
			if testing.Short() {
				all = everyNth(all, 37)
			}
			var tried sync.Map
			var third differences
			parallel(all, func(shape []string) {
				b, err := o.signTo(key, shape)
				if err != nil {
					t.Error(err)
					return
				}
				what := strings.Join(shape, " ")
				if err := accept(b, content, cert); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if err := accept(b, other, cert); !errors.Is(err, ErrSignature) {
					t.Errorf("%s: another object: %v", what, err)
				}
				if err := o.verify(key, b); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if err := third.compare(nil, b, content, cert); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				tried.Store(what, true)
			})
			n := 0
			tried.Range(func(any, any) bool { n++; return true })
			if n != len(all) {
				t.Errorf("%d of %d shapes were tried", n, len(all))
			}
			t.Logf("%s: %d shapes, accepted here and by openssl cms -verify; smallstep/pkcs7 reads %d of them and accepts those", key, n, third.agreed)
		})
	}
}

func everyNth[T any](all []T, n int) (some []T) {
	for i := 0; i < len(all); i += n {
		some = append(some, all[i])
	}
	return some
}

// parallel calls f with each of all, a few at a time.
func parallel[T any](all []T, f func(T)) {
	next := make(chan T)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for v := range next {
				f(v)
			}
		})
	}
	for _, v := range all {
		next <- v
	}
	close(next)
	workers.Wait()
}

// signTo signs "object" in a shape and returns the message.
func (o *openssl) signTo(key string, shape []string) ([]byte, error) {
	f, err := os.CreateTemp(o.dir, "*.p7s")
	if err != nil {
		return nil, err
	}
	f.Close()
	defer os.Remove(f.Name())
	if err := o.sign(key, append(slices.Clone(shape), "-out", f.Name())...); err != nil {
		return nil, err
	}
	return os.ReadFile(f.Name())
}

// verify has openssl verify a message over "object" and refuse it for "other".
func (o *openssl) verify(key string, b []byte) error {
	f, err := os.CreateTemp(o.dir, "*.p7s")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		return err
	}
	f.Close()
	args := []string{"cms", "-verify", "-binary", "-inform", "DER", "-in", f.Name(), "-certfile", key + ".pem", "-CAfile", key + ".pem",
		"-purpose", "any", "-out", os.DevNull, "-content"}
	if _, err := o.run(append(args, "object")...); err != nil {
		return err
	}
	if _, err := o.run(append(args, "other")...); err == nil {
		return errors.New("openssl verified another object: this test proves nothing")
	}
	return nil
}

// TestOpenSSLRefused: what OpenSSL makes and this package does not take.
func TestOpenSSLRefused(t *testing.T) {
	o := newOpenSSL(t)
	o.write(t, "lines", []byte("\x7fELF\nlines\n"))
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"content inside": {[]string{"-nodetach"}, "content is inside"},
		"content inside, no attributes, no certificates": {[]string{"-nodetach", "-noattr", "-nocerts", "-keyid"}, "content is inside"},
		"SHA-1":                         {[]string{"-md", "sha1"}, "(SHA-1) is not accepted"},
		"SHA-1, no attributes":          {[]string{"-md", "sha1", "-noattr"}, "(SHA-1) is not accepted"},
		"SHA-1 with PSS":                {append(pssShape("digest"), "-md", "sha1"), "(SHA-1) is not accepted"},
		"two signers":                   {[]string{"-signer", "p256.pem", "-inkey", "p256.key"}, "more"},
		"two signers, one digest":       {[]string{"-signer", "rsa3072.pem", "-inkey", "rsa3072.key"}, "more than one signer"},
		"the same signer twice":         {[]string{"-nocerts", "-signer", "rsa.pem", "-inkey", "rsa.key"}, "more than one signer"},
		"BER, content inside":           {[]string{"-nodetach", "-stream"}, "ContentInfo is malformed"},
		"BER, indefinite length":        {[]string{"-indef", "-stream"}, "ContentInfo is malformed"},
		"another content type":          {[]string{"-econtent_type", "1.2.3.4"}, "is 1.2.3.4, not data"},
		"PSS with no salt":              {pssShape("0"), "salt of 0 bytes"},
		"PSS with a short salt":         {pssShape("8"), "salt of 8 bytes"},
		"PSS with a salt one too short": {pssShape("31"), "salt of 31 bytes"},
		"PSS with another mask":         {append(pssShape("digest"), "-keyopt", "rsa_mgf1_md:sha512"), "SHA-256 and SHA-512"},
		"PSS with SHA-1 as mask":        {append(pssShape("digest"), "-keyopt", "rsa_mgf1_md:sha1"), "maskGenAlgorithm is malformed or missing"}, // the default of PSS, which DER leaves out,
		"PEM":                           {[]string{"-outform", "PEM"}, "ContentInfo is malformed"},
		"S/MIME":                        {[]string{"-outform", "SMIME"}, "ContentInfo is malformed"},
		"over another file":             {[]string{"-in", "other"}, "signature does not match"},
		"lines as text":                 {[]string{"-in", "lines", "-asciicrlf"}, "is 1.2.840.113549.1.9.16.1.27, not data"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := o.signTo("rsa", test.args)
			if err != nil {
				t.Fatal(err)
			}
			err = accept(b, content, o.cert(t, "rsa"))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestOpenSSLNotBinary: without -binary OpenSSL signs text whose lines end as
// S/MIME's do, which are other bytes than the file's.
func TestOpenSSLNotBinary(t *testing.T) {
	o := newOpenSSL(t)
	lines := []byte("\x7fELF\nlines\n")
	o.write(t, "lines", lines)
	cert := o.cert(t, "rsa")
	text := bytes.ReplaceAll(lines, []byte("\n"), []byte("\r\n"))
	for _, test := range []struct {
		option string
		signed []byte
	}{
		{"-nosmimecap", text}, // as good as none
		{"-text", append([]byte("Content-Type: text/plain\r\n\r\n"), text...)},
	} {
		o.must(t, "cms", "-sign", test.option, "-in", "lines", "-signer", "rsa.pem", "-inkey", "rsa.key", "-outform", "DER", "-out", "lines.p7s")
		b := o.read(t, "lines.p7s")
		if err := accept(b, lines, cert); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: the file: %v", test.option, err)
		}
		if err := accept(b, test.signed, cert); err != nil {
			t.Errorf("%s: what was signed: %v", test.option, err)
		}
	}
}

// TestOpenSSLOtherTypes: CMS that is no signature, and a message signed again.
func TestOpenSSLOtherTypes(t *testing.T) {
	o := newOpenSSL(t)
	to := []string{"-in", "object", "-outform", "DER", "-binary", "-out", "other.cms"}
	if err := o.sign("rsa"); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"enveloped data":  {append([]string{"cms", "-encrypt", "-aes256", "-recip", "rsa.pem"}, to...), "1.2.840.113549.1.7.3 is not signed data"},
		"encrypted data":  {append([]string{"cms", "-EncryptedData_encrypt", "-aes256", "-secretkey", strings.Repeat("00", 32)}, to...), "1.2.840.113549.1.7.6 is not signed data"},
		"digested data":   {append([]string{"cms", "-digest_create", "-md", "sha256"}, to...), "1.2.840.113549.1.7.5 is not signed data"},
		"compressed data": {append([]string{"cms", "-compress"}, to...), "1.2.840.113549.1.9.16.1.9 is not signed data"},
		"data":            {append([]string{"cms", "-data_create"}, to...), "1.2.840.113549.1.7.1 is not signed data"},
		"signed again": {[]string{"cms", "-resign", "-inform", "DER", "-in", "object.p7s", "-signer", "rsa3072.pem", "-inkey", "rsa3072.key",
			"-outform", "DER", "-out", "other.cms"}, "more than one signer"},
		"PKCS #7, content inside": {[]string{"smime", "-sign", "-binary", "-nodetach", "-in", "object", "-signer", "rsa.pem", "-inkey", "rsa.key",
			"-outform", "DER", "-out", "other.cms"}, "content is inside"},
		"certificates alone": {[]string{"crl2pkcs7", "-nocrl", "-certfile", "rsa.pem", "-outform", "DER", "-out", "other.cms"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := o.run(test.args...); err != nil {
				if strings.Contains(string(out), "unsupported compression algorithm") { // Debian's has none
					t.Logf("%s is built without compression", o.version)
					return
				}
				t.Fatal(err)
			}
			err := accept(o.read(t, "other.cms"), content, o.cert(t, "rsa"))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestOpenSSLSmime: the older command makes PKCS #7, which is the same message.
func TestOpenSSLSmime(t *testing.T) {
	o := newOpenSSL(t)
	for _, shape := range [][]string{{}, {"-noattr"}, {"-nocerts"}, {"-noattr", "-nocerts", "-md", "sha512"}} {
		for _, key := range []string{"rsa", "p256"} {
			o.must(t, append([]string{"smime", "-sign", "-binary", "-in", "object", "-signer", key + ".pem", "-inkey", key + ".key",
				"-md", "sha256", "-outform", "DER", "-out", "smime.p7s"}, shape...)...)
			if err := accept(o.read(t, "smime.p7s"), content, o.cert(t, key)); err != nil {
				t.Errorf("%s %v: %v", key, shape, err)
			}
		}
	}
}

// TestOpenSSLDigests has OpenSSL sign with every digest it has.
func TestOpenSSLDigests(t *testing.T) {
	o := newOpenSSL(t)
	accepted, made := []string{"sha256", "sha384", "sha512"}, 0
	for _, digest := range strings.Fields(string(o.must(t, "dgst", "-list"))) {
		digest, ok := strings.CutPrefix(digest, "-")
		if !ok {
			continue
		}
		for _, key := range []string{"rsa", "p256"} {
			b, err := o.signTo(key, []string{"-md", digest})
			if err != nil {
				continue // OpenSSL cannot, for example with SHAKE
			}
			made++
			err = accept(b, content, o.cert(t, key))
			if slices.Contains(accepted, digest) != (err == nil) || err != nil && !strings.Contains(err.Error(), "is not accepted") {
				t.Errorf("%s with %s: %v", key, digest, err)
			}
		}
	}
	if made < 12 {
		t.Errorf("OpenSSL signed with %d digests only", made)
	}
	t.Logf("%d pairs of key and digest", made)
}

// TestOpenSSLKeys has OpenSSL sign with keys of every other kind and curve that
// it has: none is accepted.
func TestOpenSSLKeys(t *testing.T) {
	o := newOpenSSL(t)
	kinds := map[string][]string{
		"rsa1024": {"rsa:1024"}, "rsa2047": {"rsa:2047"}, // more than 8192 bits take a minute: TestCheckKey
		"rsa-pss": {"rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"}, "ed448": {"ed448"}, "sm2": {"sm2"},
	}
	for _, curve := range regexp.MustCompile(`(?m)^\s*(\S+)\s*:`).FindAllStringSubmatch(string(o.must(t, "ecparam", "-list_curves")), -1) {
		if !slices.Contains([]string{"prime256v1", "secp384r1", "secp521r1", "SM2"}, curve[1]) {
			kinds[curve[1]] = []string{"ec", "-pkeyopt", "ec_paramgen_curve:" + curve[1]}
		}
	}
	o.must(t, "dsaparam", "-out", "dsa.params", "2048")
	kinds["dsa"] = []string{"dsa:dsa.params"}
	var mu sync.Mutex
	made := 0
	parallel(slices.Sorted(maps.Keys(kinds)), func(name string) {
		file := "kind-" + name
		if _, err := o.run(append([]string{"req", "-x509", "-nodes", "-sha256", "-keyout", file + ".key", "-out", file + ".pem", "-subj", "/CN=kind", "-newkey"}, kinds[name]...)...); err != nil {
			return // OpenSSL has the name, but makes no certificate with it
		}
		b, err := o.signTo(file, []string{"-md", "sha256", "-keyid"})
		if err != nil {
			return
		}
		mu.Lock()
		made++
		mu.Unlock()
		if err := o.refusedKey(file, b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	if made < 50 {
		t.Errorf("OpenSSL signed with %d kinds of keys only", made)
	}
	t.Logf("%d kinds of keys, none accepted", made)
}

// refusedKey returns an error where a message with the key of a certificate is
// accepted.
func (o *openssl) refusedKey(file string, message []byte) error {
	b, err := os.ReadFile(filepath.Join(o.dir, file+".pem"))
	if err != nil {
		return err
	}
	block, _ := pem.Decode(b)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil // no such curve: it never gets to be a key
	}
	if err := accept(message, content, cert); err == nil {
		return fmt.Errorf("accepted by a key of type %T", cert.PublicKey)
	}
	if CheckKey(cert.PublicKey) == nil {
		return fmt.Errorf("%T is a key that is accepted", cert.PublicKey)
	}
	return nil
}
