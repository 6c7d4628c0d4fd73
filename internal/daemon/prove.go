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
	return proof{verdict: string(signing.OK), digest: hexDigest(v.Digest())}
}

// prove verifies the object of a manifest again, from disk.
func (d *Daemon) prove(files *safefile.Reader, m manifest.Manifest) proof {
	v, err := d.verify(files, m)
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

// proveAll verifies again what runs and is declared unchanged. An object that
// changed makes a change of its own (decide).
func (d *Daemon) proveAll(found map[string]declared) {
	names := sortedKeys(d.running)
	proofs := make([]proof, len(names))
	var files safefile.Reader
	defer files.Close()
	each(len(names), func(i int) {
		if dc, ok := found[names[i]]; ok && dc.err == nil {
			proofs[i] = d.prove(&files, dc.manifest)
		} else {
			proofs[i] = proof{verdict: unproven, reason: "its manifest is gone"}
		}
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, name := range names {
		c := *d.running[name]
		c.proof = proofs[i]
		d.running[name] = &c
	}
}

// changedObject reports whether the object on disk is a good one and not the
// one that runs.
func (c *collection) changedObject() bool {
	return c.proof.verdict == string(signing.OK) && c.proof.digest != c.record.ObjectDigest
}

// proofProblem is what the status shows of a running collection that would
// not load again.
func proofProblem(name string, c *collection) (api.Problem, bool) {
	if c.proof.verdict == string(signing.OK) {
		return api.Problem{}, false
	}
	return api.Problem{Kind: api.KindSignature, Collection: name, File: c.record.ObjectFile,
		Message: "runs, but would not load again: " + c.proof.reason,
		Hint:    "put the signed object back, or hornetctl unload " + name}, true
}
