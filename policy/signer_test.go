package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

func TestPermit(t *testing.T) {
	spec := &ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{"drop_v4": {SectionName: "xdp"}, "count": {SectionName: "cgroup/connect4"}},
		Maps:     map[string]*ebpf.MapSpec{"a": hash(8, 8, 64), "b": hash(8, 8, 1)},
	}
	m := manifest.Manifest{Name: "m", Variables: map[string]any{"rate": int64(1), "dry_run": true}}
	none := []string{}
	for _, test := range []struct {
		name  string
		rules map[string]SignerRule
		err   string // "" where it may
		hint  string
		is    error
	}{
		{"no rules", nil, "", "", nil},
		{"a rule for somebody else", map[string]SignerRule{"other": {Attach: none}}, "", "", nil},
		{"a rule that bounds nothing", map[string]SignerRule{"dev": {}, "*": {Attach: none}}, "", "", nil},
		{"all of it, exactly", map[string]SignerRule{"dev": {Attach: []string{"xdp", "cgroup/connect4"}, Programs: []string{"drop_v4", "count"},
			Variables: []string{"rate", "dry_run"}, Limits: Limits{Memory: 1040, Maps: 2, Programs: 2}}}, "", "", nil},
		{"patterns", map[string]SignerRule{"dev": {Attach: []string{"x?p", "cgroup/*"}, Programs: []string{"*"}, Variables: []string{"*"}}}, "", "", nil},

		{"for all", map[string]SignerRule{"*": {Attach: none}},
			`collection "m": signer "dev" may not have program "count" of section "cgroup/connect4", says attach in [signers."*"]: permission denied`, `add "cgroup/connect4" to it in hornetd.toml`, ErrDenied},
		{"a section that is missing", map[string]SignerRule{"dev": {Attach: []string{"cgroup/connect4"}}},
			`signer "dev" may not have program "drop_v4" of section "xdp", says attach in [signers.dev]: permission denied`, `add "xdp"`, ErrDenied},
		{"* is no slash", map[string]SignerRule{"dev": {Attach: []string{"*"}}}, `"count" of section "cgroup/connect4"`, "", ErrDenied},
		{"the whole section", map[string]SignerRule{"dev": {Attach: []string{"xd", "cgroup/*"}}}, `section "xdp"`, "", ErrDenied},
		{"a malformed pattern", map[string]SignerRule{"dev": {Attach: []string{"[", "cgroup/*", "xdp["}}}, `section "xdp"`, "", ErrDenied},
		{"a program", map[string]SignerRule{"dev": {Programs: []string{"drop_*"}}}, `signer "dev" may not have program "count", says programs in [signers.dev]`, `add "count"`, ErrDenied},
		{"a variable", map[string]SignerRule{"dev": {Variables: []string{"rate"}}}, `signer "dev" may not have variable "dry_run" set, says variables in [signers.dev]`, `add "dry_run"`, ErrDenied},
		{"no variables", map[string]SignerRule{"dev": {Variables: none}}, `variable "dry_run" set`, "", ErrDenied},
		{"programs", map[string]SignerRule{"dev": {Limits: Limits{Programs: 1}}},
			`signer "dev" may have 1 programs, says limits.programs in [signers.dev], the object needs 2: limit exceeded`, "raise limits.programs", ErrLimit},
		{"maps", map[string]SignerRule{"dev": {Limits: Limits{Maps: 1}}}, `may have 1 maps, says limits.maps`, "raise limits.maps", ErrLimit},
		{"memory", map[string]SignerRule{"dev": {Limits: Limits{Memory: 1039}}},
			`may have 1039 bytes of maps, says limits.memory in [signers.dev], the object needs 1040 (map "a" alone 1024)`, "raise limits.memory", ErrLimit},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := New(Limits{}, nil).WithSigners(test.rules).Permit("dev", m, spec)
			if test.err == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.err) || remedy.Of(err) == "" || !strings.Contains(remedy.Of(err), test.hint) {
				t.Errorf("%v (remedy %q), want %q (%q)", err, remedy.Of(err), test.err, test.hint)
			}
		})
	}
	m.File = "/usr/lib/hornet.d/m.toml"
	for _, test := range []struct {
		allowed map[string][]string
		ok      bool
	}{
		{nil, true},
		{map[string][]string{"/etc/hornet.d": {"other"}, "/usr/lib": {}}, true},
		{map[string][]string{"/usr/lib/hornet.d": {"other", "dev"}}, true},
		{map[string][]string{"/usr/lib/hornet.d": {"other", "*"}}, false},
		{map[string][]string{"/usr/lib/hornet.d": {}}, false},
	} {
		err := New(Limits{}, nil).WithDirectories(test.allowed).Permit("dev", m, spec)
		if (err == nil) != test.ok || err != nil && (!errors.Is(err, ErrDenied) || remedy.Of(err) == "" ||
			!strings.Contains(err.Error(), `collection "m": signer "dev" does not count in /usr/lib/hornet.d, says manifests.signers`)) {
			t.Errorf("%v: %v", test.allowed, err)
		}
	}
	// A name with a dot is quoted in TOML.
	err := New(Limits{}, nil).WithSigners(map[string]SignerRule{"a.b": {Attach: none}}).Permit("a.b", m, spec)
	if err == nil || !strings.Contains(err.Error(), `[signers."a.b"]`) {
		t.Error(err)
	}
}

// TestPermitFunction has manifests that send programs elsewhere than their sections.
func TestPermitFunction(t *testing.T) {
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"user": {SectionName: "uprobe"}, "bash": {SectionName: "uprobe//bin/bash:readline"}, "users": {SectionName: "uretprobe.multi"}, "exit": {SectionName: "kprobe/do_exit"},
		"opened": {SectionName: "lsm/file_open"}, "many": {SectionName: "kprobe.multi/do_*"}, "any": {SectionName: "tracepoint"}}}
	rule := []string{"lsm/file_open", "kprobe.multi/do_*", "kprobe.multi/vfs_?", "kprobe.multi/[a-c]*", "tracepoint", "tracepoint/sched/*",
		"uprobe", "uprobe//bin/bash:*", "uprobe//bin/cat:main", "uprobe//usr/lib/*:SSL_*", "uprobe//opt/*/*/*:f", "uretprobe.multi", "uretprobe.multi//usr/lib/libc.so.6:mem*", "kprobe/do_exit", "kprobe/do_fork", "kprobe/do_fork+0x4"}
	for _, test := range []struct {
		attach manifest.Attach
		at     string // "" where it may
		key    string
	}{
		{manifest.Attach{Program: "opened"}, "", ""},
		{manifest.Attach{Program: "opened", Function: "file_open"}, "", ""},
		{manifest.Attach{Program: "opened", Function: "bprm_check_security"}, "lsm/bprm_check_security", "function"},
		{manifest.Attach{Program: "many", Functions: []string{"do_exit", "do_*", "do_f?rk", "vfs_x", "vfs_?", "bio"}}, "", ""},
		{manifest.Attach{Program: "many", Functions: []string{"do_exit", "tcp_*"}}, "kprobe.multi/tcp_*", "functions"},
		{manifest.Attach{Program: "many", Functions: []string{"vfs_*"}}, "kprobe.multi/vfs_*", "functions"},
		{manifest.Attach{Program: "many", Functions: []string{"b*"}}, "kprobe.multi/b*", "functions"},
		{manifest.Attach{Program: "any", Tracepoint: "sched/sched_switch"}, "", ""},
		{manifest.Attach{Program: "any", Tracepoint: "syscalls/sys_enter_bpf"}, "tracepoint/syscalls/sys_enter_bpf", "tracepoint"},

		{manifest.Attach{Program: "user", Executable: "/bin/bash", Symbol: "readline"}, "", ""},
		{manifest.Attach{Program: "user", Executable: "/usr/lib/libssl.so.3", Symbol: "SSL_read", Offset: 4}, "", ""},
		{manifest.Attach{Program: "user", Executable: "/usr/lib/libssl.so.3", Symbol: "BIO_read"}, "uprobe//usr/lib/libssl.so.3:BIO_read", "symbol"},
		{manifest.Attach{Program: "user", Executable: "/usr/lib/libssl.so.3", Offset: 4096}, "uprobe//usr/lib/libssl.so.3:+0x1000", "offset"},
		{manifest.Attach{Program: "user", Executable: "/usr/lib/x/libssl.so.3", Symbol: "SSL_read"}, "uprobe//usr/lib/x/libssl.so.3:SSL_read", "symbol"},
		{manifest.Attach{Program: "user", Executable: "/bin/cat", Symbol: "main"}, "", ""},
		{manifest.Attach{Program: "user", Executable: "/bin/cat", Symbol: "main", Offset: 4}, "uprobe//bin/cat:main+0x4", "symbol"},
		{manifest.Attach{Program: "user", Executable: "/bin/su", Symbol: "main"}, "uprobe//bin/su:main", "symbol"},
		{manifest.Attach{Program: "user", Executable: "/opt/../etc/x", Symbol: "f"}, "uprobe//opt/../etc/x:f", "symbol"},
		{manifest.Attach{Program: "bash"}, "", ""},
		{manifest.Attach{Program: "bash", Symbol: "execute_command"}, "", ""},
		{manifest.Attach{Program: "bash", Offset: 8}, "", ""},
		{manifest.Attach{Program: "bash", Executable: "/bin/su"}, "uprobe//bin/su:readline", "executable"},
		{manifest.Attach{Program: "users", Executable: "/usr/lib/libc.so.6", Symbols: []string{"memcpy", "mem*"}}, "", ""},
		{manifest.Attach{Program: "users", Executable: "/usr/lib/libc.so.6", Symbols: []string{"memcpy", "str*"}}, "uretprobe.multi//usr/lib/libc.so.6:str*", "symbols"},
		{manifest.Attach{Program: "users", Symbols: []string{"memcpy"}}, "uretprobe.multi/:memcpy", "symbols"},
		{manifest.Attach{Program: "exit", Function: "do_fork"}, "", ""},
		{manifest.Attach{Program: "exit", Function: "do_fork", Offset: 4}, "", ""},
		{manifest.Attach{Program: "exit", Function: "do_fork", Offset: 5}, "kprobe/do_fork+0x5", "function"},
		{manifest.Attach{Program: "exit", Offset: 4}, "kprobe/do_exit+0x4", "offset"},
	} {
		m := manifest.Manifest{Name: "m", Attach: []manifest.Attach{test.attach}}
		permit := func(attach []string) error {
			return New(Limits{}, nil).WithSigners(map[string]SignerRule{"dev": {Attach: attach}}).Permit("dev", m, spec)
		}
		if err := permit(nil); err != nil {
			t.Errorf("%+v: without a bound: %v", test.attach, err)
		}
		err := permit(rule)
		if test.at == "" {
			if err != nil {
				t.Errorf("%+v: %v", test.attach, err)
			}
			continue
		}
		want := fmt.Sprintf(`signer "dev" may not have program %q at %q, as its key %s says, says attach in [signers.dev]: permission denied`, test.attach.Program, test.at, test.key)
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(remedy.Of(err), fmt.Sprintf("add %q to it in hornetd.toml", test.at)) {
			t.Errorf("%v (%s), want %s", err, remedy.Of(err), want)
		}
	}
}

// A signer's own table counts, and "*" only for those that have none.
func TestUntrusted(t *testing.T) {
	yes, no := SignerRule{Untrusted: true}, SignerRule{}
	for _, test := range []struct {
		rules    map[string]SignerRule
		dev, any bool
	}{
		{nil, false, false},
		{map[string]SignerRule{"dev": no, "*": no}, false, false},
		{map[string]SignerRule{"dev": yes}, true, true},
		{map[string]SignerRule{"other": yes}, false, true},
		{map[string]SignerRule{"*": yes}, true, true},
		{map[string]SignerRule{"dev": no, "*": yes}, false, true},
		{map[string]SignerRule{"dev": yes, "*": no}, true, true},
	} {
		p := New(Limits{}, nil).WithSigners(test.rules)
		if p.Untrusted("dev") != test.dev || p.AnyUntrusted() != test.any {
			t.Errorf("%v: dev %t, any %t", test.rules, p.Untrusted("dev"), p.AnyUntrusted())
		}
	}
}
