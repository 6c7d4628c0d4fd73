package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestBadHTTP: requests that two readers could read in two ways, that hide another
// request, or that are larger or older than they should be. Each is sent by hand
// as it stands. Whatever the answer, a load that hides behind it is not made, and
// nobody else notices.
func TestBadHTTP(t *testing.T) {
	testenv.NoLeaks(t)
	h := newOffice(t)
	const load = "POST /v1/collections/open/load HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}" // what may hide
	post := func(headers, body string) string {
		return "POST /v1/plan HTTP/1.1\r\nHost: h\r\n" + headers + "\r\n" + body
	}
	ask := func(headers string) string { return "GET /v1/status HTTP/1.1\r\nHost: h\r\n" + headers + "\r\n" }
	const ok, bad = http.StatusOK, http.StatusBadRequest
	for what, test := range map[string]struct {
		request string
		answers []int // in this order; then the connection is closed
	}{
		"two lengths that differ":         {post("Content-Length: 2\r\nContent-Length: 40\r\n", "{}"+load), []int{bad}},
		"two lengths in one":              {post("Content-Length: 2, 40\r\n", "{}"+load), []int{bad}},
		"a negative length":               {post("Content-Length: -1\r\n", "{}"+load), []int{bad}},
		"a signed length":                 {post("Content-Length: +2\r\n", "{}"+load), []int{bad}},
		"a length in hexadecimal":         {post("Content-Length: 0x2\r\n", "{}"+load), []int{bad}},
		"a length beyond all":             {post("Content-Length: 18446744073709551618\r\n", "{}"+load), []int{bad}},
		"length and chunks":               {post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+load), []int{ok}}, // chunks count, and it is the last
		"chunks twice":                    {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+load), []int{http.StatusNotImplemented}},
		"chunks and identity":             {post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"+load), []int{http.StatusNotImplemented}},
		"chunks by another name":          {post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"+load), []int{http.StatusNotImplemented}},
		"compressed":                      {post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"+load), []int{http.StatusNotImplemented}},
		"a chunk that is no number":       {post("Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"+load), []int{bad}},
		"a negative chunk":                {post("Transfer-Encoding: chunked\r\n", "-2\r\n{}\r\n0\r\n\r\n"+load), []int{bad}},
		"a chunk beyond all":              {post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"+load), []int{bad}},
		"a chunk longer than it says":     {post("Transfer-Encoding: chunked\r\n", "1\r\n{}\r\n0\r\n\r\n"+load), []int{bad}},
		"chunks with long extensions":     {post("Transfer-Encoding: chunked\r\n", strings.Repeat("1;"+strings.Repeat("x", 3000)+"\r\n \r\n", 40)), []int{bad}},
		"a space before the colon":        {post("Content-Length : 2\r\n", "{}"+load), []int{bad}},
		"a folded header":                 {ask("X: a\r\n b\r\nConnection: close\r\n"), []int{ok}},
		"a header without a name":         {ask(": a\r\n"), []int{bad}},
		"a header with a NUL":             {ask("X: a\x00b\r\n"), []int{bad}},
		"a header without a colon":        {ask("X\r\n"), []int{bad}},
		"a bare CR in a header":           {ask("X: a\rContent-Length: 2\r\n"), []int{bad}},
		"two hosts":                       {ask("Host: g\r\n"), []int{bad}},
		"no host":                         {"GET /v1/status HTTP/1.1\r\n\r\n", []int{bad}},
		"headers of 64 KiB":               {ask(strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 64)), []int{http.StatusRequestHeaderFieldsTooLarge}},
		"one header of 64 KiB":            {ask("X: " + strings.Repeat("y", 64<<10) + "\r\n"), []int{http.StatusRequestHeaderFieldsTooLarge}},
		"a path of 64 KiB":                {"GET /v1/" + strings.Repeat("y", 64<<10) + " HTTP/1.1\r\nHost: h\r\n\r\n", []int{http.StatusRequestHeaderFieldsTooLarge}},
		"another host's absolute form":    {"GET http://evil/v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{ok}}, // there is one host
		"an absolute form with a user":    {"GET http://u:p@h/v1/nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"no path":                         {"GET status HTTP/1.1\r\nHost: h\r\n\r\n", []int{bad}},
		"an asterisk":                     {"OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"CONNECT":                         {"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"TRACE":                           {"TRACE /v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"DELETE":                          {"DELETE /v1/collections/open HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"a method in lower case":          {"get /v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"a method that is none":           {"G(T /v1/status HTTP/1.1\r\nHost: h\r\n\r\n", []int{bad}},
		"HTTP/1.0":                        {"GET /v1/status HTTP/1.0\r\n\r\n", []int{ok}},
		"HTTP/1.0, chunked":               {"POST /v1/plan HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + load, []int{ok}}, // there are no chunks in it, nor a body
		"HTTP/0.9":                        {"GET /v1/status\r\n", []int{bad}},
		"HTTP/2":                          {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{http.StatusNotFound}},
		"HTTP/9.9":                        {"GET /v1/status HTTP/9.9\r\nHost: h\r\n\r\n", []int{http.StatusHTTPVersionNotSupported}},
		"three in a row":                  {ask("") + ask("") + ask("Connection: close\r\n"), []int{ok, ok, ok}},
		"a good one and a bad one":        {ask("") + ask("X\r\n") + load, []int{ok, bad}},
		"an expectation":                  {post("Expect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n", "{}"), []int{http.StatusContinue, ok}},
		"an expectation that nobody has":  {post("Expect: the-unexpected\r\nContent-Length: 2\r\n", "{}"+load), []int{http.StatusExpectationFailed}},
		"a body with a GET":               {ask("Connection: close\r\nContent-Length: 2\r\n") + "{}", []int{ok}},
		"a body of a GET that is a load":  {ask(fmt.Sprintf("Connection: close\r\nContent-Length: %d\r\n", len(load))) + load, []int{ok}},
		"a TLS handshake":                 {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 200) + "\r\n\r\n", []int{bad}},
		"an upgrade to another protocol":  {ask("Connection: Upgrade, close\r\nUpgrade: websocket\r\n"), []int{ok}},
		"a lease with chunks":             {"POST /v1/collections/open/load HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: hornet-lease, hornet-fd\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{bad}},
		"an escaped slash":                {"GET /v1%2fstatus HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"a path that climbs":              {"GET /v1/collections/../status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"a path that climbs, escaped":     {"GET /v1/collections/%2e%2e/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"a path with a NUL":               {"GET /v1/collections/a%00b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []int{http.StatusNotFound}},
		"a percent sign that leads to no": {"GET /v1/collections/%zz HTTP/1.1\r\nHost: h\r\n\r\n", []int{bad}},
	} {
		conn := dialAs(t, 0, h.Socket)
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		go io.WriteString(conn, test.request) // the daemon may stop reading
		got := statuses(conn)
		if fmt.Sprint(got) != fmt.Sprint(test.answers) {
			t.Errorf("%s: answered %v, want %v and the end", what, got, test.answers)
		}
		conn.Close()
	}
	if c := get(t, h, "open"); c.State != api.StateAvailable {
		t.Errorf("open is %s: a request was hidden in another", c.State)
	}
	for _, r := range auditRecords(t, h.State) {
		if r.Verb == "load" {
			t.Errorf("on record: %+v", r)
		}
	}
	if !answered(dialAs(t, 0, h.Socket)) {
		t.Error("the daemon does not answer")
	}
}

// statuses reads all answers on a connection until it is closed.
func statuses(conn net.Conn) (all []int) {
	r := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return all
		}
		all = append(all, resp.StatusCode)
		if resp.StatusCode == http.StatusContinue {
			continue
		}
		io.Copy(io.Discard, resp.Body)
	}
}
