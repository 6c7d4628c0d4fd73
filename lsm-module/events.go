package lsm

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

const eventsMap = "events"

var (
	// ErrClosed is returned by Events.Read after Close.
	ErrClosed = ringbuf.ErrClosed
	// ErrFlushed is returned by Events.Read behind what was there at Flush.
	ErrFlushed = ringbuf.ErrFlushed
	// ErrNoEvent is returned by Events.Read for something that cannot be one. The next one may.
	ErrNoEvent = errors.New("guard: what is told is no event")
)

// Event is something that is not for its caller.
type Event struct {
	Boot       time.Duration // since boot, sleep included
	Deed       Deed
	Detail     uint32 // see Deed
	Reason     Reason
	Refused    bool // false: it went through, the guard audits
	Cgroup     uint64
	Executable Executable // that the caller runs
	PID        uint32
	Thread     uint32
	UID        uint32
	GID        uint32
	Comm       string // what the caller calls itself
	Object     Object // that it was about, if Kind is not 0
	Type       uint32 // of program or map
	Attach     uint32 // attach type
	Name       string // of program or map, as its maker calls it
	Suppressed uint64 // events of this caller not told since the last one
}

// rawEvent grows at its end only.
type rawEvent struct {
	Time       uint64
	Cgroup     uint64
	Suppressed uint64
	Exe        Executable
	PID        uint32
	Thread     uint32
	UID        uint32
	GID        uint32
	Deed       Deed
	Detail     uint32
	Reason     Reason
	Refused    uint32
	Kind       Kind
	ID         uint32
	Type       uint32
	Attach     uint32
	Name       [16]byte
	Comm       [16]byte
}

// decodeEvent reads one out of the ring buffer.
func decodeEvent(b []byte) (Event, error) {
	var r rawEvent
	if err := decode(b, firstEvent, &r); err != nil {
		return Event{}, fmt.Errorf("%w: %w", ErrNoEvent, err)
	}
	return Event{
		Boot: time.Duration(r.Time), Deed: r.Deed, Detail: r.Detail, Reason: r.Reason, Refused: r.Refused != 0,
		Cgroup: r.Cgroup, Executable: r.Exe, PID: r.PID, Thread: r.Thread, UID: r.UID, GID: r.GID,
		Comm: unix.ByteSliceToString(r.Comm[:]), Object: Object{r.Kind, r.ID}, Type: r.Type, Attach: r.Attach,
		Name: unix.ByteSliceToString(r.Name[:]), Suppressed: r.Suppressed,
	}, nil
}

// Events reads what the guard tells. There is one reader at a time. It holds what it reads:
// what a guard has told is there when that has been replaced or disarmed.
type Events struct{ r *ringbuf.Reader }

// Events returns a reader, which is the caller's to close. What came while nobody
// read is there, as far as there was room: Status.Lost counts the rest.
func (g *Guard) Events() (*Events, error) {
	r, err := ringbuf.NewReader(g.maps[eventsMap])
	if err != nil {
		return nil, fmt.Errorf("guard: events: %w", err)
	}
	return &Events{r}, nil
}

// Read waits for the next event. The error is ErrClosed after Close, ErrFlushed after
// Flush, and os.ErrDeadlineExceeded.
func (e *Events) Read() (Event, error) {
	record, err := e.r.Read()
	if err != nil {
		return Event{}, err
	}
	return decodeEvent(record.RawSample)
}

// SetDeadline ends a Read at a time; the zero one is never.
func (e *Events) SetDeadline(t time.Time) { e.r.SetDeadline(t) }

// Flush has Read return what is there, and then ErrFlushed, instead of waiting. That comes
// to an end where the guard tells nothing any more.
func (e *Events) Flush() error {
	if err := e.r.Flush(); err != nil {
		return fmt.Errorf("guard: events: %w", err)
	}
	return nil
}

// Close ends a Read that waits. What nobody has read stays.
func (e *Events) Close() error {
	if err := e.r.Close(); err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("guard: events: %w", err)
	}
	return nil
}
