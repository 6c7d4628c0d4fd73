package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/api/bpfmap"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/internal/vmtest"
	"github.com/hornetd/hornetd/signing"
)

// guarded starts a hornetd that guards the guest, with a collection that runs.
func guarded(t *testing.T, mode api.GuardMode, settings string) (*testdaemon.Host, api.Collection) {
	t.Helper()
	if !vmtest.InGuest() {
		t.Skip("arms the guard: only in guests")
	}
	pair := testenv.Veth(t)
	// Should the test not disarm it, it lets the next one live.
	h := testdaemon.New(t, "\n[guard]\n"+settings)
	t.Cleanup(func() { endFloors(t) })
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
	h.Start()
	// The first process does not start it here, so that it does not by itself.
	if _, err := h.Client().Guard(t.Context(), api.GuardRequest{Mode: mode, ConfirmWithin: map[api.GuardMode]string{api.GuardEnforce: "10m"}[mode]}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Client().Guard(context.Background(), api.GuardRequest{Mode: api.GuardOff, Reason: "the test ends"}) // its own context has ended
	})
	return h, get(t, h, "xdp-drop")
}

// tool runs bpftool as root, and returns what it says and whether it could.
func tool(t *testing.T, args ...string) (string, bool) {
	t.Helper()
	out, err := exec.Command("bpftool", args...).CombinedOutput()
	if _, isExit := err.(*exec.ExitError); err != nil && !isExit {
		t.Fatal(err)
	}
	return string(out), err == nil
}

// unhooked waits until there is no link of a guard: the kernel takes its time.
func unhooked(t *testing.T) {
	t.Helper()
	eventually(t, "no link of the guard", func() bool {
		out, _ := tool(t, "link")
		return !strings.Contains(out, "lsm")
	})
}

// attacks are what root's bpftool and shell do to a host that hornetd owns.
func attacks(t *testing.T, h *testdaemon.Host, c api.Collection) map[string]func() (string, bool) {
	t.Helper()
	object := filepath.Join(t.TempDir(), "other.o")
	if err := os.WriteFile(object, example(t, "conn-count/conn_count.bpf.o"), 0o644); err != nil {
		t.Fatal(err)
	}
	pin := testenv.BPFFS(t)
	shell := func(line string) func() (string, bool) {
		return func() (string, bool) {
			out, err := exec.Command("sh", "-c", line).CombinedOutput()
			return string(out), err == nil
		}
	}
	dir := filepath.Join(h.BPFFS, "xdp-drop")
	return map[string]func() (string, bool){
		"load": func() (string, bool) {
			defer os.RemoveAll(filepath.Join(pin, "all"))
			return tool(t, "prog", "loadall", object, filepath.Join(pin, "all"))
		},
		"map": func() (string, bool) {
			defer os.Remove(filepath.Join(pin, "map"))
			return tool(t, "map", "create", filepath.Join(pin, "map"), "type", "array", "key", "4", "value", "4", "entries", "1", "name", "other")
		},
		"pin of ours": shell("mv " + dir + "/links " + dir + "/gone && mv " + dir + "/gone " + dir + "/links"),
		"unmount":     shell("mount -o remount,noexec " + h.BPFFS + " && mount -o remount,exec " + h.BPFFS),
	}
}

// TestGuardEnforces: root's own bpftool, which is not changed, can do nothing that
// is hornetd's while hornetd can; what was refused is on record and told.
func TestGuardEnforces(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := guarded(t, api.GuardEnforce, "")
	s, err := h.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if g := s.Guard; g == nil || g.Mode != api.GuardEnforce || g.Confirm == "" || g.Reason != "" {
		t.Fatalf("guard %+v", g)
	}
	for what, attack := range attacks(t, h, c) {
		if out, done := attack(); done || !strings.Contains(out, "ermi") {
			t.Errorf("%s: done %v, want it not permitted: %s", what, done, out)
		}
	}
	if _, err := h.Client().Unload(t.Context(), "xdp-drop", api.UnloadRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := h.Client().Load(t.Context(), "xdp-drop"); err != nil {
		t.Error(err)
	}
	onRecord(t, h, func(r guardRecord) bool {
		return r.Phase == "refusal" && r.Caller.UID == 0 && r.Caller.Comm == "bpftool" && (r.Caller.Exe == "" || strings.HasSuffix(r.Caller.Exe, "bpftool")) && strings.Contains(r.Error, "prog_load")
	})

	// Whoever is given a map to write can.
	m, err := bpfmap.Open(t.Context(), h.Client(), "xdp-drop", "hits", api.AccessReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Put(uint32(7), make([]byte, m.ValueSize())); err != nil {
		t.Errorf("a map that was given to write: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}

	if _, _, exit := h.CtlAs(1234, "guard", "audit"); exit != 3 {
		t.Errorf("another user's guard audit: exit %d, want 3", exit)
	}
	if _, stderr, exit := h.Ctl("guard", "disarm"); exit != 2 {
		t.Errorf("disarm without a reason: exit %d: %s", exit, stderr)
	}
	if _, stderr, exit := h.Ctl("guard", "statement", "disarm", "--reason", "a test"); exit != 1 || !strings.Contains(stderr, "hint: hornetctl guard disarm --reason TEXT\n") {
		t.Errorf("a statement where root's word counts: exit %d: %s", exit, stderr)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, exit := h.Ctl("guard", "enroll", pipe); exit == 0 || !strings.Contains(stderr, "no regular file") {
		t.Errorf("enroll a pipe: exit %d: %s", exit, stderr)
	}
	if _, stderr, exit := h.Ctl("guard", "audit"); exit != 0 {
		t.Fatal(stderr)
	}
	for what, attack := range attacks(t, h, c) {
		if out, done := attack(); !done {
			t.Errorf("%s, audited: %s", what, out)
		}
	}
	onRecord(t, h, func(r guardRecord) bool { return r.Phase == "note" && strings.Contains(r.Reason, "prog_load") })
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "it was a test"); exit != 0 {
		t.Fatal(stderr)
	}
	unhooked(t)
	onRecord(t, h, func(r guardRecord) bool {
		return r.Verb == "guard" && r.Phase == "outcome" && strings.Contains(r.Reason, "it was a test")
	})
	if _, stderr, exit := h.Ctl("guard", "enroll", "/bin/true"); exit != 1 || !strings.Contains(stderr, "no guard is in force") || !strings.Contains(stderr, "hint: hornetctl guard audit arms one") {
		t.Errorf("enroll where there is none: exit %d: %s", exit, stderr)
	}
}

// TestGuardLimit: it falls back to audit where nobody confirms, and only there, which is recorded. The
// time is that of hornetd.toml where none is named, and enforce asked for again does not take it away.
func TestGuardLimit(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := guarded(t, api.GuardAudit, "confirm = \"30s\"\n")
	endsBeforeItIsTold(t, h)
	load := attacks(t, h, c)["load"]
	for range 2 {
		g, err := h.Client().Guard(t.Context(), api.GuardRequest{Mode: api.GuardEnforce})
		if err != nil || g.Confirm == "" {
			t.Fatalf("%v, guard %+v", err, g)
		}
		if out, done := load(); done {
			t.Errorf("enforced, and loaded: %s", out)
		}
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, done := load(); done {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not fall back")
		}
	}
	s, err := h.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Guard.Mode != api.GuardAudit || !strings.Contains(s.Guard.Reason, "nobody confirmed") {
		t.Errorf("guard %+v", s.Guard)
	}
	fell := func(r guardRecord) bool {
		return r.Verb == "guard" && r.Phase == "note" && strings.Contains(r.Reason, "fell back to audit: nobody confirmed in time")
	}
	onRecord(t, h, fell)
	if out, stderr, exit := h.Ctl("events", "--kind", "guard"); exit != 0 || !strings.Contains(out, "nobody confirmed") {
		t.Errorf("events: exit %d: %s%s", exit, out, stderr)
	}
	if _, err := h.Client().Guard(t.Context(), api.GuardRequest{Confirm: true}); err == nil {
		t.Error("confirmed too late")
	}
	if _, err := h.Client().Guard(t.Context(), api.GuardRequest{Mode: api.GuardEnforce, ConfirmWithin: "10s"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Client().Guard(t.Context(), api.GuardRequest{Confirm: true}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(11 * time.Second)
	if out, done := load(); done {
		t.Errorf("confirmed, and loaded: %s", out)
	}
	if n := len(records(t, h, fell)); n != 1 {
		t.Errorf("%d records of one fall", n)
	}
}

// endsBeforeItIsTold has a process be audited: also where it has ended since its unit is known.
func endsBeforeItIsTold(t *testing.T, h *testdaemon.Host) {
	t.Helper()
	unit := filepath.Join(testenv.CgroupRoot(t), "of-a-test.service")
	if err := os.Mkdir(unit, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(unit); err != nil {
			t.Error(err)
		}
	})
	pin := filepath.Join(testenv.BPFFS(t), "map")
	h.Stopped(func() {
		run(t, "sh", "-c", "echo $$ >"+unit+"/cgroup.procs && bpftool map create "+pin+" type lru_hash key 4 value 4 entries 1 name of_a_test; rm "+pin)
	})
	onRecord(t, h, func(r guardRecord) bool {
		return r.Verb == "foreign" && r.Reason == `bpf map_create of type lru_hash "of_a_test"` && r.Caller.Unit == "of-a-test.service" && r.Caller.Exe == ""
	})
}

// TestGuardSealed: where only a reboot is to end it, root's word neither ends it nor
// has anything else become hornetd, and keys that come to the trust store do not count.
func TestGuardSealed(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := guarded(t, api.GuardAudit, "disarm = \"reboot\"\n") // which ends with its bpffs, as it only audits
	for _, args := range [][]string{{"disarm", "--reason", "why not"}, {"enroll", "/bin/true"}} {
		if _, stderr, exit := h.Ctl(append([]string{"guard"}, args...)...); exit == 0 || !strings.Contains(stderr, "reboot") {
			t.Errorf("guard %s: exit %d: %s", args[0], exit, stderr)
		}
	}
	_, cert, err := signing.Keygen("late", "ecdsa")
	if err != nil {
		t.Fatal(err)
	}
	h.Write("trust.d/late.pem", cert)
	if _, stderr, exit := h.Ctl("reload"); exit == 0 || !strings.Contains(stderr, `signer "late" came to the trust store since`) {
		t.Errorf("reload with another key: exit %d: %s", exit, stderr)
	}
	s, err := h.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Signers) != 1 || s.Guard.Mode != api.GuardAudit || s.Guard.Disarm != "reboot" {
		t.Errorf("signers %v, guard %+v", s.Signers, s.Guard)
	}
	if err := os.Remove(filepath.Join(h.Trust, "late.pem")); err != nil {
		t.Fatal(err)
	}
	if _, stderr, exit := h.Ctl("reload"); exit != 0 {
		t.Error(stderr)
	}
	// A limit makes nothing weaker that refuses nothing.
	if _, stderr, exit := h.Ctl("guard", "enforce", "--confirm-within", "1s"); exit != 0 {
		t.Fatal(stderr)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		s, err := h.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Guard.Mode == api.GuardAudit {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not fall back")
		}
	}
}

// TestGuardByHand: a hornetd that no service manager started arms nothing by itself:
// the next one would be a stranger.
func TestGuardByHand(t *testing.T) {
	if !vmtest.InGuest() {
		t.Skip("arms the guard: only in guests")
	}
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "\n[guard]\nmode = \"audit\"\n")
	h.Start()
	s, err := h.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Guard.Mode != api.GuardDetect || !strings.Contains(s.Guard.Reason, "not started by the first process") {
		t.Errorf("guard %+v", s.Guard)
	}
	h = testdaemon.New(t, "\n[guard]\nmode = \"enforce\"\n")
	if err := h.TryStart(); err == nil || !strings.Contains(h.Log(), "not started by the first process") {
		t.Errorf("ready: %v\n%s", err, h.Log())
	}
}

// TestGuardDisarmLater: a guard whose pins cannot be removed is off, and root can go on from there.
func TestGuardDisarmLater(t *testing.T) {
	testenv.NoLeaks(t)
	h, c := guarded(t, api.GuardAudit, "mode = \"off\"\n")
	load := attacks(t, h, c)["load"]
	remount := func(how string) {
		t.Helper()
		run(t, "mount", "-o", "remount,bind,"+how, h.BPFFS)
	}
	remount("ro")
	for range 2 {
		if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "a test"); exit == 0 || !strings.Contains(stderr, "it is off, and its pins stay") || !strings.Contains(stderr, "hint: see that ") {
			t.Errorf("disarm: exit %d: %s", exit, stderr)
		}
		st, err := h.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if g := st.Guard; g.Mode != api.GuardOff || !strings.Contains(g.Reason, "its pins could not be removed") || !strings.Contains(g.Hint, "guard disarm") {
			t.Errorf("guard %+v", g)
		}
	}
	if out, done := load(); !done {
		t.Errorf("disarmed: %s", out)
	}
	// It can be put in force again.
	if _, stderr, exit := h.Ctl("guard", "enforce", "--confirm-within", "10m"); exit != 0 {
		t.Fatal(stderr)
	}
	if out, done := load(); done {
		t.Errorf("enforced, and loaded: %s", out)
	}
	if _, _, exit := h.Ctl("guard", "disarm", "--reason", "a test"); exit == 0 {
		t.Error("disarmed again")
	}
	remount("rw")
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "a test"); exit != 0 {
		t.Error(stderr)
	}
	unhooked(t)
	// So does a start that is to have none.
	if _, stderr, exit := h.Ctl("guard", "audit"); exit != 0 {
		t.Fatal(stderr)
	}
	remount("ro")
	if _, _, exit := h.Ctl("guard", "disarm", "--reason", "a test"); exit == 0 {
		t.Error("disarmed read-only")
	}
	remount("rw")
	h.Stop()
	s := signedHost{h, t, t.TempDir()}
	log := s.fromInit()
	if g := s.mode(); g.Mode != api.GuardOff || g.Reason != "" {
		t.Errorf("guard %+v: %s", g, log)
	}
	unhooked(t)
}

// TestGuardDisarmLeft: of a guard that has ended something may be left, where something is mounted
// in there: hornetd says so, and root can have it removed.
func TestGuardDisarmLeft(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := guarded(t, api.GuardAudit, "")
	dir := filepath.Join(h.BPFFS, "_guard")
	at := func(set string) string { return filepath.Join(dir, set, "maps", "mounted") }
	if err := os.Mkdir(at("set-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "tmpfs", at("set-1"))
	for range 2 {
		if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "a test"); exit == 0 || !strings.Contains(stderr, "hint: unmount what is below "+dir) {
			t.Errorf("disarm: exit %d: %s", exit, stderr)
		}
		st, err := h.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if g := st.Guard; g.Mode != api.GuardOff || !strings.Contains(g.Reason, "not all of it could be removed") || !strings.HasPrefix(g.Hint, "unmount what is below ") {
			t.Errorf("guard %+v", g)
		}
	}
	run(t, "umount", at("stage-1"))
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "a test"); exit != 0 {
		t.Error(stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("there are %v, %v", left, err)
	}
	if _, stderr, exit := h.Ctl("guard", "disarm", "--reason", "a test"); exit == 0 || !strings.Contains(stderr, "no guard is in force") {
		t.Errorf("disarm once more: exit %d: %s", exit, stderr)
	}
}

// TestGuardAuditAnyway: whoever is shut out has it audit at once, though it cannot be made anew with
// what hornetd.toml says; that is told.
func TestGuardAuditAnyway(t *testing.T) {
	testenv.NoLeaks(t)
	listed := filepath.Join(t.TempDir(), "listed")
	install := func() {
		t.Helper()
		if err := os.WriteFile(listed, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	install()
	h, c := guarded(t, api.GuardEnforce, fmt.Sprintf("allow = [{ executable = %q, signals = true }]\n", listed))
	if err := os.Remove(listed); err != nil {
		t.Fatal(err)
	}
	if _, stderr, exit := h.Ctl("guard", "enforce"); exit == 0 || !strings.Contains(stderr, listed) {
		t.Errorf("enforce: exit %d: %s", exit, stderr)
	}
	load := attacks(t, h, c)["load"]
	if out, done := load(); done {
		t.Errorf("enforced: %s", out)
	}
	out, stderr, exit := h.Ctl("guard", "audit")
	if exit != 0 || !strings.Contains(out, listed+": no such file") || !strings.Contains(out, "or install what it names") {
		t.Errorf("audit: exit %d: %s%s", exit, out, stderr)
	}
	if out, done := load(); !done {
		t.Errorf("audited: %s", out)
	}
	onRecord(t, h, func(r guardRecord) bool {
		return r.Verb == "guard" && r.Phase == "note" && strings.Contains(r.Reason, listed)
	})
	install()
	if out, stderr, exit := h.Ctl("guard", "audit"); exit != 0 || strings.Contains(out, listed) {
		t.Errorf("audit: exit %d: %s%s", exit, out, stderr)
	}
}

type guardRecord struct {
	Phase, Verb, Reason, Error string
	Caller                     struct {
		UID             uint32
		Exe, Comm, Unit string
	}
}

// onRecord waits for a record of the audit log.
func onRecord(t *testing.T, h *testdaemon.Host, like func(guardRecord) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if len(records(t, h, like)) > 0 {
			return
		}
	}
	b, _ := os.ReadFile(filepath.Join(h.State, "audit", "audit.jsonl"))
	t.Errorf("no such record in\n%s", b)
}

// records returns those of the audit log that are like that.
func records(t *testing.T, h *testdaemon.Host, like func(guardRecord) bool) (all []guardRecord) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.State, "audit", "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var r guardRecord
		if json.Unmarshal([]byte(line), &r) == nil && like(r) {
			all = append(all, r)
		}
	}
	return all
}

// TestGuardCheck: hornetd --check names a file of an entry without which nothing is armed.
func TestGuardCheck(t *testing.T) {
	h := testdaemon.New(t, "\n[guard]\nmode = \"enforce\"\nallow = [{ executable = \"/no/such/file\", signals = true }]\n")
	_, stderr, exit := h.RunAs(0, testdaemon.Binary(t, "hornetd"), "--check", "--config", h.Config)
	if exit != 1 || !strings.Contains(stderr, "hornetd: guard: allow: open /no/such/file") || !strings.Contains(stderr, "hint: remove the entry of [[guard.allow]]") {
		t.Errorf("exit %d: %s", exit, stderr)
	}
}

// TestGuardOfOthers: who is not told how the guard is, is told who is.
func TestGuardOfOthers(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Start()
	if _, stderr, exit := h.CtlAs(1234, "guard"); exit != 3 || !strings.Contains(stderr, "only root is told") || !strings.Contains(stderr, "hint: ask as root") {
		t.Errorf("exit %d: %s", exit, stderr)
	}
}
