package proxy

import (
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/rollout"
)

const maxSplitBytes = 4 << 20

// Admin returns the handler of the admin listener: PUT /route takes a
// [rollout.Split] and answers the [rollout.Status]; GET /route answers Status,
// GET /counts Counts, with by=route Routes, and GET /metrics Routes in
// Prometheus' text form; GET /healthz answers 204 without a token. The rest
// needs the bearer token; an empty token refuses everybody.
func (p *Proxy) Admin(token string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /route", func(w http.ResponseWriter, r *http.Request) {
		var s rollout.Split
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSplitBytes)).Decode(&s); err != nil {
			writeError(w, headgate.Invalidf("the split is not valid JSON or too large").Wrap(err))
			return
		}
		st, err := p.Apply(r.Context(), s)
		writeAnswer(w, st, err)
	})
	mux.HandleFunc("GET /route", func(w http.ResponseWriter, r *http.Request) {
		st, err := p.Status(r.Context())
		writeAnswer(w, st, err)
	})
	mux.HandleFunc("GET /counts", func(w http.ResponseWriter, r *http.Request) {
		read := p.Counts
		if r.URL.Query().Get("by") == "route" {
			read = p.Routes
		}
		c, err := read(r.Context())
		writeAnswer(w, c, err)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		c, err := p.Routes(r.Context())
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		writeMetrics(w, c)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || token == "" || subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
			writeError(w, headgate.Errorf(headgate.CodeUnauthorized, headgate.ClassSecuritySensitive, "the proxy's admin token is missing or wrong"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// wireError is a [headgate.Error] between proxy and client.
type wireError struct {
	Code      string         `json:"code"`
	Class     headgate.Class `json:"class"`
	Message   string         `json:"message"`
	Retryable bool           `json:"retryable"`
	Details   map[string]any `json:"details,omitempty"`
}

func writeAnswer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func writeError(w http.ResponseWriter, err error) {
	e := headgate.AsError(err)
	status := http.StatusConflict
	switch {
	case e.Code == headgate.CodeUnauthorized:
		status = http.StatusUnauthorized
	case e.Class == headgate.ClassValidation:
		status = http.StatusBadRequest
	case e.Class == headgate.ClassTransient:
		status = http.StatusServiceUnavailable
	case e.Code == headgate.CodeInternal:
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": wireError{e.Code, e.Class, e.Message, e.Retryable, e.Details}})
}
