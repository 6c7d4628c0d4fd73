package cms

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/asn1"
	"testing"
)

// FuzzParse: whatever is accepted is one DER element and nothing else, stays
// the same message however often it is read, and is none when cut.
func FuzzParse(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(s.message)
	}
	f.Add([]byte("\x30\x80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		m, err := Parse(b)
		if !bytes.Equal(b, before) {
			t.Fatal("Parse changed its argument")
		}
		if (m == nil) == (err == nil) {
			t.Fatalf("message %v, error %v", m, err)
		}
		if err != nil {
			return
		}
		var raw asn1.RawValue
		if rest, err := asn1.Unmarshal(b, &raw); err != nil || len(rest) > 0 {
			t.Fatalf("encoding/asn1 disagrees: %v, %d bytes more", err, len(rest))
		}
		if m.Signer() == "" || (m.keyID == nil) == (m.issuer == nil) || m.hash == 0 || m.algorithm.verify == nil {
			t.Fatalf("half a message: %+v", m)
		}
		for _, other := range [][]byte{b[:len(b)-1], append(before, 0)} {
			if _, err := Parse(other); err == nil {
				t.Fatal("accepted with a byte less or more")
			}
		}
	})
}

// FuzzVerify: two keys that only ever signed content verify nothing else,
// whatever the message.
func FuzzVerify(f *testing.F) {
	ed := newKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), nil)
	ec := newKey(ecdsa.ParseRawPrivateKey(elliptic.P256(), append(make([]byte, 31), 7)))
	for _, k := range []*testKey{ed, ec} {
		for _, p := range []*parts{plain(k), attributed(k)} {
			f.Add(p.message(f, k), content)
			f.Add(p.message(f, k), []byte("another object"))
		}
		f.Add(attributed(k).message(f, k), set(attributed(k).attributes...))
	}
	f.Fuzz(func(t *testing.T, message, object []byte) {
		m, err := Parse(message)
		if err != nil {
			return
		}
		for _, k := range []*testKey{ed, ec} {
			if err := m.Verify(object, k.Public()); err == nil && !bytes.Equal(object, content) {
				t.Fatalf("verified %x", object)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	object := bytes.Repeat([]byte("hornetd "), 14<<10) // 112 KiB, the median of real objects
	for _, k := range []struct {
		name string
		*testKey
	}{{"rsa2048", rsaKey()}, {"ecdsa-p256", ecKey()}, {"ed25519", edKey()}} {
		b.Run(k.name, func(b *testing.B) {
			message, err := Sign(object, k, k.cert.SubjectKeyId)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := accept(message, object, k.cert); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
