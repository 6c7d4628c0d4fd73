package loader

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Capabilities is what creating maps and loading and attaching programs needs,
// all types together. Reading a map by its id, as for .kconfig, and looking up
// its type information needs CAP_SYS_ADMIN.
var Capabilities = []int{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}

// explainEPERM says why the kernel answered EPERM to what: capabilities that
// this process lacks, or else that something else forbids it. The library's
// guess, a low RLIMIT_MEMLOCK, has not been true since Linux 5.11.
func explainEPERM(what string, needed []int, err error) error {
	missing := missingCapabilities(needed)
	if len(missing) > 0 {
		return remedy.With(fmt.Errorf("%s: %w: this process lacks %s", what, unix.EPERM, strings.Join(missing, ", ")),
			"run hornetd with %s (CapabilityBoundingSet= and AmbientCapabilities= of its unit)", strings.Join(missing, ", "))
	}
	if mode := lockdown(); mode != "none" && mode != "" {
		return remedy.With(fmt.Errorf("%s: %w: the kernel forbids it to everybody (a security module, or lockdown=%s)", what, unix.EPERM, mode),
			"look for a BPF security policy on this host, and boot with lockdown=none if the program writes user memory or reads kernel memory")
	}
	return remedy.With(fmt.Errorf("%s: %w: the kernel forbids it to everybody, although the capabilities are there", what, unix.EPERM),
		"this kernel or a security module on this host refuses this type: use another one, or another kernel")
}

// missingCapabilities returns the names of those of needed that this thread
// does not have. CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON.
func missingCapabilities(needed []int) (missing []string) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil
	}
	has := func(c int) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	for _, c := range needed {
		if !has(c) && !(has(unix.CAP_SYS_ADMIN) && (c == unix.CAP_BPF || c == unix.CAP_PERFMON)) {
			missing = append(missing, capabilityNames[c])
		}
	}
	return missing
}

var capabilityNames = map[int]string{
	unix.CAP_BPF:       "CAP_BPF",
	unix.CAP_PERFMON:   "CAP_PERFMON",
	unix.CAP_NET_ADMIN: "CAP_NET_ADMIN",
	unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
}

// programCapabilities returns what loading a program of type t needs
// (bpf_prog_load, is_net_admin_prog_type and is_perfmon_prog_type).
func programCapabilities(t ebpf.ProgramType) []int {
	switch t {
	case ebpf.SchedCLS, ebpf.SchedACT, ebpf.XDP, ebpf.LWTIn, ebpf.LWTOut, ebpf.LWTXmit, ebpf.LWTSeg6Local,
		ebpf.SkSKB, ebpf.SkMsg, ebpf.FlowDissector, ebpf.CGroupDevice, ebpf.CGroupSock, ebpf.CGroupSockAddr,
		ebpf.CGroupSockopt, ebpf.CGroupSysctl, ebpf.SockOps, ebpf.Netfilter:
		return []int{unix.CAP_BPF, unix.CAP_NET_ADMIN}
	case ebpf.Extension:
		return []int{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON}
	case ebpf.Kprobe, ebpf.TracePoint, ebpf.PerfEvent, ebpf.RawTracepoint, ebpf.RawTracepointWritable,
		ebpf.Tracing, ebpf.LSM, ebpf.StructOps:
		return []int{unix.CAP_BPF, unix.CAP_PERFMON}
	}
	return []int{unix.CAP_BPF}
}

// mapCapabilities returns what creating a map of type t needs (map_create).
func mapCapabilities(t ebpf.MapType) []int {
	switch t {
	case ebpf.SockMap, ebpf.SockHash, ebpf.DevMap, ebpf.DevMapHash, ebpf.XSKMap:
		return []int{unix.CAP_BPF, unix.CAP_NET_ADMIN}
	}
	return []int{unix.CAP_BPF}
}

// lockdown returns the kernel's lockdown mode: none, integrity or
// confidentiality, or "" where it does not tell.
func lockdown() string {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}

// unwrapAll returns the innermost error: an errno without the library's words
// around it.
func unwrapAll(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
