package loader

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/internal/remedy"
)

// mostFunctions bounds what the patterns of one [[attach]] may match.
const mostFunctions = 1000

// function returns the one function that the manifest or else the section names.
func (r request) function(example string) (string, error) {
	name := cmp.Or(r.Function, r.hook.fixed)
	if name == "" {
		return "", r.refuse("function", "write "+example,
			"is missing: neither the section of %q nor the manifest names one", r.Program)
	}
	return name, nil
}

// kernelFunction is what fentry, fexit, fmod_ret and lsm programs are for.
func (r request) kernelFunction(t Target) (_ Target, err error) {
	if t.Function, err = r.function(`function = "NAME"`); err != nil {
		return t, err
	}
	inKernel := t.Function
	if r.hook.attach == ebpf.AttachLSMMac {
		if err := lsmRuns(); err != nil {
			return t, r.fail("program", err)
		}
		inKernel = "bpf_lsm_" + t.Function
	}
	id, err := functionID(r.types, inKernel)
	switch {
	case errors.Is(err, btf.ErrNotFound) && inKernel != t.Function:
		err = remedy.With(fmt.Errorf("this kernel has no LSM hook %s", t.Function),
			"name one of include/linux/lsm_hook_defs.h of its source: file_open, not security_file_open")
	case errors.Is(err, btf.ErrNotFound):
		err = remedy.With(fmt.Errorf("this kernel has no function %s, or no type information about it", t.Function),
			"look for it with bpftool btf dump file /sys/kernel/btf/vmlinux; the compiler inlines and renames functions")
	case errors.Is(err, btf.ErrMultipleMatches):
		err = remedy.With(fmt.Errorf("this kernel has several functions %s", t.Function), "name a function that there is once")
	}
	t.TypeID = uint32(id)
	return t, r.fail("function", err)
}

// functionID looks a function up in the type information of the kernel and then
// of its modules.
func functionID(types *btf.Cache, name string) (btf.TypeID, error) {
	spec, err := types.Kernel()
	if err != nil {
		return 0, remedy.With(fmt.Errorf("type information of the kernel: %w", err), "use a kernel with CONFIG_DEBUG_INFO_BTF")
	}
	id, err := functionIn(spec, name)
	if !errors.Is(err, btf.ErrNotFound) {
		return id, err
	}
	modules, e := types.Modules()
	if e != nil {
		return 0, err
	}
	return functionAmong(func(yield func(*btf.Spec) bool) {
		for _, module := range modules {
			// Without an error it is neither gone meanwhile nor without types.
			if spec, err := types.Module(module); err == nil && !yield(spec) {
				return
			}
		}
	}, name)
}

// functionAmong looks a function up in the type information of modules. Of those
// of several the library would take that of the module that was loaded first.
func functionAmong(modules iter.Seq[*btf.Spec], name string) (btf.TypeID, error) {
	found, err := btf.TypeID(0), btf.ErrNotFound
	for spec := range modules {
		id, e := functionIn(spec, name)
		switch {
		case errors.Is(e, btf.ErrNotFound):
		case e != nil:
			return 0, e
		case err == nil:
			return 0, btf.ErrMultipleMatches
		default:
			found, err = id, nil
		}
	}
	return found, err
}

func functionIn(spec *btf.Spec, name string) (btf.TypeID, error) {
	var f *btf.Func
	if err := spec.TypeByName(name, &f); err != nil {
		return 0, err
	}
	return spec.TypeID(f)
}

const securityModules = "/sys/kernel/security/lsm"

// lsmRuns refuses LSM programs where the kernel would take them and never run
// them.
func lsmRuns() error {
	b, err := os.ReadFile(securityModules)
	if errors.Is(err, fs.ErrNotExist) {
		return remedy.With(errors.New("only securityfs tells whether this kernel runs LSM programs, and it is not mounted"),
			"mount it: mount -t securityfs securityfs /sys/kernel/security")
	}
	if err != nil {
		return err
	}
	return lsmListed(strings.TrimSpace(string(b)))
}

// lsmListed looks into the list of active modules, "capability,bpf".
func lsmListed(modules string) error {
	if slices.Contains(strings.Split(modules, ","), "bpf") {
		return nil
	}
	// The first module is always there and not in the parameter.
	listed := strings.TrimPrefix(strings.TrimPrefix(modules, "capability"), ",")
	return remedy.With(fmt.Errorf("this kernel runs no LSM programs: bpf is not among its security modules (%s)", modules),
		"boot it with lsm=%s", strings.TrimPrefix(listed+",bpf", ","))
}

// replacement is a function of a program of the same object. Of another
// collection's it would be lost, without a word, when that one is replaced.
func (r request) replacement(t Target) (_ Target, err error) {
	if t.Function, err = r.function(`function = "NAME" of a global function of the program it replaces`); err != nil {
		return t, err
	}
	target := r.spec.Programs[r.Replaces]
	if target == nil || target.Type == ebpf.UnspecifiedProgram {
		return t, r.refuse("replaces", "write "+examples["replaces"],
			"there is no program %q in the object%s", r.Replaces, suggest(r.Replaces, programNames(r.spec)))
	}
	if target.Type == ebpf.Extension {
		return t, r.refuse("replaces", "name the program whose function both are for",
			"%q takes the place of a function itself", r.Replaces)
	}
	t.Replaces = r.Replaces
	return t, nil
}

// kprobe leaves it to the kernel whether there is the function: it may be one
// without type information.
func (r request) kprobe(t Target) (_ Target, err error) {
	example := `function = "do_exit"`
	if r.hook.syscall {
		example = `function = "execve", a system call`
	}
	if t.Function, err = r.function(example); err != nil {
		return t, err
	}
	if name, plus, ok := strings.Cut(t.Function, "+"); ok && r.Function == "" { // of the section
		t.Function = name
		if t.Offset, err = strconv.ParseUint(plus, 0, 64); err != nil {
			return t, r.refuse("offset", "write offset = N", "%q in the section of %q is not a number", plus, r.Program)
		}
	}
	if r.Offset != 0 {
		t.Offset = r.Offset
	}
	if r.hook.syscall {
		t.Function = syscallPrefix() + t.Function
	}
	return t, nil
}

// syscallPrefix is what the kernel puts before the names of system calls
// (ARCH_HAS_SYSCALL_WRAPPER).
func syscallPrefix() string {
	return map[string]string{"amd64": "__x64_sys_", "arm64": "__arm64_sys_"}[runtime.GOARCH]
}

// kprobes finds the functions of a kprobe.multi program.
func (r request) kprobes(t Target) (_ Target, err error) {
	patterns := r.Functions
	if len(patterns) == 0 && r.hook.fixed != "" {
		patterns = []string{r.hook.fixed}
	}
	if len(patterns) == 0 {
		return t, r.refuse("functions", "write "+examples["functions"],
			"is missing: neither the section of %q nor the manifest names any", r.Program)
	}
	t.Function, t.Returns = strings.Join(patterns, ","), r.hook.returns
	t.Functions, err = traceable(patterns)
	return t, r.fail("functions", err)
}

// traceable returns the functions of the kernel that match patterns, sorted. The
// list of tracefs has exactly those that can be traced; /proc/kallsyms has many
// more, and one that the kernel refuses ends the attempt for all.
func traceable(patterns []string) ([]string, error) {
	dirs, err := tracefs()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dirs[0], "available_filter_functions"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, remedy.With(errors.New("this kernel does not trace functions"), "use a kernel with CONFIG_FUNCTION_TRACER and CONFIG_FPROBE")
	}
	if err != nil { // EPERM where the kernel is locked down
		return nil, remedy.With(err, "run hornetd as root, and on a kernel that is not locked down for confidentiality")
	}
	defer f.Close()
	times, err := named(f, patterns)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return chosen(patterns, times)
}

// noFunction begins the names that the kernel lists for places to trace that are in
// no function: weak ones that another definition has replaced.
const noFunction = "__ftrace_invalid_address___"

// named returns how many functions have a name that patterns match, of a list of
// lines such as "name [module]".
func named(list io.Reader, patterns []string) (map[string]int, error) {
	times := map[string]int{}
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), " ")
		if strings.HasPrefix(name, noFunction) {
			continue
		}
		if slices.ContainsFunc(patterns, func(p string) bool { return isMatch(p, name) }) {
			times[name]++
		}
	}
	return times, lines.Err()
}

// chosen returns the names that patterns match and one function has. The kernel
// takes names, and of several functions with one name the first: a pattern
// passes such names over, and a name alone is refused.
func chosen(patterns []string, times map[string]int) ([]string, error) {
	names := map[string]bool{}
	for _, p := range patterns {
		found := false
		for name, n := range times {
			if !isMatch(p, name) {
				continue
			}
			if n > 1 && !isPattern(p) {
				return nil, remedy.With(fmt.Errorf("%d functions of this kernel are called %s", n, name), "name functions that there are once")
			}
			found = true
			if n == 1 {
				names[name] = true
			}
		}
		if !found {
			return nil, remedy.With(fmt.Errorf("this kernel traces no function %s", p),
				"name some of those in available_filter_functions of tracefs; a module's need the module loaded")
		}
	}
	if len(names) == 0 {
		return nil, remedy.With(errors.New("all functions that match share their names with others"), "name functions that there are once")
	}
	return bounded(slices.Collect(maps.Keys(names)))
}

// bounded returns list sorted, each element once.
func bounded[T cmp.Ordered](list []T) ([]T, error) {
	slices.Sort(list)
	if list = slices.Compact(list); len(list) > mostFunctions {
		return nil, remedy.With(fmt.Errorf("%d functions match, more than %d", len(list), mostFunctions), "write narrower patterns")
	}
	return list, nil
}

// uprobes finds the functions of a uprobe.multi program.
func (r request) uprobes(t Target) (Target, error) {
	path, patterns := r.Executable, r.Symbols
	file, pattern, _ := cutLast(r.hook.fixed, ":")
	path = cmp.Or(path, file)
	if len(patterns) == 0 && pattern != "" {
		patterns = []string{pattern}
	}
	if !strings.HasPrefix(path, "/") {
		return t, r.refuse("executable", "write "+examples["executable"],
			"is missing: neither the section of %q nor the manifest has an absolute path", r.Program)
	}
	if len(patterns) == 0 {
		return t, r.refuse("symbols", "write "+examples["symbols"],
			"is missing: neither the section of %q nor the manifest names any", r.Program)
	}
	x, err := openExecutable(path)
	if err != nil {
		return t, r.fail("executable", err)
	}
	defer x.close()
	t.Executable, t.Inode, t.Device, t.Symbol, t.Returns = path, x.inode, x.device, strings.Join(patterns, ","), r.hook.returns
	if t.Offsets, err = x.offsets(patterns); err != nil {
		return t, r.fail("symbols", err)
	}
	t.Offsets, err = bounded(t.Offsets)
	return t, r.fail("symbols", err)
}

// structOps is a request that names a map and no program.
func (r request) structOps() ([]Target, error) {
	ms := r.spec.Maps[r.Map]
	if ms == nil {
		return nil, r.refuse("map", "write "+examples["map"], "there is no map %q in the object%s", r.Map, suggest(r.Map, mapNames(r.spec)))
	}
	if ms.Type != ebpf.StructOpsMap {
		return nil, r.refuse("program", `write program = "NAME", a function of the object`, "is missing: %q is no struct_ops map", r.Map)
	}
	r.hook = hook{kind: kindStructOps, attach: ebpf.AttachStructOps, needs: keys("map")}.named()
	r.prog = &ebpf.ProgramSpec{SectionName: structOpsSection}
	if err := r.checkKeys(); err != nil {
		return nil, err
	}
	return []Target{Target{Kind: r.hook.kind, AttachType: r.hook.name, Map: r.Map, Gap: r.Upgrade != ""}.named()}, nil
}

func mapNames(spec *ebpf.CollectionSpec) (names []string) {
	for name := range spec.Maps {
		names = append(names, name)
	}
	return names
}

// isPattern says whether p can mean other names than itself.
func isPattern(p string) bool { return strings.ContainsAny(p, "*?") }

// matches says whether name is what pattern says: * stands for any letters, ?
// for one. Unlike in paths, * stands for / too: Go's symbols have it. It also
// returns how many letters it compared, at most the product of the lengths.
func matches[S string | []byte](pattern string, name S) (ok bool, steps int) {
	star, mark := -1, 0 // the last *, and where in name what it stands for ends
	p := 0
	for n := 0; n < len(name); {
		steps++
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p, n = p+1, n+1
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false, steps
		}
	}
	return strings.Trim(pattern[p:], "*") == "", steps
}

// isMatch is matches where it does not matter how long it takes.
func isMatch(pattern, name string) bool {
	ok, _ := matches(pattern, name)
	return ok
}
