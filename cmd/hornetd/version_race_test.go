package main_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestReplacedMeanwhile: while a replacement is in force of which the daemon does
// not know yet, nobody gets its maps by the rights of the version before.
func TestReplacedMeanwhile(t *testing.T) {
	testenv.NoLeaks(t)
	h, old := newMaps(t, `"status", "fd:counts", "read:counts", "write:counts"`)
	handed, denied := 0, 0
	want := func() {
		got := ask(t, dialAs(t, stranger, h.Socket), forDescriptor("maps/maps/counts"))
		var d api.MapDescriptor
		switch {
		case got.kind == api.KindDenied:
			denied++
		case got.status != 101:
			t.Errorf("%+v", got)
		case json.Unmarshal([]byte(got.line), &d) != nil || !sameID(old, d):
			t.Errorf("handed out by the rights of the version before: %s", got.line)
		default:
			handed++
		}
	}
	want() // the upgrade may be done before it is asked again
	h.Manifest("maps", strings.Replace(mapsManifest(`"status"`), "version = 1", "version = 2", 1))
	strace := tracer(t, h.PID(), "-o", os.DevNull, "-e", "trace=renameat2", "-e", "inject=renameat2:delay_exit=400000")
	upgraded := make(chan error, 1)
	go func() {
		_, err := h.Client().Upgrade(t.Context(), "maps")
		upgraded <- err
	}()
	for done := false; !done; {
		select {
		case err := <-upgraded:
			must(t, err)
			done = true
		case <-time.After(time.Millisecond):
		}
		want()
		put(t, h, stranger, "counts", `{"key":7,"value":7}`)
	}
	strace.Process.Signal(os.Interrupt)
	strace.Wait()
	if handed == 0 || denied == 0 {
		t.Errorf("%d descriptors were handed out, %d denied", handed, denied)
	}
	curl(t, h, 0, "GET", "/v1/collections/maps/maps/counts/entries?key=7").refusal(t, api.KindNotFound)
}
