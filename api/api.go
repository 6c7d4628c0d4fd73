// Package api is what hornetd speaks on its socket: HTTP/1.1 with JSON bodies,
// described by openapi.yaml, and the client that Go programs use.
//
//	c := api.New(api.DefaultSocket)
//	collections, err := c.List(ctx)
//
// The types here are the wire format, field by field: what `hornetctl -o json`
// prints is exactly what the daemon sent. A field is never renamed, and never
// changes its meaning, within /v1; new ones may appear, so readers ignore fields
// they do not know. The daemon is the stricter half: it refuses a request with
// anything in it that it does not know (DecodeRequest).
//
// Every error that a call returns is an *Error: its Kind is for programs, its
// Message and Hint are for people. Text inside any answer may come from an
// object file or another user; escape it before it reaches a terminal.
package api

import (
	"bytes"
	"encoding/json"
)

// DefaultSocket is where hornetd listens unless its configuration says
// otherwise.
const DefaultSocket = "/run/hornet/hornetd.sock"

// List is a slice that is [] in JSON when it is empty, never null, so that a
// reader can walk it without asking first.
type List[T any] []T

// MarshalJSON encodes the list.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if len(l) == 0 {
		return []byte("[]"), nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode([]T(l)); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
