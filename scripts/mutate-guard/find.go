package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// mutant is one change of the guard: bytes from..to become text.
type mutant struct {
	function string
	line     int
	from, to int
	text     string
	what     string
}

// find returns every mutant of the guard's functions. names are the enumerators that
// one of theirs may be taken for: name -> the next one of the same enum.
func find(source string, names map[string]string) []mutant {
	f := &finder{source: source, tokens: tokens(source), names: names}
	f.pairs()
	for i, t := range f.tokens {
		if t.text == "{" && f.outside(i) && f.is(i-1, ")") {
			f.body(f.nameOf(f.pair[i-1]), i+1, f.pair[i])
		}
	}
	slices.SortStableFunc(f.found, func(a, b mutant) int { return cmp.Compare(a.from, b.from) })
	return f.found
}

// token is one of C's, at an offset.
type token struct {
	text string
	at   int
}

func (t token) end() int { return t.at + len(t.text) }

var lexical = regexp.MustCompile(`(?s)^(?:(\s+|/\*.*?\*/|//[^\n]*|#[^\n]*)|[A-Za-z_]\w*|0x[0-9a-fA-F]+|\d+|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|->|\+\+|--|<<|>>|[<>=!+\-&|]=|&&|\|\||.)`)

// tokens leaves out comments and what the preprocessor reads.
func tokens(source string) (all []token) {
	for at := 0; at < len(source); {
		m := lexical.FindStringSubmatchIndex(source[at:])
		if m[2] < 0 {
			all = append(all, token{source[at : at+m[1]], at})
		}
		at += m[1]
	}
	return all
}

var enums = regexp.MustCompile(`(?s)\benum\s*\w*\s*\{(.*?)\}`)

// enumerators returns for each the next one of the same enum.
func enumerators(source string) map[string]string {
	next := map[string]string{}
	for _, body := range enums.FindAllStringSubmatch(source, -1) {
		var list []string
		start := true
		for _, t := range tokens(body[1]) {
			if start {
				list = append(list, t.text)
			}
			start = t.text == ","
		}
		for i, name := range list {
			next[name] = list[(i+1)%len(list)]
		}
	}
	return next
}

// finder collects mutants.
type finder struct {
	source string
	tokens []token
	pair   map[int]int // of brackets: index of one -> index of the other
	names  map[string]string

	function string
	hook     bool // its value is an errno
	found    []mutant
}

func (f *finder) pairs() {
	f.pair = map[int]int{}
	var open []int
	for i, t := range f.tokens {
		switch t.text {
		case "(", "{", "[":
			open = append(open, i)
		case ")", "}", "]":
			last := open[len(open)-1]
			open = open[:len(open)-1]
			f.pair[last], f.pair[i] = i, last
		}
	}
}

func (f *finder) is(i int, words ...string) bool {
	return i >= 0 && i < len(f.tokens) && slices.Contains(words, f.tokens[i].text)
}

// outside says whether token i is in no function and no type.
func (f *finder) outside(i int) bool {
	depth := 0
	for _, t := range f.tokens[:i] {
		switch t.text {
		case "{":
			depth++
		case "}":
			depth--
		}
	}
	return depth == 0
}

// nameOf returns the name of the function whose arguments begin at token i.
func (f *finder) nameOf(i int) string {
	if f.hook = f.is(i-1, "BPF_PROG"); f.hook {
		return f.tokens[i+1].text
	}
	return f.tokens[i-1].text
}

// body finds the mutants of tokens from..to, a function's.
func (f *finder) body(name string, from, to int) {
	f.function = name
	for i := from; i < to; i++ {
		f.statement(i)
		f.expression(i)
	}
}

// statement is about one that begins with token i, if one does.
func (f *finder) statement(i int) {
	switch {
	case f.is(i, "if"):
		f.change(i+2, f.pair[i+1], "0", "1")
	case f.is(i, "case"):
		f.change(i, f.until(i, ":")+1, "")
	case f.is(i, "return"):
		end := f.until(i, ";")
		other := "1"
		if f.hook {
			other = "-1"
		}
		f.change(i+1, end, "0", other)
	case f.is(i-1, ";", "{", "}", ":", "else") || f.is(i-1, ")") && f.is(f.pair[i-1]-1, "if", "for"):
		if f.is(i, "break", "__sync_fetch_and_add", "__builtin_memset") || f.plain(i) {
			f.change(i, f.until(i, ";"), "")
		}
	}
}

// plain says whether an assignment or a call begins with token i. (A declaration has
// two words, or a word and a star.)
func (f *finder) plain(i int) bool {
	return word(f.tokens[i].text) && !f.is(i, "return", "if", "for", "switch", "case", "default", "else", "struct", "enum") &&
		f.is(i+1, "=", "(", "-", "->", ".", "+=", "[") || f.is(i, "*") && f.is(i+2, "=")
}

// swaps are operators that take each other's place.
var swaps = map[string][]string{
	"==": {"!="}, "!=": {"=="}, "<": {"<=", ">="}, "<=": {"<", ">"}, ">": {">=", "<="}, ">=": {">", "<"},
	"+": {"-"}, "-": {"+"}, "<<": {">>"}, ">>": {"<<"}, "&": {"|"}, "|": {"&"}, "+=": {"-="},
}

// expression is about an operator, a number or a name.
func (f *finder) expression(i int) {
	t := f.tokens[i].text
	after := i > 0 && (word(f.tokens[i-1].text) && !f.is(i-1, "return", "case") || f.is(i-1, ")", "]")) // an operator here has two operands
	switch {
	case t == "&&" || t == "||":
		f.operands(i)
	case t == "!" || t == "~":
		f.change(i, i+1, "")
	case t == "?":
		f.change(f.before(i, "=", "(", ",", "return", "{"), i, "0", "1")
	case after && len(swaps[t]) > 0:
		f.change(i, i+1, swaps[t]...)
	case t[0] >= '0' && t[0] <= '9':
		if n, err := strconv.ParseUint(t, 0, 32); err == nil && !f.is(i-1, "return", "case") {
			f.change(i, i+1, fmt.Sprint(n+1))
		}
	case f.names[t] != "" && !f.is(i-1, "case"):
		f.change(i, i+1, f.names[t])
	}
}

// operands leaves out one side of && or || at a time.
func (f *finder) operands(i int) {
	ends := []string{"?", ":", ")", ";", ","}
	if f.is(i, "&&") {
		ends = append(ends, "&&")
	}
	f.change(i, f.until(i+1, append(ends, "||")...), "")
	starts := []string{"(", "return", "=", "?", ",", "{", ":", "||"}
	if f.is(i, "||") {
		starts = starts[:len(starts)-1]
	}
	left := f.before(i, starts...)
	for k := left; k < i; k++ { // of several, the left side of the first
		if f.is(k, f.tokens[i].text) && f.depth(left, k) == 0 {
			return
		}
	}
	f.change(left, i+1, "")
}

func (f *finder) depth(from, to int) (d int) {
	for ; from < to; from++ {
		switch {
		case f.is(from, "(", "[", "{"):
			d++
		case f.is(from, ")", "]", "}"):
			d--
		}
	}
	return d
}

// until returns the index of the first of some tokens from i on, outside brackets that
// open behind it.
func (f *finder) until(i int, words ...string) int {
	for ; !f.is(i, words...); i++ {
		if f.is(i, "(", "[", "{") {
			i = f.pair[i]
		}
	}
	return i
}

// before returns the index behind the last of some tokens before i, outside brackets
// that end before it.
func (f *finder) before(i int, words ...string) int {
	for i--; !f.is(i, words...) && !f.is(i, ";", "}"); i-- {
		if f.is(i, ")", "]") {
			i = f.pair[i]
		}
	}
	return i + 1
}

func word(s string) bool {
	return regexp.MustCompile(`^[A-Za-z_]\w*$`).MatchString(s) || s[0] >= '0' && s[0] <= '9'
}

// change adds mutants in which tokens from..to, without the last, are each of texts.
func (f *finder) change(from, to int, texts ...string) {
	start, end := f.tokens[from].at, f.tokens[to-1].end()
	was := f.source[start:end]
	for _, text := range texts {
		if text == was {
			continue
		}
		becomes := "becomes " + text
		if text == "" {
			becomes = "is left out"
		}
		short := strings.Join(strings.Fields(was), " ")
		f.found = append(f.found, mutant{f.function, 1 + strings.Count(f.source[:start], "\n"), start, end, text, short + " " + becomes})
	}
}
