package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escape makes s fit to stand in one line of a terminal. What the daemon tells
// may come from an object file or another user: control characters, escape
// sequences and characters that turn the direction of writing are shown as
// what they are.
func escape(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unprintable(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// escapeLines is escape for text of several lines; each ends in a newline.
func escapeLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\r\n")
		b.WriteString(escape(strings.ReplaceAll(line, "\t", "    ")))
		b.WriteByte('\n')
	}
	return b.String()
}

// hintText is the line, or lines, that tell what to do. A hint may hold a piece
// of a manifest to copy; its lines are indented, so that they are seen to
// belong to it.
func hintText(indent, hint string) string {
	lines := strings.ReplaceAll(escapeLines(hint), "\n", "\n"+indent+"      ")
	return indent + "hint: " + strings.TrimRight(lines, " \n") + "\n"
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// escapeQuoted writes the unprintable characters of an encoded document, but
// line feeds, with what the format has for them in double quotes, which is the
// only place where they may stand in it.
func escapeQuoted(document string, write func(*strings.Builder, rune)) string {
	var b strings.Builder
	for _, r := range document {
		if r == '\n' || !unprintable(r) {
			b.WriteRune(r)
		} else {
			write(&b, r)
		}
	}
	return b.String()
}
