package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/testenv"
)

// TestTargetMoved: an interface that leaves the namespace that was shown takes no program
// of the caller's along, wherever it goes, and whether hornetd was there to see it or not.
func TestTargetMoved(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	name, peer := fmt.Sprintf("m%d", os.Getpid()), fmt.Sprintf("p%d", os.Getpid())
	var kinds []string
	for _, kind := range []string{"xdp", "tcx"} {
		h.Manifest(kind, shownBy("shown_"+kind, strings.Replace(shownKeys(kind), `"lo"`, strconv.Quote(name), 1)))
		kinds = append(kinds, kind)
	}
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	own := opened(t, "/proc/thread-self/ns/net")
	t.Cleanup(func() { exec.Command("ip", "link", "del", name).Run() }) // there is one if the test failed
	path := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
	for what, test := range map[string]struct {
		host    bool // to hornetd's own namespace, not a neighbour's
		taken   bool // its number is taken there, so that it gets another
		ends    bool // so does the namespace that was shown
		asleep  bool // hornetd does not run meanwhile
		another bool // gets its name and number in the namespace that was shown
	}{
		"to the host":                       {host: true},
		"to the host, for another":          {host: true, another: true},
		"to the host, as its own went":      {host: true, ends: true},
		"to a neighbour":                    {},
		"to a neighbour, unseen":            {asleep: true},
		"to a neighbour, as its own went":   {ends: true, asleep: true},
		"to a neighbour, with a new number": {taken: true, another: true},
		"to a neighbour, for another":       {another: true, asleep: true},
	} {
		for _, kind := range kinds {
			if kind == "tcx" && what == "to a neighbour, for another" {
				continue // docs/threat-model.md tells of it
			}
			cmd, ns := spaceOf(t, owner)
			there, theirs := spaceOf(t, neighbour)
			in := path(ns)
			number := strconv.Itoa(7_000_000 + os.Getpid()%1_000_000)
			testenv.IP(t, in, "link", "add", name, "index", number, "type", "veth", "peer", "name", peer)
			out := path(theirs)
			if test.host {
				out = path(own)
			}
			testenv.IP(t, in, "link", "set", peer, "netns", out) // or it ends with its namespace
			c := loadAt(t, h, owner, kind, ns)
			testenv.IP(t, in, "link", "set", name, "up")
			stays(t, h, c)
			if test.asleep {
				h.Kill()
				h.Start()
				stays(t, h, c)
				h.Kill()
			}
			if test.taken {
				testenv.IP(t, out, "link", "add", "taken", "index", number, "type", "veth", "peer", "name", "other")
			}
			testenv.IP(t, in, "link", "set", name, "netns", out)
			if test.another {
				testenv.IP(t, in, "link", "add", name, "index", number, "type", "veth", "peer", "name", "other")
			}
			ns.Close()
			if test.ends {
				end(cmd)
			}
			if got := testenv.IP(t, out, "-d", "link", "show", name); test.asleep && kind == "xdp" && !strings.Contains(got, "prog/xdp") {
				t.Errorf("%s: the program did not go with it: %s", what, got)
			}
			if test.asleep {
				h.Start()
			}
			t.Log(what)
			targetEnds(t, h, kind, "the caller's network namespace")
			testenv.IP(t, out, "link", "del", name)
			end(cmd)
			end(there)
		}
	}
}
