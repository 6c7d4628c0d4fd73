package pinning

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// xdpDrop drops every packet.
var xdpDrop = &ebpf.ProgramSpec{
	Name: "xdp_drop", Type: ebpf.XDP, License: "GPL",
	Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
}

// XDP takes one link per interface and detaches at once when told to: it
// shows whether a removed link is really gone, and packets show whether one
// that stays really runs.
func attachXDP(t testing.TB, end testenv.End, p *ebpf.Program) (l link.Link) {
	t.Helper()
	must(t, testenv.InNetns(t, end.Netns, func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: end.Ifindex, Flags: link.XDPGenericMode})
		return err
	}))
	return l
}

// vethUp makes a veth pair through which packets pass: the first ones get lost
// while the carrier comes up.
func vethUp(t testing.TB) testenv.Pair {
	t.Helper()
	pair := testenv.Veth(t)
	mustPass(t, pair)
	return pair
}

func mustPass(t testing.TB, pair testenv.Pair) {
	t.Helper()
	for range 10 {
		if pair.Ping(t, 1) == 1 {
			return
		}
	}
	t.Error("no packet comes through")
}

// commitXDP commits a collection that drops what arrives at end.
func commitXDP(t testing.TB, s *Store, n string, end testenv.End) {
	t.Helper()
	p, err := ebpf.NewProgram(xdpDrop)
	must(t, err)
	defer p.Close()
	l := attachXDP(t, end, p)
	defer l.Close()
	st, err := s.Stage(name(t, n))
	must(t, err)
	must(t, st.PinPrograms(map[string]*ebpf.Program{"drop": p}))
	must(t, st.PinLinks(map[string]link.Link{"xdp": l}))
	must(t, st.PinRecord(Record{Name: n, Programs: []RecordProgram{{Name: "drop"}}, Links: []RecordLink{{Name: "xdp"}}}))
	must(t, st.Commit())
}

// ifindex asks the kernel where a collection's link is attached; 0: nowhere.
func ifindex(t testing.TB, s *Store, n string) int {
	t.Helper()
	e, err := s.Load(name(t, n))
	must(t, err)
	defer e.Close()
	l, err := e.Link("xdp")
	must(t, err)
	defer l.Close()
	info, err := l.Info()
	must(t, err)
	return int(info.XDP().Ifindex)
}

// restage builds a successor whose link is the old one's, in one way or the
// other.
func restage(t testing.TB, s *Store, n string, take func(*Stage, *Entry) error) *Stage {
	t.Helper()
	e, err := s.Load(name(t, n))
	must(t, err)
	defer e.Close()
	st, err := s.Restage(name(t, n))
	must(t, err)
	must(t, take(st, e))
	must(t, st.PinRecord(Record{Name: n, Links: []RecordLink{{Name: "xdp"}}}))
	return st
}

func TestRemoveFreesTheHook(t *testing.T) {
	root := bpffs(t)
	pair := vethUp(t)
	s := open(t, root)
	for range 20 {
		commitXDP(t, s, "a", pair.B) // EBUSY while another is attached
		must(t, s.Remove(name(t, "a")))
	}
	mustPass(t, pair)
}

func TestRemoveDetachesWhatSomebodyHolds(t *testing.T) {
	root := bpffs(t)
	pair := vethUp(t)
	s := open(t, root)
	commitXDP(t, s, "a", pair.B)
	l, err := load(t, s, "a").Link("xdp")
	must(t, err)
	defer l.Close()
	must(t, s.Remove(name(t, "a")))
	mustPass(t, pair)
}

// A stage that shares a link with a committed collection, as another name of
// its file or as a second pin, takes nothing with it however it ends.
func TestSharedLinkGoesOnRunning(t *testing.T) {
	ways := map[string]func(*Stage, *Entry) error{
		"taken over": func(st *Stage, e *Entry) error { return st.LinkExisting(e, "xdp", "xdp") },
		"pinned again": func(st *Stage, e *Entry) error {
			l, err := e.Link("xdp")
			if err != nil {
				return err
			}
			defer l.Close()
			return st.PinLinks(map[string]link.Link{"xdp": l})
		},
	}
	ends := map[string]func(*Store, *Stage) error{
		"replace": func(s *Store, st *Stage) error { return st.Replace() },
		"discard": func(s *Store, st *Stage) error { return st.Discard() },
		"sweep": func(s *Store, st *Stage) error {
			st.dir.close()
			_, err := s.Sweep()
			return err
		},
		"quarantine": func(s *Store, st *Stage) error {
			st.dir.close()
			dir := quarantinePrefix + newID()
			return errors.Join(s.dir.rename(st.id, dir, unix.RENAME_NOREPLACE), s.RemoveQuarantined(dir))
		},
	}
	root := bpffs(t)
	pair := vethUp(t)
	s := open(t, root)
	commitXDP(t, s, "a", pair.B)
	for way, take := range ways {
		for end, finish := range ends {
			must(t, finish(s, restage(t, s, "a", take)))
			if got := ifindex(t, s, "a"); got != pair.B.Ifindex {
				t.Fatalf("%s, %s: attached to interface %d, want %d", way, end, got, pair.B.Ifindex)
			}
			if ents, err := os.ReadDir(root); err != nil || len(ents) > 3 { // a and the kernel's two
				t.Fatalf("%s, %s: left %v, %v", way, end, ents, err)
			}
		}
	}
	if got := pair.Ping(t, 1); got != 0 {
		t.Error("the program no longer drops")
	}
	must(t, s.Remove(name(t, "a")))
	mustPass(t, pair)
}

// TestSweepSparesQuarantine: a stage that was begun of what is in quarantine by
// now, or of a stage that this sweep puts there, takes none of its links with it;
// nor where they cannot be read.
func TestSweepSparesQuarantine(t *testing.T) {
	takeOver := func(st *Stage, e *Entry) error { return st.LinkExisting(e, "xdp", "xdp") }
	for what, aside := range map[string]func(s *Store, root string) error{
		"quarantined": func(*Store, string) error { return nil },
		"unreadable": func(_ *Store, root string) error {
			dirs, err := filepath.Glob(root + "/" + quarantinePrefix + "*")
			if err != nil || len(dirs) != 1 {
				return fmt.Errorf("%v, %w", dirs, err)
			}
			return pinValue(t, dirs[0]+"/links/a", "x", false) // no link
		},
		"unknown stage": func(s *Store, root string) error {
			dirs, err := filepath.Glob(root + "/" + quarantinePrefix + "*")
			if err != nil || len(dirs) != 1 {
				return fmt.Errorf("%v, %w", dirs, err)
			}
			stage := stagePrefix + "zz" // behind the other one
			return errors.Join(os.Mkdir(dirs[0]+"/struct_ops", 0o700), os.Rename(dirs[0], root+"/"+stage))
		},
	} {
		t.Run(what, func(t *testing.T) {
			root := bpffs(t)
			pair := vethUp(t)
			s := open(t, root)
			commitXDP(t, s, "a", pair.B)
			restage(t, s, "a", takeOver).dir.close() // as a kill would leave it
			_, err := s.Quarantine(name(t, "a"))
			must(t, err)
			must(t, aside(s, root))
			swept, err := s.Sweep()
			must(t, err)
			if len(swept) != 1 {
				t.Errorf("swept %q", swept)
			}
			q, err := s.Quarantined()
			must(t, err)
			if len(q) != 1 {
				t.Fatalf("in quarantine: %v", q)
			}
			l, err := link.LoadPinnedLink(root+"/"+q[0].Dir+"/links/xdp", nil)
			must(t, err)
			defer l.Close()
			info, err := l.Info()
			must(t, err)
			if got := int(info.XDP().Ifindex); got != pair.B.Ifindex || pair.Ping(t, 1) != 0 {
				t.Errorf("attached to interface %d, want %d", got, pair.B.Ifindex)
			}
			must(t, s.RemoveQuarantined(q[0].Dir))
			mustPass(t, pair)
		})
	}
}

// TestDiscardSparesWhatRanBefore: a link whose pin was taken away, and which is
// pinned again in a stage that fails, runs on.
func TestDiscardSparesWhatRanBefore(t *testing.T) {
	pair := vethUp(t)
	root := bpffs(t)
	s := open(t, root)
	commitXDP(t, s, "a", pair.B)
	e, err := s.Load(name(t, "a"))
	must(t, err)
	l, err := e.Link("xdp")
	must(t, err)
	defer l.Close()
	must(t, e.Unpin("xdp"))
	e.Close()

	st, err := s.Restage(name(t, "a"))
	must(t, err)
	must(t, st.PinExisting(l, "xdp"))
	must(t, st.Discard())
	info, err := l.Info()
	must(t, err)
	if info.XDP().Ifindex == 0 || pair.Ping(t, 1) != 0 {
		t.Error("a stage that failed has detached what ran before it")
	}
}

// asStage makes the committed collection n a stage, as a crash leaves one.
func asStage(t testing.TB, root, n string) (stage string) {
	t.Helper()
	stage = stagePrefix + newID()
	must(t, os.Rename(root+"/"+n, root+"/"+stage))
	return stage
}

// heldXDP returns a descriptor of a collection's link, so that only who detaches it
// ends it.
func heldXDP(t testing.TB, s *Store, n string) link.Link {
	t.Helper()
	l, err := load(t, s, n).Link("xdp")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func isDetached(t testing.TB, l link.Link) bool {
	t.Helper()
	info, err := l.Info()
	must(t, err)
	return info.XDP().Ifindex == 0
}

// Nothing that is no link, beside those in quarantine, keeps a sweep from detaching.
func TestSweepDetachesBesideWhatIsNoLink(t *testing.T) {
	pair := vethUp(t)
	for what, put := range map[string]func(dir string) error{
		"map":           func(dir string) error { return os.Link(dir+"/maps/hits", dir+"/links/odd") },
		"program":       func(dir string) error { return os.Link(dir+"/programs/count", dir+"/links/odd") },
		"directory":     func(dir string) error { return os.Mkdir(dir+"/links/odd", 0o700) },
		"symbolic link": func(dir string) error { return os.Symlink("exec", dir+"/links/odd") },
		"no directory": func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/links"), os.Link(dir+"/maps/hits", dir+"/links"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			root := bpffs(t)
			s := open(t, root)
			commit(t, s, "odd")
			aside, err := s.Quarantine(name(t, "odd"))
			must(t, err)
			must(t, put(root+"/"+aside))
			commitXDP(t, s, "a", pair.B)
			l := heldXDP(t, s, "a")
			stage := asStage(t, root, "a")
			swept, err := s.Sweep()
			if err != nil || len(swept) != 1 || swept[0] != stage {
				t.Errorf("Sweep = %q, %v", swept, err)
			}
			if !isDetached(t, l) {
				t.Error("the link of the stage is attached still")
			}
		})
	}
}

// A stage that goes takes no link of one that stays with it.
func TestSweepLeavesLinksOfWhatStays(t *testing.T) {
	pair := vethUp(t)
	for what, keep := range map[string]func(t *testing.T, root, stage string) (stay []string, fails bool){
		"named": func(_ *testing.T, _, stage string) ([]string, bool) { return []string{stage}, false },
		"not known, and its name in quarantine is taken": func(t *testing.T, root, stage string) ([]string, bool) {
			must(t, os.Mkdir(root+"/"+stage+"/newer", 0o700))
			must(t, os.Mkdir(root+"/"+quarantinePrefix+stage[len(stagePrefix):], 0o700))
			return nil, true
		},
	} {
		t.Run(what, func(t *testing.T) {
			root := bpffs(t)
			s := open(t, root)
			commitXDP(t, s, "a", pair.B)
			l := heldXDP(t, s, "a")
			stage := asStage(t, root, "a")
			stay, fails := keep(t, root, stage)
			goes := root + "/" + stagePrefix + newID()
			must(t, os.MkdirAll(goes+"/links", 0o700))
			must(t, os.Link(root+"/"+stage+"/links/xdp", goes+"/links/xdp"))
			swept, err := s.Sweep(stay...)
			if (err != nil) != fails || len(swept) != 1 || root+"/"+swept[0] != goes {
				t.Errorf("Sweep = %q, %v", swept, err)
			}
			if isDetached(t, l) {
				t.Error("the link of what stays was detached")
			}
			must(t, l.Detach())
		})
	}
}
