package lsm

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Support is what a kernel has of what the guard needs.
type Support struct {
	Hooks   []string  // LSM hooks that the guard would use
	Open    []Missing // hooks that it has not, and what stays open without them
	Missing []Missing // prerequisites; with any of them there is no guard
}

// Missing is something that a kernel has not.
type Missing struct {
	What   string // "bpf among the LSMs", "hook bpf_token_cmd"
	Why    string // what the kernel says, or what it is for
	Remedy string // "" where only another kernel helps
}

// Err names everything that is missing, or is nil. It has the first remedy.
func (s Support) Err() error {
	var errs []error
	hint := ""
	for _, m := range s.Missing {
		errs = append(errs, fmt.Errorf("guard: no %s: %s", m.What, m.Why))
		if hint == "" {
			hint = m.Remedy
		}
	}
	if err := errors.Join(errs...); hint != "" {
		return remedy.With(err, "%s", hint)
	} else {
		return err
	}
}

// Where the kernel tells.
const (
	lsmList      = "/sys/kernel/security/lsm"
	lockdownFile = "/sys/kernel/security/lockdown"
)

// Probe asks the running kernel, until something is missing. It changes nothing; it needs CAP_BPF and
// CAP_PERFMON, and securityfs.
func Probe() Support {
	var s Support
	list, err := os.ReadFile(lsmList)
	s.add(judgeList(string(list), err))
	lockdown, err := os.ReadFile(lockdownFile)
	s.add(judgeLockdown(string(lockdown), err))
	if len(s.Missing) > 0 {
		return s // and the kernel's types, which are megabytes, are not read
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		s.add(&Missing{"BTF", err.Error(), "boot a kernel with CONFIG_DEBUG_INFO_BTF=y"})
		return s
	}
	plan := choose(kernel)
	s.Open = plan.open
	for _, m := range plan.missing {
		s.add(&m)
	}
	for _, h := range plan.hooks {
		s.Hooks = append(s.Hooks, h.Name)
	}
	if len(s.Missing) == 0 {
		s.add(tryLoad())
	}
	return s
}

func (s *Support) add(m *Missing) {
	if m != nil {
		s.Missing = append(s.Missing, *m)
	}
}

// judgeList reads /sys/kernel/security/lsm: "lockdown,capability,bpf".
func judgeList(list string, err error) *Missing {
	const what = "bpf among the LSMs"
	if err != nil {
		return &Missing{what, err.Error(), "mount securityfs: mount -t securityfs securityfs /sys/kernel/security"}
	}
	names := strings.Split(strings.TrimSpace(list), ",")
	if slices.Contains(names, "bpf") {
		return nil
	}
	// What the kernel puts there itself is not for lsm=.
	names = slices.DeleteFunc(names, func(n string) bool { return n == "capability" || n == "" })
	return &Missing{what, fmt.Sprintf("%s has %s", lsmList, strings.TrimSpace(list)),
		"boot with lsm=" + strings.Join(append(names, "bpf"), ",") + " (needs CONFIG_BPF_LSM)"}
}

// judgeLockdown reads /sys/kernel/security/lockdown: "none [integrity] confidentiality".
func judgeLockdown(state string, err error) *Missing {
	if err != nil || !strings.Contains(state, "[confidentiality]") {
		return nil // without the file there is no lockdown
	}
	return &Missing{"reads of kernel memory by programs", "lockdown is at confidentiality",
		"boot with lockdown=integrity: the guard reads what is asked of bpf(2)"}
}

// tryLoad loads an LSM program that does nothing: some kernels list bpf and
// refuse every one of them.
func tryLoad() *Missing {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "bpf", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err == nil {
		return nilMissing(p.Close())
	}
	hint := "boot a kernel with CONFIG_BPF_LSM=y, CONFIG_BPF_JIT=y and ftrace"
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		hint = "run it as root: it takes CAP_BPF and CAP_PERFMON"
	}
	return &Missing{"programs of type LSM", err.Error(), hint}
}

func nilMissing(err error) *Missing {
	if err == nil {
		return nil
	}
	return &Missing{"programs of type LSM", err.Error(), ""}
}

// plan is which hooks are used on a kernel.
type plan struct {
	hooks         []hook
	open, missing []Missing
}

// choose decides on the kernel's own type information.
func choose(kernel *btf.Spec) plan {
	var p plan
	for _, h := range hooks {
		if h.Verdict && verdicts(kernel) != nil {
			continue
		}
		args, err := arguments(kernel, h.Name)
		switch {
		case err == nil && (h.Args == 0 || h.Args == args):
			p.hooks = append(p.hooks, h)
		case err == nil: // another program of this hook takes them
		case h.For == "":
			p.missing = append(p.missing, Missing{"hook " + h.Name, "the kernel's types have no bpf_lsm_" + h.Name, "boot a kernel from 6.1 on with CONFIG_BPF_LSM=y"})
		default:
			p.open = append(p.open, Missing{"hook " + h.Name, h.For, since(h)})
		}
	}
	return p
}

// verdicts returns nil where the kernel tells of a program whether it has verified its
// signature: struct bpf_prog_aux has it, since 7.2.
func verdicts(kernel *btf.Spec) error {
	var aux *btf.Struct
	if err := kernel.TypeByName("bpf_prog_aux", &aux); err != nil {
		return err
	}
	if slices.ContainsFunc(aux.Members, func(m btf.Member) bool { return m.Name == "sig" }) {
		return nil
	}
	return remedy.With(errors.New("guard: the kernel does not tell whether it has verified a program"),
		"boot Linux 7.2 or later, or take kernel_signed out of [[guard.allow]]")
}

func since(h hook) string {
	if h.Since == "" {
		return ""
	}
	return "boot Linux " + h.Since + " or later"
}

// arguments returns how many an LSM hook takes.
func arguments(kernel *btf.Spec, hook string) (int, error) {
	var f *btf.Func
	if err := kernel.TypeByName("bpf_lsm_"+hook, &f); err != nil {
		return 0, err
	}
	proto, ok := f.Type.(*btf.FuncProto)
	if !ok {
		return 0, fmt.Errorf("bpf_lsm_%s: a %T", hook, f.Type)
	}
	return len(proto.Params), nil
}
