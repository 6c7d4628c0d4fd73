package loader

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

const allMutable = "[maps.'*']\nclass = 'mutable'\n"

func TestPlanRefuses(t *testing.T) {
	const rest = "\n[maps.'*']\nclass = 'mutable'\n[maps.plain]\nclass = 'mutable'\nmax_entries = 1\n"
	for _, c := range []struct {
		fixture, toml string
		line          int
		says, hint    string
	}{
		// Names.
		{"vars", "[variables]\nv_u16 = 1\nv_shap = 1", 3, `no global variable "v_shap": did you mean "v_shape"`, "volatile"},
		{"vars", "[variables]\nhidden = 1", 2, `"hidden" is static in .rodata`, "without static"},
		{"vars", "[variables]\nnowhere = 1", 2, "21 more", "C source"},
		{"kconfig", "[variables]\nLINUX_KERNEL_VERSION = 1", 2, "comes from the running kernel", "remove it"},
		{"maps", "[maps.network]\nclass = 'frozen'", 1, `no map "network": did you mean "networks"`, "C source"},
		{"plain", "[maps.network]\nclass = 'frozen'", 1, `no map "network": there is .rodata`, "C source"},
		{"plain", "[[test]]\nprogram = 'plane'\nreturns = 1", 2, `no program "plane": did you mean "plain"`, "C source"},

		// Classes.
		{"maps", "[maps.networks]\nclass = 'frozen'\n", 1, "not declared: events, percpu, plain, rules, table",
			`below [maps]: events = { class = "mutable" } and percpu = { class = "frozen" }`},
		{"writes", "", 0, "not declared: counts, slots", `slots = { class = "frozen" }`},
		{"maps", "[maps.'*']\nclass = 'frozen'\n[maps.plain]\nmax_entries = 1", 1, "a RingBuf cannot be frozen: nobody could read it",
			"below [maps.events] write class = \"mutable\""},
		{"vars", "[maps.'.rodata']\nclass = 'mutable'", 1, ".rodata holds constants: it is always frozen", "remove"},
		{"vars", "[maps.'.rodata.other']\nprogram_writes = true", 1, ".rodata.other holds constants", "remove"},
		{"kconfig", "[maps.'.kconfig']\nclass = 'mutable'", 1, ".kconfig holds constants", "remove"},
		{"vars", "[maps.'.data']\nentries = [{ key = 0, value = 1 }]", 1, ".data is a data section", "[variables]"},

		// Sizes.
		{"maps", allMutable, 1, "the object leaves the number of entries open", "below [maps.plain] write max_entries = N"},
		{"maps", rest + "[maps.table]\nmax_entries = 2\nentries = [{ key = 2, value = '0x000000' }]", 9, "2 is behind the last, 1", "__u32"},
		{"maps", rest + "[maps.percpu]\nmax_entries = 1\nentries = [\n{ key = 1, value = 1 },\n{ key = 2, value = 1 }]", 9,
			"2 entries, and the map has room for 1", "larger max_entries"},

		// Values.
		{"vars", "[variables]\nv_u8 = 256", 2, "256 does not fit a __u8 (0 to 255)", "the variable is a __u8"},
		{"vars", "[variables]\nv_shape = { colour = 'RED' }", 2, `struct shape has no field "colour": did you mean "color"`,
			"the variable is a struct shape { corners, color, id, anonymous }"},
		{"vars", "[variables]\nv_list = 5", 2, "5 is not a list", "the variable is 4 times a __u16"},
		{"vars", "[variables]\nv_bool = 2", 2, "2 is not true or false", "the variable is true or false"},
		{"maps", rest + "[maps.networks]\nentries = [\n{ key = '10.0.0.0/8', value = 1 },\n{ key = '10.0.0.0', value = 1 } ]", 10,
			"key: \"10.0.0.0\"", "the key is a struct prefix { prefixlen, addr }, the value is a __u32"},
		{"maps", rest + "[maps.networks]\nentries = [\n{ key = '10.0.0.0/8', value = 1 },\n{ key = '0x080000000a000000', value = 1 } ]", 10,
			"the same key as in entries[0]", "every key once"},
		{"maps", rest + "[maps.rules]\nentries = [{ key = {}, value = { verdict = 'DENIED' } }]", 8, `value: field "verdict": "DENIED" is not a value of enum verdict: did you mean "DENY"`, "struct rule"},
		{"maps", rest + "[maps.table]\nentries = [{ key = -1, value = '0x000000' }]", 8, "key: -1 does not fit a __u32", "3 times a __u8"},
		{"maps", "[maps.'*']\nclass = 'mutable'\n[maps.plain]\nmax_entries = 1\nentries = [{ key = '10.0', value = 1 }]", 5,
			"key: ", "the key has 4 bytes of no known type"},
		{"maps", rest + "[maps.events]\nentries = [{ key = 0, value = 1 }]", 8, "a RingBuf takes no entries", "remove"},

		// References.
		{"tail", "[maps.jumps]\nclass = 'frozen'\nentries = [{ key = 1, value = 'secnod' }]", 3, `no program "secnod": did you mean "second"`, "name of a program"},
		{"tail", "[maps.jumps]\nclass = 'frozen'\nentries = [{ key = 1, value = 2 }]", 3, "value: 2 is not a name", "name of a program"},
		{"tail", "[maps.jumps]\nclass = 'frozen'\nentries = [{ key = 0, value = 'second' }]", 3, `the object puts "first" there`, "once"},
		{"tail", "[maps.jumps]\nclass = 'frozen'\nentries = [{ key = 3, value = 'second' }]", 3, "3 is behind the last, 2", ""},
		{"inner", allMutable, 1, "the object does not say what this map holds", "below [maps.bare] write inner"},
		{"inner", allMutable + "[maps.bare]\ninner = 'inner_c'", 4, `no map "inner_c": did you mean "inner_a"`, ""},
		{"inner", allMutable + "[maps.bare]\ninner = 'outer'", 4, `"outer" holds maps itself`, ""},
		{"inner", allMutable + "[maps.outer]\ninner = 'inner_a'\n[maps.bare]\ninner = 'inner_a'", 4, "the object says already", "remove"},
		{"inner", allMutable + "[maps.bare]\ninner = 'inner_a'\n[maps.outer]\nentries = [{ key = 1, value = 'bare' }]", 6, `"bare" holds maps itself`, "name of a map"},
		{"inner", strings.Replace(innerTOML, "class = \"frozen\"", "class = \"mutable\"", 1), 8,
			`inner map "inner_b" differs from the template in its flags`, "the same class"},
		{"inner", innerTOML + "[maps.inner_a.x]", 0, "", ""},
	} {
		m, err := manifest.Parse("/etc/hornet.d/demo.toml", []byte("[object]\npath = \"demo.bpf.o\"\n"+c.toml))
		if err != nil {
			if c.says != "" {
				t.Errorf("%s: %v", c.toml, err)
			}
			continue
		}
		t.Run(c.says, func(t *testing.T) {
			_, err = NewPlan(openFixture(t, c.fixture), m)
			line := c.line
			if line == 0 {
				line = -2 // no line at all
			}
			wantManifestError(t, err, line, c.says)
			if !strings.Contains(remedy.Of(err), c.hint) {
				t.Errorf("remedy %q does not say %q", remedy.Of(err), c.hint)
			}
		})
	}
}

func TestPlanClasses(t *testing.T) {
	p := planFixture(t, "vars", "[maps.'.data']\nclass = 'frozen'\nprogram_writes = true\n[maps.'*']\nclass = 'frozen'\n")
	got := make(map[string]manifest.Class)
	for name := range p.Spec().Maps {
		got[name] = p.MapClass(name)
	}
	want := map[string]manifest.Class{
		".rodata": "frozen", ".rodata.other": "frozen", ".data": "frozen", ".data.other": "mutable", ".bss": "mutable",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if c := p.MapClass("nowhere"); c != "" {
		t.Errorf("class of no map: %q", c)
	}
}

// Limits are checked against what will be created, and the caller's spec is as
// it was.
func TestPlanSpec(t *testing.T) {
	spec := openFixture(t, "maps")
	p, err := NewPlan(spec, parseManifest(t, goodEntries+"\n[maps.'*']\nclass = 'mutable'\n"))
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Spec().Maps["plain"].MaxEntries; n != 2 {
		t.Errorf("max_entries = %d, want 2", n)
	}
	if n := spec.Maps["plain"].MaxEntries; n != 0 {
		t.Errorf("the caller's spec has max_entries = %d", n)
	}
	if spec.Maps["networks"].Flags != 1 {
		t.Errorf("the caller's spec has flags %#x", spec.Maps["networks"].Flags)
	}
	if len(spec.Variables) != len(openFixture(t, "maps").Variables) || len(p.Spec().Variables) != 0 {
		t.Error("variables are not as they were")
	}
}

// Two plans of one object have nothing in common, nor has the object changed.
func TestPlanLeavesContentsAlone(t *testing.T) {
	spec, untouched := openFixture(t, "vars"), openFixture(t, "vars")
	if _, err := NewPlan(spec, parseManifest(t, allVariables())); err != nil {
		t.Fatal(err)
	}
	for name, ms := range untouched.Maps {
		if diff := cmp.Diff(ms.Contents, spec.Maps[name].Contents); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestPlanObjectErrors(t *testing.T) {
	m := parseManifest(t, allMutable)
	for _, c := range []struct {
		says   string
		change func(*ebpf.CollectionSpec)
	}{
		{`maps "ops" and "spo" are both a struct tcp_congestion_ops`, func(s *ebpf.CollectionSpec) {
			ops := *openFixture(t, "attach_ops").Maps["steady"]
			s.Maps["ops"], s.Maps["spo"] = &ops, &ops
		}},
		{"section .rodata: 0 values", func(s *ebpf.CollectionSpec) { s.Maps[".rodata"].Contents = nil }},
		{"section .rodata: contents of type string", func(s *ebpf.CollectionSpec) { s.Maps[".rodata"].Contents[0].Value = "x" }},
		{`slot 1: this map holds neither maps nor programs`, func(s *ebpf.CollectionSpec) {
			s.Maps["m"] = &ebpf.MapSpec{Type: ebpf.Hash, MaxEntries: 1, Contents: []ebpf.MapKV{{Key: uint32(1), Value: "x"}}}
		}},
		{`slot 1: the object has no program "x"`, func(s *ebpf.CollectionSpec) {
			s.Maps["m"] = &ebpf.MapSpec{Type: ebpf.ProgramArray, MaxEntries: 1, Contents: []ebpf.MapKV{{Key: uint32(1), Value: "x"}}}
		}},
	} {
		spec := openFixture(t, "plain")
		c.change(spec)
		_, err := NewPlan(spec, m)
		var oe *ObjectError
		if !errors.As(err, &oe) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("error %v, want an *ObjectError that says %q", err, c.says)
		}
	}
}

func TestKernelName(t *testing.T) {
	for _, c := range []struct{ collection, name, want string }{
		{"xdp-drop", "blocked", "blocked"},
		{"xdp-drop", ".rodata", "xdp_drop.rodata"},
		{"a-very-long-collection-name", ".bss", "a_very_long.bss"},
		{"demo", ".rodata.cst32.more", "d.rodata.cst32.more"}, // the library cuts the end
	} {
		if got := kernelName(c.collection, c.name); got != c.want {
			t.Errorf("kernelName(%q, %q) = %q, want %q", c.collection, c.name, got, c.want)
		}
	}
}

func TestSuggest(t *testing.T) {
	for _, c := range []struct {
		name  string
		known []string
		want  string
	}{
		{"smaple_rate", []string{"burst", "sample_rate"}, `: did you mean "sample_rate"`},
		{"x", []string{"burst", "sample_rate"}, ": there is burst, sample_rate"},
		{"x", nil, ": there is none"},
		{"zzzz", []string{"aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh"}, ": there is aa, bb, cc, dd, ee, ff and 2 more"},
		{"abc", []string{"abd", "abe"}, `: did you mean "abd"`},
		{"ab", []string{"zz", "ac"}, `: did you mean "ac"`}, // one letter replaced counts once
		{"x", []string{"\x1b[2J"}, ": there is \uFFFD[2J"},
	} {
		if got := suggest(c.name, c.known); got != c.want {
			t.Errorf("suggest(%q, %q) = %q, want %q", c.name, c.known, got, c.want)
		}
	}
}
