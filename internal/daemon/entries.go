package daemon

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
)

// Entries reads a page of a map, decoded by the map's own type information.
func (d *Daemon) Entries(who Peer, name, mapName string, page Page) (api.Entries, error) {
	entry, err := d.openFor(who, policy.Read(mapName), "read", name)
	if err != nil {
		return api.Entries{}, err
	}
	defer entry.Close()
	m, err := entry.ReadOnlyMap(mapName)
	if err != nil {
		return api.Entries{}, noMap(name, mapName)
	}
	defer m.Close()
	codec, err := loader.NewCodec(m)
	if err != nil {
		return api.Entries{}, err
	}
	dump, err := page.dump(codec)
	if err != nil {
		return api.Entries{}, err
	}
	if err := d.recordHandOut(who, "read", name, mapName); err != nil {
		return api.Entries{}, err
	}
	out := api.Entries{Map: mapName, Type: m.Type().String(), MaxEntries: m.MaxEntries()}
	add := func(e loader.Entry) error {
		key, err := json.Marshal(e.Key)
		if err != nil {
			return err
		}
		value, err := json.Marshal(e.Value)
		out.Entries = append(out.Entries, api.Entry{Key: key, Value: value})
		return err
	}
	if page.Key != nil {
		err = page.one(codec, add)
	} else {
		var next []byte
		next, err = loader.DumpEntries(m, dump, add)
		out.Next = hex.EncodeToString(next)
	}
	if err != nil {
		return api.Entries{}, fmt.Errorf("collection %q: map %q: %w", name, mapName, readError(err))
	}
	return out, nil
}

// one gives the entry at the page's key.
func (p Page) one(codec loader.Codec, add func(loader.Entry) error) error {
	key, err := parseKey(codec, p.Key)
	if err != nil {
		return err
	}
	value, err := codec.Lookup(key)
	if err != nil {
		return err
	}
	if value == nil {
		return api.Errorf(api.KindNotFound, "no entry at %.80s", p.Key)
	}
	e, err := codec.Show(key, value, p.Sum)
	if err != nil {
		return err
	}
	return add(e)
}

// readError gives the errors of reading their kinds.
func readError(err error) error {
	for of, kind := range map[error]api.Kind{loader.ErrChanging: api.KindConflict, loader.ErrTooLong: api.KindLimit,
		loader.ErrNoSum: api.KindBadRequest, loader.ErrCursor: api.KindBadRequest} {
		if errors.Is(err, of) {
			return api.Errorf(kind, "%w", err).WithHint("%s", cmp.Or(remedy.Of(err), "read it with a program of your own: GET …/maps/M with Upgrade: hornet-fd"))
		}
	}
	return err
}

func noMap(name, mapName string) error {
	return remedy.With(api.Errorf(api.KindNotFound, "collection %q: map %q: not there", name, mapName),
		"hornetctl show %s lists its maps", name)
}

// dump is the page in the terms of the map.
func (p Page) dump(codec loader.Codec) (d loader.Dump, err error) {
	key, value, text := codec.Size()
	size := max(1, key+value) // a ring buffer has neither, and is refused behind
	if size > pageBytes {
		return d, api.Errorf(api.KindLimit, "an entry has %d bytes, more than %d", size, pageBytes).
			WithHint("read it as root: bpftool map dump")
	}
	d = codec.Dump()
	d.Limit, d.Sum, d.Until = max(1, min(p.Limit, pageBytes/size, pageText/text)), p.Sum, time.Now().Add(readTime)
	if p.After == "" {
		return d, nil
	}
	if d.After, err = hex.DecodeString(p.After); err != nil {
		return d, api.Errorf(api.KindBadRequest, "after %.80q: not what an earlier page gave as next", p.After)
	}
	return d, nil
}

// readTime bounds how long one page walks over keys.
const readTime = 2 * time.Second

// What one page takes from the kernel, and what it has at most as JSON, where one
// bucket of a hash does not have more.
const (
	pageBytes = 256 << 10
	pageText  = 4 << 20
)

// recordHandOut puts on record that contents or a descriptor are handed out: the
// first time, and then once a minute with a count. No record, nothing handed out.
func (d *Daemon) recordHandOut(who Peer, verb, name, mapName string) error {
	a := d.begin(who, verb, name, "")
	a.rec.Phase, a.rec.Kind = audit.Outcome, "map "+mapName
	settle := d.refused.firstRead(a.rec, mapName)
	if settle == nil {
		return nil
	}
	if err := d.allowed.take(who.UID, time.Now()); err != nil {
		settle(false)
		return d.refuse(who, verb, name, fmt.Errorf("collection %q: map %q: %w", name, mapName, err))
	}
	_, err := d.audit.Append(a.rec)
	settle(err == nil)
	if err != nil {
		return unrecorded{err}
	}
	return nil
}

// open opens what is committed under name.
func (d *Daemon) open(name string) (*pinning.Entry, error) {
	n, err := pinning.ParseName(name)
	if err != nil {
		return nil, err
	}
	if d.collection(name) == nil {
		return nil, api.Errorf(api.KindNotFound, "collection %q: not running: it has no maps", name).
			WithHint("hornetctl load %s", name)
	}
	entry, err := d.store.Load(n)
	if c := d.collection(name); err != nil && c != nil {
		return d.store.Hold(n, c.record) // its record's pin, or all of it, was removed
	}
	return entry, err
}
