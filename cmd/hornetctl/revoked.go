package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// trustFlags add the flags by which verify-file and check find the trust store
// and the revocation list: those of the host, or others.
func (s *trustStore) trustFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.config, "config", configFile, "hornetd's configuration, a `file`; the default one may be absent")
	cmd.Flags().StringVar(&s.dir, "trust", "", "`directory` with the certificates that count (default as the configuration says)")
	cmd.Flags().StringVar(&s.list, "revoked", "", "revocation list, a `file` (default as the configuration says; with --trust: none)")
	cmd.MarkFlagDirname("trust")
}

// openBoth is open, and takes the host's list for the host's store only: those
// who sign it need not be in another.
func (s *trustStore) openBoth() error {
	alone := s.dir != "" && s.list == ""
	s.asked = s.list != ""
	if err := s.open(); err != nil {
		return err
	}
	if alone {
		s.list = ""
	}
	return nil
}

// withList puts the revocation list in force. Where there is none, note says
// that it was not asked; one that was named must be there.
func (s *trustStore) withList(trust *signing.Trust) (_ *signing.Trust, note string, err error) {
	if s.list == "" {
		return trust, "revocations not checked: --revoked names the list that goes with --trust", nil
	}
	if _, err := os.Stat(s.list); errors.Is(err, fs.ErrNotExist) && !s.asked {
		return trust, fmt.Sprintf("revocations not checked: %v", bare(err)), nil
	} else if err != nil {
		return nil, "", bare(err)
	}
	trust, err = s.listed(trust)
	return trust, "", err
}

// newEnough holds the version of a manifest against the list in force.
func newEnough(trust *signing.Trust, m manifest.Manifest, v signing.Verified) error {
	return trust.CheckVersion(signing.Claim{Manifest: m.Name, Signer: v.Signer().Name, KeyID: v.Signer().KeyID, Subject: v.Signer().Subject, Version: m.Version, File: m.Object.Path})
}
