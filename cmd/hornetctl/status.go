package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
)

func (c *ctl) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the daemon itself: paths, signers, problems",
		Args:  args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := c.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(status, func() { c.statusTables(status) })
		},
	}
}

func (c *ctl) statusTables(s api.Status) {
	t := c.table()
	t.row("hornetd", fmt.Sprintf("%s, pid %d", s.Version, s.PID))
	if s.ReadyAt.IsZero() {
		t.row("Ready", cell{"not yet", uneasy})
	} else {
		t.row("Ready", c.when(s.ReadyAt))
	}
	t.row("Kernel", s.Kernel.Release+" "+s.Kernel.Machine)
	t.row("Collections", countsCell(s.Collections))
	// Only root is told the rest.
	if g := s.Guard; g != nil {
		text := guardText(g.Mode)
		if g.Reason != "" {
			text += ": " + g.Reason
		}
		t.row("Guard", text)
	}
	optional(t, "Manifests", strings.Join(s.Paths.Manifests, ", "))
	optional(t, "Trust store", s.Paths.Trust)
	if r := s.Revocations; r != nil {
		t.row("Revocations", fmt.Sprintf("serial %d, signed by %s", r.Serial, r.Signer))
	}
	optional(t, "bpffs", s.Paths.BPFFS)
	optional(t, "State", s.Paths.State)
	optional(t, "Socket", s.Paths.Socket)
	chargeRows(t, s.Charged)
	t.print()
	c.signerTable(s.Signers)
	c.limitTable(s.Limits)
	if len(s.Problems) > 0 {
		fmt.Fprintf(c.stdout, "\n%s:\n", count(len(s.Problems), "problem"))
		c.problemList(s.Problems)
	}
}

func countsCell(n api.Counts) cell {
	text := fmt.Sprintf("%d running (%d with a signed manifest), %d available", n.Running, n.Verified, n.Available)
	x := cell{text, good}
	if n.Pending > 0 {
		x = cell{fmt.Sprintf("%s, %d pending", x.text, n.Pending), uneasy}
	}
	if n.Failed > 0 {
		x = cell{fmt.Sprintf("%s, %d failed", x.text, n.Failed), bad}
	}
	if n.Quarantined > 0 {
		x = cell{fmt.Sprintf("%s, %d quarantined", x.text, n.Quarantined), bad}
	}
	return x
}

func (c *ctl) signerTable(signers []api.Signer) {
	if len(signers) == 0 {
		return
	}
	fmt.Fprintln(c.stdout)
	t := c.table("SIGNER", "ALGORITHM", "KEY ID", "VALID UNTIL", "SUBJECT")
	for _, s := range signers {
		subject := s.Subject
		if s.CA {
			subject += " (a CA)"
		}
		t.row(s.Name, s.Algorithm, short(s.KeyID), c.validity(s), subject)
	}
	t.print()
}

// limitTable shows what is in use of what is bounded. What is only set stands in
// hornetd.toml, and with -o json here too.
func (c *ctl) limitTable(limits []api.Limit) {
	if len(limits) == 0 {
		return
	}
	fmt.Fprintln(c.stdout)
	t := c.table("LIMIT", "UID", "USED", "OF")
	for _, l := range limits {
		if l.Used == nil {
			continue
		}
		uid, number := "-", func(n uint64) string { return strconv.FormatUint(n, 10) }
		if l.UID != nil {
			uid = number(uint64(*l.UID))
		}
		if l.Unit == "bytes" {
			number = bytesText
		}
		used := cell{number(*l.Used), plain}
		if *l.Used >= l.Most {
			used.colour = uneasy
		}
		t.row(l.Name, uid, used, number(l.Most))
	}
	t.print()
}

func (c *ctl) validity(s api.Signer) cell {
	switch {
	case s.Problem != "":
		return cell{"never: " + s.Problem, bad}
	case s.NotAfter.IsZero():
		return cell{"no end", plain}
	case c.now().After(s.NotAfter):
		return cell{s.NotAfter.Local().Format("2006-01-02") + " (expired)", bad}
	}
	return cell{s.NotAfter.Local().Format("2006-01-02"), plain}
}
