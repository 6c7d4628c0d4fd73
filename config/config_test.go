package config

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zapcore"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/tomlfile"
	"github.com/hornetd/hornetd/policy"
)

const example = "../hornetd.toml.example"

// The example is the manual: it must be right, and it must be complete.
func TestExampleIsTheDefault(t *testing.T) {
	b, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(example, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("(-Default +example):\n%s", diff)
	}
	var tree map[string]any
	text, err := tomlfile.Decode(example, b, &tree)
	if err != nil {
		t.Fatal(err)
	}
	keys := keysOf("", reflect.TypeFor[rawConfig]())
	if len(keys) < 15 {
		t.Errorf("only %d keys: %v", len(keys), keys)
	}
	lines := strings.Split(string(b), "\n")
	for _, key := range keys {
		line, ok := text.Line(key)
		if !ok {
			t.Errorf("%s is not in %s", key, example)
		} else if above := lines[line-2]; !strings.HasPrefix(above, "# ") {
			t.Errorf("%s is not explained in %s", key, example)
		}
	}
}

// keysOf lists the keys that a struct reads.
func keysOf(prefix string, typ reflect.Type) []string {
	if typ.Kind() != reflect.Struct {
		return []string{strings.TrimSuffix(prefix, ".")}
	}
	var keys []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		keys = append(keys, keysOf(prefix+f.Tag.Get("toml")+".", f.Type)...)
	}
	return keys
}

func TestParse(t *testing.T) {
	if got, err := Parse("h.toml", nil); err != nil || !cmp.Equal(got, Default()) {
		t.Errorf("an empty file: %v\n%s", err, cmp.Diff(Default(), got))
	}
	got, err := Parse("h.toml", []byte(`
[paths]
manifests = ["/m"]
trust = "/t"
revoked = "/r"
bpffs = "/b"
state = "/s"
bundles = "/u"
mount_bpffs = true
[api]
socket = "/x.sock"
mode = "0666"
group = "0"
connections = 4096
connections_per_user = 1
changes_per_user = 3
recorded_per_minute = 60000
recorded_burst = 4
header_time = "1s"
request_time = "1500ms"
answer_time = "1h"
idle_time = "1m"
lease_grace = "3s"
[log]
level = "debug"
format = "console"
[limits]
memory = 4096
maps = 1
programs = 4096
total_memory = "1TiB"
total_programs = 5
total_collections = 10000
user_memory = "1KiB"
user_programs = 6
user_collections = 7
user_streams = 8
total_streams = 9
user_verifier_jobs = 3
total_verifier_jobs = 4
stream_memory = "64KiB"
stream_buffer = 4096
events = 16384
[manifests]
removed = "keep"
signed = ["/m"]
signers = { "/m" = ["dev", "x"] }
[signers.dev]
attach = ["xdp", "cgroup/*"]
programs = ["drop_*"]
variables = []
limits = { memory = "1MiB", maps = 8, programs = 2 }
[signers."*"]
attach = []
[signers.free]
untrusted_parser = true
[[rule]]
user = "ada"
exe = "/usr/bin/tool"
may = ["run"]
signers = ["dev", "*"]
attach = ["xdp", "cgroup/*"]
targets = ["interface:veth*", "netns:/run/netns/*", "cgroup:/sys/fs/cgroup/a/**", "caller", "host"]
unsigned_manifests = true
limits = { memory = "1MiB", maps = 8, programs = 2, collections = 1000 }
[[rule]]
unit = "web@1.service"
group = "50"
may = ["run"]
signers = ["dev"]
attach = ["xdp"]
targets = ["host"]
[guard]
mode = "enforce"
confirm = "5m"
disarm = "reboot"
[[guard.allow]]
executable = "/usr/sbin/tcpdump"
sha256 = "0aff000000000000000000000000000000000000000000000000000000000001"
commands = ["prog_load", "map_create"]
programs = ["socket_filter"]
[[guard.allow]]
cgroup = "/system.slice/docker.service"
commands = ["prog_attach"]
attach = ["cgroup_device"]
signals = true
[[guard.allow]]
kernel_signed = ["platform", "builtin"]
commands = ["prog_load", "prog_test_run"]
programs = ["syscall"]
[trust]
roots = ["r"]
revoked = "unload"
expiry = "strict"
development = true
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Paths: Paths{Manifests: []string{"/m"}, Trust: "/t", Revoked: "/r", BPFFS: "/b", State: "/s", Bundles: "/u", MountBPFFS: true},
		API: API{Socket: "/x.sock", Mode: 0o666, Group: "0",
			Connections: 4096, ConnectionsPerUser: 1, ChangesPerUser: 3, RecordedPerMinute: 60_000, RecordedBurst: 4,
			HeaderTime: time.Second, RequestTime: 1500 * time.Millisecond, AnswerTime: time.Hour, IdleTime: time.Minute, LeaseGrace: 3 * time.Second},
		Log: Log{Level: zapcore.DebugLevel, Format: FormatConsole},
		Limits: Limits{Memory: 4096, Maps: 1, Programs: 4096, TotalMemory: 1 << 40, TotalPrograms: 5, TotalCollections: 10_000,
			UserMemory: 1 << 10, UserPrograms: 6, UserCollections: 7,
			UserStreams: 8, TotalStreams: 9, UserVerifierJobs: 3, TotalVerifierJobs: 4, StreamMemory: 64 << 10, StreamBuffer: 4 << 10, Events: 16384},
		Manifests: Manifests{Removed: RemovedKeep, Signed: []string{"/m"}, Signers: map[string][]string{"/m": {"dev", "x"}}},
		Signers: map[string]policy.SignerRule{
			"dev": {Attach: []string{"xdp", "cgroup/*"}, Programs: []string{"drop_*"}, Variables: []string{}, Limits: policy.Limits{Memory: 1 << 20, Maps: 8, Programs: 2}},
			"*":   {Attach: []string{}}, "free": {Untrusted: true},
		},
		Guard: Guard{Mode: GuardEnforce, Confirm: 5 * time.Minute, Disarm: DisarmReboot, Allow: []Allowed{
			{Executable: "/usr/sbin/tcpdump", SHA256: &[32]byte{0: 0x0a, 1: 0xff, 31: 1}, Commands: []uint32{5, 0}, Programs: []uint32{1}},
			{Cgroup: "/system.slice/docker.service", Commands: []uint32{8}, Attachments: []uint32{6}, Signals: true},
			{KernelSigned: []uint32{3, 1}, Commands: []uint32{5, 10}, Programs: []uint32{31}},
		}},
		Rules: []policy.Rule{
			{Who: policy.Who{User: "ada", Exe: "/usr/bin/tool"}, Signers: []string{"dev", "*"}, Attach: []string{"xdp", "cgroup/*"},
				Targets:  []string{"interface:veth*", "netns:/run/netns/*", "cgroup:/sys/fs/cgroup/a/**", "caller", "host"},
				Unsigned: true, Limits: policy.Limits{Memory: 1 << 20, Maps: 8, Programs: 2}, Collections: 1000},
			{Who: policy.Who{Unit: "web@1.service", Group: "50"}, Signers: []string{"dev"}, Attach: []string{"xdp"}, Targets: []string{"host"}, Collections: 1},
		},
		Trust: Trust{Roots: []string{"r"}, Revoked: RevokedUnload, Expiry: ExpiryStrict, Development: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, want := got.Limits.Policy(), (policy.Limits{Memory: 4096, Maps: 1, Programs: 4096}); got != want {
		t.Errorf("policy limits %+v, want %+v", got, want)
	}
}

// One key that is set leaves the rest as it is.
func TestParseKeepsTheOtherDefaults(t *testing.T) {
	got, err := Parse("h.toml", []byte("log.level = 'warn'"))
	want := Default()
	want.Log.Level = zapcore.WarnLevel
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	got.Paths.Manifests[0] = "/changed"
	if Default().Paths.Manifests[0] != "/etc/hornet.d" {
		t.Error("a Config shares memory with the next Default")
	}
}

// rule is a good [[rule]] of seven lines without the keys named, and one more line.
func rule(line string, without ...string) string {
	text := "[[rule]]\n"
	for _, l := range []string{"user = 'a'", "may = ['run']", "signers = ['dev']", "attach = ['xdp']", "targets = ['host']", "unsigned_manifests = false"} {
		if key, _, _ := strings.Cut(l, " "); slices.Contains(without, key) {
			l = ""
		}
		text += l + "\n"
	}
	return text + line
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ text, err, hint string }{
		{"[[rule]]\nmay = ['run']", "1: rule[0]: names no user, no group and no unit", "user ="},
		{rule("exe = '/bin/x'", "user"), "1: rule[0]: names no user, no group and no unit", ""},
		{rule("group = 'b'"), "8: rule[0].group: a rule names a user or a group, not both", "two rules"},
		{rule("user = 'a b'", "user"), `8: rule[0].user: "a b" cannot be the name of an account`, "/etc/passwd"},
		{rule("user = \"a\\u0000\"", "user"), `8: rule[0].user: `, ""},
		{rule("unit = 'web'"), `8: rule[0].unit: "web" is not the name of a unit`, "web.service"},
		{rule("exe = 'cat'"), `8: rule[0].exe: "cat" is not an absolute path`, ""},
		{rule("may = ['status']", "may"), `8: rule[0].may: is ["status"]`, `may = ["run"]`},
		{rule("", "may"), `1: rule[0].may: is []`, ""},
		{rule("signers = []", "signers"), "8: rule[0].signers: names none", "remove the rule"},
		{rule("", "signers"), "1: rule[0].signers: names none", ""},
		{rule("", "attach"), "1: rule[0].attach: names none", ""},
		{rule("attach = []", "attach"), "8: rule[0].attach: names none", ""},
		{rule("", "targets"), "1: rule[0].targets: names none", ""},
		{rule("signers = ['a/b']", "signers"), `8: rule[0].signers[0]: "a/b" is not the name of a signer`, ""},
		{rule("attach = ['[']", "attach"), `8: rule[0].attach[0]: "[" is not a pattern`, ""},
		{rule("targets = ['eth0']", "targets"), `8: rule[0].targets[0]: "eth0" is not a target`, "interface:NAME"},
		{rule("targets = ['host:x']", "targets"), `8: rule[0].targets[0]: "host:x" is not a target`, ""},
		{rule("targets = ['interface:']", "targets"), `8: rule[0].targets[0]: "interface:" is not a target`, ""},
		{rule("targets = ['cgroup:a/**']", "targets"), `8: rule[0].targets[0]: "cgroup:a/**" has no absolute path`, "/sys/fs/cgroup"},
		{rule("targets = ['cgroup:/a/../b']", "targets"), `8: rule[0].targets[0]: "cgroup:/a/../b" has no`, ""},
		{rule("targets = ['cgroup:/a/**/b']", "targets"), `8: rule[0].targets[0]: "cgroup:/a/**/b" has **`, "at the end"},
		{rule("targets = ['cgroup:/a*/**']", "targets"), `8: rule[0].targets[0]: "cgroup:/a*/**" has **`, ""},
		{rule("limits.collections = 0"), `8: rule[0].limits.collections: is 0, must be 1 to 1000`, ""},
		{rule("limits.maps = 5000"), `8: rule[0].limits.maps: is 5000`, ""},
		{rule("collections = 1"), `8: rule[0].collections: unknown key`, ""},
		{"rule = [" + strings.Repeat("{},", 257) + "]", "1: rule: has 257 rules, more than 256", "group"},

		{"[guard]\nmode = 'on'", `2: guard.mode: `, ""},
		{"[guard]\ndisarm = 'never'", `2: guard.disarm: `, "signed"},
		{"[guard]\ndisarm = 'signed'", `2: guard.disarm: is "signed", and trust.roots is empty`, "trust.roots"},
		{"[guard]\nconfirm = '5s'", `2: guard.confirm: is 5s`, "10s"},
		{"[guard]\nconfirm = '25h'", `2: guard.confirm: is 25h0m0s`, "24h"},
		{"[guard]\nallow = [" + strings.Repeat("{},", 65) + "]", "2: guard.allow: has 65 entries, more than 64", "a cgroup"},
		{"[[guard.allow]]\ncommands = ['prog_load']", `1: guard.allow[0]: must have an executable, a cgroup or kernel_signed`, "one entry for each"},
		{"[[guard.allow]]\nsignals = true\ncgroup = '/" + strings.Repeat("x", 63) + "'", "3: guard.allow[0].cgroup: has a name of 63 bytes, more than the 62", "shorter"},
		{"[[guard.allow]]\nexecutable = '/a'\ncgroup = '/b'\nsignals = true", `1: guard.allow[0]: must have an executable, a cgroup or kernel_signed`, ""},
		{"[[guard.allow]]\nexecutable = '/a'\nkernel_signed = ['platform']\nsignals = true", `1: guard.allow[0]: must have an executable, a cgroup or kernel_signed`, ""},
		{"[[guard.allow]]\nkernel_signed = ['session']\ncommands = ['prog_load']\nprograms = ['xdp']", `2: guard.allow[0].kernel_signed[0]: `, "platform"},
		{"[[guard.allow]]\nkernel_signed = ['platform']\ncommands = ['prog_load']", `1: guard.allow[0].programs: is empty`, "syscall"},
		{"[[guard.allow]]\nkernel_signed = ['platform']\ncommands = ['prog_load']\nprograms = ['xdp']\nsignals = true", `5: guard.allow[0].signals: does not go with kernel_signed`, ""},
		{strings.Repeat("[[guard.allow]]\nkernel_signed = ['builtin']\ncommands = ['prog_load']\nprograms = ['xdp']\n", 2), `5: guard.allow[1]: is about what the kernel has verified, as guard.allow[0] is`, "one entry"},
		{"[[guard.allow]]\nexecutable = '/a'\nsha256 = 'ab'\nsignals = true", `3: guard.allow[0].sha256: "ab" is not 64 hexadecimal digits`, "sha256sum"},
		{"[[guard.allow]]\ncgroup = '/a'\nsha256 = '" + strings.Repeat("00", 32) + "'\nsignals = true", `3: guard.allow[0].sha256: is of an executable, and the entry has none`, "executable"},
		{"[[guard.allow]]\nexecutable = 'a'\nsignals = true", `2: guard.allow[0].executable: "a" is not an absolute path`, ""},
		{"[[guard.allow]]\ncgroup = 'a.slice'\nsignals = true", `2: guard.allow[0].cgroup: "a.slice" is not an absolute path`, ""},
		{"[[guard.allow]]\ncgroup = '/a'", `1: guard.allow[0]: allows nothing`, "prog_load"},
		{"[[guard.allow]]\ncgroup = '/a'\ncommands = ['BPF_PROG_LOAD']", `3: guard.allow[0].commands[0]: "BPF_PROG_LOAD" is not known`, "lower case"},
		{"[[guard.allow]]\ncgroup = '/a'\nsignals = true\nprograms = ['x']", `4: guard.allow[0].programs[0]: "x" is not known`, ""},
		{"[[guard.allow]]\ncgroup = '/a'\nsignals = true\nattach = ['tc']", `4: guard.allow[0].attach[0]: "tc" is not known`, "tcx_ingress"},

		{"[path]", "1: path: unknown key", `did you mean "paths"?`},
		{"[paths]\nmanifest = []", "2: paths.manifest: unknown key", `did you mean "manifests"?`},
		{"[api]\nSocket = '/x'", "2: api.Socket: unknown key", `did you mean "socket"?`},
		{"paths = 1", "1: paths: is an integer, not a table", ""},
		{"[paths]\nmanifests = '/etc/hornet.d'", "2: paths.manifests: is a string, not an array", ""},
		{"[paths]\nmanifests = []", "2: paths.manifests: has 0 directories, must have 1 to 16", ""},
		{"[paths]\nmanifests = [" + strings.Repeat("'/a',", 17) + "]", "2: paths.manifests: has 17 directories", ""},
		{"[paths]\nmanifests = ['/a',\n'b']", `3: paths.manifests[1]: "b" is not an absolute path`, "absolute path"},
		{"[paths]\nmanifests = ['/a',\n'/a']", `3: paths.manifests[1]: "/a" stands there twice`, "remove one"},
		{"[paths]\ntrust = ''", "2: paths.trust: is empty", ""},
		{"[paths]\ntrust = '/a/'", `2: paths.trust: "/a/" is not the shortest form of a path`, `write "/a"`},
		{"[paths]\nbpffs = '/a/../b'", `2: paths.bpffs: "/a/../b" is not the shortest form`, `write "/b"`},
		{"[paths]\nbpffs = '/'", "2: paths.bpffs: is the root directory", ""},
		{"[paths]\nstate = \"/a\\u0000\"", `2: paths.state: "/a\x00" contains a character`, ""},
		{"[paths]\nmount_bpffs = 'yes'", "2: paths.mount_bpffs: is a string, not true or false", ""},
		{"[api]\nsocket = 'x.sock'", `2: api.socket: "x.sock" is not an absolute path`, ""},
		{"[api]\nsocket = '/" + strings.Repeat("x", 107) + "'", "2: api.socket: has 108 bytes, more than the 107", "shorter"},
		{"[api]\nmode = 660", "2: api.mode: is not a string", `"0660"`},
		{"[api]\nmode = '0o660'", `2: api.mode: "0o660" is not an octal mode`, ""},
		{"[api]\nmode = '0680'", `2: api.mode: "0680" is not an octal mode`, ""},
		{"[api]\nmode = '0770'", `2: api.mode: "0770" has bits that mean nothing for a socket`, ""},
		{"[api]\nmode = '4660'", `2: api.mode: "4660" has bits`, ""},
		{"[api]\nmode = '0060'", `2: api.mode: "0060" shuts root out`, ""},
		{"[api]\nmode = '777777777777777777777777'", `2: api.mode: "777777777777777777777777" is not an octal mode`, ""},
		{"[api]\ngroup = 'a b'", `2: api.group: "a b" cannot be the name of a group`, "/etc/group"},
		{"[api]\ngroup = '-1'", `2: api.group: "-1" cannot be`, ""},
		{"[api]\nconnections = 0", "2: api.connections: is 0, must be 1 to 4096", "1 to 4096"},
		{"[api]\nconnections_per_user = 4097", "2: api.connections_per_user: is 4097", ""},
		{"[api]\nchanges_per_user = -1", "2: api.changes_per_user: is -1, must be 1 to 4096", ""},
		{"[api]\nrecorded_per_minute = 0", "2: api.recorded_per_minute: is 0, must be 1 to 60000", ""},
		{"[api]\nrecorded_burst = 0", "2: api.recorded_burst: is 0, must be 1 to 1000000", ""},
		{"[api]\nheader_time = 5", "2: api.header_time: is not a string", `"5s"`},
		{"[api]\nheader_time = 'soon'", `2: api.header_time: "soon" is not a time`, `"5s"`},
		{"[api]\nheader_time = '0s'", "2: api.header_time: is 0s, must be 1s to 1m0s", "from \"1s\""},
		{"[api]\nrequest_time = '4s'", "2: api.request_time: is 4s, must be 5s to 10m0s", ""},
		{"[api]\nanswer_time = '2h'", "2: api.answer_time: is 2h0m0s, must be", ""},
		{"[api]\nidle_time = '-1s'", "2: api.idle_time: is -1s, must be", ""},
		{"[api]\nlease_grace = '500ms'", "2: api.lease_grace: is 500ms, must be 1s to 1h0m0s", ""},
		{"[limits]\ntotal_programs = 0", "2: limits.total_programs: is 0, must be 1 to 1000000", ""},
		{"[limits]\nuser_memory = 0", "2: limits.user_memory: is not more than 0", ""},
		{"[limits]\nuser_programs = 0", "2: limits.user_programs: is 0", ""},
		{"[limits]\nuser_collections = 0", "2: limits.user_collections: is 0", ""},
		{"[limits]\nuser_streams = 0", "2: limits.user_streams: is 0, must be 1 to 4096", ""},
		{"[limits]\nuser_verifier_jobs = 0", "2: limits.user_verifier_jobs: is 0, must be 1 to 16", ""},
		{"[limits]\ntotal_verifier_jobs = 17", "2: limits.total_verifier_jobs: is 17, must be 1 to 16", ""},
		{"[limits]\ntotal_streams = 5000", "2: limits.total_streams: is 5000, must be 1 to 4096", ""},
		{"[limits]\nstream_memory = 65535", "2: limits.stream_memory: is 65535, must be 65536 to 67108864", "from 64KiB to 65536KiB"},
		{"[limits]\nstream_buffer = '17MiB'", "2: limits.stream_buffer: is 17825792, must be 4096 to 16777216", ""},
		{"[limits]\nevents = 16385", "2: limits.events: is 16385, must be 1 to 16384", ""},
		{"[log]\nlevel = 'warning'", `2: log.level: "warning" is none of debug, info, warn, error`, "info"},
		{"[log]\nlevel = 'fatal'", `2: log.level: "fatal" is none`, ""},
		{"[log]\nformat = 'jsno'", `2: log.format: "jsno" is none of auto, json, console`, `did you mean "json"?`},
		{"[limits]\nmemory = 0", "2: limits.memory: is not more than 0", ""},
		{"[limits]\nmemory = '2GiB'", "1: limits.total_memory: is 1073741824, less than the 2147483648 of a single manifest", "raise it"},
		{"[limits]\ntotal_memory = '1MiB'", "2: limits.total_memory: is 1048576, less than the 67108864", ""},
		{"[limits]\nmaps = 0", "2: limits.maps: is 0, must be 1 to 4096", "1 to 4096"},
		{"[limits]\nmaps = 4097", "2: limits.maps: is 4097, must be 1 to 4096", ""},
		{"[limits]\nprograms = -1", "2: limits.programs: is -1, must be 1 to 4096", ""},
		{"[limits]\ntotal_collections = 10001", "2: limits.total_collections: is 10001", ""},
		{"[trust]\nrevoked = 'ignore'", `2: trust.revoked: "ignore" is none of keep, unload`, ""},
		{"[manifests]\nremoved = 'delete'", `2: manifests.removed: "delete" is none of unload, keep`, ""},
		{"[manifests]\nsigned = ['/etc/hornet.d',\n'/etc/hornetd']", `3: manifests.signed[1]: "/etc/hornetd" is not a directory of manifests`, "paths.manifests"},
		{"[manifests]\nsigned = '/etc/hornet.d'", "2: manifests.signed: is a string, not an array", ""},
		{"[manifests.signers]\n'/etc/hornetd' = []", `2: manifests.signers./etc/hornetd: "/etc/hornetd" is not a directory of manifests`, "paths.manifests"},
		{"[manifests]\nsigners = { '/etc/hornet.d' = ['dev', 'a b'] }", `2: manifests.signers./etc/hornet.d[1]: "a b" is not the name of a signer`, "without .pem"},
		{"[signers.'a b']\nattach = []", `1: signers.a b: "a b" is not the name of a signer`, "without .pem"},
		{"[signers.dev]\nattach = 'xdp'", "2: signers.dev.attach: is a string, not an array", ""},
		{"[signers.dev]\nattach = ['xdp',\n'[']", `3: signers.dev.attach[1]: "[" is not a pattern`, "cgroup/*"},
		{"[signers.dev]\nuntrusted_parser = 1", "2: signers.dev.untrusted_parser: is an integer, not true or false", ""},
		{"[signers.dev]\nattached = ['xdp']", "2: signers.dev.attached: unknown key", `did you mean "attach"?`},
		{"[signers.dev.limits]\nmaps = 0", "2: signers.dev.limits.maps: is 0, must be 1 to 4096", ""},
		{"[signers.dev.limits]\nprograms = 5000", "2: signers.dev.limits.programs: is 5000, must be 1 to 4096", ""},
		{"[log]\nlevel = 'loud'\n[api]\nmode = 660", "4: api.mode: is not a string", ""}, // types first
		{"[limits]\nmaps = 0\n[api]\ngroup = '/'", "2: limits.maps: is 0", ""},           // then from the top
	}
	for _, tt := range tests {
		cfg, err := Parse("h.toml", []byte(tt.text))
		var e *Error
		switch {
		case !errors.As(err, &e):
			t.Errorf("%q: %v, want an *Error", tt.text, err)
		case !strings.HasPrefix(err.Error(), "h.toml:"+tt.err):
			t.Errorf("%q: %v\nwant h.toml:%s", tt.text, err, tt.err)
		case remedy.Of(err) == "" || !strings.Contains(remedy.Of(err), tt.hint):
			t.Errorf("%q: remedy %q, want %q", tt.text, remedy.Of(err), tt.hint)
		case !cmp.Equal(cfg, Config{}):
			t.Errorf("%q: a Config beside the error", tt.text)
		}
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for _, text := range []string{
		"", "[paths]\nmanifests = ['/a', '/a']", "[api]\nmode = 0660", "api.mode = '0660'", "[limits]\nmemory = '16777216TiB'",
		strings.Repeat("a.", 20_000) + "a = 1", strings.Repeat("[", MaxSize), "a = " + strings.Repeat("{a = ", 4000),
		"\ufeff", "[log]\r\nlevel = 'info'\r\n", "\xff", "limits.maps = 9223372036854775808",
		"[[guard.allow]]\nexecutable = '/a'\nsha256 = '" + strings.Repeat("0A", 32) + "'\nsignals = true", "[[guard.allow]]\ncgroup = '/a'\nsha256 = 'x'", "guard.allow = [{ sha256 = 1 }]", "log.level = 2026-01-01", "limits.memory = nan",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg, err := Parse("h.toml", b)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || remedy.Of(err) == "" || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%q: no *Error of one line with a remedy", err)
			}
			return
		}
		// What was accepted keeps what Config promises.
		l := cfg.Limits
		if l.Memory == 0 || l.Maps < 1 || l.Programs < 1 || l.TotalMemory < l.Memory || l.TotalCollections < 1 {
			t.Errorf("limits %+v", l)
		}
		for _, path := range append(cfg.Paths.Manifests, cfg.Paths.Trust, cfg.Paths.BPFFS, cfg.Paths.State, cfg.API.Socket) {
			if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) {
				t.Errorf("path %q", path)
			}
		}
		if cfg.API.Mode.Perm() != cfg.API.Mode || cfg.API.Group == "" || len(cfg.Paths.Manifests) == 0 {
			t.Errorf("%+v", cfg)
		}
	})
}
