package faults

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The invariants, as the messages name them.
//
//	I1 every pin is in a committed directory or a stage
//	I2 every committed link exists, where it should, and runs a twin of the signed program; every map is what it should be
//	I3 nothing of ours is without an owner
//	I4 acknowledged means there and on record, refused means no trace
//	I5 what nobody touched, and what is exchanged in place, misses nothing
//	I6 another start changes nothing
//	I7 an answer comes, and hornetd starts
//
// expect is which of a collection's manifests may be in force; 0 is none.
type expect map[string][]int

func exactly(is map[string]int) expect {
	e := expect{}
	for name, v := range is {
		e[name] = []int{v}
	}
	return e
}

// when says which inventory is looked at.
type when int

const (
	broken  when = iota // hornetd is dead: what it was doing may lie there half done
	done                // hornetd did something: pins that nothing runs may be left in a stage for the next start
	settled             // hornetd is ready, or did not do what it was asked for
)

// violations compares what there is with what may be.
func (k *kernel) violations(inv inventory, may expect, at when) []string {
	var v []string
	say := func(format string, args ...any) { v = append(v, fmt.Sprintf(format, args...)) }
	owned := map[object]bool{}
	staged := map[uint32]bool{} // programs
	var committed []object
	for p, o := range inv.pins {
		owned[o] = true
		if !strings.HasPrefix(p, "stage-") {
			committed = append(committed, o)
		}
		if strings.HasPrefix(p, "stage-") && o.kind == "programs" {
			staged[o.id] = true
		}
	}
	for dir := range inv.dirs {
		_, known := may[dir]
		switch {
		case known:
		case strings.HasPrefix(dir, "stage-") && at != settled:
		default:
			say("I1: on bpffs there is %s", dir)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(may)) {
		if !inv.dirs[name] {
			if !slices.Contains(may[name], 0) {
				say("I4: %s is not there, may be %v", name, may[name])
			}
			continue
		}
		is, wrong := k.collection(inv, name, staged, at)
		v = append(v, wrong...)
		if len(wrong) == 0 && !slices.Contains(may[name], is) {
			say("I4: %s is %d, may be %v", name, is, may[name])
		}
	}
	if at == done {
		for p, o := range inv.pins {
			if strings.HasPrefix(p, "stage-") && o.kind == "links" && inv.links[o.id].where != "" && !slices.Contains(committed, o) {
				say("I4: link %d still runs, at %s, and is nobody's", o.id, inv.links[o.id].where)
			}
		}
	}
	for o := range inv.have {
		if !owned[o] {
			say("I3: %s is in the kernel and nowhere pinned%s", o, k.w.holder(o))
		}
	}
	return v
}

// collection checks one committed directory and says which manifest it is of.
func (k *kernel) collection(inv inventory, name string, staged map[uint32]bool, at when) (is int, v []string) {
	say := func(format string, args ...any) { v = append(v, name+": "+fmt.Sprintf(format, args...)) }
	pins := map[string]object{} // by kind and end of the name
	var seen []string
	for p, o := range inv.pins {
		if dir, rest, _ := strings.Cut(p, "/"); dir == name {
			_, end, _ := strings.Cut(strings.ReplaceAll(rest, k.w.token, "*"), "*")
			key := path.Dir(rest) + end
			if strings.Contains(rest, "rodata") {
				key = "maps_rodata"
			}
			if strings.HasPrefix(rest, "links/") {
				key = "links_" + strings.TrimLeft(end, "_")[:3]
			}
			if rest == "record" {
				key = "record"
			}
			if _, twice := pins[key]; twice {
				say("I2: two pins for %s", key)
			}
			pins[key] = o
			seen = append(seen, key)
		}
	}
	want := []string{"record", "maps_rodata", "maps_calls", "maps_list", "programs_xdp", "programs_tcx", "programs_con", "programs_raw"}
	for _, p := range places(name) {
		want = append(want, "links_"+p)
	}
	slices.Sort(want)
	slices.Sort(seen)
	if !slices.Equal(want, seen) {
		say("I2: pinned are %v, want %v", seen, want)
		return 0, v
	}
	mapIDs := map[uint32]bool{}
	for key, o := range pins {
		if strings.HasPrefix(key, "maps_") {
			mapIDs[o.id] = true
		}
	}
	rodata, frozen, err := contents(pins["maps_rodata"].id)
	if err != nil || !frozen || len(rodata) != 1 {
		say("I2: .rodata: %v, frozen %t, %v", rodata, frozen, err)
		return 0, v
	}
	is = int(rodata[0])
	if list, frozen, err := contents(pins["maps_list"].id); err != nil || !frozen || !slices.Equal(list, []uint64{uint64(100 + is)}) {
		say("I2: list of manifest %d: %v, frozen %t, %v", is, list, frozen, err)
	}
	if calls, frozen, err := contents(pins["maps_calls"].id); err != nil || frozen || len(calls) != 8 {
		say("I2: calls: %v, frozen %t, %v", calls, frozen, err)
	}
	for key, o := range pins {
		if p, ok := strings.CutPrefix(key, "programs_"); ok {
			if err := k.isTwin(o.id, k.w.token+"_"+p, is, mapIDs); err != nil {
				say("I2: %v", err)
			}
		}
	}
	for _, p := range places(name) {
		id := pins["links_"+p].id
		state, ok := inv.links[id]
		program := pins["programs_"+p].id
		switch {
		case !ok:
			say("I2: link %d (%s) runs nothing of ours", id, p)
		case state.where != k.w.where(p):
			say("I2: link %d (%s) is at %q, want %q", id, p, state.where, k.w.where(p))
		case state.program != program && !(at == broken && staged[state.program]):
			say("I2: link %d (%s) runs program %d, not %d", id, p, state.program, program)
		}
	}
	return is, v
}

// where is the place of a program as stateOf tells it.
func (w *world) where(program string) string {
	switch program {
	case "xdp", "tcx":
		return fmt.Sprintf("%s %d", program, w.pair.B.Ifindex)
	case "con":
		var st unix.Stat_t
		if err := unix.Stat(w.cgroup, &st); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("cgroup %d", st.Ino)
	}
	return "raw_tp"
}

// held is said of an object that hornetd has a descriptor of.
const held = ", and hornetd holds it"

// holder looks for a descriptor of an object among those of hornetd.
func (w *world) holder(o object) string {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", w.process))
	key := map[string]string{"programs": "prog_id", "maps": "map_id", "links": "link_id"}[o.kind]
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for line := range strings.Lines(string(b)) {
			if name, id, _ := strings.Cut(line, ":"); name == key && strings.TrimSpace(id) == fmt.Sprint(o.id) {
				return held
			}
		}
	}
	return ""
}

// What nobody holds any more the kernel frees behind grace periods, which on a
// busy host take their time. All else is given a moment.
const (
	patience = 2 * time.Second
	grace    = 30 * time.Second
)

// wait looks until all is well, but not for long, and returns the last look.
func (k *kernel) wait(may expect, at when) (inv inventory, v []string) {
	onlyFreed := func() bool {
		return !slices.ContainsFunc(v, func(s string) bool { return !strings.HasPrefix(s, "I3: ") || strings.HasSuffix(s, held) })
	}
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if inv, err = k.look(); err != nil {
			v = []string{"I1: " + err.Error()}
		} else {
			v = k.violations(inv, may, at)
		}
		if took := time.Since(began); len(v) == 0 || took > grace || took > patience && !onlyFreed() {
			return inv, v
		}
	}
}

// tally is the calls of a program on the cgroup that should equal the beats.
type tally struct {
	t      *testing.T
	kernel *kernel
	beats  *beats
	mapID  map[string]uint32
	ahead  map[string]int64 // calls less beats
}

// begin notes how things stand for collections that are not to miss anything.
func (w *world) begin(names ...string) *tally {
	w.t.Helper()
	a := &tally{t: w.t, kernel: w.kernel, beats: w.beats, mapID: map[string]uint32{}, ahead: map[string]int64{}}
	inv, err := w.kernel.look()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range names {
		for p, o := range inv.pins {
			if strings.HasPrefix(p, name+"/maps/") && strings.HasSuffix(p, "_calls") {
				a.mapID[name] = o.id
			}
		}
	}
	a.beats.pause(func(n uint64) {
		for name, id := range a.mapID {
			calls, _, err := contents(id)
			if err != nil {
				w.t.Fatal(err)
			}
			a.ahead[name] = int64(calls[2]) - int64(n)
		}
	})
	if len(a.mapID) != len(names) {
		w.t.Fatalf("no counters of all of %v: %v", names, a.mapID)
	}
	return a
}

// violations says who missed a beat, or was called twice for one.
func (a *tally) violations() (v []string) {
	a.t.Helper()
	a.beats.pause(func(n uint64) {
		for name, id := range a.mapID {
			calls, _, err := contents(id)
			if err != nil {
				v = append(v, fmt.Sprintf("I5: %s: the counters are gone: %v", name, err))
				continue
			}
			if got := int64(calls[2]) - int64(n); got != a.ahead[name] {
				v = append(v, fmt.Sprintf("I5: %s: %+d calls for as many beats", name, got-a.ahead[name]))
			}
		}
	})
	return v
}

// changed says what another start changed.
func changed(before, after inventory) (v []string) {
	for p, o := range before.pins {
		if after.pins[p] != o {
			v = append(v, fmt.Sprintf("I6: %s was %s, is %s", p, o, after.pins[p]))
		}
	}
	for p, o := range after.pins {
		if _, ok := before.pins[p]; !ok {
			v = append(v, fmt.Sprintf("I6: %s is new: %s", p, o))
		}
	}
	for id, l := range before.links {
		if after.links[id] != l {
			v = append(v, fmt.Sprintf("I6: link %d was %v, is %v", id, l, after.links[id]))
		}
	}
	return v
}

// logSize is where the audit log ends.
func (w *world) logSize() int64 {
	fi, err := os.Stat(w.logPath())
	if err != nil {
		return 0
	}
	return fi.Size()
}
