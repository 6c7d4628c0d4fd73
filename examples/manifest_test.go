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
		// Debian has one directory for each architecture's libraries.
		object := strings.Replace(m.Object.Path, "/x86_64-linux-gnu/", "/*/", 1)
		if found, _ := filepath.Glob(object); len(found) == 0 {
			t.Errorf("%s: object: there is no %s", f, object)
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
