package manifest

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/tomlfile"
)

// returns are the names of what programs return: enum xdp_action, the TC_ACT_*
// of linux/pkt_cls.h, enum sk_action and the NF_* of linux/netfilter.h.
var returns = map[string]int32{
	"XDP_ABORTED": 0, "XDP_DROP": 1, "XDP_PASS": 2, "XDP_TX": 3, "XDP_REDIRECT": 4,
	"TC_ACT_UNSPEC": -1, "TC_ACT_OK": 0, "TC_ACT_RECLASSIFY": 1, "TC_ACT_SHOT": 2, "TC_ACT_PIPE": 3,
	"TC_ACT_STOLEN": 4, "TC_ACT_QUEUED": 5, "TC_ACT_REPEAT": 6, "TC_ACT_REDIRECT": 7, "TC_ACT_TRAP": 8,
	"SK_DROP": 0, "SK_PASS": 1,
	"NF_DROP": 0, "NF_ACCEPT": 1,
}

func (c checker) tests(raw []rawTest) []Test {
	_, listed := c.at("test").Line("test[0]")
	var tests []Test
	for i, r := range raw {
		key := fmt.Sprintf("test[%d]", i)
		if !listed { // [test] rather than [[test]]
			key = "test"
		}
		if r.Program == "" {
			c.Add(key+".program", `write program = "NAME", a function of the object`, "is missing")
		} else {
			c.identifier(key+".program", r.Program)
		}
		tests = append(tests, Test{
			Program: r.Program,
			Data:    c.hex(key+".data", r.Data),
			Returns: c.returns(key+".returns", r.Returns),
		})
	}
	return tests
}

// hex decodes a packet, which fits because MaxSize is 64 KiB.
func (c checker) hex(key, s string) []byte {
	digits := strings.Map(func(r rune) rune {
		if isBlank(r) {
			return -1
		}
		return r
	}, s)
	b, err := hex.DecodeString(digits)
	if err != nil {
		c.Add(key, "write two hexadecimal digits for each byte; spaces and ends of lines may stand between", "%v", err)
	}
	return b
}

// returns is what a program must return, as the kernel reports it.
func (c checker) returns(key string, v any) uint32 {
	switch v := v.(type) {
	case nil:
		c.Add(key, `write what the program must return, such as returns = "XDP_PASS"`, "is missing")
	case int64:
		if v < math.MinInt32 || v > math.MaxUint32 {
			c.Add(key, "write a number of 32 bits", "is %d, out of range", v)
		}
		return uint32(v)
	case string:
		n, ok := returns[v]
		if !ok {
			c.Add(key, tomlfile.Suggest(v, slices.Collect(maps.Keys(returns))), "%.60q is not what a program can return", v)
		}
		return uint32(n)
	default:
		c.Add(key, `write a number or a name, such as returns = "XDP_PASS"`, "is neither a number nor a name")
	}
	return 0
}
