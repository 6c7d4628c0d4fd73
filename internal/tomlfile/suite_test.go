package tomlfile

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// deliberate are the reasons for which a valid file of the suite may be refused.
var deliberate = []string{
	"a key contains a backslash",
	"a key is empty",
	"is a date, not",
	"is NaN", "is +Inf", "is -Inf",
	"starts with a byte order mark",
}

// newer are valid since TOML 1.1, which the library reads, and invalid before.
var newer = regexp.MustCompile(`inline-table/(linebreak-0[1-4]|trailing-comma)|string/basic-byte-escapes`)

// toml-test is TOML's own conformance suite; the library carries it.
func TestConformanceSuite(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/BurntSushi/toml").Output()
	if err != nil {
		t.Skipf("go list, to find the library's copy of toml-test: %v", err)
	}
	suite := filepath.Join(strings.TrimSpace(string(dir)), "internal", "toml-test", "tests")
	seen := map[bool]int{}
	err = filepath.WalkDir(suite, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".toml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		valid := strings.HasPrefix(path, filepath.Join(suite, "valid"))
		seen[valid]++
		var tree map[string]any
		_, err = Decode(path, text, &tree)
		switch {
		case valid && err != nil && !slices.ContainsFunc(deliberate, func(s string) bool { return strings.Contains(err.Error(), s) }):
			t.Errorf("valid: %v", err)
		case !valid && err == nil && !newer.MatchString(path):
			t.Errorf("invalid, yet decoded: %s", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen[true] < 200 || seen[false] < 400 {
		t.Errorf("%d valid and %d invalid files: not the whole suite", seen[true], seen[false])
	}
}
