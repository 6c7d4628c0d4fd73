package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) inspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect OBJECT",
		Short: "Show what an object has: programs, maps and variables",
		Long: `Show the programs, maps and global variables of an object, which is what a
manifest speaks of. No daemon is needed and nothing is loaded; the signature is
not asked for, because the object is parsed in this process, with your rights.`,
		Args: args("OBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := inspectFile(args[0])
			if err != nil {
				return err
			}
			return c.print(x, func() { c.inspectTables(x) })
		},
	}
}

// inspected is what an object has.
type inspected struct {
	File      string              `json:"file"`
	License   string              `json:"license,omitempty"`
	Programs  []inspectedProgram  `json:"programs"`
	Maps      []inspectedMap      `json:"maps"`
	Variables []inspectedVariable `json:"variables"`
}

type inspectedProgram struct {
	Name    string `json:"name"`
	Section string `json:"section"`
	Type    string `json:"type"`
}

type inspectedMap struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Key        string `json:"key"`
	Value      string `json:"value"`
	MaxEntries uint32 `json:"max_entries"`
}

type inspectedVariable struct {
	Name    string `json:"name"`
	Section string `json:"section"`
	Type    string `json:"type"`
}

func inspectFile(file string) (x inspected, err error) {
	object, err := safefile.Read(file, maxObject)
	if err != nil {
		return x, bare(err)
	}
	self, err := throwaway()
	if err != nil {
		return x, err
	}
	verified, err := self.assume(signing.Bundle{Object: object, ObjectFile: file})
	if err != nil {
		return x, err
	}
	spec, err := loader.OpenSpec(verified)
	if err != nil {
		return x, fmt.Errorf("%s: %w", file, err)
	}
	x.File = file
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		p := spec.Programs[name]
		x.License = p.License
		x.Programs = append(x.Programs, inspectedProgram{name, p.SectionName, p.Type.String()})
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		x.Maps = append(x.Maps, inspectMap(spec.Maps[name], name))
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Variables)) {
		v := spec.Variables[name]
		text := bytesText(uint64(len(v.Value)))
		if v.Type != nil {
			text = loader.TypeText(v.Type)
		}
		x.Variables = append(x.Variables, inspectedVariable{name, v.SectionName, text})
	}
	return x, nil
}

func inspectMap(m *ebpf.MapSpec, name string) inspectedMap {
	return inspectedMap{Name: name, Type: m.Type.String(), Key: sideText(m.Key, m.KeySize), Value: sideText(m.Value, m.ValueSize), MaxEntries: m.MaxEntries}
}

// sideText is the type of a map's key or value, its size where there is none, as
// for a data section.
func sideText(t btf.Type, size uint32) string {
	switch t.(type) {
	case nil, *btf.Void, *btf.Datasec:
		if size == 0 {
			return "-"
		}
		return bytesText(uint64(size))
	}
	return loader.TypeText(t)
}

func (c *ctl) inspectTables(x inspected) {
	head := c.table()
	head.row("Object", x.File)
	optional(head, "License", x.License)
	head.print()
	if len(x.Programs) > 0 {
		fmt.Fprintln(c.stdout)
		t := c.table("PROGRAM", "TYPE", "SECTION")
		for _, p := range x.Programs {
			t.row(p.Name, p.Type, p.Section)
		}
		t.print()
	}
	if len(x.Maps) > 0 {
		fmt.Fprintln(c.stdout)
		t := c.table("MAP", "TYPE", "ENTRIES", "KEY", "VALUE")
		for _, m := range x.Maps {
			t.row(m.Name, m.Type, m.MaxEntries, m.Key, m.Value)
		}
		t.print()
	}
	if len(x.Variables) > 0 {
		fmt.Fprintln(c.stdout)
		t := c.table("VARIABLE", "SECTION", "TYPE")
		for _, v := range x.Variables {
			t.row(v.Name, v.Section, v.Type)
		}
		t.print()
	}
}
