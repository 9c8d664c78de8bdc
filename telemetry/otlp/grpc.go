package otlp

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // senders compress
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// maxStreams bounds the requests that one connection can have in memory.
const maxStreams = 128

func (r *Receiver) grpcServer() *grpc.Server {
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxBodyBytes), // holds after decompression too
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	pmetricotlp.RegisterGRPCServer(s, &metricsService{r: r})
	plogotlp.RegisterGRPCServer(s, &logsService{r: r})
	ptraceotlp.RegisterGRPCServer(s, &tracesService{r: r})
	return s
}

// enter admits a gRPC request.
func (r *Receiver) enter(ctx context.Context, signal string) (tenant string, release func(), err error) {
	var token string
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if v := md.Get("authorization"); len(v) > 0 {
			token = bearer(v[0])
		}
	}
	tenant, release, err = r.admit(ctx, token)
	if err != nil {
		r.counters.turnedAway(signal, turnedAwayReason(err))
		return "", nil, r.grpcError(signal, err)
	}
	return tenant, release, nil
}

func bearer(header string) string {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

func turnedAwayReason(err error) string {
	if headgate.AsError(err).Class == headgate.ClassTransient {
		return "busy"
	}
	return "unauthenticated"
}

// grpcError maps a domain error to a status, with a retry delay where a retry
// helps.
func (r *Receiver) grpcError(signal string, err error) error {
	e := headgate.AsError(err)
	var code codes.Code
	switch {
	case e.Retryable:
		st, detailErr := status.New(codes.Unavailable, e.Message).
			WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryDelay)})
		if detailErr != nil {
			return status.Error(codes.Unavailable, e.Message)
		}
		return st.Err()
	case e.Code == headgate.CodeUnauthorized:
		code = codes.Unauthenticated
	case e.Code == headgate.CodeNotFound:
		code = codes.Unimplemented
	case e.Class == headgate.ClassValidation:
		code = codes.InvalidArgument
	default:
		code = codes.Internal
		r.Logger.Error("cannot store telemetry", "signal", signal, "error", err, "cause", e.Unwrap())
	}
	return status.Error(code, e.Message)
}

type metricsService struct {
	pmetricotlp.UnimplementedGRPCServer
	r *Receiver
}

func (s *metricsService) Export(ctx context.Context, req pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	tenant, release, err := s.r.enter(ctx, "metrics")
	if err != nil {
		return pmetricotlp.NewExportResponse(), err
	}
	defer release()
	rejected, err := s.r.storeMetrics(ctx, tenant, req.Metrics())
	if err != nil {
		return pmetricotlp.NewExportResponse(), s.r.grpcError("metrics", err)
	}
	return metricsResponse(rejected), nil
}

func metricsResponse(rejected telemetry.Rejected) pmetricotlp.ExportResponse {
	resp := pmetricotlp.NewExportResponse()
	if rejected.Count > 0 {
		resp.PartialSuccess().SetRejectedDataPoints(rejected.Count)
		resp.PartialSuccess().SetErrorMessage(rejected.Reason)
	}
	return resp
}

type logsService struct {
	plogotlp.UnimplementedGRPCServer
	r *Receiver
}

func (s *logsService) Export(ctx context.Context, req plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	tenant, release, err := s.r.enter(ctx, "logs")
	if err != nil {
		return plogotlp.NewExportResponse(), err
	}
	defer release()
	rejected, err := s.r.storeLogs(ctx, tenant, req.Logs())
	if err != nil {
		return plogotlp.NewExportResponse(), s.r.grpcError("logs", err)
	}
	return logsResponse(rejected), nil
}

func logsResponse(rejected telemetry.Rejected) plogotlp.ExportResponse {
	resp := plogotlp.NewExportResponse()
	if rejected.Count > 0 {
		resp.PartialSuccess().SetRejectedLogRecords(rejected.Count)
		resp.PartialSuccess().SetErrorMessage(rejected.Reason)
	}
	return resp
}

type tracesService struct {
	ptraceotlp.UnimplementedGRPCServer
	r *Receiver
}

func (s *tracesService) Export(ctx context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	tenant, release, err := s.r.enter(ctx, "traces")
	if err != nil {
		return ptraceotlp.NewExportResponse(), err
	}
	defer release()
	rejected, err := s.r.storeTraces(ctx, tenant, req.Traces())
	if err != nil {
		return ptraceotlp.NewExportResponse(), s.r.grpcError("traces", err)
	}
	return tracesResponse(rejected), nil
}

func tracesResponse(rejected telemetry.Rejected) ptraceotlp.ExportResponse {
	resp := ptraceotlp.NewExportResponse()
	if rejected.Count > 0 {
		resp.PartialSuccess().SetRejectedSpans(rejected.Count)
		resp.PartialSuccess().SetErrorMessage(rejected.Reason)
	}
	return resp
}
