package loader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// everyVariable sets each variable of vars.bpf.c. want is what the program
// must find, as bytes of a little-endian machine, in the order of struct out.
var everyVariable = []struct{ name, toml, want string }{
	{"v_u8", "200", "c8"},
	{"v_s8", "-100", "9c"},
	{"v_u16", "65535", "ffff"},
	{"v_s16", "-2", "feff"},
	{"v_u32", "4294967295", "ffffffff"},
	{"v_s32", "-3", "fdffffff"},
	{"v_u64", `"18446744073709551615"`, "ffffffffffffffff"},
	{"v_s64", "-9223372036854775808", "0000000000000080"},
	{"v_bool", "true", "01"},
	{"v_text", `"hornet"`, "686f726e657400000000000000000000"},
	{"v_color", `"BLUE"`, "c8000000"},
	{"v_big", `"HUGE"`, "0000000001000000"},
	{"v_sign", `"MINUS"`, "ffffffff"},
	{"v_be16", "443", "01bb"},
	{"v_be32", `"192.0.2.1"`, "c0000201"},
	{"v_be64", "1", "0000000000000001"},
	{"v_ip", `"10.1.2.3"`, "0a010203"},
	{"v_mac", `"02:00:00:00:00:07"`, "020000000007"},
	{"v_ip6", `"2001:db8::1"`, "20010db8000000000000000000000001"},
	{"v_list", "[1, 2, 3]", "0100020003000000"},
	{"v_shape", `{ corners = [{ x = 1, y = -1, tag = 9 }, { x = 2 }], color = "GREEN", id = { bytes = "1.2.3.4" }, anonymous = 5 }`,
		"0100ffff0900" + "020000000000" + "01000000" + "01020304" + "00000000" + "0500000000000000"},
	{"v_flags", "{ low = 5, mid = 1000, high = 524287 }", "45ffffff"},
	{"v_prefix", `"10.0.0.0/8"`, "080000000a000000"},
	{"data_word", "77", "4d000000"},
	{"bss_word", "1000", "e803000000000000"},
	{"other_rodata", "123", "7b000000"},
	{"other_data", "0x10", "10000000"},
}

func allVariables() string {
	var b strings.Builder
	b.WriteString("[variables]\n")
	for _, v := range everyVariable {
		fmt.Fprintf(&b, "%s = %s\n", v.name, v.toml)
	}
	return b.String()
}

// Every kind of variable arrives: in the map, through another descriptor, and
// in the program.
func TestVariablesArrive(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "vars", allVariables())
	coll, ms := loadPlan(t, p)

	spec := openFixture(t, "vars")
	for _, v := range everyVariable {
		vs := spec.Variables[v.name]
		m := secondFD(t, state(t, ms, vs.SectionName))
		b, err := m.LookupBytes(uint32(0))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b[vs.Offset:][:len(v.want)/2]); got != v.want {
			t.Errorf("%s in %s = %s, want %s", v.name, vs.SectionName, got, v.want)
		}
	}

	out := make([]byte, 512)
	ret, err := coll.Programs["dump"].Run(&ebpf.RunOptions{Data: make([]byte, 512), DataOut: out})
	if err != nil || ret != 2 {
		t.Fatalf("dump returned %d, %v", ret, err)
	}
	for _, v := range everyVariable {
		n := len(v.want) / 2
		if got := hex.EncodeToString(out[:n]); got != v.want {
			t.Errorf("%s in the program = %s, want %s", v.name, got, v.want)
		}
		out = out[n:]
	}
}

// What no manifest sets is as compiled, and another tool reads the same names
// and values from the kernel's own type information.
func TestBpftoolReadsTheVariables(t *testing.T) {
	requireKernel(t)
	_, ms := loadFixture(t, "vars", "[variables]\nv_u32 = 4242\nv_text = \"told\"\n")
	for section, want := range map[string]map[string]any{
		".rodata": {"v_u32": 4242., "v_u16": 1., "v_color": "GREEN"},
		".data":   {"data_word": 7.},
		".bss":    {"bss_word": 0.},
	} {
		s := state(t, ms, section)
		var dump []struct {
			Formatted struct{ Value map[string][]map[string]any }
		}
		bpftool(t, &dump, "map", "dump", "id", fmt.Sprint(s.ID))
		got := make(map[string]any)
		for _, vars := range dump[0].Formatted.Value {
			for _, v := range vars {
				for name, value := range v {
					if _, ok := want[name]; ok {
						got[name] = value
					}
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, -want +got:\n%s", section, diff)
		}
		var info struct {
			Name   string
			Frozen int
			Flags  uint32
		}
		bpftool(t, &info, "map", "show", "id", fmt.Sprint(s.ID))
		if frozen := section == ".rodata"; info.Frozen == 1 != frozen || info.Name != "demo"+section {
			t.Errorf("%s: bpftool says %+v", section, info)
		}
	}
}

func bpftool(t testing.TB, v any, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("bpftool"); err != nil {
		t.Skip("needs bpftool, to look at maps with another program")
	}
	b, err := exec.Command("bpftool", append([]string{"--json"}, args...)...).Output()
	if err != nil {
		t.Fatalf("bpftool %v: %v: %s", args, err, b)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("bpftool %v: %v: %s", args, err, b)
	}
}

func TestFrozenMapsRefuseUserSpace(t *testing.T) {
	requireKernel(t)
	_, ms := loadFixture(t, "maps", `
[maps.networks]
class = "frozen"
[maps.table]
class = "mutable"
[maps."*"]
class = "frozen"
[maps.plain]
class = "frozen"
max_entries = 4
[maps.events]
class = "mutable"
`)
	for name, key := range map[string][]byte{
		"networks": make([]byte, 8), "rules": make([]byte, 8), "percpu": make([]byte, 4), "plain": make([]byte, 4),
	} {
		s := state(t, ms, name)
		if !s.Frozen || s.Class != manifest.ClassFrozen || len(s.SHA256) != 64 {
			t.Errorf("%s: %+v", name, s)
		}
		m := secondFD(t, s)
		if m.Flags()&unix.BPF_F_RDONLY_PROG == 0 {
			t.Errorf("%s: programs may write it", name)
		}
		if err := put(m, key); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: update through another descriptor: %v", name, err)
		}
		if err := m.Delete(key); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: delete through another descriptor: %v", name, err)
		}
	}
	s := state(t, ms, "table")
	if s.Frozen || s.SHA256 != "" {
		t.Errorf("table: %+v", s)
	}
	if err := put(secondFD(t, s), make([]byte, 4)); err != nil {
		t.Errorf("a mutable map refuses: %v", err)
	}
}

func put(m *ebpf.Map, key []byte) error {
	value := make([]byte, m.ValueSize())
	if isPerCPU(m.Type()) {
		return m.Put(key, [][]byte{value})
	}
	return m.Put(key, value)
}

const entriesTOML = `
[maps.networks]
class = "frozen"
entries = [
  { key = "10.0.0.0/8", value = 1 },
  { key = "10.1.0.0/16", value = 2 },
]
[maps.rules]
class = "frozen"
entries = [
  { key = { addr = "192.0.2.1", port = 443 }, value = { verdict = "DENY", label = "web" } },
  { key = "0x0a0000010050" }, 
]
[maps.table]
class = "frozen"
entries = [{ key = 3, value = "0x0a0b0c" }, { key = 1, value = [7] }]
[maps.percpu]
class = "frozen"
entries = [{ key = 0, value = 40 }]
[maps.plain]
class = "frozen"
max_entries = 2
entries = [{ key = 0, value = 0x0102 }]
[maps.events]
class = "mutable"
`

var goodEntries = strings.Replace(entriesTOML, `  { key = "0x0a0000010050" }, `,
	`  { key = "0x0a00000100500000", value = { verdict = 1 } },`, 1)

// Entries are found by the programs, and look the same through another tool.
func TestEntriesArrive(t *testing.T) {
	requireKernel(t)
	coll, ms := loadFixture(t, "maps", goodEntries)
	lookup := coll.Programs["lookup"]
	for _, c := range []struct {
		packet []byte
		want   uint32
	}{
		{[]byte{192, 0, 2, 1, 443 >> 8, 443 & 0xff}, 1}, // DENY
		{[]byte{10, 0, 0, 1, 0, 80}, 2},                 // ALLOW
		{[]byte{10, 2, 0, 1, 0, 80}, 1},                 // the wider network
		{[]byte{10, 1, 0, 1, 0, 80}, 2},                 // the longer prefix
		{[]byte{11, 0, 0, 1, 0, 80}, 3},                 // none
	} {
		if got := run(t, lookup, c.packet...); got != c.want {
			t.Errorf("packet %v: program returned %d, want %d", c.packet, got, c.want)
		}
	}
	if got := run(t, coll.Programs["others"]); got != 40+2 {
		t.Errorf("others returned %d", got)
	}
	var dump []struct{ Key, Value []string }
	bpftool(t, &dump, "map", "dump", "id", fmt.Sprint(state(t, ms, "table").ID))
	if got := fmt.Sprint(dump[1].Value, dump[3].Value); got != "[0x07 0x00 0x00] [0x0a 0x0b 0x0c]" {
		t.Errorf("bpftool reads %s", got)
	}
	// A value of a per-CPU map is given to every CPU.
	var perCPU [][]byte
	if err := secondFD(t, state(t, ms, "percpu")).Lookup(uint32(0), &perCPU); err != nil {
		t.Fatal(err)
	}
	for cpu, v := range perCPU {
		if binary.NativeEndian.Uint64(v) != 40 {
			t.Errorf("cpu %d holds %v", cpu, v)
		}
	}
}

func TestProgramsCannotWriteFrozenMaps(t *testing.T) {
	requireKernel(t)
	for _, c := range []struct {
		toml string
		hint string
	}{
		{"[maps.'*']\nclass = 'frozen'\n", "the program writes a frozen map (counts): below [maps.counts] write program_writes = true"},
		{"[maps.counts]\nclass = 'mutable'\n[maps.slots]\nclass = 'frozen'\n", "the program writes a frozen map (slots)"},
		{"[maps.'*']\nclass = 'mutable'\n[maps.'.bss']\nclass = 'frozen'\n", "the program writes a frozen map (.bss)"},
	} {
		_, _, err := tryLoad(planFixture(t, "writes", c.toml))
		wantError(t, err, `program "`, "write into map forbidden")
		if !strings.Contains(remedy.Of(err), c.hint) {
			t.Errorf("remedy %q does not say %q", remedy.Of(err), c.hint)
		}
	}
}

func TestProgramWrites(t *testing.T) {
	requireKernel(t)
	coll, ms := loadFixture(t, "writes", `
[maps."*"]
class = "frozen"
program_writes = true
[maps.".bss"]
class = "frozen"
program_writes = true
`)
	if run(t, coll.Programs["count"]) != 2 || run(t, coll.Programs["store"]) != 2 {
		t.Error("programs cannot write")
	}
	for _, name := range []string{"counts", "slots", ".bss"} {
		s := state(t, ms, name)
		if !s.Frozen || s.SHA256 != "" {
			t.Errorf("%+v", s)
		}
		m := secondFD(t, s)
		if m.Flags()&unix.BPF_F_RDONLY_PROG != 0 {
			t.Errorf("%s: flags %#x", name, m.Flags())
		}
		if err := put(m, make([]byte, 4)); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: update: %v", name, err)
		}
	}
	var n uint64
	if err := secondFD(t, state(t, ms, "slots")).Lookup(uint32(1), &n); err != nil || n != 42 {
		t.Errorf("slot 1 = %d, %v", n, err)
	}
}

func TestTailCalls(t *testing.T) {
	requireKernel(t)
	coll, ms := loadFixture(t, "tail", "[maps.jumps]\nclass = \"frozen\"\nentries = [{ key = 2, value = \"second\" }]\n")
	for slot, want := range []uint32{100, 3, 101} {
		if got := run(t, coll.Programs["entry"], byte(slot)); got != want {
			t.Errorf("slot %d: %d, want %d", slot, got, want)
		}
	}
	s := state(t, ms, "jumps")
	if !s.Frozen || s.SHA256 == "" {
		t.Errorf("%+v", s)
	}
	if err := secondFD(t, s).Put(uint32(1), coll.Programs["first"]); !errors.Is(err, unix.EPERM) {
		t.Errorf("a frozen program array takes %v", err)
	}

	coll, ms = loadFixture(t, "tail", "[maps.jumps]\nclass = \"mutable\"\n")
	if err := secondFD(t, state(t, ms, "jumps")).Put(uint32(1), coll.Programs["second"]); err != nil {
		t.Errorf("a mutable program array refuses: %v", err)
	}
	if got := run(t, coll.Programs["entry"], 1); got != 101 {
		t.Errorf("slot 1: %d", got)
	}
}

const innerTOML = `
[maps.inner_a]
class = "frozen"
entries = [{ key = 0, value = 11 }]
[maps.inner_b]
class = "frozen"
entries = [{ key = 0, value = 12 }]
[maps.outer]
class = "frozen"
entries = [{ key = 2, value = "inner_b" }]
[maps.bare]
class = "frozen"
inner = "inner_a"
entries = [{ key = 7, value = "inner_b" }]
`

func TestMapsInMaps(t *testing.T) {
	requireKernel(t)
	coll, ms := loadFixture(t, "inner", innerTOML)
	for packet, want := range map[byte]uint32{0: 11, 1: 1, 2: 12, 0x87: 12, 0x86: 1} {
		if got := run(t, coll.Programs["nested"], packet); got != want {
			t.Errorf("packet %#x: %d, want %d", packet, got, want)
		}
	}
	for _, name := range []string{"inner_a", "inner_b", "outer", "bare"} {
		if s := state(t, ms, name); !s.Frozen || s.SHA256 == "" {
			t.Errorf("%+v", s)
		}
	}
	// Both levels, through other descriptors.
	if err := secondFD(t, state(t, ms, "inner_b")).Put(uint32(0), uint32(1)); !errors.Is(err, unix.EPERM) {
		t.Errorf("inner map takes %v", err)
	}
	if err := secondFD(t, state(t, ms, "outer")).Put(uint32(1), coll.Maps["inner_a"]); !errors.Is(err, unix.EPERM) {
		t.Errorf("outer map takes %v", err)
	}
}

// The library makes .kconfig by itself; it is found, and it is frozen.
func TestKconfig(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "kconfig", "[maps.'.kconfig']\nclass = 'frozen'\n")
	if got := p.MapClass(".kconfig"); got != manifest.ClassFrozen {
		t.Errorf("class %q", got)
	}
	coll, ms := loadPlan(t, p)
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var major, minor, patch uint32
	fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d.%d", &major, &minor, &patch)
	// Debian keeps 0 in the release for all updates of its long-term kernel.
	if _, debian, ok := strings.Cut(unix.ByteSliceToString(uts.Version[:]), fmt.Sprintf("Debian %d.%d.", major, minor)); ok {
		fmt.Sscanf(debian, "%d", &patch)
	}
	version := major<<16 | minor<<8 | min(patch, 255)
	for _, prog := range []string{"version", "again"} {
		if got := run(t, coll.Programs[prog]); got != version {
			t.Errorf("%s returned %#x, want %#x", prog, got, version)
		}
		s := state(t, ms, ".kconfig."+prog)
		if !s.Frozen || s.Class != manifest.ClassFrozen {
			t.Errorf("%+v", s)
		}
		m := secondFD(t, s)
		if err := put(m, make([]byte, 4)); !errors.Is(err, unix.EPERM) {
			t.Errorf("update: %v", err)
		}
		if coll.Maps[s.Name] == nil {
			t.Errorf("the collection has no map %s", s.Name)
		}
	}
}

func TestProgramStates(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "tail", "[maps.jumps]\nclass = \"mutable\"\n")
	coll, _ := loadPlan(t, p)
	states, err := p.ProgramStates(coll)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range states {
		names = append(names, s.Name)
		info, err := coll.Programs[s.Name].Info()
		if err != nil {
			t.Fatal(err)
		}
		if id, _ := info.ID(); uint32(id) != s.ID || info.Tag != s.Tag || s.Type != "XDP" || s.AttachType != "XDP" {
			t.Errorf("%+v, the library says id %d, tag %s", s, id, info.Tag)
		}
	}
	if got := fmt.Sprint(names); got != "[entry first second]" {
		t.Errorf("programs %s", got)
	}
}

// Somebody writes a map between its creation and its freeze. A table of more
// than one entry is frozen after the programs are loaded: until then it can be
// written, and that is found, too.
func TestReadBackFindsForeignWrites(t *testing.T) {
	requireKernel(t)
	for _, c := range []struct {
		name string
		key  []byte
		late bool
	}{
		{"networks", []byte{8, 0, 0, 0, 10, 0, 0, 0}, false},
		{"rules", make([]byte, 8), false},
		{"percpu", make([]byte, 4), false},
		{"table", []byte{1, 0, 0, 0}, false},
		{"table", []byte{1, 0, 0, 0}, true},
	} {
		p := planFixture(t, "maps", goodEntries)
		ms, err := p.CreateMaps(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ms.Close()
		write := func() {
			if err := put(ms.byName[c.name], c.key); err != nil {
				t.Fatal(err)
			}
		}
		if !c.late {
			write()
		}
		if _, err = ms.Freeze(); err == nil {
			if c.late {
				write()
			}
			_, err = LoadPrograms(p, ms, nil, nil)
		}
		wantError(t, err, fmt.Sprintf("map %q: read back: it does not hold what", c.name))
	}
}

// A writable mapping stands in the way of a freeze, for a while or for good.
func TestFreezeWaitsForWriters(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "writes", "[maps.'*']\nclass = 'mutable'\n[maps.'.bss']\nclass = 'frozen'\nprogram_writes = true\n")
	ms, err := p.CreateMaps(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ms.Close()
	writable := func() []byte {
		b, err := unix.Mmap(ms.byName[".bss"].FD(), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := writable()
	_, err = ms.Freeze()
	wantError(t, err, `map ".bss": freeze:`, "writable mapping")
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v is not EBUSY", err)
	}
	go func() {
		time.Sleep(10 * time.Millisecond)
		unix.Munmap(b)
	}()
	if _, err := ms.Freeze(); err != nil {
		t.Errorf("after the mapping is gone: %v", err)
	}
	// EPERM because it is frozen already is no error.
	if err := ms.freeze(".bss"); err != nil {
		t.Errorf("freeze twice: %v", err)
	}
}

// The hash is the same whoever computes it, and not the same for other contents.
func TestContentHash(t *testing.T) {
	requireKernel(t)
	_, ms := loadFixture(t, "maps", goodEntries)
	s := state(t, ms, "table")
	m := secondFD(t, s)
	h := newContentHash(m.Type(), m.MaxEntries(), int(m.ValueSize()))
	if err := eachEntry(m, func(k, v []byte) { h.add(k, append(v, make([]byte, 5)...)) }); err != nil {
		t.Fatal(err)
	}
	sum := h.sum()
	if got := hex.EncodeToString(sum[:]); got != s.SHA256 {
		t.Errorf("read %s, %s says %s", got, s.HashBy, s.SHA256)
	}
	_, other := loadFixture(t, "maps", strings.Replace(goodEntries, `{ key = 1, value = [7] }`, `{ key = 2, value = [7] }`, 1))
	for name, same := range map[string]bool{"table": false, "networks": true, "percpu": true, "rules": true} {
		if got := state(t, other, name).SHA256 == state(t, ms, name).SHA256; got != same {
			t.Errorf("%s: same hash is %v, want %v", name, got, same)
		}
	}
}

// What fails half-way leaves nothing behind (requireKernel looks).
func TestNothingIsLeftBehind(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "reject", "")
	p.spec.Programs["before"] = &ebpf.ProgramSpec{ // loaded first, and well
		Name: "before", Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}
	if _, _, err := tryLoad(p); err == nil {
		t.Error("a program the verifier rejects loads")
	}
	p = planFixture(t, "maps", goodEntries)
	p.spec.Maps["table"].ValueSize = 1 << 30 // no memory for it, after others exist
	p.spec.Maps["table"].MaxEntries = 1 << 30
	_, err := p.CreateMaps(nil)
	wantError(t, err, `map "table": create:`)
}

// The collection owns the maps when LoadPrograms succeeds, and only then.
func TestOwnership(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "plain", "")
	ms, err := p.CreateMaps(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ms.Freeze(); err != nil {
		t.Fatal(err)
	}
	coll, err := LoadPrograms(p, ms, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	ms.Close()
	if _, err := coll.Maps[".rodata"].LookupBytes(uint32(0)); err != nil {
		t.Errorf("after maps.Close: %v", err)
	}
	if run(t, coll.Programs["plain"]) != 2 {
		t.Error("the program does not run")
	}
}

// A program without relocations costs no decoding of the kernel's types, which
// takes megabytes.
func TestNoKernelTypesWithoutNeed(t *testing.T) {
	requireKernel(t)
	loadFixture(t, "tail", "[maps.jumps]\nclass = \"frozen\"\n") // the library's probes
	allocated := func(fn func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		fn()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	n := allocated(func() { loadFixture(t, "tail", "[maps.jumps]\nclass = \"frozen\"\n") })
	kernel := allocated(func() {
		if _, err := btf.NewCache().Kernel(); err != nil {
			t.Skipf("needs the kernel's type information: %v", err)
		}
	})
	if n > kernel/2 {
		t.Errorf("a load allocated %d bytes; decoding the kernel's types takes %d", n, kernel)
	}
}

// From a real signature to a program, once through the exported functions.
func TestOpenSpec(t *testing.T) {
	object := fixture(t, "plain")
	keyPEM, certPEM, err := signing.Keygen("tester", "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParseKey(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := signing.ParseCertificate(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signing.Sign(object, key, cert)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := signing.ParseTrust(map[string][]byte{"tester.pem": certPEM})
	if err != nil {
		t.Fatal(err)
	}
	v, err := trust.Verify(signing.Bundle{Object: object, Signature: signature}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	spec, err := OpenSpec(v)
	if err != nil || spec.Programs["plain"] == nil {
		t.Fatalf("OpenSpec = %v, %v", spec, err)
	}
}

// Pinning by name would adopt whatever lies at a path.
func TestPinningIsDropped(t *testing.T) {
	b, err := exec.Command("sh", "-c", "cat /usr/lib/*/bpf/xdpfilt_dny_ip.o").Output()
	if err != nil {
		t.Skip("needs Debian's xdp-tools: their object pins maps by name")
	}
	spec, err := parse(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if spec.Maps["filter_ipv4"].Pinning != ebpf.PinByName {
		t.Fatal("the object does not pin by name any more")
	}
	spec, err = openSpec(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range spec.Maps {
		if m.Pinning != ebpf.PinNone || m.InnerMap != nil && m.InnerMap.Pinning != ebpf.PinNone {
			t.Errorf("map %s is still pinned by name", name)
		}
	}
}
