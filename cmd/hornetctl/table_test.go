package main

import (
	"encoding/json"
	"testing"
	"time"
)

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1 << 20: "1 MiB", 64 << 20: "64 MiB",
		1<<20 - 1: "1024 KiB", 1000 << 20: "1000 MiB", 1<<64 - 1: "16 EiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC)
	c := &ctl{env: env{now: func() time.Time { return now }}}
	for d, want := range map[time.Duration]string{
		0: "0 seconds ago", time.Second: "1 second ago", 59 * time.Second: "59 seconds ago", time.Minute: "1 minute ago",
		59*time.Minute + 59*time.Second: "59 minutes ago", time.Hour: "1 hour ago", 47 * time.Hour: "47 hours ago",
		48 * time.Hour: "2 days ago", 1000 * 24 * time.Hour: "1000 days ago", -time.Second: "in the future",
	} {
		if got := c.age(now.Add(-d)); got != want {
			t.Errorf("age of %v is %q, want %q", d, got, want)
		}
	}
	if got := c.age(time.Time{}); got != "" {
		t.Errorf("age of nothing is %q", got)
	}
}

func TestSum(t *testing.T) {
	for value, want := range map[string]string{
		`[]`: "-", `[1]`: "1", `[1,2,3]`: "6", `[-1,1]`: "0", `[18446744073709551615,18446744073709551615]`: "36893488147419103230",
		`5`: "-", `["a"]`: "-", `[1,"a"]`: "-", `[1.5,2]`: "-", `[true,false]`: "-", `null`: "-", ``: "-", `[1,`: "-",
		`[{"a":1,"b":{"c":2}},{"a":10,"b":{"c":20}}]`: "{a=11 b={c=22}}", `[{"a":1},{"a":"x"}]`: "{a=-}", `[{"a":1},2]`: "-", `[{},{}]`: "{}",
	} {
		if got := sum(json.RawMessage(value)); got != want {
			t.Errorf("sum(%s) = %q, want %q", value, got, want)
		}
	}
}

func TestPlainText(t *testing.T) {
	for value, want := range map[string]string{
		`"text"`: "text", `12`: "12", `18446744073709551615`: "18446744073709551615", `true`: "true", `null`: "-",
		`[1,[2],{}]`: "[1 [2] {}]", `{"a":1,"b":{"c":"d"}}`: "{a=1 b={c=d}}", `{"a"`: `{"a"`, ``: "",
	} {
		if got := plainText(json.RawMessage(value)); got != want {
			t.Errorf("plainText(%s) = %q, want %q", value, got, want)
		}
	}
}
