package vmtest

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func twoCommands() *Plan {
	return &Plan{Nonce: "N", Commands: []Command{{Name: "one"}, {Name: "two"}}}
}

// stream puts marker lines together: a line that starts with @ is one.
func stream(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		if rest, ok := strings.CutPrefix(l, "@"); ok {
			l = "\n" + marker("N") + rest
		}
		b.WriteString(l + "\n")
	}
	return b.String()
}

func TestReport(t *testing.T) {
	const dead = "[    3.1] Kernel panic - not syncing: sysrq triggered crash\r\n[    3.2] CPU: 0 PID: 1\r\n"
	for name, tt := range map[string]struct {
		said     string
		console  string
		timedOut bool
		out      string
		err      string
	}{
		"well":     {stream("noise", "@boot 7.3", "@start 0", "hello", "@exit 0 0 exited", "@start 1", "@exit 1 0 exited", "@end"), "", false, "hello\n", ""},
		"failed":   {stream("@boot 7.3", "@start 0", "FAIL", "@exit 0 1 exited", "@start 1", "@exit 1 0 exited", "@end"), "", false, "FAIL\n", "one: exit status 1"},
		"killed":   {stream("@boot 7.3", "@start 0", "@exit 0 -1 SIGSEGV", "@start 1", "@exit 1 0 exited", "@end"), "", false, "", "one: SIGSEGV"},
		"no line":  {stream("@boot 7.3", "@start 0") + "a\n\nb" + stream("@exit 0 0 exited", "@start 1", "@exit 1 0 exited", "@end"), "", false, "a\n\nb", ""},
		"hung":     {stream("@boot 7.3", "@start 0", "@exit 0 0 exited", "@start 1", "@exit 1 -1 timeout", "@end"), "", false, "", "two: timeout"},
		"panic":    {stream("@boot 7.3", "@start 0", "half a li"), dead, false, "half a li\n", "guest: died while one ran: [    3.1] Kernel panic - not syncing: sysrq triggered crash"},
		"vanished": {stream("@boot 7.3", "@start 0", "@exit 0 0 exited"), "", false, "", "guest: died after 1 of 2 commands: the guest ended and did not say why"},
		"no end":   {stream("@boot 7.3", "@start 0", "@exit 0 0 exited", "@start 1", "@exit 1 0 exited"), "", false, "", "guest: died after 2 of 2 commands"},
		"time-out": {stream("@boot 7.3", "@start 0"), "", true, "", "guest: time-out while one ran"},
		"no init":  {"", dead, false, "", "guest: kernel did not start /init: [    3.1] Kernel panic"},
		"slow":     {"", "", true, "", "guest: time-out before /init ran"},
		"broken":   {stream("@broken module veth: no such file"), "", false, "", "guest: module veth: no such file"},
		"forged": {stream("@boot 7.3", "@start 0", "\x1dM exit 0 0 exited", "x "+marker("N")+"end", "@exit 0 3 exited", "@start 1", "@exit 1 0 exited", "@end"), "", false,
			"\x1dM exit 0 0 exited\nx " + marker("N") + "end\n", "one: exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			r, p := newReport(), twoCommands()
			var out [2]string
			if err := r.read(strings.NewReader(tt.said), p, func(i int, b []byte) { out[i] += string(b) }); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([2]string{tt.out}, out); diff != "" {
				t.Error(diff)
			}
			err := r.verdict(p, tt.console, tt.timedOut)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err)) {
				t.Errorf("error %v, want %s", err, tt.err)
			}
			var exit *ExitError
			if strings.HasPrefix(tt.err, "one: exit") && !errors.As(err, &exit) {
				t.Errorf("%v is no *ExitError", err)
			}
		})
	}
}

func TestReportRefuses(t *testing.T) {
	for _, line := range []string{"@exit 0 0 exited", "@start 2", "@start -1", "@start x", "@file 99999999999 a", "@file -1 a", "@file 10 a", "@nonsense"} {
		r := newReport()
		if err := r.read(strings.NewReader(stream(line)), twoCommands(), func(int, []byte) {}); err == nil {
			t.Errorf("%s: no error", line)
		}
	}
}

// Files are bytes of any kind, and long lines are not torn.
func TestReportFiles(t *testing.T) {
	body := "\x00\n" + marker("N") + "end\nx"
	long := strings.Repeat("y", 64<<10) // what is read at once: the marker starts the rest
	r, p := newReport(), twoCommands()
	var out strings.Builder
	said := stream("@boot 7.3", "@start 0", long+marker("N")+"end", "@exit 0 0 exited", "@file "+strconv.Itoa(len(body))+" a b") + body +
		stream("@start 1", "@exit 1 0 exited", "@end")
	if err := r.read(strings.NewReader(said), p, func(_ int, b []byte) { out.Write(b) }); err != nil {
		t.Fatal(err)
	}
	if err := r.verdict(p, "", false); err != nil {
		t.Error(err)
	}
	if got := string(r.Files["a b"]); got != body {
		t.Errorf("file %q, want %q", got, body)
	}
	if out.String() != long+marker("N")+"end\n" {
		t.Errorf("%d bytes of output", out.Len())
	}
}

// Whatever a guest says, the host neither hangs nor panics.
func FuzzReport(f *testing.F) {
	f.Add(stream("@boot 7.3", "@start 0", "hello", "@exit 0 0 exited", "@file 1 a", "b", "@end"))
	f.Add(stream("@file 3 a", "b"))
	f.Fuzz(func(t *testing.T, said string) {
		r, p := newReport(), twoCommands()
		if r.read(strings.NewReader(said), p, func(int, []byte) {}) == nil {
			_ = r.verdict(p, said, false)
		}
	})
}
