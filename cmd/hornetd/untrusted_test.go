package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

const untrusted = "[signers.dev]\nuntrusted_parser = true\n"

// children returns the processes that a process has, zombies too.
func children(t testing.TB, pid int) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])); fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(strings.Split(f, "/")[2])
			pids = append(pids, child)
		}
	}
	return pids
}

// parserOf waits until the daemon's one child is confined, and returns it.
func parserOf(t testing.TB, h *testdaemon.Host) int {
	t.Helper()
	var all []int
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if all = children(t, h.PID()); len(all) == 1 {
			if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", all[0])); bytes.Contains(b, []byte("\nSeccomp:\t2\n")) && saidReady(all[0]) {
				return all[0]
			}
		}
	}
	t.Fatalf("children of the daemon: %v, want one that is confined\n%s", all, h.Log())
	return 0
}

// saidReady reports whether a confined process has told the daemon that it is one,
// which is all that it has written but 1000 to its oom_score_adj.
func saidReady(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	var read, wrote int
	_, err := fmt.Sscanf(string(b), "rchar: %d\nwchar: %d\n", &read, &wrote)
	return err == nil && wrote >= len("1000")+len("ready\n")
}

// A process with the name of a child of hornetd's does nothing for another.
func TestChildOfAnother(t *testing.T) {
	for _, name := range []string{"hornetd: parser", "hornetd: maps"} {
		pid := filepath.Join(t.TempDir(), "pid")
		// It is the first process's when it executes, and what it reads never comes.
		script := `mkfifo "$0.job"; ` + orphaned(`echo $$ >"$0"; exec -a "$1" "$2" 0<>"$0.job" 3<>"$0.job"`) + ` >"$0.log" 2>&1 &`
		cmd := exec.Command("sh", "-c", script, pid, name, testdaemon.Binary(t, "hornetd"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var n int
		for deadline := time.Now().Add(time.Minute); n == 0 || syscall.Kill(n, 0) == nil; time.Sleep(20 * time.Millisecond) {
			if b, err := os.ReadFile(pid); err == nil {
				n, _ = strconv.Atoi(strings.TrimSpace(string(b)))
			}
			if time.Now().After(deadline) {
				if n > 0 {
					syscall.Kill(n, syscall.SIGKILL)
				}
				t.Fatalf("%q runs on as process %d", name, n)
			}
		}
		if b, err := os.ReadFile(pid + ".log"); err != nil || len(b) > 0 { // the shell's, where it did not execute it
			t.Errorf("%v: %s", err, b)
		}
	}
}

// As the first process of a container hornetd has such children.
func TestFirstProcess(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, untrusted)
	h.Manifest("count", connCount(testenv.Cgroup(t)))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	if err := h.TryStart("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"); err != nil {
		t.Fatalf("%v: %s", err, h.Log())
	}
	if c := load(t, h, "count"); len(kernelLinks(t, c)) != 2 {
		t.Errorf("links %v", c.Links)
	}
	if _, err := h.Client().Unload(t.Context(), "count", api.UnloadRequest{}); err != nil {
		t.Error(err)
	}
}

// TestUntrustedParser: what a signer who is marked has signed goes through a
// confined process, one for each object; what does not come out of it does not
// load, and the daemon does not mind.
func TestUntrustedParser(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, untrusted)
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Manifest("count", connCount(testenv.Cgroup(t)))
	h.Object("conn_count.bpf.o", object)
	h.Start()

	spare := parserOf(t, h)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", spare)); err != nil || string(b) != "hornetd: parser\x00" {
		t.Errorf("its name is %q, %v", b, err)
	}
	unload := func() {
		t.Helper()
		if _, err := h.Client().Unload(context.Background(), "count", api.UnloadRequest{}); err != nil {
			t.Error(err)
		}
	}
	refused := func(kind api.Kind, says ...string) {
		t.Helper()
		_, err := h.Client().Load(context.Background(), "count")
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != kind || e.Hint == "" {
			t.Fatalf("load: %+v, want a refusal of kind %s with a remedy", err, kind)
		}
		for _, s := range append(says, "conn_count.bpf.o: object: ", `signer "dev" is marked untrusted_parser`) {
			if !strings.Contains(e.Message, s) {
				t.Errorf("%q does not say %q", e.Message, s)
			}
		}
	}

	if c := load(t, h, "count"); len(kernelLinks(t, c)) != 2 {
		t.Errorf("links %v", c.Links)
	}
	next := parserOf(t, h)
	if next == spare {
		t.Errorf("process %d waits again after it has parsed", spare)
	}
	unload()

	// The parser's own refusal, in its words.
	h.Object("conn_count.bpf.o", []byte("#!/bin/sh\n\x1b[31m"))
	refused(api.KindObject, `ELF header: it ends behind the end of the file`, "said by the confined process")
	h.Object("conn_count.bpf.o", object)

	// One that is killed while it waits is replaced.
	killed := parserOf(t, h)
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	processGone(t, killed, "running")
	load(t, h, "count")
	unload()

	// One that hangs: no answer, no load, and what was to be loaded is not parsed
	// by anybody else.
	stopped := parserOf(t, h)
	if err := syscall.Kill(stopped, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	refused(api.KindObject, "the confined process did not parse it: parser: no answer within 10s")
	if syscall.Kill(stopped, 0) == nil {
		t.Errorf("process %d is still there", stopped)
	}
	load(t, h, "count")
	unload()

	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	parserOf(t, h)
	before := openFiles(t, h)
	for range rounds {
		load(t, h, "count")
		unload()
	}
	parserOf(t, h)
	// What unload and the parser's renewal still hold goes by itself; a leak does not.
	eventually(t, fmt.Sprintf("%d descriptors after %d loads, as before", before, rounds), func() bool { return openFiles(t, h) <= before })

	last := parserOf(t, h)
	h.Stop()
	processGone(t, last, "stopped")
	h.Start()
	last = parserOf(t, h)
	h.Kill()
	processGone(t, last, "killed")
}

// openFiles counts the daemon's descriptors but its connections.
func openFiles(t testing.TB, h *testdaemon.Host) int {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.PID()))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && !strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func processGone(t testing.TB, pid int, daemon string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if syscall.Kill(pid, 0) != nil {
			return
		}
	}
	t.Errorf("process %d is still there, the daemon is %s", pid, daemon)
}

// TestUntrustedCannotStart: without a confined process the object is not parsed,
// whatever else the daemon can do; others' objects load.
func TestUntrustedCannotStart(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, untrusted)
	h.Manifest("count", connCount(testenv.Cgroup(t)))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	// Only the confined process is started from /proc.
	if err := h.TryStart("unshare", "--mount", "--propagation", "private", "--", "sh", "-c", `mount -t tmpfs none /proc && exec "$@"`, "sh"); err != nil {
		t.Fatal(err)
	}
	_, err := h.Client().Load(context.Background(), "count")
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindUnavailable || e.Hint == "" || !strings.Contains(e.Message, "there is no confined process to parse it: parser: ") {
		t.Errorf("load: %+v", err)
	}
	if !strings.Contains(h.Log(), "confined parser") {
		t.Errorf("log: %s", h.Log())
	}
}

// TestTrustedParser: nothing is started for nobody.
func TestTrustedParser(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "[signers.dev]\nuntrusted_parser = false\n")
	h.Start()
	time.Sleep(100 * time.Millisecond)
	if all := children(t, h.PID()); len(all) > 0 {
		t.Errorf("children of the daemon: %v", all)
	}
}

// TestUntrustedCorpus: no object that somebody really wrote is too much for the
// confined process.
func TestUntrustedCorpus(t *testing.T) {
	const corpus = "../../../shared/corpus"
	objects, err := filepath.Glob(filepath.Join(corpus, "*.o"))
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) == 0 {
		t.Skip("needs ../../shared/corpus: objects of other projects, which are not part of the repository")
	}
	testenv.NoLeaks(t)
	h := testdaemon.New(t, untrusted)
	h.Manifest("any", "start = \"request\"\n[object]\npath = \"any.o\"\n[maps.\"*\"]\nclass = \"mutable\"\n")
	h.Start()
	loaded := 0
	for _, file := range objects {
		h.Object("any.o", read(t, file))
		_, err := h.Client().Load(context.Background(), "any")
		switch {
		case err == nil:
			loaded++
			if _, err := h.Client().Unload(context.Background(), "any", api.UnloadRequest{}); err != nil {
				t.Fatal(err)
			}
		case strings.Contains(err.Error(), "confined process"):
			if !strings.Contains(err.Error(), "said by the confined process") {
				t.Errorf("%s: %v", filepath.Base(file), err)
			}
		}
	}
	t.Logf("%d of %d loaded", loaded, len(objects))
	if loaded == 0 {
		t.Error("none loaded")
	}
}
