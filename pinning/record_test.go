package pinning

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func exampleRecord() Record {
	return Record{
		Format: 4, Name: "xdp-drop", Description: "Drop <traffic> & \"more\"", ManifestFile: "/etc/hornet.d/xdp-drop.toml",
		ManifestDigest: strings.Repeat("ab", 32), Version: 3, ObjectFile: "/etc/hornet.d/xdp.o", ObjectDigest: strings.Repeat("cd", 32),
		Signer: Signer{Name: "platform", Subject: "CN=platform", KeyID: "01:02", KeySHA256: strings.Repeat("12", 32), Algorithm: "ecdsa",
			NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), NotAfter: time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC),
			Chain: []Key{{strings.Repeat("ef", 32), strings.Repeat("12", 32), []string{"0102", "0304"}}, {SHA256: strings.Repeat("34", 32), IDs: []string{"05"}}}},
		SignatureFormat: "cms-detached", Covers: "object", CheckedBy: "hornetd", Verdict: "ok-expired", SignedAt: time.Date(2026, 2, 2, 3, 4, 5, 0, time.UTC),
		Maps: []RecordMap{
			{Name: ".rodata", Pin: "_rodata", Type: "Array", ID: 7, Class: "frozen", Frozen: true, SHA256: strings.Repeat("0", 64), HashBy: "kernel"},
			{Name: "hits", Pin: "hits", Type: "PerCPUHash", ID: 8, Class: "mutable"},
		},
		Programs: []RecordProgram{{Name: "xdp_drop", Pin: "xdp_drop", Type: "XDP", AttachType: "XDP", ID: 9, Tag: "0123456789abcdef"}},
		Links: []RecordLink{{Name: "xdp-eth0", Pin: "xdp-eth0", ID: 10, Kind: "xdp", AttachType: "XDP", Program: "xdp_drop",
			Target: json.RawMessage(`{"ifindex":2}`)}},
		LoadedAt: time.Date(2026, 11, 23, 1, 2, 3, 4, time.UTC),
		Caller:   Caller{UID: 1000, GID: 100},
	}
}

func TestRecordReadsBackAsWritten(t *testing.T) {
	want := exampleRecord()
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRecordWithDropInsAndLease(t *testing.T) {
	want := exampleRecord()
	want.TextDigest = strings.Repeat("ef", 32)
	want.Lease = &Lease{TokenSHA256: strings.Repeat("ab", 32), Holder: Caller{UID: 1000, GID: 100}}
	want.DropIns = []RecordDropIn{{File: "/etc/hornet.d/xdp-drop.toml.d/1.toml", SHA256: strings.Repeat("01", 32), Signer: &Signer{Name: "ops", KeyID: "03"}}, {File: "/2.toml", SHA256: strings.Repeat("02", 32)}}
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRecord(b)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// TestRecordOfFormat1 reads what a hornetd that wrote format 1 had pinned on a host.
func TestRecordOfFormat1(t *testing.T) {
	b, err := os.ReadFile("testdata/record-1.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := decodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if r.Format != 1 || r.Signer.KeyID != "56f417c73ad66a336e3f61f565586341691d27d0" || r.Version != 5 || len(r.Programs) != 2 || len(r.Links) != 1 {
		t.Errorf("%+v", r)
	}
	if r.Verdict != "" || r.Signer.KeySHA256 != "" || r.Signer.Chain != nil {
		t.Errorf("says more than was written: %+v", r.Signer)
	}
}

// TestRecordOfFormat2 has no field of format 3.
func TestRecordOfFormat2(t *testing.T) {
	b, err := exampleRecord().encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := decodeRecord([]byte(strings.Replace(string(b), `"format":4`, `"format":2`, 1)))
	if err != nil || r.Format != 2 || r.Trial != "" || r.Returned != nil || r.Programs[0].RunCount != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRecordOfFormat3 has no lease.
func TestRecordOfFormat3(t *testing.T) {
	b, err := exampleRecord().encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := decodeRecord([]byte(strings.Replace(string(b), `"format":4`, `"format":3`, 1)))
	if err != nil || r.Format != 3 || r.Lease != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRecordIsRefused(t *testing.T) {
	good, err := exampleRecord().encode()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		if !strings.Contains(string(good), old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return []byte(strings.Replace(string(good), old, new, 1))
	}
	for what, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":                   {nil, ErrCorrupt},
		"zeros":                   {make([]byte, 64), ErrCorrupt},
		"cut short":               {good[:len(good)/2], ErrCorrupt},
		"more behind":             {append([]byte(string(good)), " {}"...), ErrCorrupt},
		"NUL behind":              {append([]byte(string(good)), 0), ErrCorrupt},
		"unknown field":           {replace(`"covers"`, `"colour":1,"covers"`), ErrCorrupt},
		"no format":               {replace(`"format":4,`, ``), ErrCorrupt},
		"format below one":        {replace(`"format":4`, `"format":-1`), ErrCorrupt},
		"newer":                   {replace(`"format":4`, `"format":5`), ErrNewerRecord},
		"newer and not readable":  {replace(`"format":4,"name":`, `"format":9,"colour":{},"name":`), ErrNewerRecord},
		"lease without a hash":    {replace(`"memory"`, `"lease":{"token_sha256":"ab","holder":{"uid":1,"gid":1}},"memory"`), ErrCorrupt},
		"bad name":                {replace(`"name":"xdp-drop"`, `"name":"../x"`), ErrCorrupt},
		"pin leads out":           {replace(`"pin":"hits"`, `"pin":"../record"`), ErrCorrupt},
		"pin is another's":        {replace(`"pin":"hits"`, `"pin":"_rodata"`), ErrCorrupt},
		"object name leads out":   {replace(`"name":"hits","pin":"hits"`, `"name":"../x","pin":"../x"`), ErrCorrupt},
		"two objects, one pin":    {replace(`"name":"hits","pin":"hits"`, `"name":"_rodata","pin":"_rodata"`), ErrCorrupt},
		"two objects, one name":   {replace(`"name":"hits","pin":"hits"`, `"name":".rodata","pin":"_rodata"`), ErrCorrupt},
		"a number where text was": {replace(`"name":"hits"`, `"name":1`), ErrCorrupt},
	} {
		if r, err := decodeRecord(tc.b); !errors.Is(err, tc.want) || r.Name != "" {
			t.Errorf("%s: %v, %v, want %v", what, r, err, tc.want)
		}
	}
}

func TestRecordIsBounded(t *testing.T) {
	r := exampleRecord()
	r.Description = strings.Repeat("x", maxRecord)
	if _, err := r.encode(); err == nil {
		t.Error("a record of more than 256 KiB was encoded")
	}
}

// Whatever decodes, encodes to what decodes to the same, and leads nowhere but
// into its collection.
func FuzzDecodeRecord(f *testing.F) {
	good, err := exampleRecord().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"name":"a"}`))
	f.Add([]byte(`{"format":5,"name":1}`))
	f.Add([]byte(`{"format":2,"name":"a","signer":{"chain":[{"key_ids":null},{}]}}`))
	f.Add([]byte(`{"format":1,"name":"a","maps":[{"name":"..","pin":"__"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerRecord) {
				t.Fatalf("unknown kind of error: %v", err)
			}
			return
		}
		for _, k := range r.kinds() {
			for _, o := range k.objs {
				if strings.ContainsAny(*o.pin, "./") || *o.pin == "" {
					t.Fatalf("%s %q has pin %q", k.what, o.name, *o.pin)
				}
			}
		}
		enc, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRecord(enc)
		if err != nil {
			t.Fatalf("%s: %v", enc, err)
		}
		enc2, err := again.encode()
		if err != nil {
			t.Fatal(err)
		}
		if string(enc) != string(enc2) {
			t.Fatalf("%s became %s", enc, enc2)
		}
	})
}
