package daemon

import (
	"testing"
	"time"

	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

func TestClockIsNeverBeforeTheFloor(t *testing.T) {
	later := time.Now().Add(time.Hour)
	if got := (&Daemon{floor: later}).clock(); !got.Equal(later) {
		t.Errorf("%s, want the floor %s", got, later)
	}
	if got := (&Daemon{floor: later.Add(-2 * time.Hour)}).clock(); time.Since(got).Abs() > time.Minute {
		t.Errorf("%s, want now", got)
	}
}

// What was adopted a moment ago is flagged by its record; once its object was
// verified again, with a renewed certificate maybe, that says how it is.
func TestWarningOfWhatExpired(t *testing.T) {
	d := &Daemon{}
	c := &collection{record: pinning.Record{Signer: pinning.Signer{Name: "dev", NotAfter: time.Now().Add(-time.Hour)}}}
	if d.warning(c) == "" {
		t.Error("adopted, expired: not flagged")
	}
	c.proof.verdict = string(signing.OK)
	if w := d.warning(c); w != "" {
		t.Errorf("renewed: %s", w)
	}
	c.proof = proof{}
	for _, end := range []time.Time{{}, time.Now().Add(time.Hour)} {
		c.record.Signer.NotAfter = end
		if w := d.warning(c); w != "" {
			t.Errorf("valid until %s: %s", end, w)
		}
	}
}
