package daemon

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/signing"
)

// A serial is not advanced past a list that did not come to the disk.
func TestListIsSettledBeforeItsSerial(t *testing.T) {
	var cfg config.Config
	cfg.Paths.State, cfg.Paths.Revoked = t.TempDir(), filepath.Join(t.TempDir(), "gone")
	d := &Daemon{cfg: cfg}
	err := d.setTrust(new(signing.Trust).WithRevocations(&signing.Revocations{Serial: 1}))
	if !errors.Is(err, fs.ErrNotExist) || d.trust != nil {
		t.Errorf("%v, trust %v", err, d.trust)
	}
	if _, err := readRatchet(filepath.Join(cfg.Paths.State, ratchetFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the ratchet advanced: %v", err)
	}
}
