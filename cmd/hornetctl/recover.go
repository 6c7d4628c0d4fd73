package main

import "github.com/spf13/cobra"

func (c *ctl) recover() *cobra.Command {
	return &cobra.Command{
		Use:   "recover QUARANTINE",
		Short: "Have what is in quarantine run in order again",
		Long: `End a quarantine without a gap. A directory that by now is what its record
says gets its name back, untouched. Else the collection is verified and loaded
from disk beside it, and what was set aside ends then. list shows what is in
quarantine. Only root may.`,
		Args:              args("QUARANTINE"),
		ValidArgsFunction: c.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			collection, err := c.client().Recover(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(collection, func() { c.say("%s: runs again as %s", args[0], collection.Name) })
		},
	}
}
