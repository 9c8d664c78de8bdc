package bidding

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/goccy/go-yaml"

	"github.com/headgate/headgate"
)

//go:embed rulepacks/*.yaml
var rulePackFiles embed.FS

// RulePack is a versioned set of criteria.
type RulePack struct {
	Version  string      `yaml:"version"`
	Criteria []Criterion `yaml:"criteria"`
}

// Criterion is one question to a bid and how the answer scores.
type Criterion struct {
	ID    string            `yaml:"id"`
	Title map[string]string `yaml:"title"`
	Unit  map[string]string `yaml:"unit"`
	// Weight is the highest score in points.
	Weight   float64  `yaml:"weight"`
	Query    string   `yaml:"query"`
	Patterns []string `yaml:"patterns"`
	Rule     Rule     `yaml:"rule"`

	patterns []*regexp.Regexp
}

// Rule turns a value into a share 0..1 of the weight.
type Rule struct {
	Kind string  `yaml:"kind"`
	Full float64 `yaml:"full"`
	Zero float64 `yaml:"zero"`
}

var rulePacks = sync.OnceValues(func() (map[string]RulePack, error) {
	packs := map[string]RulePack{}
	entries, err := fs.ReadDir(rulePackFiles, "rulepacks")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		data, err := rulePackFiles.ReadFile(path.Join("rulepacks", e.Name()))
		if err != nil {
			return nil, err
		}
		var p RulePack
		if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&p); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		for i := range p.Criteria {
			for _, expr := range p.Criteria[i].Patterns {
				re, err := regexp.Compile(expr)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", e.Name(), p.Criteria[i].ID, err)
				}
				p.Criteria[i].patterns = append(p.Criteria[i].patterns, re)
			}
		}
		packs[p.Version] = p
	}
	return packs, nil
})

// LoadRulePack returns a shipped rule pack; an unknown version is a
// REQ_VALIDATION_FAILED error.
func LoadRulePack(version string) (RulePack, error) {
	packs, err := rulePacks()
	if err != nil {
		return RulePack{}, err
	}
	p, ok := packs[version]
	if !ok {
		return RulePack{}, headgate.Invalidf("rule_pack_version is unknown; use tender-2026.1")
	}
	return p, nil
}

// RulePackFiles returns the shipped rule packs, for the release artefact.
func RulePackFiles() fs.FS { return rulePackFiles }

// CriterionResult is the scored answer to one criterion.
type CriterionResult struct {
	CriterionID string  `json:"criterion_id"`
	Title       string  `json:"title"`
	Answer      string  `json:"answer"`
	Value       string  `json:"value"`
	Found       bool    `json:"found"`
	Score       float64 `json:"score"`
	MaxScore    float64 `json:"max_score"`
	// Confidence 0..1 falls with the rank of the passage that had the value.
	Confidence float64    `json:"confidence"`
	Citations  []Citation `json:"citations"`
	// Contexts are the passages that were retrieved, best first.
	Contexts []Citation `json:"contexts"`
}

// Report is the evaluation of one supplier's bid.
type Report struct {
	RulePackVersion string            `json:"rule_pack_version"`
	Route           string            `json:"retrieval_route"`
	Score           float64           `json:"score"`
	MaxScore        float64           `json:"max_score"`
	Confidence      float64           `json:"confidence"`
	Criteria        []CriterionResult `json:"criteria"`
}

// Score answers the criterion from the retrieved passages. Passages of the
// tender are context, never an answer: what the purchaser asks for is not what
// the supplier offers.
func (c Criterion) Score(found []Passage) CriterionResult {
	res := CriterionResult{CriterionID: c.ID, MaxScore: c.Weight, Confidence: .4, Citations: []Citation{}, Contexts: []Citation{}}
	lang := "en"
	if len(found) > 0 && chinese(found[0].Text) {
		lang = "zh"
	}
	res.Title = c.Title[lang]
	for _, p := range found {
		res.Contexts = append(res.Contexts, p.Citation())
	}
	for rank, p := range found {
		value, ok := c.extract(p)
		if !ok {
			continue
		}
		res.Found, res.Value = true, value
		res.Confidence = max(.95-.1*float64(rank), .5)
		res.Citations = append(res.Citations, p.Citation())
		res.Score = round2(c.Weight * c.Rule.share(value))
		break
	}
	res.Answer = c.answer(res, lang)
	return res
}

func (c Criterion) extract(p Passage) (string, bool) {
	if p.DocType == "tender" {
		return "", false
	}
	for _, re := range c.patterns {
		if m := re.FindStringSubmatch(p.Text); m != nil {
			return strings.ReplaceAll(m[1], ",", ""), true
		}
	}
	return "", false
}

func (c Criterion) answer(r CriterionResult, lang string) string {
	switch {
	case !r.Found && lang == "zh":
		return "投标文件未说明：" + r.Title + "。"
	case !r.Found:
		return "The bid does not state: " + r.Title + "."
	case lang == "zh":
		return strings.TrimSpace(r.Title+"："+r.Value+" "+c.Unit[lang]) + "。"
	}
	return strings.TrimSpace(r.Title+": "+r.Value+" "+c.Unit[lang]) + "."
}

func (r Rule) share(value string) float64 {
	if r.Kind == "present" {
		return 1
	}
	v, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0
	}
	// at_least has Zero below Full, at_most above: the same line serves both.
	return min(max((v-r.Zero)/(r.Full-r.Zero), 0), 1)
}

// Summarise adds the criteria up.
func (p RulePack) Summarise(results []CriterionResult, route string) Report {
	rep := Report{RulePackVersion: p.Version, Route: route, Criteria: results}
	for _, c := range results {
		rep.Score += c.Score
		rep.MaxScore += c.MaxScore
		rep.Confidence += c.Confidence * c.MaxScore
	}
	rep.Score = round2(rep.Score)
	rep.Confidence = round2(rep.Confidence / max(rep.MaxScore, 1))
	return rep
}

// Edit replaces scores by criterion id, within 0..max, and adds up again. An
// unknown criterion or a score out of range is a REQ_VALIDATION_FAILED error.
func (r Report) Edit(scores map[string]float64) (Report, error) {
	edited := append([]CriterionResult(nil), r.Criteria...)
	known := map[string]int{}
	for i, c := range edited {
		known[c.CriterionID] = i
	}
	for id, s := range scores {
		i, ok := known[id]
		if !ok || math.IsNaN(s) || s < 0 || s > edited[i].MaxScore {
			return Report{}, headgate.Invalidf("edited_scores must name criteria of the report with scores from 0 to their max_score").With("criterion_id", id)
		}
		edited[i].Score = s
	}
	r.Criteria, r.Score = edited, 0
	for _, c := range edited {
		r.Score += c.Score
	}
	r.Score = round2(r.Score)
	return r, nil
}

// MisplaceCitations is the wrong-citation defect: pages are counted from the
// wrong end of the off-by-one, so that quotes no longer stand where they are
// said to.
func (r Report) MisplaceCitations() Report {
	for i := range r.Criteria {
		for j := range r.Criteria[i].Citations {
			r.Criteria[i].Citations[j].Page++
		}
	}
	return r
}

func round2(x float64) float64 { return math.Round(x*100) / 100 }

func chinese(text string) bool {
	for _, r := range text {
		if unicode.Is(unicode.Han, r) {
			return true
		}
	}
	return false
}
