package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
)

func TestOwner(t *testing.T) {
	for name, want := range map[string]int64{
		"u1000-web": 1000, "u0-web": 0, "u4294967295-web": 4294967295, "u1000-": 1000, "u1000--x": 1000,
		"u4294967296-web": -1, "u01-web": -1, "u-web": -1, "u1000": -1, "web": -1, "U1000-web": -1, "u1000_web": -1, "xu1000-web": -1, "": -1,
	} {
		uid, isOwn := Owner(name)
		if isOwn != (want >= 0) || isOwn && int64(uid) != want {
			t.Errorf("%q: %d, %t, want %d", name, uid, isOwn, want)
		}
	}
	if got := OwnName(1000, "web-2"); got != "u1000-web-2" || Said(got) != "web-2" || Said("web-2") != "web-2" {
		t.Errorf("%q, %q", got, Said(got))
	}
}

const ownText = "[object]\npath = \"web.bpf.o\"\n[[attach]]\nprogram = \"p\"\ncgroup = \"/x\"\n"

func TestParseOwn(t *testing.T) {
	const file = "/run/b/u1000-web/u1000-web.toml"
	m, err := ParseOwn(file, []byte(ownText))
	if err != nil || m.Name != "u1000-web" || m.Start != StartRequest || m.Object.Path != "/run/b/u1000-web/web.bpf.o" || m.Named {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := ParseOwn(file, []byte("name = \"web\"\nstart = \"request\"\n"+ownText)); err != nil || !m.Named {
		t.Errorf("%+v, %v", m, err)
	}
	for text, want := range map[string]string{
		"name = \"u1000-web\"\n" + ownText:                                                            "name",
		"name = \"other\"\n" + ownText:                                                                "name",
		"start = \"boot\"\n" + ownText:                                                                "start",
		"fail = \"closed\"\n" + ownText:                                                               "fail",
		"requires = [\"x\"]\n" + ownText:                                                              "requires",
		"after = [\"x\"]\n" + ownText:                                                                 "after",
		ownText + "[[allow]]\nuser = \"7\"\nmay = [\"status\"]\n":                                     "allow",
		ownText + "[maps.m]\nclass = \"mutable\"\nshared = \"all\"\n":                                 "maps.m.shared",
		"start = \"boot\"\n" + ownText + "[[attach]]\nprogram = \"b\"\ntarget = \"caller\"\n":         "start",
		strings.Replace(ownText, "web.bpf.o", "/etc/shadow", 1):                                       "object.path",
		strings.Replace(ownText, "web.bpf.o", "../u7-web/web.bpf.o", 1):                               "object.path",
		strings.Replace(ownText, "web.bpf.o", "sub/web.bpf.o", 1):                                     "object.path",
		strings.Replace(ownText, "web.bpf.o", "u1000-web.toml", 1):                                    "object.path",
		strings.Replace(ownText, "web.bpf.o", "u1000-web.toml.p7s", 1):                                "object.path",
		strings.Replace(ownText, "\"web.bpf.o\"", "\"web.bpf.o\"\nsignature = \"/x\"", 1):             "object.signature",
		strings.Replace(ownText, "\"web.bpf.o\"", "\"web.bpf.o\"\nsignature = \"web.bpf.o\"", 1):      "object.path",
		strings.Replace(ownText, "\"web.bpf.o\"", "\"web.bpf.o\"\nsignature = \"u1000-web.toml\"", 1): "object.path",
	} {
		_, err := ParseOwn(file, []byte(text))
		var e *Error
		if !errors.As(err, &e) || e.Key != want || remedy.Of(err) == "" {
			t.Errorf("%v (%q)\nwant one about %s, with a remedy, for\n%s", err, remedy.Of(err), want, text)
		}
	}
	if _, err := ParseOwn("/run/b/web/web.toml", []byte(ownText)); err == nil {
		t.Error("a name that is nobody's")
	}
	if _, err := Parse(file, []byte(ownText)); err == nil || remedy.Of(err) == "" {
		t.Errorf("a manifest of this host with the name of a caller's own: %v", err)
	}
}

// Whoever can write a directory of manifests takes no caller's name by that.
func TestFindOwn(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"u1000-web/u1000-web.toml", "u7-web/u7-web.toml", "web/web.toml", ".new-1/u8-web.toml"} {
		if err := errors.Join(os.Mkdir(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(ownText), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	own, err := FindOwn(dir)
	if err != nil || len(own) != 2 || own[0].Name != "u1000-web" || own[1].File != filepath.Join(dir, "u7-web/u7-web.toml") {
		t.Errorf("%+v, %v", own, err)
	}
	if own, err := FindOwn(filepath.Join(dir, "none")); err != nil || own != nil {
		t.Errorf("%+v, %v", own, err)
	}

	if err := os.WriteFile(filepath.Join(dir, "10-u1000-web.toml"), []byte(ownText), 0o600); err != nil {
		t.Fatal(err)
	}
	found, _, err := Find([]string{dir})
	if err == nil || len(found) != 0 || remedy.Of(err) == "" {
		t.Errorf("%+v, %v", found, err)
	}
}
