package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// names are what Debian's archive has, in the wrong order.
var names = strings.Fields(`linux-image-6.1.0-50-cloud-amd64-unsigned linux-image-6.1.0-50-cloud-amd64-dbg linux-image-6.1.0-50-cloud-amd64
	linux-image-6.1.0-9-cloud-amd64-unsigned linux-image-6.1.0-9-rt-amd64 linux-image-cloud-amd64 linux-headers-6.1.0-99-cloud-amd64
	linux-image-6.12.95+deb12-cloud-amd64 linux-image-6.12.117+deb13-cloud-amd64-unsigned linux-image-6.12.117+deb13-cloud-arm64
	linux-binary-7.3.4+deb13-cloud-amd64 linux-binary-unsigned-7.3.4+deb13-cloud-amd64 linux-modules-7.3.4+deb13-cloud-amd64
	linux-base-7.3.4+deb13-cloud-amd64 linux-image-7.3.4+deb13-cloud-amd64 linux-image-7.3.4+deb13-cloud-amd64-dbg linux-modules-7.3.3+deb13-cloud-amd64`)

func TestPackagesOf(t *testing.T) {
	for kernel, want := range map[string]string{
		"6.1":  "linux-image-6.1.0-50-cloud-amd64",
		"6.12": "linux-image-6.12.117+deb13-cloud-amd64-unsigned",
		"7.3":  "linux-binary-7.3.4+deb13-cloud-amd64 linux-modules-7.3.4+deb13-cloud-amd64 linux-base-7.3.4+deb13-cloud-amd64",
		"7":    "linux-binary-7.3.4+deb13-cloud-amd64 linux-modules-7.3.4+deb13-cloud-amd64 linux-base-7.3.4+deb13-cloud-amd64",
		"6.9":  "",
	} {
		if diff := cmp.Diff(want, strings.Join(packagesOf(kernel, AMD64.flavour(), names), " ")); diff != "" {
			t.Errorf("%s: %s", kernel, diff)
		}
	}
	if got := packagesOf("6.12", ARM64.flavour(), names); !slices.Equal(got, []string{"linux-image-6.12.117+deb13-cloud-arm64"}) {
		t.Errorf("6.12 for arm64: %q", got)
	}
}

func TestVersionLess(t *testing.T) {
	order := []string{"6.1", "6.1.0-9", "6.1.0-50", "6.4", "6.10", "6.12", "6.12.95", "6.12.117+deb13", "6.18", "7.3"}
	for i, a := range order {
		for j, b := range order {
			if versionLess(a, b) != (i < j) {
				t.Errorf("%s < %s: %v", a, b, versionLess(a, b))
			}
		}
	}
}

// fake makes a store with one kernel that was never downloaded, and no mirror.
func fake(t *testing.T) *store {
	t.Helper()
	s := &store{arch: AMD64, dir: t.TempDir(), etc: t.TempDir()}
	dir := filepath.Join(s.dir, "9.9")
	for name, body := range map[string]string{
		"vmlinuz": "image", "lib/modules/9.9.1/modules.dep": dep, "lib/modules/9.9.1/modules.builtin": builtin,
		"lib/modules/9.9.1/kernel/net/veth.ko.xz": "module",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeSums(dir); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCache(t *testing.T) {
	s := fake(t)
	k, err := s.find("9.9")
	if err != nil || k.Release != "9.9.1" {
		t.Fatalf("%+v, %v", k, err)
	}
	if _, err := k.read(k.modules("kernel/net/veth.ko.xz")); err != nil {
		t.Error(err)
	}
	module := filepath.Join(k.dir, k.modules("kernel/net/veth.ko.xz"))
	if err := os.WriteFile(module, []byte("modulE"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := k.read(k.modules("kernel/net/veth.ko.xz")); err == nil || !strings.Contains(err.Error(), "has changed") {
		t.Errorf("a changed module: %v", err)
	}
}

// A damaged image is not booted: the kernel is fetched again, which fails here
// because there is no mirror.
func TestCacheDamaged(t *testing.T) {
	for _, name := range []string{"vmlinuz", "lib/modules/9.9.1/modules.dep", "lib/modules/9.9.1/modules.builtin"} {
		s := fake(t)
		file := filepath.Join(s.dir, "9.9", name)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if k, err := s.find("9.9"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "names no Debian mirror") {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	s := fake(t)
	for _, name := range []string{"", "7", "../x", "6.1/..", "latest"} {
		if _, err := s.find(name); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("%q: %v", name, err)
		}
	}
	s.dir = filepath.Join(s.dir, "9.9", "vmlinuz", "x")
	if _, err := s.find("6.1"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("cache below a file: %v", err)
	}
}

func TestFindMirror(t *testing.T) {
	for name, tt := range map[string]struct {
		file, text string
		want       mirror
	}{
		"stanza": {"sources.list.d/debian.sources", "# c\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n",
			mirror{"http://mirror.example/debian", "[signed-by=/k.gpg]"}},
		"second stanza": {"sources.list.d/a.sources", "Types: deb\nURIs: http://x.example\nSuites: nodistro\nComponents: main\n\nTypes: deb\nURIs: http://y.example\nSuites: trixie\nComponents: main\n",
			mirror{"http://y.example", ""}},
		"line":             {"sources.list", "# deb http://no.example bookworm main\ndeb [ arch=amd64 signed-by=/k lang=none ] http://mirror.example/d trixie main contrib\n", mirror{"http://mirror.example/d", "[signed-by=/k lang=none]"}},
		"for itself alone": {"sources.list", "deb [arch=amd64] http://mirror.example trixie main\n", mirror{"http://mirror.example", ""}},
		"list":             {"sources.list.d/x.list", "deb http://cloud.example sdk-bookworm main\ndeb http://mirror.example bookworm main\n", mirror{"http://mirror.example", ""}},
		"security only":    {"sources.list", "deb http://s.example bookworm-security main\n", mirror{}},
		"switched off":     {"sources.list.d/a.sources", "Types: deb\nEnabled: no\nURIs: http://x.example\nSuites: trixie\nComponents: main\n", mirror{}},
		"another system's": {"sources.list", "deb http://u.example noble main\n", mirror{}},
	} {
		t.Run(name, func(t *testing.T) {
			etc := t.TempDir()
			if err := os.MkdirAll(filepath.Join(etc, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(etc, tt.file), []byte(tt.text), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := findMirror(etc)
			if got != tt.want || (err == nil) != (tt.want.uri != "") {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}
