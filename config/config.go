// Package config reads hornetd.toml, the operator's word: where things lie, who
// reaches the socket and how much may be used. Config holds checked values only.
//
// A manifest is what somebody asks for; this is what the operator says. The two
// share no type, so that a claim never becomes a setting.
package config

import (
	"os"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/hornetd/hornetd/policy"
)

// Config is a checked hornetd.toml. hornetd.toml.example explains every key.
type Config struct {
	Paths     Paths
	API       API
	Log       Log
	Limits    Limits
	Manifests Manifests
	Trust     Trust
	Signers   map[string]policy.SignerRule // by name in the trust store, or policy.AnySigner
	Rules     []policy.Rule                // which callers may run bundles of their own
	Guard     Guard

	File   string   // that Read was given, absolute
	Digest [32]byte // SHA-256 of its contents; of nothing where it is absent
}

// Paths are where things lie, all absolute.
type Paths struct {
	Manifests  []string // directories of manifests, the one that wins first
	Trust      string   // directory of the keys that may sign
	Revoked    string   // the revocation list
	BPFFS      string   // directory of the pins
	State      string   // directory of the audit log and the ratchet
	Bundles    string   // directory of what callers brought themselves
	MountBPFFS bool     // mount a bpffs of its own at BPFFS
}

// API is the socket.
type API struct {
	Socket string      // absolute path
	Mode   os.FileMode // permission bits only
	Group  string      // name or decimal id

	Connections        int // of all users but root
	ConnectionsPerUser int
	ChangesPerUser     int // that run or wait to, root's aside
	RecordedPerMinute  int // of one user's doings that go on record, root's aside
	RecordedBurst      int // the same, at once

	HeaderTime  time.Duration // from the first wait for a request to the end of its header
	RequestTime time.Duration // to the end of its body
	AnswerTime  time.Duration // from the header to the end of the answer
	IdleTime    time.Duration // between two requests
	LeaseGrace  time.Duration // to resume a lease, after a start
}

// Log is how hornetd writes its log, which goes to standard error.
type Log struct {
	Level  zapcore.Level
	Format Format
}

// Format is the form of a line of the log.
type Format string

const (
	FormatAuto    Format = "auto"    // console on a terminal, else json
	FormatJSON    Format = "json"    // one object a line, everything escaped
	FormatConsole Format = "console" // for people
)

// Limits bound what may be created and held, per manifest, per user and in total. None
// is 0.
type Limits struct {
	Memory            uint64 // bytes of map keys and values, per manifest
	Maps              int    // per manifest
	Programs          int    // per manifest
	TotalMemory       uint64 // bytes of map keys and values of all that runs
	TotalPrograms     int    // of all that runs
	TotalCollections  int    // that run at the same time
	UserMemory        uint64 // bytes of map keys and values of what one user, not root, had loaded
	UserPrograms      int    // of the same
	UserCollections   int    // the same
	UserStreams       int    // of samples, that one user, not root, reads at the same time
	TotalStreams      int    // that all users but root read
	UserVerifierJobs  int    // loads of one user, other than root, that the kernel verifies at a time
	TotalVerifierJobs int    // of all of them
	StreamMemory      uint64 // bytes of samples of one stream that wait for its client
	StreamBuffer      uint64 // bytes of the buffer of each CPU, for a stream of a perf event array
	Events            int    // the last ones, that clients can still fetch
}

// Policy returns the limits of one manifest.
func (l Limits) Policy() policy.Limits {
	return policy.Limits{Memory: l.Memory, Maps: l.Maps, Programs: l.Programs}
}

// Trust says how far the trust store's word goes.
type Trust struct {
	Roots       []string // names in the trust store whose keys may sign the revocation list
	Revoked     Revoked
	Expiry      Expiry
	Development bool // versions may go back, with a warning
}

// Revoked says what becomes of what runs and is revoked.
type Revoked string

const (
	RevokedKeep   Revoked = "keep"
	RevokedUnload Revoked = "unload"
)

// Expiry says whether what this host accepted before loads at start although
// its signer's certificate is not valid then.
type Expiry string

const (
	ExpiryBoot   Expiry = "boot"
	ExpiryStrict Expiry = "strict"
)

// Guard says whether others may load and change eBPF on this host.
type Guard struct {
	Mode    GuardMode
	Confirm time.Duration // after which enforce falls back to audit where nobody confirms; 0 is never
	Disarm  Disarm
	Allow   []Allowed
}

// GuardMode says what the guard does about others.
type GuardMode string

const (
	GuardOff     GuardMode = "off"     // nothing: there is none
	GuardAudit   GuardMode = "audit"   // it tells
	GuardEnforce GuardMode = "enforce" // it refuses
)

// Disarm says what ends a guard.
type Disarm string

const (
	DisarmRoot   Disarm = "root"   // root's word, through the socket
	DisarmSigned Disarm = "signed" // a statement that a key of Trust.Roots signed
	DisarmReboot Disarm = "reboot" // nothing else
)

// Allowed is somebody else who may do something: by an executable, a cgroup, or the
// kernel's word that a program is signed.
type Allowed struct {
	Executable   string    // absolute path
	SHA256       *[32]byte `json:",omitempty"` // of its contents, nil for any
	Cgroup       string    // path from the root of the hierarchy, such as /system.slice/docker.service
	KernelSigned []uint32  `json:",omitempty"` // keyrings, by enum bpf_sig_keyring; what a guard was armed with before has the same digest
	Commands     []uint32
	Programs     []uint32
	Attachments  []uint32
	Signals      bool
}

// Manifests says how to treat them.
type Manifests struct {
	Removed Removed
	Signed  []string            // directories of Paths.Manifests in which each must be signed itself
	Signers map[string][]string // directory of Paths.Manifests -> names in the trust store that count there; all where it is not a key
}

// Removed says what becomes of a collection whose manifest is gone.
type Removed string

const (
	RemovedUnload Removed = "unload"
	RemovedKeep   Removed = "keep"
)

// Default returns the configuration of a host without a hornetd.toml.
func Default() Config {
	return Config{
		Paths: Paths{
			Manifests: []string{"/etc/hornet.d", "/run/hornet.d", "/usr/local/lib/hornet.d", "/usr/lib/hornet.d"},
			Trust:     "/etc/hornet/trust.d",
			Revoked:   "/etc/hornet/revoked",
			BPFFS:     "/sys/fs/bpf/hornet",
			State:     "/var/lib/hornet",
			Bundles:   "/run/hornet/bundles",
		},
		API: API{
			Socket: "/run/hornet/hornetd.sock", Mode: 0o660, Group: "hornet",
			Connections: 256, ConnectionsPerUser: 16, ChangesPerUser: 2, RecordedPerMinute: 30, RecordedBurst: 1000,
			HeaderTime: 5 * time.Second, RequestTime: 10 * time.Second, AnswerTime: 2 * time.Minute, IdleTime: 2 * time.Minute,
			LeaseGrace: 30 * time.Second,
		},
		Log: Log{Level: zapcore.InfoLevel, Format: FormatAuto},
		Limits: Limits{
			Memory: 64 << 20, Maps: 128, Programs: 128,
			TotalMemory: 1 << 30, TotalPrograms: 16384, TotalCollections: 1024,
			UserMemory: 256 << 20, UserPrograms: 1024, UserCollections: 64,
			UserStreams: 4, TotalStreams: 16, UserVerifierJobs: 1, TotalVerifierJobs: 2, StreamMemory: 1 << 20, StreamBuffer: 64 << 10, Events: 1024,
		},
		Manifests: Manifests{Removed: RemovedUnload, Signed: []string{}, Signers: map[string][]string{}},
		Trust:     Trust{Roots: []string{}, Revoked: RevokedKeep, Expiry: ExpiryBoot},
		Guard:     Guard{Mode: GuardAudit, Disarm: DisarmRoot},
	}
}
