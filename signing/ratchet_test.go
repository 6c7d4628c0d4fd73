package signing

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// claim is version v of a manifest "m" by "dev", with contents c.
func claim(v uint64, c string) Claim {
	return Claim{Manifest: "m", Signer: "dev", Version: v, ManifestDigest: "m" + c, ObjectDigest: "o" + c, File: "m.o"}
}

func advanced(t testing.TB, cs ...Claim) Ratchet {
	t.Helper()
	var r Ratchet
	for _, c := range cs {
		if err := r.Check(c); err != nil {
			t.Fatal(err)
		}
		r, _ = r.Advance(c)
	}
	return r
}

func TestRatchetCheck(t *testing.T) {
	otherObject := claim(3, "a")
	otherObject.ObjectDigest = "ox"
	otherSigner := claim(1, "a")
	otherSigner.Signer = "b"
	otherManifest := claim(1, "a")
	otherManifest.Manifest = "n"
	keyed := func(v uint64, signer, key string) Claim {
		c := claim(v, "a")
		c.Signer, c.Key = signer, key
		return c
	}
	low := advanced(t, keyed(1, "a", "k1"), keyed(3, "dev", "k1"))
	backKeyed, err := low.Rollback("m", 2)
	if err != nil {
		t.Fatal(err)
	}
	adopted, _ := advanced(t, keyed(1, "dev", "k1")).Adopt(keyed(3, "dev", ""))
	at3 := advanced(t, claim(1, "z"), claim(3, "a"))
	back, err := at3.Rollback("m", 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		r    Ratchet
		c    Claim
		want Verdict
	}{
		{"nothing remembered", Ratchet{}, claim(1, "a"), OK},
		{"the same again", at3, claim(3, "a"), OK},
		{"newer", at3, claim(4, "b"), OK},
		{"older", at3, claim(2, "b"), RolledBack},
		{"older, loaded before", at3, claim(1, "z"), RolledBack},
		{"without version behind one", at3, claim(0, "b"), RolledBack},
		{"same version, other manifest and object", at3, claim(3, "b"), RolledBack},
		{"same version, other object", at3, otherObject, RolledBack},
		{"other signer", at3, otherSigner, OK},
		{"same key under another name", low, keyed(2, "b", "k1"), RolledBack},
		{"same key under a name with an older bound", low, keyed(2, "a", "k1"), RolledBack},
		{"same key under another name, newer", low, keyed(4, "b", "k1"), OK},
		{"same key under another name, rolled back", backKeyed, keyed(2, "b", "k1"), OK},
		{"same key under another name, older than the rollback", backKeyed, keyed(1, "b", "k1"), RolledBack},
		{"same key under another name, known from a record", adopted, keyed(2, "b", "k1"), RolledBack},
		{"another key under another name", low, keyed(1, "b", "k2"), OK},
		{"another key under the same name", low, keyed(2, "dev", "k2"), RolledBack},
		{"unknown key under another name", advanced(t, claim(3, "a")), keyed(2, "b", ""), OK},
		{"other manifest", at3, otherManifest, OK},
		{"no version, other contents", advanced(t, claim(0, "a")), claim(0, "b"), OK},
		{"largest version", advanced(t, claim(1<<63, "a")), claim(1<<63-1, "a"), RolledBack},
		{"rolled back, any contents", back, claim(2, "q"), OK},
		{"rolled back, newer", back, claim(3, "q"), OK},
		{"rolled back, older", back, claim(1, "z"), RolledBack},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, _, _ := refusal(t, tt.r.Check(tt.c)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	if !at3.Accepted(claim(3, "a")) || at3.Accepted(otherObject) || at3.Accepted(claim(1, "z")) || back.Accepted(claim(2, "q")) {
		t.Error("Accepted: only the last that was loaded")
	}
}

func TestRatchetNeverGoesBackByItself(t *testing.T) {
	r := advanced(t, claim(3, "a"))
	if _, changed := r.Advance(claim(2, "b")); changed {
		t.Error("an older version changed it")
	}
	if _, changed := r.Advance(claim(3, "a")); changed {
		t.Error("the same changed it: that would be a write for every load")
	}
	if _, err := r.Rollback("m", 4); err == nil {
		t.Error("a rollback went forward")
	}
	if _, err := r.Rollback("n", 0); err == nil {
		t.Error("a rollback of what was never loaded")
	}
}

// A rollback lifts no signer's bound.
func TestRollbackGoesBackOnly(t *testing.T) {
	low := claim(1, "a")
	low.Signer = "low"
	r := advanced(t, claim(5, "a"), low)
	r, err := r.Rollback("m", 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(low); err != nil {
		t.Errorf("a signer that was at 1: %v", err)
	}
}

// What a rollback goes back from may run on until the reload: adopting it at
// a start must not undo the rollback. Anything else that runs counts.
func TestRatchetAdopts(t *testing.T) {
	back, err := advanced(t, claim(3, "a")).Rollback("m", 1)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := back.Rollback("m", 1); err != nil || !cmp.Equal(again.entries, back.entries) {
		t.Errorf("a second rollback forgets what was left: %v, %v", again, err)
	}
	if r, changed := back.Adopt(claim(3, "a")); changed || r.Check(claim(1, "q")) != nil {
		t.Error("the start undid the rollback")
	}
	r, changed := back.Adopt(claim(4, "b"))
	if !changed || r.Check(claim(1, "q")) == nil {
		t.Error("what was loaded after the rollback does not count")
	}
	r, _ = back.Advance(claim(1, "q"))
	if r, _ = r.Adopt(claim(3, "a")); r.Check(claim(1, "q")) == nil {
		t.Error("once the rollback was used, the left version counts again")
	}
}

// A drop-in of the same version is no other version, but nobody accepted it yet.
func TestRatchetDropIns(t *testing.T) {
	with := claim(3, "a")
	with.DropIns = "d"
	r := advanced(t, claim(3, "a"))
	if err := r.Check(with); err != nil || r.Accepted(with) || !r.Accepted(claim(3, "a")) {
		t.Errorf("%v, accepted %t", err, r.Accepted(with))
	}
	r = advanced(t, claim(3, "a"), with)
	if err := r.Check(claim(3, "a")); err != nil || !r.Accepted(with) || r.Accepted(claim(3, "a")) {
		t.Errorf("%v, accepted %t", err, r.Accepted(with))
	}
	other := claim(3, "b")
	other.DropIns = "d"
	if r.Check(other) == nil {
		t.Error("another manifest of the same version passes with the same drop-ins")
	}
}

func TestRatchetFile(t *testing.T) {
	dropIns := claim(2, "b")
	dropIns.DropIns = "d"
	r := advanced(t, claim(1, "a"), dropIns)
	r, _ = r.Advance(Claim{Manifest: "a", Signer: "x", Key: "k", Version: 1<<64 - 1})
	b, err := r.Encode(7)
	if err != nil {
		t.Fatal(err)
	}
	got, logged, err := ParseRatchet(b)
	if err != nil || !cmp.Equal(got.entries, r.entries) || logged != 7 {
		t.Fatalf("%v, %v", got, err)
	}
	for i := range b {
		for bit := range 8 {
			flipped := bytes.Clone(b)
			flipped[i] ^= 1 << bit
			if _, _, err := ParseRatchet(flipped); err == nil {
				t.Fatalf("bit %d of byte %d flipped: accepted", bit, i)
			}
		}
		if _, _, err := ParseRatchet(b[:i]); err == nil {
			t.Fatalf("cut after %d bytes: accepted", i)
		}
	}
	if _, _, err := ParseRatchet(append(bytes.Clone(b), '\n')); err == nil {
		t.Error("more behind it: accepted")
	}
	var full Ratchet
	full.entries = make(map[ratchetKey]ratchetEntry)
	for i := range maxRatchetEntries + 1 {
		full.entries[ratchetKey{fmt.Sprint(i), ""}] = ratchetEntry{}
	}
	if _, err := full.Encode(0); err == nil {
		t.Error("more entries than are kept: written")
	}
}

func FuzzRatchet(f *testing.F) {
	key := claim(1, "k")
	key.Key, key.DropIns = "00ff", "aa"
	for _, r := range []Ratchet{{}, advanced(f, key), advanced(f, claim(1, "a")), advanced(f, claim(0, "a"), claim(7, "b"))} {
		b, err := r.Encode(7)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("hornetd-ratchet 2 00\n0 - 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, logged, err := ParseRatchet(b)
		if err != nil {
			return
		}
		again, err := r.Encode(logged)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q becomes %q, %v", b, again, err)
		}
	})
}
