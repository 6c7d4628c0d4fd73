package tomlfile

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/remedy"
)

type file struct {
	Name   string           `toml:"name"`
	On     bool             `toml:"on"`
	Small  int8             `toml:"small"`
	Big    uint64           `toml:"big"`
	Maybe  *uint32          `toml:"maybe"`
	Size   Size             `toml:"size"`
	Any    any              `toml:"any"`
	Names  []string         `toml:"names"`
	Sub    sub              `toml:"sub"`
	Named  map[string]sub   `toml:"named"`
	Listed []sub            `toml:"listed"`
	Tests  []sub            `toml:"test,one"`
	Free   map[string]any   `toml:"free"`
	Tables []map[string]any `toml:"tables"`
}

type sub struct {
	Interface string `toml:"interface"`
	Direction string `toml:"direction"`
}

func ptr[T any](v T) *T { return &v }

func TestDecode(t *testing.T) {
	tests := []struct {
		text string
		want file
	}{
		{``, file{}},
		{"name = 'x' # comment\r\non = true\r\n", file{Name: "x", On: true}},
		{`small = -128`, file{Small: math.MinInt8}},
		{`big = 0x7fff_ffff_ffff_ffff`, file{Big: math.MaxInt64}},
		{`maybe = 0`, file{Maybe: ptr(uint32(0))}},
		{`size = 4096`, file{Size: 4096}},
		{`size = "64MiB"`, file{Size: 64 << 20}},
		{"any = '''x'''", file{Any: "x"}},
		{`any = """"x"""""`, file{Any: `"x""`}},
		{`names = ["a", 'b', ]`, file{Names: []string{"a", "b"}}},
		{`sub.interface = "eth0"`, file{Sub: sub{Interface: "eth0"}}},
		{"sub = {\n interface = \"eth0\", # first\n direction = \"ingress\",\n}", file{Sub: sub{"eth0", "ingress"}}},
		{"[named.a]\ninterface = 'x'\n[named.'b.c']\n", file{Named: map[string]sub{"a": {Interface: "x"}, "b.c": {}}}},
		{"[[listed]]\n[[listed]]\ninterface = 'x'\n", file{Listed: []sub{{}, {Interface: "x"}}}},
		{`listed = [{}, {interface = "x"}]`, file{Listed: []sub{{}, {Interface: "x"}}}},
		{"[test]\ninterface = 'x'\n", file{Tests: []sub{{Interface: "x"}}}},
		{"[[test]]\n[[test]]\n", file{Tests: []sub{{}, {}}}},
		{`any = [1, 1.5, true, "s", [2], {k = [{x = 1}]}]`, file{Any: []any{
			int64(1), 1.5, true, "s", []any{int64(2)},
			map[string]any{"k": []any{map[string]any{"x": int64(1)}}},
		}}},
		{"[[any]]\nx = 1\n", file{Any: []any{map[string]any{"x": int64(1)}}}},
		{"[[any.a]]\n[[any.a.b]]\nc = ''\n", file{Any: map[string]any{"a": []any{map[string]any{"b": []any{map[string]any{"c": ""}}}}}}},
		{"[free]\nempty = ''\n", file{Free: map[string]any{"empty": ""}}},
	}
	for _, tt := range tests {
		var got file
		if _, err := Decode("f.toml", []byte(tt.text), &got); err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.text, diff)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := []struct{ text, err, hint string }{
		// Keys are exact, whatever the library thinks.
		{"nmae = 'x'", `f.toml:1: nmae: unknown key`, `did you mean "name"?`},
		{"Name = 'x'", `f.toml:1: Name: unknown key`, `did you mean "name"?`},
		{"\nname = 'x'\nNAME = 'y'", `f.toml:3: NAME: unknown key`, `did you mean "name"?`},
		{"[[listed]]\n[[listed]]\n\niface = 'x'", `f.toml:4: listed[1].iface: unknown key`, `write one of: direction, interface`},
		{"[named.a]\ndirecton = 'x'", `f.toml:2: named.a.directon: unknown key`, `did you mean "direction"?`},
		{"listed = [\n {},\n {interfcae = 'x'}]", `f.toml:3: listed[1].interfcae: unknown key`, `did you mean "interface"?`},
		{"[sub.x]\n", `f.toml:1: sub.x: unknown key`, `write one of: direction, interface`},
		{"\"a\u202eb\" = 1", `f.toml:1: "a\u202eb": unknown key`, `write one of: any, big`},

		// The first error of the file.
		{"zzz = 1\nyyy = 2", `f.toml:1: zzz: unknown key`, ``},
		{"on = 1\nname = 2", `f.toml:1: on: is an integer, not true or false`, ``},

		// Types.
		{"name = 1", `f.toml:1: name: is an integer, not a string`, "write a string"},
		{"name = ''", `f.toml:1: name: is empty`, "write a value or remove the key"},
		{"on = 'yes'", `f.toml:1: on: is a string, not true or false`, ``},
		{"names = 'a'", `f.toml:1: names: is a string, not an array`, ``},
		{"names = [\n'a',\n1]", `f.toml:3: names[1]: is an integer, not a string`, ``},
		{"names = ['']", `f.toml:1: names[0]: is empty`, ``},
		{"sub = 1", `f.toml:1: sub: is an integer, not a table`, ``},
		{"[listed]\n", `f.toml:1: listed: is a table, not an array`, ``},
		{"[[sub]]\n", `f.toml:1: sub: is an array, not a table`, ``},
		{"any = 1979-05-27", `f.toml:1: any: is a date, not a boolean, a number`, ``},
		{"name = 07:32:00", `f.toml:1: name: is a date, not a string`, ``},
		{"[free]\nx = [\n1,\n{y = nan}]", `f.toml:4: free.x[1].y: is NaN`, "write a number"},
		{"any = -inf", `f.toml:1: any: is -Inf`, ``},
		{"big = 1.0", `f.toml:1: big: is a float, not an integer`, ``},

		// Ranges.
		{"small = 128", `f.toml:1: small: is 128, out of range`, `write a number of at most 8 bits`},
		{"big = -1", `f.toml:1: big: is -1, must not be negative`, `write 0 or more`},
		{"maybe = 4294967296", `f.toml:1: maybe: is 4294967296, out of range`, `at most 32 bits`},
		{"big = 9223372036854775808", `f.toml:1: big: 9223372036854775808 is out of range for int64`, `at most 63 bits`},
		{"size = 0", `f.toml:1: size: is not more than 0`, ``},
		{"size = -1", `f.toml:1: size: is not more than 0`, ``},
		{"size = true", `f.toml:1: size: is a boolean: is not a size`, `"64MiB"`},
		{"size = '64MB'", `f.toml:1: size: "64MB": is not a size`, `"64MiB"`},
		{"size = '16777216TiB'", `f.toml:1: size: "16777216TiB" is out of range`, `write a smaller size`},

		// TOML itself.
		{"a", `f.toml:1: a: expected = behind the key, found the end of the file`, `write KEY = VALUE`},
		{"a\n= 1", `f.toml:1: a: expected = behind the key, found the end of the line`, ``},
		{"a = ", `f.toml:1: a: expected a value, found the end of the file`, ``},
		{"a = # no", `f.toml:1: a: expected a value, found '#'`, ``},
		{"= 1", `f.toml:1: expected a key, found '='`, ``},
		{"a.=1", `f.toml:1: a: expected a key, found '='`, ``},
		{"a = 1 b = 2", `f.toml:1: a: something follows behind the end: '='`, `put it on a line of its own`},
		{"a = 'x' 'y'", `f.toml:1: a: something follows behind the end: '\''`, ``},
		{"\n\n[a", `f.toml:3: a: expected ] behind the name of a table, found the end of the file`, `close it with ]`},
		{"[[a]", `f.toml:1: a: expected ]] behind the name of a table, found ']'`, ``},
		{"[]", `f.toml:1: expected a key, found ']'`, ``},
		{"a = 'x\n'", `f.toml:1: a: a string is not closed`, ``},
		{"a = \"x\\\n\"", `f.toml:1: a: a string is not closed`, ``},
		{"\na = '''x\n\n", `f.toml:2: a: a string is not closed`, `three quotes`},
		{"a = '''x''''''", `f.toml:1: a: a string ends with 6 quotes`, ``},
		{"a = [\n1,\n2\n", `f.toml:1: a: is not closed`, `close it with ]`},
		{"a = [1,", `f.toml:1: a: is not closed`, `close it with ]`},
		{"a = 1\n# two\nb = '\x01'", `f.toml:3: contains a control character U+0001`, `plain UTF-8`},
		{"a = [1 'x']", `f.toml:1: a: expected , or ], found '\''`, ``},
		{"a = {b = 1", `f.toml:1: a: is not closed`, `close it with }`},
		{"a = [,]", `f.toml:1: a[0]: expected a value, found ','`, ``},
		{"\"a\\u0062\" = 1", `f.toml:1: a key contains a backslash`, ``},
		{"a = 1\na = 2", `f.toml:2: a: is defined twice`, `in one place`},
		{"a = \"\\q\"", `f.toml:1: a: invalid escape in string`, ``},
		{"a = 012", `f.toml:1: a: Invalid integer "012"`, ``},
		{"a = yes", `f.toml:1: a: expected value but found "yes" instead`, ``},
	}
	for _, tt := range tests {
		var v file
		_, err := Decode("f.toml", []byte(tt.text), &v)
		var e *Error
		switch {
		case !errors.As(err, &e):
			t.Errorf("%q: %v, want an *Error", tt.text, err)
		case !strings.HasPrefix(err.Error(), tt.err):
			t.Errorf("%q: %v\nwant %s", tt.text, err, tt.err)
		case remedy.Of(err) == "" || !strings.Contains(remedy.Of(err), tt.hint):
			t.Errorf("%q: remedy %q, want %q", tt.text, remedy.Of(err), tt.hint)
		}
	}
}

const keyed = `version = 1
[variables]
rate = 100
table = [
  1,
  2 ]

[maps.blocked]
entries = [ { key = 1, value = 2 },
  { key = 3,
    value = { a = 4 } },
]
[maps.".data.x"]

[[attach]]
program = "a"
[[attach]]
program = "b"
[[attach.sub]]
[[attach.sub]]
x = 1
'quoted key'.y = """
text
"""
last = 1
`

func TestLine(t *testing.T) {
	var v map[string]any
	text, err := Decode("f.toml", []byte(keyed), &v)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		key   string
		line  int
		exact bool
	}{
		{"version", 1, true},
		{"variables", 2, true},
		{"variables.rate", 3, true},
		{"variables.rat", 2, false},
		{"variables.table[0]", 5, true},
		{"variables.table[1]", 6, true},
		{"variables.table[2]", 4, false},
		{"maps", 8, false},
		{"maps.blocked.entries", 9, true},
		{"maps.blocked.entries[0].value", 9, true},
		{"maps.blocked.entries[1]", 10, true},
		{"maps.blocked.entries[1].key", 10, true},
		{"maps.blocked.entries[1].value.a", 11, true},
		{"maps.blocked.entries[1].value.b", 11, false},
		{"maps.blocked.class", 8, false},
		{"maps..data.x", 13, true},
		{"attach[0]", 15, true},
		{"attach[0].program", 16, true},
		{"attach[1].program", 18, true},
		{"attach[1].interface", 17, false},
		{"attach[1].sub[0]", 19, true},
		{"attach[1].sub[1].x", 21, true},
		{"attach[1].sub[1].quoted key.y", 22, true},
		{"attach[1].sub[1].last", 25, true},
		{"none", 0, false},
		{"vers", 0, false},
	}
	for _, tt := range tests {
		if line, exact := text.Line(tt.key); line != tt.line || exact != tt.exact {
			t.Errorf("%s: line %d, %t, want %d, %t", tt.key, line, exact, tt.line, tt.exact)
		}
	}
}

// The last size that is still allowed, and the first that is not.
func TestBounds(t *testing.T) {
	parts := func(n int) string { return strings.Repeat("a.", n-1) + "a = 1" }
	path := func(n int) string { // of n bytes
		return strings.Repeat("k.", 2) + strings.Repeat(strings.Repeat("k", maxPart-1)+".", 3) + strings.Repeat("k", n-4-3*maxPart)
	}
	deep := func(n int) string { return "a = " + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) }
	for name, text := range map[string][2]string{
		"parts of a key":      {parts(maxParts), parts(maxParts + 1)},
		"parts of a header":   {"[" + strings.TrimSuffix(parts(maxParts), " = 1") + "]", "[" + strings.TrimSuffix(parts(maxParts+1), " = 1") + "]"},
		"depth":               {deep(maxDepth), deep(maxDepth + 1)},
		"bytes of a part":     {strings.Repeat("k", maxPart) + " = 1", strings.Repeat("k", maxPart+1) + " = 1"},
		"bytes of a quoted":   {"'" + strings.Repeat("k", maxPart) + "' = 1", "'" + strings.Repeat("k", maxPart+1) + "' = 1"},
		"keys":                {lines(maxKeys, "k%d = 1"), lines(maxKeys+1, "k%d = 1")},
		"inline tables":       {"a = [" + strings.Repeat("{},", maxKeys-2) + "]", "a = [" + strings.Repeat("{},", maxKeys-1) + "]"},
		"arrays":              {"a = [" + strings.Repeat("[],", maxKeys-2) + "]", "a = [" + strings.Repeat("[],", maxKeys-1) + "]"},
		"bytes of a path":     {path(maxPath) + " = 1", path(maxPath+1) + " = 1"},
		"bytes below headers": {"[" + path(maxPath-2) + "]\na = 1", "[" + path(maxPath-2) + "]\naa = 1"},
		"depth below headers": {"[a.a.a.a]\n" + deep(maxDepth-4), "[a.a.a.a]\n" + deep(maxDepth-3)},
	} {
		if err := scan("f.toml", text[0], nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := scan("f.toml", text[1], nil); err == nil {
			t.Errorf("%s: one more is not refused", name)
		}
	}
	// Depth is that of one place, not of all before it.
	if err := scan("f.toml", "a = ["+strings.Repeat("[[]],", 100)+"]\n[b.c.d]\ne = [[[[[[[]]]]]]]", nil); err != nil {
		t.Error(err)
	}
}

func TestProblems(t *testing.T) {
	var v map[string]any
	text, err := Decode("f.toml", []byte("a = 1\nb = 2\nc = 3\n"), &v)
	if err != nil {
		t.Fatal(err)
	}
	p := text.Problems()
	p.OneOf("c", "x", "x", "y")
	if !p.Printable("c", "é ☃") || p.First() != nil {
		t.Errorf("nothing is wrong, yet %v", p.First())
	}
	p.OneOf("c", "z", "x", "y")
	if err := p.First(); err == nil || err.Error() != `f.toml:3: c: "z" is none of x, y` || remedy.Of(err) != "write one of: x, y" {
		t.Errorf("%v, %s", err, remedy.Of(err))
	}
	for _, s := range []string{"a\nb", "\x1b[31m", "\u202e", "\u00a0", "\x7f", "\xff"} {
		if p.Printable("b", s) {
			t.Errorf("%q is said to be printable", s)
		}
	}
	if err := p.First(); err == nil || !strings.HasPrefix(err.Error(), `f.toml:2: b: "a\nb" contains a character`) {
		t.Errorf("%v", err)
	}
	p.Add("a", "no", "first line")
	if err := p.First(); err.Error() != "f.toml:1: a: first line" {
		t.Errorf("%v", err)
	}
	for range 100 {
		p.Add("a", "no", "again")
	}
	if len(p.errs) != maxProblems {
		t.Errorf("%d problems kept, want %d", len(p.errs), maxProblems)
	}
}

func TestErrorfWithoutText(t *testing.T) {
	var text *Text
	if got := text.Errorf("a.b", "is %d", 1).Error(); got != ": a.b: is 1" {
		t.Errorf("%q", got)
	}
}

// An error must stay one line, whatever the file is called.
func TestErrorCannotForgeALine(t *testing.T) {
	e := &Error{File: "a\nb\xff", Line: 1, Key: "c\x1b[31m", Err: errors.New("x")}
	if got := e.Error(); got != `"a\nb\xff":1: "c\x1b[31m": x` {
		t.Errorf("%s", got)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{
		"1": 1, "1B": 1, "1KiB": 1 << 10, "64MiB": 64 << 20, "3GiB": 3 << 30, "1TiB": 1 << 40, "0": 0,
		"18446744073709551615": math.MaxUint64, "16777215TiB": 16777215 << 40,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%s = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "MiB", "64 MiB", "64MB", "64mib", "64M", "64iB", "-1", "+1", "1.5GiB", "0x10", "1_000", "64MiBKiB", "64MiB ", "6４",
		"16777216TiB", "18446744073709551616", "18446744073709551616TiB", strings.Repeat("9", 1000),
	} {
		if got, err := ParseSize(s); err == nil || remedy.Of(err) == "" {
			t.Errorf("%s = %d, %v", s, got, err)
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"interface", "program", "start", "fail", "XDP_DROP"}
	for word, want := range map[string]string{
		"interfaces": `did you mean "interface"?`,
		"INTERFACE":  `did you mean "interface"?`,
		"prgoram":    `did you mean "program"?`,
		"strat":      `did you mean "start"?`,
		"XDP_DORP":   `did you mean "XDP_DROP"?`,
		"fall":       `did you mean "fail"?`,
		"device":     "write one of: XDP_DROP, fail, interface, program, start",
		"":           "write one of: XDP_DROP, fail, interface, program, start",
	} {
		if got := Suggest(word, known); got != want {
			t.Errorf("%q: %s", word, got)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "ab", 1}, {"ab", "abc", 1}, {"abc", "bac", 1},
		{"abc", "acb", 1}, {"abcd", "badc", 2}, {"abc", "xyc", 2}, {"abc", "xyz", 3}, {"abcd", "cdab", 4}, {"a", "abcdef", 5},
	} {
		if got := distance(tt.a, tt.b, 5); got != tt.want {
			t.Errorf("%q, %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

// What scan lets through must be what the library then sees: the same keys, or
// it has counted something else than the library reads.
func FuzzDecode(f *testing.F) {
	for _, text := range bombs {
		f.Add(text)
	}
	f.Add(keyed)
	for _, text := range worst() {
		f.Add(text[:min(len(text), 2000)])
	}
	f.Fuzz(func(t *testing.T, text string) {
		ours := map[string]bool{}
		if err := scan("f.toml", text, func(path []byte, line int) {
			if line < 1 || line > strings.Count(text, "\n")+1 {
				t.Fatalf("%s on line %d", path, line)
			}
			ours[indexes.ReplaceAllString(string(path), "")] = true
		}); err != nil {
			checkError(t, err)
			return
		}
		var tree map[string]any
		if _, err := Decode("f.toml", []byte(text), &tree); err != nil {
			checkError(t, err)
			return
		}
		meta, err := toml.Decode(text, &tree)
		if err != nil {
			t.Fatal(err)
		}
		theirs := map[string]bool{}
		for _, key := range meta.Keys() {
			if len(key) > maxParts*maxDepth {
				t.Fatalf("key of %d parts", len(key))
			}
			theirs[indexes.ReplaceAllString(strings.Join(key, "."), "")] = true
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(theirs)), slices.Sorted(maps.Keys(ours))); diff != "" {
			t.Errorf("keys (-library +scan):\n%s", diff)
		}
	})
}

var indexes = regexp.MustCompile(`\[[0-9]+\]`)

func checkError(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || remedy.Of(err) == "" {
		t.Errorf("%v: not an *Error with a remedy", err)
	}
	if len(err.Error()) > 2000+2*len(fmt.Sprintf("%q", e.Key)) || strings.ContainsAny(err.Error(), "\n\r\x1b") {
		t.Errorf("error %.100q…", err.Error())
	}
}
