package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/feedback"
	"github.com/headgate/headgate/rollback"
	"github.com/headgate/headgate/rollout"
)

func errorOf[T any](_ T, err error) error { return err }

func ids(all []rollback.Rollback, err error) []string {
	out := []string{}
	for _, r := range all {
		out = append(out, r.ID)
	}
	if err != nil {
		out = append(out, err.Error())
	}
	return out
}

func wantIDs(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func eventsByKeyAndQuery(t *testing.T, s Store) {
	first := eventOf("alpha", "rel-1", "acme")
	first.Data = map[string]any{"share": 0.1}
	must(t, s.Record(t.Context(), "key-1", first))
	must(t, s.Record(t.Context(), "key-1", eventOf("again", "rel-1", "acme")))
	must(t, s.Record(t.Context(), "", eventOf("beta", "rel-1", "globex")))
	must(t, s.Record(t.Context(), "", eventOf("beta", "rel-2", "acme")))
	must(t, s.Record(t.Context(), "key-2", eventOf("beta", "", "")))

	kinds := func(q control.EventQuery) []string {
		t.Helper()
		if q.Limit == 0 {
			q.Limit = 100
		}
		rows, err := s.Events(t.Context(), q)
		must(t, err)
		out := []string{}
		last := q.After
		for _, row := range rows {
			if row.Seq <= last {
				t.Errorf("sequence %d after %d", row.Seq, last)
			}
			last = row.Seq
			out = append(out, row.Kind+"/"+row.ReleaseID+"/"+row.TenantID)
		}
		return out
	}
	wantIDs(t, "all", kinds(control.EventQuery{}), "alpha/rel-1/acme", "beta/rel-1/globex", "beta/rel-2/acme", "beta//")
	wantIDs(t, "of a release", kinds(control.EventQuery{ReleaseID: "rel-1"}), "alpha/rel-1/acme", "beta/rel-1/globex")
	// A tenant sees its own only: not another's, not what belongs to none.
	wantIDs(t, "of a tenant", kinds(control.EventQuery{TenantID: "acme"}), "alpha/rel-1/acme", "beta/rel-2/acme")
	wantIDs(t, "of a kind and tenant", kinds(control.EventQuery{Kind: "beta", TenantID: "acme"}), "beta/rel-2/acme")
	wantIDs(t, "limited", kinds(control.EventQuery{Limit: 1}), "alpha/rel-1/acme")
	rows, err := s.Events(t.Context(), control.EventQuery{Limit: 2})
	must(t, err)
	wantIDs(t, "after", kinds(control.EventQuery{After: rows[1].Seq}), "beta/rel-2/acme", "beta//")
	if !reflect.DeepEqual(rows[0].Event, first) {
		t.Errorf("event %+v, want %+v", rows[0].Event, first)
	}

	// The key settles a race too.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.Record(t.Context(), "race", eventOf("race", "", "")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := kinds(control.EventQuery{Kind: "race"}); len(got) != 1 {
		t.Errorf("%d events under one key", len(got))
	}
}

func eventsEnterTheLogOnce(t *testing.T, s Store, log evidence.LogStore) {
	const n = 5
	for i := range n {
		must(t, s.Record(t.Context(), "", eventOf(numbered("ev", i), "", "")))
	}
	rows, err := s.Unsealed(t.Context(), 3)
	must(t, err)
	if len(rows) != 3 || rows[0].Kind != "ev-000" || rows[2].Kind != "ev-002" {
		t.Fatalf("unsealed %+v, want the oldest three", rows)
	}
	seal := func(seq int64) error {
		size, err := log.Size(t.Context())
		must(t, err)
		e := evidence.Entry{Index: size, Digest: "sha256:x", Time: at, Envelope: []byte("event"), Event: seq}
		hashes, err := logHashes(t.Context(), log, size, e.Envelope)
		must(t, err)
		return log.Append(t.Context(), size, []evidence.Entry{e}, hashes)
	}
	must(t, seal(rows[1].Seq))
	if err := seal(rows[1].Seq); !errors.Is(err, evidence.ErrEventSealed) {
		t.Errorf("a second time: %v", err)
	}
	if size, err := log.Size(t.Context()); err != nil || size != 1 {
		t.Errorf("%d entries, %v; want one", size, err)
	}
	rows, err = s.Unsealed(t.Context(), 100)
	must(t, err)
	got := []string{}
	for _, row := range rows {
		got = append(got, row.Kind)
	}
	wantIDs(t, "unsealed", got, "ev-000", "ev-002", "ev-003", "ev-004")
	if all, err := s.Events(t.Context(), control.EventQuery{Limit: 100}); err != nil || len(all) != n {
		t.Errorf("%d events, %v; sealing takes none away", len(all), err)
	}
}

func documents(t *testing.T, s Store) {
	put := func(kind, id, release, tenant string, at time.Time, body string) {
		t.Helper()
		must(t, s.PutDocument(t.Context(), control.Document{Kind: kind, ID: id, ReleaseID: release, TenantID: tenant, At: at, Body: json.RawMessage(body)}))
	}
	put("job", "b", "rel-1", "acme", at.Add(time.Second), `{"n":1}`)
	put("job", "a", "rel-1", "acme", at, `{"n":2}`)
	put("job", "c", "rel-2", "acme", at, `{"n":3}`)
	put("report", "a", "rel-1", "acme", at, `{"n":4}`)

	got, ok, err := s.Document(t.Context(), "job", "a")
	want := control.Document{Kind: "job", ID: "a", ReleaseID: "rel-1", TenantID: "acme", At: at, Body: json.RawMessage(`{"n":2}`)}
	if err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("document %+v, %v, %v; want %+v", got, ok, err, want)
	}
	if _, ok, err := s.Document(t.Context(), "job", "none"); ok || err != nil {
		t.Errorf("a document that is not there: %v, %v", ok, err)
	}
	list := func(kind, release string) []string {
		t.Helper()
		all, err := s.Documents(t.Context(), kind, release)
		must(t, err)
		out := []string{}
		for _, d := range all {
			out = append(out, d.ID)
		}
		return out
	}
	wantIDs(t, "documents, oldest first", list("job", "rel-1"), "a", "b")
	wantIDs(t, "documents of nobody", list("job", "none"))

	// Replaced means replaced whole: nothing of the old one shows to anybody.
	put("job", "a", "rel-3", "globex", at.Add(minute), `{"n":5}`)
	got, _, err = s.Document(t.Context(), "job", "a")
	if err != nil || got.TenantID != "globex" || got.ReleaseID != "rel-3" || string(got.Body) != `{"n":5}` || !got.At.Equal(at.Add(minute)) {
		t.Errorf("replaced document %+v, %v", got, err)
	}
	wantIDs(t, "documents after that", list("job", "rel-1"), "b")
}

func rolloutPlans(t *testing.T, s Store) {
	_, err := s.Plan(t.Context(), "acme", "rel-1")
	wantCode(t, err, headgate.CodeReleasePolicyNotFound)
	for _, tenants := range [][]string{{"acme"}, {"acme", "globex"}} {
		p, err := rollout.NewPlan("rel-1", tenants, []headgate.ProjectSize{headgate.SizeSmall}, false)
		must(t, err)
		must(t, s.PutPlan(t.Context(), "acme", p))
		if got, err := s.Plan(t.Context(), "acme", "rel-1"); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("plan %+v, %v; want %+v", got, err, p)
		}
	}
	// Another tenant's plan of the same id is another one.
	_, err = s.Plan(t.Context(), "globex", "rel-1")
	wantCode(t, err, headgate.CodeReleasePolicyNotFound)
	other, err := rollout.NewPlan("rel-1", []string{"globex"}, []headgate.ProjectSize{headgate.SizeLarge}, true)
	must(t, err)
	must(t, s.PutPlan(t.Context(), "globex", other))
	if got, err := s.Plan(t.Context(), "acme", "rel-1"); err != nil || len(got.TenantWhitelist) != 2 {
		t.Errorf("the first tenant's plan is %+v, %v", got, err)
	}
}

func credentials(t *testing.T, s Store) {
	root := access.Identity{Name: "root", Role: access.Operator}
	now := at.Add(time.Hour)
	token, issued, err := access.Issue(t.Context(), s, root, access.Wanted{Name: "ci", Role: access.Releaser, Tenants: []string{"acme"}, TTL: minute}, now)
	must(t, err)
	if who, err := access.Verify(t.Context(), s, token, now); err != nil || who.Name != "ci" || who.Role != access.Releaser || !slices.Equal(who.Tenants, []string{"acme"}) {
		t.Errorf("verified as %+v, %v", who, err)
	}
	got, ok, err := s.Credential(t.Context(), issued.ID)
	if err != nil || !ok || !bytes.Equal(got.Hash, issued.Hash) || !got.ExpiresAt.Equal(issued.ExpiresAt) {
		t.Errorf("credential %+v, %v, %v; want %+v", got, ok, err, issued)
	}
	if err := s.PutCredential(t.Context(), issued, headgate.Event{Kind: "token_created"}); err == nil {
		t.Error("a credential was overwritten")
	}
	_, second, err := access.Issue(t.Context(), s, root, access.Wanted{Name: "ann", Role: access.Operator}, now)
	must(t, err)
	all, err := s.Credentials(t.Context())
	must(t, err)
	names := []string{}
	for _, c := range all {
		names = append(names, c.Name)
		if len(c.Hash) != 0 {
			t.Error("a list of credentials shows hashes")
		}
	}
	wantIDs(t, "credentials", names, "ci", "ann")

	for i, want := range []bool{true, false} {
		if ok, err := s.DeleteCredential(t.Context(), issued.ID, headgate.Event{Kind: "token_revoked"}); err != nil || ok != want {
			t.Errorf("deletion %d: %v, %v; want %v", i, ok, err, want)
		}
	}
	_, err = access.Verify(t.Context(), s, token, now)
	wantCode(t, err, headgate.CodeUnauthorized)
	if _, ok, err := s.Credential(t.Context(), second.ID); !ok || err != nil {
		t.Errorf("the other credential: %v, %v", ok, err)
	}
	// Each change is in the audit trail once, and what did not happen is not.
	for kind, want := range map[string]int{"token_created": 2, "token_revoked": 1} {
		rows, err := s.Events(t.Context(), control.EventQuery{Kind: kind, Limit: 10})
		if err != nil || len(rows) != want {
			t.Errorf("%d events %s, %v; want %d", len(rows), kind, err, want)
		}
	}
}

func datasetsDetectConflicts(t *testing.T, s Store) {
	scope := feedback.Scope{Service: service, TenantID: "acme"}
	sample := func(id string, k feedback.Kind) feedback.Sample {
		return feedback.Sample{ID: id, Kind: k, SourceID: id, Payload: json.RawMessage(`{}`), AddedAt: at}
	}
	if _, ok, err := s.Dataset(t.Context(), scope); ok || err != nil {
		t.Fatalf("a dataset before the first: %v, %v", ok, err)
	}
	v1 := feedback.DatasetVersion{Scope: scope, ReleaseID: "rel-1", Before: feedback.FirstDataset, After: "v1.0.1", CreatedAt: at, Key: "k1"}
	got, err := s.CommitDataset(t.Context(), v1, []feedback.Sample{sample("a", feedback.Counterexample), sample("b", feedback.GoldCandidate)})
	if err != nil || got.Counterexamples != 1 || got.GoldCandidates != 1 {
		t.Fatalf("first version %+v, %v", got, err)
	}
	// Somebody who read the same version before comes second.
	late := v1
	late.After, late.Key = "v1.0.2", "k2"
	if _, err = s.CommitDataset(t.Context(), late, []feedback.Sample{sample("z", feedback.Counterexample)}); !errors.Is(err, feedback.ErrConflict) {
		t.Errorf("a version on top of an old one: %v, want a conflict", err)
	}
	v2 := feedback.DatasetVersion{Scope: scope, Before: "v1.0.1", After: "v1.0.2", CreatedAt: at}
	got2, err := s.CommitDataset(t.Context(), v2, []feedback.Sample{sample("a", feedback.Counterexample), sample("z", feedback.Counterexample)})
	if err != nil || got2.Counterexamples != 1 {
		t.Errorf("second version %+v, %v; a known sample is not new and the refused one was not kept", got2, err)
	}
	if newest, ok, err := s.Dataset(t.Context(), scope); err != nil || !ok || newest.After != "v1.0.2" {
		t.Errorf("newest %+v, %v, %v", newest, ok, err)
	}
	if byKey, ok, err := s.DatasetByKey(t.Context(), scope, "k1"); err != nil || !ok || !reflect.DeepEqual(byKey, got) {
		t.Errorf("by key %+v, %v, %v; want %+v", byKey, ok, err, got)
	}
	if _, ok, err := s.DatasetByKey(t.Context(), scope, "k2"); ok || err != nil {
		t.Errorf("the refused version is there: %v, %v", ok, err)
	}

	other := feedback.Scope{Service: service, TenantID: "globex"}
	if _, ok, err := s.Dataset(t.Context(), other); ok || err != nil {
		t.Errorf("another tenant sees a dataset: %v, %v", ok, err)
	}
	if _, ok, err := s.DatasetByKey(t.Context(), other, "k1"); ok || err != nil {
		t.Errorf("another tenant finds it by key: %v, %v", ok, err)
	}
}

func strategiesDetectConflicts(t *testing.T, s Store) {
	scope := feedback.Scope{Service: service, TenantID: "acme"}
	if _, ok, err := s.Strategy(t.Context(), scope); ok || err != nil {
		t.Fatalf("a strategy before the first: %v, %v", ok, err)
	}
	first := feedback.Strategy{ReleaseID: "rel-1", Version: "stg_v1", AppliedAt: at}
	must(t, s.AppendStrategy(t.Context(), scope, first))
	for _, version := range []string{"stg_v1", "stg_v3"} {
		if err := s.AppendStrategy(t.Context(), scope, feedback.Strategy{Version: version}); !errors.Is(err, feedback.ErrConflict) {
			t.Errorf("%s after stg_v1: %v, want a conflict", version, err)
		}
	}
	if err := s.AppendStrategy(t.Context(), scope, feedback.Strategy{Version: "two"}); err == nil || errors.Is(err, feedback.ErrConflict) {
		t.Errorf("a strategy without a number: %v", err)
	}
	if got, ok, err := s.Strategy(t.Context(), scope); err != nil || !ok || !reflect.DeepEqual(got, first) {
		t.Errorf("strategy %+v, %v, %v; want %+v", got, ok, err, first)
	}
	must(t, s.AppendStrategy(t.Context(), scope, feedback.Strategy{Version: "stg_v2", AppliedAt: at}))
	must(t, s.AppendStrategy(t.Context(), feedback.Scope{Service: service, TenantID: "globex"}, first)) // its own numbers
}

// logHashes returns the hashes that entry index adds to a log.
func logHashes(ctx context.Context, log evidence.LogStore, index int64, envelope []byte) ([]tlog.Hash, error) {
	return tlog.StoredHashes(index, envelope, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return log.Hashes(ctx, indexes)
	}))
}

func evidenceLog(t *testing.T, log evidence.LogStore) {
	ctx := t.Context()
	var all []evidence.Entry
	for i := range 5 {
		e := evidence.Entry{
			Index: int64(i), ReleaseID: numbered("rel", i%2), PredicateType: numbered("type", i%3), Time: at,
			Digest: numbered("sha256", i), Envelope: []byte{0, byte(i), 255},
		}
		size, err := log.Size(ctx)
		if err != nil || size != int64(i) {
			t.Fatalf("size %d, %v; want %d", size, err, i)
		}
		hashes, err := logHashes(ctx, log, size, e.Envelope)
		must(t, err)
		must(t, log.Append(ctx, size, []evidence.Entry{e}, hashes))
		all = append(all, e)
	}
	got, err := log.Entries(ctx, evidence.EntryQuery{})
	if err != nil || !reflect.DeepEqual(got, all) {
		t.Errorf("entries %+v, %v; want %+v", got, err, all)
	}
	for _, tt := range []struct {
		q    evidence.EntryQuery
		want []int64
	}{
		{evidence.EntryQuery{ReleaseID: "rel-000"}, []int64{0, 2, 4}},
		{evidence.EntryQuery{ReleaseID: "rel-000", From: 1, Limit: 1}, []int64{2}},
		{evidence.EntryQuery{PredicateType: "type-001"}, []int64{1, 4}},
		{evidence.EntryQuery{From: 5}, nil},
	} {
		got, err := log.Entries(ctx, tt.q)
		must(t, err)
		var indexes []int64
		for _, e := range got {
			indexes = append(indexes, e.Index)
		}
		if !slices.Equal(indexes, tt.want) {
			t.Errorf("entries of %+v: %v, want %v", tt.q, indexes, tt.want)
		}
	}

	hashes, err := log.Hashes(ctx, []int64{3, 0})
	if err != nil || len(hashes) != 2 || hashes[1] != tlog.RecordHash(all[0].Envelope) {
		t.Errorf("hashes %v, %v; want them in the order asked for", hashes, err)
	}
	if _, err := log.Hashes(ctx, []int64{0, 1000}); err == nil {
		t.Error("a missing hash is an error")
	}

	// Of two writers that saw the same size, the second stores nothing.
	for _, size := range []int64{4, 6} {
		err := log.Append(ctx, size, []evidence.Entry{{Index: size, Digest: "ghost"}}, nil)
		if !errors.Is(err, evidence.ErrLogMoved) {
			t.Errorf("append at size %d of 5: %v, want that the log has moved", size, err)
		}
	}
	if size, err := log.Size(ctx); err != nil || size != 5 {
		t.Errorf("size %d, %v; want 5", size, err)
	}
}
