package tomlfile

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// worst are files of the full size, one for each way to combine what may stand
// around a value, how often a key is written, and what is repeated: what costs
// much costs it by being repeated, below much that is repeated with it.
func worst() map[string]string {
	long := strings.Repeat("k", maxPart)
	around := map[string]string{ // ends where a key may stand
		"nothing":            "",
		"a long header":      "[" + long + "." + long + "." + long + "]\n",
		"a deep header":      "[a.b.c.d.e.f.g.h]\n",
		"an array of tables": "[[" + long + "." + long + "]]\n[[" + long + "." + long + "]]\n",
	}
	keys := map[string]string{ // one that is short, one that is as long as may be, one of many parts
		"short": "a", "long": long[:100], "dotted": "b.c.d.e.f.g",
	}
	units := []string{
		"1,", "-1,", "0x1,", "1.5,", "1e9,", "1_1,", "nan,", "true,", "'',", `"",`, `"\u00e9",`, `"\n",`, "''''''," + "\n", `"""` + "\\\n" + `""",`,
		"1979-05-27,", "07:32:00,", "1979-05-27T07:32:00.999999Z,", "[],", "[[[]]],", "[1,1,1,1,1,1],", "{},", "{a=1},", "{a.b.c={d=1}},", "\n", "#\n", " ", "é,", "1,#\n",
	}
	files := make(map[string]string)
	fill := func(name, before, unit, after string) {
		n := (MaxSize - len(before) - len(after)) / len(unit)
		files[name] = before + strings.Repeat(unit, n) + after
	}
	for a, header := range around {
		for k, key := range keys {
			for _, unit := range units {
				fill(fmt.Sprintf("%q in an array, %s key below %s", unit, k, a), header+key+"=[", unit, "]")
			}
			// With numbers, as no key may stand twice.
			for kind, format := range map[string]string{
				"keys": "%s%d=1\n", "arrays": "%s%d=[nan,nan,1979-05-27]\n", "tables": "%s%d={a=nan,b=[nan]}\n", "strings": "%s%d='''\n\n'''\n",
			} {
				var b strings.Builder
				for i := 0; i < maxKeys/8 && b.Len() < MaxSize-len(header)-400; i++ {
					fmt.Fprintf(&b, format, key, i)
				}
				files[fmt.Sprintf("%s of a %s key below %s", kind, k, a)] = header + b.String()
			}
		}
		var inline strings.Builder
		for i := 0; i < maxKeys-100 && inline.Len() < MaxSize-1000; i++ {
			fmt.Fprintf(&inline, "k%d=1,", i)
		}
		files["keys of an inline table below "+a] = header + "b.c.d.e.f.g={" + inline.String() + "}"
	}
	for name, unit := range map[string]string{"characters": "x", "characters of two bytes": "é", "escapes": `\\`, "wide escapes": `\U0001F600`, "bad escapes": `\q`, "quotes": `\"`, "spaces": " "} {
		fill("a string of "+name, `a="`, unit, `"`)
		fill("lines of "+name, `a="""`, unit+"\n", `"""`)
		fill("escaped lines of "+name, `a="""`, unit+"\\\n  ", `"""`)
	}
	for name, unit := range map[string]string{"digits": "9", "digits with _": "9_9", "zeroes": "0", "signs": "+", "points": "1.", "exponents": "1e"} {
		fill("a number of "+name, "a=", unit, "")
		fill("a hexadecimal number of "+name, "a=0x", unit, "")
		fill("a number behind a point of "+name, "a=1.", unit, "")
		fill("a year of "+name, "a=1979-05-27T00:00:00.", unit, "Z")
	}
	for name, text := range files {
		if len(text) > MaxSize {
			panic(name)
		}
	}
	return files
}

// shape is what a program reads: what it does not know is refused, with a line and
// a suggestion, for each.
type shape struct {
	A     []int          `toml:"a"`
	B     map[string]any `toml:"b"`
	K1    string         `toml:"k1"`
	K12   int            `toml:"k12"`
	K123  []string       `toml:"k123"`
	K1234 bool           `toml:"k1234"`
	KKKKK any            `toml:"kkkkk"`
}

// cost is what decoding a text allocates: in bytes, and how often, which stands for
// the work and, unlike time, is the same on every machine.
func cost(text string, v any) (bytes, times uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = Decode("worst.toml", []byte(text), v)
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, after.Mallocs - before.Mallocs
}

// Whatever 64 KiB hold, reading them costs less than 32 MiB, all that is ever
// allocated added up, and a few allocations a byte.
func TestWorstInputs(t *testing.T) {
	const maxBytes, maxTimes = 32 << 20, 4 * MaxSize
	files := worst()
	var most, often uint64
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, v := range []any{&map[string]any{}, &shape{}} {
			bytes, times := cost(files[name], v)
			if bytes > maxBytes || times > maxTimes {
				t.Errorf("%s, into %T: %d KiB in %d allocations", name, v, bytes>>10, times)
			}
			most, often = max(most, bytes), max(often, times)
		}
	}
	t.Logf("%d files, at most %d KiB and %d allocations", len(files), most>>10, often)
}

// BenchmarkWorst says what the slowest of them takes, in processor time, of which a
// busy machine takes little more: docs/benchmarks.md has the bar.
func BenchmarkWorst(b *testing.B) {
	files := worst()
	maps.Copy(files, bombs)
	slowest, which := time.Duration(0), ""
	for range b.N {
		for name, text := range files {
			least := time.Hour
			for range 3 {
				before := processorTime(b)
				_, _ = Decode("worst.toml", []byte(text), &shape{})
				least = min(least, processorTime(b)-before)
			}
			if least > slowest {
				slowest, which = least, name
			}
		}
	}
	b.ReportMetric(float64(slowest.Microseconds())/1000, "cpu-ms/worst")
	b.Logf("%d files, the slowest: %s", len(files), which)
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
