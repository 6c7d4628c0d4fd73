package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/perf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/policy"
)

// takenAtOnce is how many samples a client is given before it is looked whether there
// may be more.
const takenAtOnce = 1 << 6

// sampleBytes is what a sample that waits counts for at least, however short it is.
const sampleBytes = 1 << 6

// readers are the maps whose samples somebody reads: who takes a sample takes it
// from everybody else.
type readers struct {
	perUser, total int // at once; root's aside

	mu   sync.Mutex
	maps map[uint32]bool // by id
	uids map[uint32]int
}

// take makes uid the reader of a map, until give.
func (r *readers) take(id, uid uint32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.maps[id]:
		return api.Errorf(api.KindConflict, "somebody reads it already, and a sample is read once").
			WithHint("wait until they are done, or have the program write to two maps")
	case uid != 0 && r.uids[uid] >= r.perUser:
		return api.Errorf(api.KindLimit, "uid %d reads %d streams already", uid, r.uids[uid]).
			WithHint("end one, or have an administrator raise [limits] user_streams in hornetd.toml")
	case uid != 0 && r.usersLocked() >= r.total:
		return api.Errorf(api.KindLimit, "uid %d: all users together read %d streams already", uid, r.usersLocked()).
			WithHint("try again later, or have an administrator raise [limits] total_streams in hornetd.toml")
	}
	if r.maps == nil {
		r.maps, r.uids = make(map[uint32]bool), make(map[uint32]int)
	}
	r.maps[id] = true
	r.uids[uid]++
	return nil
}

// usersLocked counts the streams of all users but root.
func (r *readers) usersLocked() int { return len(r.maps) - r.uids[0] }

// used is how many streams each user has, and all but root.
func (r *readers) used() (uids map[uint32]int, total int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.uids), r.usersLocked()
}

func (r *readers) give(id, uid uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.maps, id)
	if r.uids[uid]--; r.uids[uid] == 0 {
		delete(r.uids, uid)
	}
}

// Samples calls fn with what programs put into a ring buffer or a perf event
// array, from now on: first with nothing, once it reads, and at last with why it
// ends, each time with some. A slow fn misses samples and is told how many; nothing
// waits for it, and between two calls the collection or the right may end. It
// returns an error only where it has not begun.
func (d *Daemon) Samples(ctx context.Context, who Peer, name, mapName string, fn func([]api.Sample) error) error {
	entry, err := d.openFor(who, policy.Read(mapName), "stream", name)
	if err != nil {
		return err
	}
	defer entry.Close()
	m, err := entry.Map(mapName)
	if err != nil {
		return noMap(name, mapName)
	}
	defer m.Close() // what a reader registered in a perf event array goes with it
	where := func(err error) error { return fmt.Errorf("collection %q: map %q: %w", name, mapName, err) }
	info, err := m.Info()
	if err != nil {
		return where(err)
	}
	id, _ := info.ID()
	if err := d.readers.take(uint32(id), who.UID); err != nil {
		return d.refuse(who, "stream", name, where(err))
	}
	defer d.readers.give(uint32(id), who.UID)
	if err := d.recordHandOut(who, "stream", name, mapName); err != nil {
		return err
	}
	read, stop, err := sampleReader(m, int(d.cfg.Limits.StreamBuffer))
	if err != nil {
		return where(err)
	}
	q := newWaiting(int(d.cfg.Limits.StreamMemory))
	var filled sync.WaitGroup
	filled.Go(func() { q.fill(read) })
	defer filled.Wait()
	defer stop()

	if fn(nil) != nil {
		return nil // the client left, as wherever fn fails
	}
	for {
		// An event tells when to look whether the map is still the collection's.
		changed := d.events.changed()
		end := d.streamEnds(who, name, mapName, uint32(id))
		for end == "" && !closed(changed) {
			if samples := q.take(takenAtOnce); len(samples) > 0 {
				if fn(samples) != nil {
					return nil
				}
				if ctx.Err() != nil {
					end = whyOver(ctx)
				}
				continue
			}
			if end = q.failed(); end != "" {
				break
			}
			select {
			case <-q.more:
			case <-changed:
			case <-ctx.Done():
				end = whyOver(ctx)
			}
		}
		if end != "" {
			fn(q.last(end))
			return nil
		}
	}
}

// whyOver says why the context of a request has ended.
func whyOver(ctx context.Context) string {
	if stopping(ctx).Err() == nil {
		return "the client closed its side"
	}
	return "the daemon stops"
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// streamEnds says why a client may not go on reading a map; "" where it may.
func (d *Daemon) streamEnds(who Peer, name, mapName string, id uint32) string {
	c := d.collection(name)
	if c == nil {
		return "the collection was unloaded"
	}
	for _, m := range c.record.Maps {
		if m.Name == mapName && m.ID == id {
			if err := d.may(who, policy.Read(mapName), name); err != nil {
				return "you may no longer read it"
			}
			return ""
		}
	}
	return "the collection was replaced, and has another map of this name"
}

// sampleReader begins to read a map, a perf event array with that many bytes for each
// CPU. read blocks; it fails once stop is called.
func sampleReader(m *ebpf.Map, buffer int) (read func() (api.Sample, error), stop func() error, err error) {
	switch m.Type() {
	case ebpf.RingBuf:
		r, err := ringbuf.NewReader(m)
		if err != nil {
			return nil, nil, err
		}
		return func() (api.Sample, error) {
			rec, err := r.Read()
			return api.Sample{Data: rec.RawSample}, err
		}, r.Close, nil
	case ebpf.PerfEventArray:
		r, err := perf.NewReader(m, buffer)
		if err != nil {
			return nil, nil, err
		}
		return func() (api.Sample, error) {
			rec, err := r.Read()
			cpu := rec.CPU
			return api.Sample{Data: rec.RawSample, CPU: &cpu, Lost: rec.LostSamples}, err
		}, r.Close, nil
	}
	return nil, nil, remedy.With(api.Errorf(api.KindBadRequest, "a %s has no samples", m.Type()), "hornetctl map dump shows its entries")
}

// waiting are samples that a client has not taken yet.
type waiting struct {
	most int // bytes

	mu      sync.Mutex
	samples []api.Sample
	bytes   int
	seq     uint64        // of the last sample that came
	lost    uint64        // since the last one in samples
	err     error         // of reading; no more come
	more    chan struct{} // tells of more
}

func newWaiting(most int) *waiting { return &waiting{most: most, more: make(chan struct{}, 1)} }

// fill reads until reading fails.
func (q *waiting) fill(read func() (api.Sample, error)) {
	for {
		s, err := read()
		q.add(s, err)
		if err != nil {
			return
		}
	}
}

func (q *waiting) add(s api.Sample, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err != nil:
		q.err = err
	case len(s.Data) == 0 && s.Lost > 0: // only tells that some are lost
		q.lost += s.Lost
		q.seq += s.Lost
	case len(q.samples) >= q.most/sampleBytes || q.bytes+len(s.Data) > q.most:
		q.seq++
		q.lost++
	default:
		q.seq++
		s.Seq, s.Lost, q.lost = q.seq, s.Lost+q.lost, 0
		q.samples = append(q.samples, s)
		q.bytes += len(s.Data)
	}
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// take returns what waits, the oldest n of it.
func (q *waiting) take(n int) []api.Sample {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.samples))
	samples := q.samples[:n:n]
	q.samples = q.samples[n:]
	for _, s := range samples {
		q.bytes -= len(s.Data)
	}
	return samples
}

// failed says why no more come.
func (q *waiting) failed() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil || errors.Is(q.err, os.ErrClosed) {
		return ""
	}
	return "it cannot be read: " + q.err.Error()
}

// last returns what waits and the end behind it.
func (q *waiting) last(end string) []api.Sample {
	samples := q.take(q.most / sampleBytes)
	q.mu.Lock()
	defer q.mu.Unlock()
	return append(samples, api.Sample{Seq: q.seq + 1, Lost: q.lost, End: end})
}
