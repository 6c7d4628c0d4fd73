// Package loader turns a verified object and a manifest into maps, programs
// and links. It is the only package that creates or attaches.
//
// Values flow forward: OpenSpec parses the bytes that were verified, NewPlan
// decides what will be created and with which contents, both without touching
// the kernel. CreateMaps creates and fills the maps, Freeze freezes them and
// reads them back, LoadPrograms loads what uses them, RunTests tries it,
// Attach makes it live. Each returns what it made; whoever got it closes it.
//
// A map that is frozen before its program is loaded cannot be changed by user
// space between the check and the use, or ever after. It is not immutable:
// programs are kept out by BPF_F_RDONLY_PROG, but a map-element iterator of a
// privileged process can still write it.
package loader
