package pinning

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/remedy"
)

func TestRemoveDetaches(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	gone, stays := commit(t, s, "a"), commit(t, s, "b")
	must(t, s.Remove(name(t, "a")))
	if attached(gone) {
		t.Error("the link is still attached after Remove")
	}
	if !attached(stays) {
		t.Error("another collection's link was detached")
	}
	if diff := cmp.Diff(collectionTree("b"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	for _, n := range []Name{name(t, "a"), {}} {
		if err := s.Remove(n); !errors.Is(err, ErrNotExist) {
			t.Errorf("Remove(%q) = %v, want ErrNotExist", n, err)
		}
	}
}

// A descriptor somebody holds keeps a link attached. Remove says so.
func TestRemoveOfALinkThatIsHeld(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	commit(t, s, "a")
	l, err := load(t, s, "a").Link("exec")
	must(t, err)
	defer l.Close()
	err = s.Remove(name(t, "a"))
	if !errors.Is(err, ErrLeftBehind) || !strings.Contains(err.Error(), "another process holds it") || remedy.Of(err) == "" {
		t.Errorf("Remove = %v, want ErrLeftBehind with a remedy", err)
	}
	if got := tree(t, root); len(got) != 0 {
		t.Errorf("left %q", got)
	}
}

// What cannot be removed stays a stage and goes with the next sweep.
func TestRemoveThatCannotFinish(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	id := commit(t, s, "a")
	must(t, os.Mkdir(root+"/a/maps/sub", 0o700))
	mountOver(t, root+"/a/maps/sub")
	err := s.Remove(name(t, "a"))
	if !errors.Is(err, ErrLeftBehind) || !strings.Contains(err.Error(), "maps: sub: something is mounted there") || remedy.Of(err) == "" {
		t.Errorf("Remove = %v, want ErrLeftBehind and where", err)
	}
	if attached(id) {
		t.Error("the link is still attached: links go first")
	}
	if got, _ := s.Entries(); len(got) != 0 {
		t.Errorf("still there: %v", got)
	}
	if got := tree(t, root); !slices.Contains(got, "stage-*/record") {
		t.Errorf("the record went before the rest: %q", got)
	}
}

func TestRemoveLeavesWhatIsNoCollection(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	id := commit(t, s, "b")
	must(t, os.Symlink("b", root+"/a"))
	if err := s.Remove(name(t, "a")); err == nil {
		t.Error("a symbolic link was removed")
	}
	if _, err := os.Lstat(root + "/a"); err != nil {
		t.Error(err)
	}
	if !attached(id) {
		t.Error("the link behind the symbolic link was detached")
	}
}

func TestSweepTakesDownEveryStage(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	committed := commit(t, s, "good")
	var ids []link.ID
	for range 3 {
		o := newObjects(t)
		newStage(t, s, "a", o).dir.close() // as a kill would
		ids = append(ids, idOf(t, o.links["exec"]))
		o.close()
	}
	half := root + "/" + stagePrefix + newID()
	must(t, os.MkdirAll(half+"/maps", 0o700))
	must(t, pinValue(t, half+"/maps/x", "x", false))
	empty := root + "/" + stagePrefix + newID()
	must(t, os.Mkdir(empty, 0o700))

	swept, err := s.Sweep()
	must(t, err)
	if len(swept) != 5 || !slices.Contains(swept, empty[len(root)+1:]) || !slices.IsSorted(swept) {
		t.Errorf("swept %q", swept)
	}
	for _, id := range ids {
		if attached(id) {
			t.Errorf("link %d of a stage is still attached", id)
		}
	}
	if !attached(committed) {
		t.Error("a committed link was detached")
	}
	if diff := cmp.Diff(collectionTree("good"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	if swept, err := s.Sweep(); len(swept) != 0 || err != nil {
		t.Errorf("second Sweep = %q, %v", swept, err)
	}
}

// A stage that a newer hornetd left in the middle of something is kept.
func TestSweepKeepsWhatItDoesNotKnow(t *testing.T) {
	for what, change := range map[string]func(dir string) error{
		"intent":          func(dir string) error { return os.Link(dir+"/maps/hits", dir+"/intent") },
		"directory":       func(dir string) error { return os.Mkdir(dir+"/struct_ops", 0o700) },
		"directory below": func(dir string) error { return os.Mkdir(dir+"/maps/inner", 0o700) },
		"symbolic link":   func(dir string) error { return os.Symlink("hits", dir+"/maps/x") },
		"no directory": func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/maps"), os.Link(dir+"/links/exec", dir+"/maps"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			root := bpffs(t)
			s := open(t, root)
			o := newObjects(t)
			st := newStage(t, s, "a", o)
			id := idOf(t, o.links["exec"])
			o.close()
			st.dir.close()
			must(t, change(root+"/"+st.id))
			swept, err := s.Sweep()
			if len(swept) != 0 || err != nil {
				t.Errorf("Sweep = %q, %v", swept, err)
			}
			q, err := s.Quarantined()
			must(t, err)
			if len(q) != 1 || q[0].Name != "" || !attached(id) {
				t.Fatalf("quarantined %v, attached %v", q, attached(id))
			}
			must(t, s.RemoveQuarantined(q[0].Dir))
			if got := tree(t, root); len(got) != 0 || attached(id) {
				t.Errorf("left %q, attached %v", got, attached(id))
			}
		})
	}
}

func TestQuarantineKeepsRunning(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	id := commit(t, s, "xdp-drop")
	dir, err := s.Quarantine(name(t, "xdp-drop"))
	must(t, err)
	if !attached(id) {
		t.Error("the link was detached")
	}
	q, err := s.Quarantined()
	must(t, err)
	if diff := cmp.Diff([]Quarantined{{Dir: dir, Name: "xdp-drop"}}, q); diff != "" {
		t.Error(diff)
	}
	if swept, err := s.Sweep(); len(swept) != 0 || err != nil {
		t.Errorf("Sweep = %q, %v", swept, err)
	}
	if diff := cmp.Diff(collectionTree("quarantine-*-xdp-drop"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	must(t, s.Restore(dir))
	if diff := cmp.Diff(collectionTree("xdp-drop"), tree(t, root)); diff != "" || !attached(id) {
		t.Errorf("restored, attached %t:\n%s", attached(id), diff)
	}
	dir, err = s.Quarantine(name(t, "xdp-drop"))
	must(t, err)
	e, err := s.LoadQuarantined(dir)
	must(t, err)
	if e.Record.Name != "xdp-drop" || len(e.Missing)+len(e.Foreign) != 0 {
		t.Errorf("in quarantine: %+v", e)
	}
	e.Close()
	commit(t, s, "xdp-drop") // the name is free
	if err := s.Restore(dir); !errors.Is(err, ErrExist) {
		t.Errorf("Restore to a name that is taken: %v", err)
	}
	for _, bad := range []string{"xdp-drop", "quarantine-none/../xdp-drop", dir + "/../xdp-drop", "", "quarantine-none"} {
		if err := s.RemoveQuarantined(bad); !errors.Is(err, ErrNotExist) {
			t.Errorf("RemoveQuarantined(%q) = %v", bad, err)
		}
		if err := s.Restore(bad); err == nil {
			t.Errorf("Restore(%q)", bad)
		}
		if _, err := s.LoadQuarantined(bad); err == nil {
			t.Errorf("LoadQuarantined(%q)", bad)
		}
	}
	must(t, s.RemoveQuarantined(dir))
	if attached(id) {
		t.Error("the link is still attached")
	}
	if diff := cmp.Diff(collectionTree("xdp-drop"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	for _, n := range []Name{name(t, "none"), {}} {
		if _, err := s.Quarantine(n); !errors.Is(err, ErrNotExist) {
			t.Errorf("Quarantine(%q) = %v", n, err)
		}
	}
}

func TestEntriesAndForeign(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	for _, n := range []string{"b", "a"} {
		commit(t, s, n)
	}
	must(t, os.Mkdir(root+"/Upper", 0o700))
	must(t, os.Symlink("a", root+"/c"))
	must(t, os.Symlink("a", root+"/"+stagePrefix+newID()))
	must(t, pinValue(t, root+"/d", "x", false))
	must(t, os.Mkdir(root+"/"+stagePrefix+"mine", 0o700))

	got, err := s.Entries()
	must(t, err)
	if len(got) != 2 || got[0].String() != "a" || got[1].String() != "b" {
		t.Errorf("Entries = %v", got)
	}
	before := tree(t, root)
	swept, err := s.Sweep()
	must(t, err)
	if diff := cmp.Diff([]string{"stage-mine"}, swept); diff != "" {
		t.Error(diff)
	}
	foreign, err := s.Foreign()
	must(t, err)
	if len(foreign) != 4 || foreign[0] != "Upper" || foreign[1] != "c" || foreign[2] != "d" || !strings.HasPrefix(foreign[3], stagePrefix) {
		t.Errorf("Foreign = %q", foreign)
	}
	if after := tree(t, root); len(after) != len(before)-1 {
		t.Errorf("before %q, after %q", before, after)
	}
}
