package vmtest

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// In makes t a test of a kernel: in a guest it returns true, and t goes on
// there. On the host it boots one, runs t alone in it, hands over its result
// and its output, and returns false, upon which t must return:
//
//	func TestX(t *testing.T) {
//		if !vmtest.In(t, "7.3") {
//			return
//		}
//
// The guest runs the test binary that is running, so coverage of both counts.
// Where no guest can run, t is skipped with the reason, and fails with CI=true.
// change, if any, says what else the guest is to have.
func In(t *testing.T, kernel string, change ...func(*Guest)) bool {
	t.Helper()
	if InGuest() {
		return true
	}
	k, err := Find(kernel)
	if err != nil {
		giveUp(t, err)
	}
	g, err := itself(t, k)
	if err != nil {
		giveUp(t, err)
	}
	for _, c := range change {
		c(g)
	}
	var out strings.Builder
	r, err := g.Run(t.Context(), func(_ int, b []byte) { out.Write(b) })
	if dir := flag.Lookup("test.gocoverdir").Value.String(); dir != "" {
		for name, b := range r.Files {
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("Linux %s, booted %d times:\n%s", r.Release, r.Boots, out.String())
	if r.Console != "" {
		t.Logf("console of the guest: %s", r.Console)
	}
	if err != nil {
		giveUp(t, err)
	}
	if m := skipped.FindString(out.String()); m != "" {
		t.Skip(strings.TrimSpace(m))
	}
	return false
}

// InGuest says whether this process runs in a guest, where it may do what no host
// should see.
func InGuest() bool { return os.Getenv(guestEnv) != "" }

// skipped finds, in the output of one test, that it was skipped.
var skipped = regexp.MustCompile(`(?m)^(.*\n)?--- SKIP: .*$`)

// giveUp ends t: an error of the guest fails it, a machine without one skips it.
func giveUp(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	t.Fatal(err)
}

// itself returns a guest that runs t of this test binary.
func itself(t *testing.T, k *Kernel) (*Guest, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	module := dir
	for !exists(filepath.Join(module, "go.mod")) {
		if module = filepath.Dir(module); module == "/" {
			return nil, errors.New("guest: no go.mod above " + dir)
		}
	}
	rel, err := filepath.Rel(module, dir)
	if err != nil {
		return nil, err
	}
	p := filepath.ToSlash(filepath.Join(modulePath, rel))
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, binaryName(p)), exe, 0o755); err != nil {
		return nil, err
	}
	tests := Tests{Arch: k.Arch, Packages: []string{p}, Flags: []string{"-test.v", "-test.count=1", "-test.run=" + only(t.Name())}, CI: os.Getenv("CI") == "true"}
	if testing.CoverMode() != "" {
		tests.Flags = append(tests.Flags, "-test.gocoverdir="+coverDir)
	}
	return tests.Guest(k, bin, module)
}

// only is the pattern of -run that matches one test.
func only(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}
