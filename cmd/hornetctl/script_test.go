package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hornetd/hornetd/api"
)

// The behaviour of the command stands in testdata/script. Beside testscript's
// own commands the scripts have:
//
//	exits N COMMAND…   runs it and wants this exit status
//	serve DIR          answers on $HORNET_SOCKET with what lies in DIR (see serve)
//	mode FILE N        wants this mode, in octal
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"serve": serve,
			"mode":  mode,
		},
		Condition: func(cond string) (bool, error) {
			if cond != "trust-store" { // this host has one
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			_, err := os.Stat(trustDir)
			return err == nil, nil
		},
		Setup: func(e *testscript.Env) error {
			examples, err := filepath.Abs("../../examples")
			e.Setenv("EXAMPLES", examples)
			e.Setenv("SIGNFILE", filepath.Join(filepath.Dir(examples), "signing/testdata"))
			e.Setenv("TZ", "UTC")
			e.Setenv("HORNET_SOCKET", filepath.Join(e.WorkDir, "s"))
			return err
		},
	})
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hornetctl": scriptMain})
}

// scriptMain is main in the scripts: the clock stands still where $NOW says,
// and stdout is a terminal where $TERMINAL says so.
func scriptMain() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	e := env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, now: time.Now,
		terminal: os.Getenv("TERMINAL") != "",
	}
	if now, err := time.Parse(time.RFC3339, os.Getenv("NOW")); err == nil {
		e.now = func() time.Time { return now }
	}
	os.Exit(run(ctx, e, os.Args[1:]))
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		got = exited.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE OCTAL")
	}
	want, err := strconv.ParseUint(args[1], 8, 32)
	ts.Check(err)
	info, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := info.Mode(); uint64(got.Perm()) != want || !got.IsRegular() {
		ts.Fatalf("%s: mode %v, want %o", args[0], got, want)
	}
}

// serve answers each request with the file DIR/METHOD/path.json (a later page
// of a map with path@AFTER.json), or DIR/METHOD/path.json-seq line by line, or the error in DIR/error.json, and
// appends what it was asked to DIR/log.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serve DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	l, err := net.Listen("unix", ts.Getenv("HORNET_SOCKET"))
	ts.Check(err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := answer(w, r, dir); err != nil {
			panic(http.ErrAbortHandler) // hangs up
		}
	})}
	go srv.Serve(l)
	ts.Defer(func() { srv.Close() })
}

func answer(w http.ResponseWriter, r *http.Request, dir string) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	fmt.Fprintln(log, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body)))
	if err := log.Close(); err != nil {
		return err
	}
	if b, err := os.ReadFile(filepath.Join(dir, "error.json")); err == nil {
		var e api.Error
		if err := json.Unmarshal(b, &e); err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(e.Kind.Status())
		_, err = w.Write(b)
		return err
	}
	file := filepath.Join(dir, r.Method, r.URL.Path)
	if after := r.URL.Query().Get("after"); after != "" {
		file += "@" + after
	}
	if b, err := os.ReadFile(file + ".json"); err == nil {
		w.Header().Set("Content-Type", "application/json")
		_, err = w.Write(b)
		return err
	}
	b, err := os.ReadFile(file + ".json-seq")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", api.EventsType)
	for line := range strings.Lines(string(b)) {
		fmt.Fprintf(w, "\x1e%s", line)
	}
	if r.URL.Query().Get("follow") == "true" {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	return nil
}
