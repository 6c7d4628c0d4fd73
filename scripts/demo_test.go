package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/testenv"
)

// demonstration is a `make run` in a checkout of its own. Its output goes to a
// file, not a pipe: a process left behind would hold a pipe open for ever.
type demonstration struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   string
	ended chan error
}

func demo(t *testing.T) *demonstration {
	t.Helper()
	testenv.RequireRoot(t)
	d := &demonstration{t: t, out: filepath.Join(t.TempDir(), "out"), ended: make(chan error, 1)}
	out, err := os.Create(d.out)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	d.cmd = exec.Command("make", "run")
	d.cmd.Dir = checkout(t)
	d.cmd.Env = append(os.Environ(), "RUN_ONCE=1")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell does, for Ctrl-C
	d.cmd.Stdout, d.cmd.Stderr = out, out
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.ended <- d.cmd.Wait() }()
	return d
}

func (d *demonstration) text() string {
	d.t.Helper()
	b, err := os.ReadFile(d.out)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// waitFor waits until the output has s in it.
func (d *demonstration) waitFor(s string) {
	d.t.Helper()
	for !strings.Contains(d.text(), s) {
		select {
		case err := <-d.ended:
			d.t.Fatalf("make run ended before it said %q: %v\n%s", s, err, d.text())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// traces is what a demonstration could leave on this machine, beside BPF
// objects, which testenv.NoLeaks looks for. Its network namespaces and bpffs
// live as long as its processes.
func traces(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/tmp/hornet-demo.*", testenv.CgroupRoot(t) + "/hornet-demo.*", "/run/netns/*", "/sys/fs/bpf/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, files...)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if b, err := os.ReadFile(c); err == nil && strings.Contains(string(b), "/hornet-demo.") {
			found = append(found, string(b))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "hornet-demo") {
			found = append(found, line)
		}
	}
	return found
}

// The demonstration checks itself what it shows; here it must come to its end,
// have shown the things it promises, and be gone.
func TestDemo(t *testing.T) {
	testenv.NoLeaks(t)
	before := traces(t)
	d := demo(t)
	if err := <-d.ended; err != nil {
		t.Fatalf("make run: %v\n%s", err, d.text())
	}
	for _, want := range []string{
		"192.0.2.7    dropped by xdp-drop",
		"203.0.113.9  dropped by xdp-filter",
		"Signed by   dev",
		"blocked  LPMTrie",
		"(exit status 3)", // an unprivileged user's unload
		"bad-signature",
		"(exit status 4)", // the tampered object
		"hornetd: freeze, check, load",
		"adopted the same 8 links and programs",
		"== Live counters",
		"== Done",
	} {
		if !strings.Contains(d.text(), want) {
			t.Errorf("output has no %q", want)
		}
	}
	if diff := cmp.Diff(before, traces(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	if t.Failed() {
		t.Log(d.text())
	}
}

// Ctrl-C in the middle reaches every process of the demonstration at once.
func TestDemoInterrupted(t *testing.T) {
	testenv.NoLeaks(t)
	before := traces(t)
	d := demo(t)
	d.waitFor("== What the programs do")
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-d.ended // make says that it was interrupted
	if strings.Contains(d.text(), "== Live counters") {
		t.Errorf("it went on")
	}
	if strings.Contains(d.text(), "demo: ") {
		t.Errorf("it complained")
	}
	if diff := cmp.Diff(before, traces(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	if t.Failed() {
		t.Log(d.text())
	}
}
