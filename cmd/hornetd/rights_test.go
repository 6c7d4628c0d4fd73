package main_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestRightsAreThoseLastRead: the rights over what runs are those of the manifest as it
// was last read. An edit is none until a reload; and from then on it counts, also where
// what it comes with does not run: of a signed manifest nothing does then.
func TestRightsAreThoseLastRead(t *testing.T) {
	testenv.NoLeaks(t)
	object := read(t, "testdata/maps.bpf.o")
	for _, signed := range []bool{false, true} {
		h, c := newMaps(t, `"status", "fd:counts"`)
		write := func(version int, may, more string) {
			text := strings.Replace(mapsManifest(may), "version = 1", fmt.Sprintf("version = %d", version), 1) + more
			if signed {
				text = strings.Replace(text, "[object]\n", fmt.Sprintf("name = \"maps\"\n[object]\nsha256 = \"%x\"\n", sha256.Sum256(object)), 1)
				h.Write("hornet.d/maps.toml.p7s", h.Sign([]byte(text)))
			}
			h.Manifest("maps", text)
		}
		reloads := func(wantError bool) {
			t.Helper()
			plan, err := reload(t, h)
			if err != nil || len(plan.Changes) != 1 || (plan.Changes[0].Error != nil) != wantError {
				t.Fatalf("signed %t: reload: %+v, %v", signed, plan, err)
			}
		}
		gets := func(when, path string, want api.Kind) {
			t.Helper()
			got := ask(t, dialAs(t, stranger, h.Socket), forDescriptor("maps/maps/"+path))
			if got.kind != want || (len(got.fds) == 1) != (want == "") {
				t.Errorf("signed %t, %s: %s: %+v, want %q", signed, when, path, got, want)
			}
		}
		const counts, events = "counts", "events?access=read-write"
		if signed {
			write(2, `"status", "fd:counts"`, "")
			reloads(false)
			c = get(t, h, "maps")
		}
		gets("loaded", counts, "")
		write(3, `"rw-fd:events"`, "")
		gets("edited", counts, "")
		gets("edited", events, api.KindDenied)
		h.Kill()
		h.Start() // reads it, as a reload does
		gets("started", counts, api.KindDenied)
		gets("started", events, "")

		c = get(t, h, "maps")
		write(4, `"fd:counts"`, "[[test]]\nprogram = \"emit\"\ndata = \""+strings.Repeat("00", 64)+"\"\nreturns = \"XDP_DROP\"\n")
		gets("edited again", events, "")
		reloads(true)
		if now := get(t, h, "maps"); now.Programs[0].ID != c.Programs[0].ID {
			t.Fatalf("signed %t: version 4 runs", signed)
		}
		gets("reloaded in vain", events, api.KindDenied)
		want := api.Kind("")
		if signed {
			want = api.KindDenied
		}
		gets("reloaded in vain", counts, want)
		write(5, `"fd:counts"`, "")
		reloads(false)
		gets("reloaded", counts, "")
		gets("reloaded", events, api.KindDenied)
	}
}
