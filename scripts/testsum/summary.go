package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// result is one test, or a package where name is "".
type result struct {
	name    string
	action  string // "" while it runs, then pass, fail or skip
	output  strings.Builder
	parent  bool // has subtests: they count, it does not
	elapsed float64
}

type pkg struct {
	path  string
	self  result
	tests map[string]*result
	order []string
}

type skip struct{ test, reason string }

type summary struct {
	out                     io.Writer
	pkgs                    map[string]*pkg
	builds                  map[string]*strings.Builder // output of the compiler by import path
	passed, failed, skipped int
	skips                   []skip
	failures                []string
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, pkgs: map[string]*pkg{}, builds: map[string]*strings.Builder{}}
}

// read takes events until every input has ended. A line that is no event is
// printed: it is something go wants to say.
func (s *summary) read(ins []io.Reader) error {
	lines := make(chan string)
	errs := make([]error, len(ins))
	var wait sync.WaitGroup
	for i, in := range ins {
		wait.Go(func() { errs[i] = split(in, lines) })
	}
	go func() { wait.Wait(); close(lines) }()
	for line := range lines {
		var e event
		if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
			fmt.Fprint(s.out, line)
		} else {
			s.event(e)
		}
	}
	s.unfinished()
	return errors.Join(errs...)
}

// split sends every line of an input, the last also without its end.
func split(in io.Reader, lines chan<- string) error {
	for r := bufio.NewReader(in); ; {
		line, err := r.ReadString('\n')
		if line != "" {
			lines <- line
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) event(e event) {
	if e.Action == "build-output" {
		s.build(e.ImportPath).WriteString(e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := s.pkg(e.Package)
	r := p.result(e.Test)
	switch e.Action {
	case "output":
		r.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		r.action, r.elapsed = e.Action, e.Elapsed
		if e.Test == "" {
			s.finish(p, e.FailedBuild)
		}
	}
}

// finish counts a package whose last event has come and prints its line.
func (s *summary) finish(p *pkg, failedBuild string) {
	passed, failed, skipped := 0, 0, 0
	for _, name := range p.order {
		r := p.tests[name]
		switch {
		case r.action == "" && !r.parent:
			failed++
			r.output.WriteString("    did not finish: the test binary ended first\n")
			s.printFailure(p, r)
		case r.action == "fail" && !(r.parent && p.failedBelow(name)):
			failed++
			s.printFailure(p, r)
		case r.parent:
		case r.action == "skip":
			skipped++
			s.skips = append(s.skips, skip{short(p.path) + "." + name, reason(r.output.String())})
		case r.action == "pass":
			passed++
		}
	}
	if p.self.action == "fail" && failed == 0 {
		// Did not compile, panicked outside a test, timed out, or left TestMain with an error.
		failed++
		if b, ok := s.builds[failedBuild]; ok {
			p.self.output.WriteString(b.String())
		}
		s.printFailure(p, &p.self)
	}
	s.passed, s.failed, s.skipped = s.passed+passed, s.failed+failed, s.skipped+skipped
	if passed+failed+skipped == 0 {
		return // no test files
	}
	word := "ok  "
	if failed > 0 {
		word = "FAIL"
	}
	fmt.Fprintf(s.out, "%s  %-28s %6.1fs  %d passed, %d failed, %d skipped\n", word, short(p.path), p.self.elapsed, passed, failed, skipped)
}

// unfinished fails packages that never ended: go itself was killed.
func (s *summary) unfinished() {
	for _, p := range s.pkgs {
		if p.self.action == "" {
			p.self.action = "fail"
			p.self.output.WriteString("the output of go test ended before this package did\n")
			s.finish(p, "")
		}
	}
}

// refuseSkips counts as failed every skip whose reason nobody allowed.
func (s *summary) refuseSkips(allowed []*regexp.Regexp) {
	for _, k := range s.skips {
		if slices.ContainsFunc(allowed, func(re *regexp.Regexp) bool { return re.MatchString(k.reason) }) {
			continue
		}
		fmt.Fprintf(s.out, "FAIL  %s: skipped in CI: %s\n", k.test, k.reason)
		s.failures = append(s.failures, k.test)
		s.skipped--
		s.failed++
	}
}

func (s *summary) print() {
	byReason := map[string][]string{}
	for _, k := range s.skips {
		byReason[k.reason] = append(byReason[k.reason], k.test)
	}
	reasons := make([]string, 0, len(byReason))
	for r := range byReason {
		reasons = append(reasons, r)
	}
	slices.Sort(reasons)
	for _, r := range reasons {
		fmt.Fprintf(s.out, "skip  %s: %s\n", r, strings.Join(byReason[r], ", "))
	}
	for _, f := range s.failures {
		fmt.Fprintf(s.out, "FAIL  %s\n", f)
	}
	fmt.Fprintf(s.out, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}

func (s *summary) printFailure(p *pkg, r *result) {
	name := short(p.path)
	if r.name != "" {
		name += "." + r.name
	}
	s.failures = append(s.failures, name)
	fmt.Fprintf(s.out, "--- FAIL  %s\n%s", name, r.output.String())
}

func (s *summary) pkg(path string) *pkg {
	p := s.pkgs[path]
	if p == nil {
		p = &pkg{path: path, tests: map[string]*result{}}
		s.pkgs[path] = p
	}
	return p
}

func (s *summary) build(path string) *strings.Builder {
	b := s.builds[path]
	if b == nil {
		b = &strings.Builder{}
		s.builds[path] = b
	}
	return b
}

func (p *pkg) result(name string) *result {
	if name == "" {
		return &p.self
	}
	r := p.tests[name]
	if r == nil {
		r = &result{name: name}
		p.tests[name] = r
		p.order = append(p.order, name)
		if i := strings.LastIndex(name, "/"); i > 0 {
			p.result(name[:i]).parent = true
		}
	}
	return r
}

// failedBelow says whether a subtest of name failed, which then counts instead.
func (p *pkg) failedBelow(name string) bool {
	for _, n := range p.order {
		if strings.HasPrefix(n, name+"/") && p.tests[n].action != "pass" && p.tests[n].action != "skip" {
			return true
		}
	}
	return false
}

var location = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)$`)

// reason is what the test gave to t.Skip: the last line that carries a file and a line number.
func reason(output string) string {
	found := "no reason given"
	for line := range strings.Lines(output) {
		if m := location.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			found = m[1]
		}
	}
	return found
}

// short drops the module's path.
func short(path string) string {
	return strings.TrimPrefix(path, "github.com/hornetd/hornetd/")
}

// readAllowed reads one regular expression a line; # starts a comment.
func readAllowed(file string) ([]*regexp.Regexp, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var allowed []*regexp.Regexp
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		re, err := regexp.Compile(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		allowed = append(allowed, re)
	}
	return allowed, nil
}
