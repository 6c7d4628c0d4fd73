package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	const source = `enum e { A = 1, B, C };
struct s { int x; } maps SEC(".maps");
static int f(int x) /* if (x) */
{
	switch (x) {
	case A:
		x = 2;
		break;
	}
	if (!x || g(x, 3) && x < B)
		return h(x) ? x - 1 : 0;
	return 0;
}
SEC("lsm/x")
int BPF_PROG(hook, int x)
{
	return f(x);
}`
	var got []string
	for _, m := range find(source, enumerators(source)) {
		got = append(got, fmt.Sprintf("%d %s: %s", m.line, m.function, m.what))
	}
	want := []string{
		"6 f: case A: is left out",
		"7 f: x = 2 is left out",
		"7 f: 2 becomes 3",
		"8 f: break is left out",
		"10 f: !x || g(x, 3) && x < B becomes 0",
		"10 f: !x || g(x, 3) && x < B becomes 1",
		"10 f: ! is left out",
		"10 f: !x || is left out",
		"10 f: || g(x, 3) && x < B is left out",
		"10 f: g(x, 3) && is left out",
		"10 f: 3 becomes 4",
		"10 f: && x < B is left out",
		"10 f: < becomes <=",
		"10 f: < becomes >=",
		"10 f: B becomes C",
		"11 f: h(x) ? x - 1 : 0 becomes 0",
		"11 f: h(x) ? x - 1 : 0 becomes 1",
		"11 f: h(x) becomes 0",
		"11 f: h(x) becomes 1",
		"11 f: - becomes +",
		"11 f: 1 becomes 2",
		"11 f: 0 becomes 1",
		"12 f: 0 becomes 1",
		"17 hook: f(x) becomes 0",
		"17 hook: f(x) becomes -1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("mutants\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What a plan names is there: go test runs nothing, and is content, where it is not.
func TestPlans(t *testing.T) {
	files, err := filepath.Glob("../../lsm-module/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var all strings.Builder
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	source, err := os.ReadFile("../../" + guard)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plans {
		for name := range strings.SplitSeq(p.run, "|") {
			if !strings.Contains(all.String(), "\nfunc "+name+"(") {
				t.Errorf("there is no test %s", name)
			}
		}
		for name := range strings.FieldsFuncSeq(regexp.MustCompile(`guard_\(([^)]*)\)`).ReplaceAllString(p.functions, ""), func(r rune) bool { return strings.ContainsRune("^$()|", r) }) {
			if !regexp.MustCompile(`\b(BPF_PROG\()?` + name + `[(,)]`).Match(source) {
				t.Errorf("%s has no function %s", guard, name)
			}
		}
	}
}
