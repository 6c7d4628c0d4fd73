package daemon

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
)

// newRecorder is as much of a daemon as writes records. all returns them.
func newRecorder(t *testing.T) (d *Daemon, all func() []audit.Record) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := audit.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d = &Daemon{audit: l, log: zap.NewNop(), allowed: newAllowance(1000, 1000), events: newStream(time.Now(), 10)}
	d.refused = newCoalescer(d)
	t.Cleanup(d.refused.stop)
	return d, func() (records []audit.Record) {
		if err := l.Read(0, func(r audit.Record, _ []byte) error { records = append(records, r); return nil }); err != nil {
			t.Fatal(err)
		}
		return records
	}
}

func handOutBy(uid uint32, collection string) audit.Record {
	return audit.Record{Verb: "fd", Collection: collection, Phase: audit.Outcome, Caller: audit.Caller{UID: uid}}
}

// read reports whether handing out a map of that collection was the first of its minute.
func read(c *coalescer, uid uint32, collection string) bool {
	settle := c.firstRead(handOutBy(uid, collection), "m")
	if settle != nil {
		settle(true)
	}
	return settle != nil
}

func refusalOf(uid uint32, kind string) audit.Record {
	return audit.Record{Verb: "load", Kind: kind, Error: kind, Phase: audit.Refusal, Caller: audit.Caller{UID: uid}}
}

// A user who fills all counts that there are of them loses no record of a
// hand-out, and changes nothing for others.
func TestCountsOfEachUser(t *testing.T) {
	d, all := newRecorder(t)
	c := d.refused
	fresh := func(i int) string { return fmt.Sprint("c", i) }
	for i := range coalesceKeys {
		if !read(c, 1, fresh(i)) || read(c, 1, fresh(i)) {
			t.Fatalf("hand-out %d is not counted", i)
		}
	}
	for range 3 {
		if !read(c, 1, "other") || c.firstWrite(handOutBy(1, "other"), "n") == nil || c.wrote(handOutBy(1, "other"), "n", 1) {
			t.Error("what has no count is not written")
		}
	}
	for uid, kinds := range map[uint32][]string{1: {"x", "y", "z"}, 2: {"x"}} {
		for i, kind := range kinds {
			if first := c.first(refusalOf(uid, kind)); first != (i == 0) {
				t.Errorf("uid %d, refusal %s: first is %v", uid, kind, first)
			}
		}
	}
	if !read(c, 2, "other") || read(c, 2, "other") {
		t.Error("another user's hand-outs are not counted")
	}
	c.stop()
	many := 0
	for _, r := range all() {
		if r.Verb == "load" {
			many++
			if r.Caller.UID != 1 || r.Kind != "z" || !strings.HasPrefix(r.Error, "2 more of several kinds") {
				t.Errorf("record %+v", r)
			}
		}
	}
	if many != 1 || len(c.counts) > 0 || len(c.uids) > 0 {
		t.Errorf("%d records of refusals, %d counts of %d users are left", many, len(c.counts), len(c.uids))
	}
}

// However many users there are, what is kept of them is bounded.
func TestCountsOfAll(t *testing.T) {
	d, _ := newRecorder(t)
	c := d.refused
	for i := range uint32(coalesceKeysAll) {
		if !c.first(refusalOf(100_000+i, "x")) {
			t.Fatalf("user %d is refused and nobody writes it", i)
		}
	}
	for i := range uint32(3) {
		if !read(c, 1+i, "c") || c.first(refusalOf(1+i, "x")) != (i == 0) {
			t.Errorf("user %d behind them", i)
		}
	}
	if len(c.counts) > coalesceKeysAll+1 {
		t.Errorf("%d counts", len(c.counts))
	}
	for _, r := range c.counts {
		r.more = 0 // nothing to write
	}
}

// A write that ends when its minute is over is on record nevertheless.
func TestWriteBeyondItsMinute(t *testing.T) {
	d, all := newRecorder(t)
	write := func(n int, meanwhile func()) {
		t.Helper()
		got, err := d.recordWrite(Peer{UID: 7}, "c", "m", func() (int, error) { meanwhile(); return n, nil })
		if got != n || err != nil {
			t.Fatal(got, err)
		}
	}
	write(1, func() {})
	write(20, func() {})
	write(300, func() { d.refused.flush(refusalKey{7, verbWrite, "c", "m"}) })
	var told []string
	for _, r := range all() {
		told = append(told, string(r.Phase)+" "+r.Reason+" "+r.Error)
	}
	want := `intent map "m" |outcome map "m": 1 entries |outcome map "m": 20 entries 1 more of this kind within a minute; the error of the last: none|outcome map "m": 300 entries `
	if got := strings.Join(told, "|"); got != want {
		t.Errorf("records\n%s, want\n%s", got, want)
	}
}

// What could not go on record was not the first of a minute: the next one must again.
func TestFirstThatIsNotRecorded(t *testing.T) {
	reads := func(d *Daemon) error { return d.recordHandOut(Peer{UID: 7}, "fd", "c", "m") }
	writes := func(d *Daemon) error {
		_, err := d.recordWrite(Peer{UID: 7}, "c", "m", func() (int, error) { t.Error("written"); return 1, nil })
		return err
	}
	for what, does := range map[string]func(*Daemon) error{"read": reads, "write": writes} {
		d, all := newRecorder(t)
		d.allowed = newAllowance(1, 1)
		if err := d.allowed.take(7, time.Now()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := does(d); kindOfError(err) != api.KindLimit {
				t.Errorf("%s beyond what is allowed: %v", what, err)
			}
		}
		if n := len(all()); n != 1 { // the refusal; the others are counted
			t.Errorf("%s: %d records", what, n)
		}
		d, _ = newRecorder(t)
		d.audit.Close()
		for range 3 {
			if err := does(d); kindOfError(err) != api.KindUnavailable {
				t.Errorf("%s without a log: %v", what, err)
			}
		}
	}
}

// Nobody is handed what only a record would tell of that never came to be: whoever asks
// meanwhile waits for it, and if it does not come is first themselves.
func TestSecondWaitsForTheFirst(t *testing.T) {
	for _, recorded := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newCoalescer(nil)
			first := c.firstRead(handOutBy(7, "c"), "m")
			second := make(chan settleFirst)
			go func() { second <- c.firstRead(handOutBy(7, "c"), "m") }()
			synctest.Wait()
			select {
			case <-second:
				t.Fatal("the second knows already")
			default:
			}
			first(recorded)
			settle := <-second
			if (settle == nil) != recorded {
				t.Errorf("the first is on record: %t, the second is counted: %t", recorded, settle == nil)
			}
			if settle != nil {
				settle(false)
			}
			for key, r := range c.counts {
				r.timer.Stop()
				if r.more != 1 || !recorded {
					t.Errorf("%v counts %d", key, r.more)
				}
			}
		})
	}
}

// One that comes late ends no count but its own.
func TestLateFirst(t *testing.T) {
	d, all := newRecorder(t)
	c := d.refused
	late := c.firstRead(handOutBy(7, "c"), "m")
	c.flush(handOutKey(handOutBy(7, "c"), "m")) // its minute is over
	if !read(c, 7, "c") || read(c, 7, "c") {
		t.Fatal("no count of the next minute")
	}
	late(false)
	c.stop()
	if got := all(); len(got) != 1 || !strings.HasPrefix(got[0].Error, "1 more of this kind") {
		t.Errorf("records %+v", got)
	}
}

// However many read at once beyond what they may have recorded, all are refused.
func TestManyFirsts(t *testing.T) {
	d, all := newRecorder(t)
	d.allowed = newAllowance(1, 1)
	if err := d.allowed.take(7, time.Now()); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			for range 20 {
				if err := d.recordHandOut(Peer{UID: 7}, "fd", "c", "m"); kindOfError(err) != api.KindLimit {
					t.Errorf("handed out: %v", err)
				}
			}
		})
	}
	wait.Wait()
	if n := len(all()); n != 1 {
		t.Errorf("%d records", n)
	}
}
