package main_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
)

// record reads what the record of name says.
func record(t testing.TB, h *testdaemon.Host, name string) map[string]any {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(h.BPFFS, name, "record"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := m.LookupBytes(uint32(0))
	var r map[string]any
	if err := errors.Join(err, json.Unmarshal(b, &r)); err != nil {
		t.Fatal(err)
	}
	return r
}

// olderRecord puts a record of format 1 in the place of that of name: what a
// hornetd wrote that knew no more.
func olderRecord(t testing.TB, h *testdaemon.Host, name string) {
	t.Helper()
	r := record(t, h, name)
	r["format"] = 1
	delete(r, "verdict")
	delete(r, "signed_at")
	signer := r["signer"].(map[string]any)
	for _, key := range []string{"key_sha256", "not_before", "chain"} {
		delete(signer, key)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(b)), MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	pin := filepath.Join(h.BPFFS, name, "record")
	if err := errors.Join(m.Put(uint32(0), b), m.Freeze(), os.Remove(pin), m.Pin(pin)); err != nil {
		t.Fatal(err)
	}
}

// TestOlderRecord: what runs from before an upgrade is adopted, says what its
// record says, and can be replaced and unloaded.
func TestOlderRecord(t *testing.T) {
	h, cgroup := ratcheted(t, "boot", "")
	before := get(t, h, "count")
	if r := record(t, h, "count"); r["format"] != 4.0 || r["verdict"] != "ok" {
		t.Errorf("the record is %v", r)
	}
	h.Kill()
	olderRecord(t, h, "count")
	h.Start()
	c := get(t, h, "count")
	if c.State != api.StateRunning || !c.Adopted || c.Reason != "" || c.Signature.Verdict != "ok" || c.Signature.Signer != before.Signature.Signer {
		t.Errorf("%+v", c)
	}
	if got := kernelLinks(t, before); len(got) != 1 {
		t.Errorf("links: %v", got)
	}
	h.Manifest("count", counting(cgroup, "boot", 6, "b"))
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	if r := record(t, h, "count"); r["format"] != 4.0 || r["verdict"] != "ok" {
		t.Errorf("replaced, the record is %v", r)
	}
	unload(t, h, "count")
}
