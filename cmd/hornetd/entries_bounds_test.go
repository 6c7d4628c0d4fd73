package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// newWide is a daemon that runs testdata/wide.bpf.o as "maps".
func newWide(t *testing.T, may string) *testdaemon.Host {
	t.Helper()
	h := testdaemon.New(t, "")
	h.Object("maps.bpf.o", read(t, "testdata/wide.bpf.o"))
	h.Manifest("maps", fmt.Sprintf("start = \"request\"\nversion = 1\n[object]\npath = \"maps.bpf.o\"\n[maps.\"*\"]\nclass = \"mutable\"\n"+
		"[[allow]]\nuser = \"%d\"\nmay = [%s]\n", stranger, may))
	h.Start()
	load(t, h, "maps")
	return h
}

// peak is the most memory that a process has had, in bytes.
func peak(t *testing.T, pid int) (n int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, hwm, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(hwm, &n); err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// TestLargeEntries: neither a short request that stands for much, nor a page whose
// text is long, takes the daemon's memory.
func TestLargeEntries(t *testing.T) {
	testenv.NoLeaks(t)
	h := newWide(t, `"status", "write:values", "write:keys", "read:values"`)
	before := peak(t, h.PID())
	list := func(n int, format string) string {
		var all []string
		for i := range n {
			all = append(all, strings.ReplaceAll(format, "N", fmt.Sprint(i)))
		}
		return strings.Join(all, ",")
	}
	for what, got := range map[string]curled{
		"values":    put(t, h, stranger, "values", list(2500, `{"key":N,"value":{}}`)),
		"with if":   put(t, h, stranger, "values", list(3, `{"key":N,"value":{},"if":{}}`)),
		"keys":      put(t, h, stranger, "keys", list(2500, `{"key":{},"value":N}`)),
		"deletions": curl(t, h, stranger, "DELETE", "/v1/collections/maps/maps/keys/entries", "-d", `{"keys":[`+list(20000, "{}")+`]}`),
	} {
		if e := got.refusal(t, api.KindLimit); !strings.Contains(e.Message, "one request takes") || e.Hint == "" {
			t.Errorf("%s: %+v", what, e)
		}
	}
	for mapName, entries := range map[string]string{
		"values": list(4, `{"key":N,"value":{}}`),
		"keys":   list(8, `{"key":{"text":"N"},"value":N}`),
	} {
		put(t, h, stranger, mapName, entries).decode(t, new(api.Changed))
	}
	put(t, h, stranger, "values", `{"key":1,"value":{},"if":{}}`).decode(t, new(api.Changed))

	page := curl(t, h, stranger, "GET", "/v1/collections/maps/maps/values/entries")
	var e api.Entries
	page.decode(t, &e)
	var text string
	if len(e.Entries) == 0 || e.Next == "" {
		t.Fatalf("%d entries, next %q", len(e.Entries), e.Next)
	}
	if err := json.Unmarshal(e.Entries[0].Value, &text); err != nil || text != "0x"+strings.Repeat("00", 240000) {
		t.Errorf("a value that would have 30 MB of text: %.80s, %v", e.Entries[0].Value, err)
	}
	if after := peak(t, h.PID()); after > before+64<<20 {
		t.Errorf("the daemon came to have %d MiB, had %d", after>>20, before>>20)
	}

	// Shorter ones share out what a page has room for.
	const many = 4000
	for i := 0; i < many; i += 500 {
		var all []string
		for key := i; key < i+500; key++ {
			all = append(all, fmt.Sprintf(`{"key":%d,"value":{}}`, key))
		}
		put(t, h, 0, "names", strings.Join(all, ",")).decode(t, new(api.Changed))
	}
	seen := make(map[string]bool)
	for next, pages := "", 0; ; pages++ {
		page := curl(t, h, 0, "GET", "/v1/collections/maps/maps/names/entries?limit=10000&after="+next)
		var e api.Entries
		page.decode(t, &e)
		for _, e := range e.Entries {
			seen[string(e.Key)] = true
			if !strings.HasPrefix(string(e.Value), `{"a_field_with`) {
				t.Fatalf("a value is shown as %.80s", e.Value)
			}
		}
		if len(page.body) > 4<<20 || pages > many {
			t.Fatalf("a page has %d bytes", len(page.body))
		}
		if next = e.Next; next == "" {
			break
		}
	}
	if len(seen) != many {
		t.Errorf("%d entries were seen", len(seen))
	}
}
