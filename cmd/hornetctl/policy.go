package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/names"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) policyGroup() *cobra.Command {
	group := &cobra.Command{
		Use:   "policy",
		Short: "See who may do what, and why",
		Args:  cobra.ArbitraryArgs,
		RunE:  c.noCommand,

		SuggestionsMinimumDistance: 2,
	}
	group.AddCommand(c.policyTest())
	return group
}

func (c *ctl) policyTest() *cobra.Command {
	var who caller
	store := &trustStore{c: c}
	cmd := &cobra.Command{
		Use:   "test --as USER[:GROUP,...] VERB NAME",
		Short: "Say what hornetd would decide for a caller, rule by rule",
		Long: `Say whether hornetd would let a caller do something with the collection NAME,
rule by rule, with the function that hornetd decides by. VERB is status, load,
unload, upgrade, events, read:MAP, write:MAP, fd:MAP, rw-fd:MAP; or run, and then
NAME is a bundle of the caller's own, DIR or FILE as hornetctl run takes it.

The manifests and hornetd.toml are read as they are on disk, and no daemon is
asked: of what runs, the manifest that was loaded last counts until a reload.
Without groups, USER has those that this host's accounts say.

The exit status is 0 where it is allowed and 3 where it is not.`,
		Args: args("VERB", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			subject, err := who.subject(cmd)
			if err != nil {
				return err
			}
			if !isVerb(args[0]) {
				return usage(cmd, "policy test: %q is no verb", args[0])
			}
			return c.policyTested(store, subject, policy.Verb(args[0]), args[1])
		},
	}
	cmd.Flags().StringVar(&who.as, "as", "", "the caller: `USER[:GROUP,...]`, names or numbers")
	cmd.Flags().StringVar(&who.unit, "unit", "", "the systemd `unit` that the caller is in")
	cmd.Flags().StringVar(&who.exe, "exe", "", "the executable that the caller runs, a `file`")
	store.trustFlags(cmd)
	return cmd
}

// caller is whom the flags name.
type caller struct{ as, unit, exe string }

func (w caller) subject(cmd *cobra.Command) (s policy.Subject, err error) {
	name, groups, listed := strings.Cut(w.as, ":")
	if name == "" {
		return s, usage(cmd, "policy test: --as USER is missing")
	}
	account, err := user.Lookup(name)
	if err != nil {
		account, err = user.LookupId(name)
	}
	switch {
	case err == nil:
		s.UID, err = number(account.Uid)
	default:
		if s.UID, err = number(name); err != nil {
			return s, remedy.With(fmt.Errorf("user %q: there is none of that name on this host", name), "write a name from /etc/passwd, or a number with its groups: --as 1234:1234")
		}
	}
	var ids []string
	switch {
	case listed:
		ids = strings.Split(groups, ",")
	case account == nil:
		return s, remedy.With(fmt.Errorf("user %d: this host has no account from which to take the groups", s.UID), "say them: --as %d:GROUP,...", s.UID)
	default:
		if ids, err = account.GroupIds(); err != nil {
			return s, fmt.Errorf("groups of %s: %w", name, err)
		}
		ids = append([]string{account.Gid}, ids...)
	}
	for _, group := range ids {
		gid, ok := new(names.Host).GroupID(group)
		if !ok {
			if gid, err = number(group); err != nil {
				return s, remedy.With(fmt.Errorf("group %q: there is none of that name on this host", group), "write a name from /etc/group, or a number")
			}
		}
		s.Groups = append(s.Groups, gid)
	}
	s.GID = s.Groups[0]
	s.Unit = w.unit
	if w.unit != "" {
		if err := manifest.ValidUnit(w.unit); err != nil {
			return s, err
		}
	}
	if w.exe != "" {
		var ok bool
		if s.Exe, ok = names.File(w.exe); !ok {
			return s, fmt.Errorf("%s: there is no such file", w.exe)
		}
	}
	return s, err
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

func isVerb(s string) bool {
	switch v := policy.Verb(s); v {
	case policy.Status, policy.Load, policy.Unload, policy.Upgrade, policy.Events, policy.Run:
		return true
	}
	name, ok := manifest.Right(s).Map()
	return ok && name != "" && name != "*"
}

// decided is what policy test says.
type decided struct {
	Caller   askedFor           `json:"caller"`
	Verb     string             `json:"verb"`
	Name     string             `json:"name"`
	Manifest string             `json:"manifest,omitempty"` // absent where there is none
	Rules    api.List[ruleSaid] `json:"rules"`
	Allowed  bool               `json:"allowed"`
	Problem  *api.Problem       `json:"problem,omitempty"`
	Note     string             `json:"note,omitempty"` // why there is no manifest to go by
}

type askedFor struct {
	UID    uint32           `json:"uid"`
	GID    uint32           `json:"gid"`
	Groups api.List[uint32] `json:"groups"`
	Unit   string           `json:"unit,omitempty"`
	Exe    string           `json:"exe,omitempty"`
}

type ruleSaid struct {
	Rule   string `json:"rule"` // allow[0], rule[0], root
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Allows bool   `json:"allows"`
	Reason string `json:"reason"`
}

func (c *ctl) policyTested(store *trustStore, s policy.Subject, v policy.Verb, name string) error {
	out := decided{Caller: askedFor{s.UID, s.GID, s.Groups, s.Unit, s.Exe.Path}, Verb: string(v), Name: name}
	var steps []policy.Step
	var m manifest.Manifest
	var err error
	if v == policy.Run {
		if m, steps, err = store.mayRun(s, name); err != nil && steps == nil {
			return err
		}
	} else {
		if err = store.openBoth(); err != nil {
			return err
		}
		if m, err = store.declared(name); err != nil && s.UID == 0 {
			return err
		}
		if err != nil { // which only root is told
			out.Note, m = "there is no such manifest", manifest.Manifest{Name: name}
			if !errors.Is(err, fs.ErrNotExist) {
				out.Note = err.Error()
			}
			out.Note += ": to all but root that looks as if they had no right to it"
		}
		_, steps, err = store.bounds.Explain(s, v, m)
	}
	out.Manifest, out.Allowed = m.File, err == nil
	if v == policy.Run {
		out.Manifest = "" // it has no place of its own
	}
	for _, step := range steps {
		said := ruleSaid{Rule: step.Rule, Allows: step.Allows, Reason: step.Reason}
		var at *manifest.Error
		switch {
		case strings.HasPrefix(step.Rule, "allow[") && errors.As(m.Errorf(step.Rule, "%s", step.Reason), &at):
			said.File, said.Line = at.File, at.Line
		case strings.HasPrefix(step.Rule, "rule["):
			said.File = store.config
		}
		out.Rules = append(out.Rules, said)
	}
	if err != nil {
		out.Problem = new(problemOf(kindOf(err), err))
	}
	if err := c.print(out, func() { c.decidedTable(out) }); err != nil {
		return err
	}
	return err
}

func (c *ctl) decidedTable(d decided) {
	if d.Note != "" && !d.Allowed {
		c.say("note: %s", d.Note)
	}
	t := c.table("RULE", "AT", "ALLOWS", "WHY")
	for _, r := range d.Rules {
		at, allows := r.File, cell{"no", bad}
		if r.Line > 0 {
			at += ":" + strconv.Itoa(r.Line)
		}
		if r.Allows {
			allows = cell{"yes", good}
		}
		t.row(r.Rule, at, allows, r.Reason)
	}
	if len(d.Rules) > 0 {
		t.print()
	}
	verdict := "denied"
	if d.Allowed {
		verdict = "allowed"
	}
	c.say("%s: uid %d, %s %s", verdict, d.Caller.UID, d.Verb, d.Name)
}

// declared reads the manifest of a collection with its drop-ins. Where there is
// none, the error is fs.ErrNotExist.
func (s *trustStore) declared(name string) (manifest.Manifest, error) {
	src, err := manifest.FindOne(s.manifests, name)
	if err != nil {
		return manifest.Manifest{}, err
	}
	return manifest.Read(src, manifest.Manifest{}, func(file string) ([]byte, error) { return safefile.Read(file, maxManifest) })
}

// callersBundle reads what hornetctl run would send for the user, which must be what
// a caller may send, and signed.
func (s *trustStore) callersBundle(path string, uid uint32) (b policy.Bundle, err error) {
	name, sent, err := readBundle(path)
	if err != nil {
		return b, err
	}
	file, err := manifestIn(path)
	if err != nil {
		return b, err
	}
	m, err := manifest.ParseOwn(filepath.Join(filepath.Dir(file), manifest.OwnName(uid, name)+".toml"), sent.Manifest)
	if err != nil {
		return b, err
	}
	k, err := s.c.newChecker(s)
	if err != nil {
		return b, err
	}
	if k.trust == nil {
		return b, errors.New(k.note)
	}
	signed := signing.Bundle{Object: sent.Object, ObjectFile: m.Object.Path, SHA256: m.Object.SHA256, SignatureFile: m.Object.Signature,
		Manifest: sent.Manifest, ManifestFile: file, ManifestSignature: sent.ManifestSignature, Unnamed: m.CheckSigned()}
	if signed.ManifestSignature == nil {
		signed.Signature = sent.Signature
	}
	v, err := k.trust.Verify(signed, m.Object.Signers, s.c.now())
	if err != nil {
		return b, err
	}
	called := m
	called.Name = name // by which a revocation list has it
	if err := newEnough(k.trust, called, v); err != nil {
		return b, err
	}
	spec, err := loader.OpenSpec(v)
	if err != nil {
		return b, err
	}
	plan, err := loader.NewPlan(spec, m)
	if err != nil {
		return b, err
	}
	return policy.Bundle{Manifest: m, Spec: plan.Spec(), Verified: v}, nil
}

// mayRun explains MayRun, then Run, and what bounds those who signed. Without steps
// the error is about the bundle.
func (s *trustStore) mayRun(who policy.Subject, path string) (m manifest.Manifest, steps []policy.Step, err error) {
	early := *s
	if err := early.openBoth(); err != nil {
		return m, nil, err
	}
	if steps, err := early.bounds.ExplainRun(who, nil); err != nil { // before anything is read
		return m, append([]policy.Step{}, steps...), err
	}
	b, err := s.callersBundle(path, who.UID)
	if err != nil {
		return m, nil, err
	}
	steps, err = s.bounds.ExplainRun(who, &b)
	for _, signer := range signersOf(b.Verified) {
		if err == nil {
			err = s.bounds.Permit(signer, b.Manifest, b.Spec)
		}
	}
	return b.Manifest, steps, err
}
