package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
	if _, err := d.advance(signing.Claim{Manifest: "count", Signer: "dev", Version: 6}); !errors.As(err, &e) || e.Kind != api.KindUnavailable || remedy.Of(err) == "" {
		t.Errorf("a load that cannot be remembered: %v", err)
	}
	if len(d.state) != 1 || !strings.Contains(d.state[0].Message, "too many open files") {
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

// At a start a version that cannot be written down loads, and counts; then none
// does.
func TestRatchetIsHeldAtAStart(t *testing.T) {
	d, path := remembering(t)
	if err := os.Mkdir(path+".new", 0o700); err != nil { // so that nothing is written
		t.Fatal(err)
	}
	d.booting = true
	for v := range uint64(2) {
		commit, err := d.advance(signing.Claim{Manifest: "count", Signer: "dev", Version: 6 + v})
		if err != nil {
			t.Fatalf("at a start: %v", err)
		}
		if held, _ := d.ratchet.Newest("count"); held != 5+v {
			t.Errorf("version %d is held before the load is committed", held)
		}
		d.tellState(commit())
	}
	if v, _ := d.ratchet.Newest("count"); v != 7 {
		t.Errorf("version %d is held, want 7", v)
	}
	if len(d.state) != 1 || !strings.HasPrefix(d.state[0].Message, "ratchet: ") || d.state[0].Hint == "" {
		t.Errorf("status says %+v, want once that nothing was written", d.state)
	}
	d.booting = false
	if _, err := d.advance(signing.Claim{Manifest: "count", Signer: "dev", Version: 8}); err == nil {
		t.Error("on request it loads all the same")
	}
}
