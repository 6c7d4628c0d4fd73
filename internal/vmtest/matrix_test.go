package vmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMatrix is every test that a kernel decides, on every kernel. What one of
// them skips or fails there it skips or fails here, under its own name.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("boots guests for minutes: not with -short")
	}
	module, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	m := Matrix{Kernels: Kernels, Module: module, Tests: Tests{CI: os.Getenv("CI") == "true"}, Log: t.Output()}
	for _, p := range MatrixPackages {
		m.Tests.Packages = append(m.Tests.Packages, modulePath+strings.TrimPrefix(p, "."))
	}
	results, err := m.Run(t.Context())
	if err != nil {
		giveUp(t, err)
	}
	for _, r := range results {
		if r.Parent {
			continue
		}
		t.Run("Linux "+r.Kernel+"/"+short(r.Package)+"/"+r.Test, func(t *testing.T) {
			switch r.Action {
			case "fail":
				t.Fatalf("%s\n%s", r.Reason, indent(r.Output))
			case "skip":
				t.Skipf("Linux %s: %s", r.Kernel, r.Reason)
			}
		})
	}
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	table := Table(m.Kernels, results)
	ran := !t.Failed() && !strings.Contains(table, noTest)
	if ran && !strings.Contains(string(b), table) {
		t.Errorf("README.md has another table than this run gives: run make vm-matrix\n%s", table)
	}
}
