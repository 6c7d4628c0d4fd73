package lsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Types of a kernel's hooks.
var (
	cInt     = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	cUint    = &btf.Int{Name: "unsigned int", Size: 4}
	cBool    = &btf.Typedef{Name: "bool", Type: &btf.Int{Name: "_Bool", Size: 1, Encoding: btf.Bool}}
	cU8      = &btf.Typedef{Name: "u8", Type: &btf.Int{Name: "unsigned char", Size: 1}}
	cAttr    = &btf.Pointer{Target: &btf.Union{Name: "bpf_attr", Size: 8}}
	cProg    = &btf.Pointer{Target: &btf.Struct{Name: "bpf_prog", Size: 8}}
	cToken   = &btf.Pointer{Target: &btf.Fwd{Name: "bpf_token"}}
	cIdmap   = &btf.Pointer{Target: &btf.Fwd{Name: "mnt_idmap"}}
	cDentry  = &btf.Pointer{Target: &btf.Const{Type: &btf.Struct{Name: "dentry", Size: 8}}}
	cIattr   = &btf.Pointer{Target: &btf.Struct{Name: "iattr", Size: 8}}
	sigOf7_2 = []string{"keyring_type", "verdict"}
)

// kernelTypes are those of a made-up kernel: every hook is there with the arguments of 7.3,
// or those of change; a nil takes it away. sig has these members; nil is no sig.
func kernelTypes(t *testing.T, change map[string][]btf.Type, sig []string) *btf.Spec {
	t.Helper()
	args := map[string][]btf.Type{}
	for _, h := range hooks {
		args[h.Name] = []btf.Type{}
	}
	args["bpf"] = []btf.Type{cInt, cAttr, cUint, cBool}
	args["bpf_prog_load"] = []btf.Type{cProg, cAttr, cToken, cBool}
	args["inode_setattr"] = []btf.Type{cIdmap, cDentry, cIattr}
	args["perf_event_open"] = []btf.Type{cInt}
	for name, changed := range change {
		args[name] = changed
	}
	aux := &btf.Struct{Name: "bpf_prog_aux", Size: 8, Members: []btf.Member{{Name: "id", Type: cUint}}}
	if sig != nil {
		s := &btf.Struct{Size: 2}
		for i, name := range sig {
			s.Members = append(s.Members, btf.Member{Name: name, Type: cU8, Offset: btf.Bits(8 * i)})
		}
		aux.Members = append(aux.Members, btf.Member{Name: "sig", Type: s, Offset: 32})
	}
	types := []btf.Type{aux}
	for name, list := range args {
		if list == nil {
			continue
		}
		proto := &btf.FuncProto{Return: cInt}
		for _, typ := range list {
			proto.Params = append(proto.Params, btf.FuncParam{Name: "a", Type: typ})
		}
		types = append(types, &btf.Func{Name: "bpf_lsm_" + name, Type: proto})
	}
	b, err := btf.NewBuilder(types, nil)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := b.Spec()
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}

// A hook that the guard cannot do without is used, or missing; and what the kernel has
// verified counts only where both programs that it takes are used.
func TestChoose(t *testing.T) {
	with := func(name string, args ...btf.Type) map[string][]btf.Type { return map[string][]btf.Type{name: args} }
	type changed = map[string][]btf.Type
	const asked, other = "does not tell whether", "cannot be told from the rest"
	for name, tt := range map[string]struct {
		change     changed
		sig        []string
		uses       string // of the programs of which there are two, and guard_load
		missing    string
		unverified string
	}{
		"7.3":                            {nil, sigOf7_2, "guard_bpf guard_load guard_setattr", "", ""},
		"6.18":                           {nil, nil, "guard_bpf guard_setattr", "", asked},
		"6.1":                            {changed{"bpf": {cInt, cAttr, cUint}, "inode_setattr": {cDentry, cIattr}, "bpf_prog_load": nil}, nil, "guard_bpf_old guard_setattr_old", "", asked},
		"more behind what is read":       {changed{"bpf": {cInt, cAttr, cUint, cBool, cToken}, "bpf_prog_load": {cProg, cAttr, cToken, cBool, cInt}, "inode_setattr": {cIdmap, cDentry, cIattr, cInt}}, sigOf7_2, "guard_bpf guard_load guard_setattr", "", ""},
		"bpf with one between":           {with("bpf", cInt, cAttr, cUint, cToken, cBool), sigOf7_2, "guard_load guard_setattr", "bpf", other},
		"bpf with two":                   {with("bpf", cInt, cAttr), nil, "guard_setattr", "bpf", asked},
		"bpf with a number for its bool": {with("bpf", cInt, cAttr, cUint, cInt), nil, "guard_setattr", "bpf", asked},
		"no bpf":                         {changed{"bpf": nil}, nil, "guard_setattr", "bpf", asked},
		"verdicts, but an older bpf":     {with("bpf", cInt, cAttr, cUint), sigOf7_2, "guard_bpf_old guard_load guard_setattr", "", other},
		"bpf_prog_load with one between": {with("bpf_prog_load", cProg, cAttr, cToken, cInt, cBool), sigOf7_2, "guard_bpf guard_setattr", "", other},
		"no bpf_prog_load":               {changed{"bpf_prog_load": nil}, sigOf7_2, "guard_bpf guard_setattr", "", other},
		"inode_setattr with one between": {with("inode_setattr", cIdmap, cInt, cDentry, cIattr), nil, "guard_bpf", "inode_setattr", asked},
		"inode_setattr with one":         {with("inode_setattr", cDentry), nil, "guard_bpf", "inode_setattr", asked},
		"sig without verdict":            {nil, []string{"keyring_type", "state"}, "guard_bpf guard_setattr", "", asked},
		"sig without keyring_type":       {nil, []string{"keyring", "verdict"}, "guard_bpf guard_setattr", "", asked},
	} {
		t.Run(name, func(t *testing.T) {
			p := choose(kernelTypes(t, tt.change, tt.sig))
			var uses, missing []string
			for _, h := range p.hooks {
				if h.Args != "" && h.Name != "perf_event_open" {
					uses = append(uses, h.Program)
				}
			}
			for _, m := range p.missing {
				missing = append(missing, strings.TrimPrefix(m.What, "hook "))
				if m.Why == "" || m.Remedy == "" {
					t.Errorf("missing %+v", m)
				}
			}
			if got := strings.Join(uses, " "); got != tt.uses {
				t.Errorf("uses %s, want %s", got, tt.uses)
			}
			if got := strings.Join(missing, " "); got != tt.missing {
				t.Errorf("missing %q, want %q", got, tt.missing)
			}
			if len(p.open) > 0 {
				t.Errorf("open %v", p.open)
			}
			if (p.unverified == nil) != (tt.unverified == "") || p.unverified != nil && (!strings.Contains(p.unverified.Error(), tt.unverified) || !strings.Contains(remedy.Of(p.unverified), "kernel_signed")) {
				t.Errorf("kernel_signed: %v, remedy %q, want %q", p.unverified, remedy.Of(p.unverified), tt.unverified)
			}
		})
	}
}

// What is missing names the arguments, which is what somebody can look for.
func TestUnknownArguments(t *testing.T) {
	p := choose(kernelTypes(t, map[string][]btf.Type{"bpf": {cInt, cAttr, cUint, cToken, cBool}}, nil))
	err := Support{Missing: p.missing}.Err()
	const want = "no hook bpf: the kernel's has arguments that this guard does not know (int, union bpf_attr *, unsigned int, struct bpf_token *, bool)"
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(remedy.Of(err), "install a hornetd that knows this kernel") {
		t.Errorf("%v, remedy %q, want %q", err, remedy.Of(err), want)
	}
}

// Who may not list the kernel's types is told that, and not that there are none.
func TestNoTypes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		hint string
	}{
		{fmt.Errorf("get next BTF ID: %w", unix.EPERM), "CAP_SYS_ADMIN"},
		{btf.ErrNotFound, "CONFIG_DEBUG_INFO_BTF"},
	} {
		err := Support{Missing: []Missing{*noTypes(tt.err)}}.Err()
		if want := "guard: no BTF: " + tt.err.Error(); err.Error() != want || !strings.Contains(remedy.Of(err), tt.hint) {
			t.Errorf("%v, remedy %q; want %s, and %s", err, remedy.Of(err), want, tt.hint)
		}
	}
}

// Of a bool the kernel's calling conventions define the lowest byte. The fourth argument
// is looked at behind a mask.
func TestBoolArguments(t *testing.T) {
	s := spec(t)
	for _, name := range []string{"guard_bpf", "guard_load"} {
		insns := s.Programs[name].Instructions
		at := slices.IndexFunc(insns, func(i asm.Instruction) bool {
			return i.OpCode.Class() == asm.LdXClass && i.Src == asm.R1 && i.Offset == 3*8
		})
		if at < 0 {
			t.Errorf("%s does not read its fourth argument", name)
			continue
		}
		find := func(is func(asm.Instruction) bool) asm.Instruction {
			if next := slices.IndexFunc(insns[at+1:], is); next >= 0 {
				at += 1 + next
				return insns[at]
			}
			return asm.Instruction{}
		}
		kernel := insns[at].Dst
		use := func(i asm.Instruction) bool { return i.Dst == kernel || i.Src == kernel }
		i := find(use)
		if i.OpCode.Class() == asm.StXClass && i.Dst == asm.RFP { // kept on the stack for later
			slot := i.Offset
			kernel = find(func(i asm.Instruction) bool {
				return i.OpCode.Class() == asm.LdXClass && i.Src == asm.RFP && i.Offset == slot
			}).Dst
			i = find(use)
		}
		if i.OpCode.Class() != asm.ALU64Class && i.OpCode.Class() != asm.ALUClass || i.OpCode.ALUOp() != asm.And || i.OpCode.Source() != asm.ImmSource || i.Constant != 0xff {
			t.Errorf("%s: the first that is done with its fourth argument is %v", name, i)
		}
	}
}

// TestArmElsewhere: the programs load where the kernel's types tell less of signatures than
// they read. What they ask for those of this kernel is answered from made-up ones.
func TestArmElsewhere(t *testing.T) {
	guestOnly(t)
	for _, sig := range [][]string{nil, {"verdict"}, {"keyring_type"}, {"other"}, sigOf7_2} {
		kernel, err := btf.LoadKernelSpec()
		if err != nil {
			t.Fatal(err)
		}
		use := choose(kernel).hooks
		kernel = kernel.Copy()
		changeSig(t, kernel, sig)
		spec := spec(t)
		for name := range spec.Programs {
			if !slices.ContainsFunc(use, func(h hook) bool { return h.Program == name }) {
				delete(spec.Programs, name)
			}
		}
		coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: kernel}})
		if err != nil {
			t.Errorf("sig with %v: %v", sig, err)
			continue
		}
		coll.Close()
	}
}

// changeSig makes what a program knows of its signature have these members; nil is no sig.
func changeSig(t *testing.T, kernel *btf.Spec, members []string) {
	t.Helper()
	var aux *btf.Struct
	if err := kernel.TypeByName("bpf_prog_aux", &aux); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(aux.Members, func(m btf.Member) bool { return m.Name == "sig" })
	if at >= 0 {
		aux.Members = slices.Delete(aux.Members, at, at+1)
	}
	if members == nil {
		return
	}
	s := &btf.Struct{Size: 8}
	for i, name := range members {
		s.Members = append(s.Members, btf.Member{Name: name, Type: cU8, Offset: btf.Bits(8 * i)})
	}
	aux.Members = append(aux.Members, btf.Member{Name: "sig", Type: s})
}
