package loader

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

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
		"networks": `"10.0.0.0/8"=1 "10.1.0.0/16"=2`,
		"rules": `{"addr":"10.0.0.1","port":80,"pad":0}={"verdict":"ALLOW","label":""} ` +
			`{"addr":"192.0.2.1","port":443,"pad":0}={"verdict":"DENY","label":"web"}`,
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

// However a map changes between the pages, what is there all the time is in
// exactly one of them. The key that a page ended with is deleted every other
// time: the kernel's own iteration would begin again there.
func TestDumpWhileEntriesGo(t *testing.T) {
	requireKernel(t)
	for _, spec := range []*ebpf.MapSpec{
		{Type: ebpf.Hash, KeySize: 8, ValueSize: 4, MaxEntries: 6000},
		{Type: ebpf.LRUHash, KeySize: 8, ValueSize: 4, MaxEntries: 60000},
		{Type: ebpf.PerCPUHash, KeySize: 8, ValueSize: 8, MaxEntries: 6000},
		{Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 6000, Flags: unix.BPF_F_NO_PREALLOC},
	} {
		t.Run(spec.Type.String(), func(t *testing.T) {
			m, err := ebpf.NewMap(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			codec, err := NewCodec(m)
			if err != nil {
				t.Fatal(err)
			}
			key := func(i uint32) []byte {
				b := binary.NativeEndian.AppendUint32(nil, 32)
				return binary.BigEndian.AppendUint32(b, i)
			}
			put := func(i uint32) {
				t.Helper()
				value, err := codec.Value("0x" + strings.Repeat("00", int(spec.ValueSize)))
				if err == nil {
					err = codec.Update(key(i), value, ebpf.UpdateAny)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for i := range uint32(3000) {
				put(i * 7919)
			}
			seen := make(map[string]int)
			deleted := make(map[string]bool)
			o := codec.Dump()
			o.Limit = 100
			for pages := 0; ; pages++ {
				var last []byte
				n := 0
				o.After, err = DumpEntries(m, o, func(e Entry) error {
					n++
					text := fmt.Sprint(e.Key)
					seen[text]++
					if last, err = codec.Key(e.Key); err != nil {
						t.Fatal(err)
					}
					return nil
				})
				if err != nil || n < 1 || n > 120 || pages > 80 {
					t.Fatalf("page %d of %d: %v", pages, n, err)
				}
				if o.After == nil {
					break
				}
				if pages%2 == 1 {
					if err := m.Delete(last); err != nil {
						t.Fatal(err)
					}
				}
				gone := key(uint32(2999-pages*30) * 7919)
				if m.Delete(gone) == nil {
					shown, _ := codec.Show(gone, make([]byte, lookupSize(m)), false)
					deleted[fmt.Sprint(shown.Key)] = true
				}
				put(uint32(pages)*7919 + 1)
			}
			for i := range uint32(3000) {
				shown, err := codec.Show(key(i*7919), make([]byte, lookupSize(m)), false)
				if err != nil {
					t.Fatal(err)
				}
				if n := seen[fmt.Sprint(shown.Key)]; n != 1 && !(n == 0 && deleted[fmt.Sprint(shown.Key)]) {
					t.Errorf("%v was seen %d times", shown.Key, n)
				}
			}
		})
	}
}

func TestSum(t *testing.T) {
	for _, c := range []struct {
		values []any
		want   string // JSON
	}{
		{[]any{uint64(math.MaxUint64), uint64(1)}, "18446744073709551616"},
		{[]any{int64(-5), int64(3)}, "-2"},
		{[]any{Object{{"a", uint64(1)}, {"b", []any{uint64(2)}}}, Object{{"a", uint64(3)}, {"b", []any{uint64(4)}}}}, `{"a":4,"b":[6]}`},
		{[]any{Object{{"a", "10.0.0.1"}}, Object{{"a", "10.0.0.1"}}}, `field "a": "10.0.0.1" is not an integer`},
		{[]any{true, false}, "true is not an integer"},
		{[]any{[]any{1.5}, []any{1.5}}, "element 0: 1.5 is not an integer"},
		{nil, "there are no values"},
	} {
		got, err := sum(c.values)
		if err != nil {
			if err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
		} else if text, err := json.Marshal(got); err != nil || string(text) != c.want {
			t.Errorf("%v: %s, %v, want %s", c.values, text, err, c.want)
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

// Where a program array is all but empty, a page ends with its time and not with
// the array, and the next goes on behind it.
func TestDumpEmptySlots(t *testing.T) {
	requireKernel(t)
	const slots = 100_000
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: slots})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	o := Dump{Limit: 10, Until: time.Now()}
	pages := 0
	for ; pages <= slots; pages++ {
		if o.After, err = DumpEntries(m, o, func(Entry) error { return errors.New("there is none") }); err != nil {
			t.Fatal(err)
		}
		if o.After == nil {
			break
		}
		if last, want := binary.NativeEndian.Uint32(o.After), uint32(pages+1)*1023-1; last != want {
			t.Fatalf("page %d ends at %d, want %d", pages, last, want)
		}
	}
	if pages != slots/1023 {
		t.Errorf("%d pages", pages)
	}
	o.Until = time.Time{}
	if after, err := DumpEntries(m, o, nil); after != nil || err != nil {
		t.Errorf("without an end: %x, %v", after, err)
	}
}
