package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
)

func TestResolveFunctionErrors(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Tracefs(t)
	lib := libc(t)
	replace := strings.NewReplacer("LIBC", lib)
	const inTypes = "look for it with bpftool btf dump file /sys/kernel/btf/vmlinux; the compiler inlines and renames functions"
	// The first line of each is line 4 of the manifest.
	tests := map[string]struct{ toml, want, hint string }{
		"no function": {`program = "fentry_any"`,
			`3: attach[0].function: is missing: neither the section of "fentry_any" nor the manifest names one`,
			`write function = "NAME"`},
		"unknown function": {"program = \"fentry_any\"\nfunction = \"no_such_function\"",
			`5: attach[0].function: this kernel has no function no_such_function, or no type information about it`, inTypes},
		"unknown function of the section": {`program = "fentry_missing"`,
			`3: attach[0].function: this kernel has no function no_such_function, or no type information about it`, inTypes},
		"two functions": {"program = \"on_fentry\"\n[[attach]]\nprogram = \"on_fentry\"\nfunction = \"do_exit\"",
			`5: attach[1]: attaches on_fentry to function do_exit, but it is loaded for function begin_new_exec`,
			"remove one of the two, or put a second program into the object"},
		"key of others": {"program = \"on_fentry\"\nsymbol = \"x\"",
			`5: attach[0].symbol: does not fit program "on_fentry", which is in section "fentry/begin_new_exec"`,
			"remove it: the program takes function"},
		"offset of a return": {"program = \"on_kretprobe\"\noffset = 4",
			`5: attach[0].offset: does not fit program "on_kretprobe", which is in section "kretprobe/begin_new_exec"`,
			"remove it: the program takes function"},
		"no kprobe": {`program = "kprobe_any"`,
			`3: attach[0].function: is missing: neither the section of "kprobe_any" nor the manifest names one`,
			`write function = "do_exit"`},
		"nothing replaced": {`program = "verdict_drop"`,
			`3: attach[0].replaces: is missing: program "verdict_drop" in section "freplace/verdict" needs it`,
			`write replaces = "PROGRAM", a program of this object whose function it takes the place of`},
		"no function replaced": {"program = \"verdict_any\"\nreplaces = \"guarded\"",
			`3: attach[0].function: is missing: neither the section of "verdict_any" nor the manifest names one`,
			`write function = "NAME" of a global function of the program it replaces`},
		"unknown program replaced": {"program = \"verdict_drop\"\nreplaces = \"guard\"",
			`5: attach[0].replaces: there is no program "guard" in the object: did you mean "guarded"`,
			`write replaces = "PROGRAM", a program of this object whose function it takes the place of`},
		"replacement replaced": {"program = \"verdict_drop\"\nreplaces = \"verdict_any\"",
			`5: attach[0].replaces: "verdict_any" takes the place of a function itself`,
			"name the program whose function both are for"},
		"no functions": {`program = "on_kretprobes"`,
			`3: attach[0].functions: is missing: neither the section of "on_kretprobes" nor the manifest names any`,
			`write functions = ["NAME", "PRE*"]`},
		"no executable": {`program = "on_uprobes"`,
			`3: attach[0].executable: is missing: neither the section of "on_uprobes" nor the manifest has an absolute path`,
			`write executable = "/usr/bin/NAME", an absolute path`},
		"no symbols": {"program = \"on_uprobes\"\nexecutable = \"LIBC\"",
			`3: attach[0].symbols: is missing: neither the section of "on_uprobes" nor the manifest names any`,
			`write symbols = ["NAME", "PRE*"]`},
		"unknown symbols": {"program = \"on_uprobes\"\nexecutable = \"LIBC\"\nsymbols = [\"exit\", \"no_such*\"]",
			`6: attach[0].symbols: LIBC: there is no function "no_such*"`,
			"name a function that `nm LIBC` or `nm -D LIBC` shows; or give its offset in the file and no symbol"},
		"unknown symbol": {"program = \"on_uprobes\"\nexecutable = \"LIBC\"\nsymbols = [\"no_such\"]",
			`6: attach[0].symbols: LIBC: there is no function "no_such"`,
			"name a function that `nm LIBC` or `nm -D LIBC` shows; or give its offset in the file and no symbol"},
		"all symbols": {"program = \"on_uprobes\"\nexecutable = \"LIBC\"\nsymbols = [\"*\"]",
			`6: attach[0].symbols: 1001 functions match, more than 1000`, "write narrower patterns"},
		"missing executable": {"program = \"on_uprobes\"\nexecutable = \"/no/such\"\nsymbols = [\"*\"]",
			`5: attach[0].executable: /no/such does not exist`, "name the program or the library that holds the function"},
	}
	if _, err := os.ReadFile("/sys/kernel/tracing/available_filter_functions"); err == nil {
		maps.Copy(tests, map[string]struct{ toml, want, hint string }{
			"unknown functions": {"program = \"on_kprobes\"\nfunctions = [\"do_exit\", \"no_such*\"]",
				`5: attach[0].functions: this kernel traces no function no_such*`,
				"name some of those in available_filter_functions of tracefs; a module's need the module loaded"},
		})
	}
	if _, err := os.Stat(securityModules); err == nil {
		maps.Copy(tests, map[string]struct{ toml, want, hint string }{
			"unknown hook": {`program = "lsm_missing"`,
				`3: attach[0].function: this kernel has no LSM hook no_such_hook`,
				"name one of include/linux/lsm_hook_defs.h of its source: file_open, not security_file_open"},
		})
	} else {
		maps.Copy(tests, map[string]struct{ toml, want, hint string }{
			"no securityfs": {`program = "on_lsm"`,
				`4: attach[0].program: only securityfs tells whether this kernel runs LSM programs, and it is not mounted`,
				"mount it: mount -t securityfs securityfs /sys/kernel/security"},
		})
	}
	spec := openFixture(t, "attach_kernel")
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Resolve(spec, attachManifest(t, "[[attach]]\n"+replace.Replace(tt.toml)+"\n"), nil)
			refused(t, err, "/etc/hornet.d/demo.toml:"+replace.Replace(tt.want), replace.Replace(tt.hint))
		})
	}
}

// TestResolveOffset has a section with an offset, as libbpf reads it.
func TestResolveOffset(t *testing.T) {
	spec := openFixture(t, "attach_kernel")
	for _, tt := range []struct {
		section, toml, function string
		offset                  uint64
	}{
		{"do_exit+0x4", "", "do_exit", 4},
		{"do_exit+0x4", "offset = 8", "do_exit", 8},
		{"do_exit+0x4", `function = "do_fork"`, "do_fork", 0},
	} {
		spec.Programs["on_kprobe"].AttachTo = tt.section
		got, err := Resolve(spec, attachManifest(t, "[[attach]]\nprogram = \"on_kprobe\"\n"+tt.toml+"\n"), nil)
		if err != nil || got[0].Function != tt.function || got[0].Offset != tt.offset {
			t.Errorf("%s, %s: %+v, %v", tt.section, tt.toml, got, err)
		}
	}
	spec.Programs["on_kprobe"].AttachTo = "do_exit+4x"
	_, err := Resolve(spec, attachManifest(t, "[[attach]]\nprogram = \"on_kprobe\"\n"), nil)
	refused(t, err, `/etc/hornet.d/demo.toml:3: attach[0].offset: "4x" in the section of "on_kprobe" is not a number`, "write offset = N")
}

func TestResolveStructOpsErrors(t *testing.T) {
	spec := openFixture(t, "attach_ops")
	for _, tt := range []struct{ toml, want, hint string }{
		{`map = "stedy"`, `4: attach[0].map: there is no map "stedy" in the object: did you mean "steady"`, `write map = "NAME" of a map of the object`},
		{`map = "other"`, `3: attach[0].program: is missing: "other" is no struct_ops map`, `write program = "NAME", a function of the object`},
		{"map = \"steady\"\ninterface = \"lo\"", `5: attach[0].interface: does not fit map "steady"`, "remove it: a struct_ops map takes map"},
		{"map = \"steady\"\n[[attach]]\nmap = \"steady\"\npriority = 0", `5: attach[1]: is the same as attach[0]`, "remove one of them"},
	} {
		m, err := manifest.Parse("/etc/hornet.d/demo.toml", []byte("object = { path = \"/demo.bpf.o\" }\n\n[[attach]]\n"+tt.toml+"\n"))
		if err == nil {
			_, err = Resolve(spec, m, nil)
		}
		refused(t, err, "/etc/hornet.d/demo.toml:"+tt.want, tt.hint)
	}
}

// TestPlanFunctions has programs that only a manifest can say the target of.
func TestPlanFunctions(t *testing.T) {
	spec := openFixture(t, "attach_kernel")
	_, err := NewPlan(spec, parseManifest(t, "[[attach]]\nprogram = \"fentry_any\"\nfunction = \"do_exit\"\n"))
	wantError(t, err, `program "fentry_sleeps" in section "fentry.s" cannot be loaded without a function that it is for`)
	for name := range spec.Programs {
		if name != "guarded" && name != "verdict_drop" {
			delete(spec.Programs, name)
		}
	}
	_, err = NewPlan(spec, parseManifest(t, ""))
	wantError(t, err, `program "verdict_drop" in section "freplace/verdict" cannot be loaded without a function that it is for`)
	before := spec.Programs["verdict_drop"].AttachTo
	p, err := NewPlan(spec, parseManifest(t, "[[attach]]\nprogram = \"verdict_drop\"\nfunction = \"other\"\nreplaces = \"guarded\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Spec().Programs["verdict_drop"].AttachTo; got != "other" || spec.Programs["verdict_drop"].AttachTo != before {
		t.Errorf("aimed at %q; the object's own is %q now", got, spec.Programs["verdict_drop"].AttachTo)
	}
	if diff := cmp.Diff([]string{"guarded", "verdict_drop"}, p.loadOrder()); diff != "" {
		t.Error(diff)
	}
}

func TestPlanStructOps(t *testing.T) {
	attach := "[[attach]]\nmap = \"steady\"\n"
	for _, key := range []string{"keep = true", "max_entries = 2", `inner = "other"`, "entries = [{ key = 0, value = 1 }]"} {
		_, err := NewPlan(openFixture(t, "attach_ops"), parseManifest(t, "[maps.other]\nclass = \"mutable\"\n[maps.steady]\nclass = \"mutable\"\n"+key+"\n"+attach))
		wantManifestError(t, err, 3, "a struct_ops map has one value, the object's, and goes with its programs")
	}
	_, err := NewPlan(openFixture(t, "attach_ops"), parseManifest(t, "[maps.\"*\"]\nclass = \"frozen\"\n"+attach))
	wantManifestError(t, err, 1, `map "steady": a StructOpsMap cannot be frozen: the kernel does not freeze it`)
	_, err = NewPlan(openFixture(t, "attach_ops"), parseManifest(t, attach))
	wantError(t, err, "not declared: other, steady")
	if got := remedy.Of(err); !strings.Contains(got, `steady = { class = "mutable" }`) {
		t.Errorf("remedy %q", got)
	}
}

// TestPlanStructOpsUnused has a program that stands in no map.
func TestPlanStructOpsUnused(t *testing.T) {
	spec := openFixture(t, "attach_ops")
	unused := spec.Programs["cc_undo"].Copy()
	unused.Name, unused.AttachTo = "cc_unused", ""
	spec.Programs["cc_unused"] = unused
	_, err := NewPlan(spec, parseManifest(t, opsManifest))
	refused(t, err, `object: program "cc_unused" in section "struct_ops" is in no struct_ops map`,
		`name it in a variable in SEC(".struct_ops.link"), or remove it from the object`)
	var object *ObjectError
	if !errors.As(err, &object) {
		t.Errorf("a %T", err)
	}
}

func TestLSMListed(t *testing.T) {
	if err := lsmListed("capability,landlock,bpf"); err != nil {
		t.Error(err)
	}
	refused(t, lsmListed("capability,landlock,yama"), "this kernel runs no LSM programs: bpf is not among its security modules (capability,landlock,yama)",
		"boot it with lsm=landlock,yama,bpf")
	refused(t, lsmListed("capability"), "this kernel runs no LSM programs: bpf is not among its security modules (capability)", "boot it with lsm=bpf")
	refused(t, lsmListed("capability,bpfilter"), "this kernel runs no LSM programs: bpf is not among its security modules (capability,bpfilter)", "boot it with lsm=bpfilter,bpf")
}

func TestMatchesPattern(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"do_exit", "do_exit", true}, {"do_exit", "do_exit2", false}, {"do_exit", "do_exi", false},
		{"do_*", "do_exit", true}, {"do_*", "do_", true}, {"do_*", "dx_exit", false}, {"*", "", true}, {"*", "x", true},
		{"*_exit", "do_exit", true}, {"*_exit", "do_exit_", false}, {"a*b*c", "aXbXbc", true}, {"a*b*c", "aXcXb", false},
		{"d?_exit", "do_exit", true}, {"d?_exit", "d_exit", false}, {"d?", "d", false}, {"d**", "d", true},
		{"net/http.*", "net/http.(*Server).Serve", true}, {"(*Server).Serve", "(*Server).Serve", true},
	} {
		if got := isMatch(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q, %q: %t", tt.pattern, tt.name, got)
		}
	}
	// Must not take time that doubles with every *.
	if isMatch(strings.Repeat("a*", 64)+"b", strings.Repeat("a", 128)) {
		t.Error("matches")
	}
}

// TestChosen has functions of one name.
func TestChosen(t *testing.T) {
	times := map[string]int{"a_one": 1, "a_two": 1, "b_many": 3, "b_one": 1, "c_many": 2}
	for _, tt := range []struct {
		patterns []string
		want     []string
		says     string
	}{
		{[]string{"b_*", "a_t*", "b_one"}, []string{"a_two", "b_one"}, ""},
		{[]string{"b_many"}, nil, "3 functions of this kernel are called b_many"},
		{[]string{"c_*"}, nil, "all functions that match share their names with others"},
		{[]string{"a_one", "d*"}, nil, "this kernel traces no function d*"},
	} {
		got, err := chosen(tt.patterns, times)
		if !slices.Equal(got, tt.want) || tt.says != "" && (err == nil || err.Error() != tt.says || remedy.Of(err) == "") || tt.says == "" && err != nil {
			t.Errorf("%q: %q, %v; want %q, %q", tt.patterns, got, err, tt.want, tt.says)
		}
	}
	many := map[string]int{}
	for i := range mostFunctions + 1 {
		many[fmt.Sprint("f", i)] = 1
	}
	_, err := chosen([]string{"f*"}, many)
	refused(t, err, "1001 functions match, more than 1000", "write narrower patterns")
}

// TestFunctionAmong has modules with functions of one name.
func TestFunctionAmong(t *testing.T) {
	module := func(functions ...string) *btf.Spec {
		var types []btf.Type
		for _, name := range functions {
			types = append(types, &btf.Func{Name: name, Type: &btf.FuncProto{Return: &btf.Void{}}})
		}
		b, err := btf.NewBuilder(types, nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := b.Marshal(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	modules := []*btf.Spec{module("init", "one"), module("other"), module("init", "exit", "exit")}
	for name, want := range map[string]error{"one": nil, "other": nil, "none": btf.ErrNotFound, "init": btf.ErrMultipleMatches, "exit": btf.ErrMultipleMatches} {
		id, err := functionAmong(slices.Values(modules), name)
		if !errors.Is(err, want) || (id != 0) != (want == nil) {
			t.Errorf("%s: type %d, %v; want %v", name, id, err, want)
		}
	}
}

// TestNamed has what the kernel lists and does not trace.
func TestNamed(t *testing.T) {
	const list = "do_exit\n__ftrace_invalid_address___120\ndo_init [ext4]\ndo_init [xfs]\n__ftrace_invalid_address___64 [xfs]\n__fput\nvfs_read\n"
	got, err := named(strings.NewReader(list), []string{"do_*", "__f*"})
	if diff := cmp.Diff(map[string]int{"do_exit": 1, "do_init": 2, "__fput": 1}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// TestSymbolOffsets compares with nm(1).
func TestSymbolOffsets(t *testing.T) {
	lib := libc(t)
	x, err := openExecutable(lib)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	var want []uint64
	add := codeOf(t, lib)
	for name, addrs := range symbolsOf(t, lib) {
		if strings.HasPrefix(name, "pthread_cond_") { // these have versions for old programs
			want = append(want, addrs[len(addrs)-1]+add)
		}
	}
	got, err := x.offsets([]string{"pthread_cond_*", "pthread_cond_wait"})
	got = slices.Compact(slices.Sorted(slices.Values(got)))
	slices.Sort(want)
	if want = slices.Compact(want); err != nil || len(want) < 2 || !slices.Equal(got, want) {
		t.Errorf("%#x, %v; want %#x", got, err, want)
	}
}

// TestAttachFunctionRefused asks the kernel for what it refuses.
func TestAttachFunctionRefused(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	const noProbe = "name another function, or correct the offset: it must be that of an instruction, and code that probes rely on takes none"
	within := unix.EILSEQ
	if runtime.GOARCH == "arm64" { // where every instruction is at a multiple of four: arch_prepare_kprobe
		within = unix.EINVAL
	}
	tests := map[string]struct{ program, toml, want, hint string }{
		"unmodifiable": {"modify_unmodifiable", "", `program "modify_unmodifiable": rejected by the verifier: begin_new_exec() is not modifiable (invalid argument)`,
			"name a function that begins with security_, or one of /sys/kernel/debug/error_injection/list: the kernel lets no others be changed"},
		"sleepless hook": {"lsm_sleepless", "", `program "lsm_sleepless": rejected by the verifier: bpf_lsm_task_free is not sleepable (invalid argument)`,
			"take .s off its section, or name another function: this one is called where nothing may sleep"},
		"unknown function": {"kprobe_any", `function = "no_such_function"`, "attach kprobe_any to function no_such_function: this kernel has no function no_such_function",
			"name one that /proc/kallsyms has; the compiler inlines and renames functions, and a module's need the module loaded"},
		"forbidden function": {"kprobe_any", `function = "get_kprobe"`, "attach kprobe_any to function get_kprobe: no probe can be there: invalid argument", noProbe},
		"no instruction":     {"kprobe_any", "function = \"begin_new_exec\"\noffset = 6", "attach kprobe_any to function begin_new_exec+0x6: no probe can be there: " + within.Error(), noProbe},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			requireProbes(t, tt.program)
			spec, m := openFixture(t, "attach_kernel"), kernelManifest(t, fmt.Sprintf("[[attach]]\nprogram = %q\n%s\n", tt.program, tt.toml), 0)
			only(spec, m)
			p, err := NewPlan(spec, m)
			if err != nil {
				t.Fatal(err)
			}
			coll, _, err := tryLoad(p)
			skipRefused(t, spec, err)
			if err == nil {
				defer coll.Close()
				var targets []Target
				if targets, err = Resolve(spec, m, nil); err != nil {
					t.Fatal(err)
				}
				_, err = Attach(coll, targets)
			}
			refused(t, err, tt.want, tt.hint)
		})
	}
}

// TestExplainFunction has what no kernel of the tests answers.
func TestExplainFunction(t *testing.T) {
	const busy = "find out what: a live patch (/sys/kernel/livepatch) or a program (bpftool link show), and remove it"
	for _, tt := range []struct {
		typ        ebpf.ProgramType
		err        error
		want, hint string
	}{
		{ebpf.Tracing, unix.EINVAL, "this kernel does not trace the function: invalid argument", "name one of those in available_filter_functions of tracefs"},
		{ebpf.LSM, unix.EINVAL, "this kernel calls no programs at the hook: invalid argument",
			"use a kernel with CONFIG_BPF_LSM and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, which arm64 has since 6.4; or name another hook"},
		{ebpf.LSM, notSupported, "this kernel calls no programs at the hook: errno 524", ""},
		{ebpf.LSM, unix.EBUSY, "something else changes the function: device or resource busy", busy},
		{ebpf.Tracing, unix.EBUSY, "something else changes the function: device or resource busy", busy},
		{ebpf.LSM, unix.E2BIG, "as many programs as the kernel takes are attached already: argument list too long", "detach some (bpftool link show)"},
	} {
		err := explainFunction(tt.typ, fmt.Errorf("attach: %w", tt.err))
		if err == nil || err.Error() != tt.want || !strings.HasPrefix(remedy.Of(err), tt.hint) || remedy.Of(err) == "" {
			t.Errorf("%v of a %v: %v (%s), want %s (%s)", tt.err, tt.typ, err, remedy.Of(err), tt.want, tt.hint)
		}
	}
	if err := explainFunction(ebpf.LSM, nil); err != nil {
		t.Error(err)
	}
}

// TestProbeDevice has files missing: no function is.
func TestProbeDevice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kprobe")
	_, err := attachProbe(nil, probeDevice(dir), "do_exit", 0, true, 0)
	refused(t, err, "this kernel has no kprobes: open "+dir+"/type: no such file or directory", "use a kernel with CONFIG_KPROBE_EVENTS")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the reason is lost")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "type"), []byte("6\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = attachProbe(nil, probeDevice(dir), "do_exit", 0, true, 0)
	refused(t, err, "kprobes of returns: open "+dir+"/format/retprobe: no such file or directory", "mount all of sysfs: the kernel has the file since 4.17")
}

func TestAttachStructOpsTaken(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_STRUCT_OPS")
	spec, m := openFixture(t, "attach_ops"), parseManifest(t, opsManifest)
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	links, err := Attach(loadKernel(t, spec, m), targets)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	_, err = Attach(loadKernel(t, spec, m), targets)
	refused(t, err, "attach struct_ops steady: another one has its name: file exists",
		"give it another name in the object, or find who has this one (bpftool struct_ops show)")
}

// TestAttachReplaceTaken replaces one function twice.
func TestAttachReplaceTaken(t *testing.T) {
	testenv.NoLeaks(t)
	spec := openFixture(t, "attach_kernel")
	m := kernelManifest(t, "[[attach]]\nprogram = \"verdict_drop\"\nreplaces = \"guarded\"\n[[attach]]\nprogram = \"verdict_any\"\nfunction = \"verdict\"\nreplaces = \"guarded\"\n", 0)
	only(spec, m, "guarded")
	coll := loadKernel(t, spec, m)
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Attach(coll, targets)
	refused(t, err, "attach verdict_any to function verdict of program guarded: another program has its place already: device or resource busy",
		"replace a function once")
}

// TestAttachExecutableChanged changes a file between looking and attaching.
func TestAttachExecutableChanged(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_TRACE_UPROBE_MULTI")
	b, err := os.ReadFile(libc(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "lib.so")
	write := func(name string) {
		if err := os.WriteFile(name, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(file)
	spec, m := openFixture(t, "attach_kernel"), kernelManifest(t, fmt.Sprintf("[[attach]]\nprogram = \"on_uprobes\"\nexecutable = %q\nsymbols = [\"__cxa*\"]\n", file), 0)
	only(spec, m)
	coll := loadKernel(t, spec, m)
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(file + "2")
	if err := os.Rename(file+"2", file); err != nil {
		t.Fatal(err)
	}
	_, err = Attach(coll, targets)
	refused(t, err, fmt.Sprintf("attach on_uprobes to %d functions %s:__cxa*: %s was replaced after it had been looked up", len(targets[0].Offsets), file, file), "load again")
}

// TestMatchesFunction changes one thing at a time in what was recorded.
func TestMatchesFunction(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	lib := libc(t)
	symbols := fmt.Sprintf("executable = %q\nsymbols = [\"__libc_start_main\", \"__cxa_atexit\"]", lib)
	tests := map[string]struct {
		program, toml string
		change        func(*Target)
		want          string
	}{
		"function":     {"on_fentry", "", func(t *Target) { t.TypeID = 7 }, "of object 0, not type 7 of 0)"},
		"attach type":  {"on_fexit", "", func(t *Target) { t.AttachType = "trace_fentry" }, "link N has attach type trace_fexit, not trace_fentry"},
		"hook":         {"on_lsm", "", func(t *Target) { t.TypeID = 7 }, "link N is at another function than bprm_check_security"},
		"replacement":  {"verdict_drop", `replaces = "guarded"`, func(t *Target) { t.ReplacesID++ }, "link N is at another function than verdict"},
		"kprobe":       {"on_kprobe", "", func(t *Target) { t.Function = "do_exit" }, "link N is at begin_new_exec+0x0, not at do_exit+0x0"},
		"return probe": {"on_kretprobe", "", func(t *Target) { t.AttachType = "kprobe" }, "link N has attach type kretprobe, not kprobe"},
		"kprobe.multi": {"on_kprobes", "", func(t *Target) { t.Functions = append(t.Functions, "do_exit") }, "link N is at 1 functions (returns false), not 2 (returns false)"},
		"uprobe.multi": {"on_uprobes", symbols, func(t *Target) { t.Returns = true }, "link N is at 2 functions (returns false), not 2 (returns true)"},
		"executable":   {"on_uretprobes", symbols, func(t *Target) { t.Executable = "/bin/sh" }, "link N: /bin/sh was replaced after it had been looked up"},
		"offsets":      {"on_uprobes", symbols, func(t *Target) { t.Offsets = []uint64{0x1000, 0x2000} }, fmt.Sprintf(" of %s, not at [0x1000 0x2000]", lib)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			requireProbes(t, tt.program)
			r := pinnedKernel(t, "attach_kernel", fmt.Sprintf("[[attach]]\nprogram = %q\n%s\n", tt.program, tt.toml), 0, "guarded")
			changed := r.targets[0]
			switch changed.Kind {
			case "perf_event", "kprobe_multi": // else it does not say what it is attached to
				testenv.RequireEnum(t, "bpf_perf_event_type", "BPF_PERF_EVENT_KPROBE")
			}
			if err := r.matches(t, changed); err != nil {
				t.Errorf("unchanged: %v", err)
			}
			tt.change(&changed)
			if err := r.matches(t, changed); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

// TestMatchesSymlink attaches through a directory that is a symlink, as /lib is:
// the kernel tells the path that it leads to.
func TestMatchesSymlink(t *testing.T) {
	testenv.NoLeaks(t)
	lib, dir := libc(t), filepath.Join(t.TempDir(), "lib")
	if err := os.Symlink(filepath.Dir(lib), dir); err != nil {
		t.Fatal(err)
	}
	requireProbes(t, "on_uprobes")
	r := pinnedKernel(t, "attach_kernel", fmt.Sprintf("[[attach]]\nprogram = \"on_uprobes\"\nexecutable = %q\nsymbols = [\"exit\", \"__cxa*\"]\n",
		filepath.Join(dir, filepath.Base(lib))), 0)
	if err := r.matches(t, r.targets[0]); err != nil {
		t.Error(err)
	}
}

// TestUpdateFunctionRefused asks the kernel about each kind that is said not to
// be updatable.
func TestUpdateFunctionRefused(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	tests := map[string]struct{ program, toml string }{
		"tracing":      {"on_fentry", ""},
		"kprobe_multi": {"on_kprobes", ""},
		"uprobe_multi": {"on_uprobes", fmt.Sprintf("executable = %q\nsymbols = [\"exit\"]", libc(t))},
	}
	for kind, tt := range tests {
		t.Run(kind, func(t *testing.T) {
			requireProbes(t, tt.program)
			r := pinnedKernel(t, "attach_kernel", fmt.Sprintf("[[attach]]\nprogram = %q\n%s\n", tt.program, tt.toml), 0)
			p := r.program(t, 0)
			l, err := link.LoadPinnedLink(r.pin(r.targets[0].Link), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			raw := l.(interface {
				UpdateArgs(link.RawLinkUpdateOptions) error
			})
			if err := raw.UpdateArgs(link.RawLinkUpdateOptions{New: p}); err == nil || Updatable(kind) || r.targets[0].Kind != kind {
				t.Errorf("the kernel updates a link of kind %s: %v; said to be updatable: %t", r.targets[0].Kind, err, Updatable(kind))
			}
		})
	}
}

// TestNameAt has a table in which all names could be one long one.
func TestNameAt(t *testing.T) {
	const longest = manifest.LongestSymbol
	table := []byte("\x00f\x00" + strings.Repeat("g", longest+1) + "\x00h")
	for at, want := range map[uint32]string{0: "", 1: "f", 3: "", 4: strings.Repeat("g", longest), uint32(len(table) - 1): "", uint32(len(table)): ""} {
		if got := string(nameAt(table, at)); got != want {
			t.Errorf("at %d: %q, want %q", at, got, want)
		}
	}
}

// TestSymbolOffsetsHostile has a file made to take long: many symbols share one
// long name, which patterns almost match.
func TestSymbolOffsetsHostile(t *testing.T) {
	const count = 10000
	b := manySymbols(t, strings.Repeat("a", 200), count)
	var wanted []string
	for i := range 100 {
		wanted = append(wanted, fmt.Sprintf("*%sb%d", strings.Repeat("a", 99), i))
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, b, 0o755); err != nil {
		t.Fatal(err)
	}
	x, err := openExecutable(file)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	_, err = x.offsets(wanted)
	refused(t, err, file+": to compare all symbols takes more than 268435456 steps", "write fewer patterns, with fewer *; or write the names")
	// Names and patterns that fail early are cheap, and no symbol takes memory.
	for i := range wanted {
		wanted[i] = fmt.Sprintf("b%d*", i)
	}
	allocs := testing.AllocsPerRun(1, func() { _, err = symbolOffsets(bytes.NewReader(b), int64(len(b)), append(wanted, "c", "d")) })
	if err == nil || err.Error() != `there is no function "b0*"` || allocs > count/10 {
		t.Errorf("%v, %v allocations", err, allocs)
	}
}

// TestUpdateStructOps replaces the map of a link, and tries what the kernel
// refuses.
func TestUpdateStructOps(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_STRUCT_OPS")
	m := parseManifest(t, opsManifest)
	load := func(name string) (*ebpf.Map, *ebpf.Collection) {
		spec := openFixture(t, "attach_ops")
		value := spec.Maps["steady"].Contents[0].Value.([]byte)
		copy(value[bytes.Index(value, []byte("hornet_steady")):], name)
		coll := loadKernel(t, spec, m)
		return coll.Maps["steady"], coll
	}
	old, coll := load("hornet_steady")
	targets, err := Resolve(openFixture(t, "attach_ops"), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	links, err := Attach(coll, targets)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	l := links["steady"]
	new, _ := load("hornet_steady")
	renamed, _ := load("hornet_stead2")
	if err := UpdateMap(l, new, new); !errors.Is(err, ErrOtherProgram) {
		t.Errorf("update of a map that it does not have: %v", err)
	}
	refused(t, UpdateMap(l, old, renamed), fmt.Sprintf("link %d: the kernel does not put it in the place of the old one: invalid argument", described(t, l).ID),
		"leave the name that it has for the kernel; or give both that and the variable in the object a new name, to attach it beside the old one")
	if err := UpdateMap(l, old, new); err != nil {
		t.Error(err)
	}
	info, err := new.Info()
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := info.ID(); described(t, l).MapID != id {
		t.Errorf("link %+v, want one of map %d", described(t, l), id)
	}
}
