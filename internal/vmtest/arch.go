package vmtest

import "fmt"

// Arch is an architecture that guests can have, and what is different there.
type Arch struct {
	Name     string   // as Debian and Go call it
	Matrix   []string // kernels that its matrix runs
	Packages []string // what it runs there
	qemu     string   // emulates it
	setup    string   // installs that
	machine  []string // arguments of QEMU
	line     string   // end of the kernel's command line
	console  string   // device of the first serial port
	cache    string   // directory of its kernels and programs in CacheDir
	programs []string // what tests run beside Go's
	packages []string // where they come from; nil is this machine, which must have them
}

// AMD64 guests run programs of this machine.
var AMD64 = &Arch{
	Name: "amd64", Matrix: Kernels, Packages: MatrixPackages,
	qemu: "qemu-system-x86_64", setup: "scripts/vm-setup",
	machine: []string{"-machine", "q35", "-cpu", "max"}, console: "ttyS0",
	// Else the kernel finds out with all processors running that their counters
	// differ, and changes sched_clock_cpu under them.
	line:  "tsc=unstable",
	cache: "kernels", programs: programs,
}

// ARM64 guests run programs from Debian's archive. Their processor has pointer
// authentication, so that the kernel compiles BPF with it; QEMU's own algorithm
// costs a third of the architecture's.
var ARM64 = &Arch{
	Name: "arm64", Matrix: Kernels[len(Kernels)-1:], Packages: []string{"./examples/..."},
	qemu: "qemu-system-aarch64", setup: "scripts/vm-setup arm64",
	machine: []string{"-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on"}, console: "ttyAMA0",
	cache: "arm64",
	programs: []string{"bash", "true", "setsid", "setpriv", "unshare", "nsenter", "prlimit", "mountpoint",
		"ip", "ping", "curl", "bpftool", "ldd", "nm", "readelf"},
	packages: []string{"bash", "binutils", "bpftool", "busybox-static", "coreutils", "curl", "iproute2", "iputils-ping",
		"libc-bin", "libxdp1", "util-linux"},
}

// ArchNamed returns an architecture by its name.
func ArchNamed(name string) (*Arch, error) {
	for _, a := range []*Arch{AMD64, ARM64} {
		if a.Name == name {
			return a, nil
		}
	}
	return nil, fmt.Errorf("architecture %q: must be %s or %s", name, AMD64.Name, ARM64.Name)
}

// flavour is the end of the names of its kernels: small, and for virtual machines.
func (a *Arch) flavour() string { return "-cloud-" + a.Name }
