package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

// remembering is a daemon of nothing but its state directory, and the ratchet's
// file there, which knows of version 5 of "count".
func remembering(t *testing.T) (d *Daemon, path string) {
	t.Helper()
	d = &Daemon{cfg: config.Config{Paths: config.Paths{State: t.TempDir()}}, log: zap.NewNop(), trust: new(signing.Trust), running: map[string]*collection{}}
	var err error
	if d.audit, err = audit.Open(filepath.Join(d.cfg.Paths.State, "audit")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.audit.Close() })
	r, _ := signing.Ratchet{}.Advance(signing.Claim{Manifest: "count", Signer: "dev", Version: 5})
	if err := d.setRatchet(r); err != nil {
		t.Fatal(err)
	}
	return d, filepath.Join(d.cfg.Paths.State, ratchetFile)
}

// withoutFiles calls f while no file can be opened: EMFILE.
func withoutFiles(t *testing.T, f func()) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := syscall.Rlimit{Cur: 0, Max: limit.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// A ratchet that could not be read is not one that is damaged: the start goes
// on without it, and neither moves it nor writes another in its place.
func TestUnreadRatchetStays(t *testing.T) {
	d, path := remembering(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	withoutFiles(t, func() { d.lost, err = d.openRatchet() })
	if err != nil || !errors.Is(d.lost, syscall.EMFILE) || remedy.Of(d.lost) == "" {
		t.Fatalf("lost %v, error %v; want a start that says that it could not read", d.lost, err)
	}
	d.running["count"] = &collection{record: pinning.Record{Name: "count", Version: 4, Signer: pinning.Signer{Name: "dev"}}}
	d.adoptRatchet(d.lost)
	if v, _ := d.ratchet.Newest("count"); v != 4 {
		t.Errorf("version %d is held, want that of what runs", v)
	}
	var e *api.Error
	if err := d.mayAdvance(signing.Claim{Manifest: "count", Signer: "dev", Version: 6}); !errors.As(err, &e) || e.Kind != api.KindUnavailable || remedy.Of(err) == "" {
		t.Errorf("a load that cannot be remembered: %v", err)
	}
	if len(d.state) != 1 || !strings.Contains(d.state[0].problem.Message, "too many open files") {
		t.Errorf("status says %+v", d.state)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file is not as it was: %v\n%s", err, after)
	}
	if d.lost, err = d.openRatchet(); d.lost != nil || err != nil {
		t.Errorf("the next start: %v, %v", d.lost, err)
	}
	if v, _ := d.ratchet.Newest("count"); v != 5 {
		t.Errorf("the next start knows of version %d", v)
	}
}

// loadedOnRecord is a load as the log tells of it.
func loadedOnRecord(t *testing.T, d *Daemon, version uint64) {
	t.Helper()
	for _, phase := range []audit.Phase{audit.Intent, audit.Outcome} {
		if _, err := d.audit.Append(audit.Record{Phase: phase, Verb: "load", Collection: "count", Signer: "dev", Version: version}); err != nil {
			t.Fatal(err)
		}
	}
}

// newest opens the ratchet as a start does, and says what it knows of.
func newest(t *testing.T, d *Daemon) uint64 {
	t.Helper()
	lost, err := d.openRatchet()
	if lost != nil || err != nil {
		t.Fatal(lost, err)
	}
	v, _ := d.ratchet.Newest("count")
	return v
}

// The log tells of what the file does not yet; of loads that were done, and
// behind the record up to which the file tells everything.
func TestRatchetIsReadFromTheLog(t *testing.T) {
	d, _ := remembering(t)
	loadedOnRecord(t, d, 7)
	for _, r := range []audit.Record{
		{Phase: audit.Intent, Verb: "load", Collection: "count", Signer: "dev", Version: 9},
		{Phase: audit.Outcome, Verb: "load", Collection: "count", Signer: "dev", Version: 9, Kind: "verifier", Error: "refused"},
		{Phase: audit.Refusal, Verb: "load", Collection: "count", Signer: "dev", Version: 9, Kind: "signature"},
		{Phase: audit.Outcome, Verb: "unload", Collection: "count", Signer: "dev", Version: 9},
		{Phase: audit.Outcome, Verb: "load", Collection: "other", Signer: "dev", Version: 9},
	} {
		if _, err := d.audit.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if v := newest(t, d); v != 7 {
		t.Fatalf("a start knows of version %d, want 7", v)
	}
	back, err := d.ratchet.Rollback("count", 6)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.setRatchet(back); err != nil {
		t.Fatal(err)
	}
	if v := newest(t, d); v != 6 {
		t.Errorf("after a rollback to 6 a start knows of version %d: the log before it counts again", v)
	}
	// A log that was moved away begins at 1 again.
	state := d.cfg.Paths.State
	if err := errors.Join(d.audit.Close(), os.Rename(filepath.Join(state, auditDir), filepath.Join(state, "old"))); err != nil {
		t.Fatal(err)
	}
	if d.audit, err = audit.Open(filepath.Join(state, auditDir)); err != nil {
		t.Fatal(err)
	}
	if lost, err := d.openRatchet(); err != nil || lost == nil || !strings.Contains(lost.Error(), "begins anew") || remedy.Of(lost) == "" {
		t.Errorf("a log that begins anew: %v, %v", lost, err)
	}
	d.adoptRatchet(nil)
	loadedOnRecord(t, d, 8)
	if v := newest(t, d); v != 8 {
		t.Errorf("with a new log a start knows of version %d, want 8", v)
	}
	if err := d.viewRatchet(); err != nil {
		t.Fatal(err)
	}
	if v, _ := d.ratchet.Newest("count"); v != 8 {
		t.Errorf("beside the daemon version %d is read, want 8", v)
	}
}

// The file is written anew before a start has much of the log to read.
func TestRatchetIsSaved(t *testing.T) {
	d, path := remembering(t)
	for v := range uint64(saveEvery) {
		d.advance(signing.Claim{Manifest: "count", Signer: "dev", Version: 6 + v})
		loadedOnRecord(t, d, 6+v)
	}
	r, err := readRatchet(path)
	if err != nil {
		t.Fatal(err)
	}
	if last, _ := d.audit.Last(); last-r.logged > saveEvery+2 {
		t.Errorf("the file is at record %d of %d", r.logged, last)
	}
}

// At a start nothing new is refused for want of a place to remember it.
func TestRatchetIsHeldAtAStart(t *testing.T) {
	d, _ := remembering(t)
	d.lost, d.booting = errUnread, true
	c := signing.Claim{Manifest: "count", Signer: "dev", Version: 6}
	if err := d.mayAdvance(c); err != nil {
		t.Fatalf("at a start: %v", err)
	}
	d.advance(c)
	if v, _ := d.ratchet.Newest("count"); v != 6 {
		t.Errorf("version %d is held, want 6", v)
	}
	d.booting = false
	if err := d.mayAdvance(signing.Claim{Manifest: "count", Signer: "dev", Version: 7}); err == nil {
		t.Error("on request it loads all the same")
	}
}

// Where the record of a load's outcome cannot be written the file has to hold it.
func TestOutcomeNotOnRecord(t *testing.T) {
	d, path := remembering(t)
	d.events, d.started = newStream(time.Now(), 100), time.Now()
	a := d.begin(self(), "load", "count", api.EventLoaded)
	a.rec.Signer, a.rec.Version = "dev", 7
	if err := a.intend(); err != nil {
		t.Fatal(err)
	}
	d.advance(signing.Claim{Manifest: "count", Signer: "dev", Version: 7})
	d.audit.Close() // as good as a broken disk
	if err := a.conclude(nil); err == nil {
		t.Error("nobody is told that the outcome is not on record")
	}
	r, err := readRatchet(path)
	if v, _ := r.Newest("count"); err != nil || v != 7 {
		t.Errorf("the file knows of version %d, %v", v, err)
	}
}

// A ratchet that could not be written, because its directory had gone, is there as soon as
// the directory is.
func TestRatchetWithTheDirectory(t *testing.T) {
	d, path := remembering(t)
	if err := os.RemoveAll(d.cfg.Paths.State); err != nil {
		t.Fatal(err)
	}
	d.tellRatchet(d.setRatchet(d.ratchet.Ratchet))
	if d.ratchet.again.IsZero() {
		t.Fatal("it was written without a directory")
	}
	loadedOnRecord(t, d, 6)
	d.save()
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}
