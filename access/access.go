// Package access says who is asking and what they may do: credentials (made
// once, shown once, kept as hashes), roles, and the tenants a caller is
// confined to.
//
// It never parses a request and never stores anything itself.
package access

import (
	"cmp"
	"slices"
	"strings"

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
