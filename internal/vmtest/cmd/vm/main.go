// Vm runs tests of this module in a guest with another kernel.
//
//	go run ./internal/vmtest/cmd/vm -kernel 7.3 -run TestX -v ./loader
//	go run ./internal/vmtest/cmd/vm -kernel 6.1 -shell
//	go run ./internal/vmtest/cmd/vm -run TestX ./lsm-module -args -guard.kills=200
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hornetd/hornetd/internal/vmtest"
)

type options struct {
	kernel, run, cover, module string
	clock, lsm                 string
	arch                       *vmtest.Arch
	verbose, shell, matrix     bool
	uefi                       bool
	counted                    bool
	guests, cpus               int
	timeout                    time.Duration
	packages, args             []string // args: of the test binary
}

func main() {
	var o options
	flag.StringVar(&o.kernel, "kernel", "", "kernel `version`: "+strings.Join(vmtest.Kernels, ", ")+", or what the archive has; with -matrix, several with commas")
	arch := flag.String("arch", vmtest.AMD64.Name, "`architecture` of the guest: amd64 or arm64")
	flag.StringVar(&o.run, "run", "", "run only tests that match the `pattern`")
	flag.StringVar(&o.cover, "coverprofile", "", "write a coverage profile to `file`")
	flag.BoolVar(&o.verbose, "v", false, "print every test")
	flag.BoolVar(&o.shell, "shell", false, "a shell in the guest instead of tests; end it with exit")
	flag.BoolVar(&o.uefi, "uefi", false, "boot by Debian's UEFI firmware, whose key the kernel then has; not with -matrix")
	flag.StringVar(&o.lsm, "lsm", "", "security modules of the kernel, as lsm= takes them: `landlock,yama` is without bpf; not with -matrix")
	flag.BoolVar(&o.matrix, "matrix", false, "the tests that need a kernel, on every kernel")
	flag.IntVar(&o.guests, "guests", 0, "at most so many guests at once; 0 is what fits")
	flag.IntVar(&o.cpus, "cpus", 0, "processors of the guest; 0 is 2. With one, the kernel patches no code that another executes, which emulation does not take well")
	flag.BoolVar(&o.counted, "icount", false, "one processor, whose clock counts its instructions: one is a nanosecond")
	flag.StringVar(&o.clock, "clock", "", "`date` at which the guest's clock begins, as 2046-12-31: what the tests say then")
	flag.DurationVar(&o.timeout, "timeout", 15*time.Minute, "of the tests of one package")
	flag.Parse()
	o.packages = flag.Args()
	if i := slices.Index(o.packages, "-args"); i >= 0 {
		o.packages, o.args = o.packages[:i], o.packages[i+1:]
	}
	var err error
	if o.arch, err = vmtest.ArchNamed(*arch); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.main(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func (o *options) main(ctx context.Context) error {
	module, err := moduleDir()
	if err != nil {
		return err
	}
	o.module = module
	if o.matrix {
		return o.runMatrix(ctx)
	}
	if o.kernel == "" {
		o.kernel = vmtest.Kernels[len(vmtest.Kernels)-1]
	}
	k, err := o.arch.Find(o.kernel)
	if err != nil {
		return err
	}
	t := &vmtest.Tests{Arch: o.arch, Packages: o.packages, Flags: o.flags(), Timeout: o.timeout, CI: os.Getenv("CI") == "true", Clock: o.clock}
	if len(t.Packages) == 0 {
		t.Packages = []string{"./loader"}
	}
	if o.cover != "" {
		t.Cover = "./..."
	}
	dir, err := os.MkdirTemp("", "hornet-tests-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := t.Build(dir); err != nil {
		return err
	}
	g, err := t.Guest(k, dir, o.module)
	if err != nil {
		return err
	}
	g.UEFI, g.LSM = o.uefi, o.lsm
	g.Counted, g.CPUs = o.counted, o.cpus
	if o.shell {
		g.Commands, g.Shell = nil, true
		fmt.Printf("%s: test binaries are in /vm/bin, sources in /src; end with exit\n", k.Release)
	}
	start := time.Now()
	r, err := g.Run(ctx, func(_ int, b []byte) { os.Stdout.Write(b) })
	if r.Console != "" {
		fmt.Printf("console of the guest: %s\n", r.Console)
	}
	if err == nil && !o.shell {
		fmt.Printf("ok: %s in %.0f s\n", r.Release, time.Since(start).Seconds())
	}
	return errors.Join(err, o.profile(r))
}

// runMatrix ends with "N passed, N failed, N skipped". A run of everything also
// writes the table in the README.
func (o *options) runMatrix(ctx context.Context) error {
	m := vmtest.Matrix{
		Kernels: o.arch.Matrix, Module: o.module, Guests: o.guests, Log: os.Stdout,
		Tests: vmtest.Tests{Arch: o.arch, Packages: o.arch.Packages, Flags: o.runFlag(), Timeout: o.timeout, CI: os.Getenv("CI") == "true", Clock: o.clock},
	}
	whole := o.kernel == "" && len(o.packages) == 0 && o.run == ""
	if o.kernel != "" {
		m.Kernels = strings.Split(o.kernel, ",")
	}
	if len(o.packages) > 0 {
		m.Tests.Packages = o.packages
	}
	results, err := m.Run(ctx)
	if err != nil {
		return err
	}
	if failed := vmtest.Summary(os.Stdout, results); failed > 0 {
		return fmt.Errorf("%d failed", failed)
	}
	if whole {
		command, table := "make vm-matrix", vmtest.Table(m.Kernels, results)
		if o.arch != vmtest.AMD64 {
			command, table = "make vm-"+o.arch.Name, vmtest.TableOfTests(o.arch, m.Kernels, results)
		}
		return vmtest.WriteTable(filepath.Join(o.module, "internal/vmtest/README.md"), command, table)
	}
	return nil
}

func (o *options) runFlag() []string {
	if o.run == "" {
		return nil
	}
	return []string{"-test.run=" + o.run}
}

func (o *options) flags() []string {
	flags := o.runFlag()
	if o.verbose {
		flags = append(flags, "-test.v")
	}
	return append(flags, o.args...)
}

// profile joins the coverage profiles of the packages.
func (o *options) profile(r *vmtest.Report) error {
	if o.cover == "" {
		return nil
	}
	joined := "mode: atomic\n"
	for name, b := range r.Files {
		if strings.HasPrefix(name, "cover/") {
			_, blocks, _ := strings.Cut(string(b), "\n")
			joined += blocks
		}
	}
	return os.WriteFile(o.cover, []byte(joined), 0o644)
}

func moduleDir() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
