// Package faults kills hornetd, makes its system calls fail, stops it, and pulls
// the disk from under it, and then asks the kernel what is there. It is tests
// only: `go test` runs a sample, `make faults` all of it, and `make faults-proof`
// shows that each of a list of seeded bugs is caught.
//
// Why there are no named failpoints between system calls: hornetd changes what
// outlives it by system calls alone, all of a change on one thread, and a kill
// that strace injects comes before the call is executed. What lies between two
// calls is thus the state in which the second one is killed.
package faults
