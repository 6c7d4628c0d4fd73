package loader

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/hornetd/hornetd/signing"
)

// Inventory is what an object has that a manifest can speak of, by name.
type Inventory struct {
	License   string              `json:"license,omitempty"`
	Programs  []InventoryProgram  `json:"programs"`
	Maps      []InventoryMap      `json:"maps"`
	Variables []InventoryVariable `json:"variables"`
}

// InventoryProgram is one program.
type InventoryProgram struct {
	Name    string `json:"name"`
	Section string `json:"section"`
	Type    string `json:"type"` // "XDP"
}

// InventoryMap is one map. Key and Value are C types, or sizes ("4 bytes").
type InventoryMap struct {
	Name       string `json:"name"`
	Type       string `json:"type"` // "Hash"
	Key        string `json:"key"`
	Value      string `json:"value"`
	MaxEntries uint32 `json:"max_entries"`
}

// InventoryVariable is one global variable. Type is as in InventoryMap.
type InventoryVariable struct {
	Name    string `json:"name"`
	Section string `json:"section"`
	Type    string `json:"type"`
}

// TakeInventory parses an object as OpenSpec does. The error is an *ObjectError.
func TakeInventory(v signing.Verified) (x Inventory, err error) {
	spec, err := OpenSpec(v)
	if err != nil {
		return x, err
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		p := spec.Programs[name]
		x.License = p.License
		x.Programs = append(x.Programs, InventoryProgram{name, p.SectionName, p.Type.String()})
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		x.Maps = append(x.Maps, inventoryMap(spec.Maps[name], name))
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Variables)) {
		v := spec.Variables[name]
		var typ btf.Type
		if v.Type != nil {
			typ = v.Type
		}
		x.Variables = append(x.Variables, InventoryVariable{name, v.SectionName, typeText(typ, uint32(len(v.Value)))})
	}
	return x, nil
}

func inventoryMap(m *ebpf.MapSpec, name string) InventoryMap {
	return InventoryMap{Name: name, Type: m.Type.String(), Key: typeText(m.Key, m.KeySize), Value: typeText(m.Value, m.ValueSize), MaxEntries: m.MaxEntries}
}

// typeText is a type, or the size where there is none, as for a data section.
func typeText(t btf.Type, size uint32) string {
	switch t.(type) {
	case nil, *btf.Void, *btf.Datasec:
		if size == 1 {
			return "1 byte"
		}
		return fmt.Sprintf("%d bytes", size)
	}
	return withoutArticle(t)
}
