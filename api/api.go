// Package api is the HTTP face of the control plane: the envelope, who may ask
// what, the contract's endpoints, the releases, and the pages people read.
//
// It owns no decision: every handler hands the request to package control and
// the answer to the client.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
)

const (
	maxBody       = 1 << 20
	maxReportBody = 64 << 20
)

// Options configure the handler. Development and Forward are optional.
type Options struct {
	Plane       *control.Plane
	Credentials access.Store
	Version     string
	Logger      *slog.Logger
	// Development honours x-internal-debug and shows pages without a login.
	// The server must listen on loopback only.
	Development bool
	// Prometheus serves Prometheus's query API for what authorize lets a
	// request see: one tenant, or all with "".
	Prometheus func(authorize func(*http.Request) (tenant string, err error)) http.Handler
	// Measured, if set, is told of every answered request: its context and the
	// pattern that matched, empty for none, never the path. It must not block.
	Measured func(ctx context.Context, method, route string, status int, took time.Duration)
	// Forward, if set, answers what belongs to the service behind the proxy.
	Forward http.Handler
}

type server struct {
	Options
	reports atomic.Int64  // bytes of reports that are being taken in
	bundles chan struct{} // one for each that is being handed out
}

var overrideErrors sync.Once

// New returns the handler of the whole HTTP API.
func New(o Options) http.Handler {
	overrideErrors.Do(func() {
		// The framework has one constructor for the whole process.
		huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
			return humaError(context.Background(), status, msg, errs...)
		}
		huma.NewErrorWithContext = func(c huma.Context, status int, msg string, errs ...error) huma.StatusError {
			return humaError(c.Context(), status, msg, errs...)
		}
	})
	s := &server{Options: o, bundles: make(chan struct{}, maxBundles)}
	mux := http.NewServeMux()
	s.register(humago.New(mux, s.config()))
	s.pages(mux)
	s.ofrep(mux)
	if o.Prometheus != nil {
		mux.Handle("/prometheus/", http.StripPrefix("/prometheus", o.Prometheus(visibleTenant)))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	if o.Forward != nil {
		for _, p := range []string{"documents/", "evaluations", "evaluations/", "dlq/", "reviews/"} {
			mux.HandleFunc("/api/v1/"+p, s.forward)
		}
	}
	return drain(s.identify(mux, s.measure(s.recoverPanics(apiKey(s.authenticate(s.forwardJobs(s.route(mux))))))))
}

// forwardJobs lets a development server answer for the jobs of the service
// behind it as well as for its own.
func (s *server) forwardJobs(next http.Handler) http.Handler {
	if s.Forward == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := strings.CutPrefix(r.URL.Path, "/api/v1/jobs/")
		if ok && r.Method == http.MethodGet && caller(r.Context()).Role != "" {
			if _, err := s.Plane.Job(r.Context(), caller(r.Context()), id); headgate.AsError(err).Code == headgate.CodeJobNotFound {
				s.forward(w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// forward hands a request on under the ids it has here. The service's answer
// says which ones it took.
func (s *server) forward(w http.ResponseWriter, r *http.Request) {
	if caller(r.Context()).Role == "" {
		r.Header.Del("x-internal-debug") // it has not been honoured
	}
	m := metaOf(r.Context())
	r.Header.Set(traceIDHeader, m.TraceID)
	r.Header.Set(requestIDHeader, m.RequestID)
	w.Header().Del(traceIDHeader)
	w.Header().Del(requestIDHeader)
	s.Forward.ServeHTTP(w, r)
}

func (s *server) config() huma.Config {
	c := huma.DefaultConfig("Headgate", s.Version)
	c.Info.Description = "Release control plane: no evidence, no release."
	c.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}
	c.Formats = map[string]huma.Format{"application/json": format, "json": format}
	c.CreateHooks = nil
	c.DocsPath = ""
	c.SchemasPath = ""
	c.FieldsOptionalByDefault = true
	c.AllowAdditionalPropertiesByDefault = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer"}}
	c.Security = []map[string][]string{{"bearer": {}}}
	return c
}

// unmarshal says of what has another type than documented where it is and what
// is wanted, never what was sent.
func unmarshal(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && mistyped.Field != "" {
		return fmt.Errorf("expected %s at %q", mistyped.Type.Kind(), mistyped.Field)
	}
	if _, checked := v.(*any); err == nil && !checked && repeats(json.NewDecoder(bytes.NewReader(data))) {
		return errors.New("expected every member of an object once, and one stands twice in it")
	}
	return err
}

// repeats reports whether an object of the next value, which is well formed, has
// two members of one name. Upper and lower case are the same, as they are to the
// decoder: it would let the last one win, and whoever looked at the body before
// may have read the first.
func repeats(d *json.Decoder) bool {
	t, err := d.Token()
	open, nested := t.(json.Delim)
	if err != nil || !nested {
		return false
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			t, _ = d.Token()
			name, _ := t.(string)
			if name = strings.ToLower(strings.ToUpper(name)); seen[name] {
				return true
			}
			seen[name] = true
		}
		if repeats(d) {
			return true
		}
	}
	_, _ = d.Token() // the end
	return false
}

func (s *server) register(a huma.API) {
	s.registerGates(a)
	s.registerRollout(a)
	s.registerReadiness(a)
	s.registerOps(a)
	s.registerReleases(a)
	s.registerRules(a)
	s.registerQuarantine(a)
	s.registerTokens(a)
	s.registerDrills(a)
	s.registerTelemetry(a)
}

var typeName = regexp.MustCompile(`(?:[\w.-]+/)*([\w]+)\.(\w+)`)

// schemaName names a type in the OpenAPI document after its package and
// itself, since several packages have a Result.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Name() == "" {
		return huma.DefaultSchemaNamer(t, hint)
	}
	var name strings.Builder
	for _, m := range typeName.FindAllStringSubmatch(t.String(), -1) {
		if m[1] != "api" && m[1] != "headgate" {
			name.WriteString(strings.ToUpper(m[1][:1]) + m[1][1:])
		}
		name.WriteString(strings.ToUpper(m[2][:1]) + m[2][1:])
	}
	if strings.Contains(t.String(), "[[]") {
		name.WriteString("List")
	}
	return name.String()
}

// op describes an operation.
func op(method, path, id, summary string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: "/api/v1" + path, Summary: summary,
		MaxBodyBytes: maxBody, BodyReadTimeout: 30 * time.Second, Tags: []string{strings.Split(strings.Trim(path, "/"), "/")[0]},
	}
}

// bodyOf is a request with nothing but a body.
type bodyOf[T any] struct {
	Body T
}
