package otlp

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/headgate/headgate"
)

const (
	typeProto = "application/x-protobuf"
	typeJSON  = "application/json"
)

func (r *Receiver) httpServer() *http.Server {
	return &http.Server{
		Handler:           r.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      storeTimeout + 30*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
}

// message is what requests and responses of all three signals have in common.
type message interface {
	MarshalProto() ([]byte, error)
	MarshalJSON() ([]byte, error)
}

// export decodes one request body and stores it.
type export func(ctx context.Context, tenant string, body []byte, json bool) (message, error)

// Handler serves the three OTLP/HTTP paths. It works only after
// [Receiver.Start], which may have been given no HTTP listener.
func (r *Receiver) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/metrics", r.handle("metrics", r.exportMetrics))
	mux.Handle("/v1/logs", r.handle("logs", r.exportLogs))
	mux.Handle("/v1/traces", r.handle("traces", r.exportTraces))
	return mux
}

var errMalformed = headgate.Invalidf("the body is not an OTLP request of the stated content type")

func (r *Receiver) exportMetrics(ctx context.Context, tenant string, body []byte, json bool) (message, error) {
	req := pmetricotlp.NewExportRequest()
	if err := decode(body, json, req.UnmarshalProto, req.UnmarshalJSON); err != nil {
		return nil, err
	}
	rejected, err := r.storeMetrics(ctx, tenant, req.Metrics())
	return metricsResponse(rejected), err
}

func (r *Receiver) exportLogs(ctx context.Context, tenant string, body []byte, json bool) (message, error) {
	req := plogotlp.NewExportRequest()
	if err := decode(body, json, req.UnmarshalProto, req.UnmarshalJSON); err != nil {
		return nil, err
	}
	rejected, err := r.storeLogs(ctx, tenant, req.Logs())
	return logsResponse(rejected), err
}

func (r *Receiver) exportTraces(ctx context.Context, tenant string, body []byte, json bool) (message, error) {
	req := ptraceotlp.NewExportRequest()
	if err := decode(body, json, req.UnmarshalProto, req.UnmarshalJSON); err != nil {
		return nil, err
	}
	rejected, err := r.storeTraces(ctx, tenant, req.Traces())
	return tracesResponse(rejected), err
}

func decode(body []byte, json bool, fromProto, fromJSON func([]byte) error) error {
	unmarshal := fromProto // refuses deep nesting by itself
	if json {
		if deep(body) {
			return errMalformed
		}
		unmarshal = fromJSON
	}
	if err := unmarshal(body); err != nil {
		return errMalformed.Wrap(err)
	}
	return nil
}

// maxDepth is far beyond what OTLP needs and far below what a stack bears.
const maxDepth = 256

// deep reports whether a JSON text nests deeper than maxDepth.
func deep(text []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

func (r *Receiver) handle(signal string, do export) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		contentType, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
		json := contentType == typeJSON
		switch {
		case req.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			r.fail(w, signal, json, http.StatusMethodNotAllowed, headgate.Invalidf("use POST"))
			return
		case err != nil || !json && contentType != typeProto:
			r.fail(w, signal, true, http.StatusUnsupportedMediaType,
				headgate.Invalidf("Content-Type must be %s or %s", typeProto, typeJSON))
			return
		}
		tenant, release, err := r.admit(req.Context(), bearer(req.Header.Get("Authorization")))
		if err != nil {
			r.counters.turnedAway(signal, turnedAwayReason(err))
			r.fail(w, signal, json, admissionStatus(err), err)
			return
		}
		defer release()
		body, status, err := read(w, req)
		if err != nil {
			r.counters.turnedAway(signal, "malformed")
			r.fail(w, signal, json, status, err)
			return
		}
		resp, err := do(req.Context(), tenant, body, json)
		if err != nil {
			if errors.Is(err, errMalformed) {
				r.counters.turnedAway(signal, "malformed")
			}
			r.fail(w, signal, json, storeStatus(err), err)
			return
		}
		r.answer(w, json, resp)
	})
}

func admissionStatus(err error) int {
	if errors.Is(err, errBusy) {
		return http.StatusTooManyRequests
	}
	return http.StatusUnauthorized
}

func storeStatus(err error) int {
	e := headgate.AsError(err)
	switch {
	case e.Code == CodeRateLimited:
		return http.StatusTooManyRequests
	case e.Retryable:
		return http.StatusServiceUnavailable
	case e.Code == headgate.CodeNotFound:
		return http.StatusNotFound
	case e.Class == headgate.ClassValidation:
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// read returns the decompressed body. Both sizes are bounded, so that a small
// body cannot unpack into a large one.
func read(w http.ResponseWriter, req *http.Request) (body []byte, status int, err error) {
	tooLarge := headgate.Errorf(headgate.CodeBodyTooLarge, headgate.ClassValidation,
		"the body is larger than %d MB; lower the exporter's batch size", MaxBodyBytes>>20)
	var in io.Reader = http.MaxBytesReader(w, req.Body, MaxBodyBytes)
	switch strings.ToLower(req.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip":
		zr, err := gzip.NewReader(in)
		if err != nil {
			return nil, http.StatusBadRequest, headgate.Invalidf("the body is not gzip, as its Content-Encoding says").Wrap(err)
		}
		in = zr
	default:
		return nil, http.StatusUnsupportedMediaType, headgate.Invalidf("Content-Encoding must be gzip or absent")
	}
	body, err = io.ReadAll(io.LimitReader(in, MaxBodyBytes+1))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit), err == nil && len(body) > MaxBodyBytes:
		return nil, http.StatusRequestEntityTooLarge, tooLarge
	case err != nil:
		return nil, http.StatusBadRequest, headgate.Invalidf("the body ended early or is damaged").Wrap(err)
	}
	return body, http.StatusOK, nil
}

func (r *Receiver) answer(w http.ResponseWriter, json bool, m message) {
	contentType, marshal := typeProto, m.MarshalProto
	if json {
		contentType, marshal = typeJSON, m.MarshalJSON
	}
	b, err := marshal()
	if err != nil {
		r.Logger.Error("cannot encode an OTLP response", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(b) // the sender retries when it did not get the answer
}

// fail answers with a google.rpc.Status, as OTLP/HTTP demands.
func (r *Receiver) fail(w http.ResponseWriter, signal string, json bool, httpStatus int, err error) {
	e := headgate.AsError(err)
	if httpStatus >= http.StatusInternalServerError {
		r.Logger.Error("cannot store telemetry", "signal", signal, "error", err, "cause", e.Unwrap())
	}
	if httpStatus == http.StatusTooManyRequests || httpStatus == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryDelay/time.Second)))
	}
	st := &spb.Status{Code: int32(statusCode(httpStatus)), Message: e.Message}
	contentType, marshal := typeProto, proto.Marshal
	if json {
		contentType, marshal = typeJSON, protojson.Marshal
	}
	b, err := marshal(st)
	if err != nil {
		r.Logger.Error("cannot encode an OTLP error", "error", err)
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(httpStatus)
	_, _ = w.Write(b)
}

func statusCode(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return codes.Unavailable
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusNotFound:
		return codes.Unimplemented
	case http.StatusInternalServerError:
		return codes.Internal
	}
	return codes.InvalidArgument
}
