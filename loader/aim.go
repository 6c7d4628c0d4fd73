package loader

import (
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// aim sets, before the load, the function that a program will be attached to: the
// kernel wants to know it when it loads such a program. The program's [[attach]]
// names it, or else the section. Of a second [[attach]] that says otherwise, and
// of names that are wrong, Resolve tells.
func (p *Plan) aim() error {
	p.spec.Programs = maps.Clone(p.spec.Programs)
	for _, name := range slices.Sorted(maps.Keys(p.spec.Programs)) {
		spec := p.spec.Programs[name]
		if !aimed(spec) {
			continue
		}
		i := slices.IndexFunc(p.m.Attach, func(a manifest.Attach) bool { return a.Program == name })
		if i < 0 {
			if spec.AttachTo == "" || spec.Type == ebpf.Extension {
				return remedy.With(p.m.Errorf("attach", "program %q in section %q cannot be loaded without a function that it is for", name, spec.SectionName),
					"write an [[attach]] for it, or remove it from the object")
			}
			continue
		}
		if a := p.m.Attach[i]; a.Function != "" {
			spec = spec.Copy()
			spec.AttachTo = a.Function
			p.spec.Programs[name] = spec
		}
		if spec.Type == ebpf.Extension {
			p.replaces[name] = p.m.Attach[i].Replaces
		}
	}
	return nil
}

// aimed says whether the kernel puts the function that p is for into it.
func aimed(p *ebpf.ProgramSpec) bool {
	switch p.Type {
	case ebpf.LSM, ebpf.Extension:
		return true
	case ebpf.Tracing:
		return p.AttachType == ebpf.AttachTraceFEntry || p.AttachType == ebpf.AttachTraceFExit || p.AttachType == ebpf.AttachModifyReturn
	}
	return false
}
