package main_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// loads returns the lines of the audit log that say how loads ended.
func loads(t testing.TB, h *testdaemon.Host) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(string(read(t, filepath.Join(h.State, "audit", "audit.jsonl")))) {
		if strings.Contains(line, `"verb":"load"`) && !strings.Contains(line, `"phase":"intent"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// refused wants a load of name to be refused because of a signature.
func refused(t testing.TB, h *testdaemon.Host, name string, says ...string) {
	t.Helper()
	_, err := h.Client().Load(context.Background(), name)
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindSignature || e.Hint == "" {
		t.Errorf("load: %v, want a signature that is refused, with a remedy", err)
		return
	}
	for _, s := range says {
		if !strings.Contains(e.Message, s) {
			t.Errorf("%q does not say %q", e.Message, s)
		}
	}
}

// TestAppendedSignature: an object with its signature at its end runs, and it
// is the program that the object alone is.
func TestAppendedSignature(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	object := example(t, "xdp-drop/xdp_drop.bpf.o")
	path := h.Object("xdp_drop.bpf.o", object)
	h.Manifest("xdp-drop", xdpDrop(pair))
	h.Start()
	detached := load(t, h, "xdp-drop")
	if _, err := h.Client().Unload(context.Background(), "xdp-drop", api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}

	h.Write("hornet.d/xdp_drop.bpf.o", signing.Append(object, h.Sign(object)))
	refused(t, h, "xdp-drop", path+": bad-signature: it has a signature at its end and another one, "+path+".p7s")
	if err := os.Remove(path + ".p7s"); err != nil {
		t.Fatal(err)
	}
	c := load(t, h, "xdp-drop")
	if got := pair.Ping(t, 1); got != 0 {
		t.Errorf("%d of 1 pings came back", got)
	}
	if c.Signature.Format != "cms-appended" || c.Signature.Covers != "object" || c.Signature.Signer.Name != "dev" {
		t.Errorf("signature %+v", c.Signature)
	}
	if c.Object.SHA256 != detached.Object.SHA256 || c.Programs[0].Tag != detached.Programs[0].Tag {
		t.Errorf("object %s with program %s, was %s with %s", c.Object.SHA256, c.Programs[0].Tag, detached.Object.SHA256, detached.Programs[0].Tag)
	}
	lines := loads(t, h)
	for i, format := range []string{"cms-detached", "", "cms-appended"} {
		want := `"signer":"dev","signature_format":"` + format + `","covers":"object","verdict":"ok"`
		if i >= len(lines) || strings.Contains(lines[i], want) != (format != "") {
			t.Fatalf("record %d of %q: want %s", i, lines, want)
		}
	}
}
