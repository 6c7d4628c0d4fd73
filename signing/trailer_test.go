package signing

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
)

// TestSignFile: what the kernel's sign-file made (testdata/make.sh) is accepted,
// and what is read is the object as it was before.
func TestSignFile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.o")
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".o")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := os.ReadFile("testdata/" + name + ".pem")
		if err != nil {
			t.Fatal(err)
		}
		v, err := trust(t, map[string][]byte{"kernel.pem": cert}).Verify(Bundle{Object: b, ObjectFile: file}, nil, made.AddDate(1, 0, 0))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := readAll(t, v); string(got) != "\x7fELF what somebody else signed\n" || v.Format() != "cms-appended" || v.Covers() != "object" || v.Size() != len(got) {
			t.Errorf("%s: format %s, covers %s, %d bytes: %q", name, v.Format(), v.Covers(), v.Size(), got)
		}
	}
}

func readAll(t testing.TB, v Verified) []byte {
	t.Helper()
	b := make([]byte, v.Size())
	if _, err := v.Reader().ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// takeApart is how somebody who knows struct module_signature, and nothing of
// this package, takes a file apart.
const takeApart = `set -eu
size=$(stat -c %s "$1")
[ "$(tail -c 28 "$1")" = "~Module signature appended~" ]
len=$((0x$(tail -c 32 "$1" | head -c 4 | od -An -tx1 | tr -d ' ')))
head -c $((size - 28 - 12 - len)) "$1" >"$2"
tail -c $((28 + 12 + len)) "$1" | head -c "$len" >"$3"
[ "$(tail -c 40 "$1" | head -c 8 | od -An -tx1 | tr -d ' \n')" = 0000020000000000 ]`

// TestAppendForOpenSSL: openssl verifies the parts of what Append made, for each kind
// of key that it can verify without attributes.
func TestAppendForOpenSSL(t *testing.T) {
	for _, algorithm := range []string{"ecdsa", "ecdsa-p384", "rsa-2048"} {
		dir := t.TempDir()
		s := generated(t, "team", algorithm)
		signed := Append(object, s.sign(t, object))
		for name, b := range map[string][]byte{"x.o": signed, "cert.pem": s.pem()} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		run := func(name string, args ...string) {
			t.Helper()
			cmd := exec.Command(name, args...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %s %v: %v\n%s", algorithm, name, args, err, out)
			}
		}
		run("sh", "-c", takeApart, "sh", "x.o", "contents", "p7s")
		run("openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "p7s", "-content", "contents",
			"-certfile", "cert.pem", "-CAfile", "cert.pem", "-purpose", "any", "-out", "out")
		if got, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || !bytes.Equal(got, object) {
			t.Errorf("%s: openssl verified %q (%v)", algorithm, got, err)
		}
	}
}

// end is the trailer of a file: twelve bytes and the marker.
func end(head string, size int) string {
	return string(binary.BigEndian.AppendUint32([]byte(head), uint32(size))) + marker
}

func TestTrailer(t *testing.T) {
	const cmsHead = "\x00\x00\x02\x00\x00\x00\x00\x00"
	s := generated(t, "team", "")
	store := trust(t, map[string][]byte{"team.pem": s.pem()})
	good, obj := string(s.sign(t, object)), string(object)
	another := string(s.sign(t, []byte("another")))

	for _, test := range []struct {
		name, file string
		detached   []byte
		verdict    Verdict
		says       string
	}{
		{"good", obj + good + end(cmsHead, len(good)), nil, OK, ""},
		{"marker without its newline", obj + good + strings.TrimSuffix(end(cmsHead, len(good)), "\n"), nil, Unsigned, "there is no signature /o/x.o.p7s"},
		{"something behind the marker", obj + good + end(cmsHead, len(good)) + "\x00", nil, Unsigned, "there is no signature"},
		{"marker alone", marker, nil, BadSignature, "its appended signature is cut off"},
		{"marker behind the object", obj[:11] + marker, nil, BadSignature, "its appended signature is cut off"},
		{"marker behind a longer object", obj + marker, nil, BadSignature, "is not CMS, or its trailer"},
		{"trailer alone", end(cmsHead, len(good)), nil, BadSignature, "more than the file"},
		{"signature alone", good + end(cmsHead, len(good)), nil, BadSignature, "more than the file"},
		{"signature of nothing", end(cmsHead, 0), nil, BadSignature, "has 0 bytes"},
		{"no signature", obj + end(cmsHead, 0), nil, BadSignature, "has 0 bytes, 1 to 65536 are accepted"},
		{"longer than the file", obj + good + end(cmsHead, len(obj+good)+1), nil, BadSignature, "more than the file"},
		{"4 GiB", obj + good + end(cmsHead, -1), nil, BadSignature, "has 4294967295 bytes"},
		{"as large as a message may be", strings.Repeat(obj, 1<<13) + end(cmsHead, cms.MaxSize), nil, BadSignature, "ContentInfo is malformed"},
		{"larger than a message may be", strings.Repeat(obj, 1<<13) + end(cmsHead, cms.MaxSize+1), nil, BadSignature, "has 65537 bytes"},
		{"a byte short", obj + good + end(cmsHead, len(good)-1), nil, BadSignature, "ContentInfo is malformed"},
		{"a byte long", obj + good + end(cmsHead, len(good)+1), nil, BadSignature, "ContentInfo is malformed"},
		{"a byte between object and signature", obj + "\x00" + good + end(cmsHead, len(good)), nil, BadSignature, "is not a signature over this file"},
		{"a byte behind the signature", obj + good + "\x00" + end(cmsHead, len(good)+1), nil, BadSignature, "something follows ContentInfo"},
		{"over another object", obj + another + end(cmsHead, len(another)), nil, BadSignature, `the signature at its end is not a signature over this file by "team"`},
		{"little endian", obj + good + cmsHead + string(binary.LittleEndian.AppendUint32(nil, uint32(len(good)))) + marker, nil, BadSignature, "bytes, 1 to 65536"},
		{"PGP", obj + good + end("\x00\x00\x00\x00\x00\x00\x00\x00", len(good)), nil, BadSignature, "is not CMS"},
		{"raw X.509", obj + good + end("\x00\x00\x01\x00\x00\x00\x00\x00", len(good)), nil, BadSignature, "is not CMS"},
		{"kind 3", obj + good + end("\x00\x00\x03\x00\x00\x00\x00\x00", len(good)), nil, BadSignature, "is not CMS"},
		{"algorithm", obj + good + end("\x01\x00\x02\x00\x00\x00\x00\x00", len(good)), nil, BadSignature, "trailer (0100020000000000"},
		{"hash", obj + good + end("\x00\x04\x02\x00\x00\x00\x00\x00", len(good)), nil, BadSignature, "is not CMS"},
		{"signer's name", obj + "team" + good + end("\x00\x00\x02\x04\x00\x00\x00\x00", len(good)), nil, BadSignature, "is not CMS"},
		{"key identifier", obj + good + end("\x00\x00\x02\x00\x04\x00\x00\x00", len(good)), nil, BadSignature, "is not CMS"},
		{"padding", obj + good + end("\x00\x00\x02\x00\x00\x00\x00\x01", len(good)), nil, BadSignature, "is not CMS"},
		{"appended twice", string(Append(Append(object, []byte(good)), s.sign(t, Append(object, []byte(good))))), nil, OK, ""},
		{"and detached", obj + good + end(cmsHead, len(good)), []byte(good), BadSignature, "it has a signature at its end and another one, /o/x.o.p7s"},
		{"and a detached one over all of it", obj + good + end(cmsHead, len(good)), s.sign(t, []byte(obj+good+end(cmsHead, len(good)))), BadSignature, "another one"},
		{"a bad one, and a good detached one", obj + end(cmsHead, 0), []byte(good), BadSignature, "has 0 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, err := store.Verify(Bundle{Object: []byte(test.file), ObjectFile: "/o/x.o", Signature: test.detached}, nil, time.Now())
			check(t, v, err, test.verdict, []string{test.says}, "")
			if err == nil && !strings.HasPrefix(test.file, string(readAll(t, v))) {
				t.Error("what is read is not the beginning of the file")
			}
		})
	}
}

// TestAppendedIsNotCopied: the bytes that are loaded are those of the one buffer
// that was read, and nobody can write behind them into the signature.
func TestAppendedIsNotCopied(t *testing.T) {
	s := generated(t, "team", "")
	file := Append(object, s.sign(t, object))
	contents, signature, err := split(file)
	if err != nil || &contents[0] != &file[0] || &signature[0] != &file[len(object)] || cap(contents) != len(object) {
		t.Fatalf("%v, %d bytes with room for %d", err, len(contents), cap(contents))
	}
	v, err := trust(t, map[string][]byte{"team.pem": s.pem()}).Verify(Bundle{Object: file}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	file[0] ^= 1
	if readAll(t, v)[0] != file[0] {
		t.Error("the bytes were copied")
	}
}

// TestEveryBitAppended flips every bit of a file with a signature at its end.
func TestEveryBitAppended(t *testing.T) {
	s := generated(t, "team", "")
	store := trust(t, map[string][]byte{"team.pem": s.pem()})
	file := Append(object, s.sign(t, object))
	for i := range file {
		for bit := range 8 {
			file[i] ^= 1 << bit
			if _, err := store.Verify(Bundle{Object: file, ObjectFile: "x.o"}, nil, time.Now()); err == nil {
				t.Errorf("accepted with bit %d of byte %d changed", bit, i)
			}
			file[i] ^= 1 << bit
		}
	}
	for n := range file {
		if _, err := store.Verify(Bundle{Object: file[:n], ObjectFile: "x.o"}, nil, time.Now()); err == nil {
			t.Errorf("accepted when cut to %d bytes", n)
		}
	}
}

// FuzzSplit: a file is taken apart in one way only, and that one undoes Append.
func FuzzSplit(f *testing.F) {
	for _, name := range []string{"rsa", "p256"} {
		b, err := os.ReadFile("testdata/" + name + ".o")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(marker))
	f.Add([]byte(end("\x00\x00\x02\x00\x00\x00\x00\x00", 1)))
	f.Add(Append([]byte("x"), []byte("y")))
	f.Add(Append(Append([]byte("x"), []byte("y")), []byte("z")))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		contents, signature, err := split(b)
		switch {
		case !bytes.Equal(b, before):
			t.Fatal("split changed its argument")
		case err != nil && (contents != nil || signature != nil):
			t.Fatalf("%v and parts", err)
		case err == nil && signature == nil && (!bytes.Equal(contents, b) || bytes.HasSuffix(b, []byte(marker))):
			t.Fatalf("no signature in %q", b)
		case err == nil && signature != nil && (len(contents) == 0 || len(signature) == 0 || !bytes.Equal(Append(contents, signature), b)):
			t.Fatalf("parts %q and %q of %q", contents, signature, b)
		}
		if fmt.Sprint(err) != fmt.Sprint(errorOf(Contents(b))) {
			t.Fatal("Contents says something else")
		}
	})
}

func errorOf(_ []byte, err error) error { return err }
