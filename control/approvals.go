package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/telemetry"
)

// approvalCoverage is the share of the high-risk evaluations that took effect
// with a person's approval.
const approvalCoverage = "high_risk_approval_coverage"

// reviewTime is how long before the window an evaluation that took effect
// within it may have been made.
const reviewTime = 7 * 24 * time.Hour

// maxAudited bounds the evaluations that are looked at.
const maxAudited = 100_000

// auditEvents are the records of a service's audit log, in the order in which
// they follow each other when they bear the same time.
var auditEvents = []string{"audit.evaluated", "audit.reviewed", "audit.effective"}

const (
	evaluated = iota
	reviewed
	effective
)

// entry is one record of the audit log.
type entry struct {
	at                   time.Time
	what                 int
	version, environment string
	// high is whether an evaluation's risk asks for a person, and approved
	// whether a review is one's approval.
	high, approved bool
}

// evaluation names one in the audit log.
type evaluation struct{ tenant, id string }

func evaluationOf(e telemetry.Event) evaluation {
	return evaluation{e.TenantID, e.Attributes["evaluation_id"]}
}

// auditLog is what a service's audit log says of each evaluation.
type auditLog map[evaluation][]entry

func (l auditLog) add(e telemetry.Event) {
	attr := e.Attributes
	risk := strings.ToLower(attr["risk_level"])
	of := evaluationOf(e)
	l[of] = append(l[of], entry{
		at: e.Time, what: slices.Index(auditEvents, attr[telemetry.AttrEvent]), version: e.Version, environment: e.Environment,
		high:     risk != "low" && risk != "medium",
		approved: attr["approved"] == "true" && attr["reviewer"] != "" && attr["reviewer_type"] == "person",
	})
}

// coverage is what the audit log says of the high-risk evaluations of a version
// that took effect within a window.
type coverage struct {
	effective, approved int64
	// wrong is why the log cannot be the whole truth; empty when it can.
	wrong string
}

// coverage walks each evaluation's records in order of time. What took effect
// is covered when a person had approved what was evaluated last.
func (l auditLog) coverage(of dictionary.Scope, from time.Time) coverage {
	var c coverage
	ids := slices.SortedFunc(maps.Keys(l), func(a, b evaluation) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.id, b.id))
	})
	for _, id := range ids {
		entries := slices.DeleteFunc(l[id], func(e entry) bool { return e.environment != of.Environment })
		slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.what, b.what)) })
		var made entry // the evaluation that is reviewed
		known, approved := false, false
		for _, e := range slices.Compact(entries) { // a sender repeats what was not acknowledged
			if e.what == evaluated {
				made, known, approved = e, true, false
				continue
			}
			if !known && e.version == of.Version && !e.at.Before(from) {
				c.wrong = cmp.Or(c.wrong, fmt.Sprintf("the audit log has %s of evaluation %q and no %s before it",
					auditEvents[e.what], id.id, auditEvents[evaluated]))
			}
			if e.what == reviewed {
				approved = known && e.approved
			} else if made.version == of.Version && made.high && !e.at.Before(from) {
				c.effective++
				if approved {
					c.approved++
				}
			}
		}
	}
	return c
}

// approvals takes the approval coverage from the service's audit log when it
// has one, and else leaves what the service's own counter says. Where both say
// something, the lower counts. It reports whether the figure is complete: what
// is not may only wait for records that are still on their way.
func (p *Plane) approvals(ctx context.Context, in *gate.Input, scope dictionary.Scope, at time.Time) (complete bool, err error) {
	from := at.Add(-scope.Window)
	within, tooMany := map[evaluation]bool{}, false
	err = p.o.Stories.EachNamed(ctx, scope.Service, auditEvents[reviewed:], from, at, func(e telemetry.Event) {
		if tooMany = tooMany || len(within) >= maxAudited; !tooMany {
			within[evaluationOf(e)] = true
		}
	})
	if err != nil {
		return false, err
	}
	// A service that sent an audit log is not judged by its counter once it stops.
	log, sent := auditLog{}, false
	err = p.o.Stories.EachNamed(ctx, scope.Service, auditEvents, from.Add(-reviewTime), at, func(e telemetry.Event) {
		sent = true
		if within[evaluationOf(e)] {
			log.add(e)
		}
	})
	counted, isCounted := in.Metrics[approvalCoverage].(float64)
	if err != nil || !sent {
		return isCounted, err
	}
	c := log.coverage(scope, from)
	if tooMany {
		c.wrong = fmt.Sprintf("the audit log has more than %d evaluations within %s; shorten gates.window", maxAudited, window(scope.Window))
	}
	o := gate.Origin{Samples: &c.effective, Window: window(scope.Window), Broken: c.wrong, Source: fmt.Sprintf(
		"log store: %s{service_name=%q, service_version=%q, deployment_environment_name=%q}",
		strings.Join(auditEvents, "|"), scope.Service, scope.Version, scope.Environment)}
	delete(in.Metrics, approvalCoverage)
	if c.effective == 0 {
		in.Origins[approvalCoverage] = o
		return false, nil
	}
	share := float64(c.approved) / float64(c.effective)
	if isCounted && counted < share {
		share, o.Source = counted, o.Source+"; "+in.Origins[approvalCoverage].Source
	}
	in.Metrics[approvalCoverage], in.Origins[approvalCoverage] = share, o
	return share == 1 && c.wrong == "", nil
}
