package api

import (
	"context"
	"encoding/json"
	"net/url"
)

// Entry is one key and value of a map, decoded by the map's BTF: structs are
// objects in the order of their members, enums are names, character arrays are
// text, __be32 and in6_addr are addresses, the keys of a trie networks
// ("10.0.0.0/8"), per-CPU values a list in the order of the CPUs or their sum.
// Unions, and all that has no BTF, are strings of hex digits behind "0x".
type Entry struct {
	Key   json.RawMessage `json:"key"`
	Value json.RawMessage `json:"value"`
}

// Entries is one page of a map. An entry that is there from the first page to
// the last is in exactly one of them.
type Entries struct {
	Map        string      `json:"map"`
	Type       string      `json:"type"`
	MaxEntries uint32      `json:"max_entries"`
	Entries    List[Entry] `json:"entries"`
	Next       string      `json:"next,omitempty"` // ask again with after=Next; absent at the end
}

// PerCPU says how the values of a per-CPU map are shown.
type PerCPU string

const (
	PerCPUList PerCPU = "list" // that of each CPU
	PerCPUSum  PerCPU = "sum"  // their sum; only of integers
)

// WriteFlags say when an entry is written. The kernel decides, in one step.
type WriteFlags string

const (
	WriteAny     WriteFlags = "any"     // whether it is there or not
	WriteNoExist WriteFlags = "noexist" // only where it is not there
	WriteExist   WriteFlags = "exist"   // only where it is
)

// WriteEntry is an entry to write, in the form that Entry has.
type WriteEntry struct {
	Key   json.RawMessage `json:"key"`
	Value json.RawMessage `json:"value"`
	If    json.RawMessage `json:"if,omitempty"`    // only where this is the value now
	Flags WriteFlags      `json:"flags,omitempty"` // any where it is not said
}

// WriteRequest asks that entries be written, each key once.
//
// Either all keys and values fit and every If holds, or nothing is written. The
// comparison and the writing are one step to other writers through hornetd, and
// to nobody else: between the two a BPF program, or whoever has a descriptor,
// may write. The kernel has no compare-and-swap for maps.
type WriteRequest struct {
	Entries List[WriteEntry] `json:"entries"`
}

// DeleteRequest asks that entries be deleted. One that is not there is no error.
type DeleteRequest struct {
	Keys List[json.RawMessage] `json:"keys"`
}

// Changed says how many entries were written, or deleted.
type Changed struct {
	Entries int `json:"entries"`
}

// Entry returns the entry at key, which is JSON. In a trie that is the value of
// the longest prefix that holds key.
func (c *Client) Entry(ctx context.Context, collection, mapName string, key json.RawMessage, perCPU PerCPU) (Entry, error) {
	query := url.Values{"key": {string(key)}}
	if perCPU != "" {
		query.Set("percpu", string(perCPU))
	}
	var out Entries
	if err := c.call(ctx, RouteEntries, []string{collection, mapName}, query, nil, &out); err != nil {
		return Entry{}, err
	}
	if len(out.Entries) != 1 {
		return Entry{}, c.stranger("answer to %s: %d entries for one key", RouteEntries, len(out.Entries))
	}
	return out.Entries[0], nil
}

// Write writes entries.
func (c *Client) Write(ctx context.Context, collection, mapName string, req WriteRequest) (Changed, error) {
	var out Changed
	err := c.call(ctx, RouteWrite, []string{collection, mapName}, nil, req, &out)
	return out, err
}

// Delete deletes entries and says how many there were.
func (c *Client) Delete(ctx context.Context, collection, mapName string, req DeleteRequest) (Changed, error) {
	var out Changed
	err := c.call(ctx, RouteDelete, []string{collection, mapName}, nil, req, &out)
	return out, err
}
