package evidence_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"golang.org/x/mod/sumdb/tlog"
)

var start = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

const releaseDigest = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

// memoryStore is a LogStore for tests.
type memoryStore struct {
	mu      sync.Mutex
	entries []evidence.Entry
	hashes  []tlog.Hash
	commits int
	// fail, when set, is asked before each append.
	fail func() error
}

func (m *memoryStore) Size(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.entries)), nil
}

func (m *memoryStore) Append(_ context.Context, size int64, entries []evidence.Entry, hashes []tlog.Hash) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(); err != nil {
			return err
		}
	}
	if size != int64(len(m.entries)) {
		return evidence.ErrLogMoved
	}
	m.entries = append(m.entries, entries...)
	m.hashes = append(m.hashes, hashes...)
	m.commits++
	return nil
}

func (m *memoryStore) Hashes(_ context.Context, indexes []int64) ([]tlog.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(m.hashes)) {
			return nil, fmt.Errorf("no hash %d", index)
		}
		out[i] = m.hashes[index]
	}
	return out, nil
}

func (m *memoryStore) Entries(_ context.Context, q evidence.EntryQuery) ([]evidence.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []evidence.Entry
	for _, e := range m.entries {
		if (q.ReleaseID == "" || e.ReleaseID == q.ReleaseID) && (q.PredicateType == "" || e.PredicateType == q.PredicateType) &&
			e.Index >= q.From && (q.Limit == 0 || len(out) < q.Limit) {
			out = append(out, e)
		}
	}
	return out, nil
}

// server is one control plane's evidence.
type server struct {
	t     testing.TB
	store *memoryStore
	keys  *evidence.Keyring
	log   *evidence.Log
	blobs evidence.Blobs
	rules evidence.RuleSet
}

func newServer(t testing.TB) *server {
	t.Helper()
	keys, err := evidence.OpenKeyring(t.TempDir(), "ci.example.com")
	if err != nil {
		t.Fatal(err)
	}
	return serverWith(t, keys)
}

func serverWith(t testing.TB, keys *evidence.Keyring) *server {
	t.Helper()
	blobs, err := evidence.OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, store: &memoryStore{}, keys: keys, blobs: blobs}
	s.log = evidence.NewLog(s.store, s.keys)
	s.rules = evidence.RuleSet{Digest: s.put(rulesJSON), Owner: "quality team", Reason: "the contract's thresholds"}
	return s
}

const rulesJSON = `{"format":"headgate-rules/v1","version":1,"thresholds":{"quality":{"faithfulness_min":0.9},"performance":{"api_p95_s_max":1.5,"cache_hit_rate_min":0.7},"security":{"secret_scan_findings_max":0},"cost":{"task_cost_p95_ratio_max":1.2,"routing_degrade_passed_required":true}},"min_samples":{"performance":{"api_p95_s":200}}}`

func (s *server) put(content string) string {
	s.t.Helper()
	digest, err := s.blobs.Put(context.Background(), []byte(content))
	if err != nil {
		s.t.Fatal(err)
	}
	return digest
}

func (s *server) append(r headgate.Release, p evidence.Predicate) evidence.Record {
	s.t.Helper()
	st, err := evidence.About(r, p)
	if err != nil {
		s.t.Fatal(err)
	}
	rec, err := s.log.Append(context.Background(), st)
	if err != nil {
		s.t.Fatal(err)
	}
	return rec
}

func release(id string) headgate.Release {
	return headgate.Release{
		ID: id, Service: "bidding", TenantID: "acme", Version: "2.4.0", Digest: releaseDigest,
		Stage: headgate.StageFull, Outcome: headgate.Promoted, Reasons: []string{},
		Changes:   []headgate.Change{{Component: headgate.ModelConfig, From: "m1", To: "m2"}},
		CreatedAt: start, UpdatedAt: start.Add(time.Hour),
	}
}

func ptr[T any](v T) *T { return &v }

// decisions are four passing gates.
func (s *server) decisions(id string) []evidence.GateDecision {
	k6 := `{"metrics":{"http_req_duration":{"p(95)":0.83}}}`
	base := func(g headgate.Gate) evidence.GateDecision {
		return evidence.GateDecision{
			ReleaseID: id, Time: start.Add(10 * time.Minute), Gate: g, DatasetID: "bids@v1.0.0", Rules: s.rules,
			FailedChecks: []string{}, Verdict: headgate.Pass, MadeBy: evidence.Tool{Name: "headgate", Version: "0.1.0"},
			Inputs: []evidence.Input{},
		}
	}
	q, p, sec, c := base(headgate.GateQuality), base(headgate.GatePerformance), base(headgate.GateSecurity), base(headgate.GateCost)
	q.Thresholds = map[string]any{"faithfulness_min": 0.9}
	q.Values = map[string]any{"faithfulness": 0.9}
	q.Checks = []evidence.Check{{Name: "faithfulness", Code: "RAGAS_FAITHFULNESS_LOW", Value: 0.9, Threshold: 0.9, Op: ">=", Unit: "1", Distance: ptr(0.0), Verdict: headgate.Pass}}
	p.Request = json.RawMessage(`{"dataset_id":"bids@v1.0.0","metrics":{"api_p95_s":0.83,"cache_hit_rate":0.91}}`)
	p.Inputs = []evidence.Input{{Name: "k6.json", Digest: s.put(k6), Size: int64(len(k6)), Format: "k6-summary", Tool: evidence.Tool{Name: "k6", Version: "1.8.1"}}}
	p.Thresholds = map[string]any{"api_p95_s_max": 1.5, "cache_hit_rate_min": 0.7}
	p.Values = map[string]any{"api_p95_s": 0.83, "cache_hit_rate": 0.91}
	p.Checks = []evidence.Check{
		{Name: "api_p95_s", Code: "API_P95_EXCEEDED", Value: 0.83, Threshold: 1.5, Op: "<=", Unit: "s", Samples: ptr(int64(412)), MinSamples: 200, Window: "10m", Source: "k6.json", Distance: ptr(0.67), Verdict: headgate.Pass},
		{Name: "cache_hit_rate", Code: "CACHE_HIT_RATE_LOW", Value: 0.91, Threshold: 0.7, Op: ">=", Unit: "1", Distance: ptr(0.21), Verdict: headgate.Pass},
	}
	sec.Thresholds = map[string]any{"secret_scan_findings_max": 0}
	sec.Values = map[string]any{"secret_scan_findings": 0}
	sec.Checks = []evidence.Check{{Name: "secret_scan_findings", Code: "SECRET_SCAN_FINDING_FOUND", Value: 0, Threshold: 0, Op: "<=", Distance: ptr(0.0), Verdict: headgate.Pass}}
	c.Thresholds = map[string]any{"task_cost_p95_ratio_max": 1.2, "routing_degrade_passed_required": true}
	c.Values = map[string]any{"task_cost_p95_ratio": 1.2000000000000002, "routing_degrade_passed": true}
	c.Checks = []evidence.Check{
		{Name: "task_cost_p95_ratio", Code: "TASK_COST_P95_RATIO_HIGH", Value: 1.2000000000000002, Threshold: 1.2, Op: "<=", Distance: ptr(0.0), Verdict: headgate.Pass},
		{Name: "routing_degrade_passed", Code: "ROUTING_DEGRADE_FAILED", Value: true, Threshold: true, Op: "==", Verdict: headgate.Pass},
	}
	return []evidence.GateDecision{q, p, sec, c}
}

// record fills the log with a release's life, between events of others.
func (s *server) record(r headgate.Release, decisions []evidence.GateDecision) {
	s.t.Helper()
	event := func(kind string) {
		s.append(r, evidence.AuditEvent{Event: headgate.Event{Time: start, Kind: kind, ReleaseID: r.ID, Actor: "ada", From: "10.0.0.7", Reason: "nightly"}})
	}
	s.append(release("rel_other"), evidence.AuditEvent{Event: headgate.Event{Time: start, Kind: "release_created", ReleaseID: "rel_other", Actor: "bob"}})
	event("release_created")
	s.append(r, evidence.StageResult{
		StageRun: headgate.StageRun{ReleaseID: r.ID, Stage: headgate.StageTest, Attempt: 1, Verdict: headgate.Pass, StartedAt: start, EndedAt: start.Add(time.Minute)},
		Time:     start.Add(time.Minute), MadeBy: evidence.Tool{Name: "headgate"},
		Inputs: []evidence.Input{{Name: "junit.xml", Digest: s.put("<testsuite tests='12'/>"), Size: 23}},
	})
	for _, d := range decisions {
		s.append(r, d)
	}
	s.append(release("rel_other"), evidence.AuditEvent{Event: headgate.Event{Time: start, Kind: "release_aborted", ReleaseID: "rel_other", Actor: "bob"}})
	ticks := `{"time":"2026-11-24T09:20:00Z"}` + "\n"
	s.append(r, evidence.CanaryVerdict{
		ReleaseID: r.ID, Time: start.Add(40 * time.Minute), StartedAt: start.Add(10 * time.Minute), Share: 0.1,
		Stable: evidence.ArmCounts{Requests: 9000, Errors: 9}, Candidate: evidence.ArmCounts{Requests: 1000, Errors: 1},
		EValue: 0.4, Alpha: 0.01, Verdict: headgate.Pass, Reasons: []string{"CANARY_NO_WORSE_THAN_STABLE"},
		Inputs: []evidence.Input{{Name: "ticks.jsonl", Digest: s.put(ticks), Size: int64(len(ticks)), Format: evidence.TickLog}},
	})
	event("release_promoted")
}

func (s *server) bundle(r headgate.Release, earlier []byte) []byte {
	s.t.Helper()
	var b bytes.Buffer
	err := evidence.WriteBundle(context.Background(), &b, r, evidence.BundleOptions{Log: s.log, Blobs: s.blobs, EarlierCheckpoint: earlier})
	if err != nil {
		s.t.Fatal(err)
	}
	return b.Bytes()
}

func (s *server) checkpoint() []byte {
	s.t.Helper()
	c, err := s.log.Checkpoint(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func verify(t testing.TB, b []byte, o evidence.VerifyOptions) evidence.Verification {
	t.Helper()
	v, err := evidence.Verify(bytes.NewReader(b), int64(len(b)), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func codes(v evidence.Verification) []string {
	var c []string
	for _, f := range v.Findings {
		if !slices.Contains(c, f.Code) {
			c = append(c, f.Code)
		}
	}
	return c
}
