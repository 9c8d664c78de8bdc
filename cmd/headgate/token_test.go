package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/headgate/headgate/client"
)

// Credentials come and go while the server runs.
func TestTokensOfARunningServer(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	create := []string{"token", "create", "--name", "ci-acme", "--person", "eve", "--role", "releaser", "--tenant", "acme", "--expires", "1h"}
	p.run("ada", 1, "AUTH_FORBIDDEN", create...)
	p.run("ci", 1, "AUTH_FORBIDDEN", "token", "list")

	token, rest, _ := strings.Cut(p.run("bob", 0, "releaser of acme, until ", create...), "\n")
	id, _, _ := strings.Cut(strings.TrimPrefix(token, "hg_"), ".")
	if !strings.HasPrefix(token, "hg_") || strings.Contains(rest, token) {
		t.Fatalf("the token is not alone on the first line:\n%s\n%s", token, rest)
	}
	c := client.New(p.url, token, http.DefaultClient)
	if _, err := c.Quarantine(t.Context(), ""); err != nil {
		t.Errorf("the new token: %v", err)
	}
	list := p.run("bob", 0, id+"  ci-acme  eve ", "token", "list")
	if strings.Contains(list, "hg_") || !strings.Contains(list, "  bob ") {
		t.Errorf("list\n%s", list)
	}

	p.run("ada", 1, "AUTH_FORBIDDEN", "token", "revoke", id)
	p.run("bob", 0, "credential "+id+" (ci-acme) is revoked", "token", "revoke", id)
	if _, err := c.Quarantine(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "AUTH_UNAUTHORIZED") {
		t.Errorf("the revoked token: %v", err)
	}
	p.run("bob", 1, "there is no such credential", "token", "revoke", id)

	// A confined operator has its own tenants' credentials in hand, no others.
	p.by["olga"], _, _ = strings.Cut(p.run("bob", 0, "operator of acme", "token", "create", "--name", "olga", "--role", "operator", "--tenant", "acme"), "\n")
	p.run("olga", 1, "TENANT_SCOPE_VIOLATION", "token", "create", "--name", "x", "--role", "viewer", "--tenant", "globex")
	p.run("olga", 0, "viewer of acme", "token", "create", "--name", "x", "--role", "viewer")
	if list := p.run("olga", 0, "olga", "token", "list"); strings.Count(list, "\n") != 3 {
		t.Errorf("olga sees\n%s", list)
	}

	p.run("bob", 1, "ask the server, with --token-file", "token", "list", "--data", p.dir+"/data")
}
