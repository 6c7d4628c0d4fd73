package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/names"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// configFile is hornetd's configuration; it may be absent.
const configFile = "/etc/hornet/hornetd.toml"

// trustStore is what the commands of trust work on: files, not the daemon.
type trustStore struct {
	c      *ctl
	config string // hornetd.toml
	dir    string // "": as hornetd.toml says
	list   string // the same
	roots  []string

	manifests []string      // directories
	signed    []string      // those in which each manifest must be signed
	bounds    policy.Policy // of signers and callers
	asked     bool          // for the list: see withList
}

func (c *ctl) trustGroup() *cobra.Command {
	s := &trustStore{c: c}
	group := &cobra.Command{
		Use:   "trust",
		Short: "See and change whose signatures count",
		Long: `See and change the trust store and the revocation list of this host, as files:
no daemon is needed, and hornetctl reload puts a change in force.`,
		Args: cobra.ArbitraryArgs,
		RunE: c.noCommand,

		SuggestionsMinimumDistance: 2,
	}
	flags := group.PersistentFlags()
	flags.StringVar(&s.config, "config", configFile, "hornetd's configuration, a `file`; the default one may be absent")
	flags.StringVar(&s.dir, "trust", "", "trust store, a `directory` (default as the configuration says)")
	flags.StringVar(&s.list, "revoked", "", "revocation list, a `file` (default as the configuration says)")
	group.AddCommand(s.listCommand(), s.addCommand(), s.removeCommand(), s.revokeCommand())
	return group
}

// open reads the configuration, for what the flags do not say.
func (s *trustStore) open() error {
	cfg := config.Default()
	b, err := readFile(s.config, config.MaxSize)
	switch {
	case err == nil:
		if cfg, err = config.Parse(s.config, b); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist) || s.config != configFile:
		return err
	}
	if s.dir == "" {
		s.dir = cfg.Paths.Trust
	}
	if s.list == "" {
		s.list = cfg.Paths.Revoked
	}
	s.roots, s.manifests, s.signed = cfg.Trust.Roots, cfg.Paths.Manifests, cfg.Manifests.Signed
	s.bounds = policy.New(cfg.Limits.Policy(), new(names.Host)).WithSigners(cfg.Signers).WithDirectories(cfg.Manifests.Signers).WithRules(cfg.Rules)
	return nil
}

// trustKey is one key of the store, as list shows it.
type trustKey struct {
	Name      string    `json:"name"`
	KeyID     string    `json:"key_id"`
	Subject   string    `json:"subject"`
	Algorithm string    `json:"algorithm"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Roles     []string  `json:"roles"`   // object, revocations
	Verdict   string    `json:"verdict"` // ok, expired, revoked, unusable
	Reason    string    `json:"reason,omitempty"`
}

func (s *trustStore) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys of the trust store, and which of them count",
		Args:  args(),
		RunE: func(*cobra.Command, []string) error {
			if err := s.open(); err != nil {
				return err
			}
			trust, err := signing.LoadTrust(s.dir)
			if err != nil {
				return err
			}
			if trust, err = s.listed(trust); err != nil {
				return err
			}
			keys := []trustKey{}
			for _, signer := range trust.Signers() {
				keys = append(keys, s.key(signer))
			}
			return s.c.print(map[string]any{"keys": keys}, func() { s.table(keys) })
		},
	}
}

// listed puts the revocation list, if there is one, in force.
func (s *trustStore) listed(trust *signing.Trust) (*signing.Trust, error) {
	b, err := readFile(s.list, signing.MaxRevocations)
	if errors.Is(err, fs.ErrNotExist) {
		return trust, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := trust.VerifyRevocations(s.list, b, s.roots)
	return trust.WithRevocations(list), err
}

func (s *trustStore) key(signer signing.Signer) trustKey {
	k := trustKey{Name: signer.Name, KeyID: signer.KeyID, Subject: signer.Subject, Algorithm: signer.Algorithm,
		NotBefore: signer.NotBefore, NotAfter: signer.NotAfter, Roles: []string{"object"}, Verdict: string(signing.OK), Reason: signer.Problem}
	if slices.Contains(s.roots, signer.Name) {
		k.Roles = append(k.Roles, "revocations")
	}
	now := s.c.now()
	switch {
	case signer.Revoked:
		k.Verdict = string(signing.Revoked)
	case signer.Problem != "":
		k.Verdict = "unusable"
	case !signer.NotAfter.IsZero() && now.After(signer.NotAfter):
		k.Verdict = string(signing.Expired)
	case now.Before(signer.NotBefore):
		k.Verdict, k.Reason = string(signing.Expired), "not valid yet"
	}
	return k
}

func (s *trustStore) table(keys []trustKey) {
	if len(keys) == 0 {
		s.c.say("%s: no keys: nothing loads", s.dir)
		return
	}
	day := func(t time.Time) string {
		if t.IsZero() {
			return "no end"
		}
		return t.Local().Format("2006-01-02")
	}
	t := s.c.table("NAME", "KEY ID", "ALGORITHM", "VALID UNTIL", "SIGNS", "VERDICT", "SUBJECT")
	for _, k := range keys {
		verdict := cell{k.Verdict, good}
		if k.Verdict != string(signing.OK) {
			verdict.colour = bad
		}
		if k.Reason != "" {
			verdict.text += ": " + k.Reason
		}
		t.row(k.Name, k.KeyID, k.Algorithm, day(k.NotAfter), strings.Join(k.Roles, ", "), verdict, k.Subject)
	}
	t.print()
}

func (s *trustStore) addCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "add FILE",
		Short: "Trust a certificate or public key",
		Long: `Check FILE, a certificate or public key in PEM, and put it into the trust store.
The signer is called as the file is, or as --name says. Where there is a signer
of that name, FILE is added to its keys and the old ones go on counting: so a key
is replaced without a gap, and trust remove takes the old one away later.`,
		Args: args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.open(); err != nil {
				return err
			}
			if name == "" {
				name = strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0]))
			}
			added, err := s.add(args[0], name)
			if err != nil {
				return err
			}
			return s.c.print(map[string]any{"keys": added}, func() {
				for _, k := range added {
					s.c.say("%s: trusted as %s (%s, key %s): hornetctl reload", args[0], k.Name, k.Algorithm, k.KeyID)
				}
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the signer's `name` (default FILE's without its ending)")
	return cmd
}

func (s *trustStore) add(from, name string) ([]trustKey, error) {
	b, err := readFile(from, maxKey)
	if err != nil {
		return nil, err
	}
	file := name + ".pem"
	fresh, err := signing.ParseTrust(map[string][]byte{file: b})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	var added []trustKey
	for _, signer := range fresh.Signers() {
		k := s.key(signer)
		if k.Verdict != string(signing.OK) && k.Reason != "not valid yet" {
			return nil, remedy.With(fmt.Errorf("%s: %s: %s: nothing it signed would count", from, k.Verdict, or(k.Reason, "since "+k.NotAfter.UTC().Format(time.RFC3339))),
				"use a code-signing certificate that is valid; hornetctl keygen makes one")
		}
		added = append(added, k)
	}
	path := filepath.Join(s.dir, file)
	old, err := readFile(path, maxKey)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(old) > 0 {
		if bytes.Contains(old, bytes.TrimSpace(b)) {
			return added, nil
		}
		b = slices.Concat(bytes.TrimSpace(old), []byte("\n"), b)
	}
	if _, err := signing.ParseTrust(map[string][]byte{file: b}); err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, bare(err)
	}
	return added, replace(path, b, 0o644)
}

func (s *trustStore) removeCommand() *cobra.Command {
	var keyID string
	var force bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Trust a signer, or one of its keys, no more",
		Long: `Take a signer out of the trust store, or with --key-id one of its keys. What it
signed does not load any more; what runs runs on. Whoever still has the key on
other hosts is trusted there: trust revoke is for keys that were lost. A key
without which the revocation list does not count stays unless --force is given:
at this host's next start nothing would load.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.open(); err != nil {
				return err
			}
			left, err := s.remove(args[0], keyID, force)
			if err != nil {
				return err
			}
			return s.c.print(map[string]any{"name": args[0], "left": left}, func() {
				s.c.say("%s: %s left: hornetctl reload", args[0], count(left, "key"))
			})
		},
	}
	cmd.Flags().StringVar(&keyID, "key-id", "", "only this key, by its `id`")
	cmd.Flags().BoolVar(&force, "force", false, "remove it though the revocation list does not count without it")
	return cmd
}

// remove returns how many keys the signer has left.
func (s *trustStore) remove(name, keyID string, force bool) (left int, err error) {
	file := name + ".pem"
	path := filepath.Join(s.dir, file)
	if filepath.Base(path) != file {
		return 0, usageOf(fmt.Errorf("name %.80q is not a signer's", name))
	}
	b, err := readFile(path, maxKey)
	if err != nil {
		return 0, remedy.With(err, "hornetctl trust list shows the signers")
	}
	var keep []byte
	if keyID != "" {
		if keep, left, err = without(path, b, keyID); err != nil {
			return 0, err
		}
	}
	if !force {
		if err := s.keepsList(file, keep); err != nil {
			return 0, err
		}
	}
	if keep == nil {
		return 0, bare(os.Remove(path))
	}
	return left, replace(path, keep, 0o644)
}

// without returns the file of a signer without one of its keys, and how many are
// left; nil where none is.
func without(path string, b []byte, keyID string) (keep []byte, left int, err error) {
	trust, err := signing.ParseTrust(map[string][]byte{filepath.Base(path): b})
	if err != nil {
		return nil, 0, err
	}
	signers := trust.Signers()
	for i, rest := 0, b; i < len(signers); i++ { // in the order of the blocks
		var block *pem.Block
		if block, rest = pem.Decode(rest); signers[i].KeyID != keyID {
			keep = append(keep, pem.EncodeToMemory(block)...)
			left++
		}
	}
	if left == len(signers) {
		return nil, 0, remedy.With(fmt.Errorf("%s: no key %.140q", path, keyID), "hornetctl trust list shows the keys")
	}
	return keep, left, nil
}
