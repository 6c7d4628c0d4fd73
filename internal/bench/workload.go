package main

import (
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// workload is one object and what it is attached to. Target i is a cgroup or
// an interface of the world.
type workload struct {
	name     string
	object   string
	maps     map[string]string // as the manifest declares them
	attaches []attachment
	world    *world
	onCgroup bool
}

type attachment struct {
	program string
	typ     ebpf.AttachType // cgroups
	bpftool string          // its name for typ, or for the way of attaching
}

// workloads are two extremes. Attaching to a cgroup is almost free for the
// kernel, so whatever hornetd adds shows in full. Attaching XDP is what most
// people would load; the kernel's own waiting is part of every contender.
func workloads(w *world) []workload {
	return []workload{
		{
			name: "cgroup", object: "examples/conn-count/conn_count.bpf.o", world: w, onCgroup: true,
			maps: map[string]string{"connects": "mutable"},
			attaches: []attachment{
				{"connect4", ebpf.AttachCGroupInet4Connect, "connect4"},
				{"connect6", ebpf.AttachCGroupInet6Connect, "connect6"},
			},
		},
		{
			name: "xdp", object: "examples/xdp-drop/xdp_drop.bpf.o", world: w,
			maps:     map[string]string{"blocked": "frozen", "hits": "mutable"},
			attaches: []attachment{{program: "xdp_drop", bpftool: "xdp"}},
		},
	}
}

// manifest asks hornetd for what the other contenders do by hand.
func (l workload) manifest(i int) []byte {
	b := fmt.Appendf(nil, "start = \"request\"\n[object]\npath = %q\n", filepath.Base(l.object))
	for name, class := range l.maps {
		b = fmt.Appendf(b, "[maps.%s]\nclass = %q\n", name, class)
	}
	for _, a := range l.attaches {
		b = fmt.Appendf(b, "[[attach]]\nprogram = %q\n", a.program)
		if l.onCgroup {
			b = fmt.Appendf(b, "cgroup = %q\n", l.world.cgroup(i))
		} else {
			b = fmt.Appendf(b, "interface = %q\n", interfaceName(i))
		}
	}
	return b
}

// attach attaches what a bare loader would, to target i.
func (l workload) attach(coll *ebpf.Collection, i int) ([]link.Link, error) {
	var links []link.Link
	for _, a := range l.attaches {
		made, err := l.attachOne(coll.Programs[a.program], a.typ, i)
		if err != nil {
			return links, fmt.Errorf("attach %s: %w", a.program, err)
		}
		links = append(links, made)
	}
	return links, nil
}

func (l workload) attachOne(p *ebpf.Program, typ ebpf.AttachType, i int) (link.Link, error) {
	if l.onCgroup {
		return link.AttachCgroup(link.CgroupOptions{Path: l.world.cgroup(i), Attach: typ, Program: p})
	}
	index, err := interfaceIndex(interfaceName(i))
	if err != nil {
		return nil, err
	}
	return link.AttachXDP(link.XDPOptions{Program: p, Interface: index})
}

// interfaceIndex asks for one interface. Package net would list all of them
// first, which is more work than all the rest with hundreds.
func interfaceIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	return int(req.Uint32()), nil
}
