package progwatch

import (
	"encoding/binary"
	"testing"
)

// record builds one as the kernel does.
func record(kind uint32, fields ...any) []byte {
	var body []byte
	for _, f := range fields {
		body, _ = binary.Append(body, binary.NativeEndian, f)
	}
	var b []byte
	for _, f := range []any{kind, uint16(0), uint16(headerBytes + len(body))} {
		b, _ = binary.Append(b, binary.NativeEndian, f)
	}
	return append(b, body...)
}

var (
	tag      = [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	loaded   = record(18, uint16(1), uint16(0), uint32(77), tag, uint32(12), uint32(13), uint64(99))
	unloaded = record(18, uint16(2), uint16(0), uint32(77), tag, uint32(12), uint32(13), uint64(99))
	lostFive = record(2, uint64(1), uint64(5), uint32(12), uint32(13), uint64(99))
)

func TestParse(t *testing.T) {
	b := append(append(append([]byte(nil), unloaded...), lostFive...), record(3, uint64(0))...)
	all, lost, err := parse(append(b, loaded...))
	want := Load{ID: 77, Tag: tag, PID: 12, Thread: 13, Boot: 99}
	if err != nil || lost != 5 || len(all) != 1 || all[0] != want {
		t.Errorf("%+v, %d lost, %v; want %+v", all, lost, err, want)
	}
	for i := 1; i < len(loaded); i++ {
		if _, _, err := parse(loaded[:i]); err == nil {
			t.Errorf("%d of %d bytes are taken for a record", i, len(loaded))
		}
	}
	if _, _, err := parse(record(18, uint64(1))); err == nil {
		t.Error("a record of a program of 16 bytes is taken for one")
	}
	if _, _, err := parse(record(2, uint64(1))); err == nil {
		t.Error("a record of losses of 16 bytes is taken for one")
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range [][]byte{loaded, unloaded, lostFive, append(append([]byte(nil), loaded...), lostFive...), loaded[:9], make([]byte, 8)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _, err := parse(b)
		if len(all)*(headerBytes+bpfBytes+sampleBytes) > len(b) {
			t.Errorf("%d loads out of %d bytes", len(all), len(b))
		}
		if err == nil && len(b) > 0 && len(b) < headerBytes {
			t.Errorf("%d bytes are taken for a record", len(b))
		}
	})
}
