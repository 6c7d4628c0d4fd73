// Package pinning keeps collections on a bpffs. The bpffs is hornetd's only
// database: what is pinned runs, and goes on running while the daemon is dead.
// No other package writes it.
//
//	ROOT/NAME/record                      the Record, in a frozen map
//	ROOT/NAME/{maps,programs,links}/PIN   one committed collection
//	ROOT/stage-ID/…                       being built, or being taken down
//	ROOT/quarantine-ID[-NAME]/…           kept as found; its links still run
//
// Every change is one rename of a whole directory: a stage is built under a
// random name and committed (Stage.Commit), swapped with what is committed
// (Stage.Replace), or a committed directory becomes a stage and is taken down
// (Store.Remove). A committed directory is never changed in place. So a crash
// at any point leaves committed directories and stages, never half of either,
// and Store.Sweep at the next start removes the stages.
//
// A Store holds a descriptor of its root, locked against a second owner, and
// reaches everything through it, never through the path again. Methods of a
// Store that change something must be called one at a time; those that only
// read may be called at any time.
package pinning
