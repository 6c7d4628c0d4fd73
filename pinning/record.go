package pinning

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// recordFormat is the format this version writes. A change that an older
// hornetd would misread raises it: one that does not know a field takes the
// record to be damaged. 2 added Verdict, SignedAt, drop-ins, and of Signer the key's digest, the
// beginning of the validity and the chain; in a record of format 1 they are empty.
// 3 added Trial, Returned and what programs before have run. 4 added Lease.
const recordFormat = 4

// maxRecord bounds a record, in bytes of JSON.
const maxRecord = 256 << 10

// Record says what a collection is. It lies beside the pins it describes, in a
// frozen map, and lives exactly as long. It is a claim: the object's signature
// and the kernel are the proof.
type Record struct {
	Format int    `json:"format"` // set by Stage.PinRecord
	Name   string `json:"name"`

	Description    string `json:"description,omitempty"`
	ManifestFile   string `json:"manifest_file"`
	ManifestDigest string `json:"manifest_sha256"` // hexadecimal, as all digests here; with drop-ins, of all that made it
	Version        uint64 `json:"version"`
	Start          string `json:"start"` // "boot", "request"

	// Where there are drop-ins only.
	TextDigest string         `json:"manifest_text_sha256,omitempty"` // of the manifest's file
	DropIns    []RecordDropIn `json:"drop_ins,omitempty"`             // in the order in which they were applied

	Requires []string `json:"requires,omitempty"` // collections that must run

	ObjectFile      string    `json:"object_file"`
	ObjectDigest    string    `json:"object_sha256"`
	Signer          Signer    `json:"signer"`
	SignatureFormat string    `json:"signature_format"`   // "cms-detached", "cms-appended"
	Covers          string    `json:"covers"`             // "object", "object+manifest"
	CheckedBy       string    `json:"checked_by"`         // "hornetd", "kernel"
	Verdict         string    `json:"verdict,omitempty"`  // it was accepted with, as package signing names them
	SignedAt        time.Time `json:"signed_at,omitzero"` // as the signer says

	Maps     []RecordMap     `json:"maps"`
	Programs []RecordProgram `json:"programs"`
	Links    []RecordLink    `json:"links"`

	// Trial is where what it took the place of lies while it is on trial; see
	// Stage.Supersede. When the trial is over there is nothing there.
	Trial string `json:"trial,omitempty"`
	// Returned is set where a version that came after it did not last.
	Returned *Returned `json:"returned,omitempty"`

	// Lease is set where it runs for as long as a client only.
	Lease *Lease `json:"lease,omitempty"`

	Memory   uint64    `json:"memory"` // bytes of map keys and values
	LoadedAt time.Time `json:"loaded_at"`
	Caller   Caller    `json:"caller"`
}

// Lease is who a collection runs for, and what they can prove it with.
type Lease struct {
	TokenSHA256 string `json:"token_sha256"` // of what only they were given
	Holder      Caller `json:"holder"`
}

// Returned is a version that was on trial, and why it went.
type Returned struct {
	ManifestDigest string    `json:"manifest_sha256"`
	ObjectDigest   string    `json:"object_sha256"`
	Version        uint64    `json:"version"`
	Reason         string    `json:"reason"`
	At             time.Time `json:"at"`
}

// Signer names who signed the object.
type Signer struct {
	Name      string    `json:"name"` // in the trust store
	Subject   string    `json:"subject,omitempty"`
	KeyID     string    `json:"key_id,omitempty"`
	KeySHA256 string    `json:"key_sha256,omitempty"` // of its SubjectPublicKeyInfo
	Algorithm string    `json:"algorithm,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Chain     []Key     `json:"chain,omitempty"` // from the key that signed to the one in the trust store
}

// Key is one key that a signature was accepted through.
type Key struct {
	Certificate string   `json:"certificate_sha256,omitempty"` // of its DER; empty for a bare public key
	SHA256      string   `json:"key_sha256,omitempty"`         // of its SubjectPublicKeyInfo
	IDs         []string `json:"key_ids"`                      // subject key identifiers it goes by
}

// RecordDropIn describes a drop-in of the manifest.
type RecordDropIn struct {
	File   string  `json:"file"`
	SHA256 string  `json:"sha256"`
	Signer *Signer `json:"signer,omitempty"` // nil where it is not signed
}

// Caller is who asked for the load, as the kernel named them. A load nobody
// asked for (at start or on reload) is root's.
type Caller struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// RecordMap describes one map.
type RecordMap struct {
	Name   string `json:"name"`
	Pin    string `json:"pin"` // file name below maps/, see PinName
	Type   string `json:"type"`
	ID     uint32 `json:"id"`
	Class  string `json:"class"`            // "frozen", "mutable"
	Shared string `json:"shared,omitempty"` // the name by which others have it, too
	Frozen bool   `json:"frozen"`
	// ProgramWrites is set where the manifest gave up that programs cannot write
	// a frozen map.
	ProgramWrites bool   `json:"program_writes,omitempty"`
	SHA256        string `json:"sha256,omitempty"` // of a frozen map's contents
	HashBy        string `json:"hash_by,omitempty"`

	KeySize    uint32 `json:"key_size"`
	ValueSize  uint32 `json:"value_size"`
	MaxEntries uint32 `json:"max_entries"`
}

// RecordProgram describes one program.
type RecordProgram struct {
	Name       string `json:"name"`
	Pin        string `json:"pin"` // file name below programs/
	Type       string `json:"type"`
	AttachType string `json:"attach_type,omitempty"`
	ID         uint32 `json:"id"`
	Tag        string `json:"tag"`

	// What the programs of this name have run that it took the place of, one
	// after the other (kernel.bpf_stats_enabled).
	RunCount  uint64 `json:"run_cnt_before,omitempty"`
	RunTimeNS uint64 `json:"run_time_ns_before,omitempty"`
}

// RecordLink describes one link.
type RecordLink struct {
	Name       string          `json:"name"`
	Pin        string          `json:"pin"` // file name below links/
	ID         uint32          `json:"id"`
	Kind       string          `json:"kind"`
	AttachType string          `json:"attach_type,omitempty"`
	Program    string          `json:"program"`
	ProgramID  uint32          `json:"program_id"`
	Target     json.RawMessage `json:"target,omitempty"` // the resolved loader.Target
}

// encode returns the record's JSON.
func (r Record) encode() ([]byte, error) {
	r.Format = recordFormat
	r.LoadedAt = r.LoadedAt.UTC()
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if len(b) > maxRecord {
		return nil, fmt.Errorf("record: %d bytes, more than %d", len(b), maxRecord)
	}
	return b, nil
}

// decodeRecord reads what encode wrote, and nothing else. It returns
// ErrNewerRecord for a later format and ErrCorrupt for whatever is wrong.
func decodeRecord(b []byte) (Record, error) {
	var r Record
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	err := dec.Decode(&r)
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = errors.New("more data behind it")
		}
	}
	// A newer record is a newer record even where this version cannot read it.
	if format := formatOf(b, r); format > recordFormat {
		return Record{}, fmt.Errorf("record: format %d, this is %d: %w", format, recordFormat, ErrNewerRecord)
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return Record{}, fmt.Errorf("record: %w: %w", ErrCorrupt, err)
	}
	return r, nil
}

// formatOf returns the format of a record, decoded or not.
func formatOf(b []byte, r Record) int {
	if r.Format != 0 {
		return r.Format
	}
	var only struct{ Format int }
	if json.Unmarshal(b, &only) != nil {
		return 0
	}
	return only.Format
}

// check refuses a record that could lead outside its collection.
func (r Record) check() error {
	if r.Format < 1 {
		return fmt.Errorf("format %d", r.Format)
	}
	if _, err := ParseName(r.Name); err != nil {
		return err
	}
	for _, k := range r.kinds() {
		if err := k.check(); err != nil {
			return err
		}
	}
	if r.Lease != nil {
		if b, err := hex.DecodeString(r.Lease.TokenSHA256); err != nil || len(b) != sha256.Size {
			return fmt.Errorf("lease: %.70q is no SHA-256", r.Lease.TokenSHA256)
		}
	}
	return nil
}

// kind is one of a collection's three subdirectories and what the record says
// is in it: object name -> pin.
type kind struct {
	dir  string
	what string // for messages
	objs []object
}

type object struct {
	name string
	pin  *string
}

// Subdirectories of a collection, in the order in which they are emptied: a
// link goes before the program it runs.
const (
	linksDir    = "links"
	programsDir = "programs"
	mapsDir     = "maps"
	recordPin   = "record"
)

var subdirs = [...]string{linksDir, programsDir, mapsDir}

// kinds lists the record's objects by subdirectory.
func (r *Record) kinds() [3]kind {
	links, programs, maps := kind{dir: linksDir, what: "link"}, kind{dir: programsDir, what: "program"}, kind{dir: mapsDir, what: "map"}
	for i := range r.Links {
		links.objs = append(links.objs, object{r.Links[i].Name, &r.Links[i].Pin})
	}
	for i := range r.Programs {
		programs.objs = append(programs.objs, object{r.Programs[i].Name, &r.Programs[i].Pin})
	}
	for i := range r.Maps {
		maps.objs = append(maps.objs, object{r.Maps[i].Name, &r.Maps[i].Pin})
	}
	return [3]kind{links, programs, maps}
}

// check refuses names that do not lead to their pins, and two that lead to one.
func (k kind) check() error {
	seen := make(map[string]string, len(k.objs))
	for _, o := range k.objs {
		pin, err := PinName(o.name)
		if err != nil {
			return fmt.Errorf("%s: %w", k.what, err)
		}
		if *o.pin != pin {
			return fmt.Errorf("%s %q: pinned as %q, not %q", k.what, o.name, *o.pin, pin)
		}
		if other, ok := seen[pin]; ok {
			return fmt.Errorf("%ss %q and %q: both pinned as %q", k.what, other, o.name, pin)
		}
		seen[pin] = o.name
	}
	return nil
}
