package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) sign() *cobra.Command {
	var keyFile, certFile string
	cmd := &cobra.Command{
		Use:   "sign --key KEY --cert CERT FILE...",
		Short: "Sign objects",
		Long: `Write the signature of each FILE to FILE.p7s: detached CMS over the file's
bytes, as openssl cms and the kernel make and take it. A FILE.p7s that this key
did not make is not overwritten.`,
		Args: args("FILE..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			for flag, value := range map[string]string{"--key": keyFile, "--cert": certFile} {
				if value == "" {
					return usage(cmd, "sign: %s is missing", flag)
				}
			}
			s, err := openSigner(keyFile, certFile)
			if err != nil {
				return err
			}
			var done []signatureFile
			for _, file := range args {
				f, err := s.sign(file)
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
	cmd.Flags().StringVar(&keyFile, "key", "", "private key, a PEM `file`")
	cmd.Flags().StringVar(&certFile, "cert", "", "the key's certificate, a PEM or DER `file`")
	return cmd
}

// signatureFile is what sign made.
type signatureFile struct {
	File      string `json:"file"`
	Signature string `json:"signature"`
}

type signer struct {
	key   crypto.Signer
	cert  *x509.Certificate
	trust *signing.Trust // in nobody but this signer
}

func openSigner(keyFile, certFile string) (*signer, error) {
	b, err := readFile(keyFile, maxKey)
	if err != nil {
		return nil, err
	}
	key, err := signing.ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	b, err = readFile(certFile, maxKey)
	if err != nil {
		return nil, err
	}
	cert, err := signing.ParseCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	trust, err := trustOnly(cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	return &signer{key, cert, trust}, nil
}

// sign writes the signature of file, after a look at what it replaces.
func (s *signer) sign(file string) (signatureFile, error) {
	object, err := readFile(file, maxObject)
	if err != nil {
		return signatureFile{}, err
	}
	signature, err := signing.Sign(object, s.key, s.cert)
	if err != nil {
		return signatureFile{}, fmt.Errorf("%s: %w", file, err)
	}
	out := signatureFile{File: file, Signature: file + ".p7s"}
	if err := s.mayReplace(out, object); err != nil {
		return signatureFile{}, err
	}
	return out, replace(out.Signature, signature, 0o644)
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
	_, err = s.trust.Verify(signing.Bundle{Object: object, ObjectFile: out.File, Signature: old, SignatureFile: out.Signature}, nil, time.Now())
	var refused *signing.Error
	if errors.As(err, &refused) && refused.Signer == "" {
		return remedy.With(fmt.Errorf("%s: it is not a signature by this key, and is not overwritten", out.Signature),
			"move it away first if it is of no use any more")
	}
	return nil
}

// trustOnly is a trust store that holds just cert.
func trustOnly(cert *x509.Certificate) (*signing.Trust, error) {
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	return signing.ParseTrust(map[string][]byte{"signer.pem": b})
}
