package manifest

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/remedy"
)

func TestHealth(t *testing.T) {
	n := func(n uint64) *uint64 { return &n }
	for text, want := range map[string]Health{
		"seconds = 10\nmap = 'hits'\nfield = 'packets'\ngrows = true":      {For: 10 * time.Second, Map: "hits", Field: "packets", Grows: true},
		"seconds = 1\nmap = 'hits'\nkey = '10.0.0.0/8'\nat_least = 0":      {For: time.Second, Map: "hits", Key: "10.0.0.0/8", AtLeast: n(0)},
		"seconds = 60\nvariable = 'errors'\nequals = 0":                    {For: time.Minute, Variable: "errors", Equals: n(0)},
		"seconds = 5\nprogram = 'f'\ndata = '00 01'\nreturns = 'XDP_PASS'": {For: 5 * time.Second, Run: &Test{Program: "f", Data: []byte{0, 1}, Returns: 2}},
	} {
		m, err := Parse("/etc/hornet.d/a.toml", []byte("[object]\npath = 'a.o'\n[health]\n"+text))
		if err != nil || !reflect.DeepEqual(*m.Health, want) {
			t.Errorf("%s: %+v, %v, want %+v", text, m.Health, err, want)
		}
	}
	for text, want := range map[string]string{
		"map = 'hits'\ngrows = true":                                 "health.seconds: is missing",
		"seconds = 0\nmap = 'hits'\ngrows = true":                    "health.seconds: is 0",
		"seconds = 61\nmap = 'hits'\ngrows = true":                   "health.seconds: is 61",
		"seconds = 18446744073709551615\nmap = 'hits'\ngrows = true": "health.seconds: ",
		"seconds = 5\ngrows = true":                                  "health: is about nothing",
		"seconds = 5\nmap = 'a'\nvariable = 'b'\ngrows = true":       "health: is about map and variable",
		"seconds = 5\nmap = 'a'":                                     "health: says nothing of the counter",
		"seconds = 5\nmap = 'a'\ngrows = true\nequals = 1":           "health: says grows and equals of the counter",
		"seconds = 5\nmap = 'a'\ngrows = false":                      "health.grows: is false",
		"seconds = 5\nmap = 'a'\nequals = 1\nreturns = 1":            "health.returns: is about a program",
		"seconds = 5\nvariable = 'a'\nequals = 1\nfield = 'x'":       "health.field: is not about a variable",
		"seconds = 5\nprogram = 'f'\nreturns = 1\nequals = 1":        "health.equals: is not about a program",
		"seconds = 5\nprogram = 'f'":                                 "health.returns: is missing",
		"seconds = 5\nmap = '../a'\ngrows = true":                    "health.map: ",
	} {
		_, err := Parse("/etc/hornet.d/a.toml", []byte("[object]\npath = 'a.o'\n[health]\n"+text))
		if err == nil || !strings.Contains(err.Error(), ": "+want) || remedy.Of(err) == "" {
			t.Errorf("%s: %v (%s), want %s", text, err, remedy.Of(err), want)
		}
	}
}

func TestTwoPriorities(t *testing.T) {
	attach := func(text string) (Manifest, error) {
		return Parse("/etc/hornet.d/a.toml", []byte("[object]\npath = 'a.o'\n[[attach]]\nprogram = 'f'\n"+text))
	}
	if m, err := attach("priorities = [-10, 11]"); err != nil || !reflect.DeepEqual(m.Attach[0].Priorities, []int32{-10, 11}) {
		t.Errorf("%+v, %v", m.Attach, err)
	}
	if m, err := attach("upgrade = 'gap'"); err != nil || m.Attach[0].Upgrade != UpgradeGap {
		t.Errorf("%+v, %v", m.Attach, err)
	}
	for text, want := range map[string]string{
		"priorities = [10]":                    "attach[0].priorities: are [10]",
		"priorities = []":                      "attach[0].priorities: are []",
		"priorities = [10, 10]":                "attach[0].priorities: are [10 10]",
		"priorities = [1, 2, 3]":               "attach[0].priorities: are [1 2 3]",
		"priorities = [1, 2]\npriority = 3":    "attach[0].priorities: stand beside priority",
		"priorities = [1, 2]\nupgrade = 'gap'": "attach[0].priorities: stand beside upgrade",
		"priorities = [1, 4294967296]":         "attach[0].priorities[1]: is 4294967296",
		"upgrade = 'restart'":                  "attach[0].upgrade: ",
	} {
		if _, err := attach(text); err == nil || !strings.Contains(err.Error(), ": "+want) || remedy.Of(err) == "" {
			t.Errorf("%s: %v (%s), want %s", text, err, remedy.Of(err), want)
		}
	}
}
