package daemon

import (
	"fmt"
	"time"

	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// clock is the time that certificates are held against: what the clock says,
// but not before the source's date and the last audit record when this daemon
// was opened. A clock that died must not make an expired certificate good.
func (d *Daemon) clock() time.Time { return latest(time.Now(), d.floor) }

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// tellClock notes a clock that cannot be right.
func (d *Daemon) tellClock() {
	if now := time.Now(); now.Before(d.floor) {
		d.tellState(remedy.With(fmt.Errorf("the clock says %s, which is before the last audit record or this hornetd's source: certificates are held against %s",
			now.UTC().Format(time.RFC3339), d.floor.UTC().Format(time.RFC3339)),
			"set the clock; where it is right and was ahead once, move the audit log away while hornetd is stopped"))
	}
}

// acceptedBefore decides, where a start asks, on what is good but for the validity of its
// certificate: it loads where exactly this manifest and object were loaded here
// before.
func (d *Daemon) acceptedBefore(m manifest.Manifest, boot bool) func(signing.Signer, [32]byte) bool {
	if !boot || d.cfg.Trust.Expiry == config.ExpiryStrict {
		return nil
	}
	return func(s signing.Signer, object [32]byte) bool {
		return d.ratchet.Accepted(signing.Claim{Manifest: m.Name, Signer: s.Name, Version: m.Version,
			ManifestDigest: hexDigest(m.Digest), ObjectDigest: hexDigest(object)})
	}
}

// validity is that of the certificate by which c was verified: when its object
// was verified again, with a renewed one maybe, or as its record says. Zero is no
// beginning, or no end.
func (c *collection) validity() (from, until time.Time) {
	if loads(c.proof.verdict) {
		return c.proof.notBefore, c.proof.notAfter
	}
	return c.record.Signer.NotBefore, c.record.Signer.NotAfter
}

// outside reports whether the clock is before or behind a validity.
func (d *Daemon) outside(from, until time.Time) (early, late bool) {
	now := d.clock()
	return now.Before(from), !until.IsZero() && now.After(until)
}

// invalidReason is why what is outside the validity of its signer's certificate,
// which ends or begins ("until", "from") at bound, runs.
func invalidReason(signer, side string, bound time.Time) string {
	return fmt.Sprintf("the certificate of %q, which signed it, is not valid now (%s %s): it loads at start only, because this host loaded it before",
		signer, side, bound.UTC().Format(time.RFC3339))
}

// warning is what there is to say of something that runs and would not load
// now, or only at a start. The clock is asked every time: a certificate that was
// good at the last reload may have ended since.
func (d *Daemon) warning(c *collection) string {
	if v := c.proof.verdict; v == "" || loads(v) {
		from, until := c.validity()
		switch early, late := d.outside(from, until); {
		case early:
			return invalidReason(c.record.Signer.Name, "from", from)
		case late:
			return invalidReason(c.record.Signer.Name, "until", until)
		case v == "" && c.record.Verdict == string(signing.OKRolledBack):
			return rolledBackReason
		}
	}
	return c.proof.warning()
}
