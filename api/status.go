package api

import "time"

// Status is the daemon itself.
type Status struct {
	Version     string        `json:"version"`
	PID         int           `json:"pid"`
	StartedAt   time.Time     `json:"started_at"`
	ReadyAt     time.Time     `json:"ready_at,omitzero"` // absent until it is
	Collections Counts        `json:"collections"`
	Paths       Paths         `json:"paths"`
	Signers     List[Signer]  `json:"signers"`
	Revocations *Revocations  `json:"revocations,omitempty"` // absent where no list is in force
	Problems    List[Problem] `json:"problems"`
	Kernel      Kernel        `json:"kernel"`
	Limits      List[Limit]   `json:"limits"`
	Charged     *Charge       `json:"charged,omitempty"` // where large maps are charged; absent but for root
	Guard       *Guard        `json:"guard,omitempty"`   // for root
}

// Charge is where the kernel counts the memory of maps.
type Charge struct {
	To     ChargedTo `json:"to"`
	Cgroup string    `json:"cgroup,omitempty"` // its path, where it is one of their own
	Bytes  uint64    `json:"bytes,omitempty"`  // that are charged to it now
	Most   uint64    `json:"most,omitempty"`   // that may be; absent: no limit of its own
	Reason string    `json:"reason,omitempty"` // why there is none of their own, or what is charged to none
	Hint   string    `json:"hint,omitempty"`   // what to do about Reason
}

// ChargedTo is a kind of place.
type ChargedTo string

// The places where maps can be charged.
const (
	ChargedToOwn     ChargedTo = "own"     // a cgroup of the collection's own
	ChargedToHornetd ChargedTo = "hornetd" // the daemon's cgroup
	ChargedToEarlier ChargedTo = "earlier" // the cgroup of a daemon before this one, or where that is gone the one above it
)

// Guard is what keeps others from loading and changing eBPF on this host.
type Guard struct {
	Mode    GuardMode    `json:"mode"`             // of what is in force; off where there is none
	Wanted  GuardMode    `json:"wanted"`           // by hornetd.toml
	Reason  string       `json:"reason,omitempty"` // why the two differ, or what is wrong with it
	Hint    string       `json:"hint,omitempty"`
	Confirm string       `json:"confirm,omitempty"` // how long until it falls back to audit, as "9m30s"
	Disarm  string       `json:"disarm,omitempty"`  // what ends it: root, signed or reboot
	Hooks   List[string] `json:"hooks"`             // its programs in force
	Floor   bool         `json:"floor"`             // it has one: what refuses when the kernel has taken all its pins away
	Open    List[string] `json:"open"`              // what it cannot see on this kernel
	Refused uint64       `json:"refused"`           // since it was armed, over restarts and upgrades of hornetd
	Lost    uint64       `json:"lost"`              // of what it saw since then, untold for want of room

	// Suppressed is how much of it was untold as its caller, a user in a cgroup, caused more than 64
	// in a second. The next event of that caller's says how many were theirs.
	Suppressed uint64 `json:"suppressed"`

	Enrolled List[Enrolled] `json:"enrolled"` // who is hornetd where systemd starts it as such; empty where hornetd is not told
}

// Enrolled is an executable that the guard takes for hornetd. The guard knows the file,
// wherever it is moved to.
type Enrolled struct {
	SHA256  string `json:"sha256,omitempty"` // of its contents when it was enrolled; absent where a hornetd did it that noted none
	Inode   uint64 `json:"inode"`
	Device  string `json:"device"`            // of its file system, as "8:1"
	Running bool   `json:"running,omitempty"` // what answers is it
}

// GuardMode is what the guard does about others.
type GuardMode string

const (
	GuardOff     GuardMode = "off"     // nothing
	GuardDetect  GuardMode = "detect"  // there is none: programs that others loaded are told of, nothing could be refused
	GuardAudit   GuardMode = "audit"   // it tells
	GuardEnforce GuardMode = "enforce" // it refuses, and tells
)

// Limit is a bound of hornetd.toml and how near it is. Root is told all, and of
// those for each user one for each that comes near; others are told their own.
type Limit struct {
	Name string  `json:"name"`           // the key of hornetd.toml, such as api.connections
	UID  *uint32 `json:"uid,omitempty"`  // whose; absent where it is everybody's, or nobody has any
	Used *uint64 `json:"used,omitempty"` // absent where nothing is counted
	Most uint64  `json:"most"`
	Unit string  `json:"unit,omitempty"` // bytes or ms; absent: a number of things
}

// Revocations is the revocation list in force.
type Revocations struct {
	Serial uint64 `json:"serial"`
	Signer string `json:"signer"` // name in the trust store
}

// Counts is how many collections are in each state.
type Counts struct {
	Running     int `json:"running"`
	Available   int `json:"available"`
	Pending     int `json:"pending"` // wait for what they attach to
	Failed      int `json:"failed"`
	Quarantined int `json:"quarantined"`
	Verified    int `json:"verified"` // of those that run: with a signature over the manifest too
}

// Paths are the directories the daemon works with.
type Paths struct {
	Manifests List[string] `json:"manifests"` // the first decides
	Trust     string       `json:"trust"`
	BPFFS     string       `json:"bpffs"`
	State     string       `json:"state"`
	Socket    string       `json:"socket"`
}

// Kernel is what the daemon runs on, as uname says.
type Kernel struct {
	Release string `json:"release"`
	Machine string `json:"machine"`
}

// Problem is something an operator should look at.
type Problem struct {
	Kind       Kind   `json:"kind"`
	Collection string `json:"collection,omitempty"`
	File       string `json:"file,omitempty"`
	Line       int    `json:"line,omitempty"`
	Key        string `json:"key,omitempty"` // of the manifest or configuration
	Message    string `json:"message"`
	Hint       string `json:"hint,omitempty"`
}
