package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/headgate/headgate/access"
)

type tokenInput struct {
	Body struct {
		Name     string      `json:"name" required:"true" minLength:"1" maxLength:"200" doc:"Who or what will use it, for the audit log."`
		Person   string      `json:"person" maxLength:"200" doc:"Who holds it, if name does not say: what takes two people never takes two credentials of one."`
		Role     access.Role `json:"role" required:"true" enum:"viewer,releaser,approver,operator"`
		Tenants  []string    `json:"tenants" maxItems:"1000" nullable:"true" doc:"Tenants that it is confined to. Empty means as far as the caller reaches."`
		ExpiresS float64     `json:"expires_s" minimum:"0" maximum:"3155760000" doc:"Seconds that it is good; 0 means for ever."`
	}
}

// issued shows a token, once.
type issued struct {
	Token string `json:"token" doc:"Shown this once."`
	access.Credential
}

func (s *server) registerTokens(a huma.API) {
	create := op(http.MethodPost, "/tokens", "create-token", "Make a credential and show its token, once")
	create.DefaultStatus = http.StatusCreated
	huma.Register(a, create, func(ctx context.Context, in *tokenInput) (*reply[issued], error) {
		who, err := must(ctx, access.Operator)
		if err != nil {
			return answer(ctx, issued{}, err)
		}
		b := in.Body
		token, c, err := access.Issue(ctx, s.Credentials, who, access.Wanted{
			Name: b.Name, Person: b.Person, Role: b.Role, Tenants: b.Tenants, TTL: time.Duration(b.ExpiresS * float64(time.Second)),
		}, time.Now().UTC())
		if err == nil {
			s.Plane.Seal()
		}
		return answer(ctx, issued{Token: token, Credential: c}, err)
	})
	huma.Register(a, op(http.MethodGet, "/tokens", "list-tokens", "The credentials that reach no further than the caller's, oldest first, without their tokens"),
		func(ctx context.Context, _ *struct{}) (*reply[[]access.Credential], error) {
			who, err := must(ctx, access.Operator)
			if err != nil {
				return answer[[]access.Credential](ctx, nil, err)
			}
			all, err := access.List(ctx, s.Credentials, who)
			return answer(ctx, all, err)
		})
	huma.Register(a, op(http.MethodDelete, "/tokens/{id}", "revoke-token", "Make a credential worthless, at once"),
		func(ctx context.Context, in *struct {
			ID string `path:"id" maxLength:"100"`
		}) (*reply[access.Credential], error) {
			who, err := must(ctx, access.Operator)
			if err != nil {
				return answer(ctx, access.Credential{}, err)
			}
			c, err := access.Revoke(ctx, s.Credentials, who, in.ID, time.Now().UTC())
			if err == nil {
				s.Plane.Seal()
			}
			return answer(ctx, c, err)
		})
}
