package api

// Action is what a reload does to one collection.
type Action string

const (
	ActionKeep    Action = "keep"    // runs as the manifest says
	ActionLoad    Action = "load"    // starts
	ActionUnload  Action = "unload"  // stops: its manifest is gone
	ActionReplace Action = "replace" // its manifest or object changed
	ActionRepair  Action = "repair"  // a pin or link is missing
	ActionRefuse  Action = "refuse"  // stays as it is: Error says why
)

// Plan is what a reload would do, or has done. Changes are ordered by
// collection name.
type Plan struct {
	Changes  List[Change]  `json:"changes"`
	Problems List[Problem] `json:"problems"`         // any one stops the whole reload
	Shrunk   *Shrunk       `json:"shrunk,omitempty"` // of a reload that was stopped; absent where trust stayed as it was
}

// Shrunk is by what trust became less in a reload that was stopped.
type Shrunk struct {
	Revocations *Revocations `json:"revocations,omitempty"` // the new list in force; absent where there is none
	Gone        List[Signer] `json:"gone"`                  // keys that the trust store does not have any more
}

// Change is one step of a plan.
type Change struct {
	Collection  string           `json:"collection"`
	Action      Action           `json:"action"`
	Reason      string           `json:"reason,omitempty"`
	FromVersion uint64           `json:"from_version,omitempty"`
	ToVersion   uint64           `json:"to_version,omitempty"`
	Links       List[LinkChange] `json:"links"`
	Done        bool             `json:"done"` // false in the answer to plan
	Error       *Error           `json:"error,omitempty"`
}

// LinkChange is what happens to one attachment.
type LinkChange struct {
	Name    string     `json:"name"`
	Kind    string     `json:"kind"`
	Program string     `json:"program"`
	Target  string     `json:"target"`
	Action  LinkAction `json:"action"`
}

// LinkAction is how one attachment changes.
type LinkAction string

const (
	LinkKeep   LinkAction = "keep"   // stays as it is
	LinkUpdate LinkAction = "update" // the same link, with another program: nothing is missed
	LinkBeside LinkAction = "beside" // a new link beside the old one, which then goes: both run for a moment
	LinkGap    LinkAction = "gap"    // the old link goes before the new one comes: neither runs for a moment
	LinkAttach LinkAction = "attach" // a link where there was none
	LinkDetach LinkAction = "detach" // a link goes
)
