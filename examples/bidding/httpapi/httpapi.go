// Package httpapi is the HTTP surface of the bidding service.
//
// It owns routes, credentials, the envelope, idempotency and the cache of
// finished reports. It queues work and never does it: parsing and scoring are
// the worker's.
package httpapi

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/store"
	"github.com/headgate/headgate/instrument"
)

// OpenAPI is the published contract of the API (OpenAPI 3.1).
//
//go:embed openapi.json
var OpenAPI []byte

// MaxUpload bounds an uploaded file, in bytes.
const MaxUpload = 20 << 20

const (
	maxJSON  = 1 << 20
	maxField = 128
	// handleLimit bounds the work of one request.
	handleLimit = 30 * time.Second
)

// Options are what the API needs.
type Options struct {
	Store     *store.Store
	Telemetry *instrument.Telemetry
	Version   bidding.Version
	// Tokens are the bearer tokens by tenant; only their hashes are kept.
	Tokens map[string]string
	// Queued is called after a job was queued, so that a worker in the same
	// process need not wait for its next look; nil does nothing.
	Queued func()
}

// API is an [http.Handler].
type API struct {
	opts     Options
	handler  http.Handler
	mux      *http.ServeMux
	tenants  map[[sha256.Size]byte]string
	names    []string
	reports  cache
	cached   metric.Int64Counter
	draining atomic.Bool
}

// New builds the API.
func New(opts Options) (*API, error) {
	if opts.Queued == nil {
		opts.Queued = func() {}
	}
	a := &API{opts: opts, mux: http.NewServeMux(), tenants: map[[sha256.Size]byte]string{}, reports: cache{items: map[cacheKey]json.RawMessage{}}}
	for tenant, token := range opts.Tokens {
		a.tenants[sha256.Sum256([]byte(token))] = tenant
		a.names = append(a.names, tenant)
	}
	slices.Sort(a.names)
	var err error
	a.cached, err = opts.Telemetry.Meter.Int64Counter(opts.Telemetry.Name("cache.requests"),
		metric.WithUnit("{request}"), metric.WithDescription("Reads of finished reports, by whether the cache had them."))
	if err != nil {
		return nil, fmt.Errorf("cache counter: %w", err)
	}
	// A counter that starts above zero hides its first increments from rate().
	for _, t := range a.names {
		a.countCache(context.Background(), t, "hit", 0)
		a.countCache(context.Background(), t, "miss", 0)
	}
	for _, r := range a.routes() {
		a.mux.Handle(r.method+" "+r.path, a.handle(r))
	}
	a.handler = opts.Telemetry.Middleware(http.HandlerFunc(a.serve))
	return a, nil
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Drain makes /readyz say no, so that a balancer stops sending requests
// before the process ends.
func (a *API) Drain() { a.draining.Store(true) }

type route struct {
	method, path string
	// public routes need no credential.
	public bool
	fn     func(ctx context.Context, tenant string, r *http.Request) (status int, data any, err error)
}

func (a *API) routes() []route {
	return []route{
		{"GET", "/healthz", true, a.healthz},
		{"GET", "/readyz", true, a.readyz},
		{"GET", "/openapi.json", true, nil},
		{"POST", "/api/v1/documents/upload", false, a.upload},
		{"GET", "/api/v1/documents/{document_id}/pages/{page}", false, a.page},
		{"POST", "/api/v1/evaluations", false, a.evaluate},
		{"GET", "/api/v1/evaluations/{evaluation_id}/report", false, a.report},
		{"POST", "/api/v1/evaluations/{evaluation_id}/resume", false, a.resume},
		{"GET", "/api/v1/jobs/{job_id}", false, a.job},
		{"GET", "/api/v1/dlq/items", false, a.deadLetters},
		{"GET", "/api/v1/reviews/items", false, a.reviews},
	}
}

// serve sends what the mux does not know through the envelope, too.
func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	if h, pattern := a.mux.Handler(r); pattern == "" {
		probe := &probe{header: http.Header{}}
		h.ServeHTTP(probe, r)
		err := headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "no such path; see /openapi.json")
		if probe.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", probe.header.Get("Allow"))
			err = headgate.Errorf(headgate.CodeMethodNotAllowed, headgate.ClassValidation, "wrong method; the Allow header lists the right ones")
		}
		a.fail(r.Context(), w, r, err)
		return
	}
	a.mux.ServeHTTP(w, r)
}

type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
func (p *probe) WriteHeader(code int)        { p.status = code }

func (a *API) handle(rt route) http.Handler {
	if rt.fn == nil {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(OpenAPI) // the client has gone when this fails
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), handleLimit)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				a.opts.Telemetry.Logger.ErrorContext(ctx, "handler panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
				a.fail(ctx, w, r, headgate.AsError(errors.New("panic")))
			}
		}()
		tenant := ""
		if !rt.public {
			var err error
			if tenant, err = a.authenticate(r); err != nil {
				a.fail(ctx, w, r, err)
				return
			}
			instrument.Annotate(ctx, instrument.Fields{TenantID: tenant})
			if err := a.fault(ctx, tenant); err != nil {
				a.fail(ctx, w, r, err)
				return
			}
		}
		status, data, err := rt.fn(ctx, tenant, r)
		if err != nil {
			a.fail(ctx, w, r, err)
			return
		}
		a.write(ctx, w, status, map[string]any{"success": true, "data": data, "message": "ok"})
	})
}

func (a *API) authenticate(r *http.Request) (string, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	tenant, known := a.tenants[sha256.Sum256([]byte(token))]
	if !ok || !known {
		return "", headgate.Errorf(headgate.CodeUnauthorized, headgate.ClassSecuritySensitive, "send a valid token as Authorization: Bearer …")
	}
	if asked := r.Header.Get(instrument.HeaderTenantID); asked != "" && asked != tenant {
		return "", headgate.Errorf(headgate.CodeTenantScope, headgate.ClassSecuritySensitive, "the token does not belong to the tenant of x-tenant-id")
	}
	return tenant, nil
}

// fault plays the defects of the version that show in the API.
func (a *API) fault(ctx context.Context, tenant string) error {
	f := a.opts.Version.Fault
	switch {
	case f.Kind == bidding.FaultErrorRate && rand.Float64() < f.Share:
		return headgate.Errorf("QUEUE_WRITE_FAILED", headgate.ClassTransient, "the request could not be taken; try again")
	case f.Kind == bidding.FaultTenantErrors && tenant == f.Tenant:
		return headgate.Errorf("RULE_PACK_MIGRATION_FAILED", headgate.ClassTransient, "the tenant's rules cannot be read; try again")
	case f.Kind == bidding.FaultSlowTail && rand.Float64() < f.Share:
		select {
		case <-time.After(time.Duration(f.Delay)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// readable lists the tenants whose records the caller sees: its own, unless
// the version leaks.
func (a *API) readable(tenant string) []string {
	if a.opts.Version.Fault.Kind == bidding.FaultTenantLeak {
		return append([]string{tenant}, slices.DeleteFunc(slices.Clone(a.names), func(t string) bool { return t == tenant })...)
	}
	return []string{tenant}
}

// find reads for each readable tenant until one has it.
func find[T any](a *API, tenant string, read func(tenant string) (T, error)) (v T, err error) {
	for _, t := range a.readable(tenant) {
		if v, err = read(t); err == nil {
			return v, nil
		}
	}
	return v, err
}

var statusOf = map[string]int{
	headgate.CodeUnauthorized:        http.StatusUnauthorized,
	headgate.CodeForbidden:           http.StatusForbidden,
	headgate.CodeTenantScope:         http.StatusForbidden,
	headgate.CodeValidation:          http.StatusBadRequest,
	headgate.CodeBodyTooLarge:        http.StatusRequestEntityTooLarge,
	headgate.CodeMethodNotAllowed:    http.StatusMethodNotAllowed,
	headgate.CodeNotFound:            http.StatusNotFound,
	headgate.CodeIdempotencyConflict: http.StatusConflict,
	headgate.CodeUnavailable:         http.StatusServiceUnavailable,
	"REQUEST_CANCELLED":              statusClientGone,
	"RESUME_TOKEN_INVALID":           http.StatusConflict,
	"DOCUMENTS_MISSING":              http.StatusConflict,
	"REPORT_NOT_READY":               http.StatusConflict,
	"EVALUATION_FAILED":              http.StatusConflict,
}

// statusClientGone is nginx's code for a request whose client did not wait.
const statusClientGone = 499

func (a *API) fail(ctx context.Context, w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil:
		err = headgate.Errorf("REQUEST_CANCELLED", headgate.ClassTransient, "the client closed the request").Wrap(err)
	case errors.Is(err, context.DeadlineExceeded):
		err = headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the request took longer than %s; try again", handleLimit).Wrap(err)
	}
	e := headgate.AsError(err)
	status, ok := statusOf[e.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	instrument.Annotate(ctx, instrument.Fields{ErrorCode: e.Code})
	if status >= 500 {
		a.opts.Telemetry.Logger.ErrorContext(ctx, "request failed", slog.String("path", r.Pattern), slog.Any("error", err), slog.Any("cause", errors.Unwrap(e)))
		// The client may be gone; the trace of the failure must not be.
		event, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := a.opts.Store.RecordEvent(event, "request_failed", map[string]string{"route": r.Pattern}); err != nil {
			a.opts.Telemetry.Logger.WarnContext(ctx, "event not recorded", slog.Any("error", err))
		}
	} else if e.Code != "REPORT_NOT_READY" {
		a.opts.Telemetry.Logger.InfoContext(ctx, "request refused", slog.String("path", r.Pattern), slog.Int("status", status))
	}
	body := map[string]any{"code": e.Code, "message": e.Message, "class": e.Class, "retryable": e.Retryable}
	if len(e.Details) > 0 {
		body["details"] = e.Details
	}
	a.write(ctx, w, status, map[string]any{"success": false, "error": body})
}

func (a *API) write(ctx context.Context, w http.ResponseWriter, status int, envelope map[string]any) {
	envelope["meta"] = map[string]string{"trace_id": instrument.TraceID(ctx), "request_id": instrument.FieldsOf(ctx).RequestID}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(envelope); err != nil {
		a.opts.Telemetry.Logger.DebugContext(ctx, "client left before its answer", slog.Any("error", err))
	}
}

func (a *API) countCache(ctx context.Context, tenant, outcome string, n int64) {
	a.cached.Add(ctx, n, metric.WithAttributes(attribute.String("tenant_id", tenant), attribute.String("outcome", outcome)))
}
