package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// idOf is the id of a map of maps.bpf.c.
func idOf(t *testing.T, c api.Collection, name string) ebpf.MapID {
	t.Helper()
	for _, m := range c.Maps {
		if m.Name == name {
			return ebpf.MapID(m.ID)
		}
	}
	t.Fatalf("no map %s", name)
	return 0
}

// put writes one entry as a user and returns what curl saw.
func put(t *testing.T, h *testdaemon.Host, uid uint32, mapName, entries string) curled {
	t.Helper()
	return curl(t, h, uid, "PUT", "/v1/collections/maps/maps/"+mapName+"/entries", "-d", `{"entries":[`+entries+`]}`)
}

// at reads one entry.
func at(t *testing.T, h *testdaemon.Host, mapName, key string) string {
	t.Helper()
	e, err := h.Client().Entry(t.Context(), "maps", mapName, json.RawMessage(key), "")
	if err != nil {
		t.Fatalf("%s at %s: %v", mapName, key, err)
	}
	return string(e.Value)
}

const oneHost = `{"v6":"2001:db8::1","mac":"02:00:00:00:00:01","up":true,"name":"gate","verdict":"LOG","offset":-5,` +
	`"low":5,"mid":600,"high":70000,"word":"0x01020304","seen":[{"packets":1,"bytes":18446744073709551615},{"packets":0,"bytes":2}]}`

// bpftoolDump is what bpftool says a map holds, by its own reading of the BTF.
func bpftoolDump(t *testing.T, id ebpf.MapID) []map[string]any {
	t.Helper()
	out, err := exec.Command("bpftool", "-j", "map", "dump", "id", strconv.Itoa(int(id))).Output()
	var all []struct{ Formatted map[string]any }
	if err == nil {
		err = json.Unmarshal(out, &all)
	}
	if err != nil {
		t.Fatalf("bpftool: %v: %s", err, out)
	}
	var formatted []map[string]any
	for _, e := range all {
		formatted = append(formatted, e.Formatted)
	}
	return formatted
}

// A ring buffer has no entries, which is said.
func TestEntriesOfARingBuffer(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"status"`)
	_, err := h.Client().Entries(t.Context(), "maps", "events", api.EntriesOptions{})
	var e *api.Error
	if !errors.As(err, &e) || e.Hint == "" || !strings.Contains(e.Message, "of a RingBuf") {
		t.Errorf("%v, want a refusal that names the type and a remedy", err)
	}
}

// TestEntriesAgainstBpftool: what is written here is what bpftool reads, field
// by field, and what is read here is what was written.
func TestEntriesAgainstBpftool(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"status"`)
	var changed api.Changed
	put(t, h, 0, "hosts", `{"key":{"addr":"192.0.2.1","port":443,"zone":7},"value":`+oneHost+`}`).decode(t, &changed)
	if changed.Entries != 1 {
		t.Errorf("changed %+v", changed)
	}
	if got := at(t, h, "hosts", `{"addr":"192.0.2.1","port":443,"zone":7}`); got != oneHost {
		t.Errorf("read back:\n%s, want\n%s", got, oneHost)
	}
	want := []map[string]any{{
		"key": map[string]any{"addr": 16908480., "port": 47873., "zone": 7.}, // as a little-endian machine has them
		"value": map[string]any{
			"v6":   map[string]any{"in6_u": map[string]any{"u6_addr8": []any{32., 1., 13., 184., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 1.}, "u6_addr32": []any{3087860000., 0., 0., 16777216.}}},
			"mac":  []any{2., 0., 0., 0., 0., 1.},
			"up":   true,
			"name": "gate", "verdict": "LOG", "offset": -5., "low": 5., "mid": 600., "high": 70000.,
			"word": map[string]any{"whole": 67305985., "parts": []any{1., 2., 3., 4.}},
			"seen": []any{map[string]any{"packets": 1., "bytes": 18446744073709551615.}, map[string]any{"packets": 0., "bytes": 2.}},
		},
	}}
	got := bpftoolDump(t, idOf(t, c, "hosts"))
	if len(got) == 1 {
		value, _ := got[0]["value"].(map[string]any)
		for name, shown := range value { // versions of bpftool differ in how they show these
			switch name {
			case "low", "mid", "high":
				if hex, ok := shown.(string); ok {
					n, err := strconv.ParseUint(hex, 0, 32)
					if err != nil {
						t.Error(err)
					}
					value[name] = float64(n)
				}
			case "name":
				if list, ok := shown.([]any); ok {
					text := ""
					for _, c := range list {
						text += fmt.Sprint(c)
					}
					value[name] = "gate"
					if !strings.HasPrefix(text, "gate") {
						t.Errorf("bpftool shows the name %v", shown)
					}
				}
			case "up":
				value[name] = shown == true || shown == 1. || shown == "true"
			case "verdict":
				if shown == 300. {
					value[name] = "LOG"
				}
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("bpftool reads\n%v, want\n%v", got, want)
	}
	// Properties, over entries made up at random: bpftool reads the numbers that
	// were written.
	rnd := rand.New(rand.NewPCG(6, 7))
	written := map[uint32]uint64{}
	var entries []string
	for range 500 {
		key, value := rnd.Uint32(), rnd.Uint64()
		if _, twice := written[key]; !twice {
			written[key] = value
			entries = append(entries, fmt.Sprintf(`{"key":%d,"value":%d}`, key, value))
		}
	}
	put(t, h, 0, "counts", strings.Join(entries, ",")).decode(t, &changed)
	for _, e := range bpftoolDump(t, idOf(t, c, "counts")) {
		key, value := uint32(e["key"].(float64)), e["value"].(float64)
		if float64(written[key]) != value {
			t.Errorf("bpftool reads %v at %d, written %d", value, key, written[key])
		}
		delete(written, key)
	}
	if len(written) > 0 || changed.Entries != len(entries) {
		t.Errorf("bpftool does not see %v; changed %+v", written, changed)
	}
}

func TestWrite(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"status", "write:counts", "read:counts", "write:config", "write:networks"`)
	for _, test := range []struct {
		uid           uint32
		name, entries string
		kind          api.Kind // "" where it is written
		says          string
	}{
		{stranger, "counts", `{"key":1,"value":10}`, "", ""},
		{stranger, "counts", `{"key":1,"value":11,"flags":"exist"}`, "", ""},
		{stranger, "counts", `{"key":1,"value":12,"flags":"noexist"}`, api.KindConflict, "there already"},
		{stranger, "counts", `{"key":2,"value":12,"flags":"exist"}`, api.KindConflict, "not there"},
		{stranger, "counts", `{"key":2,"value":12,"flags":"noexist"}`, "", ""},
		{stranger, "counts", `{"key":2,"value":13,"if":12}`, "", ""},
		{stranger, "counts", `{"key":2,"value":14,"if":12}`, api.KindConflict, "not what if says"},
		{stranger, "counts", `{"key":3,"value":14,"if":0}`, api.KindConflict, "no entry"},
		{stranger, "counts", `{"key":4,"value":1},{"key":2,"value":15,"if":12}`, api.KindConflict, "entries[1]"},
		{stranger, "counts", `{"key":4,"value":1},{"key":4,"value":2}`, api.KindBadRequest, "twice"},
		{stranger, "counts", `{"key":4,"value":"many"}`, api.KindBadRequest, "is not an integer"},
		{stranger, "counts", `{"key":-1,"value":1}`, api.KindBadRequest, "does not fit"},
		{stranger, "counts", `{"key":4,"value":1.5}`, api.KindBadRequest, "is not an integer"},
		{stranger, "counts", `{"key":4,"value":1,"flags":"lock"}`, api.KindBadRequest, "want any"},
		{stranger, "counts", `{"key":4,"value":1,"If":1}`, api.KindBadRequest, "unknown key"},
		{stranger, "counts", `{"key":4,"value":null}`, api.KindBadRequest, "null"},
		{stranger, "counts", `{"key":4}`, api.KindBadRequest, "missing"},
		{stranger, "hosts", `{"key":4,"value":1}`, api.KindDenied, "may not write:hosts"},
		{stranger, "config", `{"key":1,"value":1}`, api.KindConflict, "frozen"},
		{stranger + 1, "counts", `{"key":4,"value":1}`, api.KindDenied, "may not"},
		{0, "jumps", `{"key":0,"value":3}`, api.KindDenied, "decides what runs"},
		{0, "samples", `{"key":0,"value":3}`, api.KindDenied, "descriptors"},
		{0, "events", `{"key":0,"value":3}`, api.KindDenied, "descriptors"},
		{0, "none", `{"key":0,"value":3}`, api.KindNotFound, "not there"},
		{stranger, "networks", `{"key":"10.0.0.0/8","value":"DENY"},{"key":"10.1.0.0/16","value":2}`, "", ""},
		{stranger, "networks", `{"key":"10.2.0.0/16","value":"ALLOW","if":"DENY"}`, api.KindConflict, "no entry"}, // though 10.0.0.0/8 holds it
		{stranger, "networks", `{"key":"10.1.0.0/16","value":"ALLOW","if":"DENY"}`, "", ""},
		{stranger, "networks", `{"key":"10.1.0.0/8","value":"ALLOW"}`, api.KindBadRequest, "did you mean"},
		{stranger, "networks", `{"key":"10.1.0.0/16","value":"MAYBE"}`, api.KindBadRequest, "is not a value of"},
	} {
		got := put(t, h, test.uid, test.name, test.entries)
		if test.kind == "" {
			var changed api.Changed
			got.decode(t, &changed)
			if got.status != 200 || changed.Entries == 0 {
				t.Errorf("%s: %+v", test.entries, got)
			}
			continue
		}
		if e := got.refusal(t, test.kind); !strings.Contains(e.Message, test.says) || e.Hint == "" && test.kind != api.KindNotFound && !strings.Contains("unknown key, missing, null", test.says) && test.says != "twice" && test.says != "want any" {
			t.Errorf("%s: %+v", test.entries, e)
		}
	}
	m, err := ebpf.NewMapFromID(idOf(t, c, "counts"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	all := map[uint32]uint64{}
	var key uint32
	var value uint64
	for it := m.Iterate(); it.Next(&key, &value); {
		all[key] = value
	}
	if !reflect.DeepEqual(all, map[uint32]uint64{1: 11, 2: 13}) {
		t.Errorf("the kernel has %v", all)
	}
	if got := at(t, h, "networks", `"10.1.2.3"`); got != `"ALLOW"` {
		t.Errorf("the longest prefix gives %s", got)
	}
	for keys, want := range map[string]int{`1,7`: 1, `2,2`: 1, ``: 0} {
		var changed api.Changed
		curl(t, h, stranger, "DELETE", "/v1/collections/maps/maps/counts/entries", "-d", `{"keys":[`+keys+`]}`).decode(t, &changed)
		if changed.Entries != want {
			t.Errorf("keys %s: %d were deleted", keys, changed.Entries)
		}
	}
	curl(t, h, 0, "DELETE", "/v1/collections/maps/maps/.bss/entries", "-d", `{"keys":[0]}`).refusal(t, api.KindBadRequest)
	curl(t, h, stranger, "DELETE", "/v1/collections/maps/maps/hosts/entries", "-d", `{"keys":[0]}`).refusal(t, api.KindDenied)
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/counts/entries?key=1").refusal(t, api.KindNotFound)
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/counts/entries?key=x").refusal(t, api.KindBadRequest)
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/counts/entries?after=00").refusal(t, api.KindBadRequest)
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/counts/entries?percpu=each").refusal(t, api.KindBadRequest)

	// The map is full.
	var entries []string
	for i := range 64 {
		entries = append(entries, fmt.Sprintf(`{"key":%d,"value":{"version":%d}}`, i, i))
	}
	put(t, h, 0, "accounts", strings.Join(entries, ",")+`,{"key":99,"value":{}}`).refusal(t, api.KindLimit)
	if got := at(t, h, "accounts", "63"); got != `{"lock":{"val":0},"version":63,"balance":0}` {
		t.Errorf("a value with a lock: %s", got)
	}
}

// TestPerCPU: as a list, as a sum, and written either way.
func TestPerCPU(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"status"`)
	cpus := ebpf.MustPossibleCPU()
	one := `{"packets":3,"bytes":18446744073709551615}`
	list := "[" + strings.Join(slices.Repeat([]string{one}, cpus), ",") + "]"
	for _, value := range []string{one, list} {
		put(t, h, 0, "percpu", `{"key":5,"value":`+value+`}`).decode(t, new(api.Changed))
		if got := at(t, h, "percpu", "5"); got != list {
			t.Errorf("%s: %s", value, got)
		}
		e, err := h.Client().Entry(t.Context(), "maps", "percpu", json.RawMessage("5"), api.PerCPUSum)
		if err != nil || cpus == 2 && string(e.Value) != `{"packets":6,"bytes":36893488147419103230}` {
			t.Errorf("sum %s, %v", e.Value, err)
		}
	}
	put(t, h, 0, "percpu", `{"key":5,"value":[`+strings.Repeat(one+",", cpus)+one+`]}`).refusal(t, api.KindBadRequest)
}

// TestCompareAndWrite: writers that each add one by comparing lose nothing.
func TestCompareAndWrite(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"status"`)
	put(t, h, 0, "counts", `{"key":1,"value":0}`)
	const writers, each = 4, 25
	var wait sync.WaitGroup
	var lost atomic.Int64
	for range writers {
		wait.Go(func() {
			client := h.Client()
			defer client.Close()
			for done := 0; done < each; {
				e, err := client.Entry(t.Context(), "maps", "counts", json.RawMessage("1"), "")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(e.Value))
				_, err = client.Write(t.Context(), "maps", "counts", api.WriteRequest{Entries: []api.WriteEntry{
					{Key: e.Key, Value: json.RawMessage(strconv.Itoa(n + 1)), If: e.Value}}})
				var refused *api.Error
				switch {
				case err == nil:
					done++
				case errors.As(err, &refused) && refused.Kind == api.KindConflict:
					lost.Add(1)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	if got := at(t, h, "counts", "1"); got != strconv.Itoa(writers*each) {
		t.Errorf("%s, want %d", got, writers*each)
	}
	t.Logf("%d were told to read again", lost.Load())
}

// TestWritesAreRecorded: an intent before the first, its outcome, and of what
// follows within the minute one record with the number.
func TestWritesAreRecorded(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := newMaps(t, `"write:counts"`)
	for i := range 10 {
		put(t, h, stranger, "counts", fmt.Sprintf(`{"key":%d,"value":1},{"key":%d,"value":1}`, i, i+100)).decode(t, new(api.Changed))
	}
	put(t, h, stranger, "config", `{"key":0,"value":1}`).refusal(t, api.KindDenied)
	h.Stop()
	var told []string
	for _, r := range recordsOf(t, h, "write") {
		told = append(told, string(r.Phase))
		if r.Caller.UID != stranger || r.Collection != "maps" {
			t.Errorf("%+v", r)
		}
	}
	if want := []string{"intent", "outcome", "refusal", "outcome"}; !slices.Equal(told, want) {
		t.Errorf("records %v, want %v", told, want)
	}
}

// TestRandomEntriesAgainstBpftool: bytes made up at random are the same numbers
// to bpftool and to us.
func TestRandomEntriesAgainstBpftool(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := newMaps(t, `"status"`)
	m, err := ebpf.NewMapFromID(idOf(t, c, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	rnd := rand.NewChaCha8([32]byte{6})
	for range m.MaxEntries() {
		key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
		rnd.Read(key)
		rnd.Read(value)
		if err := m.Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	type host struct {
		Offset         int32
		Low, Mid, High any
		Seen           []struct{ Packets, Bytes json.Number }
	}
	number := func(v any) string { // bpftool has bit fields in hex
		n, err := strconv.ParseUint(fmt.Sprint(v), 0, 32)
		if err != nil {
			t.Error(err)
		}
		return fmt.Sprint(n)
	}
	type key struct {
		Port, Zone uint16
	}
	ours := map[key]host{}
	for page, err := range h.Client().Pages(t.Context(), "maps", "hosts", "") {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			var k key
			var v host
			if err := errors.Join(json.Unmarshal(e.Key, &k), json.Unmarshal(e.Value, &v)); err != nil {
				t.Fatal(err)
			}
			ours[k] = v
		}
	}
	out, err := exec.Command("bpftool", "-j", "map", "dump", "id", strconv.Itoa(int(idOf(t, c, "hosts")))).Output()
	var theirs []struct {
		Formatted struct {
			Key   key
			Value host
		}
	}
	if err == nil {
		err = json.Unmarshal(out, &theirs)
	}
	if err != nil || len(theirs) != int(m.MaxEntries()) {
		t.Fatalf("bpftool: %d entries, %v", len(theirs), err)
	}
	for _, e := range theirs {
		k, v := e.Formatted.Key, e.Formatted.Value
		k.Port = k.Port<<8 | k.Port>>8 // bpftool does not know that it is in network order
		got, ok := ours[k]
		if !ok || got.Offset != v.Offset || !reflect.DeepEqual(got.Seen, v.Seen) || number(got.Low) != number(v.Low) ||
			number(got.Mid) != number(v.Mid) || number(got.High) != number(v.High) {
			t.Errorf("%+v: %+v, bpftool reads %+v", k, got, v)
		}
	}
}
