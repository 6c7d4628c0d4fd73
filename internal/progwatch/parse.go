package progwatch

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// PERF_BPF_EVENT_PROG_LOAD of enum perf_bpf_event_type.
const progLoad = 1

// What records are made of, in bytes: struct perf_event_header, what follows it in
// either kind, and the pid, tid and time that stand behind it.
const (
	headerBytes = 8
	bpfBytes    = 2 + 2 + 4 + 8 // type, flags, id, tag
	lostBytes   = 8 + 8         // id of the event, number
	sampleBytes = 4 + 4 + 8
)

// parse reads records, in the byte order of this machine. Those of other kinds are
// passed over; what is there in whole before an error is returned too.
//
// Source: PERF_RECORD_LOST and PERF_RECORD_BPF_EVENT in include/uapi/linux/perf_event.h.
func parse(b []byte) (all []Load, lost uint64, err error) {
	order := binary.NativeEndian
	for len(b) > 0 {
		if len(b) < headerBytes {
			return all, lost, fmt.Errorf("record of %d bytes", len(b))
		}
		kind, size := order.Uint32(b), int(order.Uint16(b[6:]))
		if size < headerBytes || size > len(b) {
			return all, lost, fmt.Errorf("record of kind %d has %d bytes, there are %d", kind, size, len(b))
		}
		body := b[headerBytes:size]
		b = b[size:]
		switch kind {
		case unix.PERF_RECORD_LOST:
			if len(body) < lostBytes {
				return all, lost, fmt.Errorf("record of losses has %d bytes", size)
			}
			lost += order.Uint64(body[8:])
		case unix.PERF_RECORD_BPF_EVENT:
			if len(body) < bpfBytes+sampleBytes {
				return all, lost, fmt.Errorf("record of a program has %d bytes", size)
			}
			if order.Uint16(body) != progLoad {
				continue
			}
			l := Load{ID: order.Uint32(body[4:]), Tag: [8]byte(body[8:])}
			body = body[len(body)-sampleBytes:] // newer kernels may put something between
			l.PID, l.Thread, l.Boot = int(int32(order.Uint32(body))), int(int32(order.Uint32(body[4:]))), time.Duration(order.Uint64(body[8:]))
			all = append(all, l)
		}
	}
	return all, lost, nil
}
