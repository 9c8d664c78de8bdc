package rollout

import (
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// Flags are the component versions that the applications of one service should
// use, as of one moment. They change never; a caller replaces them.
type Flags struct {
	// Stable holds what is in force. A component that it does not hold is no
	// flag.
	Stable map[headgate.Component]string
	// Candidate holds what a release under canary replaces.
	Candidate map[headgate.Component]string
	// Plan and Tenants are the release's; Tenants, those that its canary may
	// meet, are sorted.
	Plan    Plan
	Tenants []string
	// Share is the part of the sessions on the candidate until its lease ends
	// at Until, 0 for no canary.
	Share float64
	Until time.Time
}

// Reason says how an [Evaluation] came about, in OpenFeature's words.
type Reason string

// The reasons of an evaluation.
const (
	// ReasonStatic is the value that everybody gets: no canary is under way.
	ReasonStatic Reason = "STATIC"
	// ReasonDefault is stable's value, for a subject that the canary may not
	// meet.
	ReasonDefault Reason = "DEFAULT"
	// ReasonSplit is the value of the arm to which the session is assigned.
	ReasonSplit Reason = "SPLIT"
)

// Evaluation is a flag's value for one session.
type Evaluation struct {
	Value  string
	Arm    headgate.Arm
	Reason Reason
}

// Evaluate returns the version of a component for a session, false for one that
// is no flag. It is the candidate's only while the share is leased, the plan
// admits the subject and [Assign] puts the session there; a router asked about
// the same session sends it to the same arm. A subject without a project size
// has its tenant's.
func (f *Flags) Evaluate(c headgate.Component, s Subject, session string, now time.Time) (Evaluation, bool) {
	stable, ok := f.Stable[c]
	if !ok {
		return Evaluation{}, false
	}
	e := Evaluation{Value: stable, Arm: headgate.Stable, Reason: ReasonStatic}
	switch {
	case !(f.Share > 0) || !now.Before(f.Until): // NaN is no share
		return e, true
	case !f.admits(s):
		e.Reason = ReasonDefault
		return e, true
	}
	e.Reason = ReasonSplit
	if Assign(f.Plan.ReleaseID, s.TenantID, session, f.Share) == headgate.Candidate {
		e.Arm = headgate.Candidate
		if v, changed := f.Candidate[c]; changed {
			e.Value = v
		}
	}
	return e, true
}

func (f *Flags) admits(s Subject) bool {
	if _, ok := slices.BinarySearch(f.Tenants, s.TenantID); !ok {
		return false
	}
	if s.ProjectSize == "" {
		return true // Tenants holds only those whose own size is enabled
	}
	return slices.Contains(f.Plan.EnabledProjectSizes, s.ProjectSize)
}
