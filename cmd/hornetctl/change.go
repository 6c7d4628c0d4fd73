package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
)

func (c *ctl) upgrade() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade NAME",
		Short: "Replace what runs by what is on disk now",
		Long: `Read and verify the manifest and the object of one collection again and put
them in the place of what runs. plan shows what becomes of each attachment. What
runs from them already is left as it is.`,
		Args:              args("NAME"),
		ValidArgsFunction: c.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			collection, err := c.client().Upgrade(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(collection, func() { c.say("%s: running: %s", collection.Name, summary(collection)) })
		},
	}
}

// summary is what of a collection is in the kernel, in one line.
func summary(x api.Collection) string {
	frozen := 0
	for _, m := range x.Maps {
		if m.Frozen {
			frozen++
		}
	}
	text := fmt.Sprintf("%s, %s (%d frozen)", count(len(x.Programs), "program"), count(len(x.Maps), "map"), frozen)
	if on := targets(x.Links); on != "" {
		text += ", attached to " + on
	}
	if !x.TrialUntil.IsZero() {
		text += ", on trial " + trialText(x)
	}
	if by := x.Signature.Signer.Name; by != "" {
		text += fmt.Sprintf(", signed by %s: %s", by, verified(x.Signature))
	}
	return text
}

// say prints one line, escaped.
func (c *ctl) say(format string, args ...any) {
	fmt.Fprintln(c.stdout, escape(fmt.Sprintf(format, args...)))
}

func (c *ctl) unload() *cobra.Command {
	var req api.UnloadRequest
	cmd := &cobra.Command{
		Use:               "unload NAME",
		Short:             "Detach and unload a collection",
		Args:              args("NAME"),
		ValidArgsFunction: c.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			collection, err := c.client().Unload(cmd.Context(), args[0], req)
			if err != nil {
				return err
			}
			return c.print(collection, func() { c.say("%s: unloaded", args[0]) })
		},
	}
	cmd.Flags().BoolVar(&req.Force, "force", false, "also one that others require, or in quarantine: its programs end")
	return cmd
}

func (c *ctl) reload() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Read the manifests again and apply the differences",
		Long: `Read the trust store and the manifests again and apply the differences.
If one manifest is wrong nothing changes, but that keys that are gone from the
trust store count no more, and that a new revocation list is in force. See what
would happen with plan.`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := c.client().Reload(cmd.Context())
			if err != nil {
				if len(plan.Problems) > 0 { // for programs; the error says it to people
					err = errors.Join(err, c.print(plan, func() {}))
				}
				return err
			}
			if err := c.print(plan, func() { c.planTable(plan) }); err != nil {
				return err
			}
			return unfinished(plan, "reload")
		},
	}
}

func (c *ctl) plan() *cobra.Command {
	return &cobra.Command{
		Use:   "plan",
		Short: "Show what reload would do",
		Args:  args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := c.client().Plan(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.print(plan, func() { c.planTable(plan) }); err != nil {
				return err
			}
			return unfinished(plan, "plan")
		},
	}
}

// unfinished is the error of a plan that was printed and has problems in it.
// Its exit status is that of the first.
func unfinished(plan api.Plan, verb string) error {
	n := len(plan.Problems)
	kind := api.KindInternal
	if n > 0 {
		kind = plan.Problems[0].Kind
	}
	for _, change := range plan.Changes {
		if change.Error == nil {
			continue
		}
		if n++; n == 1 {
			kind = change.Error.Kind
		}
	}
	if n == 0 {
		return nil
	}
	return api.Errorf(kind, "%s: %s", verb, count(n, "problem"))
}

func (c *ctl) planTable(plan api.Plan) {
	if len(plan.Changes) == 0 && len(plan.Problems) == 0 {
		fmt.Fprintln(c.stdout, "nothing to do")
		return
	}
	if len(plan.Changes) > 0 {
		t := c.table("COLLECTION", "ACTION", "VERSION", "LINKS", "WHY")
		for _, change := range plan.Changes {
			t.row(change.Collection, actionCell(change), versionText(change), or(linkChanges(change.Links), "-"), change.Reason)
		}
		t.print()
		c.changeTable(plan.Changes)
	}
	problems := plan.Problems
	for _, change := range plan.Changes {
		if e := change.Error; e != nil {
			problems = append(problems, api.Problem{Kind: e.Kind, Collection: change.Collection, Message: e.Message, Hint: e.Hint})
		}
	}
	c.problemList(problems)
}

// changeTable shows how each attachment of what is replaced changes.
func (c *ctl) changeTable(changes []api.Change) {
	t := c.table("COLLECTION", "LINK", "TARGET", "HOW")
	rows := 0
	for _, change := range changes {
		for _, l := range change.Links {
			if change.Action == api.ActionReplace {
				t.row(change.Collection, l.Name, l.Target, linkHow(l.Action))
				rows++
			}
		}
	}
	if rows > 0 {
		fmt.Fprintln(c.stdout)
		t.print()
	}
}

func linkHow(a api.LinkAction) cell {
	switch a {
	case api.LinkUpdate:
		return cell{"updated in place", plain}
	case api.LinkBeside:
		return cell{"beside the old one, which then goes", plain}
	case api.LinkGap:
		return cell{"gap: the old one goes first", uneasy}
	}
	return cell{string(a), plain}
}

func actionCell(change api.Change) cell {
	switch {
	case change.Error != nil:
		return cell{string(change.Action) + ": failed", bad}
	case change.Action == api.ActionKeep:
		return cell{string(change.Action), plain}
	case change.Action == api.ActionLoad, change.Action == api.ActionRepair:
		return cell{string(change.Action), good}
	}
	return cell{string(change.Action), uneasy}
}

func versionText(change api.Change) string {
	switch from, to := change.FromVersion, change.ToVersion; {
	case from == 0 && to == 0:
		return "-"
	case from == 0 || from == to:
		return fmt.Sprint(to)
	case to == 0:
		return fmt.Sprint(from)
	default:
		return fmt.Sprintf("%d -> %d", from, to)
	}
}

// linkChanges counts what happens to the links: "2 keep, 1 attach".
func linkChanges(links []api.LinkChange) string {
	var parts []string
	for _, action := range []api.LinkAction{api.LinkKeep, api.LinkUpdate, api.LinkBeside, api.LinkGap, api.LinkAttach, api.LinkDetach} {
		n := 0
		for _, l := range links {
			if l.Action == action {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, action))
		}
	}
	return strings.Join(parts, ", ")
}

// problemList prints problems as file:line: key: message, as compilers do.
func (c *ctl) problemList(problems []api.Problem) {
	for _, p := range problems {
		fmt.Fprintln(c.stdout, c.paint(cell{problemText(p), bad}))
		if p.Hint != "" {
			fmt.Fprint(c.stdout, hintText("    ", p.Hint))
		}
	}
}

func problemText(p api.Problem) string {
	switch {
	case p.File == "" && p.Collection == "", p.File != "" && strings.HasPrefix(p.Message, p.File+":"):
		return p.Message // it says already where
	case p.File == "":
		return p.Collection + ": " + p.Message
	}
	where := p.File
	if p.Line > 0 {
		where += fmt.Sprintf(":%d", p.Line)
	}
	if p.Key != "" {
		where += ": " + p.Key
	}
	return where + ": " + p.Message
}
