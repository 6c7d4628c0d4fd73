package daemon

import (
	"errors"
	"io/fs"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// unproven is the verdict of a collection whose object is no longer there to
// be verified. It runs; nobody can check any more what it was.
const unproven = "unproven"

func proven(v signing.Verified) proof {
	p := proof{verdict: string(v.Verdict()), digest: hexDigest(v.Digest()), valid: v.Validity()}
	switch v.Verdict() {
	case signing.OKExpired:
		p.reason = invalidReason(p.valid.Until, "until", p.valid.NotAfter)
	case signing.OKNotYetValid:
		p.reason = invalidReason(p.valid.From, "from", p.valid.NotBefore)
	case signing.OKRolledBack:
		p.reason = rolledBackReason
	}
	return p
}

// rolledBackReason is why what the ratchet refuses runs.
const rolledBackReason = "another version or content of it was loaded here before: it loads only because of [trust] development"

// loads reports whether what has the verdict would load now, and not at a start only.
func loads(verdict string) bool {
	return verdict == string(signing.OK) || verdict == string(signing.OKRolledBack)
}

// prove verifies the object of a manifest again, from disk.
func (d *Daemon) prove(files reader, trust *signing.Trust, m manifest.Manifest) proof {
	v, err := d.admit(files, trust, m, true)
	if err == nil {
		return proven(v)
	}
	p := proof{verdict: unproven, reason: err.Error()}
	var se *signing.Error
	if errors.As(err, &se) && !errors.Is(err, fs.ErrNotExist) {
		p.verdict = string(se.Verdict)
	}
	return p
}

// proveAll verifies again, from disk, what of names runs. An object that changed
// makes a change of its own (decide).
func (d *Daemon) proveAll(names []string, found map[string]declared, trust *signing.Trust) map[string]proof {
	proofs := make([]proof, len(names))
	var files safefile.Reader
	defer files.Close()
	each(len(names), func(i int) {
		if dc, ok := found[names[i]]; ok && dc.err == nil {
			proofs[i] = d.prove(&files, trust, dc.manifest)
		} else {
			proofs[i] = proof{verdict: unproven, reason: "its manifest is gone"}
		}
	})
	byName := make(map[string]proof, len(names))
	for i, name := range names {
		byName[name] = proofs[i]
	}
	return byName
}

// setProofs makes proofs what the status shows.
func (d *Daemon) setProofs(proofs map[string]proof) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, p := range proofs {
		c := *d.running[name]
		c.proof = p
		d.running[name] = &c
	}
}

// warning is what there is to say of a proof that is not ok.
func (p proof) warning() string {
	switch signing.Verdict(p.verdict) {
	case "", signing.OK, signing.OKExpired, signing.OKNotYetValid, signing.OKRolledBack:
		return p.reason
	}
	return "would not load again: " + p.reason
}

// changedObject reports whether the object on disk is a good one and not the
// one that runs.
func (c *collection) changedObject() bool {
	return loads(c.proof.verdict) && c.proof.digest != c.record.ObjectDigest
}

// proofProblem is what the status shows of a running collection that would
// not load again.
func (d *Daemon) proofProblem(name string, c *collection) (api.Problem, bool) {
	warning := d.warning(c)
	if warning == "" {
		return api.Problem{}, false
	}
	hint := "put back what is missing (object, signature or key), or hornetctl unload " + name
	early, late := d.outside(c.validity())
	switch {
	case c.proof.verdict == unproven:
	case early:
		hint = "set the clock, or wait"
	case late:
		hint = "put a renewed certificate into the trust store (hornetctl trust add), sign with its key what the old one signed, and reload"
	case warning == rolledBackReason:
		hint = "put a newer version in its place, or hornetctl rollback " + name + " --to VERSION --reason TEXT"
	}
	return api.Problem{Kind: api.KindSignature, Collection: name, File: c.record.ObjectFile,
		Message: "runs, but " + warning, Hint: hint}, true
}
