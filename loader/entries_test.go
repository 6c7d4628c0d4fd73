package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/testenv"
)

// dump returns each entry as "key=value", in JSON.
func dump(t *testing.T, m *ebpf.Map, o Dump) []string {
	t.Helper()
	var all []string
	next, err := DumpEntries(m, o, func(e Entry) error {
		key, err := json.Marshal(e.Key)
		if err != nil {
			return err
		}
		value, err := json.Marshal(e.Value)
		all = append(all, string(key)+"="+string(value))
		return err
	})
	if err != nil || next != nil {
		t.Fatalf("dump: %v, cursor %x", err, next)
	}
	if !isArray(m.Type()) {
		slices.Sort(all)
	}
	return all
}

// A map that was opened from a pin, by a process that has not seen the object.
func TestDumpPinned(t *testing.T) {
	requireKernel(t)
	coll, _ := loadFixture(t, "maps", goodEntries)
	root := testenv.BPFFS(t)
	cpus := ebpf.MustPossibleCPU()
	for name, want := range map[string]string{
		"networks": `{"prefixlen":16,"addr":"0x0a010000"}=2 {"prefixlen":8,"addr":"0x0a000000"}=1`,
		"rules": `{"addr":167772161,"port":80,"pad":0}={"verdict":"ALLOW","label":""} ` +
			`{"addr":3221225985,"port":443,"pad":0}={"verdict":"DENY","label":"web"}`,
		"table":  `0="0x000000" 1="0x070000" 2="0x000000" 3="0x0a0b0c"`,
		"percpu": "0=[" + strings.TrimSuffix(strings.Repeat("40,", cpus), ",") + "]",
		"plain":  `"0x00000000"="0x0201"`,
	} {
		pin := filepath.Join(root, name)
		if err := coll.Maps[name].Pin(pin); err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		key, value, err := MapTypes(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(dump(t, m, Dump{Key: key, Value: value}), " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if err := coll.Maps[name].Unpin(); err != nil {
			t.Error(err)
		}
	}
}

func TestDumpSection(t *testing.T) {
	requireKernel(t)
	coll, _ := loadFixture(t, "vars", allVariables())
	m := coll.Maps[".rodata"]
	key, value, err := MapTypes(m)
	if err != nil {
		t.Fatal(err)
	}
	if key != nil {
		t.Errorf("a data section has a key of type %v", key)
	}
	got := dump(t, m, Dump{Key: key, Value: value})
	for _, says := range []string{`0={"`, `"v_u64":18446744073709551615`, `"v_text":"hornet"`, `"v_be16":443`, `"v_color":"BLUE"`,
		`"v_flags":{"low":5,"mid":1000,"high":524287}`, `"x":1,"y":-1,"tag":9`, `"anonymous":5`, `"hidden":3`} {
		if len(got) != 1 || !strings.Contains(got[0], says) {
			t.Errorf("dump does not say %s: %s", says, got)
		}
	}
}

func TestDumpHeldMapsAndPrograms(t *testing.T) {
	requireKernel(t)
	coll, ms := loadFixture(t, "inner", innerTOML)
	want := fmt.Sprintf("[0=%d 2=%d]", state(t, ms, "inner_a").ID, state(t, ms, "inner_b").ID)
	if got := fmt.Sprint(dump(t, coll.Maps["outer"], Dump{})); got != want {
		t.Errorf("outer: %s, want %s", got, want)
	}
	p := planFixture(t, "tail", "[maps.jumps]\nclass = \"mutable\"\n")
	coll, _ = loadPlan(t, p)
	states, err := p.ProgramStates(coll)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(dump(t, coll.Maps["jumps"], Dump{})); got != fmt.Sprintf("[0=%d]", states[1].ID) {
		t.Errorf("jumps: %s, programs %+v", got, states)
	}
}

// Pages put together are the whole, also where a map has empty slots, and the
// last page has no cursor.
func TestDumpInPages(t *testing.T) {
	requireKernel(t)
	hash, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer hash.Close()
	for i := range uint32(100) {
		if err := hash.Put(i, i); err != nil {
			t.Fatal(err)
		}
	}
	coll, _ := loadFixture(t, "inner", innerTOML)
	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	for _, m := range []*ebpf.Map{hash, array, coll.Maps["outer"]} {
		want := make(map[string]bool)
		for _, e := range dump(t, m, Dump{}) {
			want[e] = true
		}
		var after []byte
		pages := 0
		for {
			n := 0
			next, err := DumpEntries(m, Dump{After: after, Limit: 33}, func(e Entry) error {
				key, _ := json.Marshal(e.Key)
				value, _ := json.Marshal(e.Value)
				entry := string(key) + "=" + string(value)
				if !want[entry] {
					t.Errorf("%s: %s is new or was there before", m.Type(), entry)
				}
				delete(want, entry)
				n++
				return nil
			})
			if err != nil || n > 33 {
				t.Fatalf("page %d: %d entries, %v", pages, n, err)
			}
			if pages++; next == nil {
				break
			}
			after = next
		}
		if len(want) > 0 || pages > 5 {
			t.Errorf("%s: %d entries are missing from %d pages", m.Type(), len(want), pages)
		}
	}
}

func TestDumpRefuses(t *testing.T) {
	requireKernel(t)
	coll, _ := loadFixture(t, "maps", goodEntries)
	nothing := func(Entry) error { return nil }
	_, err := DumpEntries(coll.Maps["events"], Dump{}, nothing)
	wantError(t, err, "the entries of a RingBuf cannot be listed")
	if _, err := DumpEntries(coll.Maps["table"], Dump{After: []byte{1}}, nothing); err == nil {
		t.Error("a cursor of the wrong size is taken")
	}
	stop := errors.New("stop")
	if _, err := DumpEntries(coll.Maps["table"], Dump{}, func(Entry) error { return stop }); err != stop {
		t.Errorf("the error of the function is %v", err)
	}
}
