package pinning

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
)

func TestParseName(t *testing.T) {
	for _, s := range []string{"a", "xdp-drop", "conn_count", "a0", "stage", "quarantine", "stages-x", strings.Repeat("x", 63), "a@b", "fw@Eth_0:1-", strings.Repeat("x", 63) + "@" + strings.Repeat("y", 63)} {
		n, err := ParseName(s)
		if err != nil || n.String() != s {
			t.Errorf("ParseName(%q) = %q, %v", s, n, err)
		}
	}
	for _, s := range []string{
		"", ".", "..", "a.b", "a/b", "/a", "A", "aB", "0a", "-a", "_a", "a b", "a\x00", "a\n", "ä", "a\u202e", "a@", "@b", "a@b@c", "a@b.c", "a@../x", "A@b", "a@é", "stage-x@b", "a@" + strings.Repeat("x", 64), "a:b",
		"stage-", "stage-x", "quarantine-x", strings.Repeat("x", 64), strings.Repeat("x", 256), "a\xff",
	} {
		n, err := ParseName(s)
		if err == nil || n != (Name{}) {
			t.Errorf("ParseName(%q) = %q, %v", s, n, err)
			continue
		}
		if remedy.Of(err) == "" {
			t.Errorf("ParseName(%q): no remedy: %v", s, err)
		}
	}
}

func TestPinName(t *testing.T) {
	for object, want := range map[string]string{
		"hits": "hits", ".rodata": "_rodata", ".rodata.str1.1": "_rodata_str1_1", "a-b_C9": "a-b_C9", "x$y": "x$y",
		strings.Repeat("m", 255): strings.Repeat("m", 255), "..": "__",
	} {
		if got, err := PinName(object); err != nil || got != want {
			t.Errorf("PinName(%q) = %q, %v, want %q", object, got, err, want)
		}
	}
	for _, object := range []string{"", "a/b", "../x", "a\x00", "a b", "a\n", "\x7f", "ü", strings.Repeat("m", 256)} {
		if got, err := PinName(object); err == nil {
			t.Errorf("PinName(%q) = %q", object, got)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"xdp-drop", "stage-1", "../x", "a\x00b", "É", strings.Repeat("a", 64)} {
		f.Add(s)
	}
	want := regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	f.Fuzz(func(t *testing.T, s string) {
		_, err := ParseName(s)
		reserved := strings.HasPrefix(s, "stage-") || strings.HasPrefix(s, "quarantine-")
		if ok := want.MatchString(s) && !strings.Contains(s, "\n") && !reserved; ok != (err == nil) {
			t.Fatalf("ParseName(%q) = %v", s, err)
		}
	})
}

// A pin name is one path component that bpffs takes, whatever the object calls
// itself.
func FuzzPinName(f *testing.F) {
	for _, s := range []string{".rodata", "..", "a/../b", "\x00", "-", strings.Repeat("é", 128)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		pin, err := PinName(s)
		if err != nil {
			if remedy.Of(err) == "" {
				t.Errorf("%v: no remedy", err)
			}
			return
		}
		if filepath.Join("/root", pin) != "/root/"+pin || strings.ContainsAny(pin, "./\x00") || len(pin) > 255 || pin == "" {
			t.Fatalf("PinName(%q) = %q", s, pin)
		}
	})
}

// The kernel takes every name that the checks let through.
func TestNamesOnTheKernel(t *testing.T) {
	root := bpffs(t)
	for _, s := range []string{strings.Repeat("x", 63), "a-_0"} {
		if err := os.Mkdir(filepath.Join(root, s), 0o700); err != nil {
			t.Error(err)
		}
	}
	for _, object := range []string{".rodata", strings.Repeat("m", 255), "a$b~!@#"} {
		pin, err := PinName(object)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(root, pin), 0o700); err != nil {
			t.Error(err)
		}
	}
}
