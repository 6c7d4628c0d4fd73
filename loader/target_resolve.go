package loader

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// Resolve finds on this host what the [[attach]]es of m mean: one target each, or
// several where a glob of interfaces stands, in their order, but those that
// replace a function of another program first. Nothing is attached. It checks
// that the keys fit the programs' types and that what they name exists; every
// error has file, line and key of the manifest and a remedy.
//
// cache is that of LoadPrograms, and may be nil.
func Resolve(spec *ebpf.CollectionSpec, m manifest.Manifest, cache *btf.Cache) ([]Target, error) {
	return ResolveShown(spec, m, cache, nil)
}

// ResolveShown is Resolve, and shown is where those attach whose target is the
// caller's; where it is nil these are checked and have no target.
func ResolveShown(spec *ebpf.CollectionSpec, m manifest.Manifest, cache *btf.Cache, shown *Shown) ([]Target, error) {
	var all []Target
	var requests []request
	seen := map[string]int{}
	if cache == nil {
		cache = btf.NewCache()
	}
	for i, a := range m.Attach {
		r := request{Attach: a, m: m, key: "attach[" + strconv.Itoa(i) + "]", spec: spec, types: cache, shown: shown}
		targets, err := r.resolve()
		if err != nil {
			return nil, err
		}
		requests = append(requests, r)
		for _, t := range targets {
			if first, ok := seen[t.Link]; ok {
				return nil, r.refuse("", "remove one of the two", "attaches %s to %s, as attach[%d] does already", t.Program, t, first)
			}
			if j := slices.IndexFunc(all, func(o Target) bool { return o.Kind == kindTracing && o.Program == t.Program }); j >= 0 {
				return nil, r.refuse("", "remove one of the two, or put a second program into the object",
					"attaches %s to %s, but it is loaded for %s", t.Program, t, all[j])
			}
			seen[t.Link] = i
		}
		all = append(all, targets...)
	}
	if err := shown.checkShown(requests); err != nil {
		return nil, err
	}
	// What replaces a function is in place before the function runs.
	slices.SortStableFunc(all, func(a, b Target) int { return cmp.Compare(rank(a), rank(b)) })
	return all, nil
}

func rank(t Target) int {
	if t.Replaces != "" {
		return 0
	}
	return 1
}

// request is one [[attach]] of a manifest and what the object says about it.
type request struct {
	manifest.Attach
	m    manifest.Manifest
	key  string // "attach[0]"
	spec *ebpf.CollectionSpec
	prog *ebpf.ProgramSpec
	hook hook

	shown *Shown
	types *btf.Cache // of the kernel, for all requests
}

// refuse returns an error at a key of the request, at the request itself where
// key is "".
func (r request) refuse(key, hint, format string, args ...any) error {
	return remedy.With(r.m.Errorf(r.at(key), format, args...), "%s", hint)
}

// fail returns err at a key of the request. A remedy that err has is kept.
func (r request) fail(key string, err error) error {
	if err == nil {
		return nil
	}
	return r.m.Errorf(r.at(key), "%w", err)
}

func (r request) at(key string) string {
	if key == "" {
		return r.key
	}
	return r.key + "." + key
}

func (r *request) resolve() ([]Target, error) {
	if r.Attach.StructOps() {
		return r.structOps()
	}
	r.prog = r.spec.Programs[r.Program]
	if r.prog == nil {
		names := make([]string, 0, len(r.spec.Programs))
		for name := range r.spec.Programs {
			names = append(names, name)
		}
		return nil, r.refuse("program", "write the name of a function of the object that has a section of its own",
			"there is no program %q in the object%s", r.Program, suggest(r.Program, names))
	}
	var err error
	if r.hook, err = hookOf(r.prog, r.Direction); err != nil {
		return nil, r.fail("program", fmt.Errorf("%q %w", r.Program, err))
	}
	if err := r.checkKeys(); err != nil {
		return nil, err
	}
	if r.OfCaller() && r.shown == nil {
		return nil, nil
	}
	targets, err := r.targets()
	for i := range targets {
		targets[i] = targets[i].named()
		targets[i].Gap = r.Upgrade != ""
	}
	return targets, err
}

// checkKeys compares the keys that are there with those that the hook takes.
func (r request) checkKeys() error {
	given := map[string]bool{
		"interface":  r.Interface != "",
		"mode":       r.Mode != "",
		"direction":  r.Direction != "",
		"position":   r.Position != "",
		"netns":      r.Netns != "",
		"cgroup":     r.Cgroup != "",
		"tracepoint": r.Tracepoint != "",
		"executable": r.Executable != "",
		"symbol":     r.Symbol != "",
		"offset":     r.Offset != 0,
		"family":     r.Family != "",
		"hook":       r.Hook != "",
		"priority":   r.Priority != 0,
		"priorities": len(r.Priorities) > 0,
		"defrag":     r.Defrag,
		"function":   r.Function != "",
		"functions":  len(r.Functions) > 0,
		"symbols":    len(r.Symbols) > 0,
		"replaces":   r.Replaces != "",
		"map":        r.Map != "",
	}
	if r.OfCaller() && r.hook.shows() == "" {
		return r.refuse("target", "remove it: a caller shows a cgroup, a network namespace or a process, for programs that attach to one",
			"does not fit program %q, which is in section %q", r.Program, r.prog.SectionName)
	}
	thing, what := "the program", fmt.Sprintf("program %q, which is in section %q", r.Program, r.prog.SectionName)
	if r.Attach.StructOps() {
		thing, what = "a struct_ops map", fmt.Sprintf("map %q", r.Map)
	}
	takes := slices.Concat(r.hook.needs, r.hook.takes)
	all := keys("interface mode direction position netns cgroup tracepoint executable symbol symbols offset function functions replaces family hook priority priorities defrag map")
	for _, key := range all { // what is there and wrong says more than what is missing
		if given[key] && !slices.Contains(takes, key) {
			hint := "remove it: " + thing + " takes no key"
			if len(takes) > 0 {
				hint = "remove it: " + thing + " takes " + strings.Join(takes, ", ")
			}
			return r.refuse(key, hint, "does not fit %s", what)
		}
	}
	for _, key := range all {
		if !given[key] && slices.Contains(r.hook.needs, key) && !(key == "cgroup" && r.OfCaller()) {
			return r.refuse(key, "write "+examples[key], "is missing: program %q in section %q needs it", r.Program, r.prog.SectionName)
		}
	}
	return nil
}

// examples shows for each key that can be missing how to write it.
var examples = map[string]string{
	"interface":  `interface = "eth0", or a pattern such as "eth*"`,
	"direction":  `direction = "ingress" or "egress"`,
	"cgroup":     `cgroup = "system.slice", a path below the cgroup2 mount`,
	"tracepoint": `tracepoint = "sched/sched_process_exec"`,
	"executable": `executable = "/usr/bin/NAME", an absolute path`,
	"symbol":     `symbol = "NAME" of a function, or offset = N in the file`,
	"function":   `function = "NAME"`,
	"functions":  `functions = ["NAME", "PRE*"]`,
	"symbols":    `symbols = ["NAME", "PRE*"]`,
	"replaces":   `replaces = "PROGRAM", a program of this object whose function it takes the place of`,
	"family":     `family = "ipv4" or "ipv6"`,
	"hook":       `hook = "prerouting", "input", "forward", "output" or "postrouting"`,
	"map":        `map = "NAME" of a map of the object`,
}

// targets makes the targets of one request, without their names.
func (r request) targets() ([]Target, error) {
	t := Target{Program: r.Program, Kind: r.hook.kind, AttachType: r.hook.name}
	var err error
	switch r.hook.kind {
	case kindXDP, kindTCX:
		return r.interfaces(t)
	case kindNetns:
		t, err = r.namespace(t)
	case kindNetfilter:
		t, err = r.netfilter(t)
	case kindCgroup:
		t, err = r.cgroup(t)
	case kindRawTracepoint:
		t, err = r.rawTracepoint(t)
	case kindPerfEvent:
		switch r.hook.name {
		case "tracepoint":
			t, err = r.tracepoint(t)
		case "kprobe", "kretprobe":
			t, err = r.kprobe(t)
		default:
			t, err = r.uprobe(t)
		}
	case kindTracing:
		if r.hook.name == freplace {
			t, err = r.replacement(t)
		} else {
			t, err = r.kernelFunction(t)
		}
	case kindKprobeMulti:
		t, err = r.kprobes(t)
	case kindUprobeMulti:
		t, err = r.uprobes(t)
	case kindIter, kindSockmap:
		t, err = r.iterOrSockmap(t)
	}
	if err == nil && r.OfCaller() && r.hook.shows() == showsProcess {
		t, err = r.ofCaller(t)
	}
	if err != nil {
		return nil, err
	}
	return []Target{t}, nil
}

func (r request) interfaces(t Target) ([]Target, error) {
	t.Netns, t.Position = r.Netns, r.Position
	if r.Mode == "offload" {
		return nil, r.refuse("mode", `write mode = "native"; the network card's processor is for programs that are loaded into it`,
			"is offload, which hornetd cannot do")
	}
	if t.Kind == kindXDP {
		t.Mode = cmp.Or(r.Mode, "auto")
	} else {
		t.Position = cmp.Or(r.Position, "tail")
	}
	if r.OfCaller() {
		return r.callersInterface(t)
	}
	ns, err := openNetns(r.Netns)
	if err != nil {
		return nil, r.fail("netns", err)
	}
	defer ns.close()
	t.NetnsInode = ns.inode
	found, err := interfaces(ns, r.Interface)
	if err != nil {
		return nil, r.fail("interface", err)
	}
	var all []Target
	for _, i := range found {
		t.Interface, t.Ifindex = i.Name, i.Index
		all = append(all, t)
	}
	return all, nil
}

func (r request) namespace(t Target) (Target, error) {
	if r.OfCaller() {
		return r.ofCaller(t)
	}
	ns, err := openNetns(r.Netns)
	if err != nil {
		return t, r.fail("netns", err)
	}
	defer ns.close()
	t.Netns, t.NetnsInode = r.Netns, ns.inode
	return t, nil
}

func (r request) netfilter(t Target) (Target, error) {
	key, all := "priority", []int32{r.Priority}
	if len(r.Priorities) > 0 {
		key, all = "priorities", r.Priorities
	}
	const afterDefrag = -400 // NF_IP_PRI_CONNTRACK_DEFRAG
	for _, p := range all {
		if p == math.MinInt32 || p == math.MaxInt32 {
			return t, r.refuse(key, "write a number in between; 0 is that of the filter tables",
				"%d is kept by the kernel for itself", p)
		}
		if r.Defrag && p <= afterDefrag {
			return t, r.refuse(key, "write one above -400, or remove defrag",
				"%d comes before the kernel puts fragments together, and defrag wants them whole", p)
		}
	}
	t.Family, t.Hook, t.Priority, t.Defrag, t.Priorities = r.Family, r.Hook, all[0], r.Defrag, r.Priorities
	return r.namespace(t)
}

func (r request) cgroup(t Target) (Target, error) {
	if r.OfCaller() {
		return r.ofCaller(t)
	}
	f, err := openCgroup(r.Cgroup)
	if err != nil {
		return t, r.fail("cgroup", err)
	}
	defer f.Close()
	// The inode number of a cgroup's directory is the cgroup's id.
	t.Cgroup = f.Name()
	t.CgroupID, err = inodeOf(f)
	return t, r.fail("cgroup", err)
}

func (r request) rawTracepoint(t Target) (Target, error) {
	t.Tracepoint = cmp.Or(r.Tracepoint, r.hook.fixed)
	if t.Tracepoint == "" {
		return t, r.refuse("tracepoint", `write tracepoint = "sched_process_exec", or SEC("raw_tp/sched_process_exec")`,
			"is missing: neither the section of %q nor the manifest names one", r.Program)
	}
	if group, name, ok := strings.Cut(t.Tracepoint, "/"); ok {
		return t, r.refuse("tracepoint", fmt.Sprintf("write %q", name),
			"a raw tracepoint has no group (%q)", group)
	}
	return t, nil
}

func (r request) tracepoint(t Target) (Target, error) {
	t.Tracepoint = cmp.Or(r.Tracepoint, r.hook.fixed)
	if t.Tracepoint == "" {
		return t, r.refuse("tracepoint", "write "+examples["tracepoint"],
			"is missing: neither the section of %q nor the manifest names one", r.Program)
	}
	_, err := tracepointID(t.Tracepoint)
	return t, r.fail("tracepoint", err)
}

func (r request) uprobe(t Target) (Target, error) {
	path, symbol, more, err := r.probed()
	if err != nil {
		return t, err
	}
	x, err := openExecutable(path)
	if err != nil {
		return t, r.fail("executable", err)
	}
	defer x.close()
	t.Executable, t.Inode, t.Device, t.Symbol, t.Offset = path, x.inode, x.device, symbol, more
	if symbol == "" {
		return t, nil
	}
	if t.Offset, err = x.offset(symbol, more); err != nil {
		return t, r.fail("symbol", err)
	}
	if more > 0 {
		t.Symbol += fmt.Sprintf("+%#x", more)
	}
	return t, nil
}

// probed returns what a uprobe shall probe: what the manifest says, and else
// what the section does, "uprobe/PATH:SYMBOL+OFFSET".
func (r request) probed() (path, symbol string, more uint64, err error) {
	path, symbol, more = r.Executable, r.Symbol, r.Offset
	file, place, _ := cutLast(r.hook.fixed, ":")
	if path == "" {
		path = file
	}
	if path == "" {
		return "", "", 0, r.refuse("executable", "write "+examples["executable"],
			"is missing: neither the section of %q nor the manifest names one", r.Program)
	}
	if !strings.HasPrefix(path, "/") {
		return "", "", 0, r.refuse("executable", "write "+examples["executable"],
			"%q in the section of %q is not an absolute path", path, r.Program)
	}
	if symbol == "" && more == 0 {
		name, plus, ok := strings.Cut(place, "+")
		symbol = name
		if more, err = strconv.ParseUint(plus, 0, 64); ok && err != nil {
			return "", "", 0, r.refuse("offset", "write offset = N", "%q in the section of %q is not a number", plus, r.Program)
		}
	}
	if symbol == "" && more == 0 {
		return "", "", 0, r.refuse("symbol", "write "+examples["symbol"],
			"is missing: neither the section of %q nor the manifest says what to probe", r.Program)
	}
	return path, symbol, more, nil
}

func (r request) iterOrSockmap(t Target) (Target, error) {
	if r.Map == "" {
		return t, nil
	}
	ms, ok := r.spec.Maps[r.Map]
	if !ok {
		names := make([]string, 0, len(r.spec.Maps))
		for name := range r.spec.Maps {
			names = append(names, name)
		}
		return t, r.refuse("map", "write "+examples["map"], "there is no map %q in the object%s", r.Map, suggest(r.Map, names))
	}
	if sockets := ms.Type == ebpf.SockMap || ms.Type == ebpf.SockHash; t.Kind == kindSockmap && !sockets {
		return t, r.refuse("map", "name a map of type sockmap or sockhash", "%q is a map of type %s, which holds no sockets", r.Map, ms.Type)
	}
	t.Map = r.Map
	return t, nil
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
