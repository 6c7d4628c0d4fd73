package manifest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"

	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hornetd/hornetd/internal/remedy"
)

// full has every key of a manifest.
const full = `description = "Drop traffic from blocked networks"
version     = 3
start       = "request"
fail        = "closed"
name        = "xdp-drop"
[object]
path      = "sub/xdp_drop.bpf.o"
signature = "/etc/hornet/xdp_drop.p7s"
signers   = ["platform-team", "Ops.2026"]
sha256    = "000102030405060708090A0B0C0D0E0F101112131415161718191a1b1c1d1e1f"

[variables]
sample_rate = 100
ratios = [1, 2.5]
config = { on = true, name = "x" }

[maps.blocked]
class          = "frozen"
program_writes = true
max_entries    = 1024
entries = [
  { key = "10.0.0.0/8", value = 1 },
  { key = { prefix = 8, addr = [10, 0] }, value = "0x01" },
]

[maps.hits]
class = "mutable"
keep  = true

[maps.outer]
inner = "template"

[maps.".bss"]
keep = true

[maps."*"]
class = "mutable"

[[attach]]
program   = "xdp_drop"
interface = "eth*"
mode      = "native"
netns     = "/run/netns/blue"

[[attach]]
program   = "count"
interface = "lo"
direction = "egress"
position  = "head"

[[attach]]
program = "connect4"
cgroup  = "system.slice/x.service"

[[attach]]
program    = "exec"
tracepoint = "sched/sched_process_exec"

[[attach]]
program    = "probe"
executable = "/usr/bin/bash"
symbol     = "readline"
offset     = 4

[[attach]]
program  = "filter"
family   = "ipv6"
hook     = "forward"
priority = -100
defrag   = true

[[attach]]
program = "walk"
map     = "hits"

[[attach]]
program  = "enter"
function = "do_exit.isra.0"

[[attach]]
program   = "many"
functions = ["vfs_read", "tcp_*"]

[[attach]]
program    = "several"
executable = "/usr/bin/bash"
symbols    = ["readline", "main.(*T).Run?"]

[[attach]]
program  = "instead"
function = "verdict"
replaces = "xdp_drop"

[[attach]]
map = "steady"

[[allow]]
group = "netops"
may   = ["status", "load", "unload", "events", "read:hits"]

[[allow]]
user = "1000"
may  = ["read:*"]

[limits]
memory   = "64MiB"
maps     = 8
programs = 4

[[test]]
program = "xdp_drop"
data    = "4500 00ff"
returns = "XDP_DROP"

[[test]]
program = "count"
returns = -1
`

func TestParse(t *testing.T) {
	got, err := Parse("/etc/hornet.d/10-xdp-drop.toml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	sum := [32]byte{}
	for i := range sum {
		sum[i] = byte(i)
	}
	want := Manifest{
		Name:        "xdp-drop",
		Named:       true,
		File:        "/etc/hornet.d/10-xdp-drop.toml",
		Digest:      sha256.Sum256([]byte(full)),
		TextDigest:  sha256.Sum256([]byte(full)),
		Description: "Drop traffic from blocked networks",
		Version:     3,
		Start:       StartRequest,
		Fail:        FailClosed,
		Object: Object{
			Path:      "/etc/hornet.d/sub/xdp_drop.bpf.o",
			Signature: "/etc/hornet/xdp_drop.p7s",
			Signers:   []string{"platform-team", "Ops.2026"},
			SHA256:    &sum,
		},
		Variables: map[string]any{
			"sample_rate": int64(100),
			"ratios":      []any{int64(1), 2.5},
			"config":      map[string]any{"on": true, "name": "x"},
		},
		Maps: map[string]Map{
			"blocked": {Class: ClassFrozen, ProgramWrites: true, MaxEntries: 1024, Entries: []Entry{
				{Key: "10.0.0.0/8", Value: int64(1)},
				{Key: map[string]any{"prefix": int64(8), "addr": []any{int64(10), int64(0)}}, Value: "0x01"},
			}},
			"hits":  {Class: ClassMutable, Keep: true},
			"outer": {Class: ClassMutable, Inner: "template"},
			".bss":  {Keep: true},
			"*":     {Class: ClassMutable},
		},
		Attach: []Attach{
			{Program: "xdp_drop", Interface: "eth*", Mode: "native", Netns: "/run/netns/blue"},
			{Program: "count", Interface: "lo", Direction: "egress", Position: "head"},
			{Program: "connect4", Cgroup: "system.slice/x.service"},
			{Program: "exec", Tracepoint: "sched/sched_process_exec"},
			{Program: "probe", Executable: "/usr/bin/bash", Symbol: "readline", Offset: 4},
			{Program: "filter", Family: "ipv6", Hook: "forward", Priority: -100, Defrag: true},
			{Program: "walk", Map: "hits"},
			{Program: "enter", Function: "do_exit.isra.0"},
			{Program: "many", Functions: []string{"vfs_read", "tcp_*"}},
			{Program: "several", Executable: "/usr/bin/bash", Symbols: []string{"readline", "main.(*T).Run?"}},
			{Program: "instead", Function: "verdict", Replaces: "xdp_drop"},
			{Map: "steady"},
		},
		Allow: []Allow{
			{Group: "netops", May: []Right{RightStatus, RightLoad, RightUnload, RightEvents, RightRead("hits")}},
			{User: "1000", May: []Right{RightRead("*")}},
		},
		Limits: Limits{Memory: 64 << 20, Maps: 8, Programs: 4},
		Tests: []Test{
			{Program: "xdp_drop", Data: []byte{0x45, 0, 0, 0xff}, Returns: 1},
			{Program: "count", Data: []byte{}, Returns: math.MaxUint32},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Manifest{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The name in the text is the one that the file's name makes.
func TestParseName(t *testing.T) {
	const text = "object.path = 'x.o'\nmaps.'*'.class = 'mutable'\n"
	for file, good := range map[string]bool{"/m/drop.toml": true, "/m/20-drop.toml": true, "/m/other.toml": false, "/m/drop2.toml": false} {
		m, err := Parse(file, []byte("name = 'drop'\n"+text))
		if (err == nil) != good || m.Named != good {
			t.Errorf("%s: %v, named %t", file, err, m.Named)
		}
		var e *Error
		if !good && (!errors.As(err, &e) || e.Line != 1 || e.Key != "name" || remedy.Of(err) == "") {
			t.Errorf("%s: %v", file, err)
		}
		if m, err := Parse(file, []byte(text)); err != nil || m.Named {
			t.Errorf("%s without a name: %v, named %t", file, err, m.Named)
		}
	}
	if _, err := Parse("/m/drop.toml", []byte("name = ''\n"+text)); err == nil {
		t.Error("an empty name: accepted")
	}
}

func TestParseDefaults(t *testing.T) {
	t.Chdir("/")
	got, err := Parse("tmp/x.toml", []byte("object.path = 'x.o'\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{
		Name: "x", File: "/tmp/x.toml", Digest: got.Digest, TextDigest: got.Digest, Start: StartBoot, Fail: FailOpen,
		Object: Object{Path: "/tmp/x.o", Signature: "/tmp/x.o.p7s"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Manifest{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The last lines of a manifest, the error they give after "/m/x.toml:" and a
// piece of its remedy. Line 1 is the object, so they begin at line 2.
func TestParseRefuses(t *testing.T) {
	long := strings.Repeat("x", 300)
	tests := []struct{ text, err, hint string }{
		// The whole.
		{"vresion = 1", "2: vresion: unknown key", `did you mean "version"?`},
		{"version = -1", "2: version: is -1, must not be negative", "0 or more"},
		{"version = 9223372036854775808", "2: version: 9223372036854775808 is out of range", "63 bits"},
		{"version = 1.0", "2: version: is a float, not an integer", ""},
		{"start = 'bot'", `2: start: "bot" is none of boot, request`, `did you mean "boot"?`},
		{"start = ''", "2: start: is empty", "remove the key"},
		{"fail = 'ajar'", `2: fail: "ajar" is none of open, closed`, "closed, open"},
		{"description = 'a\tb'", `2: description: "a\tb" contains a character that cannot be printed`, ""},
		{`description = "\u202etxt"`, `2: description: "\u202etxt" contains a character`, ""},
		{"description = '" + long + "'", "2: description: has 300 bytes, more than 200", "one line"},

		{"requires = ['base', 'x']", "2: requires[1]: is this collection itself", "remove it"},
		{"requires = ['a', 'a']", `2: requires[1]: "a" stands there twice`, "remove one"},
		{"after = ['10-base.toml']", `2: after[0]: "10-base.toml" is not the name of a collection`, "without .toml"},
		{"after = 'base'", "2: after: is a string, not an array", ""},

		// Variables.
		{"[variables]\n'a b' = 1", `3: variables.a b: "a b" is not a name in C`, "C source"},
		{"[variables]\n0x = 1", `3: variables.0x: "0x" is not a name in C`, ""},
		{"[variables]\nx = 2026-01-01", "3: variables.x: is a date", ""},
		{"[variables]\nx = nan", "3: variables.x: is NaN", ""},
		{"[variables]\nx = 1\nx = 2", "4: variables.x: is defined twice", ""},

		// Maps.
		{"[maps.hits]", "2: maps.hits.class: is missing", `class = "frozen"`},
		{"[maps.hits]\nclass = 'exclusive'", `3: maps.hits.class: "exclusive" needs an object that the kernel verified itself`, "write frozen"},
		{"[maps.hits]\nclass = 'forzen'", `3: maps.hits.class: "forzen" is none of frozen, mutable`, `did you mean "frozen"?`},
		{"[maps.'a/b']\nclass = 'frozen'", `2: maps.a/b: "a/b" is not the name of a map`, `"*"`},
		{"[maps.hits]\nclass = 'frozen'\n\nkeep = true", "5: maps.hits.keep: the contents of a frozen map", ""},
		{"[maps.hits]\nclass = 'frozen'\nshared = 's'", "4: maps.hits.shared: only a mutable map is shared", ""},
		{"[maps.hits]\nclass = 'mutable'\nshared = 's'\nkeep = true", "5: maps.hits.keep: a shared map is kept anyway", ""},
		{"[maps.hits]\nclass = 'mutable'\nshared = 'S'", `4: maps.hits.shared: "S" is not a name`, ""},
		{"[maps.'*']\nclass = 'mutable'\nshared = 's'", "4: maps.*.shared: shared is one map's", ""},
		{"[maps.a]\nclass = 'mutable'\nshared = 's'\n[maps.b]\nclass = 'mutable'\nshared = 's'", `7: maps.b.shared: "s" is that of a already`, "another name"},
		{"[maps.hits]\nclass = 'mutable'\nprogram_writes = true", "4: maps.hits.program_writes: programs may write a mutable map anyway", "remove it"},
		{"[maps.hits]\nclass = 'mutable'\nmax_entries = 0", "4: maps.hits.max_entries: is 0", "1 or more"},
		{"[maps.hits]\nclass = 'mutable'\nmax_entries = 4294967296", "4: maps.hits.max_entries: is 4294967296, out of range", ""},
		{"[maps.hits]\nclass = 'mutable'\ninner = '.x'", `4: maps.hits.inner: ".x" is not a name in C`, ""},
		{"[maps.'*']\nclass = 'frozen'\nentries = [{key = 1, value = 2}]", "4: maps.*.entries: entries are one map's", ""},
		{"[maps.'*']\nclass = 'frozen'\nmax_entries = 4", "4: maps.*.max_entries: max_entries is one map's", ""},
		{"[maps.'*']\nclass = 'frozen'\ninner = 'x'", "4: maps.*.inner: inner is one map's", ""},
		{"[maps.'*']\nkeep = true", "2: maps.*.class: is missing", ""},
		{"maps.b = { class = 'frozen', entries = [\n{ key = 1, value = 2 },\n{ key = 2 } ] }", "4: maps.b.entries[1].value: is missing", "value ="},
		{"maps.b = { class = 'frozen', entries = [\n{ value = 2 } ] }", "3: maps.b.entries[0].key: is missing", ""},
		{"maps.b = { class = 'frozen', entries = [\n{ key = 1, value = 2, flags = 0 } ] }", "3: maps.b.entries[0].flags: unknown key", "key, value"},
		{"maps.b = { class = 'frozen', entries = [\n{ key = {b=1, a=2}, value = 2 },\n{ key = {a=2, b=1}, value = 3 } ] }", "4: maps.b.entries[1].key: is the key of maps.b.entries[0] again", ""},
		{"maps.b = { class = 'frozen', entries = 1 }", "2: maps.b.entries: is an integer, not an array", ""},

		// Attachments.
		{"[[attach]]\n", "2: attach[0].program: is missing", "a function of the object"},
		{"[attach]\nprogram = 'x'", "2: attach: is a table, not an array", ""},
		{"[[attach]]\nprogram = 'x-y'", `3: attach[0].program: "x-y" is not a name in C`, ""},
		{"[[attach]]\nprogram = 'x'\n[[attach]]\nprogram = 'y'\niface = 'lo'", "6: attach[1].iface: unknown key", "interface"},
		{"[[attach]]\nprogram = 'x'\nmode = 'naive'", `4: attach[0].mode: "naive" is none of auto, generic, native, offload`, `did you mean "native"?`},
		{"[[attach]]\nprogram = 'x'\ndirection = 'in'", "4: attach[0].direction:", "egress, ingress"},
		{"[[attach]]\nprogram = 'x'\nposition = 'first'", "4: attach[0].position:", ""},
		{"[[attach]]\nprogram = 'x'\nfamily = 'ipx'", "4: attach[0].family:", ""},
		{"[[attach]]\nprogram = 'x'\nhook = 'INPUT'", "4: attach[0].hook:", `did you mean "input"?`},
		{"[[attach]]\nprogram = 'x'\ninterface = 'a/b'", "4: attach[0].interface: \"a/b\" cannot be", "ip link"},
		{`[[attach]]` + "\nprogram = 'x'\n" + `interface = "a\u0007"`, `4: attach[0].interface: "a\a" contains a character`, ""},
		{"[[attach]]\nprogram = 'x'\ninterface = '..'", "4: attach[0].interface:", ""},
		{"[[attach]]\nprogram = 'x'\ninterface = 'eth 0'", "4: attach[0].interface:", ""},
		{"[[attach]]\nprogram = 'x'\ninterface = 'eth[0'", "4: attach[0].interface: \"eth[0\" is not a pattern", ""},
		{"[[attach]]\nprogram = 'x'\ninterface = 'sixteenletters00'", "4: attach[0].interface: \"sixteenletters00\" is longer than the 15", ""},
		{"[[attach]]\nprogram = 'x'\nnetns = 'blue'", `4: attach[0].netns: "blue" is not an absolute path`, "absolute path"},
		{"[[attach]]\nprogram = 'x'\nnetns = '/run/../x'", `4: attach[0].netns: "/run/../x" is not the shortest form`, `write "/x"`},
		{"[[attach]]\nprogram = 'x'\ncgroup = '../x'", `4: attach[0].cgroup: "../x" leads out`, ""},
		{"[[attach]]\nprogram = 'x'\ntarget = 'callers'", `4: attach[0].target: "callers" is none of caller`, `did you mean "caller"?`},
		{"[[attach]]\nprogram = 'x'\ntarget = 'caller'\ncgroup = 'x'", `5: attach[0].cgroup: stands beside target = "caller"`, "remove one"},
		{"[[attach]]\nprogram = 'x'\nnetns = '/x'\ntarget = 'caller'", `4: attach[0].netns: stands beside target = "caller"`, "remove one"},
		{"[[attach]]\nprogram = 'x'\ninterface = 'eth*'\ntarget = 'caller'", `4: attach[0].interface: "eth*" is a pattern`, "one interface"},
		{"start = 'boot'\n[[attach]]\nprogram = 'x'\ntarget = 'caller'", `2: start: is "boot", and an [[attach]] has target = "caller"`, `start = "request"`},
		{"[[attach]]\nprogram = 'x'\ncgroup = '/sys//x'", `4: attach[0].cgroup: "/sys//x" is not the shortest form`, ""},
		{"[[attach]]\nprogram = 'x'\ntracepoint = 'a/b/c'", `4: attach[0].tracepoint: "a/b/c" is not`, "GROUP/NAME"},
		{"[[attach]]\nprogram = 'x'\nexecutable = 'bin/sh'", `4: attach[0].executable:`, ""},
		{`[[attach]]` + "\nprogram = 'x'\n" + `symbol = "a\u0000b"`, `4: attach[0].symbol: "a\x00b" contains a character`, ""},
		{"[[attach]]\nprogram = 'x'\noffset = -1", "4: attach[0].offset: is -1, must not be negative", ""},
		{"[[attach]]\nprogram = 'x'\npriority = 2147483648", "4: attach[0].priority: is 2147483648, out of range", "32 bits"},
		{"[[attach]]\nprogram = 'x'\nmap = 'a b'", `4: attach[0].map: "a b" is not the name of a map`, ""},
		{"[[attach]]\nprogram = 'x'\ninterface = 'lo'\n[[attach]]\ninterface = 'lo'\nprogram = 'x'", "5: attach[1]: is the same as attach[0]", ""},
		{"[[attach]]\nprogram = 'x'\nfunctions = ['a']\n[[attach]]\nprogram = 'x'\nfunctions = ['a']", "5: attach[1]: is the same as attach[0]", ""},
		{"[[attach]]\nprogram = 'x'\nfunction = 'a*'", `4: attach[0].function: "a*" is not the name of a function`, "one function"},
		{"[[attach]]\nprogram = 'x'\nfunction = ['a']", "4: attach[0].function: is an array, not a string", ""},
		{"[[attach]]\nprogram = 'x'\nfunctions = 'a'", "4: attach[0].functions: is a string, not an array", ""},
		{"[[attach]]\nprogram = 'x'\nfunctions = []", "4: attach[0].functions: has 0 elements, not 1 to 256", "PRE*"},
		{"[[attach]]\nprogram = 'x'\nfunctions = [" + repeat("'f%d',", 257) + "]", "4: attach[0].functions: has 257 elements, not 1 to 256", ""},
		{"[[attach]]\nprogram = 'x'\nfunctions = ['a',\n'a/b']", `5: attach[0].functions[1]: "a/b" is not the name of a function or a pattern`, "* stands for"},
		{"[[attach]]\nprogram = 'x'\nfunctions = ['a*',\n'a*']", `5: attach[0].functions[1]: "a*" stands there twice`, "remove one"},
		{`[[attach]]` + "\nprogram = 'x'\n" + `symbols = ["a\u001b"]`, `4: attach[0].symbols[0]: "a\x1b" is not the name`, ""},
		{"[[attach]]\nprogram = 'x'\nsymbols = ['" + strings.Repeat("f", 1025) + "']", "4: attach[0].symbols[0]: \"ffff", ""},
		{"[[attach]]\nprogram = 'x'\nsymbols = ['']", "4: attach[0].symbols[0]: is empty", ""},
		{"[[attach]]\nprogram = 'x'\nreplaces = 'other/x'", `4: attach[0].replaces: "other/x" is not a name in C`, ""},

		// Rules.
		{"[[allow]]\nmay = ['status']", "2: allow[0]: names no user, no group and no unit", `user = "NAME"`},
		{"[[allow]]\nunit = 'web'\nmay = ['status']", `3: allow[0].unit: "web" is not the name of a unit with processes`, "web.service"},
		{"[[allow]]\nunit = 'web@.service'\nmay = ['status']", `3: allow[0].unit: "web@.service" is not the name`, "web@1.service"},
		{"[[allow]]\nuser = 'a'\nunit = 'system.slice'\nmay = ['status']", `4: allow[0].unit: "system.slice" is not`, ""},
		{"[[allow]]\nuser = 'a'\ngroup = 'b'\nunit = 'c.service'\nmay = ['status']", "4: allow[0].group: a rule names a user or a group, not both", ""},
		{"[[allow]]\nuser = 'a'\ngroup = 'b'\nmay = ['status']", "4: allow[0].group: a rule names a user or a group, not both", "two [[allow]]"},
		{"[[allow]]\nuser = 'a'", "2: allow[0].may: allows nothing", ""},
		{"[[allow]]\nuser = 'a'\nmay = []", "4: allow[0].may: allows nothing", ""},
		{"[[allow]]\nuser = 'a'\nmay = ['status',\n'laod']", `5: allow[0].may[1]: "laod" is not a right`, `did you mean "load"?`},
		{"[[allow]]\nuser = 'a'\nmay = ['read:']", `4: allow[0].may[0]: "" is not the name of a map`, "read:*"},
		{"[[allow]]\nuser = 'a'\nmay = ['read:a*']", `4: allow[0].may[0]: "a*" is not the name of a map`, ""},
		{"[[allow]]\nuser = 'a'\nmay = ['*']", `4: allow[0].may[0]: "*" is not a right`, "read:MAP"},
		{"[[allow]]\nuser = 'a'\nmay = ['rw-fd:a*']", `4: allow[0].may[0]: "a*" is not the name of a map`, "write rw-fd:MAP with the map's name, or rw-fd:*"},
		{"[[allow]]\nuser = 'a'\nmay = ['write:']", `4: allow[0].may[0]: "" is not the name of a map`, "write:*"},
		{"[[allow]]\nuser = 'a'\nmay = ['rw:m']", `4: allow[0].may[0]: "rw:m" is not a right`, "rw-fd:MAP"},
		{"[[allow]]\nuser = 'a'\nmay = ['load', 'load']", `4: allow[0].may[1]: "load" stands there twice`, ""},
		{"[[allow]]\nuser = 'a'\nmay = [" + repeat("'read:m%d',", 257) + "]", "4: allow[0].may: lists 257 rights, more than 256", "read:*"},
		{"[[allow]]\nuser = '4294967295'\nmay = ['load']", `3: allow[0].user: "4294967295" is not the id of an account`, ""},
		{"[[allow]]\nuser = '99999999999'\nmay = ['load']", `3: allow[0].user: "99999999999" is not the id`, ""},
		{"[[allow]]\nuser = 1000\nmay = ['load']", "3: allow[0].user: is an integer, not a string", ""},
		{"[[allow]]\ngroup = 'a b'\nmay = ['load']", `3: allow[0].group: "a b" cannot be the name of an account`, ""},
		{"[[allow]]\ngroup = '-1'\nmay = ['load']", `3: allow[0].group: "-1" cannot be`, ""},

		// Limits.
		{"[limits]\nmemory = '64MB'", `3: limits.memory: "64MB": is not a size`, "MiB"},
		{"[limits]\nmemory = '16777216TiB'", "3: limits.memory: \"16777216TiB\" is out of range", ""},
		{"[limits]\nmemory = 0", "3: limits.memory: is not more than 0", ""},
		{"[limits]\nmaps = 0", "3: limits.maps: is 0", "the policy's limit"},
		{"[limits]\nprograms = 65536", "3: limits.programs: is 65536, out of range", ""},

		// Tests.
		{"[test]\nprogram = 'x'", "2: test.returns: is missing", "XDP_PASS"},
		{"[[test]]\nprogram = 'x'\nreturns = 0\n[[test]]\nreturns = 0", "5: test[1].program: is missing", ""},
		{"[test]\nprogram = 'x'\nreturns = 'XDP_DORP'", `4: test.returns: "XDP_DORP" is not what a program can return`, `did you mean "XDP_DROP"?`},
		{"[test]\nprogram = 'x'\nreturns = 4294967296", "4: test.returns: is 4294967296, out of range", ""},
		{"[test]\nprogram = 'x'\nreturns = true", "4: test.returns: is neither a number nor a name", ""},
		{"[test]\nprogram = 'x'\ndata = '123'\nreturns = 0", "4: test.data: encoding/hex: odd length hex string", "two hexadecimal digits"},
		{"[test]\nprogram = 'x'\ndata = '0x12'\nreturns = 0", "4: test.data: encoding/hex: invalid byte", ""},
		{"[test]\nprogram = 'x-y'\nreturns = 0", `3: test.program: "x-y" is not a name in C`, ""},
	}
	for _, tt := range tests {
		checkRefused(t, "object.path = 'x.o'\n"+tt.text, tt.err, tt.hint)
	}
}

func TestParseRefusesObjects(t *testing.T) {
	tests := []struct{ text, err, hint string }{
		{"", " object.path: is missing", `path = "NAME.bpf.o"`},
		{"version = 1\n[object]", "2: object.path: is missing", ""},
		{"object = 'x.o'", "1: object: is a string, not a table", ""},
		{"[object]\npath = '../x.o'", `2: object.path: "../x.o" leads out of the manifest's directory`, "absolute path"},
		{"[object]\npath = 'a/../../x.o'", `2: object.path: "a/../../x.o" leads out`, ""},
		{"[object]\npath = '.'", `2: object.path: "." leads out`, ""},
		{"[object]\npath = '/a/../x.o'", `2: object.path: "/a/../x.o" is not the shortest form`, `write "/x.o"`},
		{"[object]\npath = \"x\\u0000.o\"", `2: object.path: "x\x00.o" contains a character`, ""},
		{"[object]\npath = 'x.o'\nsignature = '../x.p7s'", `3: object.signature: "../x.p7s" leads out`, ""},
		{"[object]\npath = 'x.o'\nsigners = []", "3: object.signers: is empty", "remove the key"},
		{"[object]\npath = 'x.o'\nsigners = ['a', 'a']", `3: object.signers[1]: "a" stands there twice`, ""},
		{"[object]\npath = 'x.o'\nsigners = ['../a']", `3: object.signers[0]: "../a" is not the name of a signer`, "without .pem"},
		{"[object]\npath = 'x.o'\nsha256 = 'abcd'", `3: object.sha256: "abcd" is not 64 hexadecimal digits`, "sha256sum"},
		{"[object]\npath = 'x.o'\nkey = 'abcd'", `3: object.key: unknown key`, "path, sha256, signature, signers"},
	}
	for _, tt := range tests {
		checkRefused(t, tt.text, tt.err, tt.hint)
	}
}

// The last value that is still allowed.
func TestParseTakesTheLargest(t *testing.T) {
	for _, text := range []string{
		"description = '" + strings.Repeat("x", 200) + "'",
		"version = 9223372036854775807",
		"[[attach]]\nprogram = '" + strings.Repeat("x", 128) + "'\ninterface = 'fifteenletters0'",
		"[[attach]]\nprogram = 'x'\npriority = -2147483648\noffset = 9223372036854775807",
		"[[attach]]\nprogram = 'x'\nsymbols = ['" + strings.Repeat("x", 1024) + "']",
		"[[allow]]\nuser = '" + strings.Repeat("x", 256) + "'\nmay = ['status']",
		"[[allow]]\nunit = 'a\\x2db@c.service'\nmay = ['status']",
		"[[allow]]\ngroup = 'a'\nunit = 'session-1.scope'\nmay = ['status']",
		"[[allow]]\nuser = '4294967294'\nmay = [" + repeat("'read:m%d',", 256) + "]",
		"[limits]\nmemory = '16777215TiB'\nmaps = 65535\nprograms = 65535",
		"[test]\nprogram = 'x'\nreturns = -2147483648",
		"[test]\nprogram = 'x'\nreturns = 4294967295",
		"[maps.m]\nclass = 'mutable'\nmax_entries = 4294967295",
	} {
		if _, err := Parse("/m/x.toml", []byte("object.path = 'x.o'\n"+text)); err != nil {
			t.Error(err)
		}
	}
}

func checkRefused(t *testing.T, text, want, hint string) {
	t.Helper()
	m, err := Parse("/m/x.toml", []byte(text))
	var e *Error
	switch {
	case !errors.As(err, &e):
		t.Errorf("%q: %v, want an *Error", text, err)
	case !strings.HasPrefix(err.Error(), "/m/x.toml:"+want):
		t.Errorf("%q: %v\nwant /m/x.toml:%s", text, err, want)
	case remedy.Of(err) == "" || !strings.Contains(remedy.Of(err), hint):
		t.Errorf("%q: remedy %q, want %q", text, remedy.Of(err), hint)
	case m.Name != "":
		t.Errorf("%q: a manifest beside the error", text)
	}
}

func TestErrorf(t *testing.T) {
	m, err := Parse("/m/xdp-drop.toml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"variables.sample_rate":       "/m/xdp-drop.toml:13: variables.sample_rate: no such variable",
		"maps.blocked.entries[1]":     "/m/xdp-drop.toml:23: maps.blocked.entries[1]: no such variable",
		"maps.blocked.entries[1].key": "/m/xdp-drop.toml:23: maps.blocked.entries[1].key: no such variable",
		"maps..bss":                   "/m/xdp-drop.toml:33: maps..bss: no such variable",
		"attach[1].cgroup":            "/m/xdp-drop.toml:45: attach[1].cgroup: no such variable",
		"nothing":                     "/m/xdp-drop.toml: nothing: no such variable",
	} {
		if got := m.Errorf(key, "no such %s", "variable").Error(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	byHand := Manifest{File: "/m/y.toml"}
	if got := byHand.Errorf("a", "b").Error(); got != "/m/y.toml: a: b" {
		t.Errorf("%s", got)
	}
	inner := errors.New("inner")
	if !errors.Is(m.Errorf("a", "%w", inner), inner) {
		t.Error("the wrapped error is lost")
	}
}

// Reading any manifest of 64 KiB stays cheap, also the checks behind the TOML.
func TestParseCostsLittle(t *testing.T) {
	for name, text := range hostile {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = Parse("x.toml", []byte(text))
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
			t.Errorf("%s: %d bytes cost %d MiB", name, len(text), n>>20)
		}
	}
}

// hostile are manifests that are large where the checks have work; package
// tomlfile has those that are hostile to the TOML library.
var hostile = map[string]string{
	"dotted key":       strings.Repeat("a.", 20_000) + "a = 1",
	"brackets":         strings.Repeat("[", MaxSize),
	"inline tables":    "a = " + strings.Repeat("{a=", 4000) + "1" + strings.Repeat("}", 4000),
	"unknown keys":     repeat("k%d = 1\n", 1990),
	"bad variables":    "[variables]\n" + repeat("\"%d\" = 1\n", 1990),
	"bad maps":         repeat("[maps.\"%d\"]\n", 990),
	"bad attachments":  strings.Repeat("[[attach]]\n", 1990),
	"bad rights":       "[[allow]]\nmay = [" + strings.Repeat(`"x",`, 16_000) + "]",
	"rights":           "[[allow]]\nuser='a'\nmay = [" + repeat(`"read:m%d",`, 4000) + "]",
	"signers":          "[object]\nsigners = [" + repeat(`"m%d",`, 6000) + "]",
	"entries":          "[maps.m]\nclass='frozen'\nentries = [" + repeat("{key=%d,value=0},", 660) + "]",
	"same entries":     "[maps.m]\nclass='frozen'\nentries = [" + strings.Repeat("{key=0,value=0},", 660) + "]",
	"numbers":          "[variables]\nx = [" + strings.Repeat("9,", 32_000) + "]",
	"hexadecimal":      "[test]\ndata = '" + strings.Repeat("00 ", 20_000) + "'",
	"negative version": "version = -9223372036854775808",
	"invalid UTF-8":    "description = '\xff'",
	"byte order mark":  "\ufeffversion = 1",
	"CRLF":             strings.ReplaceAll(full, "\n", "\r\n"),
}

func repeat(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	for _, text := range hostile {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse("/m/10-xdp-drop.toml", b)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.File != "/m/10-xdp-drop.toml" || remedy.Of(err) == "" {
				t.Fatalf("%v: not an *Error with a remedy", err)
			}
			if e.Line < 0 || e.Line > bytes.Count(b, []byte("\n"))+1 {
				t.Fatalf("%v: no such line", err)
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Fatalf("%q: more than a line", err)
			}
			return
		}
		switch {
		case m.Name != "xdp-drop", m.Start == "", m.Fail == "":
			t.Errorf("%+v", m)
		case !filepath.IsAbs(m.Object.Path), !filepath.IsAbs(m.Object.Signature):
			t.Errorf("object %+v", m.Object)
		}
		for _, a := range m.Allow {
			if a.User != "" && a.Group != "" || a.User+a.Group+a.Unit == "" || len(a.May) == 0 {
				t.Errorf("rule %+v", a)
			}
		}
		if again, err := Parse("/m/10-xdp-drop.toml", b); err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("twice the same bytes, two manifests: %v", err)
		}
	})
}
