package daemon

import (
	"fmt"
	"time"

	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

// maxAhead is how far the time that a signer says they signed at can move the
// clock. Their clock may be wrong as well as this host's, and nobody knows which:
// with a month, what a signer's wrong clock costs is that certificates count as
// ended a month early, and who renews them in time notices nothing.
const maxAhead = 30 * 24 * time.Hour

// clock is the time that certificates are held against: what the clock says, but
// not before the source's date and the last audit record when this daemon was
// opened, nor before the newest signing time that counts, up to a bound. A clock
// that died must not make an expired certificate good.
func (d *Daemon) clock() time.Time {
	now := latest(time.Now(), d.floor)
	signed := time.Unix(d.signed.Load(), 0)
	if limit := now.Add(maxAhead); signed.After(limit) {
		return limit
	}
	return latest(now, signed)
}

// countSigned has the signing time of what runs as r count, where there is one.
// It is the word of whoever has the key, so the key must be good now, and the time
// one at which its certificate was valid. It counts while this daemon lives, and
// then while r runs: a signer's wrong clock is mended by another signature.
func (d *Daemon) countSigned(r pinning.Record) {
	s := r.Signer
	switch {
	case r.SignedAt.IsZero() || !loads(r.Verdict) || r.SignedAt.Before(s.NotBefore) || !s.NotAfter.IsZero() && r.SignedAt.After(s.NotAfter):
		return
	case r.SignedAt.After(latest(time.Now(), d.floor)):
		d.tellWhile(ofSigning+r.Name, remedy.With(fmt.Errorf("collection %q: by its signature it was signed at %s, which the clock says is still to come: certificates are held against that, or %d days from now if that is earlier",
			r.Name, r.SignedAt.UTC().Format(time.RFC3339), int(maxAhead.Hours()/24)),
			"set the clock; where it is right, have %s signed again where the clock is right, load that and restart hornetd", r.ObjectFile),
			func() bool { return r.SignedAt.After(latest(time.Now(), d.floor)) })
	}
	d.signed.Store(max(d.signed.Load(), r.SignedAt.Unix()))
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// tellClock notes a clock that cannot be right.
func (d *Daemon) tellClock() {
	if now := time.Now(); now.Before(d.floor) {
		d.tellWhile(ofClock, remedy.With(fmt.Errorf("the clock says %s, which is before the last audit record or this hornetd's source: certificates are held against %s",
			now.UTC().Format(time.RFC3339), d.floor.UTC().Format(time.RFC3339)),
			"set the clock; where it is right and was ahead once, move the audit log away while hornetd is stopped"),
			func() bool { return time.Now().Before(d.floor) })
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
		return d.ratchet.Accepted(signing.Claim{Manifest: claimed(m.Name), Signer: s.Name, Version: m.Version,
			ManifestDigest: hexDigest(m.TextDigest), DropIns: withDropIns(m), ObjectDigest: hexDigest(object)})
	}
}

// validity is that of the certificates, its signer's and those of its drop-ins'
// signers, by which c was verified: when its object was verified again, with a
// renewed one maybe, or as its record says.
func (c *collection) validity() signing.Validity {
	if loads(c.proof.verdict) {
		return c.proof.valid
	}
	valid := signing.Validity{}.And(recordedValidity(c.record.Signer))
	for _, d := range c.record.DropIns {
		if d.Signer != nil {
			valid = valid.And(recordedValidity(*d.Signer))
		}
	}
	return valid
}

func recordedValidity(r pinning.Signer) signing.Signer {
	return signing.Signer{Name: r.Name, NotBefore: r.NotBefore, NotAfter: r.NotAfter}
}

// outside reports whether the clock is before or behind a validity.
func (d *Daemon) outside(v signing.Validity) (early, late bool) {
	now := d.clock()
	return now.Before(v.NotBefore), !v.NotAfter.IsZero() && now.After(v.NotAfter)
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
		valid := c.validity()
		switch early, late := d.outside(valid); {
		case early:
			return invalidReason(valid.From, "from", valid.NotBefore)
		case late:
			return invalidReason(valid.Until, "until", valid.NotAfter)
		case v == "" && c.record.Verdict == string(signing.OKRolledBack):
			return rolledBackReason
		}
	}
	return c.proof.warning()
}
