package worker_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/biddingtest"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/quality"
	"github.com/headgate/headgate/examples/bidding/store"
	"github.com/headgate/headgate/examples/bidding/worker"
	"github.com/headgate/headgate/instrument"
)

// TestRetriesThenDeadLetterThenFailed follows a job that never can succeed
// through the database events that it leaves.
func TestRetriesThenDeadLetterThenFailed(t *testing.T) {
	t.Parallel()
	tel, err := instrument.Setup(t.Context(), instrument.Options{Service: "bidding", Version: "v1.0.0", Reader: sdkmetric.NewManualReader()})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "b.db")
	st, err := store.Open(t.Context(), path, tel)
	if err != nil {
		t.Fatal(err)
	}
	v, err := bidding.LoadVersion("v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	// A document that nobody parses keeps its evaluation waiting.
	var job string
	request, end := tel.StartJob(t.Context(), instrument.Carrier{"tenant_id": "acme"}, "test", "", 1)
	defer end(nil)
	_, err = st.Once(request, "acme", "test", "k", "h", func(tx *store.Tx) ([]byte, error) {
		if _, err := tx.AddDocument(request, store.Upload{TenantID: "acme", ProjectID: "p", SupplierID: "s", DocType: "bid", Filename: "a.txt", Content: []byte("x")}); err != nil {
			return nil, err
		}
		id, err := tx.AddEvaluation(request, store.Evaluation{TenantID: "acme", ProjectID: "p", SupplierID: "s",
			Request: store.Request{RulePackVersion: "tender-2026.1", DocTypes: []string{"bid"}}})
		if err != nil {
			return nil, err
		}
		job, err = tx.Enqueue(request, "acme", store.JobEvaluate, id, v.Version)
		return nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := worker.New(worker.Options{Store: st, Telemetry: tel, Version: v, Tenants: []string{"acme"}, Poll: 5 * time.Millisecond, Backoff: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := contextWithStop(t)
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	deadline := time.Now().Add(time.Minute)
	for {
		j, err := st.Job(t.Context(), "acme", job)
		if err != nil {
			t.Fatal(err)
		}
		if j.Status == store.JobFailed {
			if j.Attempts != 4 || j.ErrorCode != "DOCUMENTS_NOT_PARSED" {
				t.Errorf("failed after %d attempts with %s, want 4 and DOCUMENTS_NOT_PARSED", j.Attempts, j.ErrorCode)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the job is still %s", j.Status)
		}
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	got := eventsOf(t, path, job)
	want := []string{"job_queued", "job_retried", "job_retried", "job_retried", "job_dead_lettered", "job_failed"}
	if !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

func eventsOf(t *testing.T, path, job string) []string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var names string
	err = db.QueryRowContext(t.Context(), `SELECT group_concat(name) FROM (SELECT name FROM db_events WHERE job_id=? ORDER BY id)`, job).Scan(&names)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(names, ",")
}

// TestEveryMetricIsEmitted runs the dataset and looks for each figure that
// dashboards and gates read.
func TestEveryMetricIsEmitted(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", true)
	c := s.As("acme")
	if _, err := quality.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	names := []string{
		"bea.api.request.duration", "bea.retrieval.duration", "bea.parse.duration", "bea.evaluation.duration", "bea.jobs.completed",
		"bea.jobs.pending", "bea.jobs.retrying", "bea.dlq.open", "bea.outbox.pending", "bea.cache.requests", "bea.task.cost",
		"bea.degrade.requests", "bea.degrade.drills", "bea.budget.tenants", "bea.report.citation.coverage", "bea.high_risk.evaluations",
	}
	sums := []struct {
		name  string
		attrs []string
		want  int64
	}{
		{"bea.jobs.completed", []string{"tenant_id=acme", "outcome=succeeded", "job_type=parse", "queue_name=jobs"}, 5},
		{"bea.jobs.completed", []string{"tenant_id=acme", "outcome=succeeded", "job_type=evaluate"}, 9},
		{"bea.jobs.completed", []string{"outcome=failed"}, 0},
		{"bea.degrade.drills", []string{"tenant_id=acme", "outcome=passed"}, 4},
		{"bea.degrade.requests", []string{"tenant_id=acme", "outcome=served"}, 4},
		{"bea.high_risk.evaluations", []string{"tenant_id=acme", "reviewed=true"}, 1},
		{"bea.high_risk.evaluations", []string{"reviewed=false"}, 0},
	}
	wrong := func() (out []string) {
		got := s.Metrics(t)
		for _, name := range names {
			if got[name] == nil {
				out = append(out, name+" is not emitted")
			}
		}
		for _, tc := range sums {
			if n := biddingtest.Sum(got[tc.name], tc.attrs...); n != tc.want {
				out = append(out, fmt.Sprintf("%s%v = %d, want %d", tc.name, tc.attrs, n, tc.want))
			}
		}
		return out
	}
	// A job is seen to be done a moment before it is counted.
	for deadline := time.Now().Add(time.Minute); len(wrong()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(wrong())
		}
	}
}

func TestLowConfidenceWaitsForReview(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", true)
	c := s.As("acme")
	q, err := c.Upload(t.Context(), "p", "s", "bid", "vague.txt", []byte("We offer the best price and the fastest delivery."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(t.Context(), q.JobID); err != nil {
		t.Fatal(err)
	}
	if q, err = c.Evaluate(t.Context(), client.Evaluation{Project: "p", Supplier: "s", RulePack: "tender-2026.1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(t.Context(), q.JobID); err != nil {
		t.Fatal(err)
	}
	rep, err := c.Report(t.Context(), q.EvaluationID)
	if err != nil || !rep.NeedsHumanReview || rep.Score != 0 {
		t.Errorf("a vague bid: needs review %v, score %g, %v", rep.NeedsHumanReview, rep.Score, err)
	}
}

func contextWithStop(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	return ctx, stop
}

// TestHighRiskLeavesAnAuditLog has one evaluation approved and one rejected:
// only the approved one takes effect, after a person.
func TestHighRiskLeavesAnAuditLog(t *testing.T) {
	t.Parallel()
	s := biddingtest.Start(t, "v1.0.0", true)
	c := s.As("acme")
	done := func(q client.Queued, err error) {
		t.Helper()
		if err == nil {
			_, err = c.Await(t.Context(), q.JobID)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	done(c.Upload(t.Context(), "p", "s", "bid", "a.txt", []byte("We deliver within 30 days for 100,000 euros.")))
	for decision, want := range map[string]string{
		"approve": "audit.evaluated,audit.reviewed,audit.effective",
		"reject":  "audit.evaluated,audit.reviewed",
	} {
		q, err := c.Evaluate(t.Context(), client.Evaluation{Project: "p", Supplier: "s", RulePack: "tender-2026.1", ForceHITL: true})
		done(q, err)
		rep, err := c.Report(t.Context(), q.EvaluationID)
		if err != nil || rep.Interrupt == nil {
			t.Fatalf("it does not wait for a person: %+v, %v", rep, err)
		}
		done(c.Resume(t.Context(), q.EvaluationID, rep.Interrupt.ResumeToken, decision, "ada"))
		db, err := sql.Open("sqlite", s.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var names, reviewers string
		err = db.QueryRowContext(t.Context(), `SELECT group_concat(name), group_concat(attrs->>'reviewer' || ' ' || (attrs->>'reviewer_type') || ' ' || (attrs->>'approved'))
			FROM (SELECT name, attrs FROM db_events WHERE name LIKE 'audit.%' AND tenant_id='acme' AND attrs->>'evaluation_id'=? ORDER BY id)`, q.EvaluationID).
			Scan(&names, &reviewers)
		if err != nil {
			t.Fatal(err)
		}
		if approved := map[string]string{"approve": "true", "reject": "false"}[decision]; names != want || reviewers != "ada person "+approved {
			t.Errorf("%s: %s by %s, want %s", decision, names, reviewers, want)
		}
	}
}
