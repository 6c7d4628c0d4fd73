// Mutate-guard changes the guard's C one small thing at a time, compiles it, and
// runs tests of lsm-module on each change, in a guest that tries one after the other.
// It prints the mutants that no test notices and the score, the share that one does.
// What does not compile is not counted, nor what the verifier refuses or the compiler
// makes the same code of.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"
)

type options struct {
	n         int
	each      int
	seed      uint64
	functions *regexp.Regexp
	changes   *regexp.Regexp
	kernel    string
	verbose   bool
	list      bool
	trust     bool
	hurry     bool
	tests     string
}

func main() {
	var o options
	flag.IntVar(&o.n, "n", 60, "how many mutants; 0 is all")
	flag.IntVar(&o.each, "each", 0, "how many of each function at most; 0 is all")
	flag.Uint64Var(&o.seed, "seed", 1, "of the choice")
	functions := flag.String("functions", "", "regular expression of the functions to change")
	changes := flag.String("changes", "", "regular expression of the changes, as -list has them")
	flag.StringVar(&o.kernel, "kernel", "6.12", "of the guest, but for what is about signatures")
	flag.BoolVar(&o.verbose, "v", false, "print every mutant, and the test that notices it")
	flag.BoolVar(&o.list, "list", false, "print the mutants and try none")
	flag.BoolVar(&o.trust, "trust", false, "do not try first whether the tests pass as they are")
	flag.BoolVar(&o.hurry, "hurry", false, "of the deny matrix only what is about the function, for two actors")
	flag.StringVar(&o.tests, "tests", "", "regular expression of those that run, instead of the planned ones")
	flag.Parse()
	o.functions, o.changes = regexp.MustCompile(*functions), regexp.MustCompile(*changes)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mutate-guard:", err)
		os.Exit(1)
	}
}

const guard = "lsm-module/guard.bpf.c"

func (o *options) run(ctx context.Context) error {
	source, err := os.ReadFile(guard)
	header, err2 := os.ReadFile("lsm-module/guard.h")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	all := find(string(source), enumerators(string(header)+string(source)))
	all = slices.DeleteFunc(all, func(m mutant) bool { return !o.functions.MatchString(m.function) || !o.changes.MatchString(m.what) })
	fmt.Printf("%d mutants of %s\n", len(all), guard)
	if o.list {
		for _, m := range all {
			fmt.Printf("%s:%d: %s: %s\n", guard, m.line, m.function, m.what)
		}
		return nil
	}
	work, err := os.MkdirTemp("", "hornet-mutate-guard-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	c, err := newCompiler(work, source)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(o.seed, 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	count := map[verdict]int{}
	of := map[string]int{} // function -> how many are tried
	var tries []try
	for i, m := range all {
		if o.n > 0 && len(tries) == o.n || ctx.Err() != nil {
			break
		}
		if o.each > 0 && of[m.function] == o.each {
			continue
		}
		name, v := c.compile(m, i)
		if count[v]++; v == untried {
			t := try{m, name, plan(m.function)}
			t.run = cmp.Or(o.tests, t.run)
			tries = append(tries, t)
			of[m.function]++
		}
	}
	delete(count, untried)
	slices.SortStableFunc(tries, func(a, b try) int { return cmp.Compare(a.from, b.from) })
	fmt.Printf("%d to try; left out: %d do not compile, %d are the same code\n", len(tries), count[invalid], count[same])
	start := time.Now()
	err = o.try(ctx, work, tries, func(t try, v verdict, why string) {
		count[v]++
		if v == survived || o.verbose {
			fmt.Printf("%s:%d: %s: %s%s\n", guard, t.line, t.function, t.what, o.said(v, why))
		}
	})
	told := count[noticed] + count[survived]
	fmt.Printf("%d noticed, %d not, %d refused by the verifier: score %.1f %% in %.0f s\n",
		count[noticed], count[survived], count[refused], 100*float64(count[noticed])/float64(max(1, told)), time.Since(start).Seconds())
	return err
}

func (o *options) said(v verdict, why string) string {
	if !o.verbose {
		return ""
	}
	return fmt.Sprintf(" [%s: %s]", v, why)
}
