package daemon

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
)

// formPart is one part of a form with the boundary B.
func formPart(header, contents string) string {
	return "--B\r\n" + header + "\r\n\r\n" + contents + "\r\n"
}

func formFile(name string) string {
	return `Content-Disposition: form-data; name="` + name + `"; filename="x"`
}

var goodForm = formPart(formFile("object"), "\x7fELF") + formPart(formFile("manifest"), "a = 1") + formPart(formFile("signature"), "s") + "--B--\r\n"

func TestReadForm(t *testing.T) {
	var b api.Bundle
	if err := readForm(strings.NewReader(goodForm), "B", b.Parts()); err != nil || string(b.Object) != "\x7fELF" || string(b.Manifest) != "a = 1" || string(b.Signature) != "s" || b.ManifestSignature != nil {
		t.Errorf("%q, %v", b, err)
	}
	whole := formPart(formFile("object"), strings.Repeat("x", api.MaxObjectBytes)) + formPart(formFile("manifest"), strings.Repeat("x", api.MaxManifestBytes)) +
		formPart(formFile("signature"), strings.Repeat("x", api.MaxSignatureBytes)) + formPart(formFile("manifest-signature"), strings.Repeat("x", api.MaxSignatureBytes)) + "--B--\r\n"
	b = api.Bundle{}
	if err := readForm(http.MaxBytesReader(httptest.NewRecorder(), body(whole), maxForm), "B", b.Parts()); err != nil || len(b.Object) != api.MaxObjectBytes {
		t.Errorf("%d bytes of object, %v", len(b.Object), err)
	}

	bad, limit := api.KindBadRequest, api.KindLimit
	for name, tt := range map[string]struct {
		form string
		kind api.Kind
		says string
	}{
		"empty":             {"", bad, "EOF"},
		"no part":           {"--B--\r\n", bad, `"manifest" is missing`},
		"no object":         {formPart(formFile("manifest"), "x") + "--B--\r\n", bad, `"object" is missing`},
		"cut off":           {goodForm[:len(goodForm)-20], bad, "EOF"},
		"cut off in a part": {formPart(formFile("object"), "xxx")[:70], bad, "EOF"},
		"something behind":  {goodForm + "x", bad, "behind"},
		"twice":             {formPart(formFile("object"), "x") + goodForm, bad, `"object" is there twice`},
		"empty part":        {formPart(formFile("object"), "") + "--B--\r\n", bad, `"object" is empty`},
		"unknown":           {formPart(formFile("objects"), "x") + goodForm, bad, `unknown part "objects"`},
		"another case":      {formPart(formFile("Object"), "x") + goodForm, bad, `unknown part "Object"`},
		"no name":           {formPart("Content-Type: text/plain", "x") + goodForm, bad, `unknown part ""`},
		"two names":         {formPart(`Content-Disposition: form-data; name="object"; name="manifest"`, "x") + goodForm, bad, `unknown part ""`},
		"a name that goes on": {formPart(`Content-Disposition: form-data; name*0="obj"; name*1="ect"`, "x") + formPart(formFile("object"), "x") + formPart(formFile("manifest"), "x") + "--B--\r\n",
			bad, "twice"},
		"no form-data":  {formPart(`Content-Disposition: attachment; name="object"`, "x") + goodForm, bad, `unknown part ""`},
		"encoded":       {formPart(formFile("object")+"\r\nContent-Transfer-Encoding: base64", "eHh4") + goodForm, bad, `encoded as "base64"`},
		"long object":   {formPart(formFile("object"), strings.Repeat("x", api.MaxObjectBytes+1)) + "--B--\r\n", limit, "8388608"},
		"long manifest": {formPart(formFile("manifest"), strings.Repeat("x", api.MaxManifestBytes+1)) + "--B--\r\n", limit, "65536"},
		"long header":   {formPart(formFile("object")+"\r\nX: "+strings.Repeat("x", 12<<20), "x") + "--B--\r\n", limit, ""},
		"long preamble": {strings.Repeat("xxxxxxx\r\n", maxForm/9+1) + goodForm, limit, ""},
		"other lines":   {strings.ReplaceAll(goodForm, "--B", "--C"), bad, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var b api.Bundle
			err := readForm(http.MaxBytesReader(httptest.NewRecorder(), body(tt.form), maxForm), "B", b.Parts())
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != tt.kind || !strings.Contains(e.Message, tt.says) {
				t.Errorf("%v, want a %s that says %q", err, tt.kind, tt.says)
			}
		})
	}
}

func body(s string) closer { return closer{strings.NewReader(s)} }

type closer struct{ *strings.Reader }

func (closer) Close() error { return nil }

// Whatever is sent, no part is longer than it may be, and none is there that has
// no name in the bytes.
func FuzzReadForm(f *testing.F) {
	f.Add([]byte(goodForm))
	f.Add([]byte(strings.ReplaceAll(goodForm, "\r\n", "\n")))
	f.Add([]byte(goodForm[:len(goodForm)-20]))
	f.Add([]byte(formPart(formFile("object")+"\r\nContent-Transfer-Encoding: quoted-printable", "=3D") + "--B--"))
	f.Fuzz(func(t *testing.T, form []byte) {
		var b api.Bundle
		err := readForm(bytes.NewReader(form), "B", b.Parts())
		for _, p := range b.Parts() {
			switch {
			case len(*p.Bytes) > p.Max || len(*p.Bytes) > len(form):
				t.Errorf("%s has %d bytes", p.Name, len(*p.Bytes))
			case err == nil && !p.Optional && len(*p.Bytes) == 0:
				t.Errorf("there is no %s", p.Name)
			case len(*p.Bytes) > 0 && !bytes.Contains(form, *p.Bytes):
				t.Errorf("%s is not what was sent", p.Name)
			}
		}
	})
}
