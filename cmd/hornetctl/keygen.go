package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) keygen() *cobra.Command {
	var out, algorithm string
	cmd := &cobra.Command{
		Use:   "keygen --out DIR NAME",
		Short: "Make a signing key and its certificate",
		Long: `Make a private key, DIR/NAME.key, and its certificate, DIR/NAME.pem. Neither
is ever overwritten. Hosts that shall run what the key signs get the
certificate; the key stays with whoever signs.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usage(cmd, "keygen: --out is missing")
			}
			made, err := keygen(out, args[0], algorithm)
			if err != nil {
				return err
			}
			return c.print(made, func() {
				c.say("%s: private key (%s), keep it secret", made.Key, made.Algorithm)
				c.say("%s: certificate, put it into %s on the hosts", made.Certificate, trustDir)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`directory` to write to")
	cmd.Flags().StringVar(&algorithm, "algorithm", "ecdsa", "ecdsa, rsa or ed25519; also ecdsa-p384, ecdsa-p521, rsa-2048, rsa-4096")
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

func keygen(dir, name, algorithm string) (keyFiles, error) {
	key, cert, err := signing.Keygen(name, algorithm)
	if err != nil {
		return keyFiles{}, usageOf(err)
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
	if err := writeNew(made.Certificate, cert, 0o644); err != nil {
		return keyFiles{}, errors.Join(err, os.Remove(made.Key)) // a key without its certificate is of no use
	}
	return made, nil
}

// usageOf makes err the fault of the command line, keeping its remedy.
func usageOf(err error) error { return usageError{err} }
