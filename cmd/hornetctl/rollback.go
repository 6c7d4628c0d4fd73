package main

import (
	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
)

func (c *ctl) rollback() *cobra.Command {
	var req api.RollbackRequest
	cmd := &cobra.Command{
		Use:   "rollback NAME --to VERSION --reason TEXT",
		Short: "Let an older version of a collection load again",
		Long: `Let VERSION of a collection load again, with whatever contents, although a
newer one was loaded before; also what is newer than VERSION. Nothing is loaded:
put the older manifest and object in place and reload. Only root may, and the
reason stands in the audit log.`,
		Args:              args("NAME"),
		ValidArgsFunction: c.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, flag := range []string{"to", "reason"} {
				if !cmd.Flags().Changed(flag) {
					return usage(cmd, "rollback: --%s is missing", flag)
				}
			}
			collection, err := c.client().Rollback(cmd.Context(), args[0], req)
			if err != nil {
				return err
			}
			return c.print(collection, func() { c.say("%s: version %d and newer may load: hornetctl reload", args[0], req.Version) })
		},
	}
	cmd.Flags().Uint64Var(&req.Version, "to", 0, "the oldest `version` that may load")
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, a `text` for the audit log")
	return cmd
}
