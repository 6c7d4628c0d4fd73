package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/daemon"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/systemd"
)

// Both are set by the linker: the version, and the date of the source in
// seconds since 1970, as SOURCE_DATE_EPOCH has it.
var (
	version    = "devel"
	sourceDate = "1795737600" // 2026-11-27, moved with each release
)

func build() (daemon.Build, error) {
	seconds, err := strconv.ParseInt(sourceDate, 10, 64)
	if err != nil {
		return daemon.Build{}, fmt.Errorf("date of the source: %w", err)
	}
	return daemon.Build{Version: version, Date: time.Unix(seconds, 0)}, nil
}

// env is what the program takes from the process it runs in.
type env struct {
	stdout, stderr io.Writer
	hangup         <-chan os.Signal
}

// run is the program: flags, configuration, values, then serve until ctx ends.
// It returns the exit status: 0 for a clean end, 1 for a failure, 2 for wrong
// usage.
func run(ctx context.Context, e env, args []string) int {
	flags := flag.NewFlagSet("hornetd", flag.ContinueOnError)
	flags.SetOutput(e.stderr)
	path := flags.String("config", config.DefaultFile, "configuration `file`; the default one may be absent")
	check := flags.Bool("check", false, "check the configuration, the manifests and the signatures, then exit")
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(e.stderr, "hornetd: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	if *showVersion {
		fmt.Fprintln(e.stdout, "hornetd", version)
		return 0
	}
	cfg, err := config.Read(*path)
	if err != nil {
		return fail(e.stderr, err)
	}
	made, err := build()
	if err != nil {
		return fail(e.stderr, err)
	}
	if *check {
		return checkAll(e, cfg, made)
	}
	if err := serve(ctx, cfg, made, newLogger(e.stderr, cfg.Log), e.hangup); err != nil {
		return fail(e.stderr, err)
	}
	return 0
}

func fail(w io.Writer, err error) int {
	fmt.Fprintf(w, "hornetd: %v\n", err)
	if hint := remedy.Of(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return 1
}

func checkAll(e env, cfg config.Config, made daemon.Build) int {
	problems := daemon.Check(cfg, made)
	for _, p := range problems {
		fmt.Fprintf(e.stderr, "hornetd: %s\n", p.Message)
		if p.Hint != "" {
			fmt.Fprintf(e.stderr, "hint: %s\n", p.Hint)
		}
	}
	if len(problems) > 0 {
		return 1
	}
	fmt.Fprintln(e.stdout, "ok")
	return 0
}

// memoryLimit is how much memory the collector lets be used before it works harder.
// Without it, objects with large data sections, one behind the other, would make a
// daemon of 15 MiB one of 100. What many collections need is not held against it.
func memoryLimit(l config.Limits) int64 {
	const base, each = 40 << 20, 64 << 10
	return base + each*int64(max(0, l.TotalCollections-config.Default().Limits.TotalCollections))
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, cfg config.Config, made daemon.Build, log *zap.Logger, hangup <-chan os.Signal) error {
	defer log.Sync()
	began := time.Now()
	debug.SetMemoryLimit(memoryLimit(cfg.Limits))
	listener, err := systemd.Listener()
	if err != nil {
		return err
	}
	d, err := daemon.Open(cfg, made, log)
	if err != nil {
		return err
	}
	defer d.Close()
	// With the lock on the bpffs root held, so that a stale socket is ours to
	// replace, and before anything is loaded, so that a start which is refused
	// has changed nothing. Who connects waits until Start is done.
	if listener == nil {
		if listener, err = daemon.Listen(cfg.API.Socket, cfg.API.Mode, cfg.API.Group); err != nil {
			return err
		}
	}
	defer listener.Close()
	started := make(chan struct{})
	go func() { // a long start ends soon after a signal
		select {
		case <-ctx.Done():
			d.Interrupt()
		case <-started:
		}
	}()
	err = d.Start()
	close(started)
	if ctx.Err() != nil {
		return nil // told to stop before it was ready: what is loaded stays
	}
	if err != nil {
		return err
	}
	stopped := make(chan error, 1)
	serveCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { stopped <- daemon.Serve(serveCtx, d, listener, cfg.API, log) }()
	if err := systemd.Ready(d.Summary()); err != nil {
		log.Warn("readiness", zap.Error(err))
	}
	log.Info("ready", zap.String("status", d.Summary()), zap.Duration("after", time.Since(began)))
	debug.FreeOSMemory() // kernel BTF and the parsed objects are not needed again

	err = attend(serveCtx, d, log, hangup, stopped)
	if notifyErr := systemd.Stopping(); notifyErr != nil {
		log.Warn("stopping", zap.Error(notifyErr))
	}
	stop()
	return err
}

// attend does what comes from outside the API: signals and the watchdog.
func attend(ctx context.Context, d *daemon.Daemon, log *zap.Logger, hangup <-chan os.Signal, stopped <-chan error) error {
	interval, err := systemd.WatchdogInterval()
	if err != nil {
		return err
	}
	var tick <-chan time.Time
	if interval > 0 {
		t := time.NewTicker(interval)
		defer t.Stop()
		tick = t.C
	}
	var last daemon.Beat
	for {
		select {
		case <-ctx.Done():
			d.Interrupt()
			return <-stopped
		case err := <-stopped:
			return err
		case <-hangup:
			go reload(d, log) // the watchdog is fed meanwhile
		case <-tick:
			var beats bool
			if last, beats = d.Heart(last); !beats {
				continue // a change that hangs: the watchdog shall see it
			}
			if err := systemd.Alive(); err != nil {
				log.Warn("watchdog", zap.Error(err))
			}
		}
	}
}

func reload(d *daemon.Daemon, log *zap.Logger) {
	if err := systemd.Reloading(); err != nil {
		log.Warn("reloading", zap.Error(err))
	}
	d.Hangup() // reports its errors itself: there is nobody to return them to
	if err := systemd.Ready(d.Summary()); err != nil {
		log.Warn("readiness", zap.Error(err))
	}
}
