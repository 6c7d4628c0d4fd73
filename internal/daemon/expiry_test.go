package daemon

import (
	"strings"
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

// What was adopted is flagged by its record, before its object was read again.
func TestWarningByTheRecord(t *testing.T) {
	later := time.Now().Add(time.Hour)
	early := pinning.Record{Signer: pinning.Signer{Name: "dev", NotBefore: later}}
	older := pinning.Record{Verdict: string(signing.OKRolledBack)}
	for _, tt := range []struct {
		name       string
		c          collection
		says, hint string
	}{
		{"not yet valid", collection{record: early}, "not valid now (from ", "set the clock"},
		{"verified since", collection{record: early, proof: proof{verdict: string(signing.OK)}}, "", ""},
		{"rolled back", collection{record: older}, rolledBackReason, "hornetctl rollback a "},
		{"rolled back once", collection{record: older, proof: proof{verdict: string(signing.OK)}}, "", ""},
	} {
		p, flagged := new(Daemon).proofProblem("a", &tt.c)
		if flagged != (tt.says != "") || !strings.Contains(p.Message, tt.says) || !strings.Contains(p.Hint, tt.hint) {
			t.Errorf("%s: %t, %+v", tt.name, flagged, p)
		}
	}
}

// What runs is flagged as soon as the certificate has ended by which it was last
// verified: its record's, or a renewed one.
func TestWarningOfWhatExpired(t *testing.T) {
	past, later := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ok := string(signing.OK)
	for _, tt := range []struct {
		name   string
		record time.Time
		proof  proof
		want   bool
	}{
		{"adopted", past, proof{}, true},
		{"adopted, valid", later, proof{}, false},
		{"adopted, no end", time.Time{}, proof{}, false},
		{"verified, and ended since", past, proof{verdict: ok, notAfter: past}, true},
		{"verified", later, proof{verdict: ok, notAfter: later}, false},
		{"renewed", past, proof{verdict: ok, notAfter: later}, false},
		{"renewed, and that ended too", past.Add(-time.Hour), proof{verdict: ok, notAfter: past}, true},
		{"a public key now", past, proof{verdict: ok}, false},
	} {
		c := &collection{record: pinning.Record{Signer: pinning.Signer{Name: "dev", NotAfter: tt.record}}, proof: tt.proof}
		_, flagged := new(Daemon).proofProblem("a", c)
		if w := new(Daemon).warning(c); (w != "") != tt.want || flagged != tt.want {
			t.Errorf("%s: %q, in the status %t", tt.name, w, flagged)
		}
	}
}
