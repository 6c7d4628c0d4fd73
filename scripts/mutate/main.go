// Mutate changes a package's source one small thing at a time and runs its
// tests, in their short form, on each change. It prints the mutants that no test notices and the
// score, the share that one does; below -score the exit status is 1. What does
// not compile is not counted.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

func main() {
	dir := flag.String("dir", "internal/cms", "the package's directory")
	late := flag.String("late", "", "regular expression of tests that take long, and run only where the others notice nothing")
	score := flag.Float64("score", 95, "least score, in percent")
	jobs := flag.Int("j", 2, "how many mutants are tested at a time")
	flag.Parse()
	if err := run(*dir, *late, *score, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(dir, late string, score float64, jobs int) error {
	mutants, err := find(dir)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "hornet-mutate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if (mutant{}).test(dir, late, work) != survived {
		return errors.New("the tests fail as they are")
	}
	fmt.Printf("%d mutants of %s\n", len(mutants), dir)
	var workers sync.WaitGroup
	var mu sync.Mutex
	count := map[outcome]int{}
	next := make(chan mutant)
	for j := range jobs {
		workers.Go(func() {
			for m := range next {
				got := m.test(dir, late, filepath.Join(work, fmt.Sprint(j)))
				mu.Lock()
				count[got]++
				if got == survived {
					fmt.Printf("%s:%d: %s\n", m.file, m.line, m.what)
				}
				mu.Unlock()
			}
		})
	}
	for _, m := range mutants {
		next <- m
	}
	close(next)
	workers.Wait()

	of := count[killed] + count[survived]
	got := 100 * float64(count[killed]) / float64(max(1, of))
	fmt.Printf("%d noticed, %d not, %d do not compile: score %.1f %%\n", count[killed], count[survived], count[invalid], got)
	if got < score {
		return fmt.Errorf("score %.1f %%, wanted %.1f %%", got, score)
	}
	return nil
}

// mutant is one change: bytes from..to of a file become text.
type mutant struct {
	file     string
	line     int
	from, to int
	text     string
	what     string
}

type outcome int

const (
	killed outcome = iota
	survived
	invalid // does not compile
)

// test compiles the package's tests with m in place (go build -overlay: nothing
// in the tree changes) and runs them until one fails. The zero mutant changes
// nothing.
func (m mutant) test(dir, late, work string) outcome {
	binary, overlay := filepath.Join(work, "tests"), filepath.Join(work, "overlay.json")
	if os.MkdirAll(work, 0o700) != nil || m.write(work, overlay) != nil ||
		exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "./"+dir).Run() != nil {
		return invalid
	}
	for _, which := range []string{"-test.skip=" + late, "-test.run=" + late} {
		if late == "" {
			which = "-test.run=."
		}
		tests := exec.Command(binary, "-test.short", "-test.failfast", "-test.timeout=60s", which)
		tests.Dir = dir
		if tests.Run() != nil {
			return killed
		}
	}
	return survived
}

// write writes the changed file and the overlay that puts it in place.
func (m mutant) write(work, overlay string) error {
	replace := map[string]string{}
	if m.file != "" {
		b, err := os.ReadFile(m.file)
		original, err2 := filepath.Abs(m.file)
		replace[original] = filepath.Join(work, "changed.go")
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if err := os.WriteFile(replace[original], slices.Concat(b[:m.from], []byte(m.text), b[m.to:]), 0o600); err != nil {
			return err
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	return errors.Join(err, os.WriteFile(overlay, b, 0o600))
}

// find returns every mutant of the package in dir.
func find(dir string) (all []mutant, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		f := &finder{file, string(source), token.NewFileSet(), nil}
		parsed, err := parser.ParseFile(f.fset, file, source, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range parsed.Decls {
			if g, ok := d.(*ast.GenDecl); !ok || g.Tok != token.IMPORT {
				ast.Inspect(d, f.visit)
			}
		}
		all = append(all, f.found...)
	}
	return all, err
}

// finder collects the mutants of one file.
type finder struct {
	file, source string
	fset         *token.FileSet
	found        []mutant
}

// swaps are the operators and words that take each other's place.
var swaps = map[string][]string{
	"==": {"!="}, "!=": {"=="}, "<": {"<=", ">="}, "<=": {"<", ">"}, ">": {">=", "<="}, ">=": {">", "<"},
	"&&": {"||"}, "||": {"&&"}, "+": {"-"}, "-": {"+"}, "*": {"/"}, "/": {"*"}, "<<": {">>"}, "&": {"|"}, "|": {"&"},
	"true": {"false"}, "false": {"true"},
}

func (f *finder) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		f.replace(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), swaps[n.Op.String()]...)
	case *ast.Ident:
		f.replace(n.Pos(), n.End(), swaps[n.Name]...)
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			f.replace(n.Pos(), n.X.Pos(), "")
		}
	case *ast.BasicLit:
		if v, err := strconv.Atoi(n.Value); err == nil {
			f.replace(n.Pos(), n.End(), fmt.Sprint(v+1), fmt.Sprint(v-1))
		} else if n.Kind == token.STRING {
			f.replace(n.Pos(), n.End(), `"1.2.3"`)
		}
	case *ast.IfStmt:
		f.condition(n.Cond)
	case *ast.CaseClause:
		f.statements(n.Body)
	case *ast.BlockStmt:
		f.statements(n.List)
	case *ast.KeyValueExpr: // a row of a table
		f.replace(n.Pos(), n.End()+1, "")
	case *ast.CallExpr: // of check, for example: a bool decides, and the rest are words
		if len(n.Args) > 1 {
			f.condition(n.Args[0])
		}
	}
	return true
}

// condition makes it always and never true.
func (f *finder) condition(e ast.Expr) {
	is := f.source[f.offset(e.Pos()):f.offset(e.End())]
	if is == "false" {
		return
	}
	f.replace(e.Pos(), e.End(), "("+is+") || true", "("+is+") && false")
}

// statements leaves out one at a time that the rest may do without, and
// replaces what a function returns.
func (f *finder) statements(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt, *ast.IncDecStmt:
			f.replace(s.Pos(), s.End(), "")
		case *ast.AssignStmt:
			if s.Tok == token.ASSIGN {
				f.replace(s.Pos(), s.End(), "")
			}
		case *ast.ReturnStmt:
			if len(s.Results) == 1 {
				f.replace(s.Results[0].Pos(), s.Results[0].End(), "true", "false", "nil")
			}
		}
	}
}

// replace adds mutants in which from..to is each of texts.
func (f *finder) replace(from, to token.Pos, texts ...string) {
	was, at := f.source[f.offset(from):f.offset(to)], f.fset.Position(from)
	for _, text := range texts {
		if text != was {
			f.found = append(f.found, mutant{f.file, at.Line, f.offset(from), f.offset(to), text, fmt.Sprintf("column %d: %s becomes %q", at.Column, was, text)})
		}
	}
}

func (f *finder) offset(p token.Pos) int { return f.fset.Position(p).Offset }
