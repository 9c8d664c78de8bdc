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
	Since       time.Time
	// Resolved is when it stopped; zero while it fires.
	Resolved time.Time
}

// ruleState is the rules being evaluated, if any.
type ruleState struct {
	mu      sync.RWMutex
	manager *rules.Manager
	running sync.WaitGroup
}

// RunRules evaluates the recording and alert rules of a Prometheus rule file
// until the store is closed. notify, which may be nil, is called in order with
// every alert that fires, fires still or is resolved; it must not block. Only
// one rule file can run.
func (s *Store) RunRules(text []byte, logger *slog.Logger, notify func(Alert)) error {
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, s.parser, logger)
	if len(errs) > 0 {
		return headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the rules are not valid: %w", errors.Join(errs...))
	}
	s.rules.mu.Lock()
	defer s.rules.mu.Unlock()
	if s.rules.manager != nil {
		return headgate.Invalidf("rules are running already")
	}
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc:    rules.EngineQueryFunc(s.engine, s.db),
		AppendableV2: s.db,
		Queryable:    s.db,
		Context:      context.Background(), // ended by Manager.Stop
		Logger:       logger,
		GroupLoader:  loaded{groups, s.parser},
		Parser:       s.parser,
		ResendDelay:  time.Minute,
		NotifyFunc: func(_ context.Context, _ string, alerts ...*rules.Alert) {
			if notify == nil {
				return
			}
			for _, a := range alerts {
				notify(Alert{
					Name: a.Labels.Get(labels.AlertName), Labels: a.Labels.Map(), Annotations: a.Annotations.Map(),
					Value: a.Value, Since: a.ActiveAt, Resolved: a.ResolvedAt,
				})
			}
		},
	})
	if err := m.Update(30*time.Second, []string{"rules"}, labels.EmptyLabels(), "", nil); err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	s.rules.manager = m
	s.rules.running.Go(m.Run)
	return nil
}

// stopRules waits for running evaluations.
func (s *Store) stopRules() {
	s.rules.mu.Lock()
	m := s.rules.manager
	s.rules.manager = nil
	s.rules.mu.Unlock()
	if m != nil {
		m.Stop()
		s.rules.running.Wait()
	}
}

// loaded is a rule file that has been read already.
type loaded struct {
	groups *rulefmt.RuleGroups
	parser parser.Parser
}

func (l loaded) Load(string, bool, model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	return l.groups, nil
}

func (l loaded) Parse(query string) (parser.Expr, error) { return l.parser.ParseExpr(query) }
