package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"github.com/headgate/headgate"
)

// Alert is an alert that fires or has just stopped.
type Alert struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	Value       float64
	// Fired is since when it fires. A restart does not move it.
	Fired time.Time
	// Resolved is when it stopped; zero while it fires.
	Resolved time.Time
}

// evaluation is the rules being evaluated, if any.
type evaluation struct {
	mu      sync.RWMutex
	manager *rules.Manager
	running sync.WaitGroup
}

// outageTolerance is how long a restart may take without alerts starting their
// clocks anew.
const outageTolerance = time.Hour

// RunRules evaluates the recording and alert rules of a Prometheus rule file
// until the store is closed, as often as its groups say, or every so often if
// that is not 0. notify, which may be nil, is called in order with every alert
// that fires, fires still or is resolved; it must not block. Only one rule file
// can run.
//
// An alert that was pending or firing when the store was closed or killed goes
// on where it was, less the time in between.
func (s *Store) RunRules(text []byte, every time.Duration, logger *slog.Logger, notify func(Alert)) error {
	return s.run(text, every, notify, rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(s.engine, s.db), AppendableV2: s.db, Queryable: s.db, Logger: logger,
	})
}

// run evaluates the rules with the parts that o names.
func (e *evaluation) run(text []byte, every time.Duration, notify func(Alert), o rules.ManagerOptions) error {
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, promQL, o.Logger)
	if len(errs) > 0 {
		return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the rules are not valid: %w", errors.Join(errs...))
	}
	holds := make(map[held]time.Duration)
	for i := range groups.Groups {
		g := &groups.Groups[i]
		if every > 0 {
			g.Interval = model.Duration(every)
		}
		for _, r := range g.Rules {
			expr, err := promQL.ParseExpr(r.Expr)
			if err != nil {
				return fmt.Errorf("read rule %s: %w", r.Alert, err)
			}
			holds[held{r.Alert, expr.String()}] = time.Duration(r.For)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.manager != nil {
		return headgate.Invalidf("rules are running already")
	}
	o.Context = context.Background() // ended by Manager.Stop
	o.GroupLoader, o.Parser, o.ResendDelay = loaded{groups}, promQL, time.Minute
	// No grace: what an alert watches is in the store already.
	o.OutageTolerance = outageTolerance
	o.NotifyFunc = func(_ context.Context, expr string, alerts ...*rules.Alert) {
		if notify == nil {
			return
		}
		for _, a := range alerts {
			name := a.Labels.Get(labels.AlertName)
			notify(Alert{
				Name: name, Labels: a.Labels.Map(), Annotations: a.Annotations.Map(), Value: a.Value,
				// The rule's own FiredAt is of this process.
				Fired: a.ActiveAt.Add(holds[held{name, expr}]), Resolved: a.ResolvedAt,
			})
		}
	}
	m := rules.NewManager(&o)
	if err := m.Update(30*time.Second, []string{"rules"}, labels.EmptyLabels(), "", nil); err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	e.manager = m
	e.running.Go(m.Run)
	return nil
}

// held names an alert rule: two may share a name.
type held struct{ alert, expr string }

// stopRules waits for running evaluations.
func (e *evaluation) stopRules() {
	e.mu.Lock()
	m := e.manager
	e.manager = nil
	e.mu.Unlock()
	if m != nil {
		m.Stop()
		e.running.Wait()
	}
}

// loaded is a rule file that has been read already.
type loaded struct{ groups *rulefmt.RuleGroups }

func (l loaded) Load(string, bool, model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	return l.groups, nil
}

func (l loaded) Parse(query string) (parser.Expr, error) { return promQL.ParseExpr(query) }
