package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/rollout"
)

// ofrepPrefix is the part of the API whose form the OpenFeature Remote
// Evaluation Protocol (0.2.0) fixes: no envelope, its own errors.
const ofrepPrefix = "/ofrep/"

// maxContext bounds an evaluation context.
const maxContext = 64 << 10

// The protocol's error codes.
const (
	flagNotFound        = "FLAG_NOT_FOUND"
	parseError          = "PARSE_ERROR"
	targetingKeyMissing = "TARGETING_KEY_MISSING"
	invalidContext      = "INVALID_CONTEXT"
	generalError        = "GENERAL"
)

// flagError is an evaluation that failed.
type flagError struct {
	Key     string `json:"key,omitempty"` // none of a bulk
	Code    string `json:"errorCode"`
	Details string `json:"errorDetails,omitempty"`
	status  int
}

// flagValue is an evaluation that succeeded.
type flagValue struct {
	Key      string         `json:"key"`
	Value    string         `json:"value"`
	Reason   rollout.Reason `json:"reason"`
	Variant  headgate.Arm   `json:"variant"`
	Metadata flagMetadata   `json:"metadata"`
}

type flagMetadata struct {
	Service   string `json:"service"`
	ReleaseID string `json:"release_id,omitempty"`
	ForceHITL bool   `json:"force_hitl"`
}

// evaluation is one request, understood.
type evaluation struct {
	flags   *rollout.Flags
	service string
	subject rollout.Subject
	session string
}

func (s *server) ofrep(mux *http.ServeMux) {
	mux.HandleFunc("POST /ofrep/v1/evaluate/flags/{key}", s.evaluateFlag)
	mux.HandleFunc("POST /ofrep/v1/evaluate/flags", s.evaluateFlags)
}

// apiKey lets an OpenFeature provider send its token as it can.
func apiKey(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("X-API-Key")
		if key != "" && r.Header.Get("Authorization") == "" && strings.HasPrefix(r.URL.Path, ofrepPrefix) {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		next.ServeHTTP(w, r)
	})
}

func (s *server) evaluateFlag(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("key")
	e, fail := s.evaluation(w, r)
	if fail == nil {
		if v, ok := e.flag(headgate.Component(key), s); ok {
			writeFlags(w, http.StatusOK, v)
			return
		}
		fail = &flagError{
			Code: flagNotFound, status: http.StatusNotFound,
			Details: "there is no such flag; the flags are model_config, retrieval_params, workflow_version and release_version, those that a hook sets excepted",
		}
	}
	fail.Key = key
	writeFlags(w, fail.status, fail)
}

func (s *server) evaluateFlags(w http.ResponseWriter, r *http.Request) {
	e, fail := s.evaluation(w, r)
	if fail != nil {
		writeFlags(w, fail.status, fail)
		return
	}
	all := struct {
		Flags []flagValue `json:"flags"`
	}{[]flagValue{}}
	for _, c := range headgate.RollbackOrder() {
		if v, ok := e.flag(c, s); ok {
			all.Flags = append(all.Flags, v)
		}
	}
	body, err := json.Marshal(all)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	w.Header().Set("ETag", tag)
	if matches(r.Header.Values("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeFlags(w, http.StatusOK, json.RawMessage(body))
}

// matches compares as If-None-Match does: weakly, with any of a list.
func matches(headers []string, tag string) bool {
	for _, h := range headers {
		for one := range strings.SplitSeq(h, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// evaluation understands a request: whose flags, for which session.
func (s *server) evaluation(w http.ResponseWriter, r *http.Request) (evaluation, *flagError) {
	who, err := must(r.Context(), access.Viewer)
	if err != nil {
		return evaluation{}, flagErrorOf(r, err)
	}
	in, fail := readContext(w, r)
	if fail != nil {
		return evaluation{}, fail
	}
	if in.Tenant != "" {
		if who, err = who.Narrow(in.Tenant); err != nil {
			return evaluation{}, &flagError{Code: invalidContext, status: http.StatusForbidden, Details: "the credential does not reach the tenant that tenant_id names"}
		}
	}
	svc, err := s.Plane.Service(in.Service)
	if err != nil {
		return evaluation{}, &flagError{Code: invalidContext, status: http.StatusBadRequest, Details: "service in the context must name one that is under control; only if there is one alone may it be left out"}
	}
	flags, err := s.Plane.Flags(r.Context(), svc.Name)
	if err != nil {
		return evaluation{}, flagErrorOf(r, err)
	}
	return evaluation{
		flags: flags, service: svc.Name, session: in.TargetingKey,
		subject: rollout.Subject{TenantID: who.TenantID, ProjectSize: in.ProjectSize, HighRisk: in.HighRisk},
	}, nil
}

// evaluationContext is what counts of an evaluation context. Applications send
// more, which is none of our business.
type evaluationContext struct {
	TargetingKey string               `json:"targetingKey"`
	Service      string               `json:"service"`
	Tenant       string               `json:"tenant_id"`
	ProjectSize  headgate.ProjectSize `json:"project_size"`
	HighRisk     bool                 `json:"high_risk"`
}

func readContext(w http.ResponseWriter, r *http.Request) (evaluationContext, *flagError) {
	var req struct {
		Context evaluationContext `json:"context"`
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxContext))
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	var large *http.MaxBytesError
	var mistyped *json.UnmarshalTypeError
	switch {
	case errors.As(err, &large):
		return req.Context, &flagError{Code: invalidContext, status: http.StatusBadRequest, Details: "the request is larger than 64 KiB; send only the attributes that count"}
	case errors.As(err, &mistyped) && strings.HasPrefix(mistyped.Field, "context"):
		return req.Context, &flagError{
			Code: invalidContext, status: http.StatusBadRequest,
			Details: "context must be an object; targetingKey, service, tenant_id and project_size are texts, high_risk is true or false",
		}
	case err != nil:
		return req.Context, &flagError{Code: parseError, status: http.StatusBadRequest, Details: "the body must be a JSON object with a context"}
	case req.Context.TargetingKey == "":
		return req.Context, &flagError{
			Code: targetingKeyMissing, status: http.StatusBadRequest,
			Details: "context.targetingKey is empty; send what names the session, the same that the router sees as x-session-id",
		}
	}
	return req.Context, nil
}

func (e evaluation) flag(c headgate.Component, s *server) (flagValue, bool) {
	got, ok := e.flags.Evaluate(c, e.subject, e.session, s.Plane.Now())
	v := flagValue{
		Key: string(c), Value: got.Value, Reason: got.Reason, Variant: got.Arm,
		Metadata: flagMetadata{Service: e.service, ForceHITL: e.subject.HighRisk},
	}
	if got.Arm == headgate.Candidate {
		v.Metadata.ReleaseID = e.flags.Plan.ReleaseID
	}
	return v, ok
}

// flagErrorOf says in the protocol's words what any other answer says in the
// envelope.
func flagErrorOf(r *http.Request, err error) *flagError {
	e := failure(r.Context(), err)
	return &flagError{Code: generalError, Details: e.Err.Message, status: e.status}
}

func writeFlags(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}
