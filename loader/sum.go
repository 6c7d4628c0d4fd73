package loader

import (
	"fmt"
	"math/big"
)

// sum adds what the CPUs counted, as Decode gives it: numbers, and the fields
// and elements of structs and arrays, one by one. A number of the sum is a
// *big.Int: 64 bits may not do.
func sum(values []any) (any, error) {
	if len(values) == 0 {
		return nil, fmt.Errorf("there are no values")
	}
	switch first := values[0].(type) {
	case Object:
		total := make(Object, len(first))
		for i, f := range first {
			part, err := sumParts(values, func(v any) any { return v.(Object)[i].Value })
			if err != nil {
				return nil, fmt.Errorf("field %q: %w", f.Name, err)
			}
			total[i] = Field{f.Name, part}
		}
		return total, nil
	case []any:
		total := make([]any, len(first))
		for i := range first {
			part, err := sumParts(values, func(v any) any { return v.([]any)[i] })
			if err != nil {
				return nil, fmt.Errorf("element %d: %w", i, err)
			}
			total[i] = part
		}
		return total, nil
	}
	total := new(big.Int)
	for _, v := range values {
		switch v := v.(type) {
		case uint64:
			total.Add(total, new(big.Int).SetUint64(v))
		case int64:
			total.Add(total, big.NewInt(v))
		default:
			return nil, fmt.Errorf("%s is not an integer", show(v))
		}
	}
	return total, nil
}

// sumParts adds one part of each value. All are of one type, so of one shape.
func sumParts(values []any, part func(any) any) (any, error) {
	parts := make([]any, len(values))
	for i, v := range values {
		parts[i] = part(v)
	}
	return sum(parts)
}
