package loader

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// makerFunc is a MapMaker.
type makerFunc func([]*ebpf.MapSpec) ([]*ebpf.Map, error)

func (f makerFunc) Make(specs []*ebpf.MapSpec) ([]*ebpf.Map, error) { return f(specs) }

// honest makes what is asked for, after change has had its way with one of it.
func honest(which string, change func(*ebpf.MapSpec)) makerFunc {
	return func(specs []*ebpf.MapSpec) (made []*ebpf.Map, err error) {
		for _, s := range specs {
			spec := s.Copy()
			if strings.HasPrefix(s.Name, which) {
				change(spec)
			}
			m, err := ebpf.NewMap(spec)
			if err != nil {
				return made, err
			}
			made = append(made, m)
		}
		return made, nil
	}
}

// What another makes is used only if it is what was asked for, as the kernel says.
func TestMadeElsewhere(t *testing.T) {
	requireKernel(t)
	testenv.NoLeaks(t)
	spec := openFixture(t, "maps")
	// Names of which the kernel keeps the same part.
	const one, two = "a_table_of_a_long_name", "a_table_of_a_longer_name"
	for _, name := range []string{one, two} {
		spec.Maps[name] = spec.Maps["table"].Copy()
	}
	spec.Maps["bloom"] = &ebpf.MapSpec{Name: "bloom", Type: ebpf.BloomFilter, ValueSize: 4, MaxEntries: 16, MapExtra: 3}
	plan, err := NewPlan(spec, parseManifest(t, goodEntries+"[maps.bloom]\nclass = \"mutable\"\n[maps."+one+"]\nclass = \"mutable\"\n[maps."+two+"]\nclass = \"mutable\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	const kernel = "table"
	index := func(specs []*ebpf.MapSpec, name string) int {
		return slices.IndexFunc(specs, func(s *ebpf.MapSpec) bool { return s.Name == name })
	}
	nothing := func(*ebpf.MapSpec) {}
	errMaker := errors.New("it has no hands")
	for _, tt := range []struct {
		name  string
		maker makerFunc
		says  string // "" is all well
	}{
		{"as asked for", honest(kernel, nothing), ""},
		{"more entries", honest(kernel, func(s *ebpf.MapSpec) { s.MaxEntries++ }), "MaxEntries"},
		{"a larger value", honest(kernel, func(s *ebpf.MapSpec) { s.ValueSize += 8; s.Value = nil }), "ValueSize"},
		{"other flags", honest(kernel, func(s *ebpf.MapSpec) { s.Flags ^= unix.BPF_F_MMAPABLE }), "Flags"},
		{"another name", honest(kernel, func(s *ebpf.MapSpec) { s.Name = "other" }), `its name is "other"`},
		{"other extra", honest("bloom", func(s *ebpf.MapSpec) { s.MapExtra = 5 }), "map_extra is 5, not 3"},
		{"frozen", func(specs []*ebpf.MapSpec) ([]*ebpf.Map, error) {
			made, err := honest(kernel, nothing)(specs)
			return made, errors.Join(err, made[index(specs, kernel)].Freeze())
		}, "it is frozen"},
		{"one too few", func(specs []*ebpf.MapSpec) ([]*ebpf.Map, error) {
			return honest(kernel, nothing)(specs[:len(specs)-1])
		}, "it was not made"},
		{"one twice", func(specs []*ebpf.MapSpec) ([]*ebpf.Map, error) {
			made, err := honest(kernel, nothing)(specs)
			if err != nil {
				return made, err
			}
			second := index(specs, two)
			made[second].Close()
			made[second], err = made[index(specs, one)].Clone()
			return made, err
		}, `not what was asked for: it is map "a_table_of_a_long`},
		{"the maker's own", func(specs []*ebpf.MapSpec) ([]*ebpf.Map, error) {
			made, err := honest(kernel, nothing)(specs[:1])
			return made, cmp.Or(err, errMaker)
		}, errMaker.Error()},
		{"no memory", func(specs []*ebpf.MapSpec) ([]*ebpf.Map, error) {
			made, err := honest(kernel, nothing)(specs[:1])
			if err == nil {
				err = fmt.Errorf("creating map: %w", unix.ENOMEM)
			}
			return made, err
		}, fmt.Sprintf("map %q: create: cannot allocate memory", plan.order[1])},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ms, err := plan.CreateMapsBy(tt.maker, nil)
			if tt.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer ms.Close()
				if _, err := ms.Freeze(); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
			if tt.name == "the maker's own" && (err != errMaker || remedy.Of(err) != "") {
				t.Errorf("%v has remedy %q", err, remedy.Of(err))
			}
			if tt.name == "no memory" && (!errors.Is(err, unix.ENOMEM) || remedy.Of(err) == "") {
				t.Errorf("%v has remedy %q", err, remedy.Of(err))
			}
		})
	}
}
