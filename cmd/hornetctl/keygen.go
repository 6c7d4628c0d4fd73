package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) keygen() *cobra.Command {
	var opts keygenOptions
	cmd := &cobra.Command{
		Use:   "keygen --out DIR NAME",
		Short: "Make a signing key and its certificate",
		Long: `Make a private key, DIR/NAME.key, and its certificate, DIR/NAME.pem. Neither
is ever overwritten. Hosts that shall run what the key signs get the
certificate; the key stays with whoever signs.

With --ca the certificate is one of a CA, whose key issues certificates: with
--issuer and --issuer-key. What their keys sign counts where the CA's certificate
is in the trust store, under its name; sign puts the certificate into each
signature. DIR/NAME.pem then holds the issuer's too, unless that is self-signed.

With --encrypt the key is encrypted with a passphrase, which comes from
--passphrase-file or is asked for twice.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.out == "" {
				return usage(cmd, "keygen: --out is missing")
			}
			if (opts.issuer == "") != (opts.issuerKey == "") {
				return usage(cmd, "keygen: --issuer and --issuer-key go together")
			}
			if opts.passphraseFile != "" && !opts.encrypt {
				return usage(cmd, "keygen: --passphrase-file is for --encrypt; the issuer's key has --issuer-passphrase-file")
			}
			made, err := c.makeKey(cmd.Context(), args[0], opts)
			if err != nil {
				return err
			}
			return c.print(made, func() {
				c.say("%s: private key (%s), keep it secret", made.Key, made.Algorithm)
				if opts.issuer != "" {
					c.say("%s: certificate; on the hosts its CA's is in %s", made.Certificate, trustDir)
					return
				}
				c.say("%s: certificate, put it into %s on the hosts", made.Certificate, trustDir)
			})
		},
	}
	cmd.Flags().StringVar(&opts.out, "out", "", "`directory` to write to")
	cmd.Flags().BoolVar(&opts.ca, "ca", false, "for issuing certificates, not for signing")
	cmd.Flags().StringVar(&opts.issuer, "issuer", "", "certificate of the CA that issues, a PEM `file`")
	cmd.Flags().StringVar(&opts.issuerKey, "issuer-key", "", "its private key, a PEM `file`")
	cmd.Flags().StringVar(&opts.issuerPassphraseFile, "issuer-passphrase-file", "", "`file` whose first line decrypts the issuer's key")
	cmd.Flags().BoolVar(&opts.encrypt, "encrypt", false, "encrypt the key with a passphrase")
	cmd.Flags().StringVar(&opts.passphraseFile, "passphrase-file", "", "`file` whose first line encrypts the key")
	cmd.Flags().StringVar(&opts.algorithm, "algorithm", "ecdsa", "ecdsa, rsa or ed25519; also ecdsa-p384, ecdsa-p521, rsa-2048, rsa-4096")
	cmd.MarkFlagDirname("out")
	cmd.RegisterFlagCompletionFunc("algorithm", fixed("ecdsa", "rsa", "ed25519"))
	return cmd
}

// keyFiles is what keygen made.
type keyFiles struct {
	Name        string `json:"name"`
	Key         string `json:"key"`
	Certificate string `json:"certificate"`
	Algorithm   string `json:"algorithm"`
	KeyID       string `json:"key_id"`
}

type keygenOptions struct {
	out, algorithm string
	ca             bool

	issuer, issuerKey, issuerPassphraseFile string

	encrypt        bool
	passphraseFile string
}

func (c *ctl) makeKey(ctx context.Context, name string, opts keygenOptions) (keyFiles, error) {
	dir := opts.out
	issuer, above, err := c.issuer(ctx, opts)
	if err != nil {
		return keyFiles{}, err
	}
	key, cert, err := signing.Issue(name, opts.algorithm, opts.ca, issuer)
	if err != nil {
		return keyFiles{}, usageOf(err)
	}
	if opts.encrypt {
		secret, err := c.newPassphrase(ctx, opts.passphraseFile, name+".key")
		if err != nil {
			return keyFiles{}, err
		}
		if key, err = signing.EncryptKey(key, secret); err != nil {
			return keyFiles{}, err
		}
	}
	trust, err := signing.ParseTrust(map[string][]byte{name + ".pem": cert})
	if err != nil {
		return keyFiles{}, fmt.Errorf("certificate just made: %w", err)
	}
	signer := trust.Signers()[0]
	made := keyFiles{
		Name: name, Key: filepath.Join(dir, name+".key"), Certificate: filepath.Join(dir, name+".pem"),
		Algorithm: signer.Algorithm, KeyID: signer.KeyID,
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return keyFiles{}, remedy.With(bare(err), "make it first: mkdir -m 700 %s", dir)
	}
	if err := writeNew(made.Key, key, 0o600); err != nil {
		return keyFiles{}, err
	}
	if err := writeNew(made.Certificate, append(cert, above...), 0o644); err != nil {
		return keyFiles{}, errors.Join(err, os.Remove(made.Key)) // a key without its certificate is of no use
	}
	return made, nil
}

// issuer opens the CA that issues, if there is one. above is what goes below a
// certificate by it: its own and those of the CAs above it, in PEM, down from one
// that is self-signed.
func (c *ctl) issuer(ctx context.Context, opts keygenOptions) (issuer *signing.Issuer, above []byte, err error) {
	if opts.issuer == "" {
		return nil, nil, nil
	}
	b, err := readFile(opts.issuer, maxKey)
	if err != nil {
		return nil, nil, err
	}
	cert, more, err := signing.ParseCertificates(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", opts.issuer, err)
	}
	for _, ca := range append([]*x509.Certificate{cert}, more...) {
		if !signing.SelfSigned(ca) {
			above = append(above, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})...)
		}
	}
	key, err := c.keyFile(ctx, opts.issuerKey, opts.issuerPassphraseFile)
	return &signing.Issuer{Cert: cert, Key: key}, above, err
}

// usageOf makes err the fault of the command line, keeping its remedy.
func usageOf(err error) error { return usageError{err} }
