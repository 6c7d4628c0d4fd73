package vmtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Result is how one test ended on one kernel. A test that failed because of a
// subtest is none.
type Result struct {
	Kernel, Package string
	Test            string // "" where the package as a whole failed
	Action          string // "pass", "fail", "skip"
	Reason          string // of a skip or of a failure, a line
	Output          string
	Parent          bool // passed, and has subtests that count in its place
}

// event is a line of test2json (go doc test2json).
type event struct{ Action, Test, Output string }

// parseEvents reads what test2json made of the output of one package. ended is
// why the guest says the package failed, nil if it did not.
func parseEvents(kernel, pkg string, in io.Reader, ended error) ([]Result, error) {
	tests := map[string]*Result{}
	var order []string
	var loose strings.Builder
	for d := json.NewDecoder(in); ; {
		var e event
		if err := d.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("test2json: %w", err)
		}
		if e.Test == "" {
			loose.WriteString(e.Output)
			continue
		}
		r := tests[e.Test]
		if r == nil {
			r = &Result{Kernel: kernel, Package: pkg, Test: e.Test}
			tests[e.Test], order = r, append(order, e.Test)
		}
		switch e.Action {
		case "output":
			r.Output += e.Output
		case "pass", "fail", "skip":
			r.Action = e.Action
		}
	}
	parents := map[string]bool{}
	for name := range tests {
		for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
			parents[name[:i]] = true
		}
	}
	var all []Result
	failed := false
	for _, name := range order {
		r := tests[name]
		r.settle(ended)
		failed = failed || r.Action == "fail"
	}
	for _, name := range order {
		r := tests[name]
		below := slices.ContainsFunc(order, func(n string) bool {
			return strings.HasPrefix(n, name+"/") && tests[n].Action == "fail"
		})
		if parents[name] && r.Action == "fail" && below {
			continue // because of a subtest
		}
		r.Parent = parents[name] && r.Action == "pass"
		all = append(all, *r)
	}
	if ended != nil && !failed {
		all = append(all, Result{Kernel: kernel, Package: pkg, Action: "fail", Reason: ended.Error(), Output: loose.String()})
	}
	return all, nil
}

// settle ends a test that had no time to do it itself, and finds the reason.
func (r *Result) settle(ended error) {
	if r.Action == "pass" {
		return
	}
	said := r.said()
	switch {
	case r.Action == "" && len(said) == 0 && ended != nil:
		said = []string{ended.Error()}
	case r.Action == "" && len(said) == 0:
		said = []string{"did not end"}
	}
	if r.Action == "" {
		r.Action = "fail"
	}
	switch {
	case len(said) == 0:
	case r.Action == "skip": // says why at its end
		r.Reason = said[len(said)-1]
	default:
		r.Reason = said[0]
	}
}

// said returns the lines that a test logged or panicked with.
func (r *Result) said() []string {
	var said []string
	for line := range strings.Lines(r.Output) {
		if m := logged.FindStringSubmatch(line); m != nil {
			said = append(said, strings.TrimSpace(m[1]))
		} else if strings.HasPrefix(line, "panic: ") {
			return []string{strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(line), " [recovered, repanicked]"))}
		}
	}
	return said
}

// logged is a line of t.Log and its like: "    file_test.go:12: text".
var logged = regexp.MustCompile(`^\s+\S+_test\.go:\d+: (.*)`)

// count is "N passed, N failed, N skipped".
func count(results []Result) (passed, failed, skipped int) {
	for _, r := range results {
		switch {
		case r.Parent:
		case r.Action == "pass":
			passed++
		case r.Action == "skip":
			skipped++
		default:
			failed++
		}
	}
	return passed, failed, skipped
}

// Summary writes what failed, with its output, what was skipped and why, and
// the numbers alone on the last line. It returns how many failed.
func Summary(w io.Writer, results []Result) int {
	for _, r := range results {
		if r.Action == "fail" {
			fmt.Fprintf(w, "FAIL %s %s %s: %s\n%s", r.Kernel, short(r.Package), r.Test, r.Reason, indent(r.Output))
		}
	}
	type skip struct{ pkg, reason string }
	kernels, tests := map[skip][]string{}, map[skip][]string{}
	add := func(m map[skip][]string, k skip, v string) {
		if !slices.Contains(m[k], v) {
			m[k] = append(m[k], v)
		}
	}
	for _, r := range results {
		if r.Action == "skip" {
			k := skip{short(r.Package), r.Reason}
			add(kernels, k, r.Kernel)
			add(tests, k, r.Test)
		}
	}
	keys := slices.SortedFunc(maps.Keys(kernels), func(a, b skip) int {
		return cmp.Or(strings.Compare(a.pkg, b.pkg), strings.Compare(a.reason, b.reason))
	})
	for _, k := range keys {
		fmt.Fprintf(w, "skip %s: %s\n     on %s: %s\n", k.pkg, k.reason, strings.Join(kernels[k], ", "), strings.Join(tests[k], ", "))
	}
	passed, failed, skipped := count(results)
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return failed
}

func short(pkg string) string { return strings.TrimPrefix(pkg, modulePath+"/") }

// Most of a failed test's output that is shown.
const maxShown = 16 << 10

func indent(s string) string {
	if len(s) > maxShown {
		s = s[:maxShown/2] + "\n[...]\n" + s[len(s)-maxShown/2:]
	}
	var b bytes.Buffer
	for line := range strings.Lines(s) {
		b.WriteString("     " + line)
	}
	if b.Len() > 0 && !bytes.HasSuffix(b.Bytes(), []byte("\n")) {
		b.WriteByte('\n')
	}
	return b.String()
}
