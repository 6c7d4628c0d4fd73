package audit

import (
	"strconv"
	"unicode"
	"unicode/utf8"
)

// escape returns s as the inside of a Go string literal, except that quotes
// stay: whatever is not graphic (control and format characters, direction
// overrides, bytes that are no UTF-8) becomes a backslash sequence, and so does
// the backslash. Two different texts stay different. What is longer than
// maxField bytes then is cut, with an ellipsis, and cut is true.
func escape(s string) (_ string, cut bool) {
	if plain(s) {
		return s, false
	}
	const ellipsis = "…"
	out := make([]byte, 0, min(len(s)+16, maxField+utf8.UTFMax))
	keep := 0 // bytes of out that fit together with the ellipsis
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		out = appendEscaped(out, s[:size], r)
		s = s[size:]
		if len(out) > maxField {
			return string(out[:keep]) + ellipsis, true
		}
		if len(out) <= maxField-len(ellipsis) {
			keep = len(out)
		}
	}
	return string(out), false
}

// plain reports whether s needs neither escapes nor cutting.
func plain(s string) bool {
	if len(s) > maxField {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '\\' {
			return false
		}
	}
	return true
}

func appendEscaped(out []byte, raw string, r rune) []byte {
	switch {
	case r == utf8.RuneError && len(raw) == 1:
		const hex = "0123456789abcdef"
		return append(out, '\\', 'x', hex[raw[0]>>4], hex[raw[0]&15])
	case r == '\\':
		return append(out, `\\`...)
	case unicode.IsGraphic(r):
		return append(out, raw...)
	default:
		quoted := strconv.AppendQuoteRune(nil, r)
		return append(out, quoted[1:len(quoted)-1]...)
	}
}
