package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/manifest"
)

func readDoc(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// hornetctl(1) has each command and flag, and none that is not there.
func TestManPageHasTheCommands(t *testing.T) {
	page := readDoc(t, "hornetctl.1.md")
	root := new(ctl).root()
	known := map[string]bool{"--help": true} // cobra adds it to every command
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), "hornetctl ")
		if cmd.HasParent() && !cmd.HasSubCommands() && !strings.Contains(page, "\n**"+path+"**") {
			t.Errorf("hornetctl.1.md: command %q is not described", path)
		}
		flags := func(f *pflag.Flag) {
			known["--"+f.Name] = true
			if !strings.Contains(page, "**--"+f.Name) {
				t.Errorf("hornetctl.1.md: flag --%s of %q is not described", f.Name, path)
			}
		}
		cmd.LocalFlags().VisitAll(flags)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for _, flag := range regexp.MustCompile(`\*\*(--[a-z-]+)`).FindAllStringSubmatch(page, -1) {
		if !known[flag[1]] {
			t.Errorf("hornetctl.1.md: there is no flag %s", flag[1])
		}
	}
}

// hornet.d(5) has each key that a manifest can have, in bold.
func TestManifestPageHasTheKeys(t *testing.T) {
	page := readDoc(t, "hornet.d.5.md")
	f, err := parser.ParseFile(token.NewFileSet(), "../../manifest/parse.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	ast.Inspect(f, func(n ast.Node) bool {
		field, ok := n.(*ast.Field)
		if !ok || field.Tag == nil {
			return true
		}
		key, _, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("toml"), ",")
		keys++
		if !strings.Contains(page, "**"+key+"** =") && !regexp.MustCompile(`(?m)^# .*\[`+key+`(\.NAME)?\]`).MatchString(page) {
			t.Errorf("hornet.d.5.md: key %q is not described", key)
		}
		return true
	})
	if keys < 30 {
		t.Errorf("found only %d keys in manifest/parse.go", keys)
	}
}

// The example in hornet.d(5) is a manifest.
func TestManifestPageExample(t *testing.T) {
	page := readDoc(t, "hornet.d.5.md")
	_, example, _ := strings.Cut(page, "# EXAMPLE\n")
	example, _, _ = strings.Cut(example, "\n# SEE ALSO")
	file := filepath.Join(t.TempDir(), "xdp-drop.toml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(example, "\n    ", "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := safefile.Read(file, maxManifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse(file, b)
	if err != nil {
		t.Fatal(err)
	}
	if m.Version != 3 || len(m.Attach) != 1 || len(m.Tests) != 1 {
		t.Errorf("the example gives %+v", m)
	}
}
