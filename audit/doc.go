// Package audit writes down every decision, durably, before and after.
//
// A Log is a file of JSON lines that is only ever appended to. Append returns
// when the line is on disk. One line without its newline is one leaf: exactly
// the bytes that golang.org/x/mod/sumdb/tlog.RecordHash hashes, so that a
// Merkle tree over an existing log needs no migration. Record n is leaf n-1.
//
// Names, messages and whatever else comes from outside is escaped before it is
// written: no text can end a line, forge a record or move a terminal's cursor.
//
// Some space is always kept allocated for records that must not fail: those of
// how something ended, and of taking things down. When it cannot be kept, Append
// refuses everything else with ErrFull, so that loads stop first.
package audit
