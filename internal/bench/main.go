// Command bench measures what it costs to load eBPF through hornetd, beside the
// same object loaded bare with cilium/ebpf in process (the floor) and by exec of
// bpftool. The contenders take turns within one run, on one kernel, so that
// their ratios mean something on any machine; docs/benchmarks.md says how to
// read the table.
//
// It works in network and mount namespaces of its own and in a cgroup of its
// own, and takes everything away again, also on Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	hornetd string // the binary under test
	dir     string // on the filesystem whose fdatasync counts
	running []int  // how many collections run already, ascending
	rounds  int    // per contender and count, after the warm-up
	starts  int    // of the daemon, per count
	settle  time.Duration
}

func main() {
	// Namespaces belong to threads: everything that happens in ours, children
	// included, happens on this one.
	runtime.LockOSThread()
	opt, err := parseFlags(os.Args[1:], os.Stderr)
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = run(ctx, os.Stdout, os.Stderr, opt)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string, stderr io.Writer) (options, error) {
	opt := options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&opt.hornetd, "hornetd", "bin/hornetd", "daemon to measure")
	flags.StringVar(&opt.dir, "dir", "/var/tmp", "where state goes: a disk, not a tmpfs")
	flags.IntVar(&opt.rounds, "rounds", 50, "loads per contender and count")
	flags.IntVar(&opt.starts, "starts", 10, "daemon starts per count")
	flags.DurationVar(&opt.settle, "settle", 3*time.Second, "idle time before the resident size is read")
	running := flags.String("running", "1,50,300", "collections already running, ascending; 1,50,300,1000 for more")
	if err := flags.Parse(args); err != nil {
		return opt, err
	}
	for s := range strings.SplitSeq(*running, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || len(opt.running) > 0 && n <= opt.running[len(opt.running)-1] {
			err := fmt.Errorf("-running %s: want ascending numbers", *running)
			fmt.Fprintln(stderr, err)
			return opt, err
		}
		opt.running = append(opt.running, n)
	}
	return opt, nil
}

// run is the program: prepare, measure each workload, print one table.
func run(ctx context.Context, out, progress io.Writer, opt options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: loads and attaches eBPF programs (scripts/as-root)")
	}
	w, err := newWorld(opt.dir, opt.running[len(opt.running)-1])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()

	t := &table{}
	if err := t.describe(opt); err != nil {
		return err
	}
	for _, load := range workloads(w) {
		r, err := measure(ctx, progress, w, load, opt)
		if err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
		t.add(load.name, r)
	}
	fmt.Fprintln(progress, "verify")
	verified, err := verifications(10 * opt.rounds)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	t.verifications(verified)
	if err := t.binary(opt.hornetd); err != nil {
		return err
	}
	_, err = io.WriteString(out, t.String())
	return err
}
