// Testsum reads what `go test -json` prints and says what happened: one line a
// package, the output of what failed, every skip with its reason, and at the
// end, alone on its line, "N passed, N failed, N skipped".
//
// With CI=true a skip is a failure unless its reason matches a line of the
// file named by -allow: a machine that lacks something must not turn a test
// off without anybody noticing.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	allow := flag.String("allow", "", "file of regular expressions, one a line: skip reasons that CI accepts")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *allow, os.Getenv("CI") == "true"); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, allowFile string, ci bool) error {
	s := newSummary(out)
	if err := s.read(in); err != nil {
		return err
	}
	if ci {
		allowed, err := readAllowed(allowFile)
		if err != nil {
			return err
		}
		s.refuseSkips(allowed)
	}
	s.print()
	switch {
	case s.failed > 0:
		return fmt.Errorf("%d failed", s.failed)
	case s.passed == 0:
		return fmt.Errorf("no test passed: was any run?")
	}
	return nil
}
