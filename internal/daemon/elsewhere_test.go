package daemon

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// Whose seals a start is held against, and which guards it may not pass by.
func TestSortOut(t *testing.T) {
	sealed := map[[32]byte]uint32{rebootOnly: sealReboot}
	enforcing := func(id uint32) lsm.Found { return lsm.Found{Program: id, Mode: lsm.Enforce, Enforces: true} }
	for what, tt := range map[string]struct {
		all          []lsm.Found
		adopted      uint32
		others       []uint32
		here, astray []uint32
	}{
		"none":                        {adopted: 1},
		"the one that is there":       {all: []lsm.Found{enforcing(1)}, adopted: 1, here: []uint32{1}},
		"it audits":                   {all: []lsm.Found{{Program: 1, Mode: lsm.Audit}}},
		"it audits, sealed":           {all: []lsm.Found{{Program: 1, Mode: lsm.Audit, Sealed: sealed}}, astray: []uint32{1}},
		"elsewhere":                   {all: []lsm.Found{enforcing(1)}, astray: []uint32{1}},
		"one here and one elsewhere":  {all: []lsm.Found{enforcing(1), enforcing(2)}, adopted: 2, here: []uint32{2}, astray: []uint32{1}},
		"without its control program": {all: []lsm.Found{{Program: 1, Orphan: true, Mode: lsm.Enforce, Enforces: true}}, adopted: 1, astray: []uint32{1}},
		"nothing but its floor":       {all: []lsm.Found{{Program: 1, Orphan: true, Floor: true, Mode: lsm.Enforce, Enforces: true}}, astray: []uint32{1}},
		"that only audits":            {all: []lsm.Found{{Program: 1, Orphan: true, Mode: lsm.Audit}}},
		"half replaced":               {all: []lsm.Found{enforcing(1), enforcing(2)}, adopted: 1, others: []uint32{2}, here: []uint32{1}},
		"half armed":                  {all: []lsm.Found{enforcing(1)}, others: []uint32{1}, here: []uint32{1}},
		"half made stronger":          {all: []lsm.Found{{Program: 1, Mode: lsm.Audit}, enforcing(2)}, adopted: 1, others: []uint32{2}, here: []uint32{2}},
	} {
		ids := func(fs []lsm.Found) (all []uint32) {
			for _, f := range fs {
				all = append(all, f.Program)
			}
			return all
		}
		here, astray := sortOut(tt.all, tt.adopted, tt.others)
		if diff := cmp.Diff([][]uint32{tt.here, tt.astray}, [][]uint32{ids(here), ids(astray)}); diff != "" {
			t.Errorf("%s: here, astray: %s", what, diff)
		}
	}
}

// A guard that a start has found, and then not taken up, keeps it from going on.
func TestHidden(t *testing.T) {
	if err := errHidden(nil, "/dir"); err != nil {
		t.Error(err)
	}
	err := errHidden([]lsm.Found{{Program: 7, Mode: lsm.Enforce}}, "/dir")
	if err == nil || err.Error() != "guard: one is in force (mode enforce, program 7), and could not be taken up in /dir" || remedy.Of(err) == "" {
		t.Errorf("%v (%s)", err, remedy.Of(err))
	}
}
