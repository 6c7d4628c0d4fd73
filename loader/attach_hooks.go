package loader

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
)

// The kinds of link that a manifest can ask for: the kernel's BPF_LINK_TYPE_*,
// as bpftool writes them.
const (
	kindXDP           = "xdp"
	kindTCX           = "tcx"
	kindCgroup        = "cgroup"
	kindNetns         = "netns"
	kindRawTracepoint = "raw_tracepoint"
	kindPerfEvent     = "perf_event"
	kindNetfilter     = "netfilter"
	kindIter          = "iter"
	kindSockmap       = "sockmap"
	kindTracing       = "tracing"
	kindKprobeMulti   = "kprobe_multi"
	kindUprobeMulti   = "uprobe_multi"
	kindStructOps     = "struct_ops"
)

// hook is a place that programs of one kind attach to through a link.
type hook struct {
	kind   string
	name   string          // Target.AttachType
	attach ebpf.AttachType // for BPF_LINK_CREATE
	needs  []string        // manifest keys that must be there
	takes  []string        // manifest keys that may be there
	// fixed is the tracepoint, iterator or function that the object names in a
	// section.
	fixed   string
	returns bool // runs when a function returns
	syscall bool // fixed and the manifest name a system call
}

// attachTypes has the kernel's names (enum bpf_attach_type) of the attach types
// that a link can have here.
var attachTypes = map[ebpf.AttachType]string{
	ebpf.AttachXDP:                    "xdp",
	ebpf.AttachTCXIngress:             "tcx_ingress",
	ebpf.AttachTCXEgress:              "tcx_egress",
	ebpf.AttachCGroupInetIngress:      "cgroup_inet_ingress",
	ebpf.AttachCGroupInetEgress:       "cgroup_inet_egress",
	ebpf.AttachCGroupInetSockCreate:   "cgroup_inet_sock_create",
	ebpf.AttachCgroupInetSockRelease:  "cgroup_inet_sock_release",
	ebpf.AttachCGroupInet4PostBind:    "cgroup_inet4_post_bind",
	ebpf.AttachCGroupInet6PostBind:    "cgroup_inet6_post_bind",
	ebpf.AttachCGroupInet4Bind:        "cgroup_inet4_bind",
	ebpf.AttachCGroupInet6Bind:        "cgroup_inet6_bind",
	ebpf.AttachCGroupInet4Connect:     "cgroup_inet4_connect",
	ebpf.AttachCGroupInet6Connect:     "cgroup_inet6_connect",
	ebpf.AttachCgroupUnixConnect:      "cgroup_unix_connect",
	ebpf.AttachCGroupUDP4Sendmsg:      "cgroup_udp4_sendmsg",
	ebpf.AttachCGroupUDP6Sendmsg:      "cgroup_udp6_sendmsg",
	ebpf.AttachCgroupUnixSendmsg:      "cgroup_unix_sendmsg",
	ebpf.AttachCGroupUDP4Recvmsg:      "cgroup_udp4_recvmsg",
	ebpf.AttachCGroupUDP6Recvmsg:      "cgroup_udp6_recvmsg",
	ebpf.AttachCgroupUnixRecvmsg:      "cgroup_unix_recvmsg",
	ebpf.AttachCgroupInet4GetPeername: "cgroup_inet4_getpeername",
	ebpf.AttachCgroupInet6GetPeername: "cgroup_inet6_getpeername",
	ebpf.AttachCgroupUnixGetpeername:  "cgroup_unix_getpeername",
	ebpf.AttachCgroupInet4GetSockname: "cgroup_inet4_getsockname",
	ebpf.AttachCgroupInet6GetSockname: "cgroup_inet6_getsockname",
	ebpf.AttachCgroupUnixGetsockname:  "cgroup_unix_getsockname",
	ebpf.AttachCGroupGetsockopt:       "cgroup_getsockopt",
	ebpf.AttachCGroupSetsockopt:       "cgroup_setsockopt",
	ebpf.AttachCGroupSysctl:           "cgroup_sysctl",
	ebpf.AttachCGroupDevice:           "cgroup_device",
	ebpf.AttachCGroupSockOps:          "cgroup_sock_ops",
	ebpf.AttachSkLookup:               "sk_lookup",
	ebpf.AttachFlowDissector:          "flow_dissector",
	ebpf.AttachTraceRawTp:             "trace_raw_tp",
	ebpf.AttachTraceIter:              "trace_iter",
	ebpf.AttachNetfilter:              "netfilter",
	ebpf.AttachSkMsgVerdict:           "sk_msg_verdict",
	ebpf.AttachSkSKBStreamParser:      "sk_skb_stream_parser",
	ebpf.AttachSkSKBStreamVerdict:     "sk_skb_stream_verdict",
	ebpf.AttachSkSKBVerdict:           "sk_skb_verdict",
	ebpf.AttachTraceFEntry:            "trace_fentry",
	ebpf.AttachTraceFExit:             "trace_fexit",
	ebpf.AttachModifyReturn:           "modify_return",
	ebpf.AttachLSMMac:                 "lsm_mac",
	ebpf.AttachTraceKprobeMulti:       "trace_kprobe_multi",
	ebpf.AttachTraceKprobeSession:     "trace_kprobe_session",
	ebpf.AttachTraceUprobeMulti:       "trace_uprobe_multi",
	ebpf.AttachStructOps:              "struct_ops",
}

// hookOf returns where p can be attached. direction is the manifest's; "" says
// nothing. The error, with its remedy, says why p cannot be attached.
func hookOf(p *ebpf.ProgramSpec, direction string) (hook, error) {
	section := sectionOf(p)
	switch p.Type {
	case ebpf.XDP:
		if p.AttachType == ebpf.AttachXDPDevMap || p.AttachType == ebpf.AttachXDPCPUMap {
			return hook{}, noLink(`put its descriptor in an entry of the map; to attach it, write SEC("xdp")`,
				"is called from a devmap or cpumap, not attached")
		}
		return hook{kind: kindXDP, attach: ebpf.AttachXDP, needs: keys("interface"), takes: keys("mode netns")}.named(), nil
	case ebpf.SchedCLS:
		return tcxHook(p, direction)
	case ebpf.CGroupSKB, ebpf.CGroupSock, ebpf.CGroupSockAddr, ebpf.CGroupSockopt, ebpf.CGroupSysctl,
		ebpf.CGroupDevice, ebpf.SockOps:
		return cgroupHook(p, section, direction)
	case ebpf.SkLookup:
		return hook{kind: kindNetns, attach: ebpf.AttachSkLookup, takes: keys("netns")}.named(), nil
	case ebpf.FlowDissector:
		return hook{kind: kindNetns, attach: ebpf.AttachFlowDissector, takes: keys("netns")}.named(), nil
	case ebpf.RawTracepoint, ebpf.RawTracepointWritable:
		return hook{kind: kindRawTracepoint, attach: ebpf.AttachTraceRawTp, takes: keys("tracepoint"), fixed: p.AttachTo}.named(), nil
	case ebpf.TracePoint:
		return hook{kind: kindPerfEvent, name: "tracepoint", takes: keys("tracepoint"), fixed: p.AttachTo}, nil
	case ebpf.Kprobe:
		return probeHook(p, section)
	case ebpf.Tracing:
		return tracingHook(p)
	case ebpf.LSM:
		if p.AttachType != ebpf.AttachLSMMac {
			return hook{}, notYet("lsm_cgroup")
		}
		return functionHook(p), nil
	case ebpf.Extension:
		return hook{kind: kindTracing, name: freplace, needs: keys("replaces"), takes: keys("function"), fixed: p.AttachTo}, nil
	case ebpf.Netfilter:
		return hook{kind: kindNetfilter, attach: ebpf.AttachNetfilter, needs: keys("family hook"), takes: keys("priority priorities defrag netns")}.named(), nil
	case ebpf.SkMsg, ebpf.SkSKB:
		if _, ok := attachTypes[p.AttachType]; !ok || p.AttachType == ebpf.AttachNone {
			return hook{}, noLink(`write SEC("sk_skb/stream_parser"), SEC("sk_skb/stream_verdict") or SEC("sk_skb/verdict")`,
				"is in section %q, which does not say what it decides", section)
		}
		return hook{kind: kindSockmap, attach: p.AttachType, needs: keys("map")}.named(), nil
	}
	return hook{}, refusedType(p, section)
}

// named fills in the name of the attach type.
func (h hook) named() hook {
	h.name = attachTypes[h.attach]
	return h
}

func tcxHook(p *ebpf.ProgramSpec, direction string) (hook, error) {
	h := hook{kind: kindTCX, attach: p.AttachType, needs: keys("interface"), takes: keys("position netns")}
	switch p.AttachType {
	case ebpf.AttachTCXIngress, ebpf.AttachTCXEgress:
		return h.named(), nil
	case ebpf.AttachNetkitPrimary, ebpf.AttachNetkitPeer:
		return hook{}, notYet("netkit")
	}
	h.needs = keys("interface direction")
	h.attach = ebpf.AttachTCXIngress
	if direction == "egress" {
		h.attach = ebpf.AttachTCXEgress
	}
	return h.named(), nil
}

func cgroupHook(p *ebpf.ProgramSpec, section, direction string) (hook, error) {
	h := hook{kind: kindCgroup, attach: p.AttachType, needs: keys("cgroup")}
	// The attach type of SEC("cgroup/skb") is 0, which is also that of ingress.
	if p.Type == ebpf.CGroupSKB && strings.HasPrefix(section, "cgroup/skb") {
		h.needs = keys("cgroup direction")
		if direction == "egress" {
			h.attach = ebpf.AttachCGroupInetEgress
		}
	}
	return h.named(), nil
}

// freplace stands where other tracing links have their attach type: the kernel
// has none for it.
const freplace = "freplace"

// functionHook is for programs into which the kernel puts the function they
// are for when they are loaded.
func functionHook(p *ebpf.ProgramSpec) hook {
	return hook{kind: kindTracing, attach: p.AttachType, takes: keys("function"), fixed: p.AttachTo}.named()
}

// probeHook tells the probes apart: in the kernel they are one type.
func probeHook(p *ebpf.ProgramSpec, section string) (hook, error) {
	word, _, _ := strings.Cut(section, "/")
	word = strings.TrimSuffix(word, ".s")
	h := hook{kind: kindPerfEvent, name: word, fixed: p.AttachTo, returns: strings.Contains(word, "ret")}
	switch word {
	case "uprobe", "uretprobe":
		h.takes = keys("executable symbol offset")
	case "kprobe":
		h.takes = keys("function offset")
	case "kretprobe":
		h.takes = keys("function")
	case "ksyscall", "kretsyscall":
		h.name, h.takes, h.syscall = strings.Replace(word, "syscall", "probe", 1), keys("function"), true
	case "kprobe.multi", "kretprobe.multi", "kprobe.session":
		h.kind, h.attach, h.takes = kindKprobeMulti, p.AttachType, keys("functions")
		return h.named(), nil
	case "uprobe.multi", "uretprobe.multi":
		h.kind, h.attach, h.takes = kindUprobeMulti, p.AttachType, keys("executable symbols")
		return h.named(), nil
	default:
		return hook{}, notYet(word)
	}
	return h, nil
}

func tracingHook(p *ebpf.ProgramSpec) (hook, error) {
	switch p.AttachType {
	case ebpf.AttachTraceRawTp:
		// The tracepoint is part of the loaded program.
		return hook{kind: kindRawTracepoint, attach: p.AttachType, fixed: p.AttachTo}.named(), nil
	case ebpf.AttachTraceIter:
		h := hook{kind: kindIter, attach: p.AttachType, fixed: p.AttachTo}
		if slices.Contains(mapIterators, p.AttachTo) {
			h.needs = keys("map")
		}
		return h.named(), nil
	case ebpf.AttachTraceFEntry, ebpf.AttachTraceFExit, ebpf.AttachModifyReturn:
		return functionHook(p), nil
	}
	word, _, _ := strings.Cut(sectionOf(p), "/")
	return hook{}, notYet(word)
}

// mapIterators are the iterators that walk one map, named when the link is
// made: bpf_iter_reg.attach_target of the kernel.
var mapIterators = []string{"bpf_map_elem", "bpf_sk_storage_map", "sockmap"}

// refusedType says why programs of p's type have no link.
func refusedType(p *ebpf.ProgramSpec, section string) error {
	switch p.Type {
	case ebpf.UnspecifiedProgram:
		return noLink(`write one of the sections that loader/README.md lists, such as SEC("xdp")`,
			"is in section %q, which says no program type", section)
	case ebpf.SocketFilter:
		return noLink(`use a cgroup hook such as SEC("cgroup_skb/ingress")`,
			"is a socket filter: the kernel has no link for it, it lives and dies with one socket")
	case ebpf.SkReuseport:
		return noLink(`use SEC("sk_lookup")`,
			"chooses between the sockets of one port: the kernel has no link for it, it lives and dies with them")
	case ebpf.SchedACT:
		return noLink(`write SEC("tcx/ingress") or SEC("tcx/egress")`,
			"is a tc action: the kernel has no link for it, it belongs to a qdisc")
	case ebpf.LWTIn, ebpf.LWTOut, ebpf.LWTXmit, ebpf.LWTSeg6Local:
		return noLink(`attach it with ip route, or use SEC("tcx/egress")`,
			"is a lightweight tunnel: the kernel has no link for it, it belongs to a route")
	case ebpf.LircMode2:
		return noLink("load it with ir-keytable", "decodes infrared: the kernel has no link for it")
	case ebpf.StructOps:
		return noLink(`write map = "NAME" of the variable in SEC(".struct_ops.link"), and no program`,
			"is one function of a struct_ops map, which is attached as a whole")
	case ebpf.Syscall:
		return noLink("remove this [[attach]]: [[test]] runs it", "is run on request, not attached")
	}
	word, _, _ := strings.Cut(section, "/")
	return notYet(word)
}

func noLink(hint, format string, args ...any) error {
	return remedy.With(fmt.Errorf(format, args...), "%s", hint)
}

// notYet refuses what the kernel has a link for and this package does not.
func notYet(what string) error {
	return remedy.With(fmt.Errorf("is for %s, which hornetd does not attach yet", what),
		"remove this [[attach]], or use one of the types that loader/README.md lists")
}

// sectionOf returns p's ELF section without the mark of optional programs.
func sectionOf(p *ebpf.ProgramSpec) string { return strings.TrimPrefix(p.SectionName, "?") }

func keys(s string) []string { return strings.Fields(s) }
