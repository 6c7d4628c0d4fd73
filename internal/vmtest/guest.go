package vmtest

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Path is the environment of everything that runs in a guest.
const Path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Guest says what to boot and what to run there.
type Guest struct {
	Kernel   *Kernel
	Modules  []string          // by name; what they depend on comes along
	Sysroot  string            // directory that Programs and Host are in; "" is this machine's root
	Programs []string          // by name, with their libraries
	Files    map[string]string // name in the guest: file or directory of this machine
	Host     []string          // files and directories of the sysroot, under the same name
	Commands []Command
	Shell    bool
	Disk     string        // image of a system to boot, written to; "" is none
	Reboot   bool          // after the commands, reboot the disk instead of switching off
	Networks int           // interfaces: eth0 has the host 10.0.2.2, eth1 10.0.3.2, and nobody else
	CPUs     int           // 0 is 2
	Counted  bool          // one processor, whose clock is the number of its instructions, in nanoseconds
	Clock    string        // date at which its clock begins, as 2046-12-31; "" is today
	Memory   int           // MiB; 0 is 2048
	Timeout  time.Duration // of the whole guest; 0 is 5 minutes
	UEFI     bool          // boot by Debian's firmware, whose db, and so the kernel's platform keyring, has the key of UEFIKey
	LSM      string        // security modules of its kernel, as lsm= takes them; "" is all that tests need, bpf among them
	Console  string        // file for what the kernel prints; "" is one in the cache

	bootLimit time.Duration // 0 is bootLimit
}

// Run boots the guest, runs its commands, and waits until it is off. What the
// commands print goes to out as it comes, with the command's index. The report
// is complete as far as the guest came, also with an error. The console's log
// is removed if all went well.
func (g *Guest) Run(ctx context.Context, out func(command int, b []byte)) (*Report, error) {
	r := newReport()
	arch := g.Kernel.Arch
	qemu, err := exec.LookPath(arch.qemu)
	if err != nil {
		return r, unavailable("%s guest: %s is not installed: run %s", arch.Name, arch.qemu, arch.setup)
	}
	dir, err := os.MkdirTemp("", "hornet-vm-")
	if err != nil {
		return r, unavailable("guest: %w", err)
	}
	defer os.RemoveAll(dir)
	p := &Plan{
		Nonce: rand.Text(), Commands: g.Commands, Shell: g.Shell, Console: "/dev/" + arch.console,
		Disk: g.Disk != "", Reboot: g.Reboot,
	}
	if g.UEFI {
		if err := g.uefi(); err != nil {
			return r, err
		}
	}
	initrd := filepath.Join(dir, "initrd")
	if err := g.initramfs(initrd, p); err != nil {
		return r, err
	}
	console, err := g.consoleFile()
	if err != nil {
		return r, err
	}

	limit := g.Timeout
	if limit == 0 {
		limit = 5 * time.Minute
	}
	if g.Shell {
		limit = 24 * time.Hour
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	hung := false
	for try := 1; try == 1 || r.Release == "" && try <= maxBoots && ctx.Err() == nil; try++ {
		r = newReport()
		r.Boots = try
		cmd := exec.CommandContext(ctx, qemu, g.arguments(initrd, console)...)
		if hung, err = g.follow(cmd, r, p, out); err != nil {
			return r, err
		}
	}
	text, _ := os.ReadFile(console)
	err = r.verdict(p, string(text), hung || ctx.Err() == context.DeadlineExceeded)
	if err == nil && g.Console == "" {
		os.Remove(console)
		return r, nil
	}
	r.Console = console
	return r, errors.Join(err, shorten(console))
}

// Under emulation with several processors one of them can execute code as it was
// before another changed it: a kernel that patches itself while it boots then meets a
// breakpoint that is gone, and oopses or stops for ever. Before /init nothing of
// ours has run, so the guest is started again. What made one boot in a hundred
// fail is ruled out by tsc=unstable, in AMD64.
const (
	bootLimit = time.Minute // it takes about 4 s
	maxBoots  = 3
)

// What boots Debian's ovmf, and the key pair that its variables trust, which is
// everybody's; its pass phrase is "snakeoil".
const (
	uefiCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	uefiVars = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"
	uefiKey  = "/usr/share/ovmf/PkKek-1-snakeoil"

	// UEFIKey is where a guest with UEFI has the key, and the certificate.
	UEFIKey, UEFICert = "/vm/uefi.key", "/vm/uefi.pem"

	uefiBootLimit = 3 * time.Minute // it takes about 40 s
)

func (g *Guest) uefi() error {
	for _, name := range []string{uefiCode, uefiVars, uefiKey + ".key", uefiKey + ".pem"} {
		if _, err := os.Stat(name); err != nil {
			return unavailable("guest with UEFI: %w: install ovmf", err)
		}
	}
	g.Files[UEFIKey], g.Files[UEFICert] = uefiKey+".key", uefiKey+".pem"
	g.bootLimit = uefiBootLimit
	return nil
}

// follow runs QEMU and reads the guest's port until it is off. A guest has hung,
// and is ended, if its /init does not begin within the limit, or if the time of a
// command is over and it does not say so.
func (g *Guest) follow(cmd *exec.Cmd, r *Report, p *Plan, out func(int, []byte)) (hung bool, err error) {
	// QEMU goes when this process does, however it does. The signal comes when
	// the thread that started it ends, so that is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if g.Shell {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	port, end, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer port.Close()
	cmd.ExtraFiles = []*os.File{end} // 3
	err = cmd.Start()
	end.Close()
	if err != nil {
		return false, unavailable("guest: %w", err)
	}
	limit := g.bootLimit
	if limit == 0 {
		limit = bootLimit
	}
	if g.Counted {
		limit *= 5
	}
	var late atomic.Bool
	patience := time.AfterFunc(limit, func() { late.Store(true); cmd.Process.Kill() })
	defer patience.Stop()
	r.wait = func(d time.Duration) {
		if patience.Stop(); d > 0 {
			patience.Reset(d)
		}
	}
	readErr := r.read(port, p, out)
	if readErr != nil {
		cmd.Process.Kill()
	}
	err = cmd.Wait()
	if err != nil && r.Release == "" && !late.Load() && complaint.Len() > 0 {
		return false, fmt.Errorf("guest: qemu: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return late.Load(), readErr
}

// arguments are QEMU's. There is no network and no disk but those asked for; a
// panic ends it, and so does a reboot.
func (g *Guest) arguments(initrd, console string) []string {
	cpus, memory := g.CPUs, g.Memory
	if cpus == 0 {
		cpus = 2
	}
	if memory == 0 {
		memory = 2048
	}
	// An oops must fail the test, and an emulated processor is slow enough to
	// look stuck.
	line := "console=" + g.Kernel.Arch.console + " loglevel=5 panic=-1 oops=panic nosoftlockup nowatchdog mitigations=off " +
		"random.trust_cpu=on lsm=" + cmp.Or(g.LSM, "landlock,lockdown,yama,integrity,bpf") + " " + g.Kernel.Arch.line
	accel := "tcg,thread=multi"
	if g.Counted {
		accel, cpus = "tcg", 1
	}
	args := append(slices.Clip(g.Kernel.Arch.machine), "-accel", accel, "-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(memory),
		"-display", "none", "-no-reboot", "-net", "none", "-nodefaults", "-no-user-config",
		"-kernel", filepath.Join(g.Kernel.dir, "vmlinuz"), "-initrd", initrd, "-append", line)
	if g.Clock != "" {
		args = append(args, "-rtc", "base="+g.Clock)
	}
	if g.UEFI {
		args = append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+uefiCode,
			"-drive", "if=pflash,format=raw,unit=1,snapshot=on,file="+uefiVars)
	}
	if g.Counted {
		args = append(args, "-icount", "shift=0,sleep=off")
	}
	if g.Disk != "" {
		// Not more durable than the guest: it is a copy.
		args = append(args, "-drive", "if=virtio,format=raw,cache=unsafe,file="+g.Disk)
	}
	for i := range g.Networks {
		args = append(args, "-netdev", fmt.Sprintf("user,id=net%d,restrict=on,net=10.0.%d.0/24", i, i+2),
			"-device", fmt.Sprintf("virtio-net-pci,romfile=,netdev=net%d", i))
	}
	// A write of the guest ends when the host has the bytes: what a test said
	// before it took the kernel down is not lost. The port is a file, because
	// the guest waits where the host's end has come, as that of stdin has.
	args = append(args, "-device", "virtio-serial-pci,ioeventfd=off", "-device", "virtserialport,chardev=port,name="+PortName,
		"-chardev", "file,id=port,path=/proc/self/fd/3")
	if g.Shell {
		return append(args, "-chardev", "stdio,id=con,mux=on,signal=off", "-serial", "chardev:con", "-mon", "chardev=con")
	}
	return append(args, "-serial", "file:"+console)
}

// initramfs writes the guest's first root.
func (g *Guest) initramfs(name string, p *Plan) error {
	f, err := os.Create(name)
	if err != nil {
		return unavailable("guest: %w", err)
	}
	defer f.Close()
	// Not compressed: unpacking costs an emulated processor more than reading.
	w := bufio.NewWriterSize(f, 1<<20)
	r := newRoot(w, g.Sysroot)
	if err := g.fill(r, p); err != nil {
		return fmt.Errorf("guest: initramfs: %w", err)
	}
	if err := errors.Join(r.close(), w.Flush()); err != nil {
		return unavailable("guest: initramfs: %w", err)
	}
	return nil
}

func (g *Guest) fill(r *root, p *Plan) error {
	init, err := g.Kernel.Arch.initBinary()
	if err != nil {
		return err
	}
	if err := r.system(); err != nil {
		return err
	}
	r.file("/init", 0o755, init)
	for name, src := range g.Files {
		if err := r.tree(src, name); err != nil {
			return err
		}
	}
	for _, name := range g.Host {
		if err := r.all(name); err != nil {
			return err
		}
	}
	for _, name := range g.Programs {
		if err := r.program(name); err != nil {
			return unavailable("%w: run %s", err, g.Kernel.Arch.setup)
		}
	}
	if p.Port, err = r.modules(g.Kernel, portModules); err != nil {
		return err
	}
	modules := g.Modules
	if g.Disk != "" {
		modules = append(slices.Clip(modules), "virtio_pci", "virtio_blk", "ext4")
	}
	if g.Networks > 0 {
		modules = append(slices.Clip(modules), "virtio_pci", "virtio_net")
	}
	if p.Modules, err = r.modules(g.Kernel, modules); err != nil {
		return err
	}
	if err := r.busybox(); err != nil {
		return err
	}
	return r.plan(p)
}

// initBinary builds /init. The go command keeps what it has built.
func (a *Arch) initBinary() ([]byte, error) {
	dir, err := os.MkdirTemp("", "hornet-init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "init")
	cmd := a.goCommand("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, "github.com/hornetd/hornetd/internal/vmtest/init")
	cmd.Env = append(cmd.Env, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build /init: %w: %s", err, out)
	}
	return os.ReadFile(file)
}

// consoleFile returns a new file for the console in the cache, and removes the
// oldest of them.
func (g *Guest) consoleFile() (string, error) {
	if g.Console != "" {
		return g.Console, nil
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "console")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", unavailable("guest: %w", err)
	}
	const keep = 20
	old, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for len(old) >= keep { // names sort by time
		os.Remove(old[0])
		old = old[1:]
	}
	stamp := time.Now().UTC().Format("20060102-150405.000000")
	return filepath.Join(dir, fmt.Sprintf("%s-%s-%s.log", stamp, g.Kernel.Name, g.Kernel.Arch.Name)), nil
}

// Most of a console's log that is kept: its start and its end.
const keepStart, keepEnd = 32 << 10, 96 << 10

// shorten cuts the middle out of a long log.
func shorten(name string) error {
	b, err := os.ReadFile(name)
	if err != nil || len(b) <= keepStart+keepEnd {
		return nil
	}
	cut := len(b) - keepStart - keepEnd
	short := fmt.Appendf(b[:keepStart:keepStart], "\n[%d bytes left out]\n", cut)
	return os.WriteFile(name, append(short, b[len(b)-keepEnd:]...), 0o644)
}
