package tomlfile

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Size is a number of bytes, more than 0: an integer, or a string such as "64MiB".
type Size uint64

// errSize has the remedy for all that is not a size.
var errSize = remedy.With(errors.New("is not a size"),
	`write a number of bytes, or a string with KiB, MiB, GiB or TiB, such as "64MiB"`)

// UnmarshalTOML reads a size.
func (s *Size) UnmarshalTOML(v any) error {
	var n uint64
	var err error
	switch v := v.(type) {
	case int64:
		n = uint64(max(v, 0))
	case string:
		n, err = ParseSize(v)
	default:
		return fmt.Errorf("is %s: %w", kind(v), errSize)
	}
	if err == nil && n == 0 {
		err = remedy.With(errors.New("is not more than 0"), "write a larger size or remove the key")
	}
	*s = Size(n)
	return err
}

// ParseSize reads a decimal number of bytes with an optional unit B, KiB, MiB,
// GiB or TiB.
func ParseSize(s string) (uint64, error) {
	digits := strings.TrimRight(s, "BKMGTi")
	shift, known := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[s[len(digits):]]
	n, err := strconv.ParseUint(digits, 10, 64)
	large := errors.Is(err, strconv.ErrRange) || n > math.MaxUint64>>shift
	switch {
	case !known, err != nil && !large:
		return 0, fmt.Errorf("%.40q: %w", s, errSize)
	case large:
		return 0, remedy.With(fmt.Errorf("%.40q is out of range", s), "write a smaller size")
	}
	return n << shift, nil
}
