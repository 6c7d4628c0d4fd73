package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// EventKind is what happened.
type EventKind string

const (
	EventStarted     EventKind = "started"     // the daemon is ready
	EventStopping    EventKind = "stopping"    // it leaves; what runs goes on running
	EventLoaded      EventKind = "loaded"      // a collection runs
	EventAdopted     EventKind = "adopted"     // it ran before the daemon started
	EventReplaced    EventKind = "replaced"    // it runs with another object or manifest
	EventUpgraded    EventKind = "upgraded"    // what replaced it has passed its trial
	EventReturned    EventKind = "returned"    // what replaced it has not: the version before runs again
	EventRepaired    EventKind = "repaired"    // a missing pin or link is back
	EventDrift       EventKind = "drift"       // it is not as recorded, and stays so for now
	EventUnloaded    EventKind = "unloaded"    // it is gone
	EventQuarantined EventKind = "quarantined" // it does not match its record
	EventRefused     EventKind = "refused"     // somebody asked and may not, or the signature says no
	EventFailed      EventKind = "failed"      // it was allowed and did not work
	EventRolledBack  EventKind = "rolled-back" // an older version may load again
	EventReloaded    EventKind = "reloaded"    // the manifests were read again
	EventTrust       EventKind = "trust"       // whose signatures count, or what is revoked, is another than before
	EventForeign     EventKind = "foreign"     // somebody else loads or changes eBPF, or tried to: the guard tells, or where there is none the kernel, of loads
	EventGuard       EventKind = "guard"       // the guard does something else than before
	EventLost        EventKind = "lost"        // events before this one are no longer there
)

// EventKinds lists every kind there is.
func EventKinds() []EventKind {
	return []EventKind{
		EventStarted, EventStopping, EventLoaded, EventAdopted, EventReplaced, EventUpgraded, EventReturned, EventRepaired,
		EventDrift, EventUnloaded, EventQuarantined, EventRefused, EventFailed, EventRolledBack, EventReloaded, EventTrust, EventForeign, EventGuard, EventLost,
	}
}

// Event is one thing that happened. Seq grows by one with each; to go on after
// a broken stream ask for what came since the last one seen.
type Event struct {
	Seq        uint64    `json:"seq"`
	Time       time.Time `json:"time"`
	Kind       EventKind `json:"kind"`
	Collection string    `json:"collection,omitempty"`
	Message    string    `json:"message"`
	Hint       string    `json:"hint,omitempty"`
	Caller     *Caller   `json:"caller,omitempty"` // absent: the daemon by itself
	Lost       uint64    `json:"lost,omitempty"`   // of kind lost: how many, of whatever kind; absent where nobody knows
}

// EventsType is the media type of an event stream, RFC 7464: each record is the
// byte RS, one line of JSON and a line feed.
const EventsType = "application/json-seq"

// MaxEventBytes bounds one record of an event stream.
const MaxEventBytes = 64 << 10

const recordSeparator = 0x1e

// WriteEvent writes one record of an event stream.
func WriteEvent(w io.Writer, e Event) error { return writeRecord(w, e) }

// WriteSample writes one record of a stream of samples.
func WriteSample(w io.Writer, s Sample) error { return writeRecord(w, s) }

func writeRecord(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(append([]byte{recordSeparator}, b...), '\n'))
	return err
}

// eventReader reads an event stream, one record at a time.
type eventReader struct {
	r *bufio.Reader
}

func newEventReader(r io.Reader) *eventReader {
	return &eventReader{bufio.NewReaderSize(r, MaxEventBytes)}
}

// Next returns the next event, or io.EOF at a clean end. Empty records, which a
// server may send to show that it lives, are passed over. A record cut short is
// io.ErrUnexpectedEOF.
func (er *eventReader) Next() (Event, error) {
	for {
		record, err := er.record()
		if err != nil {
			return Event{}, err
		}
		if len(record) == 0 {
			continue
		}
		var e Event
		if err := json.Unmarshal(record, &e); err != nil {
			return Event{}, fmt.Errorf("event: %w", err)
		}
		return e, nil
	}
}

func (er *eventReader) record() ([]byte, error) {
	line, err := er.r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return nil, io.EOF
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("event: longer than %d bytes", er.r.Size())
	case err != nil:
		return nil, err
	case line[0] != recordSeparator:
		return nil, errors.New("event: record does not begin with RS (0x1e)")
	}
	return bytes.TrimSpace(line[1:]), nil
}
