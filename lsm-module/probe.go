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

// Probe asks the running kernel, until something is missing. It changes nothing; it needs CAP_SYS_ADMIN,
// which listing the kernel's types takes (BPF_BTF_GET_NEXT_ID), and securityfs.
func Probe() Support {
	s, _, _ := probe()
	return s
}

// probe is Probe, with what it has read and decided. They are good where nothing is missing.
func probe() (s Support, kernel *btf.Spec, p plan) {
	list, err := os.ReadFile(lsmList)
	s.add(judgeList(string(list), err))
	lockdown, err := os.ReadFile(lockdownFile)
	s.add(judgeLockdown(string(lockdown), err))
	if len(s.Missing) > 0 {
		return s, nil, p // and the kernel's types, which are megabytes, are not read
	}
	if kernel, err = typesOfKernel(); err != nil {
		s.add(noTypes(err))
		return s, nil, p
	}
	p = choose(kernel)
	s.Open = p.open
	if err := p.noFloor; err != nil {
		s.Open = append(s.Open, Missing{"floor", noFloor, remedy.Of(err)})
	}
	for _, m := range p.missing {
		s.add(&m)
	}
	for _, h := range p.hooks {
		s.Hooks = append(s.Hooks, h.Name)
	}
	if len(s.Missing) == 0 {
		s.add(tryLoad())
	}
	return s, kernel, p
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

// noTypes is about an error of typesOfKernel.
func noTypes(err error) *Missing {
	hint := "boot a kernel with CONFIG_DEBUG_INFO_BTF=y"
	if errors.Is(err, unix.EPERM) {
		hint = "run it as root, with CAP_SYS_ADMIN"
	}
	return &Missing{"BTF", err.Error(), hint}
}

// tryLoad loads an LSM program that does nothing: some kernels list bpf and
// refuse every one of them.
func tryLoad() *Missing {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "bpf", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err == nil {
		p.Close()
		return nil
	}
	hint := "boot a kernel with CONFIG_BPF_LSM=y, CONFIG_BPF_JIT=y and ftrace"
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		hint = "run it as root: it takes CAP_BPF and CAP_PERFMON"
	}
	return &Missing{"programs of type LSM", err.Error(), hint}
}

// plan is which hooks are used on a kernel.
type plan struct {
	hooks         []hook
	open, missing []Missing
	floor         []hook
	noFloor       error // why there is none, or nil
	unverified    error // why nothing can be allowed because the kernel has verified it, or nil
}

// choose decides on the kernel's own type information.
func choose(kernel *btf.Spec) plan {
	p := plan{unverified: verdicts(kernel)}
	p.hooks = p.usable(kernel, hooks)
	p.floor, p.noFloor = p.chooseFloor(kernel)
	for i, h := range hooks {
		if p.uses(h.Name) || p.uses(h.Instead) || i > 0 && hooks[i-1].Name == h.Name {
			continue
		}
		m := unused(kernel, h)
		switch {
		case h.Verdict: // asked for by kernel_signed alone
		case h.For == "":
			p.missing = append(p.missing, m)
		default:
			p.open = append(p.open, Missing{m.What, h.For, since(h)})
		}
	}
	if p.unverified == nil {
		p.unverified = p.hears(kernel)
	}
	return p
}

// usable returns of some programs those that the kernel has hooks for.
func (p plan) usable(kernel *btf.Spec, all []hook) (use []hook) {
	for _, h := range all {
		if has(use, h.Name) || h.Verdict && p.unverified != nil {
			continue
		}
		if args, err := arguments(kernel, h.Name); err == nil && h.takes(args) {
			use = append(use, h)
		}
	}
	return use
}

// hears returns nil where the programs are used that let through what the kernel has
// verified, and refuse what it has not: one counts on the other.
func (p plan) hears(kernel *btf.Spec) error {
	for _, h := range hooks {
		if h.Program != "guard_bpf" && h.Program != "guard_load" || slices.Contains(p.hooks, h) {
			continue
		}
		args, err := arguments(kernel, h.Name)
		if err != nil {
			args = err.Error()
		}
		return remedy.With(fmt.Errorf("guard: what the kernel has verified cannot be told from the rest: its hook %s has other arguments (%s) than %s takes (%s)", h.Name, args, h.Program, h.Args),
			"take kernel_signed out of [[guard.allow]], or install a hornetd that knows this kernel")
	}
	return nil
}

func (p plan) uses(name string) bool { return has(p.hooks, name) }

func has(all []hook, name string) bool {
	return slices.ContainsFunc(all, func(h hook) bool { return h.Name == name })
}

// takes is about the arguments that the kernel gives, as arguments returns them.
func (h hook) takes(args string) bool {
	first, more := strings.CutSuffix(h.Args, ", ...")
	return h.Args == "" || args == first || more && strings.HasPrefix(args, first+", ")
}

// unused says why a hook is not used: the kernel has not got it, or another one by its name.
func unused(kernel *btf.Spec, h hook) Missing {
	what := "hook " + h.Name
	if args, err := arguments(kernel, h.Name); err == nil {
		return Missing{what, fmt.Sprintf("the kernel's has arguments that this guard does not know (%s)", args), "install a hornetd that knows this kernel, or boot an older kernel"}
	}
	return Missing{what, "the kernel's types have no bpf_lsm_" + h.Name, "boot a kernel from 6.1 on with CONFIG_BPF_LSM=y"}
}

// verdicts returns nil where the kernel tells of a program whether it has verified its
// signature, and by which keyring: struct bpf_prog_aux has it, since 7.2.
func verdicts(kernel *btf.Spec) error {
	var aux *btf.Struct
	if err := kernel.TypeByName("bpf_prog_aux", &aux); err != nil {
		return err
	}
	if sig, ok := member(aux, "sig").(*btf.Struct); ok && member(sig, "verdict") != nil && member(sig, "keyring_type") != nil {
		return nil
	}
	return remedy.With(errors.New("guard: the kernel does not tell whether it has verified a program"),
		"boot Linux 7.2 or later, or take kernel_signed out of [[guard.allow]]")
}

// member returns the type of one, without qualifiers and the like, or nil.
func member(s *btf.Struct, name string) btf.Type {
	for _, m := range s.Members {
		if m.Name == name {
			return btf.UnderlyingType(m.Type)
		}
	}
	return nil
}

func since(h hook) string {
	if h.Since == "" {
		return ""
	}
	return "boot Linux " + h.Since + " or later"
}

// arguments returns the types of what an LSM hook takes, as C writes them: "struct dentry *, int".
func arguments(kernel *btf.Spec, hook string) (string, error) {
	var f *btf.Func
	if err := kernel.TypeByName("bpf_lsm_"+hook, &f); err != nil {
		return "", err
	}
	proto, ok := f.Type.(*btf.FuncProto)
	if !ok {
		return "", fmt.Errorf("bpf_lsm_%s: a %T", hook, f.Type)
	}
	var args []string
	for _, p := range proto.Params {
		args = append(args, inC(p.Type))
	}
	return strings.Join(args, ", "), nil
}

// inC writes a type of an argument, without qualifiers and by what typedefs stand for.
func inC(typ btf.Type) string {
	switch t := btf.UnderlyingType(typ).(type) {
	case *btf.Pointer:
		return inC(t.Target) + " *"
	case *btf.Struct:
		return "struct " + t.Name
	case *btf.Union:
		return "union " + t.Name
	case *btf.Fwd:
		return t.Kind.String() + " " + t.Name
	case *btf.Int:
		if t.Encoding == btf.Bool { // compilers name it as they like
			return "bool"
		}
		return t.Name
	case *btf.Enum:
		return "enum " + t.Name
	case *btf.Void:
		return "void"
	default:
		return fmt.Sprintf("%T", t)
	}
}
