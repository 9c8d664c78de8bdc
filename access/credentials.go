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

// Credential is a stored credential. The secret itself is not kept.
type Credential struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Person    string    `json:"person,omitempty"` // who holds it, empty when Name says it
	Role      Role      `json:"role"`
	Tenants   []string  `json:"tenants"` // empty for all
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"` // holder of the credential that asked for it
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Hash      []byte    `json:"-"`
}

// Store keeps credentials. What changes them enters the audit trail with the
// change or not at all.
type Store interface {
	PutCredential(ctx context.Context, c Credential, ev headgate.Event) error
	// Credential reports false when there is none, also just after its deletion.
	Credential(ctx context.Context, id string) (Credential, bool, error)
	// Credentials returns all, oldest first, without their hashes.
	Credentials(ctx context.Context) ([]Credential, error)
	// DeleteCredential reports false when there was none; nothing is recorded
	// then.
	DeleteCredential(ctx context.Context, id string, ev headgate.Event) (bool, error)
}

const prefix = "hg_"

// Wanted describes a credential that somebody asks for.
type Wanted struct {
	// Name is who or what will use it, for the audit log.
	Name string
	// Person will hold it, when Name says something else, such as the machine
	// that it is for: one person's tokens never count as two people.
	Person string
	Role   Role
	// Tenants confine it; empty does as far as whoever asks is confined.
	Tenants []string
	// TTL is how long it is good; 0 for ever.
	TTL time.Duration
}

// Issue makes the credential that by, an operator, asks for and returns its
// token, which is shown once: only a hash is kept. A negative time to live, an
// unknown role and a tenant without a name are REQ_VALIDATION_FAILED; a tenant
// that by does not reach is TENANT_SCOPE_VIOLATION.
func Issue(ctx context.Context, s Store, by Identity, w Wanted, now time.Time) (string, Credential, error) {
	if err := by.May(Operator); err != nil {
		return "", Credential{}, err
	}
	if w.Name == "" || !slices.Contains(Roles(), w.Role) {
		return "", Credential{}, headgate.Invalidf("a credential needs a name and a role: viewer, releaser, approver or operator")
	}
	if w.TTL < 0 || slices.Contains(w.Tenants, "") {
		return "", Credential{}, headgate.Invalidf("a credential's time to live must not be negative and its tenants must have names")
	}
	c := Credential{
		ID: strings.TrimPrefix(headgate.NewID("c"), "c_"), Name: w.Name, Person: strings.TrimSpace(w.Person), Role: w.Role,
		Tenants: slices.Clone(w.Tenants), CreatedAt: now, CreatedBy: by.Holder(),
	}
	if len(c.Tenants) == 0 {
		c.Tenants = slices.Clone(by.Tenants)
	}
	if !by.reaches(c) {
		return "", Credential{}, headgate.Errorf(headgate.CodeTenantScope, headgate.ClassSecuritySensitive,
			"your credential does not reach every tenant that the new one would; name only your own")
	}
	if w.TTL > 0 {
		c.ExpiresAt = now.Add(w.TTL)
	}
	secret := make([]byte, 32)
	rand.Read(secret) // never fails, see crypto/rand
	encoded := base64.RawURLEncoding.EncodeToString(secret)
	c.Hash = hash(encoded)
	if err := s.PutCredential(ctx, c, by.changed(c, "token_created", now)); err != nil {
		return "", Credential{}, err
	}
	return prefix + c.ID + "." + encoded, c, nil
}

// List returns the credentials that reach no further than an operator does,
// oldest first.
func List(ctx context.Context, s Store, by Identity) ([]Credential, error) {
	if err := by.May(Operator); err != nil {
		return nil, err
	}
	all, err := s.Credentials(ctx)
	if err != nil {
		return nil, err
	}
	seen := []Credential{}
	for _, c := range all {
		if by.reaches(c) {
			seen = append(seen, c)
		}
	}
	return seen, nil
}

// Revoke makes a credential worthless at once. One that reaches further than
// the operator by is RESOURCE_NOT_FOUND, as if it were not there.
func Revoke(ctx context.Context, s Store, by Identity, id string, now time.Time) (Credential, error) {
	if err := by.May(Operator); err != nil {
		return Credential{}, err
	}
	c, found, err := s.Credential(ctx, id)
	if err == nil && found && by.reaches(c) {
		found, err = s.DeleteCredential(ctx, id, by.changed(c, "token_revoked", now))
	} else {
		found = false
	}
	if err == nil && !found {
		err = headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "there is no such credential; headgate token list shows them")
	}
	return c, err
}

// reaches reports whether the caller sees all that a credential does.
func (i Identity) reaches(c Credential) bool {
	if len(i.Tenants) == 0 {
		return true
	}
	return len(c.Tenants) > 0 && !slices.ContainsFunc(c.Tenants, func(t string) bool { return !i.Sees(t) })
}

// changed is how the audit trail tells of what the caller did to a credential.
func (i Identity) changed(c Credential, kind string, at time.Time) headgate.Event {
	reach := "all tenants"
	if len(c.Tenants) > 0 {
		reach = strings.Join(c.Tenants, ", ")
	}
	data := map[string]any{"credential": c.ID, "name": c.Name, "person": cmp.Or(c.Person, c.Name), "role": c.Role, "tenants": c.Tenants, "by": i.Holder()}
	if !c.ExpiresAt.IsZero() {
		data["expires_at"] = c.ExpiresAt
	}
	return headgate.Event{
		Time: at, Kind: kind, Actor: i.Name, From: i.From, Data: data,
		Message: "credential " + c.ID + " (" + c.Name + "): " + string(c.Role) + " of " + reach,
	}
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
