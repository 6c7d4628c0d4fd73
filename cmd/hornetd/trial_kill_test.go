package main_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestKilledAtEverySystemCallOfATrial kills hornetd at the system calls of an
// upgrade, of its trial and of the return, which is where a trial ends that
// fails. A start with the old manifest then has exactly the old version: the
// same programs, maps and updatable links.
func TestKilledAtEverySystemCallOfATrial(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	cgroup := testenv.Cgroup(t)
	text := func(version int, more string) string {
		return fmt.Sprintf("version = %d\n", version) + two(cgroup, more)
	}
	const fails = "[health]\nseconds = 1\nmap = \"connects\"\nkey = \"0x0000000000000000\"\ngrows = true\n"
	h.Manifest("two", text(1, ""))
	h.Start()
	first := get(t, h, "two")
	if c := first; len(c.Links) != 2 {
		t.Fatalf("%+v", c)
	}
	step := 12
	switch {
	case *every:
		step = 1
	case testing.Short():
		step = 25
	}
	kills, ends := 0, map[uint64]int{}
	for _, syscall := range []string{"bpf", "renameat2", "linkat", "unlinkat", "fdatasync"} {
		for n := 1; ; n += step {
			h.Manifest("two", text(2, fails))
			cmd := tracer(t, h.PID(), "-o", os.DevNull, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", syscall, n))
			_, err := h.Client().Upgrade(context.Background(), "two")
			survived := err == nil && trialEnds(h, "two")
			h.Kill()
			cmd.Wait()
			ends[onDisk(t, h, "two")]++
			h.Manifest("two", text(1, ""))
			h.Start()
			c := get(t, h, "two")
			if c.Version != 1 || c.State != api.StateRunning || c.Reason != "" || fmt.Sprint(c.Programs) != fmt.Sprint(first.Programs) ||
				fmt.Sprint(c.Links) != fmt.Sprint(first.Links) || fmt.Sprint(c.Maps) != fmt.Sprint(first.Maps) {
				t.Fatalf("%s %d: %+v, before %+v\n%s", syscall, n, c, first, h.Log())
			}
			if got := kernelLinks(t, c); len(got) != 2 || len(onBPFFS(t, h)) != 1 {
				t.Fatalf("%s %d: links %v, on bpffs %v", syscall, n, got, onBPFFS(t, h))
			}
			if survived {
				break // there are fewer than n such calls
			}
			kills++
		}
	}
	t.Logf("%d kills; the version that was committed then, and how often: %v", kills, ends)
	if ends[1] == 0 || ends[2] == 0 {
		t.Errorf("committed when it was killed: %v: the points do not span the trial", ends)
	}
	if c := upgradeTo(t, h, text(2, "")); c.Version != 2 {
		t.Errorf("an upgrade after all that: %+v", c)
	}
}

func upgradeTo(t *testing.T, h *testdaemon.Host, text string) api.Collection {
	t.Helper()
	h.Manifest("two", text)
	return upgrade(t, h, "two")
}

// trialEnds waits until a collection is not on trial any more, and reports
// whether hornetd lives to tell.
func trialEnds(h *testdaemon.Host, name string) bool {
	for {
		c, err := h.Client().Get(context.Background(), name)
		if err != nil || c.TrialUntil.IsZero() {
			return err == nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// onDisk is the version whose record is committed on bpffs.
func onDisk(t *testing.T, h *testdaemon.Host, name string) uint64 {
	t.Helper()
	v, _ := record(t, h, name)["version"].(float64)
	return uint64(v)
}
