package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) sign() *cobra.Command {
	var opts signOptions
	cmd := &cobra.Command{
		Use:   "sign (--key KEY | --sign-command COMMAND) --cert CERT FILE...",
		Short: "Sign objects and manifests",
		Long: `Write the signature of each FILE to FILE.p7s: detached CMS over the file's
bytes, as openssl cms and the kernel make and take it. With --append write it
to the end of FILE itself, as the kernel's modules have it. A signature that
this key did not make is not overwritten, and no file gets a second one.

A FILE.toml is a manifest: what it says and the object it names are signed in
one. Its object.sha256 is filled in, or compared where it is there. In a directory
NAME.toml.d it is a drop-in of one.

The key is in a PEM file; the passphrase of one that is encrypted comes from
--passphrase-file or is asked for. Or a command signs, with a token or a key
service: a shell runs it, the SHA-256 to be signed (with an Ed25519 key all that
is to be signed) on its standard input, and it writes the raw signature, PKCS #1
v1.5 with an RSA key, ASN.1 with an EC key: pkeyutl of openssl does with
-pkeyopt digest:sha256.`,
		Args: args("FILE..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case opts.certFile == "":
				return usage(cmd, "sign: --cert is missing")
			case opts.keyFile == "" && opts.command == "":
				return usage(cmd, "sign: --key is missing")
			case opts.keyFile != "" && opts.command != "":
				return usage(cmd, "sign: --key and --sign-command: one of them signs")
			}
			s, err := c.openSigner(cmd.Context(), opts)
			if err != nil {
				return err
			}
			var done []signatureFile
			for _, file := range args {
				sign := s.sign
				switch {
				case isManifest(file) && opts.atEnd:
					return usage(cmd, "sign: %s: a manifest's signature is a file of its own, without --append", file)
				case isDropIn(file):
					sign = s.signDropIn
				case isManifest(file):
					sign = s.signManifest
				case opts.atEnd:
					sign = s.append
				}
				f, err := sign(file)
				if err != nil {
					return err
				}
				done = append(done, f)
				if c.output == formatTable {
					c.say("%s: signature of %s", f.Signature, f.File)
				}
			}
			return c.print(map[string]any{"signatures": done}, func() {})
		},
	}
	cmd.Flags().StringVar(&opts.keyFile, "key", "", "private key, a PEM `file`")
	cmd.Flags().StringVar(&opts.passphraseFile, "passphrase-file", "", "`file` whose first line decrypts the key")
	cmd.Flags().StringVar(&opts.command, "sign-command", "", "shell `command` that signs")
	cmd.Flags().BoolVar(&opts.atEnd, "append", false, "write the signature to the end of FILE")
	cmd.Flags().StringVar(&opts.certFile, "cert", "", "the key's certificate, a PEM or DER `file`")
	return cmd
}

type signOptions struct {
	keyFile, passphraseFile string
	command                 string // instead of keyFile
	certFile                string
	atEnd                   bool
}

// signatureFile is what sign made.
type signatureFile struct {
	File      string `json:"file"`
	Signature string `json:"signature"`
}

type signer struct {
	key   crypto.Signer
	cert  *x509.Certificate
	more  []*x509.Certificate // of the CAs above it
	trust *signing.Trust      // in nobody but this signer
}

func (c *ctl) openSigner(ctx context.Context, opts signOptions) (*signer, error) {
	b, err := readFile(opts.certFile, maxKey)
	if err != nil {
		return nil, err
	}
	cert, more, err := signing.ParseCertificates(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", opts.certFile, err)
	}
	trust, err := trustOnly(cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", opts.certFile, err)
	}
	key, err := opts.key(ctx, c, cert)
	if err != nil {
		return nil, err
	}
	return &signer{key, cert, more, trust}, nil
}

// sign writes the signature of file, after a look at what it replaces.
func (s *signer) sign(file string) (signatureFile, error) {
	object, err := readFile(file, maxObject)
	if err != nil {
		return signatureFile{}, err
	}
	if contents, err := signing.Contents(object); err != nil || len(contents) != len(object) {
		return signatureFile{}, remedy.With(fmt.Errorf("%s: it has a signature at its end", file),
			"replace that one with --append, or sign the object as the compiler made it")
	}
	return s.beside(file, object)
}

// beside writes the signature of a file with these contents to a file beside it.
func (s *signer) beside(file string, object []byte) (signatureFile, error) {
	signature, err := signing.Sign(object, s.key, s.cert, s.more...)
	if err != nil {
		return signatureFile{}, fmt.Errorf("%s: %w", file, err)
	}
	out := signatureFile{File: file, Signature: file + ".p7s"}
	if err := s.mayReplace(out, object); err != nil {
		return signatureFile{}, err
	}
	return out, replace(out.Signature, signature, 0o644)
}

// append writes the signature of file to its end, in the place of an earlier
// one by the same key.
func (s *signer) append(file string) (signatureFile, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return signatureFile{}, bare(err)
	}
	if !info.Mode().IsRegular() {
		return signatureFile{}, remedy.With(fmt.Errorf("%s: it is not a regular file", file), "name the file itself: its contents are replaced")
	}
	if _, err := os.Lstat(file + ".p7s"); err == nil {
		return signatureFile{}, remedy.With(fmt.Errorf("%s: it has a signature already, %s.p7s", file, file), "remove that one first: no file may have two")
	}
	old, err := readFile(file, maxObject)
	if err != nil {
		return signatureFile{}, err
	}
	contents, err := signing.Contents(old)
	if err != nil {
		return signatureFile{}, fmt.Errorf("%s: %w", file, err)
	}
	signature, err := signing.Sign(contents, s.key, s.cert, s.more...)
	if err != nil {
		return signatureFile{}, fmt.Errorf("%s: %w", file, err)
	}
	if len(contents) < len(old) && !s.made(signing.Bundle{Object: old}) {
		return signatureFile{}, notOurs("the signature at the end of " + file)
	}
	signed := signing.Append(contents, signature)
	if len(signed) > maxObject {
		return signatureFile{}, fmt.Errorf("%s: with its signature longer than %s", file, bytesText(maxObject))
	}
	return signatureFile{File: file, Signature: file}, replace(file, signed, info.Mode().Perm())
}

// mayReplace refuses to write over anything but an earlier signature of the
// same key, be it of other contents.
func (s *signer) mayReplace(out signatureFile, object []byte) error {
	old, err := readFile(out.Signature, maxSignature)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !s.made(signing.Bundle{Object: object, Signature: old}) {
		return notOurs(out.Signature)
	}
	return nil
}

// made reports whether the signature in b names this key.
func (s *signer) made(b signing.Bundle) bool {
	_, err := s.trust.Verify(b, nil, time.Now())
	var refused *signing.Error
	return !errors.As(err, &refused) || refused.Signer != ""
}

func notOurs(file string) error {
	return remedy.With(fmt.Errorf("%s: it is not a signature by this key, and is not overwritten", file),
		"move it away first if it is of no use any more")
}

// trustOnly is a trust store that holds just cert.
func trustOnly(cert *x509.Certificate) (*signing.Trust, error) {
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	return signing.ParseTrust(map[string][]byte{"signer.pem": b})
}
