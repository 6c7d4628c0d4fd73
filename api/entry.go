package api

import "encoding/json"

// Entry is one key and value of a map, decoded by the map's BTF: structs are
// objects in the order of their members, enums are names, character arrays are
// text, per-CPU values are a list in the order of the CPUs. Without BTF both
// are strings of hex digits.
type Entry struct {
	Key   json.RawMessage `json:"key"`
	Value json.RawMessage `json:"value"`
}

// Entries is one page of a map. A map that changes meanwhile may show an entry
// twice or not at all, as the kernel's own iteration does.
type Entries struct {
	Map        string      `json:"map"`
	Type       string      `json:"type"`
	MaxEntries uint32      `json:"max_entries"`
	Entries    List[Entry] `json:"entries"`
	Next       string      `json:"next,omitempty"` // ask again with after=Next; absent at the end
}
