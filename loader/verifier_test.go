package loader

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// rejected loads one program of the fixture that the verifier rejects.
func rejected(t *testing.T, program string) *VerifierError {
	t.Helper()
	requireKernel(t)
	p := planFixture(t, "reject", "")
	for name := range p.spec.Programs {
		if name != program {
			delete(p.spec.Programs, name)
		}
	}
	_, _, err := tryLoad(p)
	var ve *VerifierError
	if !errors.As(err, &ve) {
		t.Fatalf("error %v is not a *VerifierError", err)
	}
	if !errors.Is(err, unix.EACCES) || remedy.Of(err) == "" {
		t.Errorf("error %v, remedy %q", err, remedy.Of(err))
	}
	if !strings.HasPrefix(err.Error(), `program "`+program+`": rejected by the verifier: `) {
		t.Errorf("error %q", err)
	}
	return ve
}

func TestRejectedProgram(t *testing.T) {
	ve := rejected(t, "overread")
	if !strings.HasPrefix(ve.Reason, "invalid access to packet, off=0 size=1") || strings.ContainsAny(ve.Error(), "\n\t") {
		t.Errorf("reason %q in %q", ve.Reason, ve)
	}
	// Before Linux 6.9 the log quotes the text of the line and not its place,
	// and committed objects have no text.
	if !strings.Contains(ve.Source, "reject.bpf.c:10") && strings.Contains(ve.Log(), " @ ") {
		t.Errorf("source %q", ve.Source)
	}
	for _, says := range []string{"\n0: ", "R1=ctx(", "processed "} {
		if !strings.Contains(ve.Log(), says) {
			t.Errorf("the log does not say %q:\n%s", says, ve.Log())
		}
	}
}

// The verifier's walk through this program takes tens of megabytes to write down.
func TestRejectedAfterALongWalk(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ve := rejected(t, "walk")
	runtime.ReadMemStats(&after)
	if !strings.HasPrefix(ve.Reason, "invalid access to packet") {
		t.Errorf("reason %q", ve.Reason)
	}
	if !strings.Contains(ve.Log(), "the walk is left out") || len(ve.Log()) > maxLog {
		t.Errorf("log of %d bytes:\n%s", len(ve.Log()), ve.Log())
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("allocated %d bytes", n)
	}
}

func TestLastWords(t *testing.T) {
	for _, c := range []struct{ log, want string }{
		{"invalid access to packet, off=0 size=1\nR1 offset is outside of the packet\nprocessed 3 insns (limit 1000000)", "invalid access to packet, off=0 size=1: R1 offset is outside of the packet"},
		{"write into map forbidden, value_size=8 off=0 size=8\nverification time 9 usec\nstack depth 8\nprocessed 9 insns", "write into map forbidden, value_size=8 off=0 size=8"},
		{"invalid access to packet\nR2 min value is outside of the allowed memory range\nverification time 9 usec\nstack depth max 0\nsubprog 0 (overread) main insns_self 2 insns_total 2 stack 0\nprocessed 2 insns",
			"invalid access to packet: R2 min value is outside of the allowed memory range"},
		{"R0 !read_ok", "R0 !read_ok"},
		{"Return value\nRead-only", "Read-only"},
		{"processed 1 insns", "no reason given"},
		{"", "no reason given"},
	} {
		if got := lastWords(strings.Split(c.log, "\n")); got != c.want {
			t.Errorf("%q: %q, want %q", c.log, got, c.want)
		}
	}
}

func TestLastSource(t *testing.T) {
	for _, c := range []struct{ log, want string }{
		{"; int a; @ a.c:1\n0: (b7) r0 = 0\n; return b; @ a.c:2\n1: (95) exit\nR0 !read_ok", "a.c:2: return b;"},
		{"; return b;\n1: (95) exit", "return b;"}, // before Linux 6.9
		{"; @ a.c:3\n1: (95) exit", "@ a.c:3"},
		{"1: (95) exit ; R0=1", ""},
	} {
		if got := lastSource(strings.Split(c.log, "\n")); got != c.want {
			t.Errorf("%q: %q, want %q", c.log, got, c.want)
		}
	}
}

// A log is text of somebody else.
func TestCleanText(t *testing.T) {
	if got := clean("a\x1b[31mb\xff\tc\u202Ed\ne", 0); got != "a\uFFFD[31mb\uFFFD c\uFFFDd\ne" {
		t.Errorf("%q", got)
	}
	if got := clean("a\nb", 9); got != "a\uFFFDb" {
		t.Errorf("one line: %q", got)
	}
	if got := clean("aäb", 2); got != "a…" {
		t.Errorf("cut: %q", got)
	}
	if got := keepEnd("first\nsecond\nthird", 9); got != "(the beginning is left out)\nthird" {
		t.Errorf("end: %q", got)
	}
}
