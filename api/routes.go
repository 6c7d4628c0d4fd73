package api

// The routes, as patterns for http.ServeMux.
const (
	RouteList     = "GET /v1/collections"
	RouteGet      = "GET /v1/collections/{name}"
	RouteLoad     = "POST /v1/collections/{name}/load"
	RouteUpgrade  = "POST /v1/collections/{name}/upgrade"
	RouteUnload   = "POST /v1/collections/{name}/unload"
	RouteRollback = "POST /v1/collections/{name}/rollback"
	RouteRecover  = "POST /v1/collections/{name}/recover"
	RouteMap      = "GET /v1/collections/{name}/maps/{map}"
	RouteEntries  = "GET /v1/collections/{name}/maps/{map}/entries"
	RouteWrite    = "PUT /v1/collections/{name}/maps/{map}/entries"
	RouteDelete   = "DELETE /v1/collections/{name}/maps/{map}/entries"
	RouteStream   = "GET /v1/collections/{name}/maps/{map}/stream"
	RouteRun      = "POST /v1/run"
	RouteStatus   = "GET /v1/status"
	RouteReload   = "POST /v1/reload"
	RoutePlan     = "POST /v1/plan"
	RouteEvents   = "GET /v1/events"
	RouteGuard    = "POST /v1/guard"
	RouteEnroll   = "POST /v1/guard/enroll"
	RouteRetire   = "POST /v1/guard/retire"

	RouteStatement = "POST /v1/guard/statement"
	RouteSigned    = "POST /v1/guard/signed"
)

// Route is one thing that can be asked.
type Route struct {
	Pattern  string   // method and path, for http.ServeMux
	Query    []string // the parameters it takes; others are refused
	Request  any      // zero value of the body's type, nil where there is none; a Bundle is a form, all else JSON
	Response any      // zero value of a successful answer's type

	Upgrades map[string]any // protocols that the connection can change to, and the zero value of what the daemon then sends
}

// Routes lists every route there is. openapi.yaml has the same.
func Routes() []Route {
	return []Route{
		{Pattern: RouteList, Response: Collections{}},
		{Pattern: RouteGet, Response: Collection{}},
		{Pattern: RouteLoad, Request: LoadRequest{}, Response: Collection{},
			Upgrades: map[string]any{UpgradeLease: LeaseGrant{}, UpgradeTarget: Loaded{}}},
		{Pattern: RouteUpgrade, Request: UpgradeRequest{}, Response: Collection{}},
		{Pattern: RouteUnload, Request: UnloadRequest{}, Response: Collection{}},
		{Pattern: RouteRollback, Request: RollbackRequest{}, Response: Collection{}},
		{Pattern: RouteRecover, Request: RecoverRequest{}, Response: Collection{}},
		{Pattern: RouteMap, Query: []string{"access"}, Response: Map{}, Upgrades: map[string]any{UpgradeFD: MapDescriptor{}}},
		{Pattern: RouteEntries, Query: []string{"limit", "after", "key", "percpu"}, Response: Entries{}},
		{Pattern: RouteWrite, Request: WriteRequest{}, Response: Changed{}},
		{Pattern: RouteDelete, Request: DeleteRequest{}, Response: Changed{}},
		{Pattern: RouteStream, Response: Sample{}},
		{Pattern: RouteRun, Query: []string{"name", "lease", "targets"}, Request: Bundle{}, Response: Collection{},
			Upgrades: map[string]any{UpgradeLease: LeaseGrant{}, UpgradeTarget: Loaded{}}},
		{Pattern: RouteStatus, Response: Status{}},
		{Pattern: RouteReload, Request: ReloadRequest{}, Response: Plan{}},
		{Pattern: RoutePlan, Request: PlanRequest{}, Response: Plan{}},
		{Pattern: RouteEvents, Query: []string{"since", "follow", "kind", "collection"}, Response: Event{}},
		{Pattern: RouteGuard, Request: GuardRequest{}, Response: Guard{}},
		{Pattern: RouteEnroll, Request: EnrollRequest{}, Response: Guard{}},
		{Pattern: RouteRetire, Request: RetireRequest{}, Response: Guard{}},
		{Pattern: RouteStatement, Request: StatementRequest{}, Response: Statement{}},
		{Pattern: RouteSigned, Request: SignedRequest{}, Response: Guard{}},
	}
}

// Collections is the answer to RouteList, ordered by name: what the caller may
// see, not more.
type Collections struct {
	Collections List[Collection] `json:"collections"`
}

// LoadRequest asks that a collection run. The manifest says everything about how;
// to choose is only how long. Loading what runs already changes nothing, but that it
// cannot be had as a lease.
type LoadRequest struct {
	Lease   bool   `json:"lease,omitempty"`   // for as long as the connection, see UpgradeLease
	Resume  string `json:"resume,omitempty"`  // with Lease: the token of one that lost its connection
	Targets bool   `json:"targets,omitempty"` // with Lease: the client shows what it is attached to, see UpgradeLease
}

// UpgradeRequest asks that what runs be replaced by what is on disk now. What
// runs from it already is left as it is.
type UpgradeRequest struct{}

// UnloadRequest asks that a collection stop.
type UnloadRequest struct {
	Force bool `json:"force,omitempty"` // also one in quarantine, or that others require
}

// RollbackRequest asks that Version of a collection, older than what was loaded
// before, may load again. It loads nothing.
type RollbackRequest struct {
	Version uint64 `json:"version"`
	Reason  string `json:"reason"` // for the audit log; never empty
}

// RecoverRequest asks that what is in quarantine run under its name again.
type RecoverRequest struct{}

// ReloadRequest asks that the manifests be read again and the differences applied.
type ReloadRequest struct{}

// PlanRequest asks what a reload would do.
type PlanRequest struct{}

// GuardRequest asks that the guard do something else from now on.
type GuardRequest struct {
	Mode GuardMode `json:"mode,omitempty"` // absent: as it is
	// ConfirmWithin, with Mode enforce, has it fall back to audit unless it is
	// confirmed in that time, such as "10m". Without it, where it begins to enforce,
	// confirm of [guard] counts, and a time that runs already goes on.
	ConfirmWithin string `json:"confirm_within,omitempty"`
	Confirm       bool   `json:"confirm,omitempty"` // it stays as it is
	Reason        string `json:"reason,omitempty"`  // for the audit log; must be there with Mode off
}

// EnrollRequest asks that an executable be hornetd in the guard's eyes when systemd
// starts it as hornetd's service.
type EnrollRequest struct {
	File string `json:"file"` // absolute path
}

// RetireRequest asks that an executable not be hornetd in the guard's eyes any more. It
// has one of the two.
type RetireRequest struct {
	File   string `json:"file,omitempty"`   // absolute path
	SHA256 string `json:"sha256,omitempty"` // hexadecimal, as Enrolled has it: all that had it when they were enrolled
}
