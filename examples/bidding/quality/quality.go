// Package quality runs the labelled dataset through a running bidding service
// over HTTP and computes the figures of the quality gate from what came back.
//
// It owns the definitions of the figures. It never looks into the service's
// database and never decides whether a figure is good enough.
package quality

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/dataset"
)

// Result is the request body of the quality gate.
type Result struct {
	DatasetID string  `json:"dataset_id"`
	Samples   int     `json:"samples"`
	Metrics   Metrics `json:"metrics"`
}

// Metrics are the gate's six figures, each 0..1. They follow the definitions
// of RAGAS (Es et al., 2023) with labels in place of a judging model.
type Metrics struct {
	Ragas struct {
		// ContextPrecision is the mean over the answerable samples of average
		// precision: do the passages with the labelled evidence come first?
		ContextPrecision float64 `json:"context_precision"`
		// ContextRecall is the share of labelled evidence among the passages.
		ContextRecall float64 `json:"context_recall"`
		// Faithfulness is the share of answers that the cited text, read from
		// the document itself, supports.
		Faithfulness float64 `json:"faithfulness"`
		// ResponseRelevancy is the mean share of the reference answer's terms
		// that the answer has.
		ResponseRelevancy float64 `json:"response_relevancy"`
	} `json:"ragas"`
	DeepEval struct {
		// HallucinationRate is the share of answers that state a value the
		// labels contradict.
		HallucinationRate float64 `json:"hallucination_rate"`
	} `json:"deepeval"`
	Citation struct {
		// ResolvableRate is the share of citations whose quote stands at the
		// cited place.
		ResolvableRate float64 `json:"resolvable_rate"`
	} `json:"citation"`
}

// jobWait bounds the wait for one job.
const jobWait = time.Minute

// Run uploads the dataset as a new project, evaluates every bid, computes the
// figures, and drills the degraded mode and the review on the way.
func Run(ctx context.Context, c *client.Client) (Result, error) {
	d, err := dataset.Load()
	if err != nil {
		return Result{}, err
	}
	// A project of its own keeps an earlier run's documents out.
	project := headgate.NewID(d.Project)
	for _, doc := range d.Documents {
		q, err := c.Upload(ctx, project, doc.Supplier, doc.DocType, doc.File, doc.Data)
		if err != nil {
			return Result{}, fmt.Errorf("upload %s: %w", doc.File, err)
		}
		if err := await(ctx, c, q.JobID); err != nil {
			return Result{}, fmt.Errorf("parse %s: %w", doc.File, err)
		}
	}
	evaluations := map[string]string{}
	for _, doc := range d.Bids() {
		e := client.Evaluation{Project: project, Supplier: doc.Supplier, RulePack: d.RulePackVersion}
		if evaluations[doc.Supplier], err = evaluate(ctx, c, e); err != nil {
			return Result{}, fmt.Errorf("evaluate %s: %w", doc.Supplier, err)
		}
		e.ModeHint = bidding.ModeFallback
		if err := drill(ctx, c, e); err != nil {
			return Result{}, fmt.Errorf("degrade drill with %s: %w", doc.Supplier, err)
		}
	}
	review := client.Evaluation{Project: project, Supplier: d.Bids()[0].Supplier, RulePack: d.RulePackVersion, ForceHITL: true}
	if err := reviewed(ctx, c, review); err != nil {
		return Result{}, fmt.Errorf("review: %w", err)
	}
	var t tally
	for _, s := range d.Samples {
		// One read per question, as a reader of the report does.
		rep, err := c.Report(ctx, evaluations[s.Supplier])
		if err != nil {
			return Result{}, fmt.Errorf("report of %s: %w", s.Supplier, err)
		}
		if err := t.add(ctx, c, s, rep); err != nil {
			return Result{}, fmt.Errorf("%s/%s: %w", s.Supplier, s.Criterion, err)
		}
	}
	return Result{DatasetID: d.ID, Samples: len(d.Samples), Metrics: t.metrics()}, nil
}

func await(ctx context.Context, c *client.Client, job string) error {
	ctx, cancel := context.WithTimeout(ctx, jobWait)
	defer cancel()
	_, err := c.Await(ctx, job)
	return err
}

func evaluate(ctx context.Context, c *client.Client, e client.Evaluation) (string, error) {
	q, err := c.Evaluate(ctx, e)
	if err != nil {
		return "", err
	}
	return q.EvaluationID, await(ctx, c, q.JobID)
}

// drill asks with the primary retrieval route off; the service must answer.
func drill(ctx context.Context, c *client.Client, e client.Evaluation) error {
	id, err := evaluate(ctx, c, e)
	if err != nil {
		return err
	}
	rep, err := c.Report(ctx, id)
	if err != nil {
		return err
	}
	if rep.Route != bidding.RouteFallback {
		return fmt.Errorf("the report came by the %s route", rep.Route)
	}
	return nil
}

// reviewed sends one evaluation through the reviewer's hands.
func reviewed(ctx context.Context, c *client.Client, e client.Evaluation) error {
	id, err := evaluate(ctx, c, e)
	if err != nil {
		return err
	}
	rep, err := c.Report(ctx, id)
	if err != nil {
		return err
	}
	if !rep.NeedsHumanReview || rep.Interrupt == nil {
		return errors.New("a forced review did not wait for the reviewer")
	}
	q, err := c.Resume(ctx, id, rep.Interrupt.ResumeToken, "approve", "dataset-run")
	if err != nil {
		return err
	}
	return await(ctx, c, q.JobID)
}

// tally sums the samples up.
type tally struct {
	samples, answerable         int
	precision, recall           float64
	faithful, relevancy         float64
	hallucinated                int
	citations, resolvedCitation int
}

func (t *tally) add(ctx context.Context, c *client.Client, s dataset.Sample, rep client.Report) error {
	var res bidding.CriterionResult
	for _, r := range rep.Criteria {
		if r.CriterionID == s.Criterion {
			res = r
		}
	}
	t.samples++
	t.relevancy += share(bidding.Tokens(s.Reference), bidding.Tokens(res.Answer))
	if res.Found && (s.Absent || res.Value != s.Value) {
		t.hallucinated++
	}
	if !s.Absent {
		t.answerable++
		precision, recall := judgeContexts(res.Contexts, s.Evidence)
		t.precision += precision
		t.recall += recall
	}
	supported := !res.Found && s.Absent
	for _, cit := range res.Citations {
		t.citations++
		page, err := c.Page(ctx, cit.DocumentID, cit.Page)
		var status *client.StatusError
		if errors.As(err, &status) && status.Status == 404 {
			continue
		}
		if err != nil {
			return err
		}
		page.Number = cit.Page
		if cit.Resolves(page) {
			t.resolvedCitation++
		}
		text := textAt(page.Text, cit.Span)
		supported = supported || strings.Contains(strings.ReplaceAll(text, ",", ""), res.Value)
	}
	if supported {
		t.faithful++
	}
	return nil
}

// judgeContexts returns average precision and recall of the ranked passages
// against the labelled evidence.
func judgeContexts(contexts []bidding.Citation, evidence []string) (precision, recall float64) {
	found := map[string]bool{}
	relevant, sum := 0, 0.0
	for i, c := range contexts {
		hit := false
		for _, e := range evidence {
			if strings.Contains(c.Quote, e) {
				hit, found[e] = true, true
			}
		}
		if hit {
			relevant++
			sum += float64(relevant) / float64(i+1)
		}
	}
	return sum / float64(max(relevant, 1)), float64(len(found)) / float64(max(len(evidence), 1))
}

// textAt is what stands at the span, as far as the page reaches.
func textAt(text string, s bidding.Span) string {
	runes := []rune(text)
	start := min(max(s.Start, 0), len(runes))
	return string(runes[start:min(max(s.End, start), len(runes))])
}

// share is the part of the wanted terms that got has.
func share(want, got []string) float64 {
	has := map[string]bool{}
	for _, t := range got {
		has[t] = true
	}
	n := 0
	for _, t := range want {
		if has[t] {
			n++
		}
	}
	return float64(n) / float64(max(len(want), 1))
}

func (t *tally) metrics() (m Metrics) {
	mean := func(sum float64, n int) float64 { return sum / float64(max(n, 1)) }
	m.Ragas.ContextPrecision = mean(t.precision, t.answerable)
	m.Ragas.ContextRecall = mean(t.recall, t.answerable)
	m.Ragas.Faithfulness = mean(t.faithful, t.samples)
	m.Ragas.ResponseRelevancy = mean(t.relevancy, t.samples)
	m.DeepEval.HallucinationRate = mean(float64(t.hallucinated), t.samples)
	m.Citation.ResolvableRate = mean(float64(t.resolvedCitation), t.citations)
	return m
}
