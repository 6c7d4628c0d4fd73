package loader

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

var (
	u8  = &btf.Typedef{Name: "__u8", Type: &btf.Int{Name: "unsigned char", Size: 1}}
	u16 = &btf.Typedef{Name: "__u16", Type: &btf.Int{Name: "unsigned short", Size: 2}}
	u32 = &btf.Typedef{Name: "__u32", Type: &btf.Int{Name: "unsigned int", Size: 4}}
	u64 = &btf.Typedef{Name: "__u64", Type: &btf.Int{Name: "unsigned long long", Size: 8}}
	s8  = &btf.Int{Name: "signed char", Size: 1, Encoding: btf.Signed}
	s32 = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	s64 = &btf.Int{Name: "long long", Size: 8, Encoding: btf.Signed}

	char    = &btf.Int{Name: "char", Size: 1, Encoding: btf.Signed}
	boolean = &btf.Int{Name: "_Bool", Size: 1, Encoding: btf.Bool}
	i128    = &btf.Int{Name: "__int128", Size: 16, Encoding: btf.Signed}
	be16    = &btf.Typedef{Name: "__be16", Type: u16}
	be32    = &btf.Typedef{Name: "__be32", Type: u32}
	double  = &btf.Float{Name: "double", Size: 8}
	float   = &btf.Float{Name: "float", Size: 4}

	color = &btf.Enum{Name: "color", Size: 4, Values: []btf.EnumValue{{Name: "RED", Value: 0}, {Name: "BLUE", Value: 200}}}
	sign  = &btf.Enum{Name: "sign", Size: 4, Signed: true, Values: []btf.EnumValue{{Name: "MINUS", Value: math.MaxUint64}, {Name: "PLUS", Value: 1}}}

	prefix = &btf.Struct{Name: "prefix", Size: 8, Members: []btf.Member{
		{Name: "prefixlen", Type: u32}, {Name: "addr", Type: arrayOf(u8, 4), Offset: 32},
	}}
	in6 = &btf.Struct{Name: "in6_addr", Size: 16, Members: []btf.Member{{Name: "in6_u", Type: &btf.Union{Size: 16, Members: []btf.Member{
		{Name: "u6_addr8", Type: arrayOf(u8, 16)}, {Name: "u6_addr32", Type: arrayOf(be32, 4)},
	}}}}}
	nested = &btf.Struct{Name: "nested", Size: 16, Members: []btf.Member{
		{Name: "first", Type: u16},
		{Name: "", Type: &btf.Union{Size: 4, Members: []btf.Member{{Name: "number", Type: u32}, {Name: "bytes", Type: arrayOf(u8, 4)}}}, Offset: 32},
		{Name: "pad", Type: u64, Offset: 64},
	}}
	bits = &btf.Struct{Name: "bits", Size: 4, Members: []btf.Member{
		{Name: "low", Type: u32, BitfieldSize: 3},
		{Name: "mid", Type: s32, Offset: 3, BitfieldSize: 10},
		{Name: "high", Type: u32, Offset: 13, BitfieldSize: 19},
	}}
	itself = &btf.Struct{Name: "itself", Size: 4}
)

func init() {
	// Type information can be made to hold itself. Two ways, so that entering
	// both each time would never end.
	itself.Members = []btf.Member{{Type: itself}, {Type: itself}, {Name: "x", Type: u32}}
}

func arrayOf(t btf.Type, n uint32) *btf.Array { return &btf.Array{Index: u32, Type: t, Nelems: n} }

type list = []any
type table = map[string]any

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		typ  btf.Type
		v    any
		want string // hex, for a little-endian machine
	}{
		{u8, int64(255), "ff"},
		{s8, int64(-128), "80"},
		{u16, int64(0x1234), "3412"},
		{u32, int64(1<<32 - 1), "ffffffff"},
		{s32, int64(-2), "feffffff"},
		{u64, int64(7), "0700000000000000"},
		{u64, "18446744073709551615", "ffffffffffffffff"},
		{u64, "0xfffffffffffffffe", "feffffffffffffff"},
		{s64, int64(math.MinInt64), "0000000000000080"},
		{&btf.Const{Type: &btf.Volatile{Type: u16}}, int64(1), "0100"},
		{be16, int64(443), "01bb"},
		{be32, int64(0x0a000001), "0a000001"},
		{be32, "10.0.0.1", "0a000001"},
		{u32, "10.0.0.1", "0a000001"},
		{u32, "0x0a000001", "0100000a"}, // a number, not bytes
		{char, "A", "41"},
		{boolean, true, "01"},
		{boolean, false, "00"},
		{boolean, int64(1), "01"},
		{color, "BLUE", "c8000000"},
		{color, int64(7), "07000000"},
		{sign, "MINUS", "ffffffff"},
		{sign, int64(-1), "ffffffff"},
		{double, 1.5, "000000000000f83f"},
		{float, 1.5, "0000c03f"},
		{double, int64(2), "0000000000000040"},
		{arrayOf(char, 4), "abc", "61626300"},
		{arrayOf(char, 4), "", "00000000"},
		{arrayOf(char, 4), "0x4", "30783400"}, // text, whatever it looks like
		{arrayOf(u8, 4), "192.0.2.1", "c0000201"},
		{arrayOf(u8, 6), "02:00:00:00:00:01", "020000000001"},
		{arrayOf(u8, 16), "2001:db8::1", "20010db8000000000000000000000001"},
		{arrayOf(u8, 3), "0x0a0B0c", "0a0b0c"},
		{arrayOf(u8, 4), list{int64(1), int64(2)}, "01020000"},
		{arrayOf(be16, 2), list{int64(80), int64(443)}, "005001bb"},
		{arrayOf(arrayOf(u8, 2), 2), list{list{int64(1)}, list{int64(2), int64(3)}}, "01000203"},
		{prefix, "10.0.0.0/8", "080000000a000000"},
		{prefix, table{"prefixlen": int64(8), "addr": "10.0.0.0"}, "080000000a000000"},
		{prefix, table{"addr": "10.0.0.0"}, "000000000a000000"},
		{prefix, "0x2000000000000000", "2000000000000000"},
		{in6, "2001:db8::1", "20010db8000000000000000000000001"},
		{in6, table{"in6_u": table{"u6_addr32": list{int64(1)}}}, "00000001000000000000000000000000"},
		{nested, table{"first": int64(1), "number": int64(2)}, "01000000020000000000000000000000"},
		{nested, table{"bytes": "1.2.3.4"}, "00000000010203040000000000000000"},
		{nested, table{"number": int64(2), "bytes": "0x02000000", "pad": int64(3)}, "00000000020000000300000000000000"},
		{i128, "0x01000000000000000000000000000000", "01000000000000000000000000000000"},
		{double, uint64(2), "0000000000000040"},
		{u64, uint64(math.MaxUint64), "ffffffffffffffff"},
		{bits, table{"low": int64(5), "mid": int64(-1), "high": int64(1)}, "fd3f0000"},
		{bits, table{"low": true}, "01000000"},
		{itself, table{"x": int64(1)}, "01000000"},
		{i128, "2001:db8::1", "20010db8000000000000000000000001"},
		{nil, int64(-1), "ffffffff"},
		{nil, int64(1), "01000000"},
		{nil, "10.0.0.1", "0a000001"},
		{nil, "0x01020304", "01020304"},
	} {
		buf := make([]byte, len(c.want)/2)
		if err := encode(buf, c.typ, c.v); err != nil {
			t.Errorf("%v as %v: %v", c.v, c.typ, err)
			continue
		}
		if got := hex.EncodeToString(buf); got != c.want {
			t.Errorf("%v as %v = %s, want %s", c.v, c.typ, got, c.want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, c := range []struct {
		typ  btf.Type
		size int
		v    any
		says string
	}{
		{u8, 1, int64(256), "256 does not fit a __u8 (0 to 255)"},
		{u8, 1, int64(-1), "-1 does not fit a __u8"},
		{s8, 1, int64(128), "128 does not fit a signed char (-128 to 127)"},
		{u16, 2, int64(65536), "0 to 65535"},
		{u64, 8, int64(-1), "0 to 18446744073709551615"},
		{s64, 8, "9223372036854775808", "-9223372036854775808 to 9223372036854775807"},
		{u32, 4, 1.5, "1.5 is not an integer"},
		{u32, 4, "many", `"many" is not an integer`},
		{u32, 4, "::1", `"::1" is not an integer`},
		{u32, 4, true, "true is not an integer"},
		{u32, 4, list{}, "a list is not an integer"},
		{be16, 2, int64(70000), "a __be16 (0 to 65535)"},
		{i128, 16, int64(1), "in hex"},
		{boolean, 1, int64(2), "2 is not true or false"},
		{boolean, 1, "true", `"true" is not true or false`},
		{color, 4, "BLU", `"BLU" is not a value of enum color: did you mean "BLUE"`},
		{color, 4, "chartreuse", "there is BLUE, RED"},
		{color, 4, int64(-1), "does not fit"},
		{color, 4, true, "wants a name or a number"},
		{double, 8, "1.5", "is not a number"},
		{float, 4, 1e300, "does not fit 32 bits"},
		{arrayOf(char, 4), 4, "abcd", `"abcd" has 4 bytes: at most 3 and a closing zero fit`},
		{arrayOf(char, 4), 4, "a\x00b", "zero byte"},
		{arrayOf(u8, 4), 4, "::1", "an address of 16 bytes, not 4"},
		{arrayOf(u8, 16), 16, "10.0.0.1", "an address of 4 bytes, not 16"},
		{arrayOf(u8, 16), 16, "fe80::1%eth0", "is not an address"},
		{arrayOf(u8, 6), 6, "02:00", "is not a MAC address"},
		{arrayOf(u8, 3), 3, "abc", "hex"},
		{arrayOf(u8, 3), 3, "0x0102", "has 2 bytes, not 3"},
		{arrayOf(u8, 3), 3, "0x01020g", "is not hex"},
		{arrayOf(u8, 2), 2, list{int64(1), int64(2), int64(3)}, "3 elements are more than the array's 2"},
		{arrayOf(u8, 2), 2, list{int64(1), int64(300)}, "element 1: 300 does not fit"},
		{arrayOf(u8, 2), 2, int64(1), "1 is not a list"},
		{prefix, 8, "10.0.0.1/8", `did you mean "10.0.0.0/8"`},
		{prefix, 8, "10.0.0.0/33", "is not a network"},
		{prefix, 8, "2001:db8::/32", "4 bytes and an address of 16, there are 8"},
		{prefix, 8, "10.0.0.0", "in hex"},
		{prefix, 8, table{"addrs": int64(1)}, `struct prefix has no field "addrs": did you mean "addr"`},
		{prefix, 8, table{"prefixlen": "x"}, `field "prefixlen": "x" is not an integer`},
		{prefix, 8, int64(1), "1 is not a table: the value is a struct prefix"},
		{in6, 16, table{"in6_u": table{"u6_addr8": "::1", "u6_addr32": list{}}}, "takes one of its fields, not 2"},
		{nested, 16, table{"number": int64(2), "bytes": "0x03000000"}, `field "number": it shares its bytes with another field, which says something else`},
		{bits, 4, table{"low": int64(8)}, "does not fit 3 bits (0 to 7)"},
		{bits, 4, table{"mid": int64(512)}, "-512 to 511"},
		{&btf.Pointer{Target: u32}, 8, int64(1), "a pointer cannot be written"},
		{&btf.Fwd{Name: "x"}, 8, int64(1), "does not have the 8 bytes"},
		{u32, 8, int64(1), "does not have the 8 bytes there are"},
		{nil, 3, int64(1), "in hex"},
		{nil, 4, int64(1 << 32), "does not fit 4 bytes"},
		{nil, 4, true, "in hex"},
		{nil, 5, "10.0.0.1", "in hex"},
	} {
		err := encode(make([]byte, c.size), c.typ, c.v)
		if err == nil {
			t.Errorf("%v as %v: no error, want %q", c.v, c.typ, c.says)
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v as %v: error %q does not say %q", c.v, c.typ, err, c.says)
		}
	}
}

// A message has one line of bounded length, whatever a manifest says.
func TestEncodeShowsHostileText(t *testing.T) {
	err := encode(make([]byte, 4), u32, strings.Repeat("\x1b[31m\n", 1000))
	if err == nil {
		t.Fatal("no error")
	}
	if s := err.Error(); strings.ContainsAny(s, "\x1b\n") || len(s) > 500 {
		t.Errorf("error of %d bytes: %q", len(s), s)
	}
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		typ  btf.Type
		b    string // hex, of a little-endian machine
		want string // JSON
	}{
		{u8, "ff", "255"},
		{s8, "ff", "-1"},
		{u64, "ffffffffffffffff", "18446744073709551615"},
		{be16, "01bb", "443"},
		{be32, "0a000001", `"10.0.0.1"`},
		{arrayOf(be32, 2), "0a000001c0000201", `["10.0.0.1","192.0.2.1"]`},
		{in6, "20010db8000000000000000000000001", `"2001:db8::1"`},
		{&btf.Struct{Name: "in_addr", Size: 4, Members: []btf.Member{{Name: "s_addr", Type: be32}}}, "c0000201", `"192.0.2.1"`},
		{&btf.Union{Name: "u", Size: 4, Members: []btf.Member{{Name: "whole", Type: u32}}}, "01000000", `"0x01000000"`},
		{arrayOf(u8, 6), "020000000001", `"02:00:00:00:00:01"`},
		{boolean, "01", "true"},
		{color, "c8000000", `"BLUE"`},
		{color, "07000000", "7"},
		{sign, "ffffffff", `"MINUS"`},
		{sign, "feffffff", "-2"},
		{double, "000000000000f83f", "1.5"},
		{double, "000000000000f87f", `"NaN"`},
		{float, "0000c03f", "1.5"},
		{arrayOf(char, 8), "6162000000000000", `"ab"`},
		{arrayOf(char, 4), "61626364", `"abcd"`},
		{arrayOf(char, 4), "ff610000", `[-1,97,0,0]`},
		{arrayOf(u8, 3), "0a0b0c", `"0x0a0b0c"`},
		{arrayOf(boolean, 2), "0100", `[true,false]`},
		{arrayOf(be16, 2), "005001bb", "[80,443]"},
		{arrayOf(&btf.Struct{}, 1<<30), "", "[]"},
		{prefix, "080000000a000000", `{"prefixlen":8,"addr":"0x0a000000"}`},
		{nested, "01000000020000000300000000000000", `{"first":1,"number":2,"bytes":"0x02000000","pad":3}`},
		{bits, "fd3f0000", `{"low":5,"mid":-1,"high":1}`},
		{itself, "01000000", `{"x":1}`},
		{&btf.Pointer{Target: u32}, "0100000000000000", `"0x0100000000000000"`},
		{i128, "01000000000000000000000000000000", `"0x01000000000000000000000000000000"`},
		{nil, "0102", `"0x0102"`},
		{u32, "01", `"0x01"`},
		{&btf.Datasec{Name: ".rodata", Size: 8, Vars: []btf.VarSecinfo{
			{Type: &btf.Var{Name: "second", Type: u32}, Offset: 4, Size: 4}, {Type: &btf.Var{Name: "outside", Type: u32}, Offset: 8, Size: 4},
		}}, "0000000001000000", `{"second":1,"outside":null}`},
	} {
		b, err := hex.DecodeString(c.b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(Decode(c.typ, b))
		if err != nil {
			t.Errorf("%s as %v: %v", c.b, c.typ, err)
		} else if string(got) != c.want {
			t.Errorf("%s as %v = %s, want %s", c.b, c.typ, got, c.want)
		}
	}
}

// What Decode shows of any bytes, encode takes, and it decodes to the same
// again. So it does when it was JSON in between.
func FuzzEncode(f *testing.F) {
	types := []btf.Type{u8, s8, u16, u32, u64, s64, char, boolean, be16, be32, color, sign, prefix, bits, i128,
		arrayOf(char, 7), arrayOf(u8, 5), arrayOf(be16, 3), arrayOf(prefix, 2), double, float,
		in6, nested, arrayOf(u8, 6), arrayOf(be32, 3), &btf.Union{Size: 3, Members: []btf.Member{{Name: "x", Type: u8}}},
		&btf.Struct{Size: 17, Members: []btf.Member{{Name: "a", Type: in6}, {Name: "b", Type: arrayOf(char, 1), Offset: 128}}}}
	f.Add(uint8(0), []byte{1}, "255")
	f.Add(uint8(12), []byte{8, 0, 0, 0, 10, 0, 0, 0}, "10.0.0.0/8")
	f.Add(uint8(13), []byte{0xfd, 0x3f, 0, 0}, "0x00000000")
	f.Add(uint8(15), []byte("text\x00\xff\xff"), "0xzz")
	f.Add(uint8(15), []byte("0xte\xff\x00\xff"), "[1]")
	f.Add(uint8(19), []byte{0, 0, 0, 0, 0, 0, 0xf8, 0x7f}, "NaN")
	f.Add(uint8(21), []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4}, "::ffff:1.2.3.4")
	f.Add(uint8(22), []byte{1, 0, 9, 9, 1, 2, 3, 4, 5}, `{"number":1,"bytes":"0x02000000"}`)
	f.Fuzz(func(t *testing.T, n uint8, b []byte, s string) {
		typ := types[int(n)%len(types)]
		size, err := btf.Sizeof(typ)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, make([]byte, size)...)[:size]
		shown := Decode(typ, b)
		text, err := json.Marshal(shown)
		if err != nil {
			t.Fatalf("%x as %v: %v", b, typ, err)
		}
		if most := textSize(typ, size); len(text) > most || most > 40*size+200 {
			t.Errorf("%x as %v is %s, %d bytes, at most %d were announced", b, typ, text, len(text), most)
		}
		parsed, err := ParseJSON(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, v := range []any{asTOML(shown), parsed} {
			again := make([]byte, size)
			err := encode(again, typ, v)
			_, isFloat := typ.(*btf.Float)
			switch {
			case isFloat && err != nil: // NaN has no form that a manifest can write
			case err != nil && strings.Contains(err.Error(), "a closing zero"): // a text that has none
			case err != nil:
				t.Fatalf("%x as %v is %s, which is refused: %v", b, typ, text, err)
			case !reflect.DeepEqual(Decode(typ, again), shown):
				t.Fatalf("%x as %v is %s, and then %v", b, typ, text, Decode(typ, again))
			}
		}
		buf := make([]byte, size)
		if err := encode(buf, typ, s); err != nil && len(err.Error()) > 1000 {
			t.Errorf("message of %d bytes", len(err.Error()))
		}
		if v, err := ParseJSON([]byte(s)); err == nil && encode(make([]byte, size), typ, v) == nil {
			clear(buf)
			encode(buf, typ, v)
			if err := encode(make([]byte, size), typ, asTOML(Decode(typ, buf))); err != nil && !strings.Contains(err.Error(), "a closing zero") {
				t.Errorf("%s as %v is %x, whose form is refused: %v", s, typ, buf, err)
			}
		}
	})
}

// What a trie's keys are shown as is what encode takes, or else a struct.
func FuzzPrefix(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 10, 0, 0, 0})
	f.Add([]byte{8, 0, 0, 0, 10, 0, 0, 1})
	f.Add(append([]byte{120, 0, 0, 0}, make([]byte, 16)...))
	f.Add([]byte{112, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 0, 0})
	f.Add([]byte{33, 0, 0, 0, 10, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		text, ok := prefixText(b)
		if !ok {
			return
		}
		again := make([]byte, len(b))
		if err := encodeBytes(again, text); err != nil || !reflect.DeepEqual(again, b) {
			t.Errorf("%x is %s, and then %x, %v", b, text, again, err)
		}
	})
}

// asTOML turns what Decode gives into what a manifest could say.
func asTOML(v any) any {
	switch v := v.(type) {
	case uint64:
		if v <= math.MaxInt64 {
			return int64(v)
		}
	case Object:
		table := make(map[string]any)
		for _, f := range v {
			table[f.Name] = asTOML(f.Value)
		}
		return table
	case []any:
		list := make([]any, len(v))
		for i, x := range v {
			list[i] = asTOML(x)
		}
		return list
	}
	return v
}
