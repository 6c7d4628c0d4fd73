package loader

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// LinkState is what the kernel says about a link now. Which fields are set
// follows from Kind, as in Target.
type LinkState struct {
	ID         link.ID
	Kind       string // as in Target; "type-N" for one that is not known here
	AttachType string // as in Target; "" where the kernel does not say
	ProgramID  ebpf.ProgramID
	Unhooked   bool // set by who asked Unhooked

	Ifindex    int    // xdp, tcx: 0 if the interface is gone
	NetnsInode uint64 // netns: 0 if the namespace is gone
	CgroupID   uint64 // 0 if the cgroup is gone

	// Before Linux 6.6 the kernel does not tell these of a perf_event link.
	Tracepoint string // of perf_event links without the group
	Executable string // path as it was given when the link was made
	Offset     uint64 // in Executable or behind Function; the kernel tells the low 32 bits
	Function   string // of kprobes

	TypeID     uint32 // tracing: of the function, in its BTF
	ReplacesID uint32 // freplace: program whose function it is

	// Before Linux 6.6 the kernel does not tell these of a kprobe_multi link,
	// before 6.8 of a uprobe_multi link.
	Count   uint32 // kprobe_multi, uprobe_multi: functions; 0: not told
	Returns bool
	Offsets []uint64 // uprobe_multi: sorted, in a file of which the kernel tells a path that need not be the one given

	Family   string
	Hook     string
	Priority int32
	Defrag   bool

	Iterator string     // iter: "task", "bpf_map_elem"
	MapID    ebpf.MapID // iter over a map, sockmap, struct_ops: 0 if there is none
}

// kinds of links by the library's number.
var linkKinds = map[link.Type]string{
	link.XDPType:           kindXDP,
	link.TCXType:           kindTCX,
	link.CgroupType:        kindCgroup,
	link.NetNsType:         kindNetns,
	link.RawTracepointType: kindRawTracepoint,
	link.PerfEventType:     kindPerfEvent,
	link.NetfilterType:     kindNetfilter,
	link.IterType:          kindIter,
	sockmapType:            kindSockmap,
	link.TracingType:       kindTracing,
	link.KprobeMultiType:   kindKprobeMulti,
	link.UprobeMultiType:   kindUprobeMulti,
	link.StructOpsType:     kindStructOps,
	link.NetkitType:        "netkit",
}

// sockmapType is BPF_LINK_TYPE_SOCKMAP, which the library does not export.
const sockmapType link.Type = 14

// Describe asks the kernel about a link, of this process or from a pin.
func Describe(l link.Link) (LinkState, error) {
	info, err := l.Info()
	if err != nil {
		return LinkState{}, err
	}
	s := LinkState{ID: info.ID, ProgramID: info.Program, Kind: linkKinds[info.Type]}
	if s.Kind == "" {
		s.Kind = fmt.Sprintf("type-%d", info.Type)
	}
	switch s.Kind {
	case kindXDP:
		s.AttachType, s.Ifindex = "xdp", int(info.XDP().Ifindex)
	case kindTCX:
		s.AttachType, s.Ifindex = attachTypes[ebpf.AttachType(info.TCX().AttachType)], int(info.TCX().Ifindex)
	case kindCgroup:
		s.AttachType, s.CgroupID = attachTypes[ebpf.AttachType(info.Cgroup().AttachType)], info.Cgroup().CgroupId
	case kindNetns:
		s.AttachType, s.NetnsInode = attachTypes[ebpf.AttachType(info.NetNs().AttachType)], uint64(info.NetNs().NetnsInode)
	case kindRawTracepoint:
		s.AttachType, s.Tracepoint = "trace_raw_tp", info.RawTracepoint().Name
	case kindPerfEvent:
		s.perfEvent(info.PerfEvent())
	case kindNetfilter:
		s.netfilter(info.Netfilter())
	case kindTracing:
		s.tracing(info.Tracing())
	case kindKprobeMulti:
		i := info.KprobeMulti()
		s.Count, s.Returns = i.Count, i.Flags&multiReturn != 0
	case kindUprobeMulti:
		s.uprobeMulti(info.UprobeMulti())
	case kindIter, kindSockmap, kindStructOps:
		return s, s.fdinfo(l)
	}
	return s, nil
}

// multiReturn is BPF_F_KPROBE_MULTI_RETURN and BPF_F_UPROBE_MULTI_RETURN.
const multiReturn = 1

func (s *LinkState) uprobeMulti(i *link.UprobeMultiInfo) {
	s.Count, s.Returns = i.Count, i.Flags&multiReturn != 0
	all, _ := i.Offsets()
	for _, o := range all {
		s.Offsets = append(s.Offsets, o.Offset)
	}
	slices.Sort(s.Offsets)
}

func (s *LinkState) tracing(i *link.TracingInfo) {
	s.TypeID = uint32(i.TargetBtfId)
	if i.AttachType == 0 { // what programs have that replace a function
		s.AttachType, s.ReplacesID = freplace, i.TargetObjectId
		return
	}
	s.AttachType = attachTypes[ebpf.AttachType(i.AttachType)]
}

func (s *LinkState) perfEvent(e *link.PerfEventInfo) {
	switch e.Type {
	case link.PerfEventTracepoint:
		s.AttachType, s.Tracepoint = "tracepoint", e.Tracepoint().Tracepoint
	case link.PerfEventKprobe, link.PerfEventKretprobe:
		s.AttachType = "kprobe"
		if e.Type == link.PerfEventKretprobe {
			s.AttachType = "kretprobe"
		}
		s.Function, s.Offset = e.Kprobe().Function, uint64(e.Kprobe().Offset)
	case link.PerfEventUprobe, link.PerfEventUretprobe:
		s.AttachType = "uprobe"
		if e.Type == link.PerfEventUretprobe {
			s.AttachType = "uretprobe"
		}
		s.Executable, s.Offset = e.Uprobe().File, uint64(e.Uprobe().Offset)
	}
}

func (s *LinkState) netfilter(nf *link.NetfilterInfo) {
	s.AttachType, s.Priority, s.Defrag = "netfilter", nf.Priority, nf.Flags&netfilterDefrag != 0
	for name, hook := range netfilterHooks {
		if hook == nf.Hook {
			s.Hook = name
		}
	}
	for name, family := range netfilterFamilies {
		if family == nf.ProtocolFamily {
			s.Family = name
		}
	}
}

// fdinfo reads what the library has no Info for from /proc, where the kernel
// writes it as "name:\tvalue" lines.
func (s *LinkState) fdinfo(l link.Link) error {
	f, ok := l.(interface{ FD() int })
	if !ok {
		return fmt.Errorf("link %d: %T has no descriptor", s.ID, l)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.FD()))
	if err != nil {
		return fmt.Errorf("link %d: %w", s.ID, err)
	}
	switch s.Kind {
	case kindIter:
		s.AttachType = "trace_iter"
	case kindStructOps:
		s.AttachType = "struct_ops"
	}
	for line := range bytes.Lines(b) {
		name, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "target_name":
			s.Iterator = value
		case "attach_type":
			s.AttachType = value
			if n, err := strconv.ParseUint(value, 10, 32); err == nil {
				s.AttachType = attachTypes[ebpf.AttachType(n)]
			}
		case "map_id":
			if n, err := strconv.ParseUint(value, 10, 32); err == nil {
				s.MapID = ebpf.MapID(n)
			}
		}
	}
	return nil
}
