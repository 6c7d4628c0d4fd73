package audit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func requireStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
}

// strace counts: each record is one write and one fdatasync, in this order.
func TestOneWriteAndOneSyncPerRecord(t *testing.T) {
	requireStrace(t)
	trace := t.TempDir() + "/trace"
	out, err := child([]string{"strace", "-f", "-y", "-o", trace, "-e", "trace=write,pwrite64,fdatasync,fsync,ftruncate,fallocate"}, logDir(t), "5").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log, err := os.ReadFile(trace)
	must(t, err)
	call := regexp.MustCompile(`(?m)^\d+ +(\w+)\(\d+<[^>]*/` + regexp.QuoteMeta(fileName) + `>`)
	var got []string
	for _, m := range call.FindAllSubmatch(log, -1) {
		got = append(got, string(m[1]))
	}
	want := []string{"fsync", "fallocate"} // the file that Open made, and its reserve
	for range 5 {
		want = append(want, "pwrite64", "fdatasync")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", diff, log)
	}
	if dirs := regexp.MustCompile(`(?m)fsync\(\d+<[^>]*>`).FindAll(log, -1); len(dirs) != 3 {
		t.Errorf("fsync of %q, want the file, its directory and that one's", dirs)
	}
}

const records = 3

// A kill, or an error, at any system call that writes: what was acknowledged
// is there, in order and once, and the log goes on.
func TestFaultAtEverySystemCall(t *testing.T) {
	requireStrace(t)
	for fault, calls := range map[string][]string{
		"signal=KILL":  {"mkdirat", "openat", "fsync", "fallocate", "pwrite64", "fdatasync"},
		"error=ENOSPC": {"fallocate", "pwrite64", "fdatasync"},
		"error=EIO":    {"pwrite64", "fdatasync"},
		"error=EINTR":  {"fallocate", "pwrite64", "fdatasync"},
		"retval=7":     {"pwrite64"}, // a short write
	} {
		t.Run(fault, func(t *testing.T) {
			step := 1
			if testing.Short() {
				step = 9
			}
			for _, call := range calls {
				hit := 0
				for faultAt(t, fault, call, hit*step+1) {
					hit++
				}
				t.Logf("%s: %d points, one in %d tried", call, hit, step)
				if hit == 0 {
					t.Errorf("%s was never hit", call)
				}
			}
		})
	}
}

// faultAt runs a child with a fault at the nth time it makes a system call, and
// reports whether it came to that.
func faultAt(t *testing.T, fault, call string, n int) bool {
	t.Helper()
	dir := logDir(t)
	trace := t.TempDir() + "/trace"
	out, err := child([]string{"strace", "-f", "-qq", "-o", trace, "-e", "trace=" + call,
		"-e", fmt.Sprintf("inject=%s:%s:when=%d", call, fault, n)}, dir, strconv.Itoa(records)).Output()
	log, _ := os.ReadFile(trace)
	checkAcknowledged(t, dir, string(out), fault)
	if t.Failed() {
		t.Fatalf("%s number %d:\n%s\n%s", call, n, out, log)
	}
	return err != nil || bytes.Contains(log, []byte("INJECTED"))
}

// checkAcknowledged compares what a child printed with what the log holds.
func checkAcknowledged(t *testing.T, dir, out, fault string) {
	t.Helper()
	acknowledged := 0
	for line := range strings.Lines(out) {
		if seq, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			if acknowledged++; seq != acknowledged {
				t.Errorf("acknowledged %d, want %d", seq, acknowledged)
			}
		}
	}
	l, err := Open(dir)
	must(t, err)
	defer l.Close()
	got := seqs(t, l, 1)
	if diff := cmp.Diff(upTo(uint64(len(got))), got); diff != "" {
		t.Error(diff)
	}
	if len(got) != acknowledged && !(fault == "signal=KILL" && len(got) == acknowledged+1) {
		t.Errorf("%d records, %d acknowledged", len(got), acknowledged)
	}
	appendN(t, l, 1)
	// A fault that is over leaves nothing behind: every other record was taken.
	refused := strings.Count("\n"+out, "\nerror ")
	if fault != "signal=KILL" && refused+acknowledged != records || refused > 1 {
		t.Errorf("%d acknowledged, %d refused", acknowledged, refused)
	}
	if fault == "error=EINTR" && refused > 0 || fault == "error=ENOSPC" && refused > strings.Count(out, ErrFull.Error()) {
		t.Errorf("child says %s", out)
	}
}
