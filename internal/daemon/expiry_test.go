package daemon

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

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

// The time at which what runs was signed counts where its key was good, and never
// more than a month ahead.
func TestSigningTimeMovesTheClock(t *testing.T) {
	day := 24 * time.Hour
	now := time.Now()
	signer := pinning.Signer{NotBefore: now.Add(-100 * day), NotAfter: now.Add(1000 * day)}
	ok := string(signing.OK)
	for _, tt := range []struct {
		name     string
		floor    time.Duration // from now, all of them
		verdict  string
		signer   pinning.Signer
		signedAt time.Duration
		want     time.Duration
		told     bool
	}{
		{"earlier", 0, ok, signer, -day, 0, false},
		{"ahead", 0, ok, signer, 10 * day, 10 * day, true},
		{"by a public key", 0, ok, pinning.Signer{}, 10 * day, 10 * day, true},
		{"in spite of the ratchet", 0, string(signing.OKRolledBack), signer, 10 * day, 10 * day, true},
		{"too far ahead", 0, ok, signer, 900 * day, maxAhead, true},
		{"clock behind the floor", 500 * day, ok, signer, 510 * day, 510 * day, true},
		{"clock behind the floor, too far ahead", 500 * day, ok, signer, 900 * day, 500*day + maxAhead, true},
		{"before the floor", 500 * day, ok, signer, 400 * day, 500 * day, false},
		{"when its certificate had ended", 0, ok, signer, 1001 * day, 0, false},
		{"before its certificate began", 0, ok, pinning.Signer{NotBefore: now.Add(20 * day)}, 10 * day, 0, false},
		{"by a certificate that had ended", 0, string(signing.OKExpired), signer, 10 * day, 0, false},
		{"by one that has not begun", 0, string(signing.OKNotYetValid), signer, 10 * day, 0, false},
		{"a record of format 1", 0, "", signer, 10 * day, 0, false},
	} {
		d := &Daemon{floor: now.Add(tt.floor), log: zap.NewNop()}
		d.countSigned(pinning.Record{Name: "a", Verdict: tt.verdict, Signer: tt.signer, SignedAt: now.Add(tt.signedAt)})
		d.countSigned(pinning.Record{Name: "b", Verdict: ok, Signer: signer, SignedAt: now.Add(-2 * day)})
		d.countSigned(pinning.Record{Name: "c", Verdict: ok, Signer: signer})
		if got := d.clock().Sub(now); (got-tt.want).Abs() > time.Minute || (len(d.state) == 1) != tt.told {
			t.Errorf("%s: %s ahead, want %s; status says %+v", tt.name, got, tt.want, d.state)
		}
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
	until := func(t time.Time) signing.Validity { return signing.Validity{NotAfter: t, Until: "dev"} }
	for _, tt := range []struct {
		name   string
		record time.Time
		proof  proof
		want   bool
	}{
		{"adopted", past, proof{}, true},
		{"adopted, valid", later, proof{}, false},
		{"adopted, no end", time.Time{}, proof{}, false},
		{"verified, and ended since", past, proof{verdict: ok, valid: until(past)}, true},
		{"verified", later, proof{verdict: ok, valid: until(later)}, false},
		{"renewed", past, proof{verdict: ok, valid: until(later)}, false},
		{"renewed, and that ended too", past.Add(-time.Hour), proof{verdict: ok, valid: until(past)}, true},
		{"a public key now", past, proof{verdict: ok}, false},
	} {
		c := &collection{record: pinning.Record{Signer: pinning.Signer{Name: "dev", NotAfter: tt.record}}, proof: tt.proof}
		_, flagged := new(Daemon).proofProblem("a", c)
		if w := new(Daemon).warning(c); (w != "") != tt.want || flagged != tt.want {
			t.Errorf("%s: %q, in the status %t", tt.name, w, flagged)
		}
	}
}

// The certificate of who signed a drop-in bounds what runs as well, and is the one
// that is named: by the record, and by what is on disk.
func TestWarningOfADropInsSigner(t *testing.T) {
	past, later := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	record := func(ops pinning.Signer) pinning.Record {
		ops.Name = "ops"
		return pinning.Record{Signer: pinning.Signer{Name: "dev", NotBefore: past.Add(-time.Hour), NotAfter: later},
			DropIns: []pinning.RecordDropIn{{}, {Signer: &ops}}}
	}
	ended := invalidReason("ops", "until", past)
	for _, tt := range []struct {
		name string
		c    collection
		want string
	}{
		{"adopted, ended", collection{record: record(pinning.Signer{NotAfter: past})}, ended},
		{"adopted, not begun", collection{record: record(pinning.Signer{NotBefore: later})}, invalidReason("ops", "from", later)},
		{"adopted, no bounds", collection{record: record(pinning.Signer{})}, ""},
		{"verified, and ended since", collection{record: record(pinning.Signer{NotAfter: later}),
			proof: proof{verdict: string(signing.OK), valid: signing.Validity{NotAfter: past, Until: "ops"}}}, ended},
		{"renewed", collection{record: record(pinning.Signer{NotAfter: past}),
			proof: proof{verdict: string(signing.OK), valid: signing.Validity{NotAfter: later, Until: "ops"}}}, ""},
	} {
		if got := new(Daemon).warning(&tt.c); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
