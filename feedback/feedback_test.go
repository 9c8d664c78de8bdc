package feedback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// memory is a Store, a Source and a Freeze.
type memory struct {
	mu         sync.Mutex
	versions   map[Scope][]DatasetVersion
	samples    map[Scope]map[string]Sample
	strategies map[Scope][]Strategy
	letters    map[string][]Item
	reviews    map[string][]Item
	frozen     bool
	// others commit before the first n commits of the test.
	others int
}

func newMemory() *memory {
	return &memory{
		versions: map[Scope][]DatasetVersion{}, samples: map[Scope]map[string]Sample{},
		strategies: map[Scope][]Strategy{}, letters: map[string][]Item{}, reviews: map[string][]Item{},
	}
}

func (m *memory) Dataset(_ context.Context, s Scope) (DatasetVersion, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if vs := m.versions[s]; len(vs) > 0 {
		return vs[len(vs)-1], true, nil
	}
	return DatasetVersion{}, false, nil
}

func (m *memory) DatasetByKey(_ context.Context, s Scope, key string) (DatasetVersion, bool, error) {
	for _, v := range m.versions[s] {
		if v.Key == key {
			return v, true, nil
		}
	}
	return DatasetVersion{}, false, nil
}

func (m *memory) CommitDataset(_ context.Context, v DatasetVersion, samples []Sample) (DatasetVersion, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	newest := FirstDataset
	if vs := m.versions[v.Scope]; len(vs) > 0 {
		newest = vs[len(vs)-1].After
	}
	if m.others > 0 {
		m.others--
		next, _ := bump(newest, "patch")
		m.versions[v.Scope] = append(m.versions[v.Scope], DatasetVersion{Scope: v.Scope, Before: newest, After: next})
		return DatasetVersion{}, fmt.Errorf("commit: %w", ErrConflict)
	}
	if v.Before != newest {
		return DatasetVersion{}, ErrConflict
	}
	if m.samples[v.Scope] == nil {
		m.samples[v.Scope] = map[string]Sample{}
	}
	for _, s := range samples {
		if _, there := m.samples[v.Scope][s.ID]; there {
			continue
		}
		m.samples[v.Scope][s.ID] = s
		if s.Kind == Counterexample {
			v.Counterexamples++
		} else {
			v.GoldCandidates++
		}
	}
	m.versions[v.Scope] = append(m.versions[v.Scope], v)
	return v, nil
}

func (m *memory) Strategy(_ context.Context, s Scope) (Strategy, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if st := m.strategies[s]; len(st) > 0 {
		return st[len(st)-1], true, nil
	}
	return Strategy{}, false, nil
}

func (m *memory) AppendStrategy(_ context.Context, s Scope, st Strategy) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, _ := st.Number(); n != uint64(len(m.strategies[s])+1) {
		return ErrConflict
	}
	m.strategies[s] = append(m.strategies[s], st)
	return nil
}

func (m *memory) DeadLetters(_ context.Context, tenant string) ([]Item, error) {
	return m.letters[tenant], nil
}
func (m *memory) Reviews(_ context.Context, tenant string) ([]Item, error) {
	return m.reviews[tenant], nil
}
func (m *memory) Frozen(context.Context, Scope) (bool, error) { return m.frozen, nil }

func items(ids ...string) []Item {
	var out []Item
	for _, id := range ids {
		id, decision, _ := strings.Cut(id, "=")
		out = append(out, Item{ID: id, Decision: decision, Payload: json.RawMessage(`{"id":"` + id + `"}`)})
	}
	return out
}

func loop(m *memory) *Loop {
	return New(Config{Service: "bidding", Store: m, Source: m, Freeze: m, Now: func() time.Time {
		return time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)
	}})
}

func request(t *testing.T, body string) Request {
	t.Helper()
	var req Request
	if err := json.Unmarshal([]byte(body), &req); err != nil {
		t.Fatal(err)
	}
	return req
}

func TestRun(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.letters["acme"] = items("dlq_1", "dlq_2")
	m.letters["globex"] = items("dlq_9")
	m.reviews["acme"] = items("eval_1=approve", "eval_2=reject", "eval_3=edit_scores")
	m.reviews["globex"] = items("eval_9=reject")
	l := loop(m)
	steps := []struct {
		name, tenant, body string
		want               string
	}{
		{"chosen ids only", "acme", `{"release_id":"r","dlq_ids":["dlq_1"],"include_manual_override_candidates":false}`,
			`{"release_id":"r","counterexample_added":1,"gold_candidates_added":0,"dataset_version_before":"v1.0.0","dataset_version_after":"v1.0.1"}`},
		{"all, and none twice", "acme", `{"release_id":"r","dlq_ids":[],"version_bump":"minor"}`,
			`{"release_id":"r","counterexample_added":1,"gold_candidates_added":2,"dataset_version_before":"v1.0.1","dataset_version_after":"v1.1.0"}`},
		{"nothing new, and the version still changes", "acme", `{"release_id":"r","dlq_ids":[],"version_bump":"major"}`,
			`{"release_id":"r","counterexample_added":0,"gold_candidates_added":0,"dataset_version_before":"v1.1.0","dataset_version_after":"v2.0.0"}`},
		{"another tenant has its own dataset", "globex", `{"release_id":"r2","dlq_ids":[]}`,
			`{"release_id":"r2","counterexample_added":1,"gold_candidates_added":1,"dataset_version_before":"v1.0.0","dataset_version_after":"v1.0.1"}`},
		{"another tenant's id is as unknown as any", "globex", `{"release_id":"r2","dlq_ids":["dlq_1","dlq_1","nope"]}`,
			`{"release_id":"r2","counterexample_added":0,"gold_candidates_added":0,"dataset_version_before":"v1.0.1","dataset_version_after":"v1.0.2","unknown_dlq_ids":["dlq_1","nope"]}`},
	}
	for _, s := range steps {
		got, err := l.Run(t.Context(), s.tenant, request(t, s.body))
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if data, _ := json.Marshal(got); string(data) != s.want {
			t.Errorf("%s:\ngot  %s\nwant %s", s.name, data, s.want)
		}
	}
	if v, err := l.Dataset(t.Context(), "acme"); err != nil || v != "v2.0.0" {
		t.Errorf("dataset %q, %v", v, err)
	}
	if v, err := l.Dataset(t.Context(), "nobody"); err != nil || v != FirstDataset {
		t.Errorf("dataset of a tenant without feedback %q, %v", v, err)
	}
}

func TestRunUnderAKeyIsDoneOnce(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.letters["acme"] = items("dlq_1")
	l := loop(m)
	req := Request{ReleaseID: "r", Key: "r/feedback/1"}
	first, err := l.Run(t.Context(), "acme", req)
	if err != nil {
		t.Fatal(err)
	}
	m.letters["acme"] = items("dlq_1", "dlq_2")
	second, err := l.Run(t.Context(), "acme", req)
	if err != nil || first.After != second.After || second.CounterexampleAdded != 1 {
		t.Errorf("%+v then %+v, %v", first, second, err)
	}
}

func TestRunWhileOthersCommit(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.others = 3
	got, err := loop(m).Run(t.Context(), "acme", Request{ReleaseID: "r"})
	if err != nil || got.Before != "v1.0.3" || got.After != "v1.0.4" {
		t.Errorf("%+v, %v", got, err)
	}
	m.others = 1000
	if _, err := loop(m).Run(t.Context(), "acme", Request{ReleaseID: "r"}); err == nil || !headgate.AsError(err).Retryable {
		t.Errorf("error %v, want one worth repeating", err)
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no release":   `{"dlq_ids":[]}`,
		"unknown bump": `{"release_id":"r","version_bump":"huge"}`,
	} {
		_, err := loop(newMemory()).Run(t.Context(), "acme", request(t, body))
		if !errors.Is(err, &headgate.Error{Code: headgate.CodeValidation}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBump(t *testing.T) {
	t.Parallel()
	for _, tt := range [][3]string{
		{"v1.2.3", "patch", "v1.2.4"}, {"v1.2.9", "patch", "v1.2.10"}, {"v1.2.3", "minor", "v1.3.0"}, {"v1.2.3", "major", "v2.0.0"},
	} {
		if got, err := bump(tt[0], tt[1]); err != nil || got != tt[2] {
			t.Errorf("%s %s: %s, %v", tt[0], tt[1], got, err)
		}
	}
	for _, v := range []string{"", "1.2.3", "v1.2", "v1.2.3.4", "v1.x.3", "v1.-2.3"} {
		if _, err := bump(v, "patch"); err == nil {
			t.Errorf("%q was taken for a version", v)
		}
	}
}

const goodStrategy = `{"release_id":"r","selector":{"risk_mix_threshold":0.5,"relation_mode":"mix"},` +
	`"score_calibration":{"confidence_scale":1.1,"score_bias":-0.2},` +
	`"tool_policy":{"require_double_approval_actions":["delete"],"allowed_tools":[]}}`

func strategy(t *testing.T, body string) StrategyRequest {
	t.Helper()
	var req StrategyRequest
	if err := json.Unmarshal([]byte(body), &req); err != nil {
		t.Fatal(err)
	}
	return req
}

func TestApply(t *testing.T) {
	t.Parallel()
	m := newMemory()
	l := loop(m)
	for n := 1; n <= 3; n++ {
		got, err := l.Apply(t.Context(), "acme", strategy(t, goodStrategy))
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`{"release_id":"r","strategy_version":"stg_v%d","selector":{"risk_mix_threshold":0.5,"relation_mode":"mix"},`+
			`"score_calibration":{"confidence_scale":1.1,"score_bias":-0.2},`+
			`"tool_policy":{"require_double_approval_actions":["delete"],"allowed_tools":[]}}`, n)
		if data, _ := json.Marshal(got); string(data) != want {
			t.Errorf("got  %s\nwant %s", data, want)
		}
	}
	got, err := l.Apply(t.Context(), "globex", strategy(t, goodStrategy))
	if err != nil || got.Version != "stg_v1" {
		t.Errorf("another tenant: %s, %v", got.Version, err)
	}

	m.frozen = true
	_, err = l.Apply(t.Context(), "acme", strategy(t, goodStrategy))
	if !errors.Is(err, &headgate.Error{Code: headgate.CodeStrategyFrozen}) {
		t.Errorf("frozen: %v", err)
	}
	if st, ok, _ := l.Strategy(t.Context(), "acme"); !ok || st.Version != "stg_v3" {
		t.Errorf("strategy after the refusal %q", st.Version)
	}
}

func TestApplyAtOnce(t *testing.T) {
	t.Parallel()
	m := newMemory()
	l := loop(m)
	req := strategy(t, goodStrategy)
	var wg sync.WaitGroup
	versions := make([]string, 5)
	for i := range versions {
		wg.Go(func() {
			st, err := l.Apply(t.Context(), "acme", req)
			if err != nil {
				t.Error(err)
			}
			versions[i] = st.Version
		})
	}
	wg.Wait()
	slices.Sort(versions)
	if !slices.Equal(versions, []string{"stg_v1", "stg_v2", "stg_v3", "stg_v4", "stg_v5"}) {
		t.Errorf("versions %v", versions)
	}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"no release":            {`"release_id":"r"`, `"release_id":""`},
		"threshold above 1":     {`"risk_mix_threshold":0.5`, `"risk_mix_threshold":1.01`},
		"threshold below 0":     {`"risk_mix_threshold":0.5`, `"risk_mix_threshold":-0.01`},
		"threshold missing":     {`"risk_mix_threshold":0.5,`, ``},
		"unknown relation mode": {`"mix"`, `"naive"`},
		"relation mode missing": {`,"relation_mode":"mix"`, ``},
		"scale 0":               {`"confidence_scale":1.1`, `"confidence_scale":0`},
		"scale missing":         {`"confidence_scale":1.1,`, ``},
		"bias missing":          {`,"score_bias":-0.2`, ``},
		"an empty name":         {`["delete"]`, `[" "]`},
		"a name too long":       {`["delete"]`, `["` + strings.Repeat("x", 201) + `"]`},
		"too many names":        {`"allowed_tools":[]`, `"allowed_tools":["a"` + strings.Repeat(`,"a"`, 200) + `]`},
	} {
		body := strings.Replace(goodStrategy, change[0], change[1], 1)
		if body == goodStrategy {
			t.Fatalf("%s: nothing was changed", name)
		}
		_, err := loop(newMemory()).Apply(t.Context(), "acme", strategy(t, body))
		if !errors.Is(err, &headgate.Error{Code: headgate.CodeValidation}) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, edge := range []string{"0", "1"} {
		body := strings.Replace(goodStrategy, `"risk_mix_threshold":0.5`, `"risk_mix_threshold":`+edge, 1)
		if _, err := loop(newMemory()).Apply(t.Context(), "acme", strategy(t, body)); err != nil {
			t.Errorf("threshold %s: %v", edge, err)
		}
	}
}

func TestHTTPSource(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tok-acme" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path + "?" + r.URL.RawQuery {
		case "/dlq?limit=2":
			_, _ = w.Write([]byte(`{"data":{"items":[{"dlq_id":"a","error_code":"X"},{"dlq_id":"b"}],"next":"p2"}}`))
		case "/dlq?after=p2&limit=2":
			_, _ = w.Write([]byte(`{"data":{"items":[{"dlq_id":"c"}],"next":null}}`))
		case "/reviews?":
			_, _ = w.Write([]byte(`[{"id":7,"review":{"decision":"reject"}},{"id":8}]`))
		case "/loop?", "/loop?after=x", "/loop?after=y":
			next := map[string]string{"": "x", "x": "y", "y": "x"}[r.URL.Query().Get("after")]
			_, _ = w.Write([]byte(`{"data":{"items":[{"dlq_id":"a"}],"next":"` + next + `"}}`))
		case "/bad?":
			_, _ = w.Write([]byte(`{"data":{}}`))
		case "/noid?":
			_, _ = w.Write([]byte(`{"data":{"items":[{}]}}`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	list := func(path string) Listing {
		return Listing{Path: path, Items: "data.items", ID: "dlq_id", Next: "data.next", CursorParam: "after"}
	}
	s := HTTPSource{
		BaseURL: srv.URL, Credential: func(tenant string) string { return "tok-" + tenant },
		DeadLetter: list("/dlq?limit=2"), Review: Listing{Path: "/reviews", ID: "id", Decision: "review.decision"},
	}
	letters, err := s.DeadLetters(t.Context(), "acme")
	if err != nil || len(letters) != 3 || letters[2].ID != "c" || !strings.Contains(string(letters[0].Payload), `"error_code":"X"`) {
		t.Errorf("%+v, %v", letters, err)
	}
	reviews, err := s.Reviews(t.Context(), "acme")
	if err != nil || len(reviews) != 2 || reviews[0].ID != "7" || reviews[0].Decision != "reject" || reviews[1].Decision != "" {
		t.Errorf("%+v, %v", reviews, err)
	}
	if _, err := s.DeadLetters(t.Context(), "globex"); err == nil || strings.Contains(err.Error(), "tok-") {
		t.Errorf("a refused credential: %v", err)
	}
	for _, path := range []string{"/bad", "/noid", "/loop", "/none"} {
		s.DeadLetter = list(path)
		if _, err := s.DeadLetters(t.Context(), "acme"); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
	s.Review = Listing{}
	if got, err := s.Reviews(t.Context(), "acme"); err != nil || got != nil {
		t.Errorf("a service without the list: %v, %v", got, err)
	}
}
