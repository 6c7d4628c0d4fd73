package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// trustDir is hornetd's trust store unless its configuration says otherwise.
const trustDir = "/etc/hornet/trust.d"

func (c *ctl) verifyFile() *cobra.Command {
	var opts verifyOptions
	store := &trustStore{c: c}
	cmd := &cobra.Command{
		Use:   "verify-file FILE...",
		Short: "Check the signatures of objects and manifests",
		Long: `Check that each FILE is signed by a key of the trust store, as hornetd does
before it loads it, and say by whom, what of it, and when. A FILE.toml is a
manifest: it is checked together with the object it names. No daemon is needed.
What the revocation list of this host revokes is not good, nor is a manifest that
hornetd.toml wants signed, or signed by others; whether that is older
than what the host has loaded is not asked.

The exit status is that of the first file that is not good: 4 for a signature,
3 for a signer who does not count there, 1 for a file that cannot be read.`,
		Args: args("FILE..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.signature != "" && (len(args) > 1 || isManifest(args[0])) {
				return usage(cmd, "verify-file: --signature is for one object")
			}
			if err := store.openBoth(); err != nil {
				return err
			}
			opts.store = store
			trust, err := signing.LoadTrust(store.dir)
			if err != nil {
				return err
			}
			trust, note, err := store.withList(trust)
			if err != nil {
				return err
			}
			var all []verification
			var errs []error
			for _, file := range args {
				v, err := c.verify(file, trust, opts)
				if err != nil {
					errs = append(errs, err)
				}
				v.Note = note
				all = append(all, v)
			}
			if err := c.print(map[string]any{"files": all}, func() { c.verifiedList(all) }); err != nil {
				return err
			}
			return c.unverified(errs, len(args))
		},
	}
	cmd.Flags().StringVar(&opts.signature, "signature", "", "signature `file` (default FILE.p7s)")
	store.trustFlags(cmd)
	cmd.Flags().StringSliceVar(&opts.signers, "signer", nil, "accept only this `name` of the trust store; may be repeated")
	return cmd
}

type verifyOptions struct {
	signature string // file; "": the object's name and .p7s
	store     *trustStore
	signers   []string
}

// verification is what verify-file says of one file.
type verification struct {
	File      string         `json:"file"`
	OK        bool           `json:"ok"`
	Object    *api.File      `json:"object,omitempty"`    // absent where it is not good
	DropIns   []api.DropIn   `json:"drop_ins,omitempty"`  // of a manifest, the same
	Signature *api.Signature `json:"signature,omitempty"` // absent where no verdict was come to
	SignedAt  time.Time      `json:"signed_at,omitzero"`  // as the signer says; absent where they do not
	Trust     string         `json:"trust,omitempty"`     // file of the trust store that decided
	Problem   *api.Problem   `json:"problem,omitempty"`
	Note      string         `json:"note,omitempty"` // what was not checked
}

func isManifest(file string) bool { return filepath.Ext(file) == ".toml" }

// verify checks one file. The error of one that is not well signed is a
// *signing.Error.
func (c *ctl) verify(file string, trust *signing.Trust, opts verifyOptions) (verification, error) {
	out := verification{File: file}
	check := c.verifyObject
	if isManifest(file) {
		check = c.verifyManifest
	}
	object, verified, err := check(file, trust, opts)
	var refused *signing.Error
	switch {
	case errors.As(err, &refused):
		out.Signature = &api.Signature{Verdict: string(refused.Verdict), CheckedBy: "hornetctl", Signer: api.Signer{Name: refused.Signer, KeyID: refused.KeyID, Subject: refused.Subject}}
		out.Problem = new(problemOf(api.KindSignature, err))
	case errors.Is(err, policy.ErrDenied):
		out.Problem = new(problemOf(api.KindDenied, err))
	case err != nil:
		out.Problem = new(problemOf(api.KindInternal, err))
	}
	if err != nil {
		return out, err
	}
	digest := verified.Digest()
	out.OK, out.Object = true, &api.File{File: object, SHA256: hex.EncodeToString(digest[:])}
	out.DropIns = dropInsOf(verified)
	out.Signature, out.SignedAt = new(signatureOf(verified)), verified.SignedAt()
	out.Trust = filepath.Join(opts.store.dir, out.Signature.Signer.Name+".pem")
	return out, nil
}

func (c *ctl) verifyObject(file string, trust *signing.Trust, opts verifyOptions) (string, signing.Verified, error) {
	object, err := readFile(file, maxObject)
	if err != nil {
		return "", signing.Verified{}, err
	}
	if opts.signature == "" {
		opts.signature = file + ".p7s"
	}
	signature, err := readFile(opts.signature, maxSignature)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", signing.Verified{}, err
	}
	bundle := signing.Bundle{Object: object, ObjectFile: file, Signature: signature, SignatureFile: opts.signature}
	v, err := trust.Verify(bundle, opts.signers, c.now())
	return file, v, err
}

func (c *ctl) verifyManifest(file string, trust *signing.Trust, opts verifyOptions) (_ string, v signing.Verified, err error) {
	m, err := readManifest(file, opts.store.manifests)
	if err != nil {
		return "", v, err
	}
	object, err := safefile.Read(m.Object.Path, maxObject)
	if err != nil {
		return "", v, noObject(m, err)
	}
	bundle, err := opts.store.bundle(m, object)
	if err != nil {
		return "", v, err
	}
	v, err = trust.Verify(bundle, m.Object.Signers, c.now())
	if err == nil && len(opts.signers) > 0 { // of those whom the manifest wants
		v, err = trust.Verify(bundle, opts.signers, c.now())
	}
	if err != nil {
		return "", v, err
	}
	for _, signer := range signersOf(v) {
		if err := opts.store.bounds.Counts(signer, m); err != nil {
			return "", v, err
		}
	}
	return m.Object.Path, v, newEnough(trust, m, v)
}

// verifiedList prints a line for each good file.
func (c *ctl) verifiedList(all []verification) {
	note := ""
	for _, v := range all {
		if !v.OK {
			continue
		}
		note = v.Note // the same for all
		s, when := v.Signature, "at an unknown time"
		if !v.SignedAt.IsZero() {
			when = "at " + v.SignedAt.Local().Format("2006-01-02 15:04:05") + " by their own clock"
		}
		subject := ""
		if s.Signer.Subject != "" {
			subject = ", " + s.Signer.Subject
		}
		c.say("%s: %s: signed by %s (%s%s, %s) %s, %s, object SHA-256 %s", v.File, verified(*s), s.Signer.Name, s.Signer.Algorithm,
			subject, v.Trust, when, s.Format, v.Object.SHA256)
		for _, d := range v.DropIns {
			c.say("%s: drop-in %s, SHA-256 %s", v.File, dropInText(d), d.SHA256)
		}
	}
	if note != "" {
		c.say("note: %s", note)
	}
}

// unverified is the error of a run in which errs came up with n files.
func (c *ctl) unverified(errs []error, n int) error {
	switch {
	case len(errs) == 0:
		return nil
	case n == 1:
		return errs[0]
	}
	for _, err := range errs {
		c.complain(err)
	}
	kind := api.KindInternal
	if errors.As(errs[0], new(*signing.Error)) {
		kind = api.KindSignature
	}
	if errors.Is(errs[0], policy.ErrDenied) {
		kind = api.KindDenied
	}
	return &api.Error{Kind: kind, Message: fmt.Sprintf("verify-file: %d of %s not verified", len(errs), count(n, "file"))}
}

func signatureOf(v signing.Verified) api.Signature {
	s := v.Signer()
	return api.Signature{
		Verdict: string(signing.OK), Format: v.Format(), Covers: v.Covers(), CheckedBy: "hornetctl",
		Signer: api.Signer{Name: s.Name, Subject: s.Subject, KeyID: s.KeyID, Algorithm: s.Algorithm, NotAfter: s.NotAfter, Problem: s.Problem},
	}
}
