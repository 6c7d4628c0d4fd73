package api

import "time"

// MaxStatementBytes bounds a statement.
const MaxStatementBytes = 32 << 10

// GuardAct is what can be done to a guard by what a root signed.
type GuardAct string

const (
	ActDisarm GuardAct = "disarm" // end it
	ActAudit  GuardAct = "audit"  // have it refuse nothing any more
	ActTrust  GuardAct = "trust"  // seal the trust store and hornetd.toml as they are
	ActEnroll GuardAct = "enroll" // have an executable be hornetd
)

// GuardActs lists them all.
func GuardActs() []GuardAct { return []GuardAct{ActDisarm, ActAudit, ActTrust, ActEnroll} }

// StatementRequest asks for a statement to be signed.
type StatementRequest struct {
	Act    GuardAct `json:"act"`
	Reason string   `json:"reason"`         // for whoever signs, and the audit log; 1 to 200 bytes
	File   string   `json:"file,omitempty"` // with ActEnroll: absolute path
}

// Statement is what is to be signed.
type Statement struct {
	Text  string    `json:"text"` // these very bytes
	Until time.Time `json:"until,omitzero"`
}

// SignedRequest asks that what a root signed be done.
type SignedRequest struct {
	Act       GuardAct `json:"act"` // that the caller takes it for
	Statement string   `json:"statement"`
	Signature []byte   `json:"signature"` // detached CMS in DER; base64 in JSON
}
