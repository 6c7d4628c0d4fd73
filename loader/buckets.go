package loader

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
)

// bucketGrowth is how many times as many entries as a page shall have one bucket may
// bring into it. Where keys fall by chance, one of a full map has ten or so; but whoever
// chooses keys can have them all in one.
const bucketGrowth = 16

// buckets reads a hash. Its cursor is the number of the first bucket that was not
// read; and behind it, once a bucket was found that is too large for a page, the key up
// to which entries of that bucket and those behind it were given, by the order of the
// keys' bytes.
func (o Dump) buckets(m *ebpf.Map, fn func(Entry) error) ([]byte, error) {
	first, given := make([]byte, bucketCursor), []byte(nil)
	if o.After != nil {
		first, given = o.After[:bucketCursor], o.After[bucketCursor:]
	}
	b := newBatch(m, o, o.Limit)
	end, err := b.read(first)
	for errors.Is(err, unix.ENOSPC) && b.room() < min(o.Limit*bucketGrowth, int(m.MaxEntries())) {
		b = newBatch(m, o, min(2*b.room(), o.Limit*bucketGrowth))
		end, err = b.read(first)
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return o.pastBucket(m, first, given, fn)
	case err != nil:
		return nil, unlistable(m, err)
	}
	for i := range b.n {
		if len(given) > 0 && bytes.Compare(b.key(i), given) <= 0 {
			continue
		}
		if err := o.give(m, b.key(i), b.value(i), fn); err != nil {
			return nil, err
		}
	}
	if end {
		return nil, nil
	}
	return append(b.next, given...), nil
}

// pastBucket reads the bucket first and those behind it by the order of their keys'
// bytes, behind given.
func (o Dump) pastBucket(m *ebpf.Map, first, given []byte, fn func(Entry) error) ([]byte, error) {
	// Where a key goes from which the walk would go on, the kernel begins again: with
	// buckets that were given already.
	for range 1 + changes {
		last, err := o.lastBefore(m, first)
		if errors.Is(err, ErrChanging) {
			continue
		}
		if err != nil {
			return nil, err
		}
		keys, err := o.keysFrom(m, last, given)
		if errors.Is(err, ErrChanging) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			if err := o.lookUp(m, key, fn); err != nil {
				return nil, err
			}
		}
		if len(keys) < o.Limit {
			return nil, nil
		}
		return append(bytes.Clone(first), keys[len(keys)-1]...), nil
	}
	return nil, ErrChanging
}

// changes is how often a page is begun again because the map has changed.
const changes = 16

// lastBefore returns the last key before a bucket, as the kernel's walk has it, nil
// where there is none. The bucket is too large for a batch, which so ends before it.
func (o Dump) lastBefore(m *ebpf.Map, bucket []byte) (last []byte, err error) {
	b, at := newBatch(m, o, min(o.Limit*bucketGrowth, int(m.MaxEntries()))), make([]byte, bucketCursor)
	for {
		switch now, until := binary.NativeEndian.Uint32(at), binary.NativeEndian.Uint32(bucket); {
		case now == until:
			return last, nil
		case now > until:
			return nil, ErrChanging
		case o.late():
			return nil, ErrTooLong
		}
		end, err := b.read(at)
		switch {
		case errors.Is(err, unix.ENOSPC) || err == nil && end:
			return nil, ErrChanging
		case err != nil:
			return nil, unlistable(m, err)
		}
		if b.n > 0 {
			last = bytes.Clone(b.key(b.n - 1))
		}
		at = b.next
	}
}

// keysFrom is keysAfter of the walk behind last, which is over where that is gone.
func (o Dump) keysFrom(m *ebpf.Map, last, given []byte) ([][]byte, error) {
	first := smallest{after: given, limit: o.Limit}
	key := last
	for steps := 0; ; steps++ {
		var from any // a []byte, or nil
		if key != nil {
			from = key
		}
		next, err := m.NextKeyBytes(from)
		if err != nil {
			return nil, unlistable(m, err)
		}
		if key != nil {
			if there, err := m.LookupBytes(key); err != nil || there == nil {
				return nil, errors.Join(err, ErrChanging)
			}
		}
		switch {
		case next == nil:
			return first.keys, nil
		case steps > 4*int(m.MaxEntries()):
			return nil, ErrChanging
		case steps%1024 == 1023 && o.late():
			return nil, ErrTooLong
		}
		first.add(next)
		key = next
	}
}

// batch is room for some entries of a hash.
type batch struct {
	m                  *ebpf.Map
	flags              uint64
	keySize, valueSize int
	keys, values, next []byte
	n                  int // entries that were read
}

func newBatch(m *ebpf.Map, o Dump, room int) *batch {
	b := &batch{m: m, flags: uint64(lockFlag(o.Value)), keySize: int(m.KeySize()), valueSize: lookupSize(m)}
	b.keys, b.values = make([]byte, room*b.keySize), make([]byte, room*b.valueSize)
	return b
}

func (b *batch) room() int          { return len(b.keys) / b.keySize }
func (b *batch) key(i int) []byte   { return b.keys[i*b.keySize:][:b.keySize] }
func (b *batch) value(i int) []byte { return b.values[i*b.valueSize:][:b.valueSize] }

// read fills b from the bucket at on, and reports whether that was the rest. The
// error is unix.ENOSPC where there is no room for that bucket.
func (b *batch) read(at []byte) (end bool, err error) {
	b.next = make([]byte, bucketCursor)
	b.n, end, err = bpfsys.LookupBatch(b.m.FD(), at, b.next, b.keys, b.values, b.room(), b.flags)
	return end, err
}
