package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (c *ctl) completion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a completion script for a shell",
		Long: `Print a completion script for a shell. It completes the names of collections
and maps as the daemon has them at that moment.

  bash   hornetctl completion bash > /usr/share/bash-completion/completions/hornetctl
  zsh    hornetctl completion zsh > /usr/share/zsh/site-functions/_hornetctl
  fish   hornetctl completion fish > /usr/share/fish/vendor_completions.d/hornetctl.fish`,
		Args:              args("SHELL"),
		ValidArgsFunction: fixed("bash", "zsh", "fish"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.stdout, true)
			case "zsh":
				return root.GenZshCompletion(c.stdout)
			case "fish":
				return root.GenFishCompletion(c.stdout, true)
			}
			return usage(cmd, "completion: shell %q: want bash, zsh or fish", args[0])
		},
	}
	return cmd
}

// completionTime is how long a person who pressed Tab is kept waiting.
const completionTime = 2 * time.Second

// fixed completes one of a few words.
func fixed(words ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNames completes the first argument with a collection's name.
func (c *ctl) completeNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	collections, err := c.client().List(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, x := range collections {
		words = appendWord(words, x.Name, string(x.State))
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// completeMaps completes a collection's name, then one of its maps.
func (c *ctl) completeMaps(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return c.completeNames(cmd, args, "")
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	collection, err := c.client().Get(ctx, args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, m := range collection.Maps {
		words = appendWord(words, m.Name, m.Type)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// appendWord appends a word and its description. A word that a shell would not
// take as it is, which may come from an object file, is left out.
func appendWord(words []string, word, about string) []string {
	const safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@%+-"
	if word == "" || strings.Trim(word, safe) != "" {
		return words
	}
	return append(words, word+"\t"+escape(about))
}
