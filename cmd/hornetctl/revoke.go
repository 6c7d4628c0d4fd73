package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/signing"
)

func (s *trustStore) revokeCommand() *cobra.Command {
	var opts signOptions
	var reason string
	var serial uint64
	var force bool
	cmd := &cobra.Command{
		Use:   "revoke (--key KEY | --sign-command COMMAND) --cert CERT WHAT VALUE",
		Short: "Add to the revocation list and sign it",
		Long: `Add to the revocation list and sign it with a key that [trust] roots of
hornetd.toml names. The list is made where there is none. WHAT VALUE is one of

  key ID                a key, by the identifier that trust list shows
  certificate FILE      one certificate; or the SHA-256 of its DER
  object FILE           one object, whoever signed it; or its SHA-256
  manifest NAME=VERSION the oldest version of a manifest that may load

The list that is there must be signed by the same key, or by a root of the trust
store. Comments in it are lost. A list that this host would not accept is not
written without --force: at its next start nothing would load.`,
		Args: args("WHAT", "VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case opts.certFile == "":
				return usage(cmd, "revoke: --cert is missing")
			case (opts.keyFile == "") == (opts.command == ""):
				return usage(cmd, "revoke: --key or --sign-command is missing, or both are there")
			}
			if err := s.open(); err != nil {
				return err
			}
			root, err := s.c.openSigner(cmd.Context(), opts)
			if err != nil {
				return err
			}
			list, err := s.revocations(root)
			if err != nil {
				return err
			}
			if err := revoke(list, args[0], args[1], reason); err != nil {
				return usageOf(err)
			}
			list.Serial = max(list.Serial+1, serial)
			if err := s.write(list, root, force); err != nil {
				return err
			}
			return s.c.print(map[string]any{"file": s.list, "serial": list.Serial}, func() {
				s.c.say("%s: serial %d: hornetctl reload", s.list, list.Serial)
			})
		},
	}
	cmd.Flags().StringVar(&opts.keyFile, "key", "", "private key of a root, a PEM `file`")
	cmd.Flags().StringVar(&opts.certFile, "cert", "", "the key's certificate, a PEM or DER `file`")
	cmd.Flags().StringVar(&opts.passphraseFile, "passphrase-file", "", "`file` whose first line decrypts the key")
	cmd.Flags().StringVar(&opts.command, "sign-command", "", "shell `command` that signs, as for sign")
	cmd.Flags().StringVar(&reason, "reason", "", "why, a `text` that refusals show")
	cmd.Flags().BoolVar(&force, "force", false, "write it for other hosts, though this one would not accept it")
	cmd.Flags().Uint64Var(&serial, "serial", 0, "at least this `number`, where a host has seen a newer list than is there")
	return cmd
}

// revocations returns the list that is there, or an empty one. What nobody of
// ours signed is not signed again.
func (s *trustStore) revocations(root *signer) (*signing.Revocations, error) {
	b, err := readFile(s.list, signing.MaxRevocations)
	if errors.Is(err, fs.ErrNotExist) {
		return new(signing.Revocations), nil
	}
	if err != nil {
		return nil, err
	}
	list, err := root.trust.VerifyRevocations(s.list, b, []string{"signer"})
	if err == nil {
		return list, nil
	}
	store, err := signing.LoadTrust(s.dir)
	if err != nil {
		return nil, err
	}
	return store.VerifyRevocations(s.list, b, s.roots)
}

// write signs the list as a host will read it, and puts it in place. One that
// this host does not accept needs force.
func (s *trustStore) write(list *signing.Revocations, root *signer, force bool) error {
	b, err := signing.SignRevocations(list.TOML(), root.key, root.cert)
	if err != nil {
		return err
	}
	if _, err := root.trust.VerifyRevocations(s.list, b, []string{"signer"}); err != nil {
		return err
	}
	if !force {
		store, err := signing.LoadTrust(s.dir)
		if err == nil {
			_, err = store.VerifyRevocations(s.list, b, s.roots)
		}
		if err != nil {
			return remedy.With(fmt.Errorf("nothing written, with this list nothing would load at this host's next start: %w", err),
				"sign it with a key of a root that is in %s and in [trust] roots of %s; where the list is for other hosts: --force", s.dir, s.config)
		}
	}
	return replace(s.list, b, 0o644)
}

// keepsList refuses to make b, nil to remove it, of a file of the trust store
// where the revocation list that is there would not be accepted any more.
func (s *trustStore) keepsList(file string, b []byte) error {
	list, err := readFile(s.list, signing.MaxRevocations)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return bare(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".pem" {
			continue
		}
		if files[e.Name()], err = readFile(filepath.Join(s.dir, e.Name()), maxKey); err != nil {
			return err
		}
	}
	if files[file] = b; b == nil {
		delete(files, file)
	}
	left, err := signing.ParseTrust(files)
	if err == nil {
		_, err = left.VerifyRevocations(s.list, list, s.roots)
	}
	if err != nil {
		return remedy.With(fmt.Errorf("nothing removed, without it nothing would load at this host's next start: %w", err),
			"have a root that stays sign the list first (hornetctl trust revoke), or remove it all the same: --force")
	}
	return nil
}

var isSHA256 = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)

// revoke adds one entry.
func revoke(list *signing.Revocations, what, value, reason string) error {
	switch what {
	case "key":
		list.Keys = append(list.Keys, signing.RevokedKey{ID: strings.ToLower(strings.ReplaceAll(value, ":", "")), Reason: reason})
	case "certificate":
		sum, err := digestOf(value, maxKey, func(b []byte) ([]byte, error) {
			cert, err := signing.ParseCertificate(b)
			if err != nil {
				return nil, err
			}
			return cert.Raw, nil
		})
		if err != nil {
			return err
		}
		list.Certificates = append(list.Certificates, signing.RevokedCertificate{SHA256: sum, Reason: reason})
	case "object":
		sum, err := digestOf(value, maxObject, signing.Contents) // what the daemon compares
		if err != nil {
			return err
		}
		list.Objects = append(list.Objects, signing.RevokedObject{SHA256: sum, Reason: reason})
	case "manifest":
		name, version, _ := strings.Cut(value, "=")
		n, err := strconv.ParseUint(version, 10, 63)
		if err != nil {
			return remedy.With(fmt.Errorf("manifest %.80q: not NAME=VERSION", value), "write xdp-drop=4 for version 4 and newer")
		}
		list.Manifests = append(list.Manifests, signing.MinimumVersion{Name: name, Version: n, Reason: reason})
	default:
		return remedy.With(fmt.Errorf("cannot revoke a %.40q", what), "write key, certificate, object or manifest")
	}
	return nil
}

// digestOf returns the SHA-256 that value is, or that of what part takes from
// the file it names.
func digestOf(value string, max int, part func([]byte) ([]byte, error)) (string, error) {
	if isSHA256.MatchString(value) {
		return strings.ToLower(value), nil
	}
	b, err := readFile(value, max)
	if err != nil {
		return "", err
	}
	if b, err = part(b); err != nil {
		return "", fmt.Errorf("%s: %w", value, err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}
