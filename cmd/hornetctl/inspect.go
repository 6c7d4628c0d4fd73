package main

import (
	"fmt"

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
	File string `json:"file"`
	loader.Inventory
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
	x.File = file
	if x.Inventory, err = loader.TakeInventory(verified); err != nil {
		return x, fmt.Errorf("%s: %w", file, err)
	}
	return x, nil
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
