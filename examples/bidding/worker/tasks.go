package worker

import (
	"context"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding"
	"github.com/headgate/headgate/examples/bidding/store"
)

func (w *Worker) parse(ctx context.Context, job store.Job) (result, error) {
	doc, err := w.opts.Store.Document(ctx, job.TenantID, job.SubjectID)
	if err != nil {
		return result{}, err
	}
	start := time.Now()
	pages, err := bidding.Parse(ctx, doc.Filename, doc.Content)
	took := time.Since(start)
	if err != nil {
		w.figures.parsed(ctx, job.TenantID, "failed", took, 1)
		return result{}, err
	}
	chars := 0
	for _, p := range pages {
		chars += len([]rune(p.Text))
	}
	return result{
		costUSD: w.cost(chars),
		commit:  func(tx *store.Tx) error { return tx.SavePages(ctx, job.SubjectID, pages) },
		record:  func(ctx context.Context) { w.figures.parsed(ctx, job.TenantID, "succeeded", took, len(pages)) },
	}, nil
}

func (w *Worker) evaluate(ctx context.Context, job store.Job) (result, error) {
	start := time.Now()
	e, err := w.opts.Store.Evaluation(ctx, job.TenantID, job.SubjectID)
	if err != nil {
		return result{}, err
	}
	pack, err := bidding.LoadRulePack(e.Request.RulePackVersion)
	if err != nil {
		return result{}, err
	}
	docs, waiting, err := w.opts.Store.Documents(ctx, store.Scope{TenantID: job.TenantID, ProjectID: e.ProjectID, SupplierID: e.SupplierID, DocTypes: e.Request.DocTypes})
	switch {
	case err != nil:
		return result{}, err
	case waiting > 0:
		return result{}, headgate.Errorf("DOCUMENTS_NOT_PARSED", headgate.ClassTransient, "%d documents still wait to be parsed", waiting)
	case len(docs) == 0:
		return result{}, headgate.Errorf("DOCUMENTS_UNREADABLE", headgate.ClassPermanent, "none of the supplier's documents could be read; upload them in another format")
	}
	report, chars := w.score(ctx, job, pack, docs, e.Request)
	if w.opts.Version.Fault.Kind == bidding.FaultWrongCitation {
		report = report.MisplaceCitations()
	}
	highRisk := e.Request.ForceHITL || report.Confidence < w.opts.Version.ModelConfig.ReviewBelow
	status := store.StatusCompleted
	if highRisk {
		status = store.StatusWaiting
	}
	return result{
		costUSD: w.cost(chars),
		commit:  func(tx *store.Tx) error { return tx.SaveReport(ctx, e.ID, status, report, highRisk) },
		record: func(ctx context.Context) {
			w.figures.evaluated(ctx, job.TenantID, time.Since(start), coverage(report, docs))
			if e.Request.ModeHint == bidding.ModeFallback {
				w.figures.degraded(ctx, job.TenantID, report)
			}
		},
	}, nil
}

// score asks every criterion and counts the characters it had to process.
func (w *Worker) score(ctx context.Context, job store.Job, pack bidding.RulePack, docs []bidding.Document, req store.Request) (bidding.Report, int) {
	index := bidding.NewIndex(docs, w.opts.Version.RetrievalParams)
	k := req.TopK
	if k == 0 {
		k = w.opts.Version.RetrievalParams.TopK
	}
	chars, route := index.Chars(), bidding.RoutePrimary
	results := make([]bidding.CriterionResult, 0, len(pack.Criteria))
	for _, c := range pack.Criteria {
		start := time.Now()
		var found []bidding.Passage
		found, route = index.Search(c.Query, req.ModeHint, k)
		w.figures.retrieved(ctx, job.TenantID, time.Since(start))
		for _, p := range found {
			chars += len([]rune(p.Text))
		}
		results = append(results, c.Score(found))
	}
	return pack.Summarise(results, route), chars
}

// coverage is the share of criteria with a citation that resolves.
func coverage(r bidding.Report, docs []bidding.Document) float64 {
	pages := map[string]map[int]bidding.Page{}
	for _, d := range docs {
		pages[d.ID] = map[int]bidding.Page{}
		for _, p := range d.Pages {
			pages[d.ID][p.Number] = p
		}
	}
	covered := 0
	for _, c := range r.Criteria {
		for _, cit := range c.Citations {
			if cit.Resolves(pages[cit.DocumentID][cit.Page]) {
				covered++
				break
			}
		}
	}
	return float64(covered) / float64(max(len(r.Criteria), 1))
}

func (w *Worker) resume(ctx context.Context, job store.Job) (result, error) {
	e, err := w.opts.Store.Evaluation(ctx, job.TenantID, job.SubjectID)
	if err != nil {
		return result{}, err
	}
	if e.Report == nil || e.Review == nil {
		return result{}, headgate.Errorf("REVIEW_MISSING", headgate.ClassPermanent, "the evaluation has no review to apply; evaluate again")
	}
	report, status := *e.Report, store.StatusCompleted
	switch e.Review.Decision {
	case "reject":
		status = store.StatusRejected
	case "edit_scores":
		if report, err = report.Edit(e.Review.EditedScores); err != nil {
			return result{}, err
		}
	}
	return result{
		commit: func(tx *store.Tx) error { return tx.SaveReport(ctx, e.ID, status, report, e.HighRisk) },
		record: func(ctx context.Context) { w.figures.highRisk(ctx, job.TenantID, true) },
	}, nil
}
