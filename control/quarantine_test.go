package control_test

import (
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/control"
)

func TestQuarantineTakesTwoPeople(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	ctx := t.Context()
	person := func(name string, role access.Role) access.Identity {
		return access.Identity{Name: name, Role: role, Tenants: []string{"acme"}, TenantID: "acme"}
	}
	ann, bob := person("ann", access.Approver), person("bob", access.Approver)
	stranger := access.Identity{Name: "otto", Role: access.Approver, Tenants: []string{"borealis"}, TenantID: "borealis"}
	f.release(t, "rel-1", digest("a"))
	f.end(t, headgate.RolledBack)
	again := control.ReleaseRequest{ID: "rel-2", Version: "v2", Digest: digest("a")}

	for name, tt := range map[string]struct {
		who            access.Identity
		digest, reason string
		want           string
	}{
		"a releaser":        {person("rex", access.Releaser), digest("a"), "why", headgate.CodeForbidden},
		"without a reason":  {ann, digest("a"), " ", headgate.CodeValidation},
		"another digest":    {ann, digest("b"), "why", control.CodeNotQuarantined},
		"another's release": {stranger, digest("a"), "why", control.CodeNotQuarantined},
	} {
		if _, err := f.ReleaseQuarantine(ctx, tt.who, "", tt.digest, tt.reason); code(err) != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	if all, err := f.Quarantine(ctx, stranger, ""); err != nil || len(all) != 0 {
		t.Errorf("another tenant sees %v, %v", all, err)
	}

	for range 2 { // who asks twice has asked once
		q, err := f.ReleaseQuarantine(ctx, ann, "", digest("a"), "a false alarm")
		if err != nil || q.RequestedBy != "ann" || q.ReleasedBy != "" {
			t.Fatalf("ann asks: %+v, %v", q, err)
		}
		if _, err := f.CreateRelease(ctx, operator, again); code(err) != headgate.CodeDigestQuarantined {
			t.Fatalf("one person let it out: %v", err)
		}
	}
	all, err := f.Quarantine(ctx, bob, "things")
	if err != nil || len(all) != 1 || all[0].Reason != "a false alarm" || all[0].Version != "v2" || all[0].TenantID != "acme" {
		t.Fatalf("bob sees %+v, %v", all, err)
	}
	if q, err := f.ReleaseQuarantine(ctx, bob, "things", digest("a"), "I looked at it, too"); err != nil || q.ReleasedBy != "bob" {
		t.Fatalf("bob agrees: %+v, %v", q, err)
	}
	if _, err := f.CreateRelease(ctx, operator, again); err != nil {
		t.Errorf("two people let it out: %v", err)
	}

	rows, err := f.Events(ctx, operator, "rel-1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	who := map[string]string{}
	for _, row := range rows {
		who[row.Kind] = row.Actor + ": " + row.Reason
	}
	if who["quarantine_release_requested"] != "ann: a false alarm" || who["quarantine_released"] != "bob: I looked at it, too" {
		t.Errorf("the trail says %v", who)
	}
}
