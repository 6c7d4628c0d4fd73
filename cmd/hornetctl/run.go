package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// version is set by the linker.
var version = "devel"

// env is what the program takes from the process it runs in.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	terminal       bool // stdout is one
}

// ctl is one run of the program: its surroundings and the flags that every
// command has.
type ctl struct {
	env
	socket  string
	output  format
	verbose bool
}

// run is the program. It returns the exit status: 0 for success, else what
// exitCode says.
func run(ctx context.Context, e env, args []string) int {
	c := &ctl{env: e}
	root := c.root()
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetArgs(append([]string{}, args...)) // never nil: cobra would look for arguments itself
	err := root.ExecuteContext(ctx)
	if err == nil {
		return api.ExitOK
	}
	var status commandStatus
	if errors.As(err, &status) {
		return int(status)
	}
	c.complain(err)
	return exitCode(err)
}

func (c *ctl) root() *cobra.Command {
	root := &cobra.Command{
		Use:     "hornetctl",
		Version: version,
		Short:   "See and steer what hornetd runs, make keys and signatures, check manifests",
		Long: `hornetctl asks hornetd over its socket, and does what needs no daemon:
keys, signatures and checking manifests.

Exit status: 0 done, 1 failure, 2 wrong usage, 3 denied, 4 signature not good,
5 daemon unreachable.`,
		Args:                       cobra.ArbitraryArgs,
		RunE:                       c.noCommand,
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, "%v", err) })
	flags := root.PersistentFlags()
	flags.StringVar(&c.socket, "socket", "", "the daemon's `path` (default $HORNET_SOCKET, else "+api.DefaultSocket+")")
	flags.VarP(&c.output, "output", "o", "`format`: table, json or yaml")
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "with an error also its details, such as the verifier's log")
	root.RegisterFlagCompletionFunc("output", fixed("table", "json", "yaml"))
	for _, group := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"see", "See what runs:", []*cobra.Command{c.list(), c.show(), c.status(), c.events(), c.mapGroup()}},
		{"change", "Change what runs:", []*cobra.Command{c.load(), c.runBundle(), c.upgrade(), c.unload(), c.plan(), c.reload(), c.rollback(), c.recover(), c.guardGroup()}},
		{"sign", "Keys, signatures and manifests, without a daemon:", []*cobra.Command{c.check(), c.policyGroup(), c.inspect(), c.cat(), c.keygen(), c.sign(), c.verifyFile(), c.trustGroup()}},
	} {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, cmd := range group.commands {
			cmd.GroupID = group.id
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(c.completion(), c.version())
	return root
}

// noCommand answers a word that is no command, or none at all.
func (c *ctl) noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		cmd.SetOut(c.stderr)
		cmd.Help()
		return usage(cmd, "no command")
	}
	err := usage(cmd, "unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return remedy.With(err, "did you mean %s?", strings.Join(near, " or "))
	}
	return err
}

func (c *ctl) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print this program's version",
		Args:  args(),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
			}{version}
			return c.print(v, func() { fmt.Fprintln(c.stdout, "hornetctl", version) })
		},
	}
}

// client returns a client of the daemon that the flags and the environment
// name.
func (c *ctl) client() *api.Client {
	socket := c.socket
	if socket == "" {
		socket = c.getenv("HORNET_SOCKET")
	}
	if socket == "" {
		socket = api.DefaultSocket
	}
	return api.New(socket)
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// usage returns a usageError whose remedy is the command's help.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return remedy.With(usageError{fmt.Errorf(format, args...)}, "%s --help shows how", cmd.CommandPath())
}

// args checks that a command gets these arguments. A last name that ends in
// "..." stands for one or more.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		many := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...")
		switch {
		case len(args) < len(names):
			return usage(cmd, "%s: %s is missing", cmd.Name(), strings.TrimSuffix(names[len(args)], "..."))
		case len(args) > len(names) && !many:
			return usage(cmd, "%s: unexpected argument %q", cmd.Name(), args[len(names)])
		}
		return nil
	}
}

// exitCode is the status that err ends the program with.
func exitCode(err error) int {
	var apiErr *api.Error
	var signErr *signing.Error
	switch {
	case errors.As(err, new(usageError)):
		return api.ExitUsage
	case errors.As(err, &apiErr):
		return apiErr.Kind.ExitCode()
	case errors.As(err, &signErr):
		return api.ExitSignature
	case errors.Is(err, policy.ErrDenied):
		return api.ExitDenied
	}
	return api.ExitFailure
}

// complain prints err, its remedy and, if asked to, its details.
func (c *ctl) complain(err error) {
	hint, detail := remedy.Of(err), ""
	var e *api.Error
	if errors.As(err, &e) {
		hint, detail = e.Hint, e.Detail
	}
	fmt.Fprintf(c.stderr, "hornetctl: %s\n", escape(err.Error()))
	if hint != "" {
		fmt.Fprint(c.stderr, hintText("", hint))
	}
	switch {
	case detail != "" && c.verbose:
		fmt.Fprint(c.stderr, escapeLines(detail))
	case detail != "":
		fmt.Fprintln(c.stderr, "hint: there are details: run it again with --verbose")
	}
}
