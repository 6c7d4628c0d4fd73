package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
)

func (c *ctl) guardStatement() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "statement",
		Short: "Have hornetd say what a root has to sign",
		Long: `Where the guard was armed with disarm = "signed", root cannot end it, but have
hornetd say what is to be done. Who has the key of one of [trust] roots reads that,
signs it on a machine of their own, and hornetd does it:

  hornetctl guard statement disarm --reason WHY > s.txt
  openssl cms -sign -binary -in s.txt -signer CERT -inkey KEY -outform DER -out s.p7s
  hornetctl guard disarm --statement s.txt --signature s.p7s

hornetctl sign does, too. A statement is good once, for an hour, and until hornetd is
started again.`,
		Args: cobra.ArbitraryArgs,
		RunE: c.noCommand,

		SuggestionsMinimumDistance: 2,
	}
	for act, short := range map[api.GuardAct]string{
		api.ActDisarm: "End the guard",
		api.ActAudit:  "Have the guard only tell of what others do",
		api.ActTrust:  "Have the trust store and hornetd.toml count as they are now",
	} {
		cmd.AddCommand(c.statementFor(&cobra.Command{Use: string(act), Short: short, Args: args()}, act))
	}
	cmd.AddCommand(c.statementFor(&cobra.Command{Use: "enroll FILE", Short: "Have an executable be hornetd", Args: args("FILE")}, api.ActEnroll))
	return cmd
}

func (c *ctl) statementFor(cmd *cobra.Command, act api.GuardAct) *cobra.Command {
	req := api.StatementRequest{Act: act}
	cmd.Long = cmd.Short + ": print the statement, to be signed byte for byte."
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if req.Reason == "" {
			return usage(cmd, "statement %s: --reason is missing", act)
		}
		for _, file := range args {
			if req.File, err = filepath.Abs(file); err != nil {
				return err
			}
		}
		s, err := c.client().Statement(cmd.Context(), req)
		if err != nil {
			return err
		}
		if c.output != formatTable {
			return c.print(s, nil)
		}
		_, err = io.WriteString(c.stdout, s.Text)
		return err
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, a `text` for whoever signs and the audit log")
	return cmd
}

// guardTrust has what a root signed of trust count.
func (c *ctl) guardTrust() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust --statement FILE --signature FILE",
		Short: "Have keys and settings count that a root signed",
		Long: `Have the keys and settings count that the statement names. hornetctl reload then
puts the keys in force, and a restart hornetd.toml. To take keys away or to
revoke them needs no statement.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage(cmd, "trust: --statement is missing")
		},
		Args: args(),
	}
	c.orSigned(cmd, api.ActTrust)
	return cmd
}

// orSigned gives cmd the flags with which a root's signature is what counts.
func (c *ctl) orSigned(cmd *cobra.Command, act api.GuardAct) {
	var text, signature string
	run, takes := cmd.RunE, cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if text != "" {
			return args()(cmd, given)
		}
		return takes(cmd, given)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case text == "" && signature == "":
			return run(cmd, args)
		case text == "":
			return usage(cmd, "%s: --statement is missing", cmd.Name())
		case signature == "":
			return usage(cmd, "%s: --signature is missing", cmd.Name())
		}
		g, err := c.signed(cmd.Context(), act, text, signature)
		if err != nil {
			return err
		}
		return c.print(g, func() { c.guardTable(g) })
	}
	cmd.Flags().StringVar(&text, "statement", "", "what a root signed, a `file`: see hornetctl guard statement")
	cmd.Flags().StringVar(&signature, "signature", "", "its detached signature in DER, a `file`")
}

func (c *ctl) signed(ctx context.Context, act api.GuardAct, text, signature string) (api.Guard, error) {
	statement, err := readFile(text, api.MaxStatementBytes)
	if err != nil {
		return api.Guard{}, fmt.Errorf("statement: %w", err)
	}
	sig, err := readFile(signature, api.MaxSignatureBytes/4)
	if err != nil {
		return api.Guard{}, fmt.Errorf("signature: %w", err)
	}
	return c.client().Signed(ctx, api.SignedRequest{Act: act, Statement: string(statement), Signature: sig})
}
