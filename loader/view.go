package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/manifest"
)

// ErrAbsent is wrapped by errors about a target that is not there and may come:
// an interface, a cgroup, a network namespace or an executable.
var ErrAbsent = errors.New("the target is not there")

// absent makes err one of ErrAbsent, in the same words.
type absent struct{ err error }

func (a absent) Error() string        { return a.err.Error() }
func (a absent) Unwrap() error        { return a.err }
func (a absent) Is(target error) bool { return target == ErrAbsent }

// View is what targets lead to at one moment. Each network namespace is visited
// once, however many targets are in it: make a new View for a later moment. It
// is for one goroutine.
type View struct {
	nets    map[string]*netView
	symbols *Symbols
}

type netView struct {
	inode uint64
	index map[string]int // by name
	links map[int]netLink
	err   error
}

// netLink is an interface, and the XDP programs that it runs.
type netLink struct {
	name string
	xdp  []uint32
}

// NewView returns a View that has looked at nothing yet.
func NewView() *View { return NewViewWith(&Symbols{}) }

// NewViewWith returns a View that reads no executable which s knows already.
func NewViewWith(s *Symbols) *View { return &View{nets: map[string]*netView{}, symbols: s} }

// Symbols is what was found in executables, from one View to the next. A large file
// takes long to read, and is read again only when it has changed. The zero value
// knows nothing. It is for one goroutine.
type Symbols struct{ found map[fileSymbol]symbolPlace }

// fileSymbol is a symbol in a file as it was at one moment.
type fileSymbol struct {
	path, kind, symbol string
	device, inode      uint64
	size               int64
	modified, changed  unix.Timespec
}

type symbolPlace struct {
	offset  uint64
	offsets []uint64
	err     error
}

// mostSymbols bounds what is remembered.
const mostSymbols = 4096

// find returns what read finds in x for t, or what it found there.
func (s *Symbols) find(x executable, t Target, read func() symbolPlace) symbolPlace {
	var st unix.Stat_t
	if err := unix.Fstat(int(x.file.Fd()), &st); err != nil {
		return symbolPlace{err: err}
	}
	key := fileSymbol{x.path, t.Kind, t.Symbol, uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
	if p, ok := s.found[key]; ok {
		return p
	}
	if s.found == nil || len(s.found) >= mostSymbols {
		s.found = map[fileSymbol]symbolPlace{}
	}
	p := read()
	s.found[key] = p
	return p
}

func (v *View) net(path string) *netView {
	n, ok := v.nets[path]
	if !ok {
		n = &netView{index: map[string]int{}}
		n.err = n.look(path)
		v.nets[path] = n
	}
	return n
}

func (n *netView) look(path string) error {
	ns, err := openNetns(path)
	if err != nil {
		return err
	}
	defer ns.close()
	n.inode = ns.inode
	return ns.do(func() error {
		dump, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
		if err != nil {
			return fmt.Errorf("list interfaces%s: %w", ns, err)
		}
		if n.links, err = readLinks(dump); err != nil {
			return fmt.Errorf("list interfaces%s: %w", ns, err)
		}
		for index, l := range n.links {
			n.index[l.name] = index
		}
		return nil
	})
}

// readLinks reads the kernel's list of interfaces: RTM_NEWLINK messages, each a
// struct ifinfomsg and attributes.
func readLinks(dump []byte) (map[int]netLink, error) {
	msgs, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, err
	}
	links := make(map[int]netLink, len(msgs))
	for i := range msgs {
		if index, l, ok := readLink(msgs[i]); ok {
			links[index] = l
		}
	}
	return links, nil
}

// readLink reads one of them.
func readLink(m syscall.NetlinkMessage) (index int, l netLink, ok bool) {
	if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return 0, netLink{}, false
	}
	attrs := m.Data[unix.SizeofIfInfomsg:]
	l.name = unix.ByteSliceToString(attr(attrs, unix.IFLA_IFNAME))
	xdp := attr(attrs, unix.IFLA_XDP)
	for _, kind := range []uint16{unix.IFLA_XDP_PROG_ID, unix.IFLA_XDP_DRV_PROG_ID, unix.IFLA_XDP_SKB_PROG_ID, unix.IFLA_XDP_HW_PROG_ID} {
		if id := attrUint32(xdp, kind); id != 0 {
			l.xdp = append(l.xdp, id)
		}
	}
	return int(binary.NativeEndian.Uint32(m.Data[4:])), l, true
}

// Again returns t as it would be resolved now: the same names, and the numbers
// of what they lead to. The error wraps ErrAbsent where a name leads nowhere.
//
// What a caller showed has no name that would lead there; Ended tells of it.
func (v *View) Again(t Target) (Target, error) {
	if t.Caller {
		return t, nil
	}
	switch t.Kind {
	case kindXDP, kindTCX:
		return v.interfaceAgain(t)
	case kindNetns, kindNetfilter:
		ns, err := openNetns(t.Netns)
		if err != nil {
			return t, err
		}
		defer ns.close()
		t.NetnsInode = ns.inode
	case kindCgroup:
		var st unix.Stat_t
		if err := unix.Stat(t.Cgroup, &st); err == nil && st.Ino == t.CgroupID {
			return t, nil
		}
		f, err := openCgroup(t.Cgroup)
		if err != nil {
			return t, err
		}
		defer f.Close()
		t.CgroupID, err = inodeOf(f)
		return t, err
	case kindPerfEvent, kindUprobeMulti:
		if t.Executable != "" {
			return v.executableAgain(t)
		}
	}
	return t, nil
}

func (v *View) interfaceAgain(t Target) (Target, error) {
	n := v.net(t.Netns)
	if n.err != nil {
		return t, n.err
	}
	t.NetnsInode = n.inode
	if index, ok := n.index[t.Interface]; ok {
		t.Ifindex = index
		return t, nil
	}
	ns, err := openNetns(t.Netns) // the name may be an alternative one
	if err != nil {
		return t, err
	}
	defer ns.close()
	return t, ns.do(func() (err error) {
		if t.Ifindex, err = ifindex(t.Interface); err != nil {
			return absent{fmt.Errorf("there is no interface %q%s", t.Interface, ns)}
		}
		return nil
	})
}

// executableAgain finds the file, and where in it the symbol is, if it is
// another file than before.
func (v *View) executableAgain(t Target) (Target, error) {
	x, err := openExecutable(t.Executable)
	if err != nil {
		return t, err
	}
	defer x.close()
	if x.is(t) {
		return t, nil
	}
	t.Inode, t.Device = x.inode, x.device
	if t.Kind != kindUprobeMulti && t.Symbol == "" {
		return t, nil
	}
	p := v.symbols.find(x, t, func() symbolPlace { return x.placeOf(t) })
	if t.Kind == kindUprobeMulti {
		t.Offsets = slices.Clone(p.offsets)
	} else if p.err == nil {
		t.Offset = p.offset
	}
	return t, p.err
}

// placeOf reads where in x the symbols of t are.
func (x executable) placeOf(t Target) (p symbolPlace) {
	if t.Kind == kindUprobeMulti {
		p.offsets, p.err = x.offsets(strings.Split(t.Symbol, ","))
		return p
	}
	symbol, more := t.Symbol, uint64(0)
	if i := strings.LastIndex(symbol, "+0x"); i >= 0 {
		if _, err := fmt.Sscanf(symbol[i+1:], "%v", &more); err != nil {
			p.err = fmt.Errorf("%s: %w", t.Symbol, err)
			return p
		}
		symbol = symbol[:i]
	}
	p.offset, p.err = x.offset(symbol, more)
	return p
}

// NameOf returns what the interface number index is called in the network
// namespace of t, "" where there is none.
func (v *View) NameOf(t Target, index int) string {
	if t.Caller {
		return ""
	}
	return v.net(t.Netns).links[index].name
}

// Elsewhere reports whether a link in state s is at another interface than t's,
// though both have one number: numbers are counted in each network namespace, and
// the link's was moved into another. It knows of XDP only.
func (v *View) Elsewhere(s LinkState, t Target) bool {
	if t.Caller || s.Kind != kindXDP || s.Ifindex == 0 || s.Ifindex != t.Ifindex {
		return false
	}
	l, ok := v.net(t.Netns).links[t.Ifindex]
	return ok && !slices.Contains(l.xdp, uint32(s.ProgramID))
}

// Taken returns why nothing can be attached to t: an interface has one XDP program.
// Of other kinds that shows only when it is tried.
func (v *View) Taken(t Target) error {
	if t.Kind != kindXDP || t.Caller {
		return nil
	}
	l := v.net(t.Netns).links[t.Ifindex]
	if len(l.xdp) == 0 {
		return nil
	}
	return xdpTaken(t.Interface, l.xdp[0], nil)
}

// IsPattern says whether the interface of a manifest's attach may be several.
func IsPattern(name string) bool { return strings.ContainsAny(name, `*?[\`) }

// From says whether t is a target that the attach a of a manifest was resolved
// to, or would be if its interface were there.
func (t Target) From(a manifest.Attach) bool {
	if t.Caller || t.Kind != kindXDP && t.Kind != kindTCX || t.Program != a.Program || t.Netns != a.Netns ||
		a.Direction != "" && !strings.HasSuffix(t.AttachType, a.Direction) {
		return false
	}
	ok, err := path.Match(a.Interface, t.Interface)
	return t.Interface == a.Interface || ok && err == nil
}

// Spread returns t for every interface that pattern matches now, sorted by name
// and named as Resolve names them, attached in the manifest's mode.
func (v *View) Spread(t Target, a manifest.Attach) ([]Target, error) {
	n := v.net(t.Netns)
	if n.err != nil {
		return nil, n.err
	}
	var all []Target
	for name, index := range n.index {
		if ok, err := path.Match(a.Interface, name); ok && err == nil {
			t.Interface, t.Ifindex, t.NetnsInode = name, index, n.inode
			all = append(all, t.WithMode(a).named())
		}
	}
	slices.SortFunc(all, func(x, y Target) int { return strings.Compare(x.Interface, y.Interface) })
	return all, nil
}

// WithMode returns t with the mode that a asks for, which another kind of
// interface may take another way.
func (t Target) WithMode(a manifest.Attach) Target {
	if t.Kind == kindXDP {
		t.Mode = a.Mode
		if t.Mode == "" {
			t.Mode = "auto"
		}
	}
	return t
}

// Present returns an error that wraps ErrAbsent while something that m attaches
// to is not there. It looks at names only: whether m can be loaded is for
// Resolve.
func (v *View) Present(m manifest.Manifest) error {
	for _, a := range m.Attach {
		if err := v.present(a); err != nil {
			return err
		}
	}
	return nil
}

func (v *View) present(a manifest.Attach) error {
	switch {
	case a.OfCaller():
		return nil
	case a.Interface != "" && IsPattern(a.Interface):
		found, err := v.Spread(Target{Kind: kindTCX, Netns: a.Netns}, a)
		if err == nil && len(found) == 0 {
			err = absent{fmt.Errorf("no interface matches %q", a.Interface)}
		}
		return err
	case a.Interface != "":
		_, err := v.interfaceAgain(Target{Interface: a.Interface, Netns: a.Netns})
		return err
	case a.Netns != "":
		return v.net(a.Netns).err
	case a.Cgroup != "":
		f, err := openCgroup(a.Cgroup)
		if err == nil {
			f.Close()
		}
		return err
	case a.Executable != "":
		_, err := os.Stat(a.Executable)
		if errors.Is(err, fs.ErrNotExist) {
			err = absent{err}
		}
		return err
	}
	return nil
}

// Places returns the directories in which it shows when a target that is a file
// (cgroup, network namespace, executable) comes or goes: of each the nearest
// that exists.
func Places(ts []Target, as []manifest.Attach) []string {
	files := map[string]bool{}
	root, err := cgroup2()
	for _, t := range ts {
		files[t.Netns], files[t.Executable] = true, true
		// A caller's was found below there; an older hornetd's record may say otherwise.
		if !t.Caller || err == nil && path.Clean(t.Cgroup) == t.Cgroup && strings.HasPrefix(t.Cgroup, root+"/") {
			files[t.Cgroup] = true
		}
	}
	for _, a := range as {
		files[a.Netns], files[a.Executable] = true, true
		if a.Cgroup == "" || path.IsAbs(a.Cgroup) {
			files[a.Cgroup] = true
		} else if err == nil {
			files[path.Join(root, a.Cgroup)] = true
		}
	}
	dirs := map[string]bool{}
	for f := range files {
		if path.IsAbs(f) {
			dirs[path.Dir(f)] = true
		}
	}
	for d := range maps.Clone(dirs) {
		delete(dirs, d)
		for info, err := os.Stat(d); d != "/" && (err != nil || !info.IsDir()); info, err = os.Stat(d) {
			d = path.Dir(d)
		}
		dirs[d] = true
	}
	all := make([]string, 0, len(dirs))
	for d := range dirs {
		all = append(all, d)
	}
	slices.Sort(all)
	return all
}

// StateByID is the part of Describe that tells whether the link of an id is where
// it should be: kind, program and place. It costs a third. The error wraps
// fs.ErrNotExist where there is no such link.
func StateByID(id uint32) (LinkState, error) {
	i, err := bpfsys.LinkByID(id)
	if err != nil {
		return LinkState{}, err
	}
	s := LinkState{ID: link.ID(i.ID), Kind: linkKinds[link.Type(i.Type)], ProgramID: ebpf.ProgramID(i.Program)}
	switch s.Kind {
	case kindXDP, kindTCX:
		s.Ifindex = int(i.Place32())
	case kindCgroup:
		s.CgroupID = i.Place64()
	case kindNetns:
		s.NetnsInode = uint64(i.Place32())
	case kindStructOps:
		s.MapID = ebpf.MapID(i.Place32())
	}
	return s, nil
}

// Alive says whether the link still is where s was asked: the kernel sets the
// place to 0 when a link is detached or what it was attached to goes. Of a netfilter
// link only Unhooked finds that out.
func (s LinkState) Alive() bool {
	switch s.Kind {
	case kindXDP, kindTCX:
		return s.Ifindex != 0
	case kindCgroup:
		return s.CgroupID != 0
	case kindNetns:
		return s.NetnsInode != 0
	case kindStructOps:
		return s.MapID != 0
	}
	return !s.Unhooked
}

// At says whether the link is at what t leads to now.
func (s LinkState) At(t Target) bool {
	switch s.Kind {
	case kindXDP, kindTCX:
		return s.Ifindex == t.Ifindex
	case kindCgroup:
		return s.CgroupID == t.CgroupID
	case kindNetns:
		return s.NetnsInode == t.NetnsInode
	}
	return true
}
