package pinning

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

func TestCommitMakesTheWholeCollection(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	o := newObjects(t)
	st := newStage(t, s, "a", o)
	if got, _ := s.Entries(); len(got) != 0 {
		t.Errorf("before the commit there is %v", got)
	}
	if diff := cmp.Diff(collectionTree("stage-*"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	must(t, st.Commit())
	if diff := cmp.Diff(collectionTree("a"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	must(t, st.Discard()) // no effect any more
	if diff := cmp.Diff(collectionTree("a"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	for _, d := range []string{"/a", "/a/maps", "/a/links"} {
		var fi unix.Stat_t
		must(t, unix.Lstat(root+d, &fi))
		if fi.Mode != unix.S_IFDIR|0o700 {
			t.Errorf("%s has mode %o", d, fi.Mode)
		}
	}
}

// What runs after the descriptors are closed is what was pinned: same ids,
// same contents, still counting.
func TestAdoption(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	o := newObjects(t)
	must(t, o.maps[".rodata"].Put(uint32(0), uint64(4711)))
	must(t, newStage(t, s, "a", o).Commit())
	want := o.record(name(t, "a"))
	o.close()
	must(t, s.Close()) // the daemon is gone

	e := load(t, open(t, root), "a")
	if len(e.Missing) != 0 || len(e.Foreign) != 0 {
		t.Errorf("missing %q, foreign %q", e.Missing, e.Foreign)
	}
	opened := objects{map[string]*ebpf.Map{}, map[string]*ebpf.Program{}, map[string]link.Link{}}
	defer func() { opened.close() }()
	for _, m := range e.Record.Maps {
		var err error
		if opened.maps[m.Name], err = e.Map(m.Name); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if opened.programs["count"], err = e.Program("count"); err != nil {
		t.Fatal(err)
	}
	if opened.links["exec"], err = e.Link("exec"); err != nil {
		t.Fatal(err)
	}
	got := opened.record(name(t, "a"))
	sortMaps := func(r *Record) {
		if r.Maps[0].Name > r.Maps[1].Name {
			r.Maps[0], r.Maps[1] = r.Maps[1], r.Maps[0]
		}
	}
	sortMaps(&want)
	sortMaps(&got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	var v, before, after uint64
	must(t, opened.maps[".rodata"].Lookup(uint32(0), &v))
	if v != 4711 {
		t.Errorf(".rodata holds %d", v)
	}
	must(t, opened.maps["hits"].Lookup(uint32(0), &before))
	must(t, exec.Command("true").Run())
	must(t, opened.maps["hits"].Lookup(uint32(0), &after))
	if after == before {
		t.Error("the program does not count")
	}
}

func TestStageRefusesACommittedName(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	id := commit(t, s, "a")
	if _, err := s.Stage(name(t, "a")); !errors.Is(err, ErrExist) || remedy.Of(err) == "" {
		t.Errorf("Stage = %v, want ErrExist with a remedy", err)
	}
	if _, err := s.Restage(name(t, "b")); !errors.Is(err, ErrNotExist) {
		t.Errorf("Restage of nothing = %v, want ErrNotExist", err)
	}
	if _, err := s.Stage(Name{}); err == nil {
		t.Error("Stage of the zero name")
	}
	if diff := cmp.Diff(collectionTree("a"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	if !attached(id) {
		t.Error("the link is gone")
	}
}

// Two stages of one name: the kernel lets one commit, the other stays to be
// discarded.
func TestSecondCommitIsRefused(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	first, second := newObjects(t), newObjects(t)
	a, b := newStage(t, s, "a", first), newStage(t, s, "a", second)
	must(t, a.Commit())
	if err := b.Commit(); !errors.Is(err, ErrExist) {
		t.Errorf("second Commit = %v, want ErrExist", err)
	}
	id := idOf(t, second.links["exec"])
	second.close()
	must(t, b.Discard())
	if attached(id) {
		t.Error("the discarded link is attached")
	}
	if diff := cmp.Diff(collectionTree("a"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
}

func TestDiscardLeavesNothing(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	o := newObjects(t)
	st := newStage(t, s, "a", o)
	id := idOf(t, o.links["exec"])
	o.close()
	if !attached(id) {
		t.Fatal("the pin does not keep the link attached")
	}
	must(t, st.Discard())
	if attached(id) {
		t.Error("the link is still attached after Discard")
	}
	if got := tree(t, root); len(got) != 0 {
		t.Errorf("left %q", got)
	}
	must(t, st.Discard())
	if err := st.Commit(); err == nil {
		t.Error("a discarded stage was committed")
	}
}

func TestStageRefuses(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	o := newObjects(t)
	m := o.maps["hits"]
	for what, tc := range map[string]struct {
		do   func(st *Stage) error
		want string
	}{
		"commit without a record": {func(st *Stage) error { return st.Commit() }, "without a record"},
		"two maps, one pin": {func(st *Stage) error {
			return st.PinMaps(map[string]*ebpf.Map{".rodata": m, "_rodata": m})
		}, `map "_rodata": pin "_rodata": file already exists, it is ".rodata"'s`},
		"one map twice": {func(st *Stage) error {
			return errors.Join(st.PinMaps(map[string]*ebpf.Map{"hits": m}), st.PinMaps(map[string]*ebpf.Map{"hits": m}))
		}, "already exists"},
		"a name that leads out": {func(st *Stage) error {
			return st.PinMaps(map[string]*ebpf.Map{"../record": m})
		}, `"/" at byte 2`},
		"a name too long": {func(st *Stage) error {
			return st.PinPrograms(map[string]*ebpf.Program{strings.Repeat("p", 256): o.programs["count"]})
		}, "256 bytes, more than 255"},
		"an attachment without a link": {func(st *Stage) error {
			return st.PinLinks(map[string]link.Link{"x": struct{ link.Link }{}})
		}, `link "x": this attachment has no link`},
		"record of another": {func(st *Stage) error { return st.PinRecord(o.record(name(t, "b"))) }, `record: of "b", not of "a"`},
		"record of what is not pinned": {func(st *Stage) error { return st.PinRecord(o.record(name(t, "a"))) },
			"not pinned, or named twice"},
		"pinned but not recorded": {func(st *Stage) error {
			return errors.Join(st.PinMaps(o.maps), st.PinRecord(Record{Name: "a"}))
		}, "pinned but not in the record"},
		"one map recorded twice": {func(st *Stage) error {
			return errors.Join(st.PinMaps(map[string]*ebpf.Map{"hits": m}),
				st.PinRecord(Record{Name: "a", Maps: []RecordMap{{Name: "hits"}, {Name: "hits"}}}))
		}, "not pinned, or named twice"},
		"record too large": {func(st *Stage) error {
			return st.PinRecord(Record{Name: "a", Description: strings.Repeat("x", maxRecord)})
		}, "more than 262144"},
		"replace of nothing": {func(st *Stage) error {
			return errors.Join(st.PinRecord(Record{Name: "a"}), st.Replace())
		}, "no such file"},
		"taking over a link that is not there": {func(st *Stage) error {
			commit(t, s, "other")
			return st.LinkExisting(load(t, s, "other"), "nothing", "nothing")
		}, `link "nothing": take over: pin: file does not exist`},
	} {
		t.Run(what, func(t *testing.T) {
			st, err := s.Stage(name(t, "a"))
			must(t, err)
			if err := tc.do(st); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			must(t, st.Discard())
		})
	}
	if got, want := tree(t, root), collectionTree("other"); !cmp.Equal(got, want) {
		t.Errorf("left %q", got)
	}
}

// The link that stays keeps its id, the one that is not taken over detaches,
// and everything else is the new collection's.
func TestReplace(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	o := newObjects(t)
	extra, err := attachTo(o.programs["count"], "sched_process_exit")
	must(t, err)
	o.links["extra"] = extra
	must(t, newStage(t, s, "a", o).Commit())
	stays, goes := idOf(t, o.links["exec"]), idOf(t, extra)
	o.close()

	old := load(t, s, "a")
	next := newObjects(t)
	next.links["exec"].Close()
	delete(next.links, "exec")
	st, err := s.Restage(name(t, "a"))
	must(t, err)
	must(t, st.PinMaps(next.maps))
	must(t, st.PinPrograms(next.programs))
	must(t, st.LinkExisting(old, "exec", "exec"))
	r := next.record(name(t, "a"))
	r.Version = 2
	r.Links = []RecordLink{{Name: "exec", ID: uint32(stays)}}
	must(t, st.PinRecord(r))
	must(t, st.Replace())

	if !attached(stays) {
		t.Error("the link that stays was detached")
	}
	if attached(goes) {
		t.Error("the link that goes is still attached")
	}
	if diff := cmp.Diff(collectionTree("a"), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	e := load(t, s, "a")
	if e.Record.Version != 2 || len(e.Missing)+len(e.Foreign) != 0 {
		t.Errorf("version %d, missing %q, foreign %q", e.Record.Version, e.Missing, e.Foreign)
	}
	l, err := e.Link("exec")
	must(t, err)
	if got := idOf(t, l); got != stays {
		t.Errorf("link %d, want %d", got, stays)
	}
	// The old entry still leads to the old directory, which is empty now, and
	// never to the new one.
	if m, err := old.Map("hits"); !errors.Is(err, ErrNotExist) {
		t.Errorf("the old entry opens %v, %v", m, err)
	}
	l.Close()
	must(t, s.Remove(name(t, "a")))
	if attached(stays) {
		t.Error("the link is still attached after Remove")
	}
}

func TestPinsAreRootsAlone(t *testing.T) {
	root := bpffs(t)
	commit(t, open(t, root), "a")
	for _, p := range []string{"/a/record", "/a/maps/hits", "/a/programs/count", "/a/links/exec"} {
		fi, err := os.Lstat(root + p)
		must(t, err)
		if fi.Mode() != 0o600 {
			t.Errorf("%s has mode %v", p, fi.Mode())
		}
	}
}
