package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) check() *cobra.Command {
	store := &trustStore{c: c}
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Check manifests, and the objects and signatures they name",
		Long: `Check each manifest as hornetd will before it loads it: the manifest itself,
the object it names and its signature, whether the two fit, and whether
hornetd.toml lets who signed have it. Nothing is
loaded and no daemon is needed. Interfaces, cgroups and other targets are not
looked for: they are another host's. Where there is no trust store, the
signature is not checked, and without a revocation list, what is revoked.

Problems are printed as FILE:LINE: KEY: REASON. The exit status is 1, or 4 if
the first one is a signature.`,
		Args: args("FILE..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := c.newChecker(store)
			if err != nil {
				return err
			}
			var all []checked
			for _, file := range args {
				all = append(all, k.check(file))
			}
			if err := c.print(map[string]any{"manifests": all}, func() { c.checkedList(all) }); err != nil {
				return err
			}
			return verdict(all)
		},
	}
	store.trustFlags(cmd)
	return cmd
}

// checked is what check says of one manifest.
type checked struct {
	File      string                `json:"file"`
	Name      string                `json:"name,omitempty"`
	OK        bool                  `json:"ok"`
	DropIns   []api.DropIn          `json:"drop_ins,omitempty"`
	Object    *api.File             `json:"object,omitempty"`
	Signature *api.Signature        `json:"signature,omitempty"` // absent where it was not checked, or is not good
	Programs  api.List[string]      `json:"programs"`
	Frozen    api.List[string]      `json:"frozen"`  // maps
	Mutable   api.List[string]      `json:"mutable"` // maps
	Problems  api.List[api.Problem] `json:"problems"`
	Note      string                `json:"note,omitempty"` // what was not checked
}

// checker checks manifests against one trust store.
type checker struct {
	c     *ctl
	trust *signing.Trust // nil: there is none
	note  string         // why
	self  *signer        // see assume
	store *trustStore
}

// newChecker opens the trust store and the revocation list. One that was asked
// for must be there.
func (c *ctl) newChecker(store *trustStore) (*checker, error) {
	asked := store.dir != "" || store.list != ""
	if err := store.openBoth(); err != nil {
		return nil, err
	}
	self, err := throwaway()
	if err != nil {
		return nil, fmt.Errorf("key for checking: %w", err)
	}
	k := &checker{c: c, self: self, store: store}
	_, err = os.Stat(store.dir)
	if err == nil {
		k.trust, err = signing.LoadTrust(store.dir)
	}
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
	switch {
	case missing && !asked:
		k.note = fmt.Sprintf("signature not checked: trust store: %v", bare(err))
	case err != nil:
		return nil, fmt.Errorf("trust store: %w", bare(err))
	default:
		if k.trust, k.note, err = store.withList(k.trust); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// check checks one manifest as far as it goes.
func (k *checker) check(file string) checked {
	out := checked{File: file, Note: k.note}
	m, err := readManifest(file, k.store.manifests)
	if err != nil {
		return out.with(problemOf(api.KindManifest, err))
	}
	out.Name = m.Name
	object, err := safefile.Read(m.Object.Path, maxObject)
	if err != nil {
		return out.with(problemOf(api.KindObject, noObject(m, err)))
	}
	var signers []string // who must have the right to it
	verified, err := k.verify(m, object)
	if err != nil {
		// Whoever writes a manifest signs last, and wants to know the rest now.
		out = out.with(problemOf(api.KindSignature, err))
		if verified, err = k.self.assume(signing.Bundle{Object: object, ObjectFile: m.Object.Path}); err != nil {
			return out.with(problemOf(api.KindObject, err))
		}
	} else if k.trust != nil {
		out.Signature = new(signatureOf(verified))
		signers = signersOf(verified)
	}
	out.DropIns = dropInsOf(verified)
	digest := verified.Digest()
	out.Object = &api.File{File: m.Object.Path, SHA256: hex.EncodeToString(digest[:])}
	spec, err := loader.OpenSpec(verified)
	if err != nil {
		return out.with(problemOf(api.KindObject, m.Errorf("object.path", "%s: %w", m.Object.Path, err)))
	}
	plan, err := loader.NewPlan(spec, m)
	if err != nil {
		return out.with(problemOf(api.KindManifest, err))
	}
	for _, signer := range signers {
		if err := k.store.bounds.Permit(signer, m, plan.Spec()); err != nil {
			out = out.with(problemOf(kindOf(err), err))
			break
		}
	}
	out.describe(plan)
	out.OK = len(out.Problems) == 0
	return out
}

func (x checked) with(p api.Problem) checked {
	if abs, err := filepath.Abs(x.File); p.File == "" || err == nil && p.File == abs {
		p.File = x.File // as it was given
	}
	x.Problems = append(x.Problems, p)
	return x
}

// describe says what the manifest makes of its object.
func (x *checked) describe(plan *loader.Plan) {
	spec := plan.Spec()
	x.Programs = slices.Sorted(maps.Keys(spec.Programs))
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if plan.MapClass(name) == manifest.ClassFrozen {
			x.Frozen = append(x.Frozen, name)
		} else {
			x.Mutable = append(x.Mutable, name)
		}
	}
}

func noObject(m manifest.Manifest, err error) error {
	missing := errors.Is(err, fs.ErrNotExist)
	err = m.Errorf("object.path", "object: %w", bare(err))
	if missing {
		return remedy.With(err, "put the object there, or correct the path, which is taken beside the manifest")
	}
	return err
}

// verify checks the object's signature, or, without a trust store, only what
// the manifest says of the object's digest.
func (k *checker) verify(m manifest.Manifest, object []byte) (signing.Verified, error) {
	bundle, err := k.store.bundle(m, object)
	if err != nil {
		return signing.Verified{}, err
	}
	if k.trust == nil {
		return k.self.assume(signing.Bundle{Object: object, ObjectFile: m.Object.Path, SHA256: m.Object.SHA256})
	}
	v, err := k.trust.Verify(bundle, m.Object.Signers, k.c.now())
	if err != nil {
		return v, err
	}
	return v, newEnough(k.trust, m, v)
}

// bundle reads the signature that decides about a manifest and its object.
func (s *trustStore) bundle(m manifest.Manifest, object []byte) (b signing.Bundle, err error) {
	b = signing.Bundle{
		Object: object, ObjectFile: m.Object.Path, SHA256: m.Object.SHA256, SignatureFile: m.Object.Signature,
		Manifest: []byte(m.Source()), ManifestFile: m.File, Unnamed: m.CheckSigned(),
		SignedManifest: slices.Contains(s.signed, filepath.Dir(m.File)),
	}
	b.ManifestSignature, err = readSignature(m, m.Signature())
	if err == nil && b.ManifestSignature == nil {
		b.Signature, err = readSignature(m, m.Object.Signature)
	}
	for _, d := range m.DropIns {
		one := signing.DropIn{File: d.File, Text: []byte(d.Source()), Widens: d.Widens, Alters: d.Alters}
		if err == nil {
			one.Signature, err = readSignature(m, d.Signature())
		}
		b.DropIns = append(b.DropIns, one)
	}
	return b, err
}

// signersOf are the names of those who signed a part of what v proves: whose
// bounds hold.
func signersOf(v signing.Verified) (names []string) {
	for _, d := range v.DropIns() {
		if d.Signer.Name != "" {
			names = append(names, d.Signer.Name)
		}
	}
	return append(names, v.Signer().Name)
}

// kindOf is the kind of an error of the policy.
func kindOf(err error) api.Kind {
	if errors.Is(err, policy.ErrLimit) {
		return api.KindLimit
	}
	return api.KindDenied
}

// readSignature reads a signature for a manifest: nil where there is none.
func readSignature(m manifest.Manifest, file string) ([]byte, error) {
	b, err := safefile.Read(file, maxSignature)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, m.Errorf("object", "signature: %w", err)
	}
	return b, nil
}

// throwaway makes a signer that nobody trusts but this process.
func throwaway() (*signer, error) {
	keyPEM, certPEM, err := signing.Keygen("check", "ed25519")
	if err != nil {
		return nil, err
	}
	key, err := signing.ParseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	cert, err := signing.ParseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	trust, err := trustOnly(cert)
	return &signer{key: key, cert: cert, trust: trust}, err
}

// assume signs the object itself, so that it can be opened. Nothing is loaded
// here: to look at an object before it is signed is what check is for.
func (s *signer) assume(b signing.Bundle) (_ signing.Verified, err error) {
	if b.Object, err = signing.Contents(b.Object); err != nil {
		return signing.Verified{}, fmt.Errorf("%s: %w", b.ObjectFile, err)
	}
	if b.Signature, err = signing.Sign(b.Object, s.key, s.cert); err != nil {
		return signing.Verified{}, err
	}
	return s.trust.Verify(b, nil, time.Now())
}

func problemOf(kind api.Kind, err error) api.Problem {
	p := api.Problem{Kind: kind, Message: err.Error(), Hint: remedy.Of(err)}
	var e *manifest.Error
	if errors.As(err, &e) {
		p.File, p.Line, p.Key, p.Message = e.File, e.Line, e.Key, e.Err.Error()
	}
	return p
}

// checkedList prints a line for each good manifest and the problems of the
// others.
func (c *ctl) checkedList(all []checked) {
	for _, x := range all {
		c.problemList(x.Problems)
		if !x.OK {
			continue
		}
		text := fmt.Sprintf("%s: ok: %s, %s (%d frozen)", x.File, count(len(x.Programs), "program"),
			count(len(x.Frozen)+len(x.Mutable), "map"), len(x.Frozen))
		if len(x.DropIns) > 0 {
			text += ", with " + count(len(x.DropIns), "drop-in")
		}
		if x.Signature != nil {
			text += fmt.Sprintf(", signed by %s: %s", x.Signature.Signer.Name, verified(*x.Signature))
		}
		c.say("%s", text)
	}
	if len(all) > 0 && all[0].Note != "" { // the same for all
		c.say("note: %s", all[0].Note)
	}
}

// verdict is the error of a check that found problems.
func verdict(all []checked) error {
	n, files := 0, 0
	var kind api.Kind
	for _, x := range all {
		if !x.OK {
			files++
		}
		for _, p := range x.Problems {
			if n++; n == 1 {
				kind = p.Kind
			}
		}
	}
	if n == 0 {
		return nil
	}
	return api.Errorf(kind, "check: %s in %d of %s", count(n, "problem"), files, count(len(all), "manifest"))
}
