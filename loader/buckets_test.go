package loader

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
)

// crowded is a hash whose keys somebody has chosen: many of them are in one bucket. It
// returns those, and has as many again elsewhere.
func crowded(t *testing.T, typ ebpf.MapType, together int) (m *ebpf.Map, same []uint32) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: typ, KeySize: 4, ValueSize: 8, MaxEntries: uint32(2 * together), Flags: unix.BPF_F_ZERO_SEED})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	// The bucket of a key that is alone is the last one from which a batch finds it.
	bucketOf := func(key uint32) uint32 {
		insert(t, m, key)
		defer m.Delete(key)
		next, keys, values := make([]byte, 4), make([]byte, 4), make([]byte, lookupSize(m))
		low, high := uint32(0), uint32(2*together)
		for low+1 < high {
			mid := (low + high) / 2
			n, _, err := bpfsys.LookupBatch(m.FD(), binary.NativeEndian.AppendUint32(nil, mid), next, keys, values, 1, 0)
			if err != nil {
				t.Fatal(err)
			}
			if n == 1 {
				low = mid
			} else {
				high = mid
			}
		}
		return low
	}
	byBucket := map[uint32][]uint32{}
	for key := uint32(1); ; key++ {
		b := bucketOf(key)
		byBucket[b] = append(byBucket[b], key)
		if b == uint32(together)/2 && len(byBucket[b]) == together {
			same = byBucket[b]
			break
		}
	}
	others := 0
	for b, keys := range byBucket {
		if b == uint32(together)/2 {
			continue
		}
		for _, key := range keys[:1] {
			if others++; others <= together {
				insert(t, m, key)
			}
		}
	}
	for _, key := range same {
		insert(t, m, key)
	}
	return m, same
}

func insert(t *testing.T, m *ebpf.Map, key uint32) {
	t.Helper()
	var value any = uint64(key)
	if isPerCPU(m.Type()) {
		value = slices.Repeat([]uint64{uint64(key)}, ebpf.MustPossibleCPU())
	}
	if err := m.Put(key, value); err != nil {
		t.Fatal(err)
	}
}

// keysIn reads a map by pages, calls between them, and returns the keys and how many the
// largest page had.
func keysIn(t *testing.T, m *ebpf.Map, limit int, between func(page int)) (all []uint32, most int) {
	t.Helper()
	o := Dump{Limit: limit, Hex: true}
	for page := 0; ; page++ {
		n := 0
		next, err := DumpEntries(m, o, func(e Entry) error {
			n++
			var b [4]byte
			if _, err := hex.Decode(b[:], []byte(strings.TrimPrefix(fmt.Sprint(e.Key), "0x"))); err != nil {
				return err
			}
			all = append(all, binary.NativeEndian.Uint32(b[:]))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if most = max(most, n); next == nil {
			return all, most
		}
		o.After = next
		between(page)
	}
}

// TestDumpCrowded: whoever has all keys fall into one bucket gets no larger page by
// that, and each entry is given once.
func TestDumpCrowded(t *testing.T) {
	requireKernel(t)
	for _, typ := range []ebpf.MapType{ebpf.Hash, ebpf.PerCPUHash, ebpf.LRUHash} {
		const together = 128
		m, same := crowded(t, typ, together)
		whole, _ := keysIn(t, m, 1000, func(int) {})
		slices.Sort(whole)
		if !slices.Equal(slices.Compact(slices.Clone(whole)), whole) || len(whole) < together+together/4 {
			t.Fatalf("%s: %d keys", typ, len(whole))
		}
		for _, limit := range []int{1, 2, 5, 7, 8, 100, 1000} {
			got, most := keysIn(t, m, limit, func(int) {})
			slices.Sort(got)
			if !slices.Equal(got, whole) {
				t.Errorf("%s by %d: %d keys, want %d", typ, limit, len(got), len(whole))
			}
			if most > bucketGrowth*limit {
				t.Errorf("%s by %d: a page of %d", typ, limit, most)
			}
		}
		// What goes meanwhile may be given or not; what stays is, once; also where the
		// bucket is small enough again.
		going := same[:together-10]
		got, most := keysIn(t, m, 2, func(page int) {
			if i := 3 * page; i+3 <= len(going) {
				for _, key := range going[i : i+3] {
					if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
						t.Fatal(err)
					}
				}
			}
		})
		slices.Sort(got)
		if twice := len(got) - len(slices.Compact(slices.Clone(got))); twice > 0 {
			t.Errorf("%s: %d keys twice", typ, twice)
		}
		for _, key := range whole {
			if !slices.Contains(going, key) && !slices.Contains(got, key) {
				t.Errorf("%s: key %d is missing", typ, key)
			}
		}
		if most > 2*bucketGrowth {
			t.Errorf("%s: a page of %d", typ, most)
		}
	}
}
