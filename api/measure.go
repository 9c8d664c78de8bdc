package api

import (
	"net/http"
	"strings"
	"time"
)

// measure tells how requests were answered, those that were refused included.
func (s *server) measure(next http.Handler) http.Handler {
	if s.Measured == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		pattern := callOf(r.Context()).pattern
		if _, path, ok := strings.Cut(pattern, " "); ok {
			pattern = path
		}
		s.Measured(r.Context(), r.Method, pattern, seen.status, time.Since(start))
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets [http.ResponseController] reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
