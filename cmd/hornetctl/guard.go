package main

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
)

func (c *ctl) guardGroup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "Show or change what keeps others from loading eBPF",
		Long: `Show the guard: a set of BPF LSM programs that tells of whoever loads, attaches
or changes eBPF past hornetd (audit), or refuses it, root's too (enforce). What
is in force stays so while hornetd does not run, until it is disarmed or the
host reboots. Only root may.`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := c.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			if status.Guard == nil {
				return api.Errorf(api.KindDenied, "guard: only root is told").WithHint("ask as root: sudo hornetctl guard")
			}
			return c.print(*status.Guard, func() { c.guardTable(*status.Guard) })
		},
	}
	var enforce, audit, disarm api.GuardRequest
	var within time.Duration
	var enforceCmd *cobra.Command
	enforceCmd = c.guardChange("enforce", "Refuse what others do", `Refuse from now on what others do with eBPF. With --confirm-within it falls back
to audit unless "hornetctl guard confirm" comes in time, so that nobody shuts
himself out. Without it, the time that runs already goes on, and where it begins
to enforce confirm of [guard] in hornetd.toml counts.`, func() api.GuardRequest {
		enforce.Mode = api.GuardEnforce
		if enforceCmd.Flags().Changed("confirm-within") {
			enforce.ConfirmWithin = within.String()
		}
		return enforce
	})
	enforceCmd.Flags().DurationVar(&within, "confirm-within", 0, "fall back to audit after this `time`, such as 10m, unless confirmed")
	auditCmd := c.guardChange("audit", "Only tell of what others do", "Let through from now on what others do with eBPF, and tell of it.",
		func() api.GuardRequest { audit.Mode = api.GuardAudit; return audit })
	disarmCmd := c.guardChange("disarm", "End the guard", "End the guard. The reason stands in the audit log.",
		func() api.GuardRequest { disarm.Mode = api.GuardOff; return disarm })
	for cmd, req := range map[*cobra.Command]*api.GuardRequest{enforceCmd: &enforce, auditCmd: &audit, disarmCmd: &disarm} {
		cmd.Flags().StringVar(&req.Reason, "reason", "", "why, a `text` for the audit log")
	}
	cmd.AddCommand(auditCmd, enforceCmd,
		c.guardChange("confirm", "Let the guard go on enforcing", "Take the time limit away that enforce set.",
			func() api.GuardRequest { return api.GuardRequest{Confirm: true} }),
		disarmCmd, c.guardEnroll(), c.guardRetire(), c.guardStatement(), c.guardTrust())
	signs := map[*cobra.Command]api.GuardAct{disarmCmd: api.ActDisarm, auditCmd: api.ActAudit}
	for cmd, act := range signs {
		c.orSigned(cmd, act)
	}
	return cmd
}

func (c *ctl) guardChange(use, short, long string, request func() api.GuardRequest) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := request()
			if req.Mode == api.GuardOff && req.Reason == "" {
				return usage(cmd, "%s: --reason is missing", use)
			}
			g, err := c.client().Guard(cmd.Context(), req)
			if err != nil {
				return err
			}
			return c.print(g, func() { c.guardTable(g) })
		},
	}
}

func (c *ctl) guardEnroll() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enroll FILE",
		Short: "Make an executable one that the guard takes for hornetd",
		Long: `Make FILE an executable that the guard takes for hornetd where systemd starts it
in hornetd's cgroup. Do so before a new hornetd is started under an armed guard:
one that is not enrolled can change nothing. With --statement it is the file that
this names.`,
		Args: args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			g, err := c.client().Enroll(cmd.Context(), file)
			if err != nil {
				return err
			}
			return c.print(g, func() { c.say("%s: enrolled", file) })
		},
	}
	c.orSigned(cmd, api.ActEnroll)
	return cmd
}

func (c *ctl) guardRetire() *cobra.Command {
	return &cobra.Command{
		Use:   "retire FILE|SHA256",
		Short: "Have the guard not take an executable for hornetd any more",
		Long: `Undo "hornetctl guard enroll": of a FILE, wherever it is now, or of what had that
SHA-256 when it was enrolled, as "hornetctl guard" shows it. Do so with the hornetd of
before an update, when the new one has proved itself: else who may start hornetd can
start the old one, with whatever was mended since. What runs cannot be retired.`,
		Args: args("FILE|SHA256"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var req api.RetireRequest
			if sum, err := hex.DecodeString(args[0]); err == nil && len(sum) == 32 {
				req.SHA256 = args[0]
			} else if req.File, err = filepath.Abs(args[0]); err != nil {
				return err
			}
			g, err := c.client().Retire(cmd.Context(), req)
			if err != nil {
				return err
			}
			return c.print(g, func() { c.say("%s: retired", args[0]) })
		},
	}
}

func (c *ctl) guardTable(g api.Guard) {
	t := c.table()
	mode := cell{guardText(g.Mode), good}
	if g.Mode != g.Wanted {
		mode = cell{fmt.Sprintf("%s, and hornetd.toml says %s", guardText(g.Mode), g.Wanted), uneasy}
	}
	t.row("Guard", mode)
	optional(t, "Because", g.Reason)
	optional(t, "Remedy", g.Hint)
	if g.Confirm != "" {
		t.row("To confirm", cell{"within " + g.Confirm, uneasy})
	}
	switch g.Mode {
	case api.GuardDetect:
		t.row("Untold", fmt.Sprint(g.Lost))
	case api.GuardAudit, api.GuardEnforce:
		optional(t, "Ends by", g.Disarm)
		t.row("Refused", fmt.Sprint(g.Refused))
		t.row("Untold", fmt.Sprint(g.Lost))
		t.row("Suppressed", fmt.Sprint(g.Suppressed))
		for _, what := range g.Open {
			t.row("Not seen", cell{what, uneasy})
		}
		optional(t, "Hooks", strings.Join(g.Hooks, ", "))
		floor := cell{"none", uneasy}
		if g.Floor {
			floor = cell{"in force", good}
		}
		t.row("Floor", floor)
		for _, e := range g.Enrolled {
			t.row("Enrolled", enrolledText(e))
		}
	}
	t.print()
}

func enrolledText(e api.Enrolled) string {
	text := fmt.Sprintf("%s, inode %d on %s", cmp.Or(e.SHA256, "(SHA-256 not known)"), e.Inode, e.Device)
	if e.Running {
		text += ", runs"
	}
	return text
}

func guardText(m api.GuardMode) string {
	if m == api.GuardDetect {
		return "detects, does not prevent"
	}
	return string(m)
}
