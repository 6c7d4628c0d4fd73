package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/signing"
)

func (c *ctl) list() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the collections you may see",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			collections, err := c.client().List(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(api.Collections{Collections: collections}, func() { c.listTable(collections) })
		},
	}
}

func (c *ctl) listTable(collections []api.Collection) {
	if len(collections) == 0 {
		fmt.Fprintln(c.stdout, "no collections")
		return
	}
	t := c.table("NAME", "STATE", "VERSION", "SIGNED BY", "SIGNATURE", "ATTACHED TO", "LOADED", "ABOUT")
	for _, x := range collections {
		about := x.Description
		if x.Reason != "" {
			about = x.Reason
		}
		if x.Lease != nil {
			about = leaseText(*x.Lease) + "; " + about
		}
		t.row(x.Name, stateCell(x.State), x.Version, or(x.Signature.Signer.Name, "-"), or(verified(x.Signature), "-"), or(targets(x.Links), "-"), or(c.age(x.LoadedAt), "-"), about)
	}
	t.print()
}

// targets lists what the links are attached to, each once; of many the first
// few.
func targets(links []api.Link) string {
	const few = 3
	var all []string
	for _, l := range links {
		if !slices.Contains(all, l.Target) {
			all = append(all, l.Target)
		}
	}
	if more := len(all) - few; more > 0 {
		return fmt.Sprintf("%s +%d", strings.Join(all[:few], ", "), more)
	}
	return strings.Join(all, ", ")
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

func (c *ctl) show() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one collection: its files, signature, programs, maps and links",
		Args:              args("NAME"),
		ValidArgsFunction: c.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			collection, err := c.client().Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(collection, func() { c.showTables(collection) })
		},
	}
}

func (c *ctl) showTables(x api.Collection) {
	head := c.table()
	head.row("Name", cell{x.Name, title})
	head.row("State", stateCell(x.State))
	optional(head, "Why", x.Reason)
	optional(head, "Hint", x.Hint)
	optional(head, "About", x.Description)
	head.row("Version", x.Version)
	optional(head, "Starts", startText(x.Start))
	head.row("Manifest", fileText(x.Manifest))
	for _, d := range x.DropIns {
		head.row("Drop-in", fmt.Sprintf("%s (SHA-256 %s…)", dropInText(d), short(d.SHA256)))
	}
	head.row("Object", fileText(x.Object))
	optional(head, "Signed by", signatureText(x.Signature))
	if !x.LoadedAt.IsZero() {
		head.row("Loaded", c.loadedText(x))
	}
	if x.Lease != nil {
		head.row("Lease", leaseText(*x.Lease))
	}
	if !x.TrialUntil.IsZero() {
		head.row("On trial", cell{trialText(x), uneasy})
	}
	chargeRows(head, x.Charged)
	head.print()
	c.programTable(x.Programs)
	c.mapTable(x.Maps)
	c.linkTable(x.Links)
}

// chargeRows say where the memory of maps is counted.
func chargeRows(t *table, x *api.Charge) {
	if x == nil {
		return
	}
	switch x.To {
	case api.ChargedToOwn:
		text := bytesText(x.Bytes)
		if x.Most > 0 {
			text += " of " + bytesText(x.Most)
		}
		t.row("Charged to", fmt.Sprintf("cgroup %s: %s", x.Cgroup, text))
		optional(t, "", x.Reason)
	case api.ChargedToEarlier:
		t.row("Charged to", "a hornetd before this one")
	default:
		t.row("Charged to", "hornetd: "+x.Reason)
		optional(t, "", x.Hint)
	}
}

// leaseText says for whom something runs.
func leaseText(l api.Lessee) string {
	if l.Until.IsZero() {
		return fmt.Sprintf("lease of uid %d, pid %d", l.UID, l.PID)
	}
	return fmt.Sprintf("lease of uid %d, who must be back by %s", l.UID, l.Until.Local().Format(time.TimeOnly))
}

// trialText says of what may go back how long it may.
func trialText(x api.Collection) string {
	return "until " + x.TrialUntil.Local().Format(time.TimeOnly) + ", else the version before comes back"
}

func startText(start string) string {
	switch start {
	case "boot":
		return "when hornetd starts"
	case "request":
		return "when somebody asks"
	}
	return start
}

func optional(t *table, name, value string) {
	if value != "" {
		t.row(name, value)
	}
}

func fileText(f api.File) string {
	if f.SHA256 == "" {
		return or(f.File, "-")
	}
	return fmt.Sprintf("%s (SHA-256 %s…)", f.File, short(f.SHA256))
}

// verified is a signature in a word or two. A plain "verified" is only said
// where what is done with the object is signed as well.
func verified(s api.Signature) string {
	switch {
	case s.Verdict != string(signing.OK):
		return s.Verdict
	case s.Covers == signing.CoversManifest:
		return "verified"
	}
	return s.Covers + " only"
}

func signatureText(s api.Signature) string {
	if s.Signer.Name == "" {
		return s.Verdict
	}
	text := fmt.Sprintf("%s (%s): %s, checked by %s, %s", s.Signer.Name, s.Signer.Algorithm, verified(s), s.CheckedBy, s.Format)
	if !s.Signer.NotAfter.IsZero() {
		text += ", certificate valid until " + s.Signer.NotAfter.Local().Format("2006-01-02")
	}
	return text
}

func (c *ctl) loadedText(x api.Collection) string {
	text := c.when(x.LoadedAt)
	if x.LoadedBy != nil {
		text += fmt.Sprintf(" by uid %d", x.LoadedBy.UID)
	}
	if x.Adopted {
		text += ", adopted by this daemon"
	}
	return text
}

func (c *ctl) programTable(programs []api.Program) {
	if len(programs) == 0 {
		return
	}
	fmt.Fprintln(c.stdout)
	if !slices.ContainsFunc(programs, func(p api.Program) bool { return p.RunCount > 0 }) {
		t := c.table("PROGRAM", "TYPE", "ID", "TAG")
		for _, p := range programs {
			t.row(p.Name, p.Type, p.ID, p.Tag)
		}
		t.print()
		return
	}
	t := c.table("PROGRAM", "TYPE", "ID", "TAG", "RUNS", "TIME")
	for _, p := range programs {
		t.row(p.Name, p.Type, p.ID, p.Tag, p.RunCount, time.Duration(p.RunTimeNS).String())
	}
	t.print()
}

func (c *ctl) mapTable(maps []api.Map) {
	if len(maps) == 0 {
		return
	}
	fmt.Fprintln(c.stdout)
	t := c.table("MAP", "TYPE", "ID", "CLASS", "KEY", "VALUE", "ENTRIES", "CONTENTS")
	for _, m := range maps {
		t.row(m.Name, m.Type, m.ID, classCell(m), bytesText(uint64(m.KeySize)), bytesText(uint64(m.ValueSize)), m.MaxEntries, contentsText(m))
	}
	t.print()
}

// classCell shows what the map is; where the kernel does not agree, that.
func classCell(m api.Map) cell {
	switch {
	case m.Class == "frozen" && !m.Frozen:
		return cell{"NOT FROZEN", bad}
	case m.Frozen && m.ProgramWrites:
		return cell{"frozen, programs write", plain}
	case m.Frozen:
		return cell{"frozen", good}
	}
	return cell{m.Class, plain}
}

func contentsText(m api.Map) string {
	if m.SHA256 == "" {
		return "-"
	}
	return fmt.Sprintf("SHA-256 %s… (%s)", short(m.SHA256), m.HashBy)
}

func (c *ctl) linkTable(links []api.Link) {
	if len(links) == 0 {
		return
	}
	fmt.Fprintln(c.stdout)
	t := c.table("LINK", "KIND", "ID", "PROGRAM", "ATTACH TYPE", "TARGET")
	for _, l := range links {
		t.row(l.Name, l.Kind, l.ID, l.Program, or(l.AttachType, "-"), l.Target)
	}
	t.print()
}
