package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// apiDocument is api/openapi.yaml as a library for such documents reads it.
type apiDocument struct {
	validator.Validator
	model      v3.Document
	schemas    schema_validation.SchemaValidator
	operations []apiOperation
}

type apiOperation struct {
	*v3.Operation
	method, path string
	query        []*v3.Parameter
	media        string       // of the body; "" where there is none
	body         *base.Schema // nil where there is none
}

func readAPIDocument(t *testing.T) *apiDocument {
	t.Helper()
	doc, err := libopenapi.NewDocument(read(t, "../../api/openapi.yaml"))
	must(t, err)
	model, err := doc.BuildV3Model()
	must(t, err)
	v, errs := validator.NewValidator(doc)
	must(t, errs...)
	if ok, errs := v.ValidateDocument(); !ok {
		t.Fatalf("the document itself: %v", errs)
	}
	d := &apiDocument{Validator: v, model: model.Model, schemas: schema_validation.NewSchemaValidator()}
	for path, item := range d.model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			o := apiOperation{Operation: op, method: strings.ToUpper(method), path: path, query: op.Parameters}
			if op.RequestBody != nil {
				first := op.RequestBody.Content.First()
				o.media, o.body = first.Key(), first.Value().Schema.Schema()
			}
			d.operations = append(d.operations, o)
		}
	}
	return d
}

// apiRequest is a request and what is wrong with it.
type apiRequest struct {
	op     *apiOperation // nil where the document has none
	method string
	target string
	header http.Header
	body   []byte
	wrong  string // "" where nothing is
	seen   bool   // the document says so in a way that a validator understands
}

func (r *apiRequest) is(wrong string, seen bool) {
	if r.wrong == "" {
		r.wrong, r.seen = wrong, seen
	}
}

func (r *apiRequest) String() string {
	return fmt.Sprintf("%s %s %v %.200q (%s)", r.method, r.target, r.header, r.body, r.wrong)
}

// bytes is the request as it is sent.
func (r *apiRequest) bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: hornetd\r\n", r.method, r.target)
	r.header.Write(&b)
	if r.body != nil {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.body))
	}
	b.WriteString("\r\n")
	b.Write(r.body)
	return b.Bytes()
}

// requestMaker makes requests from the document, by chance.
type requestMaker struct {
	*rand.Rand
	doc    *apiDocument
	bundle map[string][]byte // parts of one that runs
}

func pick[T any](r *requestMaker, of ...T) T { return of[r.IntN(len(of))] }

func (m *requestMaker) one(of int) bool { return m.IntN(of) == 0 }

// value makes something that a schema takes.
func (m *requestMaker) value(s *base.Schema) any {
	switch {
	case len(s.Enum) > 0:
		return pick(m, s.Enum...).Value
	case len(s.Type) == 0: // a key or a value of some map
		if m.one(2) {
			return m.IntN(1000)
		}
		return pick[any](m, -1, 1.5, "0x01000000", "192.0.2.1", "10.0.0.0/8", true, []int{1}, map[string]any{"packets": 1, "bytes": 2}, "")
	}
	switch s.Type[0] {
	case "object":
		object := map[string]any{}
		for name, p := range s.Properties.FromOldest() {
			if slices.Contains(s.Required, name) || m.one(3) {
				object[name] = m.value(p.Schema())
			}
		}
		return object
	case "array":
		list := []any{}
		for range m.IntN(4) {
			list = append(list, m.value(s.Items.A.Schema()))
		}
		return list
	case "integer":
		least, most := 0, 1<<20
		if s.Minimum != nil {
			least = int(*s.Minimum)
		}
		if s.Maximum != nil {
			most = int(*s.Maximum)
		}
		return pick(m, least, most, least+m.IntN(min(most-least, 20)))
	case "boolean":
		return m.one(2)
	}
	return pick(m, "x", "loaded", "maps", "7", strings.Repeat("ä", 80), "<&>\x01\"", "count")
}

// other makes something of a type that a schema does not take.
func (m *requestMaker) other(s *base.Schema) any {
	of := map[string][]any{
		"string": {7, true, []int{}}, "integer": {"x", 1.5, true, "-"}, "boolean": {"true", 1, []int{}}, "array": {7, "x", map[string]int{}},
	}[s.Type[0]]
	if s.Minimum != nil {
		of = append(of, -1)
	}
	return pick(m, of...)
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of the values above none is
	}
	return b
}

var (
	knownNames = []string{"maps", "open", "shut", "u1234-count", "open", "maps"}
	edgeNames  = []string{"a", "a" + strings.Repeat("b", 62), "none", "a@b", "a@" + strings.Repeat("B", 63), "open@1", "a-_9", "quarantine-1-open"}
	wrongNames = []string{"a" + strings.Repeat("b", 63), "a@" + strings.Repeat("B", 64), "Open", "1a", "-a", "a@", "a@b@c", "a.b", "..%2f..", "%2e%2e", "open%00", "%c3%a4", "%ff", "open%0a", "a%20b", "open%2fload", "%3cscript%3e"}
	someMaps   = []string{"counts", "counts", "config", "events", "samples", "percpu", "networks", "hosts", "accounts", "jumps", "connects", "none", "%ff", "a%2fb", strings.Repeat("m", 300)}
)

// next makes a request of each kind in turn: by its operation.
func (m *requestMaker) next(n int) *apiRequest {
	op := &m.doc.operations[n%len(m.doc.operations)]
	r := &apiRequest{op: op, method: op.method, header: http.Header{}}
	name := pick(m, knownNames...)
	if m.one(5) {
		name = pick(m, edgeNames...)
	} else if m.one(8) && strings.Contains(op.path, "{name}") {
		name = pick(m, wrongNames...)
		r.is("name", true)
	}
	of := pick(m, someMaps...)
	if strings.Contains(op.path, "{map}") && m.one(2) { // or what is not there is all that is asked for
		of = "counts"
		if r.wrong == "" {
			name = "maps"
		}
	}
	r.target = strings.NewReplacer("{name}", name, "{map}", of).Replace(op.path)
	m.parameters(r)
	switch {
	case op.media == api.BundleType:
		m.form(r)
	case op.body != nil:
		m.json(r)
	case m.one(20): // a body where the document has none says nothing
		r.body = []byte("{}")
	}
	m.upgrade(r)
	switch {
	case m.one(25):
		m.otherMethod(r)
	case m.one(25):
		m.otherPath(r)
	}
	return r
}

func (m *requestMaker) parameters(r *apiRequest) {
	var query []string
	add := func(name string, v any) {
		query = append(query, url.QueryEscape(name)+"="+url.QueryEscape(fmt.Sprint(v)))
	}
	for _, p := range r.op.query {
		required := p.Required != nil && *p.Required
		if !required && !m.one(3) {
			continue
		}
		s := p.Schema.Schema()
		strict := len(s.Enum) > 0 || s.Type[0] != "string"
		switch {
		case required && m.one(8):
			r.is("parameter missing", true)
		case strict && m.one(4):
			v := pick(m, "x", "-1", "1.5", "TRUE", "0x10", "99999999999999999999999", "list,sum", "\x00")
			add(p.Name, v)
			r.is("parameter of another type", v != "TRUE") // which the validator takes for true
		case strict && m.one(8):
			add(p.Name, "")
			r.is("parameter empty", true)
		case m.one(12):
			add(p.Name, m.value(s))
			add(p.Name, m.value(s))
			r.is("parameter twice", false)
		default:
			add(p.Name, m.value(s))
		}
	}
	if m.one(25) {
		query = append(query, pick(m, "unknown=1", "Limit=1", "limit=1;after=2", "%zz", "=", "\u00e4=1"))
		r.is("unknown parameter", false)
	}
	if len(query) > 0 {
		r.target += "?" + strings.Join(query, "&")
	}
}

func (m *requestMaker) json(r *apiRequest) {
	r.header.Set("Content-Type", r.op.media)
	if m.one(10) { // the document says that this is not looked at
		r.header.Set("Content-Type", pick(m, "text/plain", "application/x-www-form-urlencoded", "nonsense", "application/json; charset=utf-8"))
	}
	s := r.op.body
	object := m.value(s).(map[string]any)
	if m.one(2) { // as often as not nothing is wrong with it
		r.body = encoded(object)
		if m.one(6) {
			r.body = append(r.body, bytes.Repeat([]byte(" "), api.MaxRequestBytes-len(r.body))...)
		}
		return
	}
	var names []string
	for name := range s.Properties.FromOldest() {
		names = append(names, name)
	}
	switch kind := pick(m, "nothing", "extra", "case", "twice", "missing", "null", "type", "shape", "more", "cut", "text", "deep", "long"); {
	case kind == "nothing":
		r.header.Del("Content-Type")
		if len(s.Required) > 0 {
			r.is("no body", true)
		}
	case kind == "extra":
		object[pick(m, "unknown", "", "Lease\u017f")] = 1
		r.body = encoded(object)
		r.is("extra key", true)
	case kind == "shape":
		r.body = []byte(pick(m, "[]", "7", `"x"`, "true"))
		r.is("not an object", true)
	case kind == "more":
		r.body = append(encoded(object), "{}"...)
		r.is("more than one value", false)
	case kind == "cut":
		r.body = encoded(object)
		r.body = r.body[:len(r.body)-1]
		r.is("cut off", false)
	case kind == "text":
		r.body = []byte(pick(m, "{\"\xff\":1}", "{a:1}", "{'a':1}", "<a/>", "\xef\xbb\xbf{}", "{\"\\ud800\":1}", "\x00"))
		r.is("not JSON", false)
	case kind == "deep":
		n := pick(m, 17, 20_000)
		r.body = fmt.Appendf(nil, `{"entries":%s1%s}`, strings.Repeat("[", n), strings.Repeat("]", n))
		r.is("too deep", false)
	case kind == "long":
		r.body = append(encoded(object), bytes.Repeat([]byte(" "), pick(m, api.MaxRequestBytes, 300_000))...)
		r.is("too long", false)
	case len(names) == 0:
		r.body = []byte("null")
		r.is("null", false)
	default:
		name := pick(m, names...)
		p, _ := s.Properties.Get(name)
		object[name] = m.value(p.Schema())
		r.body = encoded(object)
		switch kind {
		case "case":
			r.body = bytes.Replace(r.body, []byte(`"`+name+`":`), []byte(`"`+strings.ToUpper(name)+`":`), 1)
			r.is("key in another case", true)
		case "twice":
			r.body = append(fmt.Appendf(nil, `{%q:%s,`, name, encoded(object[name])), r.body[1:]...)
			r.is("key twice", false)
		case "missing":
			delete(object, name)
			r.body = encoded(object)
			if slices.Contains(s.Required, name) {
				r.is("key missing", true)
			}
		case "null":
			object[name] = nil
			r.body = encoded(object)
			r.is("null", false)
		case "type":
			object[name] = m.other(p.Schema())
			r.body = encoded(object)
			r.is("value of another type", true)
		}
	}
}

// whole makes a bundle in which nothing is wrong.
func (m *requestMaker) whole(r *apiRequest) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for name, content := range m.bundle {
		p, _ := w.CreateFormFile(name, name)
		p.Write(content)
	}
	w.Close()
	r.body, r.header = b.Bytes(), http.Header{"Content-Type": {w.FormDataContentType()}}
}

// form makes a bundle.
func (m *requestMaker) form(r *apiRequest) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	leftOut := ""
	if m.one(6) {
		leftOut = pick(m, "manifest", "object")
		r.is("part missing", false)
	}
	for name, content := range m.bundle {
		part := func(name string, b []byte) {
			p, _ := w.CreateFormFile(name, name)
			p.Write(b)
		}
		switch {
		case name == leftOut:
			continue
		case m.one(12):
			content = nil
			r.is("empty part", false)
		case m.one(12):
			part(name, content)
			r.is("part twice", false)
		case m.one(12):
			content = bytes.Repeat([]byte("#"), pick(m, api.MaxManifestBytes+1, api.MaxObjectBytes+1))
			if name != "object" || len(content) > api.MaxObjectBytes {
				r.is("part too long", false)
			} else {
				r.is("no object", false)
			}
		}
		part(name, content)
	}
	if m.one(12) {
		w.WriteField("unknown", "x")
		r.is("unknown part", false)
	}
	w.Close()
	r.body = b.Bytes()
	r.header.Set("Content-Type", w.FormDataContentType())
	switch {
	case m.one(12):
		r.body = r.body[:m.IntN(len(r.body))]
		r.is("form cut off", false)
	case m.one(12):
		r.header.Set("Content-Type", pick(m, "application/json", "multipart/form-data", "multipart/form-data; boundary=other", "", "multipart/mixed; boundary=a"))
		r.is("another media type", false)
	}
}

// upgrade asks for another protocol, where there is one and where there is none.
func (m *requestMaker) upgrade(r *apiRequest) {
	if !m.one(4) {
		return
	}
	protocol := pick(m, "hornet-fd", "hornet-lease", "hornet-lease", "websocket", "h2c")
	if r.op.OperationId == "map" && m.one(2) {
		protocol = "hornet-fd"
	}
	r.header.Set("Connection", "Upgrade")
	r.header.Set("Upgrade", protocol)
	if protocol == "hornet-lease" && r.op.OperationId == "load" && r.wrong == "" {
		r.body = []byte(`{"lease":true}`)
	}
}

func (m *requestMaker) otherMethod(r *apiRequest) {
	method := pick(m, "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "FOO")
	for _, op := range m.doc.operations {
		if op.path == r.op.path && op.method == method {
			return
		}
	}
	r.op, r.method, r.seen, r.wrong = nil, method, false, "another method"
	if method == "CONNECT" {
		r.target = "hornetd:80"
	}
}

func (m *requestMaker) otherPath(r *apiRequest) {
	path, query, _ := strings.Cut(r.target, "?")
	path = pick(m, "/"+path, path+"/", path+"/x", strings.ToUpper(path), "/v2"+path[3:], "/v1/.."+path, path+"/.", "/", "*", "/v1", "/v1//status", "/..", "/%2e%2e/v1/status", "/v1%2fstatus")
	r.op, r.target, r.seen, r.wrong = nil, path, false, "another path"
	if query != "" && path != "*" {
		r.target += "?" + query
	}
}

// speaker sends requests byte by byte, one after the other on a connection while
// the daemon keeps it.
type speaker struct {
	t    *testing.T
	h    *testdaemon.Host
	uid  int
	conn net.Conn
	r    *bufio.Reader
}

func (s *speaker) hangUp() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// send returns the answer and what of its body is to be judged.
func (s *speaker) send(r *apiRequest) (*http.Response, []byte) {
	s.t.Helper()
	if s.conn == nil {
		s.conn = dialAs(s.t, s.uid, s.h.Socket)
		s.r = bufio.NewReader(s.conn)
	}
	s.conn.SetDeadline(time.Now().Add(time.Minute))
	sent := make(chan struct{})
	go func(conn net.Conn) { // who is refused early is not read to the end
		conn.Write(r.bytes())
		close(sent)
	}(s.conn)
	resp, err := http.ReadResponse(s.r, &http.Request{Method: r.method})
	if err != nil {
		s.t.Fatalf("uid %d, %v: %v", s.uid, r, err)
	}
	var body []byte
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		body, err = s.r.ReadBytes('\n')
		s.hangUp()
	case resp.StatusCode == http.StatusOK && (strings.Contains(r.target, "follow=") || strings.Contains(r.target, "/stream")): // without an end
		s.hangUp()
	default:
		body, err = io.ReadAll(resp.Body)
	}
	if err != nil {
		s.t.Fatalf("uid %d, %v: body: %v", s.uid, r, err)
	}
	if resp.Close {
		s.hangUp()
	}
	<-sent
	return resp, body
}

// judge holds an answer against the document.
func (d *apiDocument) judge(t *testing.T, r *apiRequest, resp *http.Response, body []byte) {
	t.Helper()
	failed := func(format string, args ...any) {
		t.Errorf("%v: %d %.300q: %s", r, resp.StatusCode, body, fmt.Sprintf(format, args...))
	}
	success := resp.StatusCode < 400
	if r.wrong != "" && success {
		failed("a success")
	}
	if resp.StatusCode >= 500 {
		failed("the daemon's own trouble")
	}
	request, err := http.NewRequest(r.method, "http://hornetd"+r.target, bytes.NewReader(r.body))
	if err == nil && r.op != nil && r.op.media != api.BundleType {
		request.Header = r.header.Clone()
		if r.body != nil && r.op.body != nil { // the document says that another one is not looked at
			request.Header.Set("Content-Type", r.op.media)
		}
		valid, errs := d.ValidateHttpRequestSync(request)
		switch {
		case !valid && r.wrong == "":
			failed("the document does not allow it: %v", errs)
		case valid && r.seen:
			failed("the document allows it")
		}
	}
	media := resp.Header.Get("Content-Type")
	switch {
	case success && r.op == nil: // reported above
	case !success:
		d.isError(failed, resp, body, r.method == http.MethodHead)
	case resp.StatusCode == http.StatusSwitchingProtocols:
		response, ok := r.op.Responses.Codes.Get("101")
		if !ok {
			failed("no such answer in the document")
			return
		}
		d.holds(failed, response.Content.First().Value().Schema.Schema(), body)
	case media == api.EventsType && (r.op.OperationId == "events" || r.op.OperationId == "stream"):
		for record := range bytes.SplitAfterSeq(body, []byte("\n")) {
			if len(record) > 0 && record[0] != 0x1e {
				failed("record %q", record)
			} else if len(record) > 0 {
				d.holds(failed, d.schema("Event"), record[1:])
			}
		}
	default:
		request.Header = r.header.Clone()
		if ok, errs := d.ValidateHttpResponse(request, again(resp, body)); !ok || media != "application/json" {
			failed("media type %q: %v", media, errs)
		}
	}
}

// again is an answer whose body can be read once more.
func again(resp *http.Response, body []byte) *http.Response {
	return &http.Response{StatusCode: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body))}
}

func (d *apiDocument) schema(name string) *base.Schema {
	return d.model.Components.Schemas.GetOrZero(name).Schema()
}

func (d *apiDocument) holds(failed func(string, ...any), s *base.Schema, body []byte) {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		failed("%v", err)
	} else if ok, errs := d.schemas.ValidateSchemaObject(s, v); !ok {
		failed("%v", errs)
	}
}

// isError checks that an answer is an Error and has the status of its kind.
func (d *apiDocument) isError(failed func(string, ...any), resp *http.Response, body []byte, head bool) {
	if media := resp.Header.Get("Content-Type"); media != "application/json" {
		failed("media type %q", media)
	}
	if head {
		return
	}
	d.holds(failed, d.schema("Error"), body)
	var e api.Error
	if err := json.Unmarshal(body, &e); err != nil || e.Kind.Status() != resp.StatusCode || e.Message == "" {
		failed("kind %s has status %d: %v", e.Kind, e.Kind.Status(), err)
	}
}

// envCount is a number of the environment, or the one given.
func envCount(name string, or int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return or
}

// TestDocument: requests made from openapi.yaml, good and bad, by root, by one who
// may something and by one who may nothing. Each answer is one that the document
// has, in status, media type and body; what the document does not allow is refused;
// and the daemon is in the end what it was. HORNET_REQUESTS asks for more,
// HORNET_SEED for others.
func TestDocument(t *testing.T) {
	testenv.NoLeaks(t)
	requests, seed := envCount("HORNET_REQUESTS", 4000), uint64(envCount("HORNET_SEED", 1))
	if testing.Short() {
		requests = min(requests, 480)
	}
	doc := readAPIDocument(t)
	h := testdaemon.New(t, strings.ReplaceAll(mayRun, "1000", strconv.Itoa(stranger)))
	h.Object("maps.bpf.o", read(t, "testdata/maps.bpf.o"))
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("conn_count.bpf.o", object)
	h.Manifest("maps", mapsManifest(`"status", "load", "unload", "upgrade", "events", "read:counts", "read:networks", "read:percpu", "write:counts", "write:percpu", "fd:counts", "rw-fd:events"`))
	rights := fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"status\", \"load\", \"unload\", \"upgrade\", \"events\"]\n", stranger)
	h.Manifest("open", connCount(testenv.Cgroup(t))+rights)
	h.Manifest("shut", connCount(testenv.Cgroup(t)))
	h.Start()
	callers := []*speaker{{t: t, h: h}, {t: t, h: h, uid: stranger}, {t: t, h: h, uid: stranger + 1}}
	for _, s := range callers {
		s.send(&apiRequest{method: "GET", target: "/v1/status"})
	}
	maker := &requestMaker{Rand: rand.New(rand.NewPCG(seed, 6)), doc: doc, bundle: map[string][]byte{
		"manifest": []byte(connCount(testenv.Cgroup(t))), "object": object, "signature": h.Sign(object)}}
	root := h.Client()
	began := afterAll(t, h)

	wrong, done, refused, statuses := 0, map[string]int{}, map[string]int{}, map[int]int{}
	for n := range requests {
		r := maker.next(n)
		s := callers[[]int{0, 0, 0, 1, 1, 2}[maker.IntN(6)]]
		if r.op != nil && r.op.OperationId != "load" && maker.one(6) { // or most of the rest is a conflict
			root.Load(context.Background(), "maps")
		}
		resp, body := s.send(r)
		doc.judge(t, r, resp, body)
		statuses[resp.StatusCode]++
		if r.wrong != "" {
			wrong++
		}
		if r.op != nil && resp.StatusCode < 400 {
			done[r.op.OperationId]++
		} else if r.op != nil {
			refused[r.op.OperationId]++
		}
	}
	t.Logf("seed %d: %d requests, of them %d wrong; answers by status: %v; done: %v; refused: %v", seed, requests, wrong, statuses, done, refused)
	never := []string{"recover", "guard", "enroll", "retire", "statement", "signed"} // nothing is in quarantine, and this kernel has no guard
	for _, op := range doc.operations {
		if testing.Short() { // a few do not come to everything
			break
		}
		if done[op.OperationId] == 0 && !slices.Contains(never, op.OperationId) {
			t.Errorf("%s: never done", op.OperationId)
		}
		if refused[op.OperationId] == 0 {
			t.Errorf("%s: never refused", op.OperationId)
		}
	}
	for _, s := range callers {
		s.hangUp()
	}
	root.Close()
	began.check(t, h)
}

// atRest is what a daemon holds when nothing runs and nobody asks.
type atRest struct{ files, threads, memory int }

// afterAll unloads everything but what is kept and returns what the daemon still
// holds.
func afterAll(t *testing.T, h *testdaemon.Host, kept ...string) atRest {
	t.Helper()
	root := h.Client()
	defer root.Close()
	list, err := root.List(context.Background())
	must(t, err)
	for _, c := range list {
		if c.State != api.StateAvailable && !slices.Contains(kept, c.Name) {
			_, err := root.Unload(context.Background(), c.Name, api.UnloadRequest{Force: true})
			must(t, err)
		}
	}
	return atRest{openFDs(t, h.PID()), procStatus(t, h.PID(), "Threads"), procStatus(t, h.PID(), "VmRSS")}
}

// check unloads everything but what is kept and holds what is left against what
// there was.
func (b atRest) check(t *testing.T, h *testdaemon.Host, kept ...string) {
	t.Helper()
	now := afterAll(t, h, kept...)
	now.files = settledFDs(t, h.PID(), b.files)
	t.Logf("descriptors %d, threads %d, memory %d KiB; before %d, %d, %d", now.files, now.threads, now.memory, b.files, b.threads, b.memory)
	if now.files > b.files {
		t.Errorf("%d descriptors, %d before", now.files, b.files)
	}
	if most := memory(t, h.PID()); most > mostMemory {
		t.Errorf("the daemon used %d KiB, at most %d", most, mostMemory)
	}
	for _, path := range tree(t, h.BPFFS) {
		if name, _, _ := strings.Cut(strings.TrimPrefix(path, h.BPFFS+"/"), "/"); !slices.Contains(kept, name) {
			t.Errorf("pinned: %s", path)
		}
	}
	if left := lies(t, h); left != "" {
		t.Errorf("bundles: %s", left)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", h.PID())); err != nil {
		t.Error(err)
	}
	checkLog(t, auditRecords(t, h.State))
}

// checkLog wants each record of the audit log behind the one before, and an outcome
// for every intent.
func checkLog(t *testing.T, records []auditRecord) {
	t.Helper()
	open := map[uint64]bool{}
	for i, r := range records {
		if i > 0 && r.Seq != records[i-1].Seq+1 {
			t.Errorf("audit log: record %d follows record %d", r.Seq, records[i-1].Seq)
		}
		switch r.Phase {
		case "intent":
			open[r.Seq] = true
		case "outcome":
			delete(open, r.Intent)
		}
	}
	if len(open) > 0 {
		t.Errorf("audit log: intents %v have no outcome", open)
	}
	t.Logf("%d records in the audit log", len(records))
}

// procStatus is a number of /proc/PID/status.
func procStatus(t *testing.T, pid int, key string) int {
	t.Helper()
	for line := range strings.Lines(string(read(t, fmt.Sprintf("/proc/%d/status", pid)))) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			must(t, err)
			return n
		}
	}
	t.Fatalf("process %d: no %s", pid, key)
	return 0
}

// TestNotHTTP: what cannot be a request is answered as the document says, in text,
// and hung up on.
func TestNotHTTP(t *testing.T) {
	testenv.NoLeaks(t)
	h := newOffice(t)
	const host = "Host: h\r\n"
	for what, test := range map[string]struct {
		sent   string
		status int
	}{
		"no request":     {"nonsense\r\n\r\n", 400},
		"no host":        {"GET /v1/status HTTP/1.1\r\n\r\n", 400},
		"two hosts":      {"GET /v1/status HTTP/1.1\r\n" + host + host + "\r\n", 400},
		"a bad path":     {"GET /v1/%zz HTTP/1.1\r\n" + host + "\r\n", 400},
		"no path":        {"GET v1/status HTTP/1.1\r\n" + host + "\r\n", 400},
		"two lengths":    {"POST /v1/plan HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400},
		"length below 0": {"POST /v1/plan HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n{}", 400},
		"a folded key":   {"GET /v1/status HTTP/1.1\r\n" + host + " x: y\r\n\r\n", 400},
		"a bad method":   {"G@T /v1/status HTTP/1.1\r\n" + host + "\r\n", 400},
		"expectation":    {"POST /v1/plan HTTP/1.1\r\n" + host + "Expect: more\r\nContent-Length: 2\r\n\r\n{}", 417},
		"long header":    {"GET /v1/status HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", 431},
		"another coding": {"POST /v1/plan HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip\r\n\r\n{}", 501},
		"another HTTP":   {"GET /v1/status HTTP/3.0\r\n" + host + "\r\n", 505},
	} {
		conn := dialAs(t, stranger, h.Socket)
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, test.sent) // not all of it, where the daemon has had enough
		all, _ := io.ReadAll(conn)
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(all)), nil)
		if err != nil {
			t.Errorf("%s: %q: %v", what, all, err)
			continue
		}
		media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		if resp.StatusCode != test.status || resp.StatusCode != 417 && media != "text/plain" {
			t.Errorf("%s: status %d, %q, want %d", what, resp.StatusCode, media, test.status)
		}
	}
	if !answered(dialAs(t, stranger, h.Socket)) {
		t.Error("the daemon answers no more")
	}
}
