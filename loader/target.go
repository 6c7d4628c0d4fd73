package loader

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	"github.com/hornetd/hornetd/internal/pidfd"
)

// Target is one place in the kernel that one program is attached to: what an
// [[attach]] of a manifest became on this host. It is stored in the record of a
// collection, and LinkState.Matches compares it with the kernel later.
//
// Kind is the kernel's name of the link type (xdp, tcx, cgroup, netns,
// raw_tracepoint, perf_event, netfilter, iter, sockmap, tracing, kprobe_multi,
// uprobe_multi, struct_ops), AttachType that of the attach type in lower case
// without BPF_ (cgroup_inet4_connect); links of kind perf_event have the kernel's
// perf event type there (tracepoint, uprobe, uretprobe, kprobe, kretprobe), and
// those that replace a function "freplace". Which of the other fields are set
// follows from Kind.
type Target struct {
	Link       string `json:"link"`    // name of the link and its pin: unique in a collection, [A-Za-z0-9_-]{1,128}
	Program    string `json:"program"` // "" for struct_ops
	Kind       string `json:"kind"`
	AttachType string `json:"attach_type"`

	Interface  string `json:"interface,omitempty"`
	Ifindex    int    `json:"ifindex,omitempty"`
	Netns      string `json:"netns,omitempty"`       // path; "" is hornetd's own
	NetnsInode uint64 `json:"netns_inode,omitempty"` // of the namespace, own or not
	Mode       string `json:"mode,omitempty"`        // xdp: auto, native, generic; Attach replaces auto
	Position   string `json:"position,omitempty"`    // tcx: head, tail

	Cgroup   string `json:"cgroup,omitempty"` // absolute path
	CgroupID uint64 `json:"cgroup_id,omitempty"`

	Tracepoint string `json:"tracepoint,omitempty"` // group/name, or the name of a raw tracepoint
	Executable string `json:"executable,omitempty"` // absolute path
	Inode      uint64 `json:"inode,omitempty"`      // of Executable
	Device     uint64 `json:"device,omitempty"`     // that it is on, by stat(2); 0 in a record of a hornetd that did not look
	Symbol     string `json:"symbol,omitempty"`     // as the manifest has it, with +offset; uprobe_multi: its patterns
	Offset     uint64 `json:"offset,omitempty"`     // in the file or behind Function, in bytes

	Function  string   `json:"function,omitempty"`  // tracing, kprobe: of the kernel, an LSM hook, or of the program Replaces; kprobe_multi: the patterns
	TypeID    uint32   `json:"type_id,omitempty"`   // tracing: of Function in its BTF; for freplace Attach sets it
	Functions []string `json:"functions,omitempty"` // kprobe_multi: which these are
	Offsets   []uint64 `json:"offsets,omitempty"`   // uprobe_multi: where in the file these are, in bytes
	Returns   bool     `json:"returns,omitempty"`   // kprobe_multi, uprobe_multi: runs when a function returns

	Replaces   string `json:"replaces,omitempty"`    // freplace: program of the collection
	ReplacesID uint32 `json:"replaces_id,omitempty"` // its id; Attach sets it

	Family   string `json:"family,omitempty"` // netfilter: ipv4, ipv6
	Hook     string `json:"hook,omitempty"`   // netfilter: prerouting, input, forward, output, postrouting
	Priority int32  `json:"priority,omitempty"`
	Defrag   bool   `json:"defrag,omitempty"`
	// Priorities are two that versions of the collection take in turns; Priority
	// is this one's. The link is named after the first.
	Priorities []int32 `json:"priorities,omitempty"`

	// Caller is that whoever had it loaded showed where: the cgroup of CgroupID, the
	// network namespace of NetnsInode, or the process, which alone is probed. It was
	// that of Owner, whose group was OwnerGID.
	Caller   bool   `json:"caller,omitempty"`
	Owner    uint32 `json:"owner,omitempty"`
	OwnerGID uint32 `json:"owner_gid,omitempty"`
	NetnsID  *int32 `json:"netns_id,omitempty"` // the namespace's number in hornetd's, where it has Ifindex; Attach sets it
	pidfd.Process

	Gap bool `json:"gap,omitempty"` // an upgrade may leave a moment without a program

	Map string `json:"map,omitempty"` // iter, sockmap, struct_ops: name of the map
}

// String says where t attaches, for people: "interface eth0".
func (t Target) String() string {
	s := t.place()
	switch {
	case t.Netns != "":
		s += " in " + t.Netns
	case t.Caller && t.NetnsInode != 0:
		s += fmt.Sprintf(" in the caller's network namespace %d", t.NetnsInode)
	case t.PID != 0:
		s += fmt.Sprintf(" in process %d", t.PID)
	}
	return s
}

func (t Target) place() string {
	switch t.Kind {
	case kindXDP:
		return "interface " + t.Interface
	case kindTCX:
		return "interface " + t.Interface + " " + strings.TrimPrefix(t.AttachType, "tcx_")
	case kindCgroup:
		return "cgroup " + t.Cgroup
	case kindNetns:
		return "network namespace"
	case kindRawTracepoint:
		return "tracepoint " + t.Tracepoint
	case kindPerfEvent:
		if t.Executable != "" {
			return t.Executable + ":" + t.symbol()
		}
		if t.Function != "" {
			return t.function()
		}
		return "tracepoint " + t.Tracepoint
	case kindTracing, kindKprobeMulti, kindUprobeMulti:
		return t.function()
	case kindNetfilter:
		return fmt.Sprintf("netfilter %s %s priority %d", t.Family, t.Hook, t.Priority)
	case kindStructOps:
		return "struct_ops " + t.Map
	case kindIter, kindSockmap:
		if t.Map != "" {
			return "map " + t.Map
		}
		return "iterator"
	}
	return t.Kind
}

// function returns which functions t is about.
func (t Target) function() string {
	switch {
	case t.Replaces != "":
		return "function " + t.Function + " of program " + t.Replaces
	case t.AttachType == "lsm_mac":
		return "LSM hook " + t.Function
	case t.Kind == kindKprobeMulti:
		return fmt.Sprintf("%d functions %s", len(t.Functions), t.Function)
	case t.Kind == kindUprobeMulti:
		return fmt.Sprintf("%d functions %s:%s", len(t.Offsets), t.Executable, t.Symbol)
	case t.Offset != 0:
		return fmt.Sprintf("function %s+%#x", t.Function, t.Offset)
	}
	return "function " + t.Function
}

// symbol returns what of Executable is probed.
func (t Target) symbol() string {
	if t.Symbol != "" {
		return t.Symbol
	}
	return fmt.Sprintf("%#x", t.Offset)
}

// longestLink bounds Target.Link. bpffs takes 255 bytes.
const longestLink = 128

// named returns t with Link set, from what makes t differ from other targets of
// the same program. The same request gets the same name on this host at every
// start, whatever else is in the manifest. Where the readable name does not say
// all, a hash of the rest follows.
func (t Target) named() Target {
	netns := strings.TrimPrefix(t.Netns, "/run/netns/")
	words := []string{t.Program, path.Base("/" + netns), t.Interface, path.Base("/" + t.Cgroup),
		t.Tracepoint, path.Base("/" + t.Executable), t.Symbol, t.Map}
	whole := []string{t.Program, netns, t.Interface, t.Cgroup, t.Tracepoint, t.Executable, t.Symbol, t.Map}
	if t.Function != "" { // not among the others: their hashes are names already
		words, whole = append(words, t.Function), append(whole, t.Function)
	}
	exact := true
	var b strings.Builder
	for i, w := range words {
		if w == "" || w == "/" {
			continue
		}
		pin := strings.Map(pinRune, w)
		exact = exact && w == whole[i] && pin == w
		if b.Len() > 0 {
			b.WriteByte('-')
		}
		b.WriteString(pin)
	}
	b.WriteString(t.suffix())
	t.Link = b.String()
	if !exact || len(t.Link) > longestLink {
		sum := sha256.Sum256([]byte(strings.Join(whole, "\x00") + t.suffix()))
		t.Link = t.Link[:min(len(t.Link), longestLink-9)] + "-" + hex.EncodeToString(sum[:4])
	}
	return t
}

// suffix is the part of a link's name that consists of numbers and known words.
func (t Target) suffix() string {
	switch t.AttachType {
	case "tcx_ingress", "cgroup_inet_ingress":
		return "-ingress"
	case "tcx_egress", "cgroup_inet_egress":
		return "-egress"
	case "netfilter":
		first := t.Priority
		if len(t.Priorities) > 0 {
			first = t.Priorities[0]
		}
		return fmt.Sprintf("-%s-%s-%d", t.Family, t.Hook, first)
	case "uprobe", "uretprobe":
		return fmt.Sprintf("-%#x", t.Offset)
	case "kprobe":
		if t.Offset != 0 {
			return fmt.Sprintf("-%#x", t.Offset)
		}
	}
	return ""
}

// pinRune replaces what a word of a link's name must not hold. bpffs refuses
// dots and slashes; '-' separates the words.
func pinRune(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
		return r
	}
	return '_'
}
