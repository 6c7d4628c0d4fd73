package tomlfile

import (
	"fmt"
	"slices"
	"strings"
)

// Suggest is the remedy for a word that is none of known: the one that was
// probably meant, or all of them.
func Suggest(word string, known []string) string {
	best, least := "", 3 // a distance of three is another word
	for _, k := range known {
		if n := distance(strings.ToLower(word), strings.ToLower(k), least); n < least && n < len(k) {
			best, least = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	known = slices.Sorted(slices.Values(known))
	return "write one of: " + strings.Join(known, ", ")
}

// distance is how many characters must be inserted, removed, replaced or
// exchanged with their neighbour to make b of a; at least limit if it is more.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	var before, last []int // the rows for a[:i-2] and a[:i-1]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
