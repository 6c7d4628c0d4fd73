package daemon

import (
	"errors"
	"os"
	"testing"

	"github.com/hornetd/hornetd/api"
)

func TestReaders(t *testing.T) {
	const streamsPerUID, streamsTotal = 4, 16
	r := readers{perUser: streamsPerUID, total: streamsTotal}
	for id := range uint32(streamsPerUID) {
		if err := r.take(id, 7); err != nil {
			t.Fatal(err)
		}
	}
	kind := func(id, uid uint32, want api.Kind) {
		t.Helper()
		var e *api.Error
		if err := r.take(id, uid); !errors.As(err, &e) || e.Kind != want {
			t.Errorf("map %d, uid %d: %v, want %s", id, uid, err, want)
		}
	}
	kind(100, 7, api.KindLimit)
	kind(0, 8, api.KindConflict)
	kind(0, 0, api.KindConflict)
	for id := uint32(streamsPerUID); id < streamsTotal; id++ {
		if err := r.take(id, 1000+id); err != nil {
			t.Fatal(err)
		}
	}
	kind(100, 8, api.KindLimit)
	if err := r.take(100, 0); err != nil {
		t.Errorf("root is held back: %v", err)
	}
	if uids, total := r.used(); total != streamsTotal || uids[7] != streamsPerUID || uids[0] != 1 {
		t.Errorf("%d in all, %v", total, uids)
	}
	for id := range uint32(streamsPerUID) {
		r.give(id, 7)
	}
	r.give(100, 0)
	if err := r.take(0, 7); err != nil {
		t.Error(err)
	}
}

// What is dropped is counted, and told with the next one that is not.
func TestWaiting(t *testing.T) {
	const waitingBytes, waitingMost = 1 << 20, 1 << 14
	q := newWaiting(waitingBytes)
	big := make([]byte, waitingBytes/4)
	for range 6 {
		q.add(api.Sample{Data: big}, nil)
	}
	q.add(api.Sample{Lost: 3}, nil)
	q.add(api.Sample{Data: make([]byte, 2*waitingBytes)}, nil)
	samples := q.take(waitingMost)
	if len(samples) != 4 || samples[3].Seq != 4 || samples[3].Lost != 0 {
		t.Errorf("%d samples, the last is %d", len(samples), samples[len(samples)-1].Seq)
	}
	select {
	case <-q.more:
	default:
		t.Error("nothing told of them")
	}
	q.add(api.Sample{Data: []byte{1}}, nil)
	q.add(api.Sample{Data: big}, nil)
	if samples = q.take(0); len(samples) != 0 {
		t.Errorf("%d samples, want none", len(samples))
	}
	samples = append(q.take(1), q.take(5)...)
	if len(samples) != 2 || samples[0].Seq != 11 || samples[0].Lost != 6 || samples[1].Lost != 0 {
		t.Errorf("behind what was lost: %+v", samples[0])
	}
	if q.bytes != 0 || len(q.samples) != 0 {
		t.Errorf("nothing waits, of %d bytes", q.bytes)
	}
	for range waitingMost + 5 {
		q.add(api.Sample{Data: []byte{1}}, nil)
	}
	q.add(api.Sample{}, os.ErrClosed)
	if end := q.failed(); end != "" {
		t.Errorf("closed by us is no failure: %s", end)
	}
	last := q.last("why")
	if n := len(last); n != waitingMost+1 || last[n-1].End != "why" || last[n-1].Lost != 5 || last[n-1].Seq != last[n-2].Seq+5+1 {
		t.Errorf("%d, the end is %+v", n, last[n-1])
	}
	q.add(api.Sample{}, errors.New("broken"))
	if q.failed() == "" {
		t.Error("a failure is not told")
	}
}
