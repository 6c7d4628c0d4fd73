package pinning

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
)

// recordMapName is what the kernel shows of such a map.
const recordMapName = "hornet_record"

// newRecordMap makes the map that holds a record: an array of one element,
// written and frozen. Where the kernel can (6.18), it is made exclusive to the
// record's own SHA-256, a digest no program has: it stays readable, but no
// program and no map iterator can alter it, which freezing alone does not give.
// create is bpfsys.CreateMap.
func newRecordMap(record []byte, create func(bpfsys.MapAttr) (int, error)) (*ebpf.Map, error) {
	digest := sha256.Sum256(record)
	attr := bpfsys.MapAttr{
		Type: uint32(ebpf.Array), KeySize: 4, ValueSize: uint32(len(record)), MaxEntries: 1,
		Flags: unix.BPF_F_RDONLY_PROG, Name: recordMapName, ExclProgHash: &digest,
	}
	fd, err := create(attr)
	if errors.Is(err, errors.ErrUnsupported) {
		attr.ExclProgHash = nil
		fd, err = create(attr)
	}
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	if err := errors.Join(m.Put(uint32(0), record), m.Freeze()); err != nil {
		m.Close()
		return nil, fmt.Errorf("map: %w", err)
	}
	return m, nil
}

// readRecord reads the record pinned in d. Everything but a frozen map of the
// right shape is ErrCorrupt: what can still be written is no record. An error
// that is Unanswered is only that.
func readRecord(d dir) (Record, error) {
	b, err := readRecordMap(d)
	if err != nil {
		if Unanswered(err) {
			return Record{}, fmt.Errorf("record: %w", err)
		}
		return Record{}, fmt.Errorf("record: %w: %v", ErrCorrupt, err)
	}
	return decodeRecord(b)
}

func readRecordMap(d dir) ([]byte, error) {
	m, err := ebpf.LoadPinnedMap(d.path(recordPin), nil)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if !holdsRecord(m) {
		return nil, fmt.Errorf("%s of %d values of %d bytes", m.Type(), m.MaxEntries(), m.ValueSize())
	}
	writable, err := bpfsys.Writable(m.FD())
	if err != nil {
		return nil, err
	}
	if writable {
		return nil, errors.New("the map is not frozen")
	}
	return m.LookupBytes(uint32(0))
}

// holdsRecord reports whether m has the shape of a record's map.
func holdsRecord(m *ebpf.Map) bool {
	return m.Type() == ebpf.Array && m.KeySize() == 4 && m.MaxEntries() == 1 && m.ValueSize() <= maxRecord
}
