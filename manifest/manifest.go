// Package manifest reads manifests: TOML files that say what shall run.
//
// A manifest is a claim, not a fact: parsing one decides nothing. The object's
// signature, the policy and the opened ELF file decide.
package manifest

import (
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/tomlfile"
)

// Manifest is one parsed and checked manifest. The zero value is not valid;
// only Parse and Apply make one.
type Manifest struct {
	Name        string         // collection name, from the file's name
	Named       bool           // its text says the name too, so that a signature covers it
	File        string         // the path Parse was given, for messages
	Digest      [32]byte       // SHA-256 of the bytes Parse was given; with drop-ins, of all that made it
	TextDigest  [32]byte       // SHA-256 of the bytes Parse was given
	DropIns     []DropIn       // that were applied, in this order
	Description string         // one line for people
	Instances   string         // of a template: regular expression for the whole of an instance
	Version     uint64         // only grows; 0 where the manifest names none
	Start       Start          // when it is loaded
	Fail        Fail           // what a boot load that fails means
	Requires    []string       // collections that must run, and come first
	After       []string       // collections that come first where both come
	Object      Object         // the ELF file and who may have signed it
	Variables   map[string]any // global variable -> TOML value
	Maps        map[string]Map // map name, or "*" for all that are not named
	Attach      []Attach       // in the order of the file
	Allow       []Allow        // what others than root may do
	Limits      Limits         // narrower than the policy's, never wider
	Tests       []Test         // run before anything is attached
	Health      *Health        // what must hold after an upgrade; nil: nothing

	raw   rawManifest      // all that was said, for Apply
	texts []*tomlfile.Text // the manifest's and those of its drop-ins: they have the lines of keys
}

// Start says when a collection is loaded.
type Start string

const (
	StartBoot    Start = "boot"    // when hornetd starts or reloads (default)
	StartRequest Start = "request" // when somebody asks
)

// Fail says what a boot load that fails means for the daemon.
type Fail string

const (
	FailOpen   Fail = "open"   // report it and go on (default)
	FailClosed Fail = "closed" // the daemon does not become ready
)

// Object names the ELF file.
type Object struct {
	Path      string    // absolute: a relative path is taken beside the manifest
	Signature string    // absolute path of the detached signature (default Path + ".p7s"); not read where the manifest is signed
	Signers   []string  // names in the trust store; empty: any the policy allows
	SHA256    *[32]byte // the object's digest, nil where the manifest names none
}

// Class says who may write a map once its program runs.
type Class string

const (
	ClassFrozen  Class = "frozen"  // frozen before any program can see it
	ClassMutable Class = "mutable" // stays writable
)

// Map is what a manifest says of one map (or of "*").
type Map struct {
	Class         Class   // that of "*" where only that names one; "" for a data section (".bss") that names none
	Entries       []Entry // written before the freeze
	ProgramWrites bool    // frozen for user space, but programs may write it
	Keep          bool    // contents survive an upgrade with the same definition
	Shared        string  // every collection of the same signer that says this name has the same map
	MaxEntries    uint32  // 0: as the object says
	Inner         string  // map-in-map: the map of the object that is the template
}

// Entry is one key and value as TOML gave them: int64, float64, bool, string,
// []any or map[string]any. BTF says what they become (package loader).
type Entry struct {
	Key   any
	Value any
}

// Attach asks for one attachment. Which keys a program needs follows from its
// type; loader.Resolve refuses the others.
type Attach struct {
	Program    string   // "" only for a struct_ops map
	Interface  string   // name or glob (xdp, tcx)
	Mode       string   // xdp: auto, generic, native, offload
	Direction  string   // tcx, where the section does not say: ingress, egress
	Position   string   // tcx: head, tail (default)
	Netns      string   // path of a network namespace (xdp, tcx, sk_lookup, netfilter)
	Cgroup     string   // path below the cgroup2 mount, or absolute
	Tracepoint string   // group/name, or the raw tracepoint's name
	Executable string   // uprobe: absolute path
	Symbol     string   // uprobe
	Symbols    []string // uprobe.multi: names or patterns
	Offset     uint64   // uprobe: bytes behind the symbol, or in the file where Symbol is empty; kprobe: bytes behind the function
	Function   string   // fentry, fexit, fmod_ret, lsm, kprobe, ksyscall: what the section does not say, or instead of it; freplace: the function that is replaced
	Functions  []string // kprobe.multi: names or patterns
	Replaces   string   // freplace: the program of the object that has the function
	Family     string   // netfilter: ipv4, ipv6
	Hook       string   // netfilter: prerouting, input, forward, output, postrouting
	Priority   int32    // netfilter
	Priorities []int32  // netfilter, instead of Priority: two, which versions take in turns
	Defrag     bool     // netfilter
	Map        string   // iter/bpf_map_elem: the map to walk; a struct_ops map
	Target     string   // TargetCaller: whoever loads it shows a descriptor of where
	Upgrade    Upgrade  // what a new version may do where the old one has to leave first
}

// Upgrade says what may happen to an attachment when a new version of the
// collection comes and the kernel has room for one program there.
type Upgrade string

const (
	UpgradeSeamless Upgrade = ""    // no moment without a program, or no upgrade (default)
	UpgradeGap      Upgrade = "gap" // the old one is detached, then the new one attached
)

// TargetCaller is the Target of an attach whose cgroup, network namespace or process
// whoever loads the collection owns, and shows a descriptor of.
const TargetCaller = "caller"

// OfCaller says whether whoever loads the collection shows what a is attached to.
func (a Attach) OfCaller() bool { return a.Target == TargetCaller }

// OfCaller says whether m has such an attach. It is then loaded on request only.
func (m Manifest) OfCaller() bool { return slices.ContainsFunc(m.Attach, Attach.OfCaller) }

// StructOps says whether a is of a map, which is attached as a whole, and not of a
// program.
func (a Attach) StructOps() bool { return a.Program == "" }

// Allow lets some callers do what May lists: those of whom all is true that is set.
// At most one of User and Group is, a name or a decimal id, and without them Unit.
type Allow struct {
	User  string
	Group string
	Unit  string // of the system's systemd
	May   []Right
}

// Right is one thing a caller may be allowed: status, load, upgrade, unload,
// events; or read:MAP, write:MAP, fd:MAP, rw-fd:MAP, of a map or of all with "*".
type Right string

const (
	RightStatus  Right = "status" // see the collection
	RightLoad    Right = "load"
	RightUpgrade Right = "upgrade" // to what is on disk
	RightUnload  Right = "unload"
	RightEvents  Right = "events" // follow what happens to it

	readPrefix  = "read:"
	writePrefix = "write:"
	fdPrefix    = "fd:"
	rwFDPrefix  = "rw-fd:"
)

// RightRead is the right to read the entries of a map, or of all with "*".
func RightRead(name string) Right { return Right(readPrefix + name) }

// RightWrite is the right to write and delete entries.
func RightWrite(name string) Right { return Right(writePrefix + name) }

// RightFD is the right to a descriptor of the map that only reads.
func RightFD(name string) Right { return Right(fdPrefix + name) }

// RightRWFD is the right to a descriptor that reads and writes.
func RightRWFD(name string) Right { return Right(rwFDPrefix + name) }

// Map returns the map, or "*", that a right is about, and whether it is about one.
func (r Right) Map() (name string, ok bool) {
	_, name, ok = r.cut()
	return name, ok
}

// cut returns what r lets do, with its colon, and the map it is about.
func (r Right) cut() (prefix, name string, ok bool) {
	for _, prefix := range []string{readPrefix, writePrefix, fdPrefix, rwFDPrefix} {
		if name, ok := strings.CutPrefix(string(r), prefix); ok {
			return prefix, name, true
		}
	}
	return "", "", false
}

// Covers tells whether whoever has r has other too: the same of all maps covers
// that of one, and rw-fd: covers fd:, as a descriptor that writes reads as well.
// Nothing else covers anything but itself.
func (r Right) Covers(other Right) bool {
	if r == other {
		return true
	}
	has, mine, ok := r.cut()
	asked, name, ofMap := other.cut()
	return ok && ofMap && name != "" && (mine == all || mine == name) && (has == asked || has == rwFDPrefix && asked == fdPrefix)
}

// Limits bound what a manifest may create. 0 means the policy's limit.
type Limits struct {
	Memory   uint64 // bytes of map keys and values
	Maps     int
	Programs int
}

// Test is one BPF_PROG_TEST_RUN before anything is attached.
type Test struct {
	Program string
	Data    []byte // the packet or context handed in
	Returns uint32 // the value the program must return
}
