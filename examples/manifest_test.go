package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/manifest"
)

func TestManifests(t *testing.T) {
	files, err := filepath.Glob("*/*.toml")
	if err != nil || len(files) < 6 {
		t.Fatalf("found %q, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Parse(f, b)
		if err != nil {
			t.Error(err)
			continue
		}
		if dir := filepath.Dir(f); m.Name != dir {
			t.Errorf("%s: name is %s", f, m.Name)
		}
		if _, err := os.Stat(m.Object.Path); err != nil {
			t.Errorf("%s: object: %v", f, err)
		}
	}
}

// What the README shows must be a manifest that works.
func TestREADME(t *testing.T) {
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "```toml\n")
	text, _, ok := strings.Cut(text, "```")
	if !ok {
		t.Fatal("README.md has no manifest")
	}
	if _, err := manifest.Parse("xdp-drop.toml", []byte(text)); err != nil {
		t.Error(err)
	}
}
