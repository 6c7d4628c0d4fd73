package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestStopped stops hornetd in the middle of a replacement, at one call of each
// kind. Others ask meanwhile, and another hornetd tries to take the root. Going on,
// it answers everybody, and what there is is what it says.
func TestStopped(t *testing.T) {
	testenv.NoLeaks(t)
	w := newWorld(t)
	v := verbs[1]
	for _, p := range []struct {
		call string
		n    int
	}{{"bpf", 40}, {"pwrite64", 1}, {"mkdirat", 2}, {"linkat", 2}, {"renameat2", 1}, {"unlinkat", 3}, {"fdatasync", 2}} {
		after := v.prepare(w)
		tally := w.begin(v.keeps...)
		tracer := w.trace("-e", fmt.Sprintf("inject=%s:signal=STOP:when=%d", p.call, p.n))
		type reply struct {
			what string
			a    answer
			err  error
		}
		replies := make(chan reply)
		ask := func(what string, f func() (answer, error)) {
			go func() {
				a, err := f()
				replies <- reply{what, a, err}
			}()
		}
		ask("reload", w.reload)
		w.untilStopped()
		ask("unload", func() (answer, error) { return w.unload(goes) }) // does not run, which is what was asked for
		ask("list", func() (answer, error) {
			ctx, cancel := patient()
			defer cancel()
			_, err := w.Client().List(ctx)
			return byError(err)
		})
		if said, took := w.another(); !strings.Contains(said, "locked by another owner") {
			t.Errorf("stopped at %s: another hornetd, after %v: %s", p.call, took, said)
		}
		if wrong := tally.violations(); len(wrong) > 0 {
			t.Errorf("stopped at %s: %v", p.call, wrong)
		}
		time.Sleep(20 * time.Millisecond)
		w.Signal(syscall.SIGCONT)
		for range 3 {
			if r := <-replies; r.a != acknowledged && !(r.what == "unload" && r.a == refused) {
				t.Errorf("stopped at %s: %s: %v", p.call, r.what, r.err)
			}
		}
		detach(tracer)
		if _, wrong := w.kernel.wait(exactly(after), settled); len(wrong) > 0 {
			t.Errorf("stopped at %s: %v", p.call, wrong)
		}
		w.is = after
	}
}

// untilStopped waits until a signal has stopped hornetd.
func (w *world) untilStopped() {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.PID()))
		if err != nil {
			w.t.Fatal(err)
		}
		rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
		if strings.HasPrefix(rest, " T") || strings.HasPrefix(rest, " t") {
			return
		}
	}
	w.t.Fatal("hornetd does not stop")
}

// another starts a hornetd beside the one that has the root and returns what it
// said.
func (w *world) another() (said string, took time.Duration) {
	w.t.Helper()
	began := time.Now()
	out, err := exec.Command(testdaemon.Binary(w.t, "hornetd"), "--config", w.Config).CombinedOutput()
	if err == nil {
		w.t.Fatal("a second hornetd ran")
	}
	return string(out), time.Since(began)
}

// TestRacingStarts has many start at once on one root. One wins; the others end
// soon and have changed nothing.
func TestRacingStarts(t *testing.T) {
	testenv.NoLeaks(t)
	w := newWorld(t)
	const daemons = 50
	rounds := 2
	if *all {
		rounds = 20
	}
	version := together(t, daemons, func(int) *exec.Cmd { return exec.Command(testdaemon.Binary(t, "hornetd"), "--version") })
	var slowest time.Duration
	for range rounds {
		w.Kill()
		before, _ := w.kernel.look()
		files := w.files()
		var winner *exec.Cmd
		var mu sync.Mutex
		running := map[*exec.Cmd]bool{}
		lost := make(chan time.Duration, daemons)
		for range daemons {
			cmd := exec.Command(testdaemon.Binary(t, "hornetd"), "--config", w.Config)
			running[cmd] = true
			go func() {
				began := time.Now()
				out, err := cmd.CombinedOutput()
				mu.Lock()
				delete(running, cmd)
				mu.Unlock()
				if err == nil || !strings.Contains(string(out), "locked by another owner") {
					var exit *exec.ExitError
					if !errors.As(err, &exit) || exit.ExitCode() != -1 { // killed is the winner
						t.Errorf("a loser: %v: %s", err, out)
					}
				}
				lost <- time.Since(began)
			}()
		}
		for range daemons - 1 {
			select {
			case took := <-lost:
				slowest = max(slowest, took)
			case <-time.After(60 * time.Second):
				t.Fatal("two of them run")
			}
		}
		mu.Lock()
		for cmd := range running {
			winner = cmd
		}
		mu.Unlock()
		if winner == nil {
			t.Fatal("none won")
		}
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			ctx, cancel := patient()
			s, err := w.Client().Status(ctx)
			cancel()
			if err == nil && s.PID == winner.Process.Pid && len(s.Problems) == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the winner, %d: %+v, %v", winner.Process.Pid, s, err)
			}
		}
		after, wrong := w.kernel.wait(exactly(w.is), settled)
		if wrong = append(wrong, changed(before, after)...); len(wrong) > 0 {
			t.Errorf("%v", wrong)
		}
		if now := w.files(); now != files {
			t.Errorf("files were\n%s\nand are\n%s", files, now)
		}
		winner.Process.Kill()
		<-lost
		w.Start()
	}
	t.Logf("%d times %d at once: the slowest loser ended after %v; as many hornetd --version take %v", rounds, daemons, slowest, version)
	if slowest > version+time.Second {
		t.Errorf("a loser took %v, want less than a second more than %v", slowest, version)
	}
}

// together runs commands at once and returns how long the slowest took.
func together(t *testing.T, n int, command func(int) *exec.Cmd) time.Duration {
	t.Helper()
	var wait sync.WaitGroup
	began := time.Now()
	for i := range n {
		cmd := command(i)
		wait.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wait.Wait()
	return time.Since(began)
}

// files lists the state directory and the socket's.
func (w *world) files() string {
	var b strings.Builder
	filepath.WalkDir(w.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil {
			fmt.Fprintln(&b, path, d.Type())
		}
		return nil
	})
	return b.String()
}
