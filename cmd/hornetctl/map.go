package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
)

func (c *ctl) mapGroup() *cobra.Command {
	group := &cobra.Command{
		Use:   "map",
		Short: "Read and write maps",
		Args:  cobra.ArbitraryArgs,
		RunE:  c.noCommand,

		SuggestionsMinimumDistance: 2,
	}
	group.AddCommand(c.mapDump(), c.mapGet(), c.mapSet(), c.mapDelete(), c.mapStream())
	return group
}

func (c *ctl) mapGet() *cobra.Command {
	var total bool
	cmd := &cobra.Command{
		Use:   "get NAME MAP KEY",
		Short: "Print the entry at a key",
		Long: `Print the entry at a key. KEY is JSON, or text that stands for itself:
7, 10.0.0.1, '{"addr":"10.0.0.1","port":443}', 0x0a0000ff. In a trie the entry
is that of the longest prefix that holds KEY.`,
		Args:              args("NAME", "MAP", "KEY"),
		ValidArgsFunction: c.completeMaps,
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.client().Entry(cmd.Context(), args[0], args[1], word(args[2]), perCPU(total))
			if err != nil {
				return err
			}
			return c.print(e, func() { fmt.Fprintln(c.stdout, escape(plainText(e.Value))) })
		},
	}
	cmd.Flags().BoolVar(&total, "sum", false, "of a per-CPU map only the sum of its values")
	return cmd
}

func (c *ctl) mapSet() *cobra.Command {
	var is string
	var fresh, there bool
	cmd := &cobra.Command{
		Use:   "set NAME MAP KEY VALUE",
		Short: "Write an entry",
		Long: `Write an entry. KEY and VALUE are JSON, or text that stands for itself, in the
form that map dump shows. --if is compared by hornetd, in one step for all who
write through it; a BPF program may write in between.`,
		Args:              args("NAME", "MAP", "KEY", "VALUE"),
		ValidArgsFunction: c.completeMaps,
		RunE: func(cmd *cobra.Command, args []string) error {
			e := api.WriteEntry{Key: word(args[2]), Value: word(args[3])}
			if cmd.Flags().Changed("if") {
				e.If = word(is)
			}
			switch {
			case fresh && there:
				return usage(cmd, "set: --noexist and --exist exclude each other")
			case fresh:
				e.Flags = api.WriteNoExist
			case there:
				e.Flags = api.WriteExist
			}
			changed, err := c.client().Write(cmd.Context(), args[0], args[1], api.WriteRequest{Entries: []api.WriteEntry{e}})
			if err != nil {
				return err
			}
			return c.print(changed, func() {})
		},
	}
	cmd.Flags().StringVar(&is, "if", "", "only where `value` is there now")
	cmd.Flags().BoolVar(&fresh, "noexist", false, "only where there is no entry")
	cmd.Flags().BoolVar(&there, "exist", false, "only where there is one")
	return cmd
}

func (c *ctl) mapDelete() *cobra.Command {
	return &cobra.Command{
		Use:               "delete NAME MAP KEY...",
		Short:             "Delete entries",
		Long:              "Delete entries. The exit status is not 0 where one of them was not there.",
		Args:              args("NAME", "MAP", "KEY..."),
		ValidArgsFunction: c.completeMaps,
		RunE: func(cmd *cobra.Command, args []string) error {
			var req api.DeleteRequest
			for _, key := range args[2:] {
				req.Keys = append(req.Keys, word(key))
			}
			changed, err := c.client().Delete(cmd.Context(), args[0], args[1], req)
			if err != nil {
				return err
			}
			if err := c.print(changed, func() {}); err != nil {
				return err
			}
			if missing := len(req.Keys) - changed.Entries; missing > 0 {
				return remedy.With(fmt.Errorf("map %q: %d of %d keys were not there", args[1], missing, len(req.Keys)),
					"hornetctl map dump %s %s lists them", args[0], args[1])
			}
			return nil
		},
	}
}

func (c *ctl) mapStream() *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "stream NAME MAP",
		Short: "Print what programs put into a ring buffer or a perf event array",
		Long: `Print what programs put into a ring buffer or a perf event array from now on,
one sample a line, in hex; with -o json each line is a sample in JSON, its data
in base64. Reading takes samples away from everybody else.`,
		Args:              args("NAME", "MAP"),
		ValidArgsFunction: c.completeMaps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 {
				return usage(cmd, "--count %d: want 0 for all, or more", count)
			}
			n := 0
			for s, err := range c.client().Samples(cmd.Context(), args[0], args[1]) {
				switch {
				case err != nil && cmd.Context().Err() != nil:
					return nil // Ctrl-C is how it ends
				case err != nil:
					return err
				}
				if err := c.printSample(s); err != nil {
					return err
				}
				if s.End != "" {
					return remedy.With(fmt.Errorf("map %q: no more samples: %s", args[1], s.End), "hornetctl show %s", args[0])
				}
				if n++; n == count {
					return nil
				}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&count, "count", 0, "end after `n` samples; 0 is never")
	return cmd
}

// printSample prints one sample at once, as printEvent does an event.
func (c *ctl) printSample(s api.Sample) error {
	if c.output != formatTable {
		line, err := encodeJSON(s, "")
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		_, err = fmt.Fprint(c.stdout, line)
		return err
	}
	if s.Lost > 0 {
		fmt.Fprintf(c.stdout, "(%d lost)\n", s.Lost)
	}
	if s.End != "" {
		return nil
	}
	where := ""
	if s.CPU != nil {
		where = fmt.Sprintf("cpu %d  ", *s.CPU)
	}
	_, err := fmt.Fprintf(c.stdout, "%d  %s%x\n", s.Seq, where, s.Data)
	return err
}

// word is an argument as JSON: what is JSON as it is, anything else as a string.
func word(arg string) json.RawMessage {
	if json.Valid([]byte(arg)) {
		return json.RawMessage(arg)
	}
	text, _ := json.Marshal(arg) // a string always can be
	return text
}

func perCPU(total bool) api.PerCPU {
	if total {
		return api.PerCPUSum
	}
	return ""
}

func (c *ctl) mapDump() *cobra.Command {
	var limit int
	var total bool
	cmd := &cobra.Command{
		Use:               "dump NAME MAP",
		Short:             "Print the entries of a map of a running collection, decoded by BTF",
		Args:              args("NAME", "MAP"),
		ValidArgsFunction: c.completeMaps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usage(cmd, "--limit %d: want 0 for all, or more", limit)
			}
			all, err := c.entries(cmd, args[0], args[1], limit, perCPU(total))
			if err != nil {
				return err
			}
			return c.print(all, func() { c.entryTable(all) })
		},
	}
	cmd.Flags().BoolVar(&total, "sum", false, "of a per-CPU map only the sum of its values")
	cmd.Flags().IntVar(&limit, "limit", 0, "print at most `n` entries; 0 is all")
	return cmd
}

// entries reads a map, or its first entries, into one page. Next is set where
// there are more.
func (c *ctl) entries(cmd *cobra.Command, name, mapName string, limit int, perCPU api.PerCPU) (api.Entries, error) {
	if limit > 0 {
		page, err := c.client().Entries(cmd.Context(), name, mapName, api.EntriesOptions{Limit: limit, PerCPU: perCPU})
		page.Entries = page.Entries[:min(limit, len(page.Entries))] // the kernel may give a few more
		return page, err
	}
	var all api.Entries
	for page, err := range c.client().Pages(cmd.Context(), name, mapName, perCPU) {
		if err != nil {
			return api.Entries{}, err
		}
		page.Entries = append(all.Entries, page.Entries...)
		all = page
	}
	return all, nil
}

func (c *ctl) entryTable(all api.Entries) {
	if len(all.Entries) == 0 {
		fmt.Fprintln(c.stdout, "no entries")
		return
	}
	titles := []string{"KEY", "VALUE"}
	perCPU := strings.Contains(strings.ToLower(all.Type), "percpu") && bytes.HasPrefix(all.Entries[0].Value, []byte("["))
	if perCPU {
		titles = []string{"KEY", "SUM", "PER CPU"}
	}
	t := c.table(titles...)
	for _, e := range all.Entries {
		if perCPU {
			t.row(plainText(e.Key), sum(e.Value), plainText(e.Value))
		} else {
			t.row(plainText(e.Key), plainText(e.Value))
		}
	}
	t.print()
	if all.Next != "" {
		fmt.Fprintln(c.stdout, "(there are more)")
	}
}

// plainText is a value as a person would write it: text without quotes, a
// struct as member=value.
func plainText(value json.RawMessage) string {
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	text, err := plainValue(dec)
	if err != nil {
		return string(value)
	}
	return text
}

func plainValue(dec *json.Decoder) (string, error) {
	token, err := dec.Token()
	if err != nil {
		return "", err
	}
	if token == nil {
		return "-", nil
	}
	open, nested := token.(json.Delim)
	if !nested {
		return fmt.Sprint(token), nil
	}
	var parts []string
	for dec.More() {
		part, err := plainValue(dec)
		if err != nil {
			return "", err
		}
		if open == '{' {
			value, err := plainValue(dec)
			if err != nil {
				return "", err
			}
			part += "=" + value
		}
		parts = append(parts, part)
	}
	closing, err := dec.Token()
	return open.String() + strings.Join(parts, " ") + fmt.Sprint(closing), err
}

// sum adds what the CPUs counted: numbers, or the same members of structs.
// Other values have no sum.
func sum(perCPU json.RawMessage) string {
	var values []json.RawMessage
	if json.Unmarshal(perCPU, &values) != nil || len(values) == 0 {
		return "-"
	}
	total := new(big.Int)
	for _, v := range values {
		n, ok := new(big.Int).SetString(string(v), 10)
		if !ok {
			return sumMembers(values)
		}
		total.Add(total, n)
	}
	return total.String()
}

func sumMembers(structs []json.RawMessage) string {
	members := make(map[string][]json.RawMessage)
	var order []string
	for _, s := range structs {
		dec := json.NewDecoder(bytes.NewReader(s))
		if open, err := dec.Token(); err != nil || open != json.Delim('{') {
			return "-"
		}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return "-"
			}
			var value json.RawMessage
			if err := dec.Decode(&value); err != nil {
				return "-"
			}
			key := fmt.Sprint(name)
			if members[key] == nil {
				order = append(order, key)
			}
			members[key] = append(members[key], value)
		}
	}
	for i, name := range order {
		list, err := json.Marshal(members[name])
		if err != nil {
			return "-"
		}
		order[i] = name + "=" + sum(list)
	}
	return "{" + strings.Join(order, " ") + "}"
}
