package manifest

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
)

const templateText = `description = "%i, 100%%"
instances = "eth[0-9]+|wlan:0"
[object]
path = "%i.bpf.o"
[variables]
text = "if %i"
[[attach]]
program = "p"
interface = "%i"
netns = "/run/netns/%i"
`

func instanceOf(t *testing.T, name, text string, dropIns ...string) (Manifest, error) {
	t.Helper()
	files := map[string][]byte{"/m/fw@.toml": []byte(text)}
	src := Source{Name: name, File: "/m/fw@.toml"}
	for _, d := range dropIns {
		src.DropIns = append(src.DropIns, "/m/fw@.toml.d/1.toml")
		files["/m/fw@.toml.d/1.toml"] = []byte(d)
	}
	return Read(src, Manifest{}, func(file string) ([]byte, error) { return files[file], nil })
}

func TestTemplate(t *testing.T) {
	m, err := instanceOf(t, "fw@eth12", templateText)
	if err != nil {
		t.Fatal(err)
	}
	if a := m.Attach[0]; m.Name != "fw@eth12" || m.Template() || m.Start != StartRequest || a.Interface != "eth12" || a.Netns != "/run/netns/eth12" ||
		m.Description != "eth12, 100%" || m.Variables["text"] != "if eth12" || m.Object.Path != "/m/%i.bpf.o" || m.TextDigest != sha256.Sum256([]byte(templateText)) {
		t.Errorf("%+v", m)
	}
	if other, err := instanceOf(t, "fw@wlan:0", templateText); err != nil || other.Attach[0].Interface != "wlan:0" || m.Attach[0].Interface != "eth12" {
		t.Errorf("%+v, %v", other, err)
	}
	if m, err = instanceOf(t, "fw@eth1", templateText, "name = \"fw@\"\n[[attach]]\nprogram = \"q\"\ninterface = \"%i.7\"\n"); err != nil || m.Attach[0].Interface != "eth1.7" {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err = Parse("/m/fw@.toml", []byte(templateText)); err != nil || m.Name != "fw@" || !m.Template() || m.Start != StartRequest {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err = instanceOf(t, "fw@eth1", "name = \"fw@\"\n"+templateText); err != nil || !m.Named {
		t.Errorf("%+v, %v", m, err)
	}

	for text, key := range map[string]string{
		strings.Replace(templateText, "instances", "#", 1):                             "instances",
		strings.Replace(templateText, "eth[0-9]+|wlan:0", "eth[0-", 1):                 "instances",
		strings.Replace(templateText, "eth[0-9]+|wlan:0", strings.Repeat("x", 201), 1): "instances",
		"start = \"boot\"\n" + templateText:                                            "start",
		"name = \"fw@eth1\"\n" + templateText:                                          "name",
	} {
		_, err := instanceOf(t, "fw@eth1", text)
		refusedAt(t, err, key)
	}
	for _, instance := range []string{"eth", "eth1x", "xeth1", "wlan:00", "eth1\n"} {
		_, err := instanceOf(t, "fw@"+instance, templateText)
		refusedAt(t, err, "instances")
	}
	_, err = instanceOf(t, "fw@eth1", templateText, `instances = ".*"`)
	refusedAt(t, err, "instances")
	_, err = Parse("/m/fw.toml", []byte(templateText))
	refusedAt(t, err, "instances")
}

func refusedAt(t *testing.T, err error, key string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Key != key || remedy.Of(err) == "" {
		t.Errorf("error %v (%q), want one about %s with a remedy", err, remedy.Of(err), key)
	}
}

func TestValidLoad(t *testing.T) {
	for name, ok := range map[string]bool{
		"fw": true, "fw@eth0": true, "fw@A_z:9-": true, "fw@" + strings.Repeat("x", 63): true,
		"fw@": false, "@eth0": false, "Fw@eth0": false, "fw@eth/0": false, "fw@..": false, "fw@a@b": false, "fw@a.b": false,
		"fw@" + strings.Repeat("x", 64): false, "stage-1@x": false, "": false, "@": false, "fw@ ": false, "fw@\x00": false,
	} {
		if err := ValidLoad(name); (err == nil) != ok || err != nil && remedy.Of(err) == "" {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestFindInstance(t *testing.T) {
	root := tree(t, "a/10-fw@.toml", "a/fw@.toml.d/1.toml", "a/fw.toml")
	dirs := []string{root + "/a"}
	s, err := FindOne(dirs, "fw@eth0")
	if err != nil || s.Name != "fw@eth0" || s.File != root+"/a/10-fw@.toml" || len(s.DropIns) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := FindOne(dirs, "other@eth0"); err == nil {
		t.Error("a template that is not there")
	}
}
