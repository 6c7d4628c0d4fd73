package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

func (c *ctl) runBundle() *cobra.Command {
	var lease bool
	var t target
	cmd := &cobra.Command{
		Use:   "run DIR|FILE | run --lease DIR|FILE [-- COMMAND...]",
		Short: "Run a signed collection of your own",
		Long: `Send a manifest, its object and their signatures to hornetd, which verifies and
loads them as it would from its own directories, where a [[rule]] in its
hornetd.toml lets you. FILE is the manifest; a DIR has one, NAME.toml. It runs
under the name uUID-NAME, in the place of what runs there, until somebody unloads
it or the host starts again. With --lease it runs for as long as the command that
follows, or until Ctrl-C, and is unloaded however that ends.

Where its manifest says target = "caller", what it is attached to is opened here and
shown to the daemon, as with load.`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"toml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			path, command, err := leaseArgs(cmd, words, lease, "DIR|FILE")
			if err != nil {
				return err
			}
			name, bundle, err := readBundle(path)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if lease {
				held, err := at(t, func(files []*os.File) (*api.Lease, error) { return c.client().RunLease(ctx, name, bundle, files...) })
				if err != nil {
					return err
				}
				return c.hold(ctx, held, command)
			}
			collection, err := at(t, func(files []*os.File) (api.Collection, error) {
				if len(files) == 0 {
					return c.client().Run(ctx, name, bundle)
				}
				return c.client().RunTargets(ctx, name, bundle, files...)
			})
			if err != nil {
				return err
			}
			return c.print(collection, func() { c.say("%s: running: %s", collection.Name, summary(collection)) })
		},
	}
	cmd.Flags().BoolVar(&lease, "lease", false, "unload it when COMMAND or this program ends")
	t.flags(cmd)
	return cmd
}

// readBundle reads the manifest at path, or the one in the directory path, and
// what it names.
func readBundle(path string) (name string, b api.Bundle, err error) {
	file, err := manifestIn(path)
	if err != nil {
		return "", b, err
	}
	if b.Manifest, err = readFile(file, maxManifest); err != nil {
		return "", b, err
	}
	m, err := manifest.Parse(file, b.Manifest)
	if err != nil {
		return "", b, err
	}
	if b.Object, err = readFile(m.Object.Path, maxObject); err != nil {
		return "", b, err
	}
	if b.ManifestSignature, err = readIfThere(m.Signature(), maxSignature); err != nil {
		return "", b, err
	}
	b.Signature, err = readIfThere(m.Object.Signature, maxSignature)
	return m.Name, b, err
}

func manifestIn(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", bare(err)
	}
	if !info.IsDir() {
		return path, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", bare(err)
	}
	var files []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".toml" && !e.IsDir() {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) != 1 {
		return "", remedy.With(fmt.Errorf("%s: has %s, must have one", path, count(len(files), "manifest")), "name the manifest itself")
	}
	return files[0], nil
}

func readIfThere(path string, max int) ([]byte, error) {
	b, err := readFile(path, max)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}
