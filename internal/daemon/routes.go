package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hornetd/hornetd/api"
)

// Entries a page has unless the client asks for fewer.
const (
	defaultPage = 1000
	maxPage     = 10000
)

// routes is the one table of what can be asked. Who may ask what is decided
// behind Core, on the peer the kernel named.
func routes(core Core, lim *limiter) http.Handler {
	handlers := map[string]handler{
		api.RouteList:     listCollections,
		api.RouteGet:      getCollection,
		api.RouteLoad:     loadCollection,
		api.RouteUpgrade:  upgradeCollection,
		api.RouteUnload:   unloadCollection,
		api.RouteRollback: rollback,
		api.RouteRecover:  recoverQuarantined,
		api.RouteRun:      lim.runBundle,
		api.RouteReload:   reload,
		api.RoutePlan:     plan,
		api.RouteStatus:   lim.status,
		api.RouteMap:      oneMap,
		api.RouteEntries:  entries,
		api.RouteStream:   samples,
		api.RouteWrite:    writeEntries,
		api.RouteDelete:   deleteEntries,
		api.RouteEvents:   events,
		api.RouteGuard:    guard,
		api.RouteEnroll:   enroll,
		api.RouteRetire:   retire,

		api.RouteStatement: statementFor,
		api.RouteSigned:    signed,
	}
	mux := http.NewServeMux()
	for _, route := range api.Routes() {
		mux.Handle(route.Pattern, serve(core, handlers[route.Pattern], route.Query))
	}
	unknown := serve(core, unknownRoute, nil)
	mux.Handle("/", unknown)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// net/http takes chunks together with a length and goes on behind them, where
		// another reader may see another request. RFC 9112, 6.1: close.
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		// The mux would answer a path that is not clean with a redirect, * without a
		// body, and HEAD as GET: with a descriptor, or a stream.
		if p := r.URL.EscapedPath(); path.Clean(p) != p || !strings.HasPrefix(p, "/") || r.Method == http.MethodHead {
			unknown.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// request is one decoded question: who asks, what, and where the answer goes.
type request struct {
	*http.Request
	who   Peer
	query url.Values // only what the route takes, each once
	w     http.ResponseWriter
}

// handler answers a request: with a value for a JSON body, or with nil where
// it has written the answer itself.
type handler func(core Core, r request) (any, error)

func serve(core Core, h handler, takes []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := peerFrom(r.Context())
		if err != nil {
			writeError(w, api.Errorf(api.KindDenied, "%w", err))
			return
		}
		if err := unsolicited(r); err != nil {
			core.Refuse(who, "connect", err)
			writeError(w, asAPIError(err))
			return
		}
		values, err := query(r, takes)
		if err != nil {
			writeError(w, asAPIError(err))
			return
		}
		answer, err := h(core, request{r, who, values, w})
		switch {
		case err != nil:
			writeError(w, asAPIError(err))
		case answer != nil:
			writeJSON(w, http.StatusOK, answer)
		}
	})
}

func writeError(w http.ResponseWriter, e *api.Error) { writeJSON(w, e.Kind.Status(), e) }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.Encode(v) // an error here means that the client left
}

func unknownRoute(_ Core, r request) (any, error) {
	return nil, api.Errorf(api.KindNotFound, "%s %s: no such route", r.Method, r.URL.Path).
		WithHint("api/openapi.yaml lists the routes")
}

func listCollections(core Core, r request) (any, error) {
	return api.Collections{Collections: core.List(r.who)}, nil
}

func getCollection(core Core, r request) (any, error) {
	return core.Get(r.who, r.PathValue("name"))
}

func loadCollection(core Core, r request) (any, error) {
	if changesTo(r.Request, api.UpgradeTarget) {
		return nil, loadShown(core, r, r.PathValue("name"))
	}
	var body api.LoadRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	lease, err := asksLease(r, body.Lease || body.Resume != "" || body.Targets)
	switch {
	case err != nil:
		return nil, err
	case lease && !body.Lease:
		return nil, api.Errorf(api.KindBadRequest, "resume, targets: without a lease there are none").WithHint(`say "lease": true as well`)
	case body.Targets && body.Resume != "":
		return nil, api.Errorf(api.KindBadRequest, "targets: what is resumed is attached already").WithHint("resume without descriptors")
	case body.Targets:
		return nil, holdShown(core, r, func() error { return core.MayShow(r.who, name) }, func(ctx context.Context, fds []int) (api.LeaseGrant, error) {
			return core.LeaseShown(ctx, r.who, name, fds)
		})
	case lease:
		return hold(core, r, func() (api.LeaseGrant, error) { return core.Lease(r.Context(), r.who, name, body.Resume) })
	}
	return core.Load(r.who, name)
}

func upgradeCollection(core Core, r request) (any, error) {
	var body api.UpgradeRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Upgrade(r.who, r.PathValue("name"))
}

func unloadCollection(core Core, r request) (any, error) {
	var body api.UnloadRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Unload(r.who, r.PathValue("name"), body.Force)
}

func rollback(core Core, r request) (any, error) {
	var body api.RollbackRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Rollback(r.who, r.PathValue("name"), body.Version, body.Reason)
}

func recoverQuarantined(core Core, r request) (any, error) {
	var body api.RecoverRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Recover(r.who, r.PathValue("name"))
}

func reload(core Core, r request) (any, error) {
	var body api.ReloadRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	plan, err := core.Reload(r.who)
	if err != nil && len(plan.Problems) > 0 {
		e := asAPIError(err)
		e.Plan = &plan
		err = e
	}
	return plan, err
}

func guard(core Core, r request) (any, error) {
	var body api.GuardRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Guard(r.who, body)
}

func enroll(core Core, r request) (any, error) {
	var body api.EnrollRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Enroll(r.who, body.File)
}

func retire(core Core, r request) (any, error) {
	var body api.RetireRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Retire(r.who, body)
}

func statementFor(core Core, r request) (any, error) {
	var body api.StatementRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Statement(r.who, body)
}

func signed(core Core, r request) (any, error) {
	var body api.SignedRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Signed(r.who, body)
}

func plan(core Core, r request) (any, error) {
	var body api.PlanRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Plan(r.who)
}

func entries(core Core, r request) (any, error) {
	page := Page{Limit: defaultPage, After: r.query.Get("after")}
	if r.query.Has("limit") {
		s := r.query.Get("limit")
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n < 1 || n > maxPage {
			return nil, api.Errorf(api.KindBadRequest, "limit %q: want a number from 1 to %d", s, maxPage)
		}
		page.Limit = int(n)
	}
	switch p := api.PerCPU(r.query.Get("percpu")); {
	case !r.query.Has("percpu") || p == api.PerCPUList:
	case p == api.PerCPUSum:
		page.Sum = true
	default:
		return nil, api.Errorf(api.KindBadRequest, "percpu %.80q: want %s or %s", p, api.PerCPUList, api.PerCPUSum)
	}
	if r.query.Has("key") {
		page.Key = json.RawMessage(r.query.Get("key"))
	}
	return core.Entries(r.who, r.PathValue("name"), r.PathValue("map"), page)
}

func writeEntries(core Core, r request) (any, error) {
	var body api.WriteRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Write(r.who, r.PathValue("name"), r.PathValue("map"), body.Entries)
}

func deleteEntries(core Core, r request) (any, error) {
	var body api.DeleteRequest
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return core.Delete(r.who, r.PathValue("name"), r.PathValue("map"), body.Keys)
}

// wanted reads which events are asked for.
func wanted(query url.Values) (want api.EventsOptions, err error) {
	if query.Has("since") {
		s := query.Get("since")
		if want.Since, err = strconv.ParseUint(s, 10, 64); err != nil {
			return want, api.Errorf(api.KindBadRequest, "since %q: want the seq of an event", s)
		}
	}
	if query.Has("follow") {
		s := query.Get("follow")
		if want.Follow = s == "true"; !want.Follow && s != "false" {
			return want, api.Errorf(api.KindBadRequest, "follow %.80q: want true or false", s)
		}
	}
	if s := query.Get("kind"); s != "" {
		for kind := range strings.SplitSeq(s, ",") {
			if !slices.Contains(api.EventKinds(), api.EventKind(kind)) {
				return want, api.Errorf(api.KindBadRequest, "kind %q: no such kind of event", kind).WithHint("there are %v", api.EventKinds())
			}
			want.Kinds = append(want.Kinds, api.EventKind(kind))
		}
	}
	want.Collection = query.Get("collection")
	return want, nil
}

func events(core Core, r request) (any, error) {
	want, err := wanted(r.query)
	if err != nil {
		return nil, err
	}
	flush, err := beginStream(r)
	if err != nil {
		return nil, nil // the client left
	}
	// The stream ends when the client goes or the daemon stops; neither can be
	// told to anybody any more.
	_ = core.Events(r.Context(), r.who, want, func(e api.Event) error {
		if err := flush.SetWriteDeadline(time.Now().Add(eventTimeout)); err != nil {
			return err
		}
		if err := api.WriteEvent(r.w, e); err != nil {
			return err
		}
		return flush.Flush()
	})
	return nil, nil
}

// beginStream answers that records follow, for as long as it takes.
func beginStream(r request) (*http.ResponseController, error) {
	r.w.Header().Set("Content-Type", api.EventsType)
	r.w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(r.w)
	// The server's time-out for reading a request would end the stream.
	err := errors.Join(flush.SetReadDeadline(time.Time{}), flush.SetWriteDeadline(time.Time{}))
	if err != nil {
		return nil, err
	}
	return flush, flush.Flush()
}

func samples(core Core, r request) (any, error) {
	var flush *http.ResponseController
	return nil, core.Samples(r.Context(), r.who, r.PathValue("name"), r.PathValue("map"), func(samples []api.Sample) (err error) {
		if flush == nil {
			flush, err = beginStream(r)
			return err
		}
		// For all of them: who takes one now and then would hold the map for ever.
		if err := flush.SetWriteDeadline(time.Now().Add(eventTimeout)); err != nil {
			return err
		}
		for _, s := range samples {
			if err := api.WriteSample(r.w, s); err != nil {
				return err
			}
		}
		return flush.Flush()
	})
}

func decode(r request, v any) error {
	if err := api.DecodeRequest(r.Body, v); err != nil {
		return err
	}
	return unsolicited(r.Request) // it may have come with the body
}

// query refuses parameters that the route does not take, and any given twice.
func query(r *http.Request, takes []string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, api.Errorf(api.KindBadRequest, "%s: query: %w", r.URL.Path, err)
	}
	for name, given := range values {
		if !slices.Contains(takes, name) || len(given) > 1 {
			return nil, api.Errorf(api.KindBadRequest, "%s: parameter %q: unknown, or given twice", r.URL.Path, name).
				WithHint("this route takes %v, each once", takes)
		}
	}
	return values, nil
}
