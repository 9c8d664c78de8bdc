package control

import (
	"context"
	"math"
	"slices"

	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/feedback"
)

// summaryFigures are the contract's metrics summary by section: each figure is
// the dictionary's query of that name.
var summaryFigures = map[string][]string{
	"api":             {"total_jobs", "succeeded_jobs", "failed_jobs", "error_rate"},
	"worker":          {"retrying_jobs", "dlq_open", "outbox_pending", "queue_pending"},
	"quality":         {"report_count", "citation_coverage_avg"},
	"cost":            {"task_cost_p95", "task_cost_avg", "task_cost_total", "task_count"},
	"parse_retrieval": {"parse_runs_total", "parse_50p_p95_s", "retrieval_p95_s", "cache_hit_rate"},
	"slo":             {"success_rate"},
}

// counts are the figures that are whole numbers.
var counts = map[string]bool{
	"total_jobs": true, "succeeded_jobs": true, "failed_jobs": true, "retrying_jobs": true, "dlq_open": true,
	"outbox_pending": true, "queue_pending": true, "report_count": true, "task_count": true, "parse_runs_total": true,
}

// Summary is the contract's metrics summary for the caller's tenant. A figure
// without data is 0, and what is missing is named.
func (p *Plane) Summary(ctx context.Context, who access.Identity, queue string) (map[string]any, error) {
	out := map[string]any{"tenant_id": who.TenantID}
	missing := []string{}
	for section, names := range summaryFigures {
		values := map[string]any{}
		for _, name := range names {
			scope := dictionary.Scope{Tenant: who.TenantID}
			if section == "worker" {
				scope.Queue = queue
			}
			q, err := p.o.Dictionary.Query(name, scope)
			if err != nil {
				return nil, err
			}
			v, ok, err := p.o.Figures.Number(ctx, q, p.o.Now())
			if err != nil {
				return nil, err
			}
			if !ok || math.IsNaN(v) {
				missing, v = append(missing, name), 0
			}
			if counts[name] {
				values[name] = int64(v + 0.5)
			} else {
				values[name] = v
			}
		}
		out[section] = values
	}
	out["worker"].(map[string]any)["queue_name"] = queue
	cost := out["cost"].(map[string]any)
	if err := p.summaryVersions(ctx, who, cost); err != nil {
		return nil, err
	}
	slices.Sort(missing)
	st := p.o.Settings
	out["observability"] = map[string]any{
		"metrics_namespace":           st.MetricsNamespace,
		"otel_exporter_configured":    st.OTLPEndpoint != "",
		"alert_webhook_configured":    st.AlertWebhook != "",
		"p6_readiness_required":       st.ReadinessRequired,
		"release_canary_ratio":        st.CanaryRatio,
		"release_canary_duration_min": st.CanaryDurationMin,
		"rollback_max_minutes":        st.RollbackMaxMinutes,
		"no_data":                     missing,
	}
	return out, nil
}

func (p *Plane) summaryVersions(ctx context.Context, who access.Identity, cost map[string]any) error {
	cost["dataset_version"], cost["strategy_version"] = feedback.FirstDataset, "stg_v0"
	s, err := p.Service("")
	if err != nil {
		return nil // without a service there is neither dataset nor strategy
	}
	if cost["dataset_version"], err = s.Feedback.Dataset(ctx, who.TenantID); err != nil {
		return err
	}
	st, ok, err := p.o.Store.Strategy(ctx, feedback.Scope{Service: s.Name, TenantID: who.TenantID})
	if ok {
		cost["strategy_version"] = st.Version
	}
	return err
}
