package audit

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var ignoreSynced = cmpopts.IgnoreFields(Record{}, "Synced")

func exampleRecord() Record {
	return Record{
		Seq: 7, Time: time.Date(2026, 11, 23, 1, 2, 3, 4, time.UTC), Phase: Outcome, Verb: "load", Collection: "xdp-drop",
		Caller: Caller{UID: 1000, GID: 100, PID: 4711}, Manifest: strings.Repeat("ab", 32), Object: strings.Repeat("cd", 32),
		Signer: "platform", Verdict: "ok", VerdictBy: "hornetd", Programs: []uint32{1}, Maps: []uint32{2, 3}, Links: []uint32{4},
		DurationUS: 812, Kind: "kernel", Error: "map \"hits\": <create>: no memory", Intent: 6,
	}
}

// These bytes are hashed: a change of them is a change of format.
func TestLineIsWhatItWas(t *testing.T) {
	_, line, err := exampleRecord().encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"seq":7,"time":"2026-11-23T01:02:03.000000004Z","phase":"outcome","verb":"load","collection":"xdp-drop",` +
		`"caller":{"uid":1000,"gid":100,"pid":4711},"manifest":"` + strings.Repeat("ab", 32) + `","object":"` + strings.Repeat("cd", 32) + `",` +
		`"signer":"platform","verdict":"ok","verdict_by":"hornetd","programs":[1],"maps":[2,3],"links":[4],"duration_us":812,` +
		`"kind":"kernel","error":"map \"hits\": <create>: no memory","intent":6}` + "\n"
	if diff := cmp.Diff(want, string(line)); diff != "" {
		t.Error(diff)
	}
	_, line, err = Record{Seq: 2, Time: time.Unix(0, 0), Phase: Outcome, Signer: "dev", Format: "cms-\nappended", Covers: "object", Verdict: "ok"}.encode()
	if err != nil {
		t.Fatal(err)
	}
	want = `{"seq":2,"time":"1970-01-01T00:00:00Z","phase":"outcome","verb":"","caller":{"uid":0,"gid":0},"signer":"dev",` +
		`"signature_format":"cms-\\nappended","covers":"object","verdict":"ok"}` + "\n"
	if diff := cmp.Diff(want, string(line)); diff != "" {
		t.Error(diff)
	}
	_, line, err = Record{Seq: 3, Time: time.Unix(0, 0), Phase: Refusal, Verb: "load", Caller: Caller{UID: 1, GID: 2, PID: 3, Unit: "a\\x2db.service", Exe: "/opt/\x1b", Label: "u:r:t"}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	want = `{"seq":3,"time":"1970-01-01T00:00:00Z","phase":"refusal","verb":"load",` +
		`"caller":{"uid":1,"gid":2,"pid":3,"unit":"a\\\\x2db.service","exe":"/opt/\\x1b","label":"u:r:t"}}` + "\n"
	if diff := cmp.Diff(want, string(line)); diff != "" {
		t.Error(diff)
	}
	_, line, err = Record{Seq: 4, Time: time.Unix(0, 0), Phase: Intent, Verb: "load", Shown: Shown{UID: 1, CgroupID: 2, NetnsInode: 3, PID: 4, Started: 5, PIDFDInode: 6}, Intent: 7}.encode()
	if err != nil {
		t.Fatal(err)
	}
	want = `{"seq":4,"time":"1970-01-01T00:00:00Z","phase":"intent","verb":"load","caller":{"uid":0,"gid":0},` +
		`"shown":{"uid":1,"gid":0,"cgroup_id":2,"netns_inode":3,"pid":4,"started":5,"pidfd_inode":6},"intent":7}` + "\n"
	if diff := cmp.Diff(want, string(line)); diff != "" {
		t.Error(diff)
	}
	_, line, err = Record{Seq: 1, Time: time.Unix(0, 0).In(time.FixedZone("", 3600)), Phase: Note, Verb: "start"}.encode()
	if err != nil {
		t.Fatal(err)
	}
	want = `{"seq":1,"time":"1970-01-01T00:00:00Z","phase":"note","verb":"start","caller":{"uid":0,"gid":0}}` + "\n"
	if diff := cmp.Diff(want, string(line)); diff != "" {
		t.Error(diff)
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"plain \"quoted\" text": "plain \"quoted\" text",
		"größe 漢字":              "größe 漢字",
		"a\nb":                  `a\nb`,
		`a\nb`:                  `a\\nb`,
		"\x1b[2J\r\t\x00\x7f":   `\x1b[2J\r\t\x00\x7f`,
		"\u202egnp.exe":         `\u202egnp.exe`,
		"\u2028\u0085\ufeff":    `\u2028\u0085\ufeff`,
		"\xff\xc3":              `\xff\xc3`,
		"\ufffd":                "\ufffd",
	} {
		if got, cut := escape(in); got != want || cut {
			t.Errorf("escape(%q) = %q, %v, want %q", in, got, cut, want)
		}
	}
}

func TestEscapeCuts(t *testing.T) {
	for what, in := range map[string]string{
		"letters":  strings.Repeat("x", maxField+1),
		"controls": strings.Repeat("\x01", maxField/4+1),
		"wide":     strings.Repeat("漢", maxField/3+1),
		"huge":     strings.Repeat("x\n", 1<<20),
	} {
		got, cut := escape(in)
		if !cut || len(got) > maxField || len(got) < maxField-8 || !strings.HasSuffix(got, "…") || !utf8.ValidString(got) {
			t.Errorf("%s: %d bytes, cut %v, ends in %q", what, len(got), cut, got[len(got)-8:])
		}
	}
	for what, in := range map[string]string{
		"letters": strings.Repeat("x", maxField), "controls": strings.Repeat("\x01", maxField/4),
		"almost": "漢" + strings.Repeat("x", maxField-3),
	} {
		if got, cut := escape(in); cut || len(got) != maxField {
			t.Errorf("%s: %d bytes, cut %v", what, len(got), cut)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for what, r := range map[string]Record{
		"no phase":                    {},
		"unknown phase":               {Phase: "perhaps"},
		"a year that JSON cannot say": {Phase: Note, Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if _, line, err := r.encode(); err == nil {
			t.Errorf("%s: %s", what, line)
		}
	}
}

// The largest record that can be made is a line that can be read.
func TestLargestRecordFits(t *testing.T) {
	long := strings.Repeat(`"`, 1<<20)
	ids := make([]uint32, 2*maxIDs)
	for i := range ids {
		ids[i] = 1<<32 - 1
	}
	r, line, err := Record{
		Seq: 1<<64 - 1, Time: time.Unix(1, 1), Phase: Intent, Verb: long, Collection: long, Manifest: long, Object: long, Signer: long,
		Verdict: long, VerdictBy: long, Programs: ids, Maps: ids, Links: ids, DurationUS: 1<<63 - 1, Kind: long, Error: long, Intent: 1<<64 - 1,
	}.encode()
	if err != nil {
		t.Fatal(err)
	}
	if !r.Cut || len(r.Programs) != maxIDs || len(line) > maxLine {
		t.Errorf("cut %v, %d ids, %d bytes", r.Cut, len(r.Programs), len(line))
	}
	if len(ids) != 2*maxIDs {
		t.Error("the caller's list was cut")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{
		"", "{", "null", "[]", "{}", `{"seq":1}`, `{"phase":"note"}`, `{"seq":0,"phase":"note"}`, `{"seq":-1,"phase":"note"}`,
		`{"seq":1,"phase":"note"}{"seq":2,"phase":"note"}`, `{"seq":1,"phase":"note"} x`, strings.Repeat("\x00", 100), `{"seq":"1","phase":"note"}`,
	} {
		if r, err := parse([]byte(line)); err == nil {
			t.Errorf("parse(%q) = %+v", line, r)
		}
	}
	if r, err := parse([]byte(`{"seq":3,"phase":"note","mood":{"of":"a newer hornetd"}}`)); err != nil || r.Seq != 3 {
		t.Errorf("a newer record: %+v, %v", r, err)
	}
}

// Whatever somebody is called: one line, no control characters, and back comes
// what was written; and what was written says what it was.
func FuzzEncode(f *testing.F) {
	f.Add("xdp-drop", "platform", "map \"hits\": create", int64(1))
	f.Add("a\n{\"seq\":2,\"phase\":\"outcome\"}", "\x1b[2J", "\u202e\xff\\", int64(-1))
	f.Add("\u2028", strings.Repeat("\x00", 2000), `\n`, int64(1<<62))
	f.Fuzz(func(t *testing.T, collection, signer, message string, at int64) {
		in := Record{Seq: 1, Time: time.Unix(at%(1<<33), 5), Phase: Outcome, Verb: "load", Collection: collection, Signer: signer, Error: message}
		r, line, err := in.encode()
		if err != nil {
			t.Fatal(err)
		}
		leaf, ok := bytes.CutSuffix(line, []byte("\n"))
		if !ok || slices.ContainsFunc(leaf, func(c byte) bool { return c < ' ' || c == 0x7f }) || !json.Valid(leaf) {
			t.Fatalf("line %q", line)
		}
		back, err := parse(leaf)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, back, ignoreSynced); diff != "" {
			t.Fatal(diff)
		}
		if r.Cut {
			return
		}
		for escaped, want := range map[string]string{r.Collection: collection, r.Signer: signer, r.Error: message} {
			got, err := strconv.Unquote(`"` + strings.ReplaceAll(escaped, `"`, `\"`) + `"`)
			if err != nil || got != want {
				t.Fatalf("%q says %q, %v, not %q", escaped, got, err, want)
			}
		}
	})
}
