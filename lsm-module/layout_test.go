package lsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// header reads the enumerations of guard.h, as a compiler would number them.
func header(t *testing.T) map[string]uint32 {
	t.Helper()
	b, err := os.ReadFile("guard.h")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(string(b), "")
	all := map[string]uint32{}
	for _, enum := range regexp.MustCompile(`(?s)enum \w* ?\{(.*?)\}`).FindAllStringSubmatch(text, -1) {
		next := uint64(0)
		for item := range strings.SplitSeq(enum[1], ",") {
			name, value, set := strings.Cut(strings.TrimSpace(item), "=")
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			value = strings.TrimSpace(value)
			if strings.HasPrefix(value, "1 <<") {
				shift, err := strconv.Atoi(strings.TrimPrefix(value, "1 << "))
				if err != nil {
					t.Fatalf("guard.h: %s: %v", name, err)
				}
				next = 1 << shift
			} else if set {
				if next, err = strconv.ParseUint(value, 0, 32); err != nil {
					t.Fatalf("guard.h: %s: %v", name, err)
				}
			}
			all[name] = uint32(next)
			next++
		}
	}
	return all
}

func spec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	s, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The package and the programs are compiled apart: the types of the object say
// what the programs were compiled with.
func TestLayout(t *testing.T) {
	types := spec(t)
	for kernel, value := range map[string]any{
		"state": state{}, "root": root{}, "exe": Executable{}, "place": place{}, "may": may{}, "object": Object{}, "event": rawEvent{}, "role": role{},
	} {
		var s *btf.Struct
		if err := types.Types.TypeByName(kernel, &s); err != nil {
			t.Errorf("struct %s: %v", kernel, err)
			continue
		}
		typ := reflect.TypeOf(value)
		if uintptr(s.Size) != typ.Size() || len(s.Members) != typ.NumField() {
			t.Errorf("struct %s has %d bytes in %d members, %s %d in %d", kernel, s.Size, len(s.Members), typ, typ.Size(), typ.NumField())
			continue
		}
		for i, m := range s.Members {
			f := typ.Field(i)
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			if uintptr(m.Offset.Bytes()) != f.Offset || uintptr(size) != f.Type.Size() || f.Name != "_" && !strings.EqualFold(m.Name, f.Name) {
				t.Errorf("struct %s: %s is %d bytes at %d, %s.%s %d at %d", kernel, m.Name, size, m.Offset.Bytes(), typ, f.Name, f.Type.Size(), f.Offset)
			}
		}
	}
}

// Constants that no program takes into its types stand in the header only.
func TestConstants(t *testing.T) {
	text := header(t)
	for name, want := range map[string]uint32{
		"MODE_OFF": uint32(Off), "MODE_AUDIT": uint32(Audit), "MODE_ENFORCE": uint32(Enforce),
		"DEED_BPF": uint32(DeedBPF), "DEED_MAP": uint32(DeedMap), "DEED_PROGRAM": uint32(DeedProgram), "DEED_PIN": uint32(DeedPin), "DEED_MOUNT": uint32(DeedMount),
		"DEED_TRACE": uint32(DeedTrace), "DEED_SIGNAL": uint32(DeedSignal), "DEED_BINARY": uint32(DeedBinary), "DEED_SOCKET": uint32(DeedSocket),
		"DEED_IOCTL": uint32(DeedIoctl), "BPF_PROG_TYPE_SCHED_CLS": uint32(ebpf.SchedCLS), "BPF_PROG_TYPE_XDP": uint32(ebpf.XDP), "BPF_PROG_TYPE_SK_REUSEPORT": uint32(ebpf.SkReuseport), "BPF_PROG_TYPE_EXT": uint32(ebpf.Extension), "BPF_PERF_EVENT": uint32(ebpf.AttachPerfEvent),
		"BPF_SK_SKB_STREAM_PARSER": uint32(ebpf.AttachSkSKBStreamParser), "BPF_SK_SKB_STREAM_VERDICT": uint32(ebpf.AttachSkSKBStreamVerdict), "BPF_SK_MSG_VERDICT": uint32(ebpf.AttachSkMsgVerdict), "BPF_SK_SKB_VERDICT": uint32(ebpf.AttachSkSKBVerdict),
		"BPF_LSM_CGROUP": uint32(ebpf.AttachLSMCgroup), "RTM_NEWTFILTER": unix.RTM_NEWTFILTER, "RTM_NEWACTION": unix.RTM_NEWACTION, "IFLA_XDP": unix.IFLA_XDP, "TUNSETSTEERINGEBPF": unix.TUNSETSTEERINGEBPF, "TUNSETFILTEREBPF": unix.TUNSETFILTEREBPF, "DEED_TOKEN": uint32(DeedToken), "DEED_NETLINK": uint32(DeedNetlink), "DEED_SWITCH": uint32(DeedSwitch), "DEED_SPAWN": uint32(DeedSpawn), "DEED_PROBE": uint32(DeedProbe),
		"REASON_CALLER": uint32(ReasonCaller), "REASON_TYPE": uint32(ReasonType), "REASON_OWNED": uint32(ReasonOwned), "REASON_UNVERIFIED": uint32(ReasonUnverified),
		"KIND_PROGRAM": uint32(Program), "KIND_MAP": uint32(Map), "KIND_LINK": uint32(Link),
		"OP_WHOAMI": opWhoAmI, "OP_MODE": opMode, "OP_ENROLL": opEnroll, "OP_RETIRE": opRetire, "OP_OWN": opOwn, "OP_DISOWN": opDisown, "OP_LISTED": opListed, "OP_DIGEST": opDigest, "OP_ASKED": opAsked,
		"OWNED_YES": ownedYes, "OWNED_SHARED": ownedShared, "OWNED_GUARD": ownedGuard, "ROOTS": roots, "KEPT": keptMounts, "CALLS": callWords, "NAME_SIZE": nameSize, "MARK_HORNETD": markHornetd,
		"BPF_OBJ_PIN": unix.BPF_OBJ_PIN, "BPF_PROG_TEST_RUN": unix.BPF_PROG_TEST_RUN, "BPF_LINK_DETACH": unix.BPF_LINK_DETACH,
		"BPF_PROG_BIND_MAP": unix.BPF_PROG_BIND_MAP, "SO_ATTACH_BPF": unix.SO_ATTACH_BPF, "PERF_EVENT_IOC_SET_BPF": unix.PERF_EVENT_IOC_SET_BPF,
	} {
		if got, ok := text[name]; !ok || got != want {
			t.Errorf("%s is %d in guard.h (there: %v), %d here", name, got, ok, want)
		}
	}
	for prefix, names := range map[string][]string{"PIN_": pins, "MOUNT_": mounts} {
		for n, is := range names[1:] {
			if name := prefix + strings.ToUpper(is); text[name] != uint32(n+1) {
				t.Errorf("%s is %d in guard.h, %d here", name, text[name], n+1)
			}
			delete(text, prefix+strings.ToUpper(is))
		}
		for name := range text {
			if strings.HasPrefix(name, prefix) {
				t.Errorf("%s of guard.h has no text", name)
			}
		}
	}
	for n, names := range map[string]interface{ String() string }{"audit": Audit, "netlink": DeedNetlink, "owned": ReasonOwned, "link": Link} {
		if names.String() != n {
			t.Errorf("%s calls itself %s", n, names)
		}
	}
}

// Every program has a row and every row a program.
func TestHooks(t *testing.T) {
	s := spec(t)
	rows := map[string]bool{controlProgram: true}
	for _, h := range append(slices.Clone(hooks), floorHooks...) {
		rows[h.Program] = true
		p := s.Programs[h.Program]
		if p != nil && (p.AttachType == ebpf.AttachLSMCgroup) != strings.HasPrefix(h.Program, floorPrefix) {
			t.Errorf("program %s is attached as %s", h.Program, p.AttachType)
		}
		if p == nil {
			t.Errorf("no program %s", h.Program)
			continue
		}
		if p.Type != ebpf.LSM || p.AttachTo != h.Name || p.Flags&unix.BPF_F_SLEEPABLE != 0 {
			t.Errorf("program %s is a %s of %s with flags %d, want one of %s that does not sleep", h.Program, p.Type, p.AttachTo, p.Flags, h.Name)
		}
	}
	for name := range s.Programs {
		if !rows[name] {
			t.Errorf("program %s is in no row of hooks", name)
		}
	}
	for name := range s.Maps {
		if strings.IndexFunc(pinName(name), func(r rune) bool { return !unicode.IsLower(r) }) >= 0 && name != ".rodata" {
			t.Errorf("map %q cannot be pinned under that name", name)
		}
	}
}

func TestProbeJudges(t *testing.T) {
	for _, tt := range []struct {
		list string
		hint string
	}{
		{"lockdown,capability,landlock,bpf\n", ""},
		{"lockdown,capability,landlock,yama\n", "lsm=lockdown,landlock,yama,bpf"},
		{"capability\n", "lsm=bpf"},
		{"capability,bpfx\n", "lsm=bpfx,bpf"},
	} {
		m := judgeList(tt.list, nil)
		if (m == nil) != (tt.hint == "") || m != nil && !strings.Contains(m.Remedy, tt.hint) {
			t.Errorf("%q: %+v, want a remedy with %q", tt.list, m, tt.hint)
		}
	}
	if m := judgeList("", unix.ENOENT); m == nil || !strings.Contains(m.Remedy, "securityfs") {
		t.Errorf("without the file: %+v", m)
	}
	for state, ok := range map[string]bool{"[none] integrity confidentiality\n": true, "none [integrity] confidentiality\n": true, "none integrity [confidentiality]\n": false} {
		if m := judgeLockdown(state, nil); (m == nil) != ok {
			t.Errorf("lockdown %q: %+v", state, m)
		}
	}
	if m := judgeLockdown("", unix.ENOENT); m != nil {
		t.Errorf("without lockdown: %+v", m)
	}
	err := Support{Missing: []Missing{{"a", "one", ""}, {"b", "two", "do that"}}}.Err()
	if err == nil || !strings.Contains(err.Error(), "no a: one") || !strings.Contains(err.Error(), "no b: two") {
		t.Errorf("error %v does not name both", err)
	}
	if err := (Support{}).Err(); err != nil {
		t.Error(err)
	}
}

func FuzzDecodeEvent(f *testing.F) {
	size := int(reflect.TypeFor[rawEvent]().Size())
	f.Add(make([]byte, size))
	f.Add(bytes.Repeat([]byte{0xff}, size))
	f.Add([]byte{1})
	f.Add(make([]byte, size+8)) // of a later build
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeEvent(b); (err == nil) != (len(b) >= firstEvent) || err != nil && !errors.Is(err, ErrNoEvent) {
			t.Errorf("%d bytes are an event: %v", len(b), err)
		}
	})
}

// What another build wrote is read as far as it goes.
func TestOtherBuilds(t *testing.T) {
	if size := binary.Size(state{}); size < firstState {
		t.Errorf("the state has %d bytes, the first build's had %d", size, firstState)
	}
	if size := binary.Size(rawEvent{}); size < firstEvent {
		t.Errorf("an event has %d bytes, the first build's had %d", size, firstEvent)
	}
	type grown struct {
		Mode  uint32
		Calls uint32
		More  uint64
	}
	whole := []byte{2, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1}
	for n := range len(whole) + 1 {
		var g grown
		err := decode(whole[:n:n], 8, &g)
		want := grown{2, 7, 0}
		if n > 8 {
			want.More = 9
		}
		if n < 8 && err == nil || n >= 8 && (err != nil || g != want) {
			t.Errorf("of %d bytes: %+v, %v, want %+v", n, g, err, want)
		}
	}
}
