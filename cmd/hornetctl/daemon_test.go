package main

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// The scripts in testdata/daemon talk to a real hornetd on a host of its own.
// They have:
//
//	hornetd start|stop|kill
//	manifest FILE                 puts it into $MANIFESTS, its variables replaced
//	$MANIFESTS $TRUST $KEY $CERT  the host's directories, and the key of its signer "dev"
//	$IFACE $NETNS                 an interface that nobody else uses
//	as UID N ARGUMENT…            runs hornetctl as another user; wants exit status N
func TestDaemonScripts(t *testing.T) {
	testenv.RequireRoot(t)
	t.Cleanup(testdaemon.Clean)
	scripts, err := filepath.Glob("testdata/daemon/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			testenv.NoLeaks(t)
			pair := testenv.Veth(t)
			h := testdaemon.New(t, "")
			testscript.Run(t, testscript.Params{
				Files: []string{script},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"exits":    exits,
					"as":       func(ts *testscript.TestScript, _ bool, args []string) { as(ts, h, args) },
					"manifest": install,
					"hornetd":  func(ts *testscript.TestScript, _ bool, args []string) { control(ts, h, args) },
				},
				Setup: func(e *testscript.Env) error {
					key, cert := h.Key()
					examples, err := filepath.Abs("../../examples")
					for name, value := range map[string]string{
						"HORNET_SOCKET": h.Socket, "MANIFESTS": h.Manifests, "TRUST": h.Trust, "KEY": key, "CERT": cert,
						"IFACE": pair.B.Name, "NETNS": pair.B.Netns, "EXAMPLES": examples, "TZ": "UTC",
					} {
						e.Setenv(name, value)
					}
					return err
				},
			})
		})
	}
}

func control(ts *testscript.TestScript, h *testdaemon.Host, args []string) {
	switch strings.Join(args, " ") {
	case "start":
		ts.Check(h.TryStart())
	case "stop":
		h.Stop()
	case "kill":
		h.Kill()
	default:
		ts.Fatalf("usage: hornetd start|stop|kill")
	}
}

func as(ts *testscript.TestScript, h *testdaemon.Host, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: as UID N ARGUMENT...")
	}
	uid, err := strconv.ParseUint(args[0], 10, 32)
	ts.Check(err)
	stdout, stderr, exit := h.CtlAs(uint32(uid), args[2:]...)
	io.WriteString(ts.Stdout(), stdout)
	io.WriteString(ts.Stderr(), stderr)
	if strconv.Itoa(exit) != args[1] {
		ts.Fatalf("exit status %d, want %s\n%s%s", exit, args[1], stdout, stderr)
	}
}

func install(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: manifest FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("MANIFESTS"), args[0]), []byte(text), 0o644))
}
