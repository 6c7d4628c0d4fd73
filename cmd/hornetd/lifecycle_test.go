package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

func TestMain(m *testing.M) { testdaemon.Main(m) }

// example reads an object of the examples.
func example(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../examples", path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// xdpDrop is a manifest that drops what the A end of the pair sends.
func xdpDrop(pair testenv.Pair) string {
	return fmt.Sprintf(`
description = "Drop the other end"
version = 1
start = "request"
[object]
path = "xdp_drop.bpf.o"
signers = ["dev"]
[maps.blocked]
class = "frozen"
entries = [ { key = "%s/32", value = 7 } ]
[maps.hits]
class = "mutable"
[[attach]]
program = "xdp_drop"
interface = "%s"
netns = "%s"
mode = "generic"
`, pair.A.Addr, pair.B.Name, pair.B.Netns)
}

// kernelLinks returns the ids of the links in the kernel that run a program
// of c: the kernel's word, not the daemon's.
func kernelLinks(t testing.TB, c api.Collection) map[uint32]bool {
	t.Helper()
	programs := make(map[uint32]bool)
	for _, p := range c.Programs {
		programs[p.ID] = true
	}
	found := make(map[uint32]bool)
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			continue
		}
		if programs[uint32(info.Program)] {
			found[uint32(info.ID)] = true
		}
	}
	err := it.Err()
	if errors.Is(err, unix.EAGAIN) {
		return kernelLinks(t, c) // somebody's new link has an id and nothing else yet
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func load(t testing.TB, h *testdaemon.Host, name string) api.Collection {
	t.Helper()
	c, err := h.Client().Load(context.Background(), name)
	if err != nil {
		t.Fatalf("load %s: %v", name, err)
	}
	return c
}

func get(t testing.TB, h *testdaemon.Host, name string) api.Collection {
	t.Helper()
	c, err := h.Client().Get(context.Background(), name)
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	return c
}

// hits returns the packets that rule 7 dropped.
func hits(t testing.TB, h *testdaemon.Host) string {
	t.Helper()
	e, err := h.Client().Entries(context.Background(), "xdp-drop", "hits", api.EntriesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Entries) == 0 {
		return "none"
	}
	return string(e.Entries[0].Value)
}

func TestLoadDropsPacketsAndSurvivesTheDaemon(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", xdpDrop(pair))
	h.Start()

	if got := pair.Ping(t, 1); got != 1 {
		t.Fatalf("before the load %d of 1 pings came back", got)
	}
	c := load(t, h, "xdp-drop")
	if got := pair.Ping(t, 2); got != 0 {
		t.Errorf("%d of 2 pings came back through xdp-drop", got)
	}
	before := kernelLinks(t, c)
	if len(before) != 1 || !before[c.Links[0].ID] {
		t.Fatalf("kernel has links %v, the daemon says %+v", before, c.Links)
	}
	if got := hits(t, h); got != `{"packets":2,"bytes":196}` {
		t.Errorf("hits = %s after 2 pings", got)
	}

	h.Kill()
	if got := pair.Ping(t, 3); got != 0 {
		t.Errorf("%d of 3 pings came back while the daemon was dead", got)
	}
	h.Start()
	adopted := get(t, h, "xdp-drop")
	if !adopted.Adopted || adopted.State != api.StateRunning {
		t.Errorf("after the restart: %+v", adopted)
	}
	if got := kernelLinks(t, adopted); len(got) != 1 || !got[c.Links[0].ID] {
		t.Errorf("links after the restart: %v, before %v", got, before)
	}
	if adopted.Programs[0].ID != c.Programs[0].ID {
		t.Errorf("program %d was loaded again as %d", c.Programs[0].ID, adopted.Programs[0].ID)
	}
	if got := hits(t, h); got != `{"packets":5,"bytes":490}` {
		t.Errorf("hits = %s after 5 pings, 3 of them without a daemon", got)
	}

	h.Stop()
	if got := kernelLinks(t, c); len(got) != 1 {
		t.Errorf("a clean stop took the link away: %v", got)
	}
	h.Start()
	if _, err := h.Client().Unload(context.Background(), "xdp-drop", api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := pair.Ping(t, 1); got != 1 {
		t.Errorf("%d of 1 pings came back after the unload", got)
	}
	if left := onBPFFS(t, h); len(left) != 0 {
		t.Errorf("on bpffs after the unload: %v", left)
	}
}
