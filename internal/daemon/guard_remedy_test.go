package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// Who wants something of a guard that is not there is told so, and then why it is not.
func TestNotInForce(t *testing.T) {
	for _, tt := range []struct {
		unarmed    error
		says, hint string
	}{
		{nil, "no guard is in force", "hornetctl guard audit arms one"},
		{remedy.With(errors.New("guard: no bpf among the LSMs"), "boot with lsm=bpf"), "no guard is in force: guard: no bpf among the LSMs", "boot with lsm=bpf"},
	} {
		d := &Daemon{unarmed: tt.unarmed}
		d.cfg.Paths.BPFFS = t.TempDir()
		if e := asAPIError(d.notInForce()); e.Kind != api.KindConflict || e.Message != tt.says || e.Hint != tt.hint {
			t.Errorf("%+v, want %q, %q", e, tt.says, tt.hint)
		}
	}
}

// Where no signature is needed the remedy is the whole command that does it.
func TestRootCommand(t *testing.T) {
	for act, want := range map[api.GuardAct]string{
		api.ActDisarm: "guard disarm --reason TEXT",
		api.ActAudit:  "guard audit",
		api.ActEnroll: "guard enroll /sbin/x",
		api.ActTrust:  "hornetctl reload, ",
	} {
		if got := rootCommand(act, "/sbin/x"); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", act, got, want)
		}
	}
}

// A guard that root has had audit is a problem with a reason where it is to enforce.
func TestMadeWeaker(t *testing.T) {
	for _, is := range []lsm.Mode{lsm.Off, lsm.Audit, lsm.Enforce} {
		for _, want := range []config.GuardMode{config.GuardOff, config.GuardAudit, config.GuardEnforce} {
			err := madeWeaker(is, want)
			if weaker := is == lsm.Audit && want == config.GuardEnforce; (err != nil) != weaker || weaker && remedy.Of(err) != "hornetctl guard enforce" {
				t.Errorf("%s, to be %s: %v (%s)", is, want, err, remedy.Of(err))
			}
		}
	}
}

// An executable whose digest is not known has none that could be named.
func TestRetireUnknown(t *testing.T) {
	zeros := api.RetireRequest{SHA256: strings.Repeat("0", 64)}
	all, err := new(Daemon).meant(zeros, map[lsm.Executable][32]byte{{Inode: 7}: {}})
	if err == nil || asAPIError(err).Kind != api.KindNotFound || remedy.Of(err) == "" {
		t.Errorf("retires %v: %v", all, err)
	}
}

// To a guard that is off nothing is let in by its being off.
func TestListedRemedy(t *testing.T) {
	gone := config.Allowed{Executable: "/no/such", SHA256: new([32]byte)}
	for mode, want := range map[lsm.Mode]string{lsm.Off: "hornetctl guard audit", lsm.Audit: "hornetctl guard audit", lsm.Enforce: "hornetctl guard enforce"} {
		if err := new(Daemon).listed(gone, mode); !strings.HasSuffix(remedy.Of(err), "; then "+want) {
			t.Errorf("%s: %v (%s)", mode, err, remedy.Of(err))
		}
	}
}
