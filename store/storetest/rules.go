package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
)

func rulesMoveOneByOne(t *testing.T, s Store) {
	ctx := t.Context()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	event := headgate.Event{Time: at, Kind: "rules_in_force", Actor: "ada"}
	inForce := func(want string) {
		t.Helper()
		if got, err := s.RulesInForce(ctx, "orders"); err != nil || got != want {
			t.Errorf("in force: %q, %v, want %q", got, err, want)
		}
	}
	put := func(c control.RuleChange) error { return s.PutRuleChange(ctx, c, event) }

	inForce("")
	first := control.RuleChange{Digest: digestA, Version: 1, Rules: []byte(`{"a":1}`), ProposedBy: "ada", ProposedAt: at, InForceAt: at}
	if err := put(first); err != nil {
		t.Fatal(err)
	}
	if err := put(control.RuleChange{Digest: digestB, Base: digestA, ProposedBy: "ada", Rules: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	inForce(digestA) // a proposal is not in force
	all, err := s.RuleChanges(ctx)
	if err != nil || len(all) != 2 || !all[0].InForce || all[1].InForce || string(all[0].Rules) != `{"a":1}` || !all[0].InForceAt.Equal(at) {
		t.Fatalf("changes %+v, %v", all, err)
	}
	// Approved, it replaces its own proposal.
	second := all[1]
	second.ApprovedBy, second.InForceAt = "bob", at
	if err := put(second); err != nil {
		t.Fatal(err)
	}
	inForce(digestB)
	if all, err = s.RuleChanges(ctx); err != nil || len(all) != 2 || all[0].InForce || !all[1].InForce || all[1].ApprovedBy != "bob" {
		t.Errorf("changes %+v, %v", all, err)
	}
	// One whose base is gone does not come into force, and leaves nothing.
	if err := put(control.RuleChange{Digest: "sha256:c", Base: digestA, InForceAt: at}); !errors.Is(err, control.ErrRulesMoved) {
		t.Errorf("a change of what is not in force: %v", err)
	}
	inForce(digestB)
	// Earlier rules may come back.
	if err := put(control.RuleChange{Digest: digestA, Base: digestB, InForceAt: at, Rules: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	inForce(digestA)
	if all, err = s.RuleChanges(ctx); err != nil || len(all) != 3 || all[0].InForce || !all[2].InForce {
		t.Errorf("changes %+v, %v", all, err)
	}
	// A service's own rules come before everybody's, and change apart from them.
	own := control.RuleChange{Service: "orders", Digest: "sha256:own", Base: digestA, InForceAt: at, Rules: []byte(`{}`)}
	if err := put(own); err != nil {
		t.Fatal(err)
	}
	inForce("sha256:own")
	for service, want := range map[string]string{"": digestA, "billing": digestA} {
		if got, err := s.RulesInForce(ctx, service); err != nil || got != want {
			t.Errorf("in force for %q: %q, %v, want %q", service, got, err, want)
		}
	}
	if err := put(control.RuleChange{Service: "orders", Digest: "sha256:d", Base: digestA, InForceAt: at}); !errors.Is(err, control.ErrRulesMoved) {
		t.Errorf("a change of what the service is not judged by: %v", err)
	}
	if all, err = s.RuleChanges(ctx); err != nil || len(all) != 4 || !all[2].InForce || !all[3].InForce {
		t.Errorf("changes %+v, %v", all, err)
	}
	if rows, err := s.Events(ctx, control.EventQuery{Kind: "rules_in_force", Limit: 10}); err != nil || len(rows) != 5 {
		t.Errorf("%d events, %v", len(rows), err)
	}
}
