package vmtest

import "testing"

func TestArchNamed(t *testing.T) {
	for name, want := range map[string]*Arch{"amd64": AMD64, "arm64": ARM64, "mips": nil, "": nil} {
		if got, err := ArchNamed(name); got != want || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
}
