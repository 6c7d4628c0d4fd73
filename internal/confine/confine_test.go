package confine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// parser starts one that the test closes, and that has nothing to tell unless
// the test expects it.
func parser(t testing.TB, name string) *Parser {
	t.Helper()
	p := Start(name, func(err error) { t.Logf("told: %v", err) })
	t.Cleanup(func() {
		p.Close()
		if left := offspring(t, os.Getpid()); len(left) > 0 {
			t.Errorf("closed, and there are still %v", left)
		}
	})
	return p
}

func object(s string) *bytes.Reader { return bytes.NewReader([]byte(s)) }

// requireRoot is testenv's, which would bring cgo along: see everyThread.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// offspring returns the children of a process, zombies too, as the kernel has them.
func offspring(t testing.TB, pid int) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(strings.Split(f, "/")[2])
			pids = append(pids, child)
		}
	}
	return pids
}

// eventually waits for what must become true, and says whether it did.
func eventually(within time.Duration, is func() bool) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if is() {
			return true
		}
	}
	return is()
}

// waiting returns the process that is ready: confined, and asleep in its read.
func waiting(t testing.TB, parent int) int {
	t.Helper()
	pid := 0
	if !eventually(20*time.Second, func() bool {
		all := offspring(t, parent)
		if len(all) != 1 {
			return false
		}
		pid = all[0]
		return status(t, pid)["Seccomp"] == "2" && reads(pid)
	}) {
		t.Fatalf("no process is ready, there are %v", offspring(t, parent))
	}
	return pid
}

// reads says whether a process has a thread in read(2) of its object.
func reads(pid int) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	return slices.ContainsFunc(files, func(f string) bool {
		b, _ := os.ReadFile(f)
		return strings.HasPrefix(string(b), fmt.Sprintf("%d 0x%x ", unix.SYS_READ, objectFD))
	})
}

// status is /proc/PID/status; empty for a process that has ended.
func status(t testing.TB, pid int) map[string]string {
	t.Helper()
	return statusFile(fmt.Sprintf("/proc/%d/status", pid))
}

func statusFile(file string) map[string]string {
	fields := map[string]string{}
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields
}

func TestParse(t *testing.T) {
	p := parser(t, "test-plain")
	for _, size := range []int{4, 5, 64 << 10, 64<<10 + 1, 1 << 20, MaxObject} {
		b := append([]byte("good"), make([]byte, size-4)...)
		if err := p.Parse(bytes.NewReader(b)); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		b[0] = 'b'
		err := p.Parse(bytes.NewReader(b))
		if err == nil || err.Error() != fmt.Sprintf("%d bytes are bad", size) || remedy.Of(err) != "write good" || errors.As(err, new(*Failure)) {
			t.Errorf("%d bytes: %v (%s)", size, err, remedy.Of(err))
		}
	}
	if err := p.Parse(object("")); err == nil || err.Error() != "0 bytes are bad" {
		t.Errorf("nothing: %v", err)
	}
	if err := p.Parse(bytes.NewReader(make([]byte, MaxObject+1))); err == nil || !strings.Contains(err.Error(), "8388609 bytes are more than") {
		t.Errorf("too much: %v", err)
	}
}

// What the kernel says of a process that waits for its object.
func TestSpareIsConfined(t *testing.T) {
	requireRoot(t)
	p := parser(t, "test-plain")
	pid := waiting(t, os.Getpid())
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	for _, file := range threads {
		got := statusFile(file)
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			if got[set] != "0000000000000000" {
				t.Errorf("%s: %s %s", file, set, got[set])
			}
		}
		if got["NoNewPrivs"] != "1" || got["Seccomp"] != "2" {
			t.Errorf("%s: NoNewPrivs %s, Seccomp %s", file, got["NoNewPrivs"], got["Seccomp"])
		}
	}

	size, err := strconv.ParseUint(strings.TrimSuffix(status(t, pid)["VmSize"], " kB"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		name, rest := strings.TrimSpace(line[:25]), strings.Fields(line[25:])
		want, limited := map[string]string{"Max cpu time": "5", "Max file size": "0", "Max core file size": "0",
			"Max data size": "1073741824", "Max processes": "64", "Max open files": "6"}[name]
		switch {
		case limited && (rest[0] != want || rest[1] != want):
			t.Errorf("%s, want %s", strings.TrimSpace(line), want)
		case name == "Max address space":
			if most, err := strconv.ParseUint(rest[1], 10, 64); err != nil || rest[0] != rest[1] || most > size<<10+maxMemory {
				t.Errorf("%s, and it has %d KiB", strings.TrimSpace(line), size)
			}
		}
	}

	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, fd := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(to, ":")
		open = append(open, fd.Name()+" "+kind)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid)); err != nil || string(b) != "1000\n" {
		t.Errorf("oom_score_adj %q, %v", b, err)
	}
	if want := []string{"0 /dev/null", "1 pipe", "2 pipe", "3 pipe"}; !slices.Equal(open, want) {
		t.Errorf("descriptors %q, want %q", open, want)
	}
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || len(env) > 0 {
		t.Errorf("environment %q, %v", env, err)
	}
	if err := p.Parse(object("good")); err != nil {
		t.Error(err)
	}
}

// Whatever the process does but parse and answer, is no yes.
func TestHostile(t *testing.T) {
	killed := "signal: bad system call"
	for name, says := range map[string]string{
		"test-open": killed, "test-stat": killed, "test-chmod": killed, "test-socket": killed, "test-exec": killed, "test-fork": killed,
		"test-kill": killed, "test-signal": killed, "test-bpf": killed, "test-code": killed, "test-prctl": killed,
		"test-memory":  "out of memory",
		"test-hoard":   "out of memory",
		"test-panic":   `exit status 2: panic: the parser's \x1b[31mown`,
		"test-die":     "signal: killed",
		"test-forge":   `it answered ok\nok\n`,
		"test-blank":   `it answered \nok\n`,
		"test-silent":  "it answered",
		"test-liar":    "exit status 3: ok",
		"test-endless": "an answer of more than 4096 bytes",
	} {
		t.Run(name, func(t *testing.T) {
			err := parser(t, name).Parse(object("object"))
			var failure *Failure
			if !errors.As(err, &failure) || !failure.Started || remedy.Of(err) == "" {
				t.Fatalf("%v (%s), want a failure with a remedy", err, remedy.Of(err))
			}
			if !strings.HasPrefix(err.Error(), "parser: ") || !strings.Contains(err.Error(), says) {
				t.Errorf("%q does not say %q", err, says)
			}
			if strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("%q can forge a line", err)
			}
		})
	}
}

// What a program of many threads that collects garbage needs, it has.
func TestRuntimeWorks(t *testing.T) {
	p := parser(t, "test-work")
	for range 5 {
		if err := p.Parse(object("")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSpins(t *testing.T) {
	err := parser(t, "test-spin").Parse(object("object"))
	// On a machine that is busy the clock may be first.
	if !errors.As(err, new(*Failure)) || !strings.Contains(err.Error(), "5 seconds of processor time") && !strings.Contains(err.Error(), "no answer within") {
		t.Error(err)
	}
}

func TestSleeps(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the time-out")
	}
	start := time.Now()
	err := parser(t, "test-sleep").Parse(object("object"))
	if !errors.As(err, new(*Failure)) || !strings.Contains(err.Error(), "no answer within 10s") {
		t.Error(err)
	}
	if took := time.Since(start); took < patience {
		t.Errorf("gave up after %s", took)
	}
}

// Without a confined process nothing is parsed, and who asks is told why.
func TestCannotBeConfined(t *testing.T) {
	told := make(chan error, 100)
	p := Start("test-loose", func(err error) { told <- err })
	defer p.Close()
	err := p.Parse(object("good"))
	var failure *Failure
	if !errors.As(err, &failure) || failure.Started || remedy.Of(err) == "" || err.Error() != `parser: not confined: exit status 1: no such \x1b thing` {
		t.Errorf("%v (%s)", err, remedy.Of(err))
	}
	if err := <-told; !strings.Contains(err.Error(), "not confined") {
		t.Errorf("told %v", err)
	}
}

// One that is killed while it starts, which says nothing of the next, is replaced.
func TestKilledAtTheStart(t *testing.T) {
	dir := killedOnce(os.Getpid())
	defer os.Remove(dir)
	p := Start("test-killed", func(err error) { t.Errorf("told %v", err) })
	defer p.Close()
	if err := p.Parse(object("good")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("none was killed: %v", err)
	}
}

// What keeps processes from starting is told when it changes, and they are tried
// less and less unless somebody asks.
func TestStartsLessAndLess(t *testing.T) {
	same, other := make(chan error, 100), make(chan error, 100)
	p := Start("test-loose", func(err error) { same <- err })
	defer p.Close()
	q := Start("test-other", func(err error) { other <- err })
	defer q.Close()
	time.Sleep(2200 * time.Millisecond) // starts after 0, 250, 750 and 1750 ms, the next after 3750
	if n := len(same); n != 1 {
		t.Errorf("told %d times of the same", n)
	}
	if n := len(other); n < 2 || n > 4 {
		t.Errorf("%d starts", n)
	}
	var said []string
	for range 2 {
		err := q.Parse(object("good"))
		if err == nil {
			t.Fatal("parsed")
		}
		said = append(said, err.Error())
		time.Sleep(pause)
	}
	if said[0] == said[1] {
		t.Error("who asks again has not had it tried again")
	}
}

func TestNeverReady(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the time-out")
	}
	if err := parser(t, "test-mute").Parse(object("good")); !errors.As(err, new(*Failure)) || !strings.Contains(err.Error(), "ready within 10s") {
		t.Error(err)
	}
}

// Each layer by itself keeps what it is there for.
func TestLayers(t *testing.T) {
	requireRoot(t)
	for name, says := range map[string]string{
		"test-limits":       "too many open files",
		"test-capabilities": "permission denied",
	} {
		t.Run(name, func(t *testing.T) {
			if err := parser(t, name).Parse(object("")); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want %q", err, says)
			}
		})
	}
}

// Landlock keeps all files from all threads, those that were there and those
// that came later.
func TestLandlock(t *testing.T) {
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); errno != 0 {
		t.Skipf("this kernel has no Landlock (%s)", errno)
	}
	t.Cleanup(func() { os.Remove("/tmp/confine-test") }) // it is only there if this fails
	for name, says := range map[string]string{
		"test-files":            `open /: permission denied\nmkdir /tmp/confine-test: permission denied`,
		"test-files-everywhere": "open /: permission denied",
		"test-all-but-calls":    "mkdir /tmp/confine-test: permission denied",
	} {
		t.Run(name, func(t *testing.T) {
			if err := parser(t, name).Parse(object("")); err == nil || err.Error() != says {
				t.Errorf("%v, want %q", err, says)
			}
		})
	}
}

// A process that somebody kills while it waits is replaced.
func TestKilledSpare(t *testing.T) {
	told := make(chan error, 10)
	p := Start("test-plain", func(err error) { told <- err })
	defer p.Close()
	for range 5 {
		pid := waiting(t, os.Getpid())
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := <-told; !strings.Contains(err.Error(), "died: signal: killed") {
			t.Errorf("told %v", err)
		}
		if err := p.Parse(object("good")); err != nil {
			t.Error(err)
		}
	}
}

// A thousand objects, good and bad, leave nothing behind.
func TestLeavesNothing(t *testing.T) {
	plain, dies := parser(t, "test-plain"), Start("test-die", func(error) {})
	defer dies.Close()
	descriptors := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	rest := func() bool {
		all := offspring(t, os.Getpid())
		return len(all) == 2 && status(t, all[0])["Seccomp"] == "2" && status(t, all[1])["Seccomp"] == "2"
	}
	plain.Parse(object(""))
	dies.Parse(object(""))
	if !eventually(20*time.Second, rest) {
		t.Fatalf("processes: %v", offspring(t, os.Getpid()))
	}
	before := descriptors()
	rounds := 500
	if testing.Short() {
		rounds = 50
	}
	for range rounds {
		if err := plain.Parse(object("good")); err != nil {
			t.Fatal(err)
		}
		if err := dies.Parse(object("")); err == nil {
			t.Fatal("no error")
		}
	}
	if !eventually(20*time.Second, rest) {
		t.Errorf("processes: %v", offspring(t, os.Getpid()))
	}
	if !eventually(20*time.Second, func() bool { return descriptors() <= before }) {
		t.Errorf("%d descriptors, were %d", descriptors(), before)
	}
}

// Close ends what parses and what waits.
func TestClose(t *testing.T) {
	p := Start("test-spin", func(error) {})
	waiting(t, os.Getpid())
	var failed atomic.Value
	ended := make(chan bool)
	go func() { failed.Store(p.Parse(object(""))); close(ended) }()
	if !eventually(20*time.Second, func() bool { return len(offspring(t, os.Getpid())) == 2 }) {
		t.Fatalf("processes: %v", offspring(t, os.Getpid()))
	}
	p.Close()
	<-ended
	if !errors.As(failed.Load().(error), new(*Failure)) {
		t.Error(failed.Load())
	}
	if left := offspring(t, os.Getpid()); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
	if err := p.Parse(object("")); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
}

// Where the daemon is killed, no process survives it, not even one that would
// never look at a descriptor again.
func TestKilledParent(t *testing.T) {
	daemon, err := os.StartProcess("/proc/self/exe", []string{"test-parent"}, &os.ProcAttr{Env: []string{}, Files: make([]*os.File, 3)})
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	if !eventually(20*time.Second, func() bool {
		children = offspring(t, daemon.Pid)
		return len(children) == 2 && status(t, children[0])["Seccomp"] == "2" && status(t, children[1])["Seccomp"] == "2"
	}) {
		t.Errorf("processes: %v", children)
	}
	daemon.Kill()
	daemon.Wait()
	for _, pid := range children {
		if !eventually(2*time.Second, func() bool { return syscall.Kill(pid, 0) != nil || status(t, pid)["State"] == "Z (zombie)" }) {
			t.Errorf("%d is still there: %s", pid, status(t, pid)["State"])
		}
	}
}

// FuzzAnswer: whatever the process answers is a yes only if it is the very word,
// and what is shown of it cannot forge a line.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"", taken, refused, refused + "a\nb\n", refused + "a\n\n", refused + "\x1b\n\xff\n", refused + "a\nb\nc\n", "ok", "ok\nok\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		said, ok := decode(answer)
		if (ok && said == nil) != (string(answer) == taken) {
			t.Errorf("%q is %v", answer, ok)
		}
		if said == nil {
			return
		}
		for _, s := range []string{said.Error(), remedy.Of(said)} {
			if len(s) > maxReason || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
				t.Errorf("%q is shown as %q", answer, s)
			}
		}
		if again, ok := decode(encode(said)); !ok || again.Error() != said.Error() || remedy.Of(again) != remedy.Of(said) {
			t.Errorf("%q became %v", said, again)
		}
	})
}

// What a load waits for when a process is ready, and when the next one must be
// started first.
func BenchmarkParse(b *testing.B) {
	p := Start("test-plain", func(error) {})
	defer p.Close()
	text := "good" + strings.Repeat("!", 9<<10)
	for _, ready := range []bool{true, false} {
		b.Run(fmt.Sprintf("ready=%t", ready), func(b *testing.B) {
			for range b.N {
				if ready {
					b.StopTimer()
					waiting(b, os.Getpid())
					b.StartTimer()
				}
				if err := p.Parse(object(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
