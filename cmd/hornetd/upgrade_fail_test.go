package main_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

var every = flag.Bool("every", false, "let each call fail, not only some")

// traced runs f while strace has the daemon, and lets go of it then.
func traced(t *testing.T, h *testdaemon.Host, f func(), args ...string) {
	t.Helper()
	cmd := tracer(t, h.PID(), args...)
	f()
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // it ends by the signal
}

// bpfCalls counts the bpf(2) calls that f has the daemon's busiest thread make.
func bpfCalls(t *testing.T, h *testdaemon.Host, f func()) int {
	t.Helper()
	trace := filepath.Join(h.Dir, "trace")
	traced(t, h, f, "-o", trace)
	b := read(t, trace)
	calls := make(map[string]int)
	most := 0
	for line := range bytes.Lines(b) {
		tid, rest, _ := strings.Cut(string(line), " ")
		if strings.HasPrefix(strings.TrimSpace(rest), "bpf(") {
			calls[tid]++
			most = max(most, calls[tid])
		}
	}
	return most
}

// TestEveryFailedCallOfAnUpgrade lets each bpf(2) call of an upgrade of links of
// every kind fail. Whichever it is, the kernel runs exactly what it ran before, or
// exactly the new version, and nothing else is left.
func TestEveryFailedCallOfAnUpgrade(t *testing.T) {
	for name, more := range map[string]string{"gap": "upgrade = \"gap\"\n", "turns": "priorities = [10, 11]\n"} {
		t.Run(name, func(t *testing.T) { failEveryCall(t, more) })
	}
}

func failEveryCall(t *testing.T, more string) {
	h, pair, cgroup := newMixed(t)
	version := 1
	h.Manifest("mixed", mixed(pair, cgroup, version, more))
	h.Start()
	upgrade := func() error {
		version++
		h.Manifest("mixed", mixed(pair, cgroup, version, more))
		_, err := h.Client().Upgrade(context.Background(), "mixed")
		return err
	}
	if err := upgrade(); err != nil { // what is asked for once is asked
		t.Fatal(err)
	}
	calls := bpfCalls(t, h, func() {
		if err := upgrade(); err != nil {
			t.Fatal(err)
		}
	})
	step := 4
	switch {
	case *every:
		step = 1
	case testing.Short():
		step = 16
	}
	errnos := []string{"ENOMEM", "EPERM", "EBUSY", "EINVAL", "ENOSPC"}
	failed, done := 0, 0
	for n := 1; n <= calls; n += step {
		before := get(t, h, "mixed")
		was := byProgram(t, before)
		var err error
		traced(t, h, func() { err = upgrade() }, "-o", os.DevNull, "-e", fmt.Sprintf("inject=bpf:error=%s:when=%d", errnos[n%len(errnos)], n))
		now := get(t, h, "mixed")
		// strace counts by thread, and what is done in a namespace has a new
		// one: there the call fails that undoes, too, and it is repaired later.
		for wait := 0; now.Reason != "" && wait < 1000; wait++ {
			time.Sleep(50 * time.Millisecond)
			now = get(t, h, "mixed")
		}
		links := byProgram(t, now)
		if err != nil {
			failed++
			for program, l := range was {
				got := links[program]
				if program == "nf_accept" && more == "upgrade = \"gap\"\n" {
					got.ID = l.ID // it may have been attached again
				}
				if got != l {
					t.Errorf("call %d of %d: %v: %s: %+v became %+v", n, calls, err, program, l, got)
				}
			}
			if fmt.Sprint(now.Programs) != fmt.Sprint(before.Programs) || fmt.Sprint(now.Maps) != fmt.Sprint(before.Maps) || now.Version != before.Version {
				t.Errorf("call %d of %d: %v: programs and maps changed: %+v", n, calls, err, now)
			}
		} else {
			done++
			if now.Version != uint64(version) || links["xdp_pass"].ID != was["xdp_pass"].ID || len(kernelLinks(t, before)) != 0 {
				t.Errorf("call %d of %d: version %d, links %v, before %v, of the old programs %v", n, calls, now.Version, links, was, kernelLinks(t, before))
			}
		}
		if now.Reason != "" || len(kernelLinks(t, now)) != len(was) {
			t.Errorf("call %d of %d: %v: %q, the kernel has links %v of its programs", n, calls, err, now.Reason, kernelLinks(t, now))
		}
		if left := onBPFFS(t, h); len(left) != 1 && err != nil {
			t.Errorf("call %d of %d: %v: on bpffs: %v", n, calls, err, left)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d bpf(2) calls: %d upgrades failed and left everything, %d went through", calls, failed, done)
	if failed == 0 || !testing.Short() && done == 0 {
		t.Errorf("%d failed, %d went through: the calls do not span the upgrade", failed, done)
	}
	if err := upgrade(); err != nil {
		t.Errorf("an upgrade after all that: %v", err)
	}
	if p := testenv.IP(t, pair.B.Netns, "link", "show", "dev", pair.B.Name); !strings.Contains(p, "xdp") {
		t.Error("no program on the interface")
	}
}
