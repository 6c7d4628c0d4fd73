package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Phase says where in an action a record stands.
type Phase string

const (
	Intent  Phase = "intent"  // before anything changes
	Outcome Phase = "outcome" // how what was intended ended
	Refusal Phase = "refusal" // nothing was done
	Note    Phase = "note"    // something that is no action
)

// Verbs whose records may use the reserved space: they take things down or put
// them right. A reload puts a revocation list in force; what it loads has records
// of its own.
const (
	VerbUnload     = "unload"
	VerbRepair     = "repair"
	VerbReturn     = "return" // to the version before
	VerbQuarantine = "quarantine"
	VerbRecover    = "recover"
	VerbReload     = "reload"
)

// VerbConfirm is the end of a trial that was passed: from then on the version
// counts. Before, its load has Trial set.
const VerbConfirm = "confirm"

// Bounds of one record.
const (
	maxField = 4 << 10   // bytes of one text, escaped
	maxIDs   = 4096      // ids in one list
	maxLine  = 256 << 10 // bytes of the line
)

// Record is one line of the log. The order of the fields is the order in the
// line.
type Record struct {
	Seq        uint64    `json:"seq"`  // 1, 2, 3, …; set by Append
	Time       time.Time `json:"time"` // UTC; set by Append where it is zero
	Phase      Phase     `json:"phase"`
	Verb       string    `json:"verb"`
	Collection string    `json:"collection,omitempty"`
	Caller     Caller    `json:"caller"`
	Manifest   string    `json:"manifest,omitempty"` // SHA-256 of its own text, hexadecimal
	DropIns    string    `json:"drop_ins,omitempty"` // SHA-256 of the manifest with its drop-ins, where it has any
	Version    uint64    `json:"version,omitempty"`  // of the manifest
	Object     string    `json:"object,omitempty"`   // SHA-256, hexadecimal
	Signer     string    `json:"signer,omitempty"`
	Format     string    `json:"signature_format,omitempty"` // "cms-detached", "cms-appended"
	Covers     string    `json:"covers,omitempty"`           // "object", "object+manifest"
	Verdict    string    `json:"verdict,omitempty"`
	VerdictBy  string    `json:"verdict_by,omitempty"` // "hornetd", "kernel"
	SignerKey  string    `json:"signer_key,omitempty"` // SHA-256 of the public key, hexadecimal
	Programs   []uint32  `json:"programs,omitempty"`   // ids, as Maps and Links
	Maps       []uint32  `json:"maps,omitempty"`
	Links      []uint32  `json:"links,omitempty"`
	DurationUS int64     `json:"duration_us,omitempty"`
	Kind       string    `json:"kind,omitempty"` // of the error
	Error      string    `json:"error,omitempty"`
	Hint       string    `json:"hint,omitempty"`   // what to do about it
	Reason     string    `json:"reason,omitempty"` // what whoever asked gave as theirs; of a repair, what was wrong; of an upgrade, what had a gap
	Trial      bool      `json:"trial,omitempty"`  // what was loaded may go back by itself
	Shown      Shown     `json:"shown,omitzero"`   // what a caller showed of where it attaches
	Intent     uint64    `json:"intent,omitempty"` // Seq of the intent an outcome belongs to
	Cut        bool      `json:"cut,omitempty"`    // a text or list was longer than is kept

	// Synced is how long the disk took; it is not in the line.
	Synced time.Duration `json:"-"`
}

// Caller is who asked, as the kernel named them. A PID is for the reader only:
// it is no identity.
type Caller struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	PID int32  `json:"pid,omitempty"`

	// Where they are known; of the process when its connection was accepted.
	Unit  string `json:"unit,omitempty"`  // of the system's systemd
	Exe   string `json:"exe,omitempty"`   // path, as its mount namespace has it
	Label string `json:"label,omitempty"` // by a security module

	// What the process calls itself, which may be anything; only in what is foreign. The
	// guard knows it of one that ended before its executable was looked at, too.
	Comm string `json:"comm,omitempty"`
}

// Shown is what identifies what a caller showed descriptors of, and whose it was found
// to be, by the kernel's numbers at that time.
type Shown struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`

	CgroupID   uint64 `json:"cgroup_id,omitempty"`
	NetnsInode uint64 `json:"netns_inode,omitempty"`
	PID        int    `json:"pid,omitempty"`
	Started    uint64 `json:"started,omitempty"`     // of the process, in clock ticks since the boot
	PIDFDInode uint64 `json:"pidfd_inode,omitempty"` // of the process; 0 before Linux 6.9
}

// reserved reports whether a record may use the space that is kept.
func (r Record) reserved() bool {
	switch r.Verb {
	case VerbUnload, VerbRepair, VerbReturn, VerbQuarantine, VerbRecover, VerbReload:
		return r.Phase != Refusal // which anybody can cause
	}
	return r.Phase == Outcome
}

// encode returns the record as it is kept, and its line with the newline.
func (r Record) encode() (Record, []byte, error) {
	switch r.Phase {
	case Intent, Outcome, Refusal, Note:
	default:
		return r, nil, fmt.Errorf("record: unknown phase %q", r.Phase)
	}
	r.Time = r.Time.UTC().Round(0)
	for _, s := range []*string{&r.Verb, &r.Collection, &r.Manifest, &r.DropIns, &r.Object, &r.Signer, &r.SignerKey, &r.Format, &r.Covers, &r.Verdict, &r.VerdictBy, &r.Kind, &r.Error, &r.Hint, &r.Reason,
		&r.Caller.Unit, &r.Caller.Exe, &r.Caller.Label} {
		var cut bool
		*s, cut = escape(*s)
		r.Cut = r.Cut || cut
	}
	for _, ids := range []*[]uint32{&r.Programs, &r.Maps, &r.Links} {
		if len(*ids) > maxIDs {
			*ids, r.Cut = (*ids)[:maxIDs:maxIDs], true
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return r, nil, fmt.Errorf("record: %w", err)
	}
	if buf.Len() > maxLine {
		return r, nil, fmt.Errorf("record: %d bytes, more than %d", buf.Len(), maxLine)
	}
	return r, buf.Bytes(), nil
}

// parse reads a line without its newline. Fields that a newer hornetd may have
// added are passed over.
func parse(line []byte) (Record, error) {
	var r Record
	dec := json.NewDecoder(bytes.NewReader(line))
	if err := dec.Decode(&r); err != nil {
		return Record{}, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return Record{}, errors.New("more data behind it")
	}
	if r.Seq == 0 || r.Phase == "" {
		return Record{}, errors.New("no record")
	}
	return r, nil
}
