package api

import "time"

// State is what has become of a manifest.
type State string

const (
	StateRunning     State = "running"     // its programs are loaded and its links live
	StateAvailable   State = "available"   // it can be loaded, nobody has asked yet
	StatePending     State = "pending"     // it should run and waits for what it attaches to; Reason says for what
	StateFailed      State = "failed"      // it should run and does not; Reason says why
	StateQuarantined State = "quarantined" // it runs, but not as recorded; nothing touches it
)

// Collection is one manifest and what it is in the kernel.
type Collection struct {
	Name        string        `json:"name"`
	Description string        `json:"description,omitempty"`
	State       State         `json:"state"`
	Reason      string        `json:"reason,omitempty"` // why it is not running
	Hint        string        `json:"hint,omitempty"`   // what to do about Reason
	Version     uint64        `json:"version"`
	Start       string        `json:"start"`    // boot or request
	Manifest    File          `json:"manifest"` // with drop-ins the digest is of all that made it
	DropIns     []DropIn      `json:"drop_ins,omitempty"`
	Object      File          `json:"object"`
	Signature   Signature     `json:"signature"`
	Programs    List[Program] `json:"programs"`
	Maps        List[Map]     `json:"maps"`
	Links       List[Link]    `json:"links"`
	LoadedAt    time.Time     `json:"loaded_at,omitzero"`
	LoadedBy    *Caller       `json:"loaded_by,omitempty"`
	Lease       *Lessee       `json:"lease,omitempty"`      // who it runs for; absent: until somebody unloads it
	Adopted     bool          `json:"adopted"`              // was running when this daemon started
	Charged     *Charge       `json:"charged,omitempty"`    // where its maps are charged; only of one that runs and is asked for by name
	TrialUntil  time.Time     `json:"trial_until,omitzero"` // until then it may go back to the version before
}

// Lessee is who a collection runs for: it is unloaded when they go.
type Lessee struct {
	UID   uint32    `json:"uid"`
	PID   int32     `json:"pid,omitempty"`  // for people; absent where their connection is gone
	Until time.Time `json:"until,omitzero"` // then it is unloaded, if they do not come back
}

// File is a file the daemon read, and what it contained.
type File struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"` // 64 hex digits; empty where it could not be read
}

// DropIn is a drop-in of the manifest, in the order in which they apply.
type DropIn struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Signer string `json:"signer,omitempty"` // name in the trust store; empty where it is not signed, or does not run
}

// Signature is what checking the object's signature gave.
type Signature struct {
	Verdict   string `json:"verdict"`    // ok, ok-expired, ok-not-yet-valid, ok-rolled-back, unsigned, unknown-key, …
	Format    string `json:"format"`     // cms-detached or cms-appended
	Covers    string `json:"covers"`     // object, or object+manifest
	CheckedBy string `json:"checked_by"` // hornetd, or hornetd+kernel
	Signer    Signer `json:"signer"`
}

// Signer is a key of the trust store.
type Signer struct {
	Name      string    `json:"name"`    // its file in the trust store, without .pem
	Subject   string    `json:"subject"` // the certificate's; empty for a bare key
	KeyID     string    `json:"key_id"`
	Algorithm string    `json:"algorithm"`
	NotAfter  time.Time `json:"not_after,omitzero"` // absent for a bare key
	Problem   string    `json:"problem,omitempty"`  // why nothing it signed is accepted
	CA        bool      `json:"ca,omitempty"`       // may issue certificates, whose keys sign under its name
}

// Caller is who asked, as the kernel told the daemon when they connected.
type Caller struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	PID int32  `json:"pid,omitempty"` // for people; it may be somebody else's by now

	Unit string `json:"unit,omitempty"` // systemd's, where it is known
}

// Program is a program in the kernel.
type Program struct {
	Name string `json:"name"` // as in the object; the kernel keeps 15 bytes of it
	Type string `json:"type"`
	ID   uint32 `json:"id"`
	Tag  string `json:"tag"`
	// What it and the programs before it have run while kernel.bpf_stats_enabled
	// was on; only of one collection, and only of programs that are attached.
	RunCount  uint64 `json:"run_cnt,omitempty"`
	RunTimeNS uint64 `json:"run_time_ns,omitempty"`
}

// Map is a map in the kernel.
type Map struct {
	Name          string `json:"name"`
	Type          string `json:"type"`
	ID            uint32 `json:"id"`
	Class         string `json:"class"`                    // frozen or mutable, as declared
	Frozen        bool   `json:"frozen"`                   // as the kernel says
	ProgramWrites bool   `json:"program_writes,omitempty"` // frozen for user space, programs may write it
	KeySize       uint32 `json:"key_size"`
	ValueSize     uint32 `json:"value_size"`
	MaxEntries    uint32 `json:"max_entries"`
	SHA256        string `json:"sha256,omitempty"`  // of a frozen map's contents
	HashBy        string `json:"hash_by,omitempty"` // kernel or read
}

// Link is an attachment in the kernel.
type Link struct {
	Name       string `json:"name"`
	ID         uint32 `json:"id"`
	Kind       string `json:"kind"` // xdp, tcx, cgroup, …
	AttachType string `json:"attach_type"`
	Program    string `json:"program"`
	ProgramID  uint32 `json:"program_id"`
	Target     string `json:"target"` // interface, cgroup, tracepoint, … for people
}
