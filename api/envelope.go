package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
)

// Envelope is the shape of every successful answer.
type Envelope[T any] struct {
	Success bool   `json:"success"`
	Data    T      `json:"data"`
	Message string `json:"message"`
	Meta    Meta   `json:"meta"`
}

// Meta names the request in logs and traces.
type Meta struct {
	TraceID   string `json:"trace_id"`
	RequestID string `json:"request_id"`
}

// reply is a handler's answer.
type reply[T any] struct {
	Body Envelope[T]
}

// answer wraps what a handler found, or the error, for the client.
func answer[T any](ctx context.Context, data T, err error) (*reply[T], error) {
	if err != nil {
		return nil, failure(ctx, err)
	}
	return &reply[T]{Body: Envelope[T]{Success: true, Data: data, Message: "ok", Meta: metaOf(ctx)}}, nil
}

// ErrorBody is what went wrong, for a program (code) and a person (message).
type ErrorBody struct {
	Code      string         `json:"code"`
	Message   string         `json:"message"`
	Class     headgate.Class `json:"class"`
	Retryable bool           `json:"retryable"`
	Details   map[string]any `json:"details,omitempty"`
}

// errorEnvelope is the shape of every error.
type errorEnvelope struct {
	Success bool      `json:"success"`
	Err     ErrorBody `json:"error"`
	Meta    Meta      `json:"meta"`
	status  int
}

// Error implements error.
func (e *errorEnvelope) Error() string { return e.Err.Code + ": " + e.Err.Message }

// GetStatus implements [huma.StatusError].
func (e *errorEnvelope) GetStatus() int { return e.status }

func failure(ctx context.Context, err error) *errorEnvelope {
	e := headgate.AsError(err)
	if e.Code == headgate.CodeInternal && ctx.Err() == nil { // else the client is gone, which is the cause
		noteInternal(ctx, err)
	}
	return &errorEnvelope{
		Err:  ErrorBody{Code: e.Code, Message: e.Message, Class: e.Class, Retryable: e.Retryable, Details: e.Details},
		Meta: metaOf(ctx), status: statusOf(e),
	}
}

// statuses are the HTTP statuses of codes; the class decides the others.
var statuses = map[string]int{
	headgate.CodeUnauthorized:          http.StatusUnauthorized,
	headgate.CodeForbidden:             http.StatusForbidden,
	headgate.CodeTenantScope:           http.StatusForbidden,
	headgate.CodeBodyTooLarge:          http.StatusRequestEntityTooLarge,
	headgate.CodeMethodNotAllowed:      http.StatusMethodNotAllowed,
	headgate.CodeNotFound:              http.StatusNotFound,
	headgate.CodeReleasePolicyNotFound: http.StatusNotFound,
	headgate.CodeReleaseNotFound:       http.StatusNotFound,
	headgate.CodeServiceNotFound:       http.StatusNotFound,
	headgate.CodeJobNotFound:           http.StatusNotFound,
	headgate.CodeStorageFull:           http.StatusInsufficientStorage,
	headgate.CodeInternal:              http.StatusInternalServerError,
	headgate.CodeApprovalRequired:      http.StatusForbidden,
	control.CodeRulesNotFound:          http.StatusNotFound,
	control.CodeNotQuarantined:         http.StatusNotFound,
}

func statusOf(e *headgate.Error) int {
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	switch e.Class {
	case headgate.ClassValidation:
		return http.StatusBadRequest
	case headgate.ClassBusinessRule:
		return http.StatusConflict
	case headgate.ClassSecuritySensitive:
		return http.StatusForbidden
	case headgate.ClassTransient:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// chosen are the places in a body whose names are the client's own.
var chosen = regexp.MustCompile(`^(body\.(?:gate_results|metrics))\..*`)

// humaError is how errors of the framework (an unreadable body, a failed
// schema check) become ours. Its details can quote the body, so only where and
// what rule are kept.
func humaError(ctx context.Context, status int, msg string, errs ...error) huma.StatusError {
	switch status {
	case http.StatusRequestEntityTooLarge:
		return failure(ctx, headgate.Errorf(headgate.CodeBodyTooLarge, headgate.ClassValidation, "the request body is too large"))
	case http.StatusUnsupportedMediaType:
		return failure(ctx, headgate.Invalidf("the body is not marked as JSON; send Content-Type: application/json"))
	case http.StatusUnprocessableEntity, http.StatusBadRequest, http.StatusRequestTimeout:
	default:
		return failure(ctx, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "internal error").Wrap(errors.Join(append(errs, errors.New(msg))...)))
	}
	fields := []map[string]string{}
	for _, err := range errs {
		var d *huma.ErrorDetail
		// About the whole body, the JSON decoder speaks in its own words.
		if !errors.As(err, &d) || d.Location == "" || (d.Location == "body" && !strings.HasPrefix(d.Message, "expected ")) {
			continue
		}
		fields = append(fields, map[string]string{"field": chosen.ReplaceAllString(d.Location, "$1"), "problem": d.Message})
	}
	if len(fields) == 0 {
		return failure(ctx, headgate.Invalidf("the request body is not readable as JSON of the documented form (status %d); see /openapi.json", status))
	}
	return failure(ctx, headgate.Invalidf("%s: %s", fields[0]["field"], fields[0]["problem"]).With("fields", fields))
}

// WriteError answers a request with an error in the envelope, or as the
// protocol wants it that fixes the path's form.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	if strings.HasPrefix(r.URL.Path, ofrepPrefix) {
		fail := flagErrorOf(r, err)
		writeFlags(w, fail.status, fail)
		return
	}
	e := failure(r.Context(), err)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set(traceIDHeader, e.Meta.TraceID)
	w.Header().Set(requestIDHeader, e.Meta.RequestID)
	w.WriteHeader(e.status)
	_ = json.NewEncoder(w).Encode(e) // the client is gone if this fails
}
