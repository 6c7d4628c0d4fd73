package main_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/testdaemon"
)

// hornetd puts no probe into hornetd: that changes a byte of its code, anywhere.
func TestProbeOfHornetd(t *testing.T) {
	h := testdaemon.New(t, "")
	h.Object("caller.bpf.o", read(t, "testdata/caller.bpf.o"))
	at := func(file, where string) string {
		return strings.ReplaceAll(shownBy("shown_call", fmt.Sprintf("executable = %q\n%s\n", file, where)), shownPrefix, "shown_")
	}
	h.Manifest("own", at(testdaemon.Binary(t, "hornetd"), "offset = 64"))
	h.Manifest("other", at(copyOfLibc(t), `symbol = "setlocale"`))
	h.Start()
	_, stderr, exit := h.Ctl("load", "own")
	if exit == 0 || !strings.Contains(stderr, "is what hornetd executes") || !strings.Contains(stderr, "name another program") {
		t.Errorf("load: %d %s", exit, stderr)
	}
	if _, stderr, exit := h.Ctl("load", "other"); exit != 0 {
		t.Errorf("another program: %d %s", exit, stderr)
	}
}
