package main

import (
	"encoding/hex"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/signing"
)

// trustDir is hornetd's trust store unless its configuration says otherwise.
const trustDir = "/etc/hornet/trust.d"

func (c *ctl) verifyFile() *cobra.Command {
	var opts verifyOptions
	cmd := &cobra.Command{
		Use:   "verify-file FILE",
		Short: "Check the signature of an object",
		Long: `Check that FILE is signed by a key of the trust store, as hornetd does before
it loads it. The exit status is 4 if it is not.`,
		Args: args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := c.verify(args[0], opts)
			if err != nil {
				return err
			}
			return c.print(v, func() {
				c.say("%s: signed by %s (%s), SHA-256 %s", v.File, v.Signature.Signer.Name, v.Signature.Signer.Algorithm, v.SHA256)
			})
		},
	}
	cmd.Flags().StringVar(&opts.signature, "signature", "", "signature `file` (default FILE.p7s)")
	cmd.Flags().StringVar(&opts.trust, "trust", trustDir, "`directory` with the certificates that count")
	cmd.Flags().StringSliceVar(&opts.signers, "signer", nil, "accept only this `name` of the trust store; may be repeated")
	cmd.MarkFlagDirname("trust")
	return cmd
}

type verifyOptions struct {
	signature string // file; "": the object's name and .p7s
	trust     string // directory
	signers   []string
}

// verification is what verify-file says of a good signature.
type verification struct {
	File      string        `json:"file"`
	SHA256    string        `json:"sha256"`
	Signature api.Signature `json:"signature"`
}

// verify checks one file. The error of one that is not well signed is a
// *signing.Error.
func (c *ctl) verify(file string, opts verifyOptions) (verification, error) {
	trust, err := signing.LoadTrust(opts.trust)
	if err != nil {
		return verification{}, err
	}
	object, err := readFile(file, maxObject)
	if err != nil {
		return verification{}, err
	}
	if opts.signature == "" {
		opts.signature = file + ".p7s"
	}
	signature, err := readFile(opts.signature, maxSignature)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return verification{}, err
	}
	bundle := signing.Bundle{Object: object, ObjectFile: file, Signature: signature, SignatureFile: opts.signature}
	verified, err := trust.Verify(bundle, opts.signers, c.now())
	if err != nil {
		return verification{}, err
	}
	digest := verified.Digest()
	return verification{File: file, SHA256: hex.EncodeToString(digest[:]), Signature: signatureOf(verified)}, nil
}

func signatureOf(v signing.Verified) api.Signature {
	s := v.Signer()
	return api.Signature{
		Verdict: string(signing.OK), Format: v.Format(), Covers: v.Covers(), CheckedBy: "hornetctl",
		Signer: api.Signer{Name: s.Name, Subject: s.Subject, KeyID: s.KeyID, Algorithm: s.Algorithm, NotAfter: s.NotAfter, Problem: s.Problem},
	}
}
