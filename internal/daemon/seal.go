package daemon

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/resident"
	"github.com/hornetd/hornetd/signing"
)

// disarm is what ends the guard that is in force.
func (s seals) disarm() config.Disarm {
	switch {
	case s.signed:
		return config.DisarmSigned
	case s.strict:
		return config.DisarmReboot
	}
	return config.DisarmRoot
}

// settingsOf are two digests of what decides what a guard lets through, beside its
// mode, and whom hornetd itself trusts: of the settings, whatever else changed in
// the file, and of the file, which says the same to a hornetd that has more settings.
func settingsOf(c config.Config) [][32]byte {
	b, _ := json.Marshal([]any{c.Guard.Allow, c.Guard.Disarm, c.Paths, c.Trust, c.Signers, c.Rules, c.Manifests}) // plain data
	return [][32]byte{sha256.Sum256(b), sha256.Sum256(append([]byte("file "), c.Digest[:]...))}
}

func fileSeal(path string) [32]byte { return sha256.Sum256([]byte("hornetd.toml " + path)) }

// keySeal is of a key as it counts: under a name, in a certificate.
func keySeal(s signing.Signer) [32]byte {
	return sha256.Sum256([]byte("key " + s.Name + " " + s.KeySHA256 + " " + s.Chain[0].Certificate))
}

func rootSeal(s signing.Signer) [32]byte { return sha256.Sum256([]byte("root " + s.KeySHA256)) }

// sealing is what a guard of these settings, and this trust store, is sealed with.
// Where one is in force that root's word does not make weaker its keys stay sealed: the
// store may lack some for now, and has no others.
func (d *Daemon) sealing() (map[[32]byte]uint32, error) {
	all := map[[32]byte]uint32{fileSeal(d.cfg.File): sealFile}
	for _, sum := range settingsOf(d.cfg) {
		all[sum] = sealSettings
	}
	disarm := d.cfg.Guard.Disarm
	if disarm == config.DisarmRoot {
		return all, nil
	}
	all[rebootOnly] = sealReboot
	if d.seals.strict {
		for sum, number := range d.seals.found {
			if number == sealKey || number == sealRoot || number == sealNext && d.seals.same && all[sum] == 0 {
				all[sum] = number
			}
		}
	} else {
		sealKeys(all, d.trusted(), d.cfg.Trust.Roots)
	}
	if disarm == config.DisarmSigned {
		all[signedToo] = sealSigned
		if count(all, sealRoot) == 0 {
			return nil, noRoot(d.cfg)
		}
	}
	return all, nil
}

// sealKeys adds the keys of a trust store, and which of them sign statements.
func sealKeys(all map[[32]byte]uint32, trust *signing.Trust, roots []string) {
	for _, s := range trust.Signers() {
		all[keySeal(s)] = sealKey
		if slices.Contains(roots, s.Name) && s.Problem == "" {
			all[rootSeal(s)] = sealRoot
		}
	}
}

// count returns how many of found have a number.
func count(found map[[32]byte]uint32, number uint32) (n int) {
	for _, is := range found {
		if is == number {
			n++
		}
	}
	return n
}

func noRoot(c config.Config) error {
	return remedy.With(fmt.Errorf(`guard: disarm = "signed", and [trust] roots (%q) names no key of %s that can sign: nobody could end it`, c.Trust.Roots, c.Paths.Trust),
		"put the certificate of who is to sign there; then hornetctl reload")
}

// readSeals notes what is sealed in what is in force.
func (d *Daemon) readSeals() error {
	found, err := d.guard.force.Sealed()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seals = d.sealsIn(found)
	return nil
}

// sealsIn is what a guard has sealed, held against what hornetd.toml says.
func (d *Daemon) sealsIn(found map[[32]byte]uint32) seals {
	s := seals{armed: true, strict: found[rebootOnly] == sealReboot, signed: found[signedToo] == sealSigned, found: found}
	s.whole = true
	for _, sum := range settingsOf(d.cfg) {
		s.whole = s.whole && found[sum] == sealSettings
		s.same = s.same || found[sum] == sealSettings
		s.next = s.next || found[sum] == sealNext
	}
	return s
}

// allows decides about a start under a guard that is in force. Whoever can write
// hornetd.toml or have hornetd started with another one could else have hornetd, which may,
// load what they like. Where root's word counts, root's files do, on record; but not
// a file that hornetd.toml was not when the guard was armed.
func (d *Daemon) allows(s seals, enforces bool) error {
	if (s.strict || enforces) && s.found[fileSeal(d.cfg.File)] != sealFile && count(s.found, sealFile) > 0 {
		return remedy.With(fmt.Errorf("guard: it was armed by a hornetd whose --config was not %s", d.cfg.File), "start it with the one that it had")
	}
	if s.strict || enforces {
		if err := genuineProc(); err != nil {
			return err
		}
	}
	if err := resident.Lock(); err != nil && s.strict { // what root writes there would be no word of a root's
		return err
	}
	return s.unsealed(d.trusted())
}

// sealedStart decides about the guard that was taken up, as mayStart has about what it saw.
func (d *Daemon) sealedStart() error {
	s, err := d.guard.force.Status()
	if err != nil {
		return err
	}
	if err := d.allows(d.seals, s.Enforces); err != nil || !s.Enforces || d.seals.same {
		return err
	}
	const what = "hornetd starts with other settings than the guard was armed with"
	d.guardChanged(what)
	d.log.Warn("guard", zap.String("what", what))
	return nil
}

// unsealed refuses settings, and keys of a trust store, that are others than those
// sealed in a guard that root's word does not make weaker. That there are fewer keys
// is no matter.
func (s seals) unsealed(trust *signing.Trust) error {
	if !s.strict {
		return nil
	}
	hint := "put back what it was, or reboot"
	if s.signed {
		hint = "have a root sign it while hornetd runs: " + asking(api.ActTrust, "") + "; to have it run, put back what it was"
	}
	if !s.same && !s.next {
		return remedy.With(fmt.Errorf(`guard: it was armed with disarm = %q, and hornetd.toml says other things now`, s.disarm()), "%s", hint)
	}
	for _, signer := range trust.Signers() {
		if s.found[keySeal(signer)] != sealKey {
			return remedy.With(fmt.Errorf(`guard: it was armed with disarm = %q, and signer %q came to the trust store since (or its certificate is another)`, s.disarm(), signer.Name), "%s", hint)
		}
	}
	return nil
}

func (d *Daemon) errSealed(what string) error {
	hint := "reboot"
	if d.seals.signed {
		what += " but a root's signature"
		hint = "have a root sign it, see hornetctl guard statement; or reboot"
	}
	return remedy.With(api.Errorf(api.KindDenied, `guard: it was armed with disarm = %q: %s`, d.seals.disarm(), what), "%s", hint)
}
