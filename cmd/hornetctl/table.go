package main

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hornetd/hornetd/api"
)

// colour is what a cell means, not what it looks like.
type colour string

const (
	plain  colour = "39"
	title  colour = "01"
	good   colour = "32"
	uneasy colour = "33"
	bad    colour = "31"
)

// cell is text with a meaning.
type cell struct {
	text   string
	colour colour
}

// table prints aligned columns.
type table struct {
	c      *ctl
	indent string
	b      bytes.Buffer
	w      *tabwriter.Writer
}

// table starts one with a line of titles, if there are any.
func (c *ctl) table(titles ...string) *table {
	t := &table{c: c}
	t.w = tabwriter.NewWriter(&t.b, 0, 0, 2, ' ', 0)
	var cells []any
	for _, s := range titles {
		cells = append(cells, cell{s, title})
	}
	if len(cells) > 0 {
		t.row(cells...)
	}
	return t
}

// row adds a line. Every cell is escaped, and takes the same number of bytes
// for its colour, so that the columns stay aligned.
func (t *table) row(cells ...any) {
	for i, v := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		x, ok := v.(cell)
		if !ok {
			x = cell{fmt.Sprint(v), plain}
		}
		fmt.Fprint(t.w, t.c.paint(x))
	}
	fmt.Fprint(t.w, "\n")
}

// print writes the table, without spaces at the ends of lines.
func (t *table) print() {
	t.w.Flush()
	for line := range strings.Lines(t.b.String()) {
		fmt.Fprintln(t.c.stdout, t.indent+strings.TrimRight(line, " \n"))
	}
}

// paint returns the text of a cell, escaped, in colour where that is wanted.
func (c *ctl) paint(x cell) string {
	text := escape(x.text)
	if !c.coloured() {
		return text
	}
	return "\x1b[" + string(x.colour) + "m" + text + "\x1b[0m"
}

// coloured reports whether colours are wanted: on a terminal, unless NO_COLOR
// is set to anything.
func (c *ctl) coloured() bool {
	return c.terminal && c.getenv("NO_COLOR") == "" && c.getenv("TERM") != "dumb"
}

func stateCell(s api.State) cell {
	switch s {
	case api.StateRunning:
		return cell{string(s), good}
	case api.StateFailed:
		return cell{string(s), bad}
	case api.StateQuarantined, api.StatePending:
		return cell{string(s), uneasy}
	}
	return cell{string(s), plain}
}

// count is "1 map", "2 maps".
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// bytesText is a number of bytes in the largest unit that leaves at least one.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < len(units)-1 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.4g %ciB", f, units[unit])
}

// age is how long ago t was, in its largest unit.
func (c *ctl) age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := c.now().Sub(t)
	switch {
	case d < 0:
		return "in the future"
	case d < time.Minute:
		return count(int(d/time.Second), "second") + " ago"
	case d < time.Hour:
		return count(int(d/time.Minute), "minute") + " ago"
	case d < 48*time.Hour:
		return count(int(d/time.Hour), "hour") + " ago"
	}
	return count(int(d/(24*time.Hour)), "day") + " ago"
}

// when is a point in time, in the zone of whoever reads it, and its age.
func (c *ctl) when(t time.Time) string {
	return fmt.Sprintf("%s (%s)", t.Local().Format("2006-01-02 15:04:05"), c.age(t))
}

// short is the beginning of a digest, enough to compare by eye.
func short(digest string) string {
	if len(digest) > 12 {
		return digest[:12]
	}
	return digest
}
