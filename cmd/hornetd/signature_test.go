package main_test

import (
	"context"
	"errors"
	"fmt"
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

// TestSignedManifest: where manifests must be signed, what a manifest makes of
// an object counts only as it was signed, its rights included.
func TestSignedManifest(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Write("hornetd.toml", fmt.Appendf(read(t, h.Config), "[manifests]\nsigned = [%q]\n", h.Manifests))
	key, cert := h.Key()
	object := h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	m := h.Manifest("xdp-drop", xdpDrop(pair)+fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"status\"]\n", stranger))
	h.Start()
	refused(t, h, "xdp-drop", m+": unsigned: there is no signature "+m+".p7s, and manifests in this directory must be signed")

	ctl(t, h, "sign", "--key", key, "--cert", cert, m)
	if err := os.Remove(object + ".p7s"); err != nil { // of no use any more
		t.Fatal(err)
	}
	c := load(t, h, "xdp-drop")
	if got := pair.Ping(t, 1); got != 0 {
		t.Errorf("%d of 1 pings came back", got)
	}
	if c.Signature.Format != "cms-detached" || c.Signature.Covers != "object+manifest" || c.Object.SHA256 != sha256sum(t, object) || c.Manifest.SHA256 != sha256sum(t, m) {
		t.Errorf("%+v, object %s, manifest %s", c.Signature, c.Object.SHA256, c.Manifest.SHA256)
	}
	if lines := loads(t, h); !strings.Contains(lines[len(lines)-1], `"signature_format":"cms-detached","covers":"object+manifest","verdict":"ok"`) {
		t.Errorf("recorded: %s", lines[len(lines)-1])
	}
	if out := ctl(t, h, "list"); !strings.Contains(out, " verified ") {
		t.Errorf("list:\n%s", out)
	}
	if out := ctl(t, h, "status"); !strings.Contains(out, "1 running (1 with a signed manifest)") {
		t.Errorf("status:\n%s", out)
	}

	// Somebody who can write the directory gives rights away.
	signed := read(t, m)
	h.Manifest("xdp-drop", strings.Replace(string(signed), `["status"]`, `["status", "read:*", "unload"]`, 1))
	may := func(when string) {
		t.Helper()
		for _, args := range [][]string{{"map", "dump", "xdp-drop", "hits"}, {"unload", "xdp-drop"}} {
			if out, stderr, exit := h.CtlAs(stranger, args...); exit != api.ExitDenied {
				t.Errorf("%s: %v by uid %d: exit status %d: %s%s", when, args, stranger, exit, out, stderr)
			}
		}
	}
	may("before a reload")
	if _, err := reload(t, h); err == nil || !strings.Contains(err.Error(), m+": bad-signature") {
		t.Errorf("reload: %v", err)
	}
	may("after a reload")
	h.Stop()
	h.Start()
	may("after a start")
	if got := kernelLinks(t, c); len(got) != 1 || !got[c.Links[0].ID] {
		t.Errorf("kernel: links %v", got)
	}
	if got := get(t, h, "xdp-drop"); got.Signature.Covers != "object+manifest" || got.Programs[0].ID != c.Programs[0].ID {
		t.Errorf("after a start: %+v, program %d, was %d", got.Signature, got.Programs[0].ID, c.Programs[0].ID)
	}

	// As it was signed it is what runs; without its signature it would not load again.
	h.Write("hornet.d/xdp-drop.toml", signed)
	plan, err := reload(t, h)
	if err != nil || action(plan, "xdp-drop") != api.ActionKeep {
		t.Errorf("reload: %+v, %v", plan, err)
	}
	if _, _, exit := h.CtlAs(stranger, "show", "xdp-drop"); exit != 0 {
		t.Errorf("show by uid %d: exit status %d", stranger, exit)
	}
	if err := os.Remove(m + ".p7s"); err != nil {
		t.Fatal(err)
	}
	if _, err := reload(t, h); err != nil {
		t.Error(err)
	}
	if got := get(t, h, "xdp-drop"); !strings.Contains(got.Reason, "would not load again: "+m+": unsigned") {
		t.Errorf("reason %q", got.Reason)
	}
	if _, _, exit := h.Ctl("unload", "xdp-drop"); exit != 0 {
		t.Errorf("unload: exit status %d", exit)
	}
}

// TestSignerRules: what is well signed is still bounded by who signed it.
func TestSignerRules(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	config := read(t, h.Config)
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", xdpDrop(pair))
	for _, test := range []struct {
		rules string
		kind  api.Kind
		says  string // "" where it loads
	}{
		{"[signers.dev]\nattach = [\"tcx/*\"]\n", api.KindDenied, `signer "dev" may not have program "xdp_drop" of section "xdp", says attach in [signers.dev]`},
		{"[signers.\"*\"]\nlimits = { maps = 1 }\n", api.KindLimit, `signer "dev" may have 1 maps, says limits.maps in [signers."*"], the object needs 3`},
		{fmt.Sprintf("[manifests.signers]\n%q = [\"vendor\"]\n", h.Manifests), api.KindDenied, `signer "dev" does not count in ` + h.Manifests + ", says manifests.signers"},
		{"[signers.dev]\nattach = [\"xdp\"]\n[signers.\"*\"]\nattach = []\n[signers.dve]\n", "", ""},
	} {
		h.Write("hornetd.toml", fmt.Appendf(config, "%s", test.rules))
		_, stderr, exit := h.RunAs(0, testdaemon.Binary(t, "hornetd"), "--check", "--config", h.Config)
		if test.says != "" && (exit == 0 || !strings.Contains(stderr, test.says)) {
			t.Errorf("hornetd --check: exit status %d: %s", exit, stderr)
		}
		h.Start()
		_, err := h.Client().Load(context.Background(), "xdp-drop")
		var e *api.Error
		if test.says == "" {
			if err != nil {
				t.Error(err)
			}
			const stray = "signers.dve: no such signer in the trust store"
			if out := ctl(t, h, "status"); !strings.Contains(out, stray) || !strings.Contains(stderr, stray) {
				t.Errorf("status:\n%s\n--check:\n%s", out, stderr)
			}
			if _, err := h.Client().Unload(context.Background(), "xdp-drop", api.UnloadRequest{}); err != nil {
				t.Error(err)
			}
		} else if !errors.As(err, &e) || e.Kind != test.kind || !strings.Contains(e.Message, test.says) || e.Hint == "" {
			t.Errorf("%s: %v, want %s: %s", test.rules, err, test.kind, test.says)
		} else if got := onBPFFS(t, h); len(got) != 0 {
			t.Errorf("on bpffs: %v", got)
		}
		h.Stop()
	}
}
