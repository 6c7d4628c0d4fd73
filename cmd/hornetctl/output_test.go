package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/hornetd/hornetd/api"
)

// hostile is text that a terminal or a careless YAML or JSON printer would
// take for something else.
var hostile = []string{
	"", "plain", "ünïcode 🐝", "two\nlines\n", " spaces ", "\t", "# no comment", "- no list", "key: value", "{}", "[]", "true", "no", "null", "~",
	"12", "0x1f", "1e3", ".inf", "2026-11-23", "2026-11-23T15:00:00Z", "<<", "&anchor", "*alias", "!!tag", "%directive", "'", `"`, `\`, `\x1b`, "---", "...", "=",
	"\x1b[2J", "\x00", "\x7f", "\u0085", "\u009b31m", "\u00a0", "\u00ad", "\u200b", "\u202e", "\u2028", "\u2066", "\ufeff", "\ufffd", "\U000e0001", "a\r\nb\u202ec\n",
	strings.Repeat("long ", 100) + "\u202e",
}

func TestYAMLSaysWhatJSONSays(t *testing.T) {
	for _, s := range hostile {
		checkOutputs(t, api.Collections{Collections: api.List[api.Collection]{{
			Name: s, Description: s + "x", Version: 1<<64 - 1, Adopted: true, LoadedBy: &api.Caller{UID: 65534},
		}}})
	}
	checkOutputs(t, map[string]any{"float": 1.5, "small": 1e-9, "negative": -3, "null": nil, "list": []any{[]any{}, map[string]any{}}, "on": "off"})
	checkOutputs(t, api.Entries{Entries: api.List[api.Entry]{{Key: json.RawMessage(`18446744073709551615`), Value: json.RawMessage(`{"b":1,"a":[true]}`)}}})
}

func FuzzOutputs(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			t.Skip("JSON has no other strings")
		}
		checkOutputs(t, map[string]any{"key": s, "k" + s: []string{s, s + "\n"}})
	})
}

// checkOutputs decodes what is printed with decoders that are not ours.
func checkOutputs(t *testing.T, v any) {
	t.Helper()
	asJSON, err := encodeJSON(v, "  ")
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := encodeYAML(v)
	if err != nil {
		t.Fatal(err)
	}
	for name, out := range map[string]string{"JSON": asJSON, "YAML": asYAML} {
		if i := strings.IndexFunc(strings.ReplaceAll(out, "\n", ""), unprintable); i >= 0 {
			t.Errorf("%s holds a character that is not printable: %q", name, out)
		}
	}
	plain, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	want := fromJSON(t, string(plain))
	if diff := cmp.Diff(want, fromJSON(t, asJSON)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s\n%s", diff, asJSON)
	}
	var fromYAML any
	if err := yaml.Unmarshal([]byte(asYAML), &fromYAML); err != nil {
		t.Fatalf("YAML: %v\n%s", err, asYAML)
	}
	again, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatalf("YAML: %v\n%s", err, asYAML)
	}
	if diff := cmp.Diff(want, fromJSON(t, string(again))); diff != "" {
		t.Errorf("YAML (-want +got):\n%s\n%s", diff, asYAML)
	}
}

func fromJSON(t *testing.T, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("JSON: %v\n%s", err, s)
	}
	return v
}

func TestEscape(t *testing.T) {
	for s, want := range map[string]string{
		"a\tb\nc": `a\tb\nc`, "\x1b[2J": `\x1b[2J`, "\xff\u202e": `\xff\u202e`, "\u009b": `\u009b`, "\U000e0001": `\U000e0001`,
		"\ufffd ünï 🐝": "\ufffd ünï 🐝", `\x1b`: `\x1b`, "\x7f": `\x7f`, "\u00a0": `\u00a0`,
	} {
		if got := escape(s); got != want {
			t.Errorf("escape(%q) = %q, want %q", s, got, want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range append(hostile, "\xff\xfe", "\xe2\x80") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := escape(s); strings.IndexFunc(got, unprintable) >= 0 || !utf8.ValidString(got) {
			t.Errorf("escape(%q) = %q", s, got)
		}
		for line := range strings.Lines(escapeLines(s)) {
			if !strings.HasSuffix(line, "\n") || strings.IndexFunc(line[:len(line)-1], unprintable) >= 0 {
				t.Errorf("escapeLines(%q) has the line %q", s, line)
			}
		}
		for i, line := range strings.Split(strings.TrimSuffix(hintText("", s), "\n"), "\n") {
			if start := strings.HasPrefix(line, "hint: "); i == 0 && !start && line != "hint:" || i > 0 && line != "" && !strings.HasPrefix(line, "  ") {
				t.Errorf("hintText(%q): line %d is %q", s, i, line)
			}
		}
	})
}
