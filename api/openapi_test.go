package api

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// The parts of an OpenAPI document this API uses. Decoding is strict, so that
// nothing stands in the file that no test looks at.
type (
	document struct {
		OpenAPI    string
		Info       yaml.Node
		Servers    yaml.Node
		Paths      map[string]pathItem
		Components struct {
			Parameters map[string]parameter
			Responses  map[string]response
			Schemas    map[string]schema
		}
	}
	pathItem struct {
		Parameters []parameter
		Get, Post  *operation
		Put        *operation
		Delete     *operation
	}
	operation struct {
		OperationID string `yaml:"operationId"`
		Summary     string
		Description string
		Parameters  []parameter
		RequestBody *response `yaml:"requestBody"`
		Responses   map[string]response
	}
	parameter struct {
		Ref         string `yaml:"$ref"`
		Name, In    string
		Required    bool
		Description string
		Schema      schema
	}
	response struct {
		Ref         string `yaml:"$ref"`
		Description string
		Required    bool // of a body
		Content     map[string]struct{ Schema schema }
	}
	schema struct {
		Ref                  string `yaml:"$ref"`
		Type                 string
		Format               string
		Pattern              string
		Description          string
		Minimum, Maximum     *int
		Enum                 []string
		Items                *schema
		Required             []string
		Properties           map[string]schema
		AdditionalProperties *bool    `yaml:"additionalProperties"`
		AnyOf                []schema `yaml:"anyOf"`
	}
)

const schemaRef = "#/components/schemas/"

func readDocument(t *testing.T) document {
	t.Helper()
	f, err := os.Open("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var d document
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDocumentHasTheTypes(t *testing.T) {
	doc := readDocument(t)
	enums := stringConstants(t)
	want := make(map[string]schema)
	for _, r := range Routes() {
		describe(want, enums, reflect.TypeOf(r.Response))
		if r.Request != nil {
			describe(want, enums, reflect.TypeOf(r.Request))
			s := want[reflect.TypeOf(r.Request).Name()]
			s.AdditionalProperties = new(bool)
			want[reflect.TypeOf(r.Request).Name()] = s
		}
	}
	describe(want, enums, reflect.TypeFor[Error]())
	for _, r := range Routes() {
		for _, sent := range r.Upgrades {
			describe(want, enums, reflect.TypeOf(sent))
		}
	}

	for name, part := range want["Bundle"].Properties { // of a form, so not base64
		part.Format = "binary"
		want["Bundle"].Properties[name] = part
	}

	got := make(map[string]schema)
	for name, s := range doc.Components.Schemas {
		got[name] = bare(s)
	}
	// boot and request are the manifest package's words, which api may not import.
	got["Collection"].Properties["start"] = schema{Type: "string"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("openapi.yaml differs from the Go types (-types +file):\n%s", diff)
	}
}

func TestDocumentHasTheRoutes(t *testing.T) {
	doc := readDocument(t)
	type route struct{ Method, Path, Query, Request, Response, MediaType, Upgraded string }
	var want, got []route
	for _, r := range Routes() {
		method, path, _ := strings.Cut(r.Pattern, " ")
		var upgraded []string
		w := route{method, path, strings.Join(r.Query, " "), "", reflect.TypeOf(r.Response).Name(), "application/json", ""}
		if r.Request != nil {
			w.Request = reflect.TypeOf(r.Request).Name()
		}
		for _, sent := range r.Upgrades {
			upgraded = append(upgraded, reflect.TypeOf(sent).Name())
		}
		slices.Sort(upgraded)
		w.Upgraded = strings.Join(upgraded, " ")
		if r.Pattern == RouteEvents || r.Pattern == RouteStream {
			w.MediaType = EventsType
		}
		want = append(want, w)
	}
	for path, item := range doc.Paths {
		for method, op := range map[string]*operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "DELETE": item.Delete} {
			if op == nil {
				continue
			}
			g := route{Method: method, Path: path}
			var query []string
			for _, p := range op.Parameters {
				query = append(query, p.Name)
			}
			g.Query = strings.Join(query, " ")
			if op.RequestBody != nil {
				for mediaType, content := range op.RequestBody.Content {
					g.Request = strings.TrimPrefix(content.Schema.Ref, schemaRef)
					if body := doc.Components.Schemas[g.Request]; op.RequestBody.Required != (len(body.Required) > 0) {
						t.Errorf("%s %s: a body is required: %v, and of it %q", method, path, op.RequestBody.Required, body.Required)
					}
					if want := map[bool]string{true: BundleType, false: "application/json"}[g.Request == "Bundle"]; mediaType != want {
						t.Errorf("%s %s: body of type %q, want %q", method, path, mediaType, want)
					}
				}
			}
			for mediaType, content := range op.Responses["200"].Content {
				g.MediaType, g.Response = mediaType, strings.TrimPrefix(content.Schema.Ref, schemaRef)
			}
			others := 2
			if upgraded, ok := op.Responses["101"]; ok {
				others++
				s := upgraded.Content["application/json"].Schema
				var refs []string
				for _, s := range append(s.AnyOf, s) {
					if s.Ref != "" {
						refs = append(refs, strings.TrimPrefix(s.Ref, schemaRef))
					}
				}
				g.Upgraded = strings.Join(refs, " ")
			}
			if op.Responses["default"].Ref != "#/components/responses/Error" || len(op.Responses) != others {
				t.Errorf("%s %s: responses are not 200 and default, and 101 where it changes the protocol", method, path)
			}
			if op.OperationID == "" || op.Summary == "" {
				t.Errorf("%s %s: no operationId or summary", method, path)
			}
			checkPathParameters(t, doc, path, item)
			got = append(got, g)
		}
	}
	order := func(a, b route) int { return strings.Compare(a.Path+a.Method, b.Path+b.Method) }
	slices.SortFunc(want, order)
	slices.SortFunc(got, order)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("openapi.yaml differs from Routes (-Routes +file):\n%s", diff)
	}
}

// checkPathParameters compares the wildcards in path with the declared ones.
func checkPathParameters(t *testing.T, doc document, path string, item pathItem) {
	t.Helper()
	var want, got []string
	for s := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(s, "{") {
			want = append(want, strings.Trim(s, "{}"))
		}
	}
	for _, p := range item.Parameters {
		if name, ok := strings.CutPrefix(p.Ref, "#/components/parameters/"); ok {
			p = doc.Components.Parameters[name]
		}
		if p.In != "path" || !p.Required {
			t.Errorf("%s: parameter %q is not a required path parameter", path, p.Name)
		}
		got = append(got, p.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: parameters (-path +file):\n%s", path, diff)
	}
}

func TestDocumentHasTheStatusOfEachKind(t *testing.T) {
	description := readDocument(t).Components.Responses["Error"].Description
	kinds := make(map[string]int)
	status := 0
	for _, word := range strings.FieldsFunc(description, func(r rune) bool { return r == ' ' || r == ',' }) {
		if n, err := strconv.Atoi(word); err == nil {
			status = n
		} else if status != 0 {
			kinds[word] = status
		}
	}
	want := make(map[string]int)
	for _, k := range Kinds() {
		want[string(k)] = k.Status()
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("statuses (-Kind.Status +file):\n%s", diff)
	}
}

func TestKindsAreComplete(t *testing.T) {
	var got []string
	for _, k := range Kinds() {
		got = append(got, string(k))
	}
	if diff := cmp.Diff(stringConstants(t)["Kind"], got); diff != "" {
		t.Errorf("Kinds (-constants +Kinds):\n%s", diff)
	}
}

func TestEventKindsAreComplete(t *testing.T) {
	var got []string
	for _, k := range EventKinds() {
		got = append(got, string(k))
	}
	if diff := cmp.Diff(stringConstants(t)["EventKind"], got); diff != "" {
		t.Errorf("EventKinds (-constants +EventKinds):\n%s", diff)
	}
}

// describe adds the schema of t, and of all that it is made of, to schemas.
func describe(schemas map[string]schema, enums map[string][]string, t reflect.Type) schema {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return schema{Type: "string", Format: "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return schema{}
	case t.Kind() == reflect.Pointer:
		return describe(schemas, enums, t.Elem())
	case t == reflect.TypeFor[[]byte]():
		return schema{Type: "string", Format: "byte"}
	case t.Kind() == reflect.Slice:
		items := describe(schemas, enums, t.Elem())
		return schema{Type: "array", Items: &items}
	case enums[t.Name()] != nil:
		schemas[t.Name()] = schema{Type: "string", Enum: enums[t.Name()]}
		return schema{Ref: schemaRef + t.Name()}
	case t.Kind() == reflect.String:
		return schema{Type: "string"}
	case t.Kind() == reflect.Bool:
		return schema{Type: "boolean"}
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64:
		return schema{Type: "integer", Minimum: new(int)}
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		return schema{Type: "integer"}
	}
	// A struct, described by its fields; anything else panics in NumField.
	ref := schema{Ref: schemaRef + t.Name()}
	if _, ok := schemas[t.Name()]; ok {
		return ref
	}
	s := schema{Type: "object", Properties: make(map[string]schema)}
	schemas[t.Name()] = s
	for f := range fields(t) {
		s.Properties[f.name] = describe(schemas, enums, f.typ)
		if !f.optional {
			s.Required = append(s.Required, f.name)
		}
	}
	schemas[t.Name()] = s
	return ref
}

// bare returns s without what the Go types do not say.
func bare(s schema) schema {
	s.Description = ""
	if s.Items != nil {
		items := bare(*s.Items)
		s.Items = &items
	}
	for name, p := range s.Properties {
		s.Properties[name] = bare(p)
	}
	return s
}

// stringConstants returns the values of this package's typed string constants,
// by type, in the order of the source.
func stringConstants(t *testing.T) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no source files", err)
	}
	out := make(map[string][]string)
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || len(v.Values) != 1 {
				return true
			}
			typ, ok := v.Type.(*ast.Ident)
			lit, isLit := v.Values[0].(*ast.BasicLit)
			if ok && isLit && lit.Kind == token.STRING {
				s, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				out[typ.Name] = append(out[typ.Name], s)
			}
			return true
		})
	}
	return out
}
