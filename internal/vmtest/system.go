package vmtest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// System runs a test in a Debian with a real systemd, on one disk and through
// several boots of it.
type System struct {
	Kernel  string        // "7.3"
	Modules []string      // of the kernel, by name
	Lay     string        // directory of this machine that is laid over the disk first
	Boots   int           // all but the last end with systemctl reboot
	Timeout time.Duration // of the test in one boot
}

// bootEnv is the number of the boot, from 1.
const bootEnv = "HORNET_BOOT"

// Boot says which boot of a System the calling test runs in; 0 is on the host.
func Boot() int {
	n, _ := strconv.Atoi(os.Getenv(bootEnv))
	return n
}

// Run is called by a test on the host. It runs the same test in every boot, as
// a service beside all others, and returns what became of it and its subtests
// there. A boot that fails is the last one.
//
// Where no guest can run, t is skipped with the reason, and fails with CI=true.
func (s *System) Run(t *testing.T) []Result {
	t.Helper()
	if _, err := exec.LookPath(AMD64.qemu); err != nil {
		giveUp(t, unavailable("guest: %s is not installed: run %s", AMD64.qemu, AMD64.setup))
	}
	k, err := Find(s.Kernel)
	if err != nil {
		giveUp(t, err)
	}
	userland, err := Userland(t.Context())
	if err != nil {
		giveUp(t, err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := CopyDisk(userland, disk); err != nil {
		giveUp(t, err)
	}
	self, err := s.binary(t)
	if err != nil {
		giveUp(t, err)
	}
	var results []Result
	for boot := 1; boot <= s.Boots; boot++ {
		g := &Guest{
			Kernel: k, CPUs: 1, Modules: s.Modules, Disk: disk, Reboot: boot < s.Boots, Networks: 2, Timeout: s.Timeout + time.Minute,
			Files:    map[string]string{binaryDir: self},
			Commands: []Command{s.command(t, boot)},
		}
		if boot == 1 {
			g.Files[LayDir] = s.Lay
		}
		start := time.Now()
		var out bytes.Buffer
		r, err := g.Run(t.Context(), func(_ int, b []byte) { out.Write(b) })
		t.Logf("boot %d: Linux %s, tried %d times: %.0f s", boot, r.Release, r.Boots, time.Since(start).Seconds())
		if errors.Is(err, ErrUnavailable) {
			giveUp(t, err)
		}
		if err != nil {
			t.Logf("console of the guest: %s", r.Console)
		}
		got, e := convert(t.Context(), s.Kernel, fmt.Sprintf("boot %d", boot), &out, r.failure(0, err))
		if e != nil {
			t.Fatal(e)
		}
		if results = append(results, got...); err != nil {
			break
		}
	}
	return results
}

// binary returns a directory with the test binary that is running.
func (s *System) binary(t *testing.T) (string, error) {
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	dir := t.TempDir()
	return dir, os.WriteFile(filepath.Join(dir, "self.test"), exe, 0o755)
}

func (s *System) command(t *testing.T, boot int) Command {
	return Command{
		Name: t.Name(), Dir: "/root", Timeout: s.Timeout,
		Args: []string{binaryDir + "/self.test", "-test.v", "-test.paniconexit0", "-test.count=1", "-test.run=" + pattern(t.Name()),
			fmt.Sprintf("-test.timeout=%s", s.Timeout-5*time.Second)},
		Env: []string{Path, "HOME=/root", "LC_ALL=C", "TERM=dumb", guestEnv + "=1", fmt.Sprintf("%s=%d", bootEnv, boot)},
	}
}

// pattern is what -run says about the subtests of a test, and of tests only
// this one.
func pattern(name string) string {
	_, subtests, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	if !ok {
		return only(name)
	}
	return only(name) + "/" + subtests
}
