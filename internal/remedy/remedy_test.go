package remedy

import (
	"errors"
	"fmt"
	"testing"
)

func TestOfFindsTheOutermostRemedy(t *testing.T) {
	base := errors.New("map \"hits\": freeze: busy")
	inner := With(base, "close the writer")
	outer := With(fmt.Errorf("collection \"a\": %w", inner), "run %s", "hornetctl unload a")
	if got := Of(outer); got != "run hornetctl unload a" {
		t.Errorf("Of(outer) = %q", got)
	}
	if got := Of(inner); got != "close the writer" {
		t.Errorf("Of(inner) = %q", got)
	}
	if !errors.Is(outer, base) {
		t.Error("the wrapped error is lost")
	}
	if got, want := outer.Error(), `collection "a": map "hits": freeze: busy`; got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
}

func TestNothingToRemedy(t *testing.T) {
	if With(nil, "x") != nil {
		t.Error("With(nil) is not nil")
	}
	if got := Of(errors.New("plain")); got != "" {
		t.Errorf("Of(plain) = %q", got)
	}
}
