package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/policy"
)

// A client's writes are recorded under this verb, deletions too.
const verbWrite = "write"

// Write writes entries of a map: all of them, or none where one does not fit or
// is not what its If says.
func (d *Daemon) Write(who Peer, name, mapName string, entries []api.WriteEntry) (api.Changed, error) {
	return d.alter(who, name, mapName, func(m *ebpf.Map, codec loader.Codec) (func() (int, error), error) {
		key, value, _ := codec.Size()
		if slices.ContainsFunc(entries, func(e api.WriteEntry) bool { return e.If != nil }) {
			value *= 2
		}
		if err := fitting("entries", len(entries), key+value); err != nil {
			return nil, err
		}
		writes := make([]write, 0, len(entries))
		seen := make(map[string]bool)
		for i, e := range entries {
			w, err := parseWrite(codec, e)
			if err == nil && seen[string(w.key)] {
				err = api.Errorf(api.KindBadRequest, "its key stands there twice")
			}
			if err != nil {
				return nil, fmt.Errorf("entries[%d]: %w", i, err)
			}
			seen[string(w.key)] = true
			writes = append(writes, w)
		}
		return func() (int, error) {
			until := time.Now().Add(readTime)
			for i, w := range writes {
				if err := w.compare(codec, until); err != nil {
					return 0, fmt.Errorf("entries[%d]: %w", i, err)
				}
			}
			for i, w := range writes {
				if err := codec.Update(w.key, w.value, w.flags); err != nil {
					return i, fmt.Errorf("entries[%d]: %w", i, updateError(err))
				}
			}
			return len(writes), nil
		}, nil
	})
}

// Delete deletes entries of a map. Those that are not there are not counted.
func (d *Daemon) Delete(who Peer, name, mapName string, keys []json.RawMessage) (api.Changed, error) {
	return d.alter(who, name, mapName, func(m *ebpf.Map, codec loader.Codec) (func() (int, error), error) {
		if loader.HasEveryIndex(m.Type()) {
			return nil, api.Errorf(api.KindBadRequest, "entries of a %s cannot be deleted: it has all of them always", m.Type()).
				WithHint("write zeroes instead")
		}
		size, _, _ := codec.Size()
		if err := fitting("keys", len(keys), size); err != nil {
			return nil, err
		}
		parsed := make([][]byte, 0, len(keys))
		for i, k := range keys {
			key, err := parseKey(codec, k)
			if err != nil {
				return nil, fmt.Errorf("keys[%d]: %w", i, err)
			}
			parsed = append(parsed, key)
		}
		return func() (n int, err error) {
			for i, key := range parsed {
				switch err := m.Delete(key); {
				case err == nil:
					n++
				case !errors.Is(err, ebpf.ErrKeyNotExist):
					return n, fmt.Errorf("keys[%d]: %w", i, err)
				}
			}
			return n, nil
		}, nil
	})
}

// changeBytes bounds what is made of one request: its body is short, but {} is
// a value of any size.
const changeBytes = 1 << 20

// fitting refuses more than are held at once. One is taken, however large it is.
func fitting(what string, n, size int) error {
	if most := max(1, changeBytes/size); n > most {
		return api.Errorf(api.KindLimit, "%d %s of %d bytes each: one request takes %d", n, what, size, most).
			WithHint("send them in several requests")
	}
	return nil
}

// alter has prepare look at a map that who may write, and then does what it
// returns, on record and with no other writer of ours beside it.
func (d *Daemon) alter(who Peer, name, mapName string, prepare func(*ebpf.Map, loader.Codec) (func() (int, error), error)) (api.Changed, error) {
	entry, err := d.openFor(who, policy.Write(mapName), verbWrite, name)
	if err != nil {
		return api.Changed{}, err
	}
	defer entry.Close()
	m, err := entry.Map(mapName)
	if err != nil {
		return api.Changed{}, noMap(name, mapName)
	}
	defer m.Close()
	where := func(err error) error { return fmt.Errorf("collection %q: map %q: %w", name, mapName, err) }
	if err := editable(m); err != nil {
		return api.Changed{}, d.refuse(who, verbWrite, name, where(err))
	}
	codec, err := loader.NewCodec(m)
	if err != nil {
		return api.Changed{}, where(err)
	}
	do, err := prepare(m, codec)
	if err != nil {
		return api.Changed{}, where(err)
	}
	info, err := bpfsys.MapInfo(m.FD())
	if err != nil {
		return api.Changed{}, where(err)
	}
	defer d.writers.lock(info.ID)()
	n, err := d.recordWrite(who, name, mapName, do)
	if err != nil {
		err = where(err)
		if n > 0 {
			e := asAPIError(err)
			e.Message = fmt.Sprintf("%s (%d were written before)", e.Message, n)
			err = e
		}
	}
	return api.Changed{Entries: n}, err
}

// editable refuses maps whose entries no right lets a client write.
func editable(m *ebpf.Map) error {
	if err := writable(m); err != nil {
		return err
	}
	if !loader.Editable(m.Type()) {
		return api.Errorf(api.KindDenied, "entries of a %s cannot be written: the kernel takes their values for descriptors, or has none", m.Type()).
			WithHint("ask for a descriptor (rw-fd:), or say in the manifest what it holds")
	}
	return nil
}

// write is one entry to write, as the kernel takes it.
type write struct {
	key, value, is []byte // is: what must be there; nil: whatever
	flags          ebpf.MapUpdateFlags
}

func parseWrite(codec loader.Codec, e api.WriteEntry) (w write, err error) {
	if w.key, err = parseKey(codec, e.Key); err != nil {
		return w, err
	}
	value := func(what string, text json.RawMessage) ([]byte, error) {
		v, err := loader.ParseJSON(text)
		if err != nil {
			return nil, badEntry(codec, fmt.Errorf("%s: %w", what, err))
		}
		b, err := codec.Value(v)
		if err != nil {
			return nil, badEntry(codec, fmt.Errorf("%s: %w", what, err))
		}
		return b, nil
	}
	if w.value, err = value("value", e.Value); err != nil {
		return w, err
	}
	if e.If != nil {
		if w.is, err = value("if", e.If); err != nil {
			return w, err
		}
	}
	switch e.Flags {
	case "", api.WriteAny:
	case api.WriteNoExist:
		w.flags = ebpf.UpdateNoExist
	case api.WriteExist:
		w.flags = ebpf.UpdateExist
	default:
		return w, api.Errorf(api.KindBadRequest, "flags: %.80q: want %s, %s or %s", e.Flags, api.WriteAny, api.WriteNoExist, api.WriteExist)
	}
	return w, nil
}

func parseKey(codec loader.Codec, text json.RawMessage) ([]byte, error) {
	v, err := loader.ParseJSON(text)
	if err != nil {
		return nil, badEntry(codec, fmt.Errorf("key: %w", err))
	}
	key, err := codec.Key(v)
	if err != nil {
		return nil, badEntry(codec, fmt.Errorf("key: %w", err))
	}
	return key, nil
}

func badEntry(codec loader.Codec, err error) error {
	return api.Errorf(api.KindBadRequest, "%w", err).WithHint("%s", codec.Shapes())
}

// compare refuses where w is to be written over something else.
func (w write) compare(codec loader.Codec, until time.Time) error {
	if w.is == nil {
		return nil
	}
	d := codec.Dump()
	d.Until = until
	value, err := codec.LookupExact(w.key, d)
	switch {
	case err != nil:
		return readError(err)
	case value == nil:
		return api.Errorf(api.KindConflict, "there is no entry, so not the value that if says").WithHint("read it again; flags noexist writes where there is none")
	case !codec.Same(value, w.is):
		return api.Errorf(api.KindConflict, "its value is not what if says").WithHint("read it again")
	}
	return nil
}

// updateError says what the kernel means.
func updateError(err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		return api.Errorf(api.KindConflict, "it is there already").WithHint("without flags noexist it is written over")
	case errors.Is(err, unix.ENOENT):
		return api.Errorf(api.KindConflict, "it is not there").WithHint("without flags exist it is made")
	case errors.Is(err, unix.E2BIG):
		return api.Errorf(api.KindLimit, "the map is full, or has no such index").WithHint("delete entries, or write a larger max_entries into the manifest")
	}
	return err
}

// recordWrite does a write between two records: the intent, which is durable
// before, and the outcome. Of those that one caller makes to one map within a
// minute of the first the log gets one more record, with their number.
func (d *Daemon) recordWrite(who Peer, name, mapName string, do func() (int, error)) (int, error) {
	a := d.begin(who, verbWrite, name, "")
	a.rec.Phase, a.rec.Reason = audit.Outcome, fmt.Sprintf("map %q", mapName)
	first := d.refused.firstWrite(a.rec, mapName)
	if first != nil {
		err := a.intend()
		first(err == nil)
		if err != nil {
			if errors.Is(err, policy.ErrLimit) {
				err = d.refuse(who, verbWrite, name, err)
			}
			return 0, err
		}
	}
	n, err := do()
	a.rec.DurationUS = time.Since(a.began).Microseconds()
	if err != nil {
		told := asAPIError(err)
		a.rec.Error, a.rec.Hint, a.rec.Kind = told.Message, told.Hint, string(told.Kind)
	}
	if first == nil && d.refused.wrote(a.rec, mapName, n) {
		return n, err
	}
	a.rec.Reason = fmt.Sprintf("%s: %d entries", a.rec.Reason, n)
	if _, recErr := d.audit.Append(a.rec); recErr != nil {
		err = errors.Join(err, unrecorded{fmt.Errorf("%d entries are written, but that is not on record: %w", n, recErr)})
	}
	return n, err
}
