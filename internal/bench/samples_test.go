package main

import (
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	ten := samples{10, 3, 7, 1, 9, 2, 8, 4, 6, 5}
	for _, test := range []struct {
		s    samples
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0},
		{samples{4}, 0.5, 4},
		{samples{4}, 0.95, 4},
		{samples{9, 1, 5}, 0.5, 5},
		{ten, 0, 1},
		{ten, 0.95, 10},
		{ten, 1, 10},
	} {
		if got := test.s.p(test.q); got != test.want {
			t.Errorf("%v at %v: %d, want %d", test.s, test.q, got, test.want)
		}
	}
	if ten[0] != 10 {
		t.Error("the samples were put in order: turns could no longer be compared")
	}
}
