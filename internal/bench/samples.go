package main

import (
	"fmt"
	"slices"
	"time"
)

// samples are the times of one contender.
type samples []time.Duration

// p returns the q-quantile, 0 <= q <= 1, by the nearest rank: a time that
// really was measured. No samples: 0.
func (s samples) p(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Clone(s)
	slices.Sort(sorted)
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func (s samples) p50() time.Duration { return s.p(0.50) }

// String shows p50 and p95 in milliseconds.
func (s samples) String() string {
	return fmt.Sprintf("%s / %s", ms(s.p50()), ms(s.p(0.95)))
}

// twice shows p50 and p95 of doing it two times.
func (s samples) twice() string {
	return fmt.Sprintf("%s / %s", ms(2*s.p50()), ms(2*s.p(0.95)))
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond))
}
