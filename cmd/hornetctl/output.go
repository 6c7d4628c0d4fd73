package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"
)

// format is how answers are printed. JSON is the contract; YAML has the same
// keys in the same order; the table is for people and may change.
type format string

const (
	formatTable format = "" // the default
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

// Set, String and Type make it a flag.
func (f *format) Set(s string) error {
	switch s {
	case "table":
		*f = formatTable
	case "json", "yaml":
		*f = format(s)
	default:
		return errors.New("want table, json or yaml")
	}
	return nil
}

func (f *format) String() string {
	if *f == formatTable {
		return "table"
	}
	return string(*f)
}

func (f *format) Type() string { return "format" }

// print writes v as JSON or YAML, or calls table.
func (c *ctl) print(v any, table func()) error {
	var out string
	var err error
	switch c.output {
	case formatJSON:
		out, err = encodeJSON(v, "  ")
	case formatYAML:
		out, err = encodeYAML(v)
	default:
		table()
		return nil
	}
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	_, err = io.WriteString(c.stdout, out)
	return err
}

// encodeJSON encodes v, on one line if indent is "". What a terminal should
// not see is \u escaped; to a JSON parser that is the same.
func encodeJSON(v any, indent string) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return escapeQuoted(b.String(), func(b *strings.Builder, r rune) {
		if high, low := utf16.EncodeRune(r); r > 0xffff {
			fmt.Fprintf(b, `\u%04x\u%04x`, high, low)
			return
		}
		fmt.Fprintf(b, `\u%04x`, r)
	}), nil
}

// encodeYAML encodes what v is in JSON as YAML.
func encodeYAML(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	node, err := yamlNode(dec)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return "", err
	}
	return escapeQuoted(out.String(), func(b *strings.Builder, r rune) { fmt.Fprintf(b, `\U%08x`, r) }), nil
}

// yamlNode reads one JSON value. A string that a terminal should not see as it
// is gets double quotes, so that escapeQuoted finds it in them.
func yamlNode(dec *json.Decoder) (*yaml.Node, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	scalar := func(tag, value string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value} }
	switch token := token.(type) {
	case json.Delim:
		return yamlCollection(dec, token)
	case string:
		node := scalar("!!str", token)
		if strings.IndexFunc(token, unprintable) >= 0 {
			node.Style = yaml.DoubleQuotedStyle
		}
		return node, nil
	case json.Number:
		if strings.ContainsAny(token.String(), ".eE") {
			return scalar("!!float", token.String()), nil
		}
		return scalar("!!int", token.String()), nil
	case bool:
		return scalar("!!bool", fmt.Sprint(token)), nil
	}
	return scalar("!!null", "null"), nil
}

func yamlCollection(dec *json.Decoder, open json.Delim) (*yaml.Node, error) {
	node := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	if open == '{' {
		node = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	for dec.More() {
		member, err := yamlNode(dec) // in an object keys and values take turns, as in the node
		if err != nil {
			return nil, err
		}
		node.Content = append(node.Content, member)
	}
	_, err := dec.Token() // the closing bracket
	return node, err
}
