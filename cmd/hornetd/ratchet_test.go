package main_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// counting is a manifest of conn-count at a version; text makes its contents
// another.
func counting(cgroup, start string, version int, text string) string {
	m := fmt.Sprintf(`
description = %q
start = %q
[object]
path = "conn_count.bpf.o"
[maps."*"]
class = "mutable"
[[attach]]
program = "connect4"
cgroup = %q
`, "v "+text, start, cgroup)
	if version > 0 {
		m = fmt.Sprintf("version = %d\n", version) + m
	}
	return m
}

// ratcheted is a host on which version 5 of "count" was loaded.
func ratcheted(t *testing.T, start, config string) (*testdaemon.Host, string) {
	t.Helper()
	testenv.NoLeaks(t)
	h := testdaemon.New(t, config)
	cgroup := testenv.Cgroup(t)
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("count", counting(cgroup, start, 5, "a"))
	h.Start()
	if start == "request" {
		load(t, h, "count")
	}
	return h, cgroup
}

func unload(t testing.TB, h *testdaemon.Host, name string) {
	t.Helper()
	if _, err := h.Client().Unload(context.Background(), name, api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}
}

// refusedBack wants the verdict rolled-back.
func refusedBack(t testing.TB, err error) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindSignature || !strings.Contains(e.Message, ": rolled-back: ") || !strings.Contains(e.Hint, "hornetctl rollback count --to ") {
		t.Errorf("%#v, want a rollback refused with its remedy", err)
	}
}

func tryLoad(h *testdaemon.Host) error {
	_, err := h.Client().Load(context.Background(), "count")
	return err
}

// problems returns the status' messages.
func problems(t testing.TB, h *testdaemon.Host) string {
	t.Helper()
	s, err := h.Client().Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range s.Problems {
		all = append(all, p.Message)
	}
	return strings.Join(all, "\n")
}

// TestVersionsOnlyGrow: on load, on reload and at boot; with and without the
// daemon in between.
func TestVersionsOnlyGrow(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "")
	older := counting(cgroup, "request", 4, "a")
	other := counting(cgroup, "request", 5, "b")

	running := get(t, h, "count")
	h.Manifest("count", older)
	_, err := reload(t, h)
	refusedBack(t, err)
	if got := kernelLinks(t, running); len(got) != 1 {
		t.Errorf("after the refused reload: links %v", got)
	}
	unload(t, h, "count")
	refusedBack(t, tryLoad(h))
	h.Manifest("count", other)
	refusedBack(t, tryLoad(h))
	h.Manifest("count", counting(cgroup, "request", 0, "a"))
	refusedBack(t, tryLoad(h))

	// At boot, on a bpffs where nothing runs any more.
	h.Kill()
	h.Manifest("count", strings.Replace(older, "request", "boot", 1))
	h.Start()
	if c := get(t, h, "count"); c.State != api.StateFailed || !strings.Contains(c.Reason, "rolled-back") {
		t.Errorf("at boot: %s %q", c.State, c.Reason)
	}

	// The same object with another signature is the same; another object is not.
	h.Manifest("count", counting(cgroup, "request", 5, "a"))
	load(t, h, "count")
	unload(t, h, "count")
	changed := append(example(t, "conn-count/conn_count.bpf.o"), 0)
	h.Object("conn_count.bpf.o", changed)
	refusedBack(t, tryLoad(h))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))

	h.Manifest("count", counting(cgroup, "request", 6, "b"))
	load(t, h, "count")
	unload(t, h, "count")
	h.Manifest("count", counting(cgroup, "request", 5, "a"))
	refusedBack(t, tryLoad(h))
}

func TestWithoutVersionContentsMayChange(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	cgroup := testenv.Cgroup(t)
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Start()
	for _, text := range []string{"a", "b", "a"} {
		h.Manifest("count", counting(cgroup, "request", 0, text))
		load(t, h, "count")
		unload(t, h, "count")
	}
}

// TestRollback: root may, nobody else; it is on record with its reason, and
// holds over a restart while what it went back from still runs.
func TestRollback(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "")
	for _, args := range [][]string{
		{"rollback", "count", "--to", "4"},
		{"rollback", "count", "--reason", "x"},
		{"rollback", "count", "--to", "4", "--reason", ""},
		{"rollback", "count", "--to", "-1", "--reason", "x"},
		{"rollback", "Count", "--to", "4", "--reason", "x"},
	} {
		if _, stderr, exit := h.Ctl(args...); exit != api.ExitUsage {
			t.Errorf("%v: exit %d, %s", args, exit, stderr)
		}
	}
	if _, stderr, exit := h.CtlAs(4242, "rollback", "count", "--to", "4", "--reason", "x"); exit != api.ExitDenied {
		t.Errorf("as another user: exit %d, %s", exit, stderr)
	}
	if _, stderr, exit := h.Ctl("rollback", "count", "--to", "6", "--reason", "x"); exit != api.ExitFailure {
		t.Errorf("forward: exit %d, %s", exit, stderr)
	}
	stdout, stderr, exit := h.Ctl("rollback", "count", "--to", "4", "--reason", "drops the\nvoice calls")
	if exit != 0 || stdout != "count: version 4 and newer may load: hornetctl reload\n" {
		t.Fatalf("exit %d, %q, %s", exit, stdout, stderr)
	}
	log, err := os.ReadFile(filepath.Join(h.State, "audit", "audit.jsonl"))
	if err != nil || strings.Count(string(log), `"reason":"from version 5 to 4: drops the\\nvoice calls"`) != 2 {
		t.Errorf("intent and outcome are not on record: %v\n%s", err, log)
	}
	h.Kill()
	h.Manifest("count", counting(cgroup, "request", 4, "a"))
	h.Start()
	if c := get(t, h, "count"); c.Version != 4 || c.State != api.StateRunning || c.Reason != "" {
		t.Errorf("after the rollback and a restart: version %d, %s %q", c.Version, c.State, c.Reason)
	}
	h.Manifest("count", counting(cgroup, "request", 3, "a"))
	_, err = reload(t, h)
	refusedBack(t, err)
}

// TestKilledBetweenCommitAndRecord: what bpffs says of what runs makes up for it.
func TestKilledBetweenCommitAndRecord(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "")
	unload(t, h, "count")
	h.Manifest("count", counting(cgroup, "request", 6, "a"))
	cmd := tracer(t, h.PID(), "-o", os.DevNull, "-e", "inject=pwrite64:signal=KILL:when=2:error=EIO") // the first is the intent
	if err := tryLoad(h); err == nil {
		t.Fatal("not killed: is the outcome written by another system call?")
	}
	h.Wait()
	cmd.Wait()
	records := auditRecords(t, h.State)
	if last := records[len(records)-1]; last.Phase != "intent" || last.Version != 6 {
		t.Fatalf("killed at another point: the last record is %+v", last)
	}
	h.Start()
	if c := get(t, h, "count"); c.Version != 6 || !c.Adopted {
		t.Fatalf("version %d, adopted %t", c.Version, c.Adopted)
	}
	unload(t, h, "count")
	h.Manifest("count", counting(cgroup, "request", 5, "a"))
	refusedBack(t, tryLoad(h))
}

// TestAnsweredLoadIsRemembered: killed right behind the answer, with bpffs gone
// as after a power cut.
func TestAnsweredLoadIsRemembered(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "")
	unload(t, h, "count")
	h.Manifest("count", counting(cgroup, "request", 6, "a"))
	load(t, h, "count")
	h.Kill()
	if err := os.RemoveAll(filepath.Join(h.BPFFS, "count")); err != nil {
		t.Fatal(err)
	}
	h.Manifest("count", counting(cgroup, "request", 5, "a"))
	if _, stderr, exit := h.RunAs(0, testdaemon.Binary(t, "hornetd"), "--check", "--config", h.Config); exit == 0 || !strings.Contains(stderr, "rolled-back") {
		t.Errorf("hornetd --check: exit %d, %s", exit, stderr)
	}
	h.Start()
	refusedBack(t, tryLoad(h))
}

// TestFullDiskStopsALoad: what cannot be put on record is not loaded.
func TestFullDiskStopsALoad(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "")
	unload(t, h, "count")
	h.Manifest("count", counting(cgroup, "request", 6, "a"))
	cmd := tracer(t, h.PID(), "-o", os.DevNull, "-e", "inject=fdatasync:error=ENOSPC:when=1")
	var e *api.Error
	if err := tryLoad(h); !errors.As(err, &e) || e.Kind != api.KindUnavailable {
		t.Errorf("load = %v", err)
	}
	if c := get(t, h, "count"); c.State == api.StateRunning {
		t.Errorf("version %d, %s", c.Version, c.State)
	}
	h.Kill()
	cmd.Wait()
	h.Start()
	h.Manifest("count", counting(cgroup, "request", 5, "a"))
	load(t, h, "count") // nobody was told that 6 was loaded
}

// TestRatchetLost: what runs is still known; the rest is forgotten, and that
// is shown and on record. It never keeps a host from starting.
func TestRatchetLost(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(path string) error
		want string
	}{
		{"removed", os.Remove, "ratchet is gone"},
		{"damaged", func(path string) error { return os.WriteFile(path, []byte("hornetd-ratchet 1 0\n{}\n"), 0o600) }, "set aside as"},
		{"cut", func(path string) error { return os.Truncate(path, 40) }, "set aside as"},
		{"empty", func(path string) error { return os.Truncate(path, 0) }, "set aside as"},
		{"of a newer hornetd", func(path string) error { return os.WriteFile(path, []byte("hornetd-ratchet 2 0\n{}\n"), 0o600) }, "set aside as"},
		{"writable by others", func(path string) error { return os.Chmod(path, 0o666) }, "set aside as"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, cgroup := ratcheted(t, "request", "")
			h.Manifest("gone", strings.Replace(counting(cgroup, "request", 9, "a"), "connect4", "connect6", 1))
			if _, err := h.Client().Load(context.Background(), "gone"); err != nil {
				t.Fatal(err)
			}
			unload(t, h, "gone")
			h.Kill()
			if err := tt.lose(filepath.Join(h.State, "ratchet")); err != nil {
				t.Fatal(err)
			}
			h.Start()
			if got := problems(t, h); !strings.Contains(got, tt.want) {
				t.Errorf("status says %q", got)
			}
			notes := 0
			for _, r := range auditRecords(t, h.State) {
				if r.Phase == "note" && r.Verb == "ratchet" && r.Error != "" {
					notes++
				}
			}
			if notes != 1 {
				t.Errorf("%d notes in the audit log", notes)
			}
			unload(t, h, "count")
			h.Manifest("count", counting(cgroup, "request", 4, "a"))
			refusedBack(t, tryLoad(h)) // it ran at the start
			h.Manifest("gone", strings.Replace(counting(cgroup, "request", 8, "a"), "connect4", "connect6", 1))
			if _, err := h.Client().Load(context.Background(), "gone"); err != nil {
				t.Errorf("what is forgotten: %v", err)
			}
			h.Kill()
			h.Start()
			if got := problems(t, h); got != "" {
				t.Errorf("after another start the status says %q", got)
			}
		})
	}
}

func TestDevelopmentOnlyWarns(t *testing.T) {
	h, cgroup := ratcheted(t, "request", "[trust]\ndevelopment = true\n")
	if got := problems(t, h); !strings.Contains(got, "development") {
		t.Errorf("status says %q", got)
	}
	unload(t, h, "count")
	h.Manifest("count", counting(cgroup, "request", 4, "a"))
	load(t, h, "count")
	if !strings.Contains(h.Log(), "older than version 5") {
		t.Errorf("no warning: %s", h.Log())
	}
	// It is on record, and shown, as what it is: at once, and by another start.
	records := auditRecords(t, h.State)
	if last := records[len(records)-1]; last.Verb != "load" || last.Verdict != "ok-rolled-back" {
		t.Errorf("on record: %+v", last)
	}
	for range 2 {
		if c := get(t, h, "count"); c.Signature.Verdict != "ok-rolled-back" {
			t.Errorf("verdict %s", c.Signature.Verdict)
		}
		if list, err := h.Client().List(t.Context()); err != nil || !strings.Contains(list[0].Reason, "[trust] development") {
			t.Errorf("list: %+v, %v", list, err)
		}
		if got := problems(t, h); !strings.Contains(got, "runs, but another version") {
			t.Errorf("status says %q", got)
		}
		h.Kill()
		h.Start()
	}
	// What the start does behind READY may be first to see that the object changed.
	changed := append(example(t, "conn-count/conn_count.bpf.o"), 0)
	h.Object("conn_count.bpf.o", changed)
	if _, err := reload(t, h); err != nil {
		t.Error(err)
	}
	if got, want := get(t, h, "count").Object.SHA256, fmt.Sprintf("%x", sha256.Sum256(changed)); got != want {
		t.Errorf("object %s runs, want the one that changed, %s", got, want)
	}
}
