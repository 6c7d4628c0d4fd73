package manifest

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hornetd/hornetd/internal/remedy"
)

const dropInFile = "/etc/hornet.d/x.toml.d/10.toml"

// signedText has something at every key, for drop-ins to change.
const signedText = `name = "x"
version = 3
description = "what was signed"
start = "boot"
fail = "open"
requires = ["y"]
after = ["z"]
[object]
path = "x.o"
signature = "x.sig"
signers = ["team", "ops"]
sha256 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
[variables]
rate = 100
on = true
[maps.m]
class = "frozen"
entries = [ { key = 1, value = 1 }, { key = 2, value = 2 } ]
program_writes = true
max_entries = 10
inner = "t"
[maps.k]
class = "mutable"
keep = true
[maps.s]
class = "mutable"
shared = "one"
[[attach]]
program = "a"
interface = "eth*"
mode = "native"
direction = "ingress"
position = "head"
netns = "/run/netns/a"
cgroup = "a.slice"
tracepoint = "sched/a"
executable = "/bin/a"
symbol = "a"
symbols = ["s1", "s2"]
offset = 1
function = "f"
functions = ["f1", "f2"]
replaces = "r"
family = "ipv4"
hook = "input"
priority = 1
defrag = true
map = "m"
[[attach]]
program = "b"
[[attach]]
program = "c"
[[allow]]
user = "1000"
may = ["status", "load", "read:*"]
[[allow]]
group = "ops"
may = ["read:m", "events"]
[limits]
memory = "64MiB"
maps = 10
programs = 4
[[test]]
program = "a"
data = "00"
returns = 1
[[test]]
program = "b"
returns = 0
[health]
seconds = 5
map = "m"
key = 1
field = "f"
grows = true
`

// applied is signedText with a drop-in.
func applied(t testing.TB, text string) (before, after Manifest, d DropIn, err error) {
	t.Helper()
	before, err = Parse("/usr/lib/hornet.d/x.toml", []byte(signedText))
	if err != nil {
		t.Fatal(err)
	}
	if d, err = ParseDropIn(dropInFile, []byte(text)); err != nil {
		return before, after, d, err
	}
	if after, err = Apply(before, d); err == nil {
		d = after.DropIns[0]
	}
	return before, after, d, err
}

// attachOf is the attachment a of signedText with one line changed.
func attachOf(old, now string) string {
	_, a, _ := strings.Cut(signedText, "[[attach]]\n")
	a, _, _ = strings.Cut(a, "[[attach]]\n")
	changed := strings.Replace(a, old, now, 1)
	if changed == a {
		panic(old)
	}
	return "[[attach]]\n" + changed
}

// healthOf is the [health] of signedText with one part changed.
func healthOf(old, now string) string {
	_, h, _ := strings.Cut(signedText, "[health]\n")
	return "[health]\n" + strings.Replace(h, old, now, 1)
}

// Narrowing is decided key by key: each row says where the drop-in widens, or
// "" where it only narrows. TestEveryKeyOfAManifestIsDecided wants a row for
// every key there is.
var narrowing = []struct {
	key   string // of the schema
	text  string // of the drop-in
	wider string // key of the error
}{
	{"", "", ""},
	{"name", `name = "x"`, ""},
	{"version", `version = 3`, ""},
	{"description", `description = "what was signed"`, ""},
	{"description", `description = "another"`, "description"},
	{"start", `start = "request"`, ""},
	{"start", `start = "boot"`, ""},
	{"fail", `fail = "open"`, ""},
	{"fail", `fail = "closed"`, "fail"},
	{"requires", `requires = ["y"]`, ""},
	{"requires", `requires = []`, "requires"},
	{"requires", `requires = ["y", "z"]`, "requires"},
	{"after", `after = []`, "after"},
	{"object.path", `object.path = "x.o"`, ""},
	{"object.path", `object.path = "y.o"`, "object.path"},
	{"object.signature", `object.signature = "y.sig"`, "object.signature"},
	{"object.signers", `object.signers = ["team"]`, "object.signers"},
	{"object.signers", `object.signers = ["team", "ops"]`, ""},
	{"object.sha256", `object.sha256 = "` + strings.Repeat("00", 32) + `"`, "object.sha256"},
	{"variables", `variables.rate = 100`, ""},
	{"variables", `variables.rate = 99`, "variables.rate"},
	{"variables", `variables.on = false`, "variables.on"},
	{"variables", `variables.new = 0`, "variables.new"},
	{"maps.class", `maps.m.class = "frozen"`, ""},
	{"maps.class", "maps.k.class = \"frozen\"\nmaps.k.keep = false", "maps.k.class"},
	{"maps.class", "[maps.m]\nclass = \"mutable\"\nprogram_writes = false", "maps.m.class"},
	{"maps.class", `maps.new.class = "frozen"`, "maps.new"},
	{"maps.entries", `maps.m.entries = []`, "maps.m.entries"},
	{"maps.entries", `maps.m.entries = [ { key = 1, value = 1 } ]`, "maps.m.entries"},
	{"maps.entries.key", `maps.m.entries = [ { key = 1, value = 1 }, { key = 3, value = 2 } ]`, "maps.m.entries"},
	{"maps.entries.value", `maps.m.entries = [ { key = 1, value = 1 }, { key = 2, value = 3 } ]`, "maps.m.entries"},
	{"maps.program_writes", `maps.m.program_writes = true`, ""},
	{"maps.program_writes", `maps.m.program_writes = false`, "maps.m.program_writes"},
	{"maps.keep", `maps.k.keep = false`, "maps.k.keep"},
	{"maps.shared", `maps.s.shared = "two"`, "maps.s.shared"},
	{"maps.max_entries", `maps.m.max_entries = 9`, "maps.m.max_entries"},
	{"maps.inner", `maps.m.inner = "u"`, "maps.m.inner"},

	{"attach", `attach = []`, ""},
	{"attach.program", "[[attach]]\nprogram = \"b\"\n[[attach]]\nprogram = \"c\"", ""},
	{"attach.program", attachOf(`"a"`, `"d"`), "attach[0]"},
	{"attach.program", "[[attach]]\nprogram = \"c\"\n[[attach]]\nprogram = \"b\"", "attach[1]"},
	{"attach.program", "[[attach]]\nprogram = \"b\"\n[[attach]]\nprogram = \"d\"", "attach[1]"},
	{"attach.interface", attachOf(`"eth*"`, `"*"`), "attach[0]"},
	{"attach.interface", attachOf(`"eth*"`, `"eth0"`), "attach[0]"},
	{"attach.mode", attachOf(`"native"`, `"generic"`), "attach[0]"},
	{"attach.direction", attachOf(`"ingress"`, `"egress"`), "attach[0]"},
	{"attach.position", attachOf(`"head"`, `"tail"`), "attach[0]"},
	{"attach.netns", attachOf("netns = \"/run/netns/a\"\n", ""), "attach[0]"},
	{"attach.cgroup", attachOf(`"a.slice"`, `"a.slice/b"`), "attach[0]"},
	{"attach.tracepoint", attachOf(`"sched/a"`, `"sched/b"`), "attach[0]"},
	{"attach.executable", attachOf(`"/bin/a"`, `"/bin/b"`), "attach[0]"},
	{"attach.symbol", attachOf(`symbol = "a"`, `symbol = "b"`), "attach[0]"},
	{"attach.symbols", attachOf(`["s1", "s2"]`, `["s2"]`), ""},
	{"attach.symbols", attachOf(`["s1", "s2"]`, `["s2", "s3"]`), "attach[0]"},
	{"attach.symbols", attachOf("symbols = [\"s1\", \"s2\"]\n", ""), "attach[0]"},
	{"attach.symbols", attachOf(`["s1", "s2"]`, `["s2"]`) + attachOf(`["s1", "s2"]`, `["s2", "s1"]`), "attach[1]"}, // s2 twice
	{"attach.offset", attachOf(`offset = 1`, `offset = 0`), "attach[0]"},
	{"attach.function", attachOf(`function = "f"`, `function = "g"`), "attach[0]"},
	{"attach.functions", attachOf(`["f1", "f2"]`, `["f1"]`), ""},
	{"attach.functions", attachOf(`["f1", "f2"]`, `["f*"]`), "attach[0]"},
	{"attach.functions", attachOf("functions = [\"f1\", \"f2\"]\n", ""), "attach[0]"},
	{"attach.replaces", attachOf(`"r"`, `"q"`), "attach[0]"},
	{"attach.family", attachOf(`"ipv4"`, `"ipv6"`), "attach[0]"},
	{"attach.hook", attachOf(`"input"`, `"output"`), "attach[0]"},
	{"attach.priority", attachOf(`priority = 1`, `priority = 2`), "attach[0]"},
	{"attach.defrag", attachOf("defrag = true\n", ""), "attach[0]"},
	{"attach.priorities", attachOf(`priority = 1`, `priorities = [1, 2]`), "attach[0]"},
	{"attach.upgrade", attachOf("defrag = true\n", "defrag = true\nupgrade = \"gap\"\n"), "attach[0]"},
	{"attach.target", "start = \"request\"\n[[attach]]\nprogram = \"b\"\ntarget = \"caller\"", "attach[0]"},
	{"attach.map", attachOf(`map = "m"`, `map = "k"`), "attach[0]"},

	{"allow", `allow = []`, ""},
	{"allow.user", "[[allow]]\nuser = \"1000\"\nmay = [\"status\"]", ""},
	{"allow.user", "[[allow]]\nuser = \"1001\"\nmay = [\"status\"]", "allow[0]"},
	{"allow.group", "[[allow]]\ngroup = \"1000\"\nmay = [\"status\"]", "allow[0]"},
	{"allow.group", "[[allow]]\ngroup = \"ops\"\nmay = [\"events\", \"read:m\"]", ""},
	{"allow.unit", "[[allow]]\nuser = \"1000\"\nunit = \"web.service\"\nmay = [\"status\"]", ""},
	{"allow.unit", "[[allow]]\nunit = \"web.service\"\nmay = [\"status\"]", "allow[0]"},
	{"allow.may", "[[allow]]\nuser = \"1000\"\nmay = [\"read:m\", \"read:k\"]", ""},
	{"allow.may", "[[allow]]\nuser = \"1000\"\nmay = [\"status\", \"unload\"]", "allow[0]"},
	{"allow.may", "[[allow]]\ngroup = \"ops\"\nmay = [\"read:*\"]", "allow[0]"},
	{"allow.may", "[[allow]]\nuser = \"1000\"\nmay = [\"write:m\"]", "allow[0]"},
	{"allow.may", "[[allow]]\nuser = \"1000\"\nmay = [\"rw-fd:m\"]", "allow[0]"},
	{"allow.may", "[[allow]]\ngroup = \"ops\"\nmay = [\"events\"]\n[[allow]]\ngroup = \"ops\"\nmay = [\"read:k\"]", "allow[1]"},

	{"limits.memory", `limits.memory = "1MiB"`, ""},
	{"limits.memory", `limits.memory = "64MiB"`, ""},
	{"limits.memory", `limits.memory = "65MiB"`, "limits.memory"},
	{"limits.maps", `limits.maps = 9`, ""},
	{"limits.maps", `limits.maps = 11`, "limits.maps"},
	{"limits.programs", `limits.programs = 1`, ""},
	{"limits.programs", `limits.programs = 5`, "limits.programs"},

	{"test", `test = []`, "test"},
	{"test.program", "[[test]]\nprogram = \"a\"\ndata = \"00\"\nreturns = 1", "test"},
	{"test.data", "[[test]]\nprogram = \"a\"\ndata = \"01\"\nreturns = 1\n[[test]]\nprogram = \"b\"\nreturns = 0", "test"},
	{"test.returns", "[[test]]\nprogram = \"a\"\ndata = \"00\"\nreturns = 2\n[[test]]\nprogram = \"b\"\nreturns = 0", "test"},

	{"health.seconds", healthOf("seconds = 5", "seconds = 4"), "health"},
	{"health.seconds", healthOf("", ""), ""},
	{"health.map", healthOf(`map = "m"`, `map = "k"`), "health"},
	{"health.key", healthOf("key = 1", "key = 2"), "health"},
	{"health.field", healthOf(`field = "f"`, `field = "g"`), "health"},
	{"health.variable", healthOf("map = \"m\"\nkey = 1\nfield = \"f\"", `variable = "rate"`), "health"},
	{"health.grows", healthOf("grows = true", "at_least = 1"), "health"},
	{"health.at_least", healthOf("grows = true", "at_least = 0"), "health"},
	{"health.equals", healthOf("grows = true", "equals = 0"), "health"},
	{"health.program", "[health]\nseconds = 5\nprogram = \"a\"\nreturns = 1", "health"},
	{"health.data", "[health]\nseconds = 5\nprogram = \"a\"\ndata = \"00\"\nreturns = 1", "health"},
	{"health.returns", "[health]\nseconds = 5\nprogram = \"a\"\nreturns = 0", "health"},
}

func TestDropInNarrows(t *testing.T) {
	for _, tt := range narrowing {
		t.Run(strings.ReplaceAll(tt.key+"_"+tt.text, "/", "|"), func(t *testing.T) {
			_, after, d, err := applied(t, tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if tt.wider == "" {
				if d.Widens != nil {
					t.Errorf("%v", d.Widens)
				}
				return
			}
			var e *Error
			if !errors.As(d.Widens, &e) || e.Key != tt.wider || e.File != dropInFile || e.Line < 1 || !strings.Contains(remedy.Of(d.Widens), "hornetctl sign") {
				t.Errorf("%v (%s), want %s:LINE: %s", d.Widens, remedy.Of(d.Widens), dropInFile, tt.wider)
			}
			if after.DropIns[0].Digest != d.Digest {
				t.Errorf("drop-ins %v", after.DropIns)
			}
		})
	}
	// From a start by request there is no way to one at boot.
	m, err := Parse("/m/x.toml", []byte("start = 'request'\nobject.path = 'x.o'"))
	must(t, err)
	d, err := ParseDropIn(dropInFile, []byte(`start = "boot"`))
	must(t, err)
	if m, err = Apply(m, d); err != nil || m.DropIns[0].Widens == nil {
		t.Errorf("%v, %v", m.DropIns, err)
	}
}

// A key that is added to the manifest is one that somebody must have thought of.
func TestEveryKeyOfAManifestIsDecided(t *testing.T) {
	var walk func(key string, typ reflect.Type) []string
	walk = func(key string, typ reflect.Type) (keys []string) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			return walk(key, typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				name, _, _ := strings.Cut(typ.Field(i).Tag.Get("toml"), ",")
				keys = append(keys, walk(strings.TrimPrefix(key+"."+name, "."), typ.Field(i).Type)...)
			}
			return keys
		}
		return []string{key}
	}
	keys := walk("", reflect.TypeFor[rawManifest]())
	if len(keys) < 40 {
		t.Fatalf("%q", keys)
	}
	for _, key := range keys {
		if key == "instances" { // no drop-in may have it: TestTemplate
			continue
		}
		if !slices.ContainsFunc(narrowing, func(row struct{ key, text, wider string }) bool { return row.key == key }) {
			t.Errorf("%s: no row says what of it only narrows", key)
		}
	}
}

// What a drop-in makes of a manifest is what one manifest would say.
func TestApply(t *testing.T) {
	tests := []struct{ name, manifest, dropIn, together string }{
		{"a value", "description = 'a'\nstart = 'boot'\nfail = 'open'", "description = 'b'\nstart = 'request'\nfail = 'closed'", "description = 'b'\nstart = 'request'\nfail = 'closed'"},
		{"nothing", "version = 3\ndescription = 'a'", "", "version = 3\ndescription = 'a'"},
		{"the object", "object.sha256 = '" + strings.Repeat("00", 32) + "'", "[object]\npath = 'y.o'\nsigners = ['team']", "[object]\npath = 'y.o'\nsigners = ['team']\nsha256 = '" + strings.Repeat("00", 32) + "'"},
		{"variables by name", "[variables]\na = 1\nb = { x = 1, y = 2 }", "[variables]\nb = { x = 3 }\nc = 4", "[variables]\na = 1\nb = { x = 3 }\nc = 4"},
		{"maps key by key", "[maps.a]\nclass = 'mutable'\nkeep = true\nmax_entries = 3\n[maps.'*']\nclass = 'frozen'", "[maps.a]\nkeep = false\n[maps.b]\nclass = 'mutable'",
			"[maps.a]\nclass = 'mutable'\nmax_entries = 3\n[maps.b]\nclass = 'mutable'\n[maps.'*']\nclass = 'frozen'"},
		{"a list whole", "[[attach]]\nprogram = 'a'\n[[attach]]\nprogram = 'b'", "[[attach]]\nprogram = 'c'", "[[attach]]\nprogram = 'c'"},
		{"a list away", "[[attach]]\nprogram = 'a'\n[[allow]]\nuser = 'u'\nmay = ['load']\n[test]\nprogram = 'a'\nreturns = 0", "attach = []\nallow = []\ntest = []", ""},
		{"other collections", "requires = ['a']\nafter = ['b']", "requires = []\nafter = ['c', 'd']", "after = ['c', 'd']"},
		{"limits", "[limits]\nmaps = 3\nprograms = 2", "[limits]\nmaps = 4\nmemory = '1MiB'", "[limits]\nmaps = 4\nprograms = 2\nmemory = '1MiB'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			parse := func(text string) Manifest {
				if !strings.Contains(text, "path =") {
					text = "object.path = 'x.o'\n" + strings.ReplaceAll(text, "[object]", "")
				}
				m, err := Parse("/m/x.toml", []byte(text))
				must(t, err)
				return m
			}
			m := parse(tt.manifest)
			d, err := ParseDropIn("/m/x.toml.d/1.toml", []byte(tt.dropIn))
			must(t, err)
			got, err := Apply(m, d)
			must(t, err)
			if diff := cmp.Diff(parse(tt.together), got, cmpopts.IgnoreUnexported(Manifest{}), cmpopts.IgnoreFields(Manifest{}, "Digest", "TextDigest", "DropIns"), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-together +applied):\n%s", diff)
			}
			if got.TextDigest != m.Digest || got.Digest == m.Digest || got.Source() != m.Source() {
				t.Error("not told from the manifest alone")
			}
			if again := parse(tt.manifest); !cmp.Equal(again, m, cmpopts.IgnoreUnexported(Manifest{})) {
				t.Error("the manifest itself was changed")
			}
		})
	}
}

// Each drop-in, its contents, its name and its place among others make another
// digest, and its going the old one.
func TestDropInsChangeTheDigest(t *testing.T) {
	m, err := Parse("/m/x.toml", []byte("object.path = 'x.o'"))
	must(t, err)
	with := func(files ...string) [32]byte {
		out := m
		for _, f := range files {
			file, text, _ := strings.Cut(f, "=")
			d, err := ParseDropIn("/m/x.toml.d/"+file, []byte("description = '"+text+"'"))
			must(t, err)
			out, err = Apply(out, d)
			must(t, err)
		}
		return out.Digest
	}
	seen := map[[32]byte]bool{}
	for _, files := range [][]string{{}, {"1=a"}, {"1=b"}, {"2=a"}, {"1=a", "2=a"}, {"1=a", "2=b"}, {"1=b", "2=a"}, {"1=a", "2=a", "3=a"}} {
		if sum := with(files...); seen[sum] || sum != with(files...) {
			t.Errorf("%q: %x", files, sum)
		} else {
			seen[sum] = true
		}
	}
}

// Errors of the whole name the file and line that the wrong value is in.
func TestApplyRefuses(t *testing.T) {
	const base = "/usr/lib/hornet.d/x.toml"
	tests := []struct{ name, text, err string }{
		{"unknown key", "\nobjekt.path = 'x'", dropInFile + ":2: objekt: unknown key"},
		{"no TOML", "a = ", dropInFile + ":1: a: "},
		{"bomb", strings.Repeat("[", 100), dropInFile + ":1"},
		{"another name", "name = 'y'", dropInFile + `:1: name: is "y", and this is a drop-in of "x"`},
		{"older version", "version = 2", dropInFile + ":1: version: is 2, and the manifest's is 3"},
		{"newer version", "version = 4", dropInFile + ":1: version: is 4"},
		{"no version", "version = 0", dropInFile + ":1: version: is 0"},
		{"bad value", "start = 'maybe'", dropInFile + `:1: start: "maybe" is none of`},
		{"bad element", "\n[[attach]]\nprogram = 'a'\ninterface = 'a/b'", dropInFile + ":4: attach[0].interface: "},
		{"missing in an element", "\n[[attach]]\nmode = 'auto'", dropInFile + ":2: attach[0].program: is missing"},
		{"missing in a map", "[maps.new]\nmax_entries = 2", dropInFile + ":1: maps.new.class: is missing"},
		{"together", "maps.k.class = 'frozen'", base + ":24: maps.k.keep: the contents of a frozen map"},
		{"zero", "limits.maps = 0", dropInFile + ":1: limits.maps: is 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, _, err := applied(t, tt.text)
			var e *Error
			if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), tt.err) || remedy.Of(err) == "" {
				t.Errorf("%v (%s)\nwant %s", err, remedy.Of(err), tt.err)
			}
		})
	}
	_, after, _, err := applied(t, "[[attach]]\nprogram = 'z'\n[variables.on]\nx = 1")
	must(t, err)
	for key, want := range map[string]string{
		"attach[0].program": dropInFile + ":2: ", "attach[0].interface": dropInFile + ":1: ", "attach[1].program": dropInFile + ":",
		"variables.rate": base + ":14: ", "variables.on.x": dropInFile + ":4: ", "variables.on.y": dropInFile + ":3: ",
		"maps.m.class": base + ":17: ", "object.path": base + ":9: ", "nowhere": base + ": ",
	} {
		if err := after.Errorf(key, "wrong"); !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", key, err, want)
		}
	}
}

// What a signature is for, it says: without that it would be good elsewhere too.
func TestSignedDropInMayNotAlter(t *testing.T) {
	const is = "name = 'x'\nversion = 3\n"
	for _, tt := range []struct{ text, key string }{
		{is + "description = 'another'\nattach = []", ""},
		{is + "variables.rate = 3\n[[attach]]\nprogram = 'new'", ""},
		{"version = 3", "name"},
		{"name = 'x'", "version"},
		{is + "object.path = 'y.o'", "object"},
		{is + "[object]\nsigners = ['mallory']", "object"},
		{is + "object.sha256 = '" + strings.Repeat("00", 32) + "'", "object"},
		{is + "object.path = 'x.o'", "object"},
		{is + "[object]", "object"},
		{signedText, "object"}, // a manifest that was signed, this one or an older one
	} {
		_, _, d, err := applied(t, tt.text)
		must(t, err)
		var e *Error
		if got := errors.As(d.Alters, &e); got != (tt.key != "") || got && (e.Key != tt.key || e.File != dropInFile || remedy.Of(d.Alters) == "") {
			t.Errorf("%q: %v, want %q", tt.text, d.Alters, tt.key)
		}
	}
	if _, _, d, err := applied(t, is+"object.path = 'y.o'"); err != nil || d.Widens == nil || strings.Contains(remedy.Of(d.Widens), dropInFile) {
		t.Errorf("not signed: %v (%s), %v: it cannot be signed", d.Widens, remedy.Of(d.Widens), err)
	}
	m, err := Parse("/m/x.toml", []byte("object.path = 'x.o'"))
	must(t, err)
	d, err := ParseDropIn(dropInFile, []byte("name = 'x'"))
	must(t, err)
	if m, err = Apply(m, d); err != nil || m.DropIns[0].Alters != nil {
		t.Errorf("a manifest without a version: %v, %v", m.DropIns, err)
	}
}
