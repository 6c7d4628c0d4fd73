package scripts

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// verifier is the package that decides whose signature a file bears.
const verifier = "../internal/cms"

// Whoever wants to trust hornetd reads the verifier first: in an evening.
func TestVerifierIsSmall(t *testing.T) {
	const most = 600
	files, err := filepath.Glob(verifier + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(b, []byte("\n"))
	}
	if lines < 100 || lines > most {
		t.Errorf("%d lines, must be at most %d", lines, most)
	}
	t.Logf("%d lines", lines)
}

// Each of its statements is run by its own tests: what none reaches is not
// excused but removed.
func TestVerifierIsCovered(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "profile")
	command(t, verifier, "go", "test", "-count=1", "-short", "-coverprofile="+profile, ".")
	b, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	never := regexp.MustCompile(`(?m)^\S+/(\w+\.go:\d+)\.\S+ \d+ 0$`).FindAllSubmatch(b, -1)
	for _, at := range never {
		t.Errorf("internal/cms/%s: no test runs this statement", at[1])
	}
	if n := bytes.Count(b, []byte("\n")); n < 100 {
		t.Errorf("the profile has %d lines", n)
	}
}
