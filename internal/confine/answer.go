package confine

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hornetd/hornetd/internal/remedy"
)

// What the process says: the greeting when it is confined, then, when it has
// parsed, taken; or refused, the reason and the remedy, a line each.
const (
	greeting = "ready\n"
	taken    = "ok\n"
	refused  = "refused\n"

	maxReason = 1000 // bytes of a reason, and of a remedy
	maxAnswer = 4096 // bytes of all that is read from it: more than two of those, escaped
)

// encode is the answer for what the parser returned.
func encode(err error) []byte {
	if err == nil {
		return []byte(taken)
	}
	return []byte(refused + shown(err.Error(), maxReason) + "\n" + shown(remedy.Of(err), maxReason) + "\n")
}

// decode returns what the parser said; it is false where the answer is none. The
// answer may come from whoever has taken the process over.
func decode(answer []byte) (said error, ok bool) {
	if string(answer) == taken {
		return nil, true
	}
	text, is := bytes.CutPrefix(answer, []byte(refused))
	lines := strings.Split(string(text), "\n")
	if !is || len(lines) != 3 || lines[0] == "" || lines[2] != "" {
		return nil, false
	}
	said = errors.New(shown(lines[0], maxReason))
	if lines[1] != "" {
		said = remedy.With(said, "%s", shown(lines[1], maxReason))
	}
	return said, true
}

// shown is s for people: at most limit bytes of it, and nothing that could forge
// a line, a colour or the direction of text.
func shown(s string, limit int) string {
	var b strings.Builder
	for i, r := range s {
		part := string(r)
		switch {
		case r == utf8.RuneError && s[i] >= utf8.RuneSelf && !strings.HasPrefix(s[i:], part):
			part = `\x` + strconv.FormatUint(uint64(s[i]), 16)
		case !strconv.IsPrint(r):
			part = strings.Trim(strconv.QuoteRune(r), "'")
		}
		if b.Len()+len(part) > limit-len("…") {
			return b.String() + "…"
		}
		b.WriteString(part)
	}
	return b.String()
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(line)
}

// Shown is what a confined process said, for people.
func Shown(s string) string { return shown(s, maxReason) }
