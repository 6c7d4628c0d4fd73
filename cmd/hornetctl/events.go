package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
)

func (c *ctl) events() *cobra.Command {
	var opts api.EventsOptions
	var kinds []string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened; with --follow also what happens",
		Long: `Show what happened, oldest first, one event a line. With -o json each line is
an event in JSON. After an interruption go on with --since and the last seq; what
is lost by then is told, whatever was asked for.`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, k := range kinds {
				opts.Kinds = append(opts.Kinds, api.EventKind(k))
			}
			for event, err := range c.client().Events(cmd.Context(), opts) {
				if err != nil && opts.Follow && cmd.Context().Err() != nil {
					return nil // Ctrl-C is how following ends
				}
				if err != nil {
					return err
				}
				if err := c.printEvent(event); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&opts.Since, "since", 0, "only events with a greater `seq`")
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only events of these `kinds`, such as loaded,unloaded")
	cmd.Flags().StringVar(&opts.Collection, "collection", "", "only events about the collection `NAME`")
	cmd.Flags().BoolVarP(&opts.Follow, "follow", "f", false, "wait for more")
	return cmd
}

// printEvent prints one event at once: a stream has no columns to wait for.
func (c *ctl) printEvent(e api.Event) error {
	if c.output == formatJSON {
		line, err := encodeJSON(e, "")
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		_, err = fmt.Fprint(c.stdout, line)
		return err
	}
	if c.output == formatYAML {
		fmt.Fprintln(c.stdout, "---")
	}
	return c.print(e, func() {
		kind := cell{fmt.Sprintf("%-11s", e.Kind), eventColour(e.Kind)}
		fmt.Fprintf(c.stdout, "%s  %s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05"), c.paint(kind), eventText(e))
		if e.Hint != "" {
			fmt.Fprint(c.stdout, hintText("                     ", e.Hint))
		}
	})
}

func eventColour(k api.EventKind) colour {
	switch k {
	case api.EventLoaded, api.EventAdopted, api.EventRepaired, api.EventStarted:
		return good
	case api.EventRefused, api.EventFailed:
		return bad
	case api.EventQuarantined, api.EventDrift, api.EventLost, api.EventTrust:
		return uneasy
	}
	return plain
}

func eventText(e api.Event) string {
	text := e.Message
	if e.Collection != "" {
		text = e.Collection + ": " + text
	}
	if e.Caller != nil {
		text += fmt.Sprintf(" (uid %d)", e.Caller.UID)
	}
	return escape(text)
}
