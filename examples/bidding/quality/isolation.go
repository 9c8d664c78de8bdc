package quality

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/examples/bidding/client"
	"github.com/headgate/headgate/examples/bidding/dataset"
)

// Isolation is what the probes of the tenants' separation found. The two
// counts are figures of the security gate.
type Isolation struct {
	TenantScopeViolations int     `json:"tenant_scope_violations"`
	AuthBypassFindings    int     `json:"auth_bypass_findings"`
	Probes                []Probe `json:"probes"`
}

// Probe is one attempt to see what must not be seen.
type Probe struct {
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	// Got is what the service answered.
	Got string `json:"got"`
}

// CheckIsolation makes records as each of two tenants and tries to read them
// as the other one, and as nobody.
func CheckIsolation(ctx context.Context, baseURL string, tokens map[string]string, tenants [2]string) (Isolation, error) {
	var out Isolation
	for i, owner := range tenants {
		other := tenants[1-i]
		as := func(token, claim string) *client.Client {
			c := &client.Client{BaseURL: baseURL, Token: token, Header: http.Header{}}
			if claim != "" {
				c.Header.Set("x-tenant-id", claim)
			}
			return c
		}
		records, err := prepare(ctx, as(tokens[owner], ""))
		if err != nil {
			return out, fmt.Errorf("records of %s: %w", owner, err)
		}
		reads := records.reads()
		for _, name := range []string{"job", "report", "page"} {
			read := reads[name]
			out.scope(owner+"'s "+name+" as "+other, read(ctx, as(tokens[other], "")), http.StatusNotFound)
			out.scope(owner+"'s "+name+" with x-tenant-id of "+owner+" as "+other, read(ctx, as(tokens[other], owner)), http.StatusForbidden)
			out.auth(owner+"'s "+name+" without a token", read(ctx, as("", owner)))
			out.auth(owner+"'s "+name+" with a wrong token", read(ctx, as("wrong-"+headgate.NewID("tok"), owner)))
		}
	}
	return out, nil
}

func (o *Isolation) scope(name string, err error, want int) {
	p := verdict(name, err, want)
	o.Probes = append(o.Probes, p)
	if !p.Passed {
		o.TenantScopeViolations++
	}
}

func (o *Isolation) auth(name string, err error) {
	p := verdict(name, err, http.StatusUnauthorized)
	o.Probes = append(o.Probes, p)
	if !p.Passed {
		o.AuthBypassFindings++
	}
}

func verdict(name string, err error, want int) Probe {
	var status *client.StatusError
	if errors.As(err, &status) {
		return Probe{name, status.Status == want, fmt.Sprint(status.Status, " ", status.Code)}
	}
	if err != nil {
		return Probe{name, false, "no answer"}
	}
	return Probe{name, false, "200, the record itself"}
}

// records are one tenant's things that the other must not see.
type records struct{ job, evaluation, document string }

func (r records) reads() map[string]func(context.Context, *client.Client) error {
	return map[string]func(context.Context, *client.Client) error{
		"job":    func(ctx context.Context, c *client.Client) error { _, err := c.Job(ctx, r.job); return err },
		"report": func(ctx context.Context, c *client.Client) error { _, err := c.Report(ctx, r.evaluation); return err },
		"page":   func(ctx context.Context, c *client.Client) error { _, err := c.Page(ctx, r.document, 1); return err },
	}
}

func prepare(ctx context.Context, c *client.Client) (records, error) {
	d, err := dataset.Load()
	if err != nil {
		return records{}, err
	}
	project, bid := headgate.NewID("isolation"), d.Bids()[0]
	q, err := c.Upload(ctx, project, bid.Supplier, bid.DocType, bid.File, bid.Data)
	if err != nil {
		return records{}, err
	}
	if err := await(ctx, c, q.JobID); err != nil {
		return records{}, err
	}
	id, err := evaluate(ctx, c, client.Evaluation{Project: project, Supplier: bid.Supplier, RulePack: d.RulePackVersion})
	if err != nil {
		return records{}, err
	}
	return records{job: q.JobID, evaluation: id, document: q.DocumentID}, nil
}
