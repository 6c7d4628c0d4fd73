package loader

import (
	"fmt"
	"slices"
	"strings"
)

// suggest returns what to append to "there is no NAME": the known name that is
// nearest, or all of them where they are few.
func suggest(name string, known []string) string {
	known = slices.Clone(known)
	slices.Sort(known)
	name = name[:min(len(name), maxName)]
	best, distance := "", 1+len(name)/3
	for _, k := range known {
		if d := editDistance(name, k, distance); d < distance || d == distance && best == "" {
			best, distance = k, d
		}
	}
	shown := make([]string, min(len(known), 6))
	for i := range shown {
		shown[i] = clean(known[i], maxName)
	}
	switch {
	case best != "":
		return fmt.Sprintf(": did you mean %q", best)
	case len(known) == 0:
		return ": there is none"
	case len(known) <= len(shown):
		return ": there is " + strings.Join(shown, ", ")
	default:
		return fmt.Sprintf(": there is %s and %d more", strings.Join(shown, ", "), len(known)-len(shown))
	}
}

// editDistance counts the letters to insert, remove or replace until a is b,
// and stops counting behind limit.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := row[j+1]
			if a[i] != b[j] {
				diagonal++
			}
			row[j+1] = min(diagonal, row[j]+1, next+1)
			diagonal = next
		}
	}
	return row[len(b)]
}
