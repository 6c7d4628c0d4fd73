package main

import (
	"strings"
	"testing"
	"time"
)

// line returns the row of the printed table that begins with what.
func line(t *testing.T, table, what string) string {
	t.Helper()
	for l := range strings.Lines(table) {
		if strings.HasPrefix(l, "| "+what+" ") {
			return l
		}
	}
	t.Fatalf("no row %q in\n%s", what, table)
	return ""
}

func TestVerdicts(t *testing.T) {
	one := func(v time.Duration) samples { return samples{v * time.Millisecond} }
	r := &result{
		at: []point{
			// 10 ms, of which 4 are fdatasync: 3 times the floor.
			{running: 1, floor: one(2), hornetd: one(10), bpftool: one(9), sync: one(2)},
			{running: 300, floor: one(4), hornetd: one(14), bpftool: one(15), sync: one(2)},
			{running: 1000, floor: one(5), hornetd: one(16), bpftool: one(20), sync: one(2)},
		},
		ready:   map[int]samples{0: one(100), 1000: one(101)},
		rssIdle: maxIdle + 1, rssLoaded: 1 << 20, rssAdopt: 1 << 20,
	}
	tab := &table{}
	tab.add("w", r)
	out := tab.String()
	for _, test := range []struct{ what, figure, verdict string }{
		{"w: load, 1 running", "3.00x floor", "MISS"},
		{"w: load, 300 running", "2.50x floor", "pass"},
		{"w: load, 1000 running", "2.40x floor", "pass"},
		{"w: bpftool / hornetd, 1 running", "0.9x", "MISS"},
		{"w: bpftool / hornetd, 300 running", "1.1x", "pass"},
		{"w: load, 1000 against 1 running", "1.60x", "MISS"},
		{"w: exec to READY, 0 running", "100.00 ms", "pass"},
		{"w: exec to READY, 1000 running", "101.00 ms", ""},
		{"w: RSS, idle", "25.0 MiB", "MISS"},
		{"w: RSS, 1000 loaded", "1024.0 MiB", ""},
	} {
		l := line(t, out, test.what)
		if !strings.Contains(l, " "+test.figure+" ") {
			t.Errorf("%s: figure %s is not in %q", test.what, test.figure, l)
		}
		got := strings.Trim(l[strings.LastIndex(strings.TrimSuffix(l, "|\n"), "|")+1:], " |\n")
		if got != test.verdict {
			t.Errorf("%s: verdict %q, want %q", test.what, got, test.verdict)
		}
	}
}

// TestVerifications: each is measured beside a floor that it cannot be below by
// much, and judged by its median.
func TestVerifications(t *testing.T) {
	all, err := verifications(20)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 7 {
		t.Fatalf("%d measured, want 7", len(all))
	}
	for _, v := range all {
		if len(v.floor) != 20 || len(v.verify) != 20 || v.verify.p50() < v.floor.p50()/2 {
			t.Errorf("%s: floor %s, verify %s", v.name, v.floor, v.verify)
		}
	}
	half := samples{500 * time.Microsecond}
	tab := &table{}
	tab.verifications([]verification{{"slow", true, samples{time.Millisecond}, half}, {"quick", true, half, half[:0]}, {"free", false, half, half}})
	for _, test := range []struct{ what, want string }{{"verify: slow", "0.50 ms, 0.50x floor"}, {"verify: slow", "MISS"}, {"verify: quick", "pass"}} {
		if l := line(t, tab.String(), test.what); !strings.Contains(l, test.want) {
			t.Errorf("%q does not say %q", l, test.want)
		}
	}
	if l := line(t, tab.String(), "verify: free"); strings.Contains(l, "pass") || strings.Contains(l, "MISS") {
		t.Errorf("judged: %q", l)
	}
}
