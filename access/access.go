// Package access says who is asking and what they may do: credentials (made
// once, shown once, kept as hashes), roles, and the tenants a caller is
// confined to.
//
// It never parses a request and never stores anything itself.
package access

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// Role is what a credential may do.
type Role string

// The roles. A viewer reads; a releaser makes releases and reports results; an
// approver approves; an operator may do everything.
const (
	Viewer   Role = "viewer"
	Releaser Role = "releaser"
	Approver Role = "approver"
	Operator Role = "operator"
)

// Roles returns every role.
func Roles() []Role { return []Role{Viewer, Releaser, Approver, Operator} }

// DefaultTenant is the tenant of a caller that is confined to none and names
// none.
const DefaultTenant = "default"

// DevelopmentHolder is the one person at a development server, whatever
// credential it is that asks.
const DevelopmentHolder = "development"

// Identity is a verified caller.
type Identity struct {
	// Name is the credential's, for the audit log.
	Name string
	// Person holds the credential; empty when Name says it.
	Person string
	Role   Role
	// Tenants confine the caller; empty does not.
	Tenants []string
	// TenantID is the tenant that the caller acts for in this request.
	TenantID string
	// From is the address the request came from.
	From string
}

// Holder is the person behind the credential. What takes two people takes two
// holders: see [SamePerson].
func (i Identity) Holder() string { return cmp.Or(i.Person, i.Name) }

// SamePerson reports whether two holders are one person, however their names
// are spelled.
func SamePerson(a, b string) bool {
	return strings.EqualFold(strings.TrimSpace(a), strings.TrimSpace(b))
}

// May returns AUTH_FORBIDDEN unless the caller has the role or is an operator.
// Everybody may what a viewer may.
func (i Identity) May(role Role) error {
	if i.Role == role || i.Role == Operator || (role == Viewer && i.Role != "") {
		return nil
	}
	return headgate.Errorf(headgate.CodeForbidden, headgate.ClassSecuritySensitive,
		"this needs a credential with the role %s; headgate token create --role %s makes one", role, role)
}

// Narrow returns the caller acting for the requested tenant, or for its first
// one when none is requested. A tenant outside its own is
// TENANT_SCOPE_VIOLATION.
func (i Identity) Narrow(requested string) (Identity, error) {
	switch {
	case requested == "" && len(i.Tenants) > 0:
		i.TenantID = i.Tenants[0]
	case requested == "":
		i.TenantID = DefaultTenant
	case len(i.Tenants) > 0 && !slices.Contains(i.Tenants, requested):
		return i, headgate.Errorf(headgate.CodeTenantScope, headgate.ClassSecuritySensitive,
			"the credential does not reach the tenant that x-tenant-id names")
	default:
		i.TenantID = requested
	}
	return i, nil
}

// Scope is the tenant to which an answer about many tenants has to be narrowed:
// the requested one, else the caller's own, else none. One outside the
// caller's own is TENANT_SCOPE_VIOLATION.
func (i Identity) Scope(requested string) (string, error) {
	if len(i.Tenants) == 0 {
		return requested, nil
	}
	if requested == "" {
		return i.TenantID, nil
	}
	narrowed, err := i.Narrow(requested)
	return narrowed.TenantID, err
}

// Sees reports whether the caller may see what belongs to a tenant.
func (i Identity) Sees(tenant string) bool {
	return len(i.Tenants) == 0 || tenant == "" || slices.Contains(i.Tenants, tenant)
}

// Credential is a stored credential. The secret itself is not kept.
type Credential struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Person    string    `json:"person,omitempty"` // who holds it, empty when Name says it
	Role      Role      `json:"role"`
	Tenants   []string  `json:"tenants"` // empty for all
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Hash      []byte    `json:"-"`
}

// Store keeps credentials.
type Store interface {
	PutCredential(ctx context.Context, c Credential) error
	// Credential reports false when there is none.
	Credential(ctx context.Context, id string) (Credential, bool, error)
}

const prefix = "hg_"

// Issue makes a credential and returns its token, which is shown once: only a
// hash is kept. A ttl of 0 never expires; a negative one is
// REQ_VALIDATION_FAILED, and so are an unknown role and a tenant without a name.
// person is who will hold it when name says something else, such as the machine
// that it is for: one person's tokens never count as two people.
func Issue(ctx context.Context, s Store, name, person string, role Role, tenants []string, ttl time.Duration, now time.Time) (string, Credential, error) {
	if name == "" || !slices.Contains(Roles(), role) {
		return "", Credential{}, headgate.Invalidf("a credential needs a name and a role: viewer, releaser, approver or operator")
	}
	if ttl < 0 || slices.Contains(tenants, "") {
		return "", Credential{}, headgate.Invalidf("a credential's time to live must not be negative and its tenants must have names")
	}
	secret := make([]byte, 32)
	rand.Read(secret) // never fails, see crypto/rand
	c := Credential{
		ID: strings.TrimPrefix(headgate.NewID("c"), "c_"), Name: name, Person: strings.TrimSpace(person), Role: role, Tenants: slices.Clone(tenants), CreatedAt: now,
	}
	if ttl > 0 {
		c.ExpiresAt = now.Add(ttl)
	}
	encoded := base64.RawURLEncoding.EncodeToString(secret)
	c.Hash = hash(encoded)
	return prefix + c.ID + "." + encoded, c, s.PutCredential(ctx, c)
}

// hash needs no salt and no stretching: the secret has 256 random bits.
func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Verify returns who a token belongs to, AUTH_UNAUTHORIZED when it is not
// good. It takes the same time whatever is wrong with the secret.
func Verify(ctx context.Context, s Store, token string, now time.Time) (Identity, error) {
	id, secret, ok := strings.Cut(strings.TrimPrefix(token, prefix), ".")
	if !ok || !strings.HasPrefix(token, prefix) {
		return Identity{}, unauthorized()
	}
	c, found, err := s.Credential(ctx, id)
	if err != nil {
		return Identity{}, err
	}
	same := subtle.ConstantTimeCompare(c.Hash, hash(secret)) == 1
	if !found || !same || (!c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt)) {
		return Identity{}, unauthorized()
	}
	return Identity{Name: c.Name, Person: c.Person, Role: c.Role, Tenants: c.Tenants}, nil
}

func unauthorized() error {
	return headgate.Errorf(headgate.CodeUnauthorized, headgate.ClassSecuritySensitive,
		"the credential is missing, unknown or expired; send Authorization: Bearer with a token from headgate token create")
}
