package access_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// memory is a store in memory; err is what it answers when it is broken.
type memory struct {
	all   map[string]access.Credential
	trail []headgate.Event
	err   error
}

// root is confined to no tenant.
var root = access.Identity{Name: "root", Role: access.Operator}

func (m *memory) PutCredential(_ context.Context, c access.Credential, ev headgate.Event) error {
	m.trail = append(m.trail, ev)
	if m.all == nil {
		m.all = map[string]access.Credential{}
	}
	m.all[c.ID] = c
	return m.err
}

func (m *memory) Credential(_ context.Context, id string) (access.Credential, bool, error) {
	c, ok := m.all[id]
	return c, ok, m.err
}

func (m *memory) Credentials(context.Context) ([]access.Credential, error) {
	all := slices.Collect(maps.Values(m.all))
	slices.SortFunc(all, func(a, b access.Credential) int { return strings.Compare(a.Name, b.Name) })
	return all, m.err
}

func (m *memory) DeleteCredential(_ context.Context, id string, ev headgate.Event) (bool, error) {
	_, ok := m.all[id]
	delete(m.all, id)
	m.trail = append(m.trail, ev)
	return ok, m.err
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var e *headgate.Error
	switch {
	case code == "" && err == nil:
	case !errors.As(err, &e) || e.Code != code:
		t.Errorf("error %v, want %q", err, code)
	}
}

func TestIssueAndVerify(t *testing.T) {
	t.Parallel()
	m := &memory{}
	tenants := []string{"acme", "globex"}
	token, c, err := access.Issue(t.Context(), m, root, access.Wanted{Name: "ci", Role: access.Releaser, Tenants: tenants, TTL: time.Hour}, now)
	if err != nil {
		t.Fatal(err)
	}
	tenants[0] = "changed by the caller"
	who, err := access.Verify(t.Context(), m, token, now)
	if err != nil || who.Name != "ci" || who.Role != access.Releaser || !slices.Equal(who.Tenants, []string{"acme", "globex"}) {
		t.Errorf("verified %+v, %v", who, err)
	}
	if !strings.HasPrefix(token, "hg_"+c.ID+".") {
		t.Errorf("token %q does not name its credential, so that it could not be found and revoked", token)
	}

	// Nothing that is stored or shown lets anybody be that caller.
	_, secret, _ := strings.Cut(token, ".")
	shown, err := json.Marshal(m.all[c.ID])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(shown, []byte(secret)) || bytes.Contains(shown, []byte("ash")) || bytes.Contains(m.all[c.ID].Hash, []byte(secret)) {
		t.Errorf("the stored credential %s holds the secret or its hash", shown)
	}
	again, _, err := access.Issue(t.Context(), m, root, access.Wanted{Name: "ci", Role: access.Releaser, TTL: time.Hour}, now)
	if err != nil || again == token {
		t.Errorf("a second credential is the same, %v", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		who     string
		role    access.Role
		tenants []string
		ttl     time.Duration
	}{
		{name: "no name", role: access.Viewer},
		{name: "no role", who: "ann"},
		{name: "unknown role", who: "ann", role: "root"},
		{name: "negative time to live", who: "ann", role: access.Viewer, ttl: -time.Second},
		{name: "tenant without a name", who: "ann", role: access.Viewer, tenants: []string{"acme", ""}},
	} {
		m := &memory{}
		token, _, err := access.Issue(t.Context(), m, root, access.Wanted{Name: tt.who, Role: tt.role, Tenants: tt.tenants, TTL: tt.ttl}, now)
		wantCode(t, err, headgate.CodeValidation)
		if token != "" || len(m.all) != 0 {
			t.Errorf("%s: a credential was made", tt.name)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	m := &memory{}
	token, c, err := access.Issue(t.Context(), m, root, access.Wanted{Name: "ci", Role: access.Releaser, TTL: time.Hour}, now)
	if err != nil {
		t.Fatal(err)
	}
	forever, other, err := access.Issue(t.Context(), m, root, access.Wanted{Name: "ann", Role: access.Operator}, now)
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(token, ".")
	_, otherSecret, _ := strings.Cut(forever, ".")
	bad := headgate.CodeUnauthorized
	for _, tt := range []struct {
		name, token string
		at          time.Time
		code        string
	}{
		{"good", token, now, ""},
		{"good to the last moment", token, now.Add(time.Hour - 1), ""},
		{"expired", token, now.Add(time.Hour), bad},
		{"one without an end", forever, now.AddDate(100, 0, 0), ""},
		{"wrong secret", "hg_" + c.ID + "." + otherSecret, now, bad},
		{"another's id", "hg_" + other.ID + "." + secret, now, bad},
		{"no secret", "hg_" + c.ID + ".", now, bad},
		{"part of the secret", token[:len(token)-1], now, bad},
		{"more than the secret", token + "A", now, bad},
		{"unknown id", "hg_nobody." + secret, now, bad},
		{"unknown id, no secret", "hg_nobody.", now, bad},
		{"no prefix", c.ID + "." + secret, now, bad},
		{"prefix only", "hg_", now, bad},
		{"nothing", "", now, bad},
		{"the hash for the secret", "hg_" + c.ID + "." + string(c.Hash), now, bad},
	} {
		who, err := access.Verify(t.Context(), m, tt.token, tt.at)
		if wantCode(t, err, tt.code); err != nil {
			if who.Name != "" || who.Role != "" {
				t.Errorf("%s: refused, and named %+v", tt.name, who)
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), c.ID) {
				t.Errorf("%s: the answer %q tells what it was sent", tt.name, err)
			}
		}
	}

	// A broken store is no wrong password.
	m.err = errors.New("disk")
	if _, err := access.Verify(t.Context(), m, token, now); !errors.Is(err, m.err) {
		t.Errorf("broken store: %v", err)
	}
	// What is revoked is gone.
	m.err = nil
	delete(m.all, c.ID)
	_, err = access.Verify(t.Context(), m, token, now)
	wantCode(t, err, bad)
}

func TestRoles(t *testing.T) {
	t.Parallel()
	may := map[access.Role][]access.Role{
		"":              nil,
		"unknown":       {access.Viewer},
		access.Viewer:   {access.Viewer},
		access.Releaser: {access.Viewer, access.Releaser},
		access.Approver: {access.Viewer, access.Approver},
		access.Operator: access.Roles(),
	}
	for role, allowed := range may {
		for _, wanted := range access.Roles() {
			code := headgate.CodeForbidden
			if slices.Contains(allowed, wanted) {
				code = ""
			}
			err := access.Identity{Name: "ann", Role: role}.May(wanted)
			if wantCode(t, err, code); err != nil && !strings.Contains(err.Error(), string(wanted)) {
				t.Errorf("%q may not what a %s may: %v does not say which role it takes", role, wanted, err)
			}
		}
	}
}

// A request names a tenant and a credential has some: neither widens the
// other.
func TestNarrow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		tenants   []string
		requested string
		want      string
		code      string
	}{
		{name: "confined to one, names none", tenants: []string{"acme"}, want: "acme"},
		{name: "confined to one, names it", tenants: []string{"acme"}, requested: "acme", want: "acme"},
		{name: "confined to one, names another", tenants: []string{"acme"}, requested: "globex", code: headgate.CodeTenantScope},
		{name: "confined to one, names the default", tenants: []string{"acme"}, requested: access.DefaultTenant, code: headgate.CodeTenantScope},
		{name: "confined to two, names none", tenants: []string{"acme", "globex"}, want: "acme"},
		{name: "confined to two, names the second", tenants: []string{"acme", "globex"}, requested: "globex", want: "globex"},
		{name: "confined to two, names a third", tenants: []string{"acme", "globex"}, requested: "acm", code: headgate.CodeTenantScope},
		{name: "confined to none, names none", want: access.DefaultTenant},
		{name: "confined to none, names one", requested: "acme", want: "acme"},
	} {
		who := access.Identity{Name: "ann", Role: access.Operator, Tenants: tt.tenants}
		got, err := who.Narrow(tt.requested)
		wantCode(t, err, tt.code)
		if got.TenantID != tt.want || got.Name != "ann" || !slices.Equal(got.Tenants, tt.tenants) {
			t.Errorf("%s: acts for %q as %+v, want %q", tt.name, got.TenantID, got, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), tt.requested) {
			t.Errorf("%s: %v shows what was asked for", tt.name, err)
		}
	}
}

func TestSees(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tenants []string
		tenant  string
		want    bool
	}{
		{nil, "acme", true},
		{nil, "", true},
		{[]string{"acme"}, "acme", true},
		{[]string{"acme"}, "globex", false},
		{[]string{"acme"}, "", true}, // belongs to no tenant
		{[]string{"acme", "globex"}, "globex", true},
	} {
		if got := (access.Identity{Tenants: tt.tenants}).Sees(tt.tenant); got != tt.want {
			t.Errorf("confined to %v sees %q: %v, want %v", tt.tenants, tt.tenant, got, tt.want)
		}
	}
}

// An operator looks after credentials that reach no further than its own, and
// nobody else after any.
func TestWhoLooksAfterCredentials(t *testing.T) {
	t.Parallel()
	m := &memory{}
	ops := access.Identity{Name: "acme-laptop", Person: "ada", Role: access.Operator, Tenants: []string{"acme", "beta"}, From: "192.0.2.7"}
	for _, tt := range []struct {
		name    string
		by      access.Identity
		tenants []string
		want    []string
		code    string
	}{
		{name: "operator", by: root},
		{name: "operator for a tenant", by: root, tenants: []string{"globex"}, want: []string{"globex"}},
		{name: "confined, says nothing", by: ops, want: []string{"acme", "beta"}},
		{name: "confined, for one of its own", by: ops, tenants: []string{"beta"}, want: []string{"beta"}},
		{name: "confined, for another's", by: ops, tenants: []string{"beta", "globex"}, code: headgate.CodeTenantScope},
		{name: "approver", by: access.Identity{Name: "bob", Role: access.Approver}, code: headgate.CodeForbidden},
		{name: "nobody", code: headgate.CodeForbidden},
	} {
		before := len(m.trail)
		token, c, err := access.Issue(t.Context(), m, tt.by, access.Wanted{Name: tt.name, Role: access.Operator, Tenants: tt.tenants}, now)
		if wantCode(t, err, tt.code); err != nil {
			if token != "" || len(m.trail) != before {
				t.Errorf("%s: refused, and made", tt.name)
			}
			continue
		}
		if !slices.Equal(c.Tenants, tt.want) || c.CreatedBy != tt.by.Holder() {
			t.Errorf("%s: made %+v, want tenants %v", tt.name, c, tt.want)
		}
		said, err := json.Marshal(m.trail[before])
		if err != nil {
			t.Fatal(err)
		}
		_, secret, _ := strings.Cut(token, ".")
		ev := m.trail[before]
		if ev.Kind != "token_created" || ev.Actor != tt.by.Name || ev.From != tt.by.From || ev.Data["person"] != tt.name || ev.Data["role"] != access.Operator ||
			bytes.Contains(said, []byte(secret)) {
			t.Errorf("%s: the audit trail says %s", tt.name, said)
		}
	}

	seen, err := access.List(t.Context(), m, ops)
	if err != nil || len(seen) != 2 || seen[0].Name != "confined, for one of its own" || seen[1].Name != "confined, says nothing" {
		t.Errorf("a confined operator sees %+v, %v", seen, err)
	}
	_, err = access.List(t.Context(), m, access.Identity{Name: "bob", Role: access.Approver})
	wantCode(t, err, headgate.CodeForbidden)

	all, err := access.List(t.Context(), m, root)
	if err != nil || len(all) != 4 {
		t.Fatalf("an operator sees %+v, %v", all, err)
	}
	for _, c := range all {
		code := headgate.CodeNotFound
		if len(c.Tenants) > 0 && c.Tenants[0] != "globex" {
			code = ""
		}
		_, err := access.Revoke(t.Context(), m, access.Identity{Role: access.Releaser}, c.ID, now)
		wantCode(t, err, headgate.CodeForbidden)
		_, err = access.Revoke(t.Context(), m, ops, c.ID, now)
		wantCode(t, err, code)
		if _, still := m.all[c.ID]; still != (code != "") {
			t.Errorf("%s: still there: %v", c.Name, still)
		}
	}
}
