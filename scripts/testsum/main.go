// Testsum reads what `go test -json` prints and says what happened: one line a
// package, the output of what failed, every skip with its reason, and at the
// end, alone on its line, "N passed, N failed, N skipped". It reads its standard
// input, or the files named, which may be pipes from several that run at once.
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
	ins, err := inputs(flag.Args())
	if err == nil {
		err = run(ins, os.Stdout, *allow, os.Getenv("CI") == "true")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

func inputs(files []string) ([]io.Reader, error) {
	if len(files) == 0 {
		return []io.Reader{os.Stdin}, nil
	}
	ins := make([]io.Reader, len(files))
	for i, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		ins[i] = f
	}
	return ins, nil
}

func run(ins []io.Reader, out io.Writer, allowFile string, ci bool) error {
	s := newSummary(out)
	if err := s.read(ins); err != nil {
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
