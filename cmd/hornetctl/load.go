package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
)

func (c *ctl) load() *cobra.Command {
	var lease bool
	var t target
	cmd := &cobra.Command{
		Use:   "load NAME | load --lease NAME [-- COMMAND...]",
		Short: "Verify, load and attach a collection",
		Long: `Verify, load and attach a collection. With --lease it runs for as long as the
command that follows, or until Ctrl-C, and is unloaded however that ends.

Where its manifest says target = "caller", what it is attached to is opened here,
as whoever calls, and shown to the daemon, which looks whose it is.`,
		ValidArgsFunction: c.completeNames,
		RunE: func(cmd *cobra.Command, words []string) error {
			name, command, err := leaseArgs(cmd, words, lease, "NAME")
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if lease {
				held, err := at(t, func(files []*os.File) (*api.Lease, error) { return c.client().LoadLease(ctx, name, files...) })
				if err != nil {
					return err
				}
				return c.hold(ctx, held, command)
			}
			collection, err := at(t, func(files []*os.File) (api.Collection, error) {
				if len(files) == 0 {
					return c.client().Load(ctx, name)
				}
				return c.client().LoadTargets(ctx, name, files...)
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

// flags adds the options of t.
func (t *target) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.cgroup, "target-cgroup", "", "the caller's cgroup to attach to, its directory")
	cmd.Flags().IntVar(&t.pid, "target-pid", 0, "the caller's process to probe")
	cmd.Flags().StringVar(&t.netns, "target-netns", "", "the caller's network namespace to attach in, such as /proc/PID/ns/net")
}

// at returns what load does, which gets what t names.
func at[T any](t target, load func(files []*os.File) (T, error)) (loaded T, err error) {
	files, err := t.open()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return loaded, err
	}
	return load(files)
}

// target is what a collection shall be attached to, where its manifest leaves that to
// the caller.
type target struct {
	cgroup, netns string
	pid           int
}

// open opens what is named. Whoever gets it closes it, with an error too.
func (t target) open() (files []*os.File, err error) {
	for _, file := range []struct {
		option, path string
		flags        int
	}{{"cgroup", t.cgroup, unix.O_DIRECTORY}, {"netns", t.netns, unix.O_NONBLOCK}} {
		if file.path == "" {
			continue
		}
		f, err := os.OpenFile(file.path, os.O_RDONLY|file.flags, 0)
		if err != nil {
			return files, api.Errorf(api.KindBadRequest, "--target-%s: %w", file.option, err).WithHint("name one that is there and that you may open")
		}
		files = append(files, f)
	}
	if t.pid != 0 {
		fd, err := unix.PidfdOpen(t.pid, 0)
		if err != nil {
			return files, api.Errorf(api.KindBadRequest, "--target-pid: process %d: %w", t.pid, err).WithHint("name a process that lives, and no thread of one")
		}
		files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("process %d", t.pid)))
	}
	return files, nil
}
