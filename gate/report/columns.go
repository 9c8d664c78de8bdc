package report

import (
	"errors"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// wanted returns the metrics of a gate to look for and what the tool calls
// them: the defaults, replaced by what the caller's columns say.
func (o Options) wanted(g headgate.Gate, defaults map[string][]string) map[string][]string {
	out := maps.Clone(defaults)
	for name, column := range o.Columns {
		if of, ok := gate.Known(name); ok && of == g {
			out[name] = []string{column}
		}
	}
	return out
}

// securityCounts are the security metrics that are a number of findings.
func securityCounts() []string {
	return slices.DeleteFunc(gate.MetricNames(headgate.GateSecurity), func(n string) bool {
		return n == "high_risk_approval_coverage"
	})
}

// matches compares a rule id with a pattern, which may end in "*".
func matches(pattern, id string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(id, prefix)
	}
	return pattern == id
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// scores are the cases of one metric. A case without a score is one on which
// the tool failed, not one that scored zero.
type scores struct {
	// sum is exact: nineteen scores of 0.9 have a mean of 0.9, which a sum of
	// floats would put just below a threshold of 0.9.
	sum      big.Rat
	scored   int64
	unscored int64
}

// tolerance is how far floating point may carry a cosine similarity past one.
const tolerance = 1e-6

// add takes one case; nil is a case without a score.
func (s *scores) add(v *float64) error {
	switch {
	case v == nil || math.IsNaN(*v) || math.IsInf(*v, 0):
		s.unscored++
	case *v < -1 || *v > 1+tolerance:
		return errors.New("holds a score outside 0..1 (a percentage?)")
	default:
		exact, ok := new(big.Rat).SetString(strconv.FormatFloat(*v, 'g', -1, 64))
		if !ok {
			return errors.New("holds a score that is not a number")
		}
		s.sum.Add(&s.sum, exact)
		s.scored++
	}
	return nil
}

// metric adds the mean to the facts, unless too many cases have no score for
// the rest to stand for the whole.
func (s *scores) metric(f *Facts, name, from string) {
	total := s.scored + s.unscored
	if s.unscored > 0 {
		f.note("%s: %d of %d cases have no score", from, s.unscored, total)
	}
	if total == 0 || float64(s.unscored) > maxUnscored*float64(total) {
		f.fail(headgate.Insufficient, gate.ToolScoresMissing, "%s: too few cases have a score; the metric is left out", from)
		return
	}
	g, _ := gate.Known(name)
	mean, _ := s.sum.Quo(&s.sum, new(big.Rat).SetInt64(s.scored)).Float64()
	mean = min(max(mean, 0), 1)
	f.Metrics = append(f.Metrics, Metric{Gate: g, Name: name, Value: mean, Samples: &s.scored, Unscored: s.unscored, From: clip(from)})
}
