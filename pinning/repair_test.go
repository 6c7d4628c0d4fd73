package pinning

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
)

// succeed builds the successor of what Hold found, of all that is still pinned
// and o for the rest, and gives it the name.
func succeed(t *testing.T, s *Store, e *Entry, o objects) {
	t.Helper()
	st, err := s.StageFrom(e)
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range o.maps {
		if err := st.KeepMap(e, name); errors.Is(err, ErrNotExist) {
			must(t, st.pin(mapsDir, name, m.FD()))
		} else {
			must(t, err)
		}
	}
	if err := st.KeepProgram(e, "count"); errors.Is(err, ErrNotExist) {
		must(t, st.PinPrograms(o.programs))
	} else {
		must(t, err)
	}
	if err := st.LinkExisting(e, "exec", "exec"); errors.Is(err, ErrNotExist) {
		must(t, st.PinLinks(o.links))
	} else {
		must(t, err)
	}
	must(t, st.PinRecord(o.record(e.Name)))
	must(t, st.Succeed(e))
}

// TestRepairedIsWhole takes a pin away, one after the other, and all of them,
// and has the rest of a successor.
func TestRepairedIsWhole(t *testing.T) {
	for _, gone := range []string{"record", "maps/hits", "maps/%2erodata", "programs/count", "links/exec", "maps", ""} {
		t.Run(gone, func(t *testing.T) {
			root := bpffs(t)
			s := open(t, root)
			o := newObjects(t) // held here, so that nothing is gone but its pin
			must(t, newStage(t, s, "a", o).Commit())
			r := load(t, s, "a").Record
			if missing := s.Missing(r); len(missing) != 0 {
				t.Fatalf("missing %q", missing)
			}
			before := ids(t, o)
			found, err := filepath.Glob(filepath.Join(root, "a", gone))
			if gone == "maps/%2erodata" {
				found, err = filepath.Glob(filepath.Join(root, "a/maps/*rodata"))
			}
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			must(t, os.RemoveAll(found[0]))

			e, err := s.Hold(name(t, "a"), r)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			missing := s.Missing(r)
			slices.Sort(missing)
			slices.Sort(e.Missing)
			if len(missing) == 0 || !slices.Equal(missing, e.Missing) || e.Gone != (gone == "") {
				t.Errorf("missing %q, held without %q, gone %t", missing, e.Missing, e.Gone)
			}
			succeed(t, s, e, o)
			after := load(t, s, "a")
			if len(after.Missing)+len(after.Foreign)+len(s.Missing(r)) != 0 {
				t.Errorf("missing %q, foreign %q", after.Missing, after.Foreign)
			}
			if stages, err := s.Stages(); err != nil || len(stages) != 0 {
				t.Errorf("stages %q, %v", stages, err)
			}
			l, err := after.Link("exec")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if diff := cmp.Diff(before, linkID(t, l)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestHoldSeesWhatIsForeign: a pin that is a symbolic link is missing, and what
// lies there is foreign.
func TestHoldSeesWhatIsForeign(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	o := newObjects(t)
	must(t, newStage(t, s, "a", o).Commit())
	r := load(t, s, "a").Record
	must(t, os.Remove(root+"/a/maps/hits"))
	must(t, os.Symlink("/dev/null", root+"/a/maps/hits"))
	e, err := s.Hold(name(t, "a"), r)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if !slices.Equal(e.Missing, []string{"maps/hits"}) || !slices.Equal(e.Foreign, []string{"maps/hits"}) || !slices.Equal(s.Missing(r), e.Missing) {
		t.Errorf("missing %q %q, foreign %q", e.Missing, s.Missing(r), e.Foreign)
	}
	must(t, os.Remove(root+"/a/maps/hits"))
}

func ids(t *testing.T, o objects) link.ID { return linkID(t, o.links["exec"]) }

func linkID(t *testing.T, l link.Link) link.ID {
	t.Helper()
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.ID
}

// TestLeftOut: a record may name a link that has no pin, which is then missing; a
// stage's link is found by its pin, and a collection's record by whoever has another
// root. A sweep leaves what it is told to.
func TestLeftOut(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	o := newObjects(t)
	st, err := s.Stage(name(t, "a"))
	must(t, err)
	must(t, errors.Join(st.PinMaps(o.maps), st.PinPrograms(o.programs), st.LeaveOut("exec")))
	if err := st.LeaveOut("exec"); !errors.Is(err, ErrExist) {
		t.Errorf("twice: %v", err)
	}
	must(t, st.PinRecord(o.record(name(t, "a"))))
	must(t, st.Commit())
	e := load(t, s, "a")
	if want := []string{"links/exec"}; !slices.Equal(e.Missing, want) || !slices.Equal(s.Missing(e.Record), want) || len(e.Foreign) > 0 {
		t.Errorf("missing %q, foreign %q", e.Missing, e.Foreign)
	}

	staged := newStage(t, s, "b", o)
	defer staged.dir.close()
	links, err := s.StagedLinks()
	must(t, err)
	if len(links) != 1 || len(links["exec"]) != 1 || linkID(t, links["exec"][0]) != ids(t, o) {
		t.Errorf("staged links %v", links)
	}
	for _, l := range links["exec"] {
		must(t, l.Close())
	}
	if swept, err := s.Sweep(staged.ID()); err != nil || len(swept) > 0 {
		t.Errorf("swept %q, %v", swept, err)
	}
	// The test holds the link, which the kernel cannot detach.
	if swept, err := s.Sweep(); !errors.Is(err, ErrLeftBehind) || !slices.Equal(swept, []string{staged.ID()}) {
		t.Errorf("swept %q, %v", swept, err)
	}

	has := func(s *Store) bool {
		t.Helper()
		all, err := s.Hidden()
		must(t, err)
		return slices.ContainsFunc(all, func(r Record) bool { return r.Name == "a" && r.ManifestDigest == e.Record.ManifestDigest })
	}
	if has(s) {
		t.Error("what the root has is hidden")
	}
	if !has(open(t, bpffs(t))) {
		t.Error("what another root has is not found")
	}
}
