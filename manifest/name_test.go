package manifest

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
)

func TestNameOf(t *testing.T) {
	for file, want := range map[string]string{
		"xdp-drop.toml":                           "xdp-drop",
		"/etc/hornet.d/10-xdp-drop.toml":          "xdp-drop",
		"./00-a.toml":                             "a",
		"a_b-9.toml":                              "a_b-9",
		"99-" + strings.Repeat("a", 63) + ".toml": strings.Repeat("a", 63),
		"stage.toml":                              "stage",
		"10-stages-x.toml":                        "stages-x",
		"/etc/hornet.d/10-name@.toml":             "name@",
	} {
		if got, err := NameOf(file); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", file, got, err, want)
		}
	}
}

func TestNameOfRefuses(t *testing.T) {
	for file, reason := range map[string]string{
		"xdp-drop":                            "ends with .toml",
		"xdp-drop.conf":                       "ends with .toml",
		"xdp-drop.toml.p7s":                   "ends with .toml",
		"":                                    "ends with .toml",
		".toml":                               `"" is not a name`,
		"10-.toml":                            `"" is not a name`,
		"100-foo.toml":                        `"100-foo" is not a name`,
		"1-foo.toml":                          `"1-foo" is not a name`,
		"10-20-foo.toml":                      `"20-foo" is not a name`,
		"Foo.toml":                            `"Foo" is not a name`,
		"_foo.toml":                           `"_foo" is not a name`,
		"foo.bar.toml":                        `"foo.bar" is not a name`,
		"..toml":                              `"." is not a name`,
		"foo bar.toml":                        `"foo bar" is not a name`,
		"foo\n.toml":                          `"foo\n" is not a name`,
		"fo\x00o.toml":                        `"fo\x00o" is not a name`,
		"é.toml":                              `"é" is not a name`,
		strings.Repeat("a", 64) + ".toml":     "is not a name",
		"stage-1.toml":                        "begins with stage-",
		"10-quarantine-x.toml":                "begins with quarantine-",
		"@.toml":                              `"" is not a name`,
		"Name@.toml":                          `"Name" is not a name`,
		"stage-1@.toml":                       "begins with stage-",
		"a@@.toml":                            "is of one instance of a template",
		"10-name@eth0.toml":                   "is of one instance of a template",
		"/a/" + strings.Repeat("x", 300) + "": "ends with .toml",
	} {
		name, err := NameOf(file)
		var e *Error
		switch {
		case !errors.As(err, &e) || name != "":
			t.Errorf("%q: %q, %v", file, name, err)
		case !strings.Contains(err.Error(), reason):
			t.Errorf("%q: %v, want %s", file, err, reason)
		case remedy.Of(err) == "":
			t.Errorf("%q: %v: no remedy", file, err)
		}
	}
}

func FuzzNameOf(f *testing.F) {
	for _, file := range []string{
		"/etc/hornet.d/10-xdp-drop.toml", "name@.toml", "name@eth0.toml", "../../etc/passwd", "..", "stage-1.toml",
		"a\x00b.toml", strings.Repeat("a", 256) + ".toml", "10-.toml", "a/b.toml", "ſ.toml", "K.toml",
	} {
		f.Add(file)
	}
	safe := regexp.MustCompile(`\A[a-z][a-z0-9_-]*@?\z`)
	f.Fuzz(func(t *testing.T, file string) {
		name, err := NameOf(file)
		if err != nil {
			if name != "" || strings.ContainsAny(err.Error(), "\n\x00\x1b") {
				t.Errorf("%q: %q, %q", file, name, err)
			}
			return
		}
		if !safe.MatchString(name) || len(strings.TrimSuffix(name, "@")) > 63 || strings.HasPrefix(name, "stage-") || strings.HasPrefix(name, "quarantine-") {
			t.Errorf("%q is called %q", file, name)
		}
		if ValidName(strings.TrimSuffix(name, "@")) != nil || (ValidLoad(name) == nil) == strings.HasSuffix(name, "@") {
			t.Errorf("%q: NameOf and ValidName disagree", name)
		}
	})
}
