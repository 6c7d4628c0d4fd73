package pinning

import (
	"errors"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/bpfsys"
)

// Hidden returns the records in the kernel of collections that the root does not
// have: those of another root, which may be this one's path before something was
// mounted over it. It asks about every map of the host.
func (s *Store) Hidden() ([]Record, error) {
	c, err := s.scan()
	if err != nil {
		return nil, err
	}
	var hidden []Record
	for id := ebpf.MapID(0); ; {
		if id, err = ebpf.MapGetNextID(id); errors.Is(err, ErrNotExist) {
			return hidden, nil
		}
		if err != nil {
			return nil, err
		}
		r, ok := recordOf(id)
		if !ok || slices.ContainsFunc(c.committed, func(n Name) bool { return n.s == r.Name }) ||
			slices.ContainsFunc(c.quarantined, func(q Quarantined) bool { return q.Name == r.Name }) {
			continue
		}
		hidden = append(hidden, r)
	}
}

// recordOf reads the record that a map holds, if it does. Only root makes one.
func recordOf(id ebpf.MapID) (r Record, ok bool) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return r, false // gone meanwhile
	}
	defer m.Close()
	if !holdsRecord(m) {
		return r, false
	}
	info, err := m.Info()
	if err != nil || info.Name != recordMapName {
		return r, false
	}
	if writable, err := bpfsys.Writable(m.FD()); err != nil || writable {
		return r, false
	}
	b, err := m.LookupBytes(uint32(0))
	if err != nil {
		return r, false
	}
	r, err = decodeRecord(b)
	return r, err == nil
}
