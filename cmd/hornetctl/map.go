package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hornetd/hornetd/api"
)

func (c *ctl) mapGroup() *cobra.Command {
	group := &cobra.Command{
		Use:   "map",
		Short: "Read maps",
		Args:  cobra.ArbitraryArgs,
		RunE:  c.noCommand,

		SuggestionsMinimumDistance: 2,
	}
	group.AddCommand(c.mapDump())
	return group
}

func (c *ctl) mapDump() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:               "dump NAME MAP",
		Short:             "Print the entries of a map of a running collection, decoded by BTF",
		Args:              args("NAME", "MAP"),
		ValidArgsFunction: c.completeMaps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usage(cmd, "--limit %d: want 0 for all, or more", limit)
			}
			all, err := c.entries(cmd, args[0], args[1], limit)
			if err != nil {
				return err
			}
			return c.print(all, func() { c.entryTable(all) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "print at most `n` entries; 0 is all")
	return cmd
}

// entries reads a map, or its first entries, into one page. Next is set where
// there are more.
func (c *ctl) entries(cmd *cobra.Command, name, mapName string, limit int) (api.Entries, error) {
	if limit > 0 {
		return c.client().Entries(cmd.Context(), name, mapName, api.EntriesOptions{Limit: limit})
	}
	var all api.Entries
	for page, err := range c.client().Pages(cmd.Context(), name, mapName) {
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
	perCPU := strings.Contains(strings.ToLower(all.Type), "percpu")
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
