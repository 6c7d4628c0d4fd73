package vmtest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const guestTests = `package m
import ("os"; "testing"; "time")
func TestGood(t *testing.T) { if err := os.WriteFile("/vm/out/hello", []byte("from\x00the guest"), 0o644); err != nil { t.Fatal(err) } }
func TestFails(t *testing.T) { t.Error("wrong") }
func TestPanics(t *testing.T) { panic("at the disco") }
func TestHangs(t *testing.T) { time.Sleep(time.Hour) }
func TestKernelHangs(t *testing.T) {
	if err := os.WriteFile("/sys/power/state", []byte("freeze"), 0); err != nil { t.Log(err) }
	time.Sleep(time.Hour)
}
func TestKernelPanics(t *testing.T) {
	os.Stdout.WriteString("the last words\n")
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil { t.Fatal(err) }
	time.Sleep(time.Hour)
}
`

// small returns a guest of the newest kernel that runs tests of m.
func small(t *testing.T, tests ...string) *Guest {
	t.Helper()
	k := requireGuests(t)
	m := binary(t, guestTests)
	g := &Guest{Kernel: k, Modules: []string{"veth"}, Files: map[string]string{"/m.test": m}, Memory: 512, Timeout: 2 * time.Minute}
	for _, name := range tests {
		g.Commands = append(g.Commands, Command{Name: name, Dir: "/", Args: []string{"/m.test", "-test.v", "-test.run=^" + name + "$"}, Env: []string{Path}, Timeout: 30 * time.Second})
	}
	return g
}

// requireGuests returns the newest kernel.
func requireGuests(t *testing.T) *Kernel {
	t.Helper()
	k, err := Find(Kernels[len(Kernels)-1])
	if err == nil {
		if _, e := exec.LookPath("qemu-system-x86_64"); e != nil {
			err = unavailable("qemu-system-x86_64 is not installed: run scripts/vm-setup")
		}
	}
	if err != nil {
		giveUp(t, err)
	}
	return k
}

// run boots g and returns its report, the output of each command, and its error.
func run(t *testing.T, g *Guest) (*Report, []string, error) {
	t.Helper()
	out := make([]string, len(g.Commands))
	r, err := g.Run(t.Context(), func(i int, b []byte) { out[i] += string(b) })
	if r.Console != "" {
		t.Cleanup(func() { os.Remove(r.Console) })
	}
	return r, out, err
}

// What happens to a test in the guest is what happens to it on the host.
func TestGuest(t *testing.T) {
	g := small(t, "TestGood", "TestFails", "TestPanics", "TestHangs")
	g.Commands[3].Timeout = 10 * time.Second // long enough for Go to have begun
	g.Programs, g.Clock = []string{"ip"}, "2046-12-31"
	g.Commands = append(g.Commands, Command{Name: "ip", Dir: "/", Env: []string{Path},
		Args: []string{"/bin/sh", "-c", "date +%F && ip link add veth-a type veth peer name veth-b && ip -o link show lo && stat -f -c %T /sys/fs/bpf /sys/fs/cgroup; id -u; nosuch"}, Timeout: time.Minute})
	r, out, err := run(t, g)
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Command != "TestFails" {
		t.Errorf("error %v, want TestFails's exit status", err)
	}
	want := []Exit{{"TestGood", 0, "exited"}, {"TestFails", 1, "exited"}, {"TestPanics", 2, "exited"}, {"TestHangs", -1, "timeout"}, {"ip", 127, "exited"}}
	for i, e := range want {
		if i >= len(r.Exits) || r.Exits[i] != e {
			t.Errorf("ends %+v, want %+v", r.Exits, want)
			break
		}
	}
	for i, says := range []string{"--- PASS: TestGood", "m_test.go:4: wrong", "panic: at the disco", "SIGQUIT", "LOOPBACK,UP"} {
		if !strings.Contains(out[i], says) {
			t.Errorf("%s did not say %q:\n%s", g.Commands[i].Name, says, out[i])
		}
	}
	if !strings.HasPrefix(out[4], g.Clock+"\n") {
		t.Errorf("its clock begins with %q, want %s", out[4], g.Clock)
	}
	if got := string(r.Files["hello"]); got != "from\x00the guest" {
		t.Errorf("file %q", got)
	}
	if !strings.HasPrefix(r.Release, g.Kernel.Release) {
		t.Errorf("release %q, want %q", r.Release, g.Kernel.Release)
	}
	if info, err := os.Stat(r.Console); err != nil || info.Size() > keepStart+keepEnd+100 {
		t.Errorf("console of a failed guest: %v", err)
	}
}

// A kernel that panics fails the test that made it, and the console says so.
func TestGuestKernelPanic(t *testing.T) {
	r, out, err := run(t, small(t, "TestKernelPanics", "TestGood"))
	if err == nil || !strings.Contains(err.Error(), "died while TestKernelPanics ran: ") || !strings.Contains(err.Error(), "sysrq triggered crash") {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(out[0], "the last words") || len(r.Exits) != 0 {
		t.Errorf("output %q, ends %+v", out, r.Exits)
	}
	if b, _ := os.ReadFile(r.Console); !strings.Contains(string(b), "Kernel panic - not syncing") {
		t.Errorf("the console says %q", b)
	}
}

// A kernel that hangs is a time-out of the test that ran, and not of the run.
func TestGuestKernelHangs(t *testing.T) {
	g := small(t, "TestKernelHangs", "TestGood")
	g.CPUs, g.Timeout = 1, 5*time.Minute
	g.Commands[0].Timeout = 5 * time.Second
	start := time.Now()
	_, _, err := run(t, g)
	if err == nil || !strings.Contains(err.Error(), "time-out while TestKernelHangs ran") || time.Since(start) > 3*time.Minute {
		t.Errorf("error %v after %v", err, time.Since(start))
	}
}

// A guest that does not end is ended.
func TestGuestTimeout(t *testing.T) {
	g := small(t, "TestHangs")
	g.Timeout = 25 * time.Second
	_, _, err := run(t, g)
	if err == nil || !strings.Contains(err.Error(), "time-out") {
		t.Errorf("error %v", err)
	}
}

// A boot that hangs is tried again, and one that always does is given up.
func TestGuestBootHangs(t *testing.T) {
	g := small(t, "TestGood")
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := "#!/bin/sh\n[ -e " + dir + "/hung ] && exec " + qemu + " \"$@\"\n: >" + dir + "/hung\nexec sleep 600\n"
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	g.bootLimit = 20 * time.Second
	if r, _, err := run(t, g); err != nil || r.Boots < 2 || len(r.Exits) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	// A kernel that dies is started again as one that hangs is.
	os.Remove(filepath.Join(dir, "hung"))
	dies := strings.Replace(script, "exec sleep 600", "exit 0", 1)
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(dies), 0o755); err != nil {
		t.Fatal(err)
	}
	if r, _, err := run(t, g); err != nil || r.Boots != 2 || len(r.Exits) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	g.bootLimit = 100 * time.Millisecond
	if r, _, err := run(t, g); err == nil || !strings.Contains(err.Error(), "time-out before /init ran, 3 times") {
		t.Errorf("%+v, %v", r, err)
	}
}

// A person gets a shell, with this module's tests and sources beside it.
func TestShell(t *testing.T) {
	requireGuests(t)
	cmd := exec.CommandContext(t.Context(), "go", "run", "./cmd/vm", "-kernel", "7.3", "-shell", modulePath+"/systemd")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	b := make([]byte, 4096)
	for asked := false; ; {
		n, err := out.Read(b)
		if said.Write(b[:n]); err != nil {
			break
		}
		if !asked && strings.Contains(said.String(), "guest /src #") {
			asked = true
			io.WriteString(in, "uname -r; /vm/bin/systemd.test -test.list . | head -1; head -1 go.mod; exit\n")
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
	for _, want := range []string{"\n7.3.", "\nTest", "\nmodule " + modulePath} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the shell did not say %q:\n%s", want, said.String())
		}
	}
}

// TestIn is itself a test of a guest.
func TestIn(t *testing.T) {
	if !In(t, "7.3") {
		return
	}
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil || !strings.HasPrefix(string(b), "7.3.") {
		t.Errorf("Linux %s, %v", b, err)
	}
	if _, err := os.Stat("../../go.mod"); err != nil {
		t.Error(err)
	}
}

func TestNoQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for arch, want := range map[*Arch]string{
		AMD64: "amd64 guest: qemu-system-x86_64 is not installed: run scripts/vm-setup",
		ARM64: "arm64 guest: qemu-system-aarch64 is not installed: run scripts/vm-setup arm64",
	} {
		g := &Guest{Kernel: &Kernel{Arch: arch}}
		if _, err := g.Run(t.Context(), nil); !errors.Is(err, ErrUnavailable) || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
