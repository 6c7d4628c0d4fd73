package tomlfile

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// bombs are files of at most 64 KiB that cost the bare library seconds to
// minutes and gigabytes, or that might.
var bombs = map[string]string{
	"arrays 32,000 deep":          "a = " + strings.Repeat("[", 32_000) + strings.Repeat("]", 32_000),
	"64 KiB of brackets":          strings.Repeat("[", MaxSize),
	"64 KiB of closing brackets":  strings.Repeat("]", MaxSize),
	"64 KiB of braces":            "a = " + strings.Repeat("{", MaxSize-4),
	"key of 20,000 parts":         strings.Repeat("a.", 20_000) + "a = 1",
	"header of 20,000 parts":      "[" + strings.Repeat("a.", 20_000) + "a]",
	"keys of 8 parts, 2,000":      lines(2000, "a%d.b.c.d.e.f.g.h = 1"),
	"headers of 8 parts, 2,000":   lines(2000, "[a.b.c.d.e.f.g.h%d]"),
	"inline tables 4,000 deep":    "a = " + strings.Repeat("{a = ", 4000) + "1" + strings.Repeat("}", 4000),
	"arrays and tables, mixed":    "a = " + strings.Repeat("[{a = ", 4000) + "1" + strings.Repeat("}]", 4000),
	"inline tables in an array":   "a = [" + strings.Repeat("{},", 20_000) + "]",
	"inline tables of 8 parts":    "a = [" + strings.Repeat("{a.b.c.d.e.f.g.h=1},", 1000) + "]",
	"deep inline tables, 1,000":   "a = [" + strings.Repeat("{a.b.c.d.e.f={g={h=1}}},", 1000) + "]",
	"arrays of tables, 2,000":     strings.Repeat("[[a.b.c.d.e.f.g.h]]\n", 2000),
	"20,000 arrays of tables":     strings.Repeat("[[a]]\n", 10_000),
	"arrays in arrays":            "a = [" + strings.Repeat("[[[[[[[]]]]]]],", 4000) + "]",
	"keys below a long header":    "[" + strings.Repeat("k", 40_000) + "]\n" + lines(1900, "k%d = 1"),
	"keys below eight long parts": "[" + strings.Repeat(strings.Repeat("k", 120)+".", 7) + "k]\n" + lines(1900, "k%d = 1"),
	"keys in a deep inline table": strings.Repeat(strings.Repeat("k", 120)+".", 7) + "k = {" + strings.Repeat(strings.Repeat("k", 120)+".", 6) + "k = {" + strings.ReplaceAll(lines(1900, "k%d = 1,"), "\n", "") + "}}",
	"32,000 numbers":              "a = [" + strings.Repeat("1,", 32_000) + "]",
	"21,000 strings":              "a = [" + strings.Repeat(`"",`, 21_000) + "]",
	"16,000 floats":               "a = [" + strings.Repeat("1.5,", 16_000) + "]",
	"5,000 dates":                 "a = [" + strings.Repeat("1979-05-27,", 5_000) + "]",
	"2,000 keys":                  lines(2000, "k%d = 1"),
	"2,001 keys":                  lines(2001, "k%d = 1"),
	"one long string":             `a = "` + strings.Repeat("x", MaxSize-6) + `"`,
	"one long number":             "a = " + strings.Repeat("9", MaxSize-4),
	"one long float":              "a = 0." + strings.Repeat("9", MaxSize-6),
	"one long date":               "a = 1979-" + strings.Repeat("0", MaxSize-9),
	"one long key":                strings.Repeat("k", MaxSize-4) + " = 1",
	"one long comment":            "#" + strings.Repeat("c", MaxSize-1),
	"escapes":                     `a = "` + strings.Repeat(`\u00e9`, 10_000) + `"`,
	"escaped ends of lines":       `a = """` + strings.Repeat("\\\n ", 20_000) + `"""`,
	"quotes in a string":          `a = """` + strings.Repeat(`""x`, 20_000) + `"""`,
	"six quotes":                  `a = """x""""""`,
	"six quotes behind an escape": `a = """\\""""""`,
	"64 KiB of ends of lines":     strings.Repeat("\n", MaxSize),
	"64 KiB of CRLF":              strings.Repeat("\r\n", MaxSize/2),
	"64 KiB of tabs":              strings.Repeat("\t", MaxSize),
	"64 KiB and one byte":         strings.Repeat("\n", MaxSize+1),
	"lone carriage return":        "a = 1\rb = 2",
	"NUL":                         "a = \"\x00\"",
	"NUL in a comment":            "# \x00",
	"escape character":            "a = '\x1b[31m'",
	"invalid UTF-8":               "a = \"\xff\"",
	"half a character":            "a = \"\xe2\x82",
	"surrogate":                   "a = \"\xed\xa0\x80\"",
	"byte order mark":             "\ufeffa = 1",
	"UTF-16":                      "\xff\xfea\x00 \x00=\x00",
	"number of 64 bits":           "a = 9223372036854775808",
	"hexadecimal of 64 bits":      "a = 0x8000000000000000",
	"not a number":                "a = nan",
	"infinite":                    "a = [-inf]",
	"exponent":                    "a = 1e999999999",
	"date":                        "a = 1979-05-27T07:32:00Z",
	"same key twice":              "a = 1\na = 2",
	"same table twice":            "[a]\n[a]",
	"table and array":             "[a]\n[[a]]",
	"key and table":               "a = 1\n[a.b]",
	"binary without digits":       "a = 0b",
	"bad escape":                  `a = "\q"`,
	"escape at the end":           `a = "\`,
	"escape at the end of lines":  `a = """\`,
	"empty quoted key":            `"" = 1`,
	"dot at the end of a key":     "a. = 1",
}

func lines(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format+"\n", i)
	}
	return b.String()
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Everything that reading any 64 KiB may allocate, added up: what is in use at
// any one time is far less. Memory rather than time, which depends on the host:
// the library's bombs cost both together.
func TestBombsCostLittle(t *testing.T) {
	const limit = 32 << 20
	for name, text := range bombs {
		t.Run(name, func(t *testing.T) {
			var v map[string]any
			n := allocated(func() { _, _ = Decode("bomb.toml", []byte(text), &v) })
			if n > limit {
				t.Errorf("%d bytes of TOML cost %d MiB", len(text), n>>20)
			}
			t.Logf("%d bytes of TOML cost %d KiB", len(text), n>>10)
		})
	}
}

// The bounds are what stops the bombs: each must be refused by scan itself.
func TestScanStopsTheLibrarysBombs(t *testing.T) {
	for name, reason := range map[string]string{
		"arrays 32,000 deep":        "nested more than 16 deep",
		"64 KiB of brackets":        "expected a key",
		"64 KiB of braces":          "expected a key",
		"key of 20,000 parts":       "more than 8 parts",
		"header of 20,000 parts":    "more than 8 parts",
		"inline tables 4,000 deep":  "nested more than 16 deep",
		"arrays and tables, mixed":  "nested more than 16 deep",
		"inline tables in an array": "more than 2000 keys",
		"20,000 arrays of tables":   "more than 2000 keys",
		"keys below a long header":  "a part of 40000 bytes, more than 128",
		"same key twice":            "defined twice",
		"2,001 keys":                "more than 2000 keys",
		"64 KiB and one byte":       "has 65537 bytes, more than 65536",
		"lone carriage return":      "control character U+000D",
		"NUL in a comment":          "control character U+0000",
		"escape character":          "control character U+001B",
		"invalid UTF-8":             `byte "\xff" that is not UTF-8`,
		"surrogate":                 `byte "\xed" that is not UTF-8`,
		"byte order mark":           "byte order mark",
	} {
		text, ok := bombs[name]
		if !ok {
			t.Fatalf("no bomb %q", name)
		}
		err := scan("bomb.toml", text, nil)
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, want %q", name, err, reason)
		}
	}
}
