package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
)

// commandStatus is how a command ended that this program ran for somebody: it ends
// the same way, and says nothing.
type commandStatus int

func (s commandStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// leaseArgs splits the words of a command line in those before the -- and the
// command behind it, which only a lease has.
func leaseArgs(cmd *cobra.Command, words []string, lease bool, what string) (name string, command []string, err error) {
	names, dash := words, cmd.ArgsLenAtDash()
	if lease && dash >= 0 {
		names = words[:dash]
	}
	if err := args(what)(cmd, names); err != nil {
		return "", nil, err
	}
	return names[0], words[1:], nil
}

// hold holds a lease until command ends, or without one until ctx does.
func (c *ctl) hold(ctx context.Context, lease *api.Lease, command []string) (err error) {
	defer lease.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- c.keep(ctx, lease)
		cancel()
	}()
	if len(command) > 0 {
		err = runFor(ctx, c.env, command)
	} else {
		x := lease.Grant().Collection
		if err := c.print(x, func() { c.say("%s: running until this ends: %s", x.Name, summary(x)) }); err != nil {
			return err
		}
		<-ctx.Done()
	}
	select {
	case lost := <-ended: // and the command only because of it
		return lost
	default:
		return err
	}
}

// keep holds the lease over restarts of the daemon, and returns why it is lost.
func (c *ctl) keep(ctx context.Context, lease *api.Lease) error {
	for {
		err := lease.Wait()
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != api.KindUnavailable {
			return err
		}
		fmt.Fprintln(c.stderr, "hornetctl: the daemon is gone; the lease is resumed when it is back")
		if err := lease.Resume(ctx); err != nil {
			return err
		}
	}
}

// runFor runs a command, which is asked to end when ctx does.
func runFor(ctx context.Context, e env, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return commandStatus(128 + int(status.Signal())) // as a shell says it
	}
	return commandStatus(exit.ExitCode())
}
